"""Haystack: Hugging Face's, OpenAI's and vLLM's components."""

from checks import DOCUMENTS, ENCODER, OF_ONE_TASK, QUERY, TEXTS, URL, check, done, equal, f32, ranked, ranking, vectors
from haystack import Document
from haystack.components.embedders import OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPIDocumentEmbedder, HuggingFaceAPITextEmbedder
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

KEY = Secret.from_token("none")
TEI = {"api_type": "text_embeddings_inference", "api_params": {"url": URL}, "token": KEY}


@check("huggingface-api-haystack", "HuggingFaceAPITextEmbedder (not normalised unless asked for)")
def _():
    equal([f32(HuggingFaceAPITextEmbedder(**TEI).run(TEXTS[0])["embedding"])], vectors(TEXTS[:1], ENCODER, False))


@check("huggingface-api-haystack", "HuggingFaceAPIDocumentEmbedder")
def _():
    embedder = HuggingFaceAPIDocumentEmbedder(normalize=True, progress_bar=False, **TEI)
    documents = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    equal([f32(document.embedding) for document in documents], vectors(TEXTS))


def order(answer):
    return ranked((DOCUMENTS.index(document.content), document.score) for document in answer["documents"])


@check("huggingface-api-haystack", "HuggingFaceTEIRanker")
def _():
    ranker = HuggingFaceTEIRanker(url=OF_ONE_TASK["rerank"], token=KEY)
    equal(order(ranker.run(query=QUERY, documents=[Document(content=text) for text in DOCUMENTS])), ranking())


@check("vllm-haystack", "VLLMRanker")
def _():
    ranker = VLLMRanker(model="ranker", api_key=KEY, api_base_url=f"{URL}/v1")
    equal(order(ranker.run(query=QUERY, documents=[Document(content=text) for text in DOCUMENTS])), ranking())


@check("haystack-ai", "OpenAITextEmbedder")
def _():
    embedder = OpenAITextEmbedder(api_key=KEY, model=ENCODER, api_base_url=f"{URL}/v1")
    equal([f32(embedder.run(TEXTS[0])["embedding"])], vectors(TEXTS[:1]))


done()
