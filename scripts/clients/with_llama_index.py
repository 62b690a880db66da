"""LlamaIndex: TEI's vectors and ranking, vectors of a server like OpenAI's."""

from checks import DOCUMENTS, ENCODER, QUERY, TEXTS, URL, check, done, equal, f32, ranked, ranking, vectors
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference as Ranker


@check("llama-index-embeddings-text-embeddings-inference", "get_text_embedding_batch")
def _():
    embedder = TextEmbeddingsInference(model_name=ENCODER, base_url=URL)
    equal([f32(vector) for vector in embedder.get_text_embedding_batch(TEXTS)], vectors(TEXTS))


@check("llama-index-embeddings-openai-like", "get_text_embedding_batch")
def _():
    embedder = OpenAILikeEmbedding(model_name=ENCODER, api_base=f"{URL}/v1", api_key="none")
    equal([f32(vector) for vector in embedder.get_text_embedding_batch(TEXTS)], vectors(TEXTS))


@check("llama-index-postprocessor-tei-rerank", "postprocess_nodes")
def _():
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]
    best = Ranker(base_url=URL, top_n=2).postprocess_nodes(nodes, query_str=QUERY)
    equal(ranked((DOCUMENTS.index(one.node.text), one.score) for one in best), ranking()[:2])


done()
