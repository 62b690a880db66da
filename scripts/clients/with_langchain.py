"""LangChain: its OpenAI package and the community's clients of infinity."""

from checks import DECODER, DOCUMENTS, ENCODER, QUERY, TEXTS, URL, check, continuation, done, equal, f32, ranked, ranking, vectors
from infinity_client.client import Client
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_community.embeddings import InfinityEmbeddings
from langchain_openai import OpenAI, OpenAIEmbeddings

OPEN_AI = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}


@check("langchain-openai", "OpenAIEmbeddings with check_embedding_ctx_length=False")
def _():
    embeddings = OpenAIEmbeddings(model=ENCODER, check_embedding_ctx_length=False, **OPEN_AI)
    equal([f32(vector) for vector in embeddings.embed_documents(TEXTS)], vectors(TEXTS))
    equal([f32(embeddings.embed_query(TEXTS[0]))], vectors(TEXTS[:1]))


@check("langchain-openai", "OpenAI (completions)")
def _():
    equal(OpenAI(model=DECODER, temperature=0, max_tokens=12, **OPEN_AI).invoke(QUERY), continuation(QUERY, 12))


@check("langchain-openai", "OpenAI (completions) as a stream")
def _():
    pieces = OpenAI(model=DECODER, temperature=0, max_tokens=12, **OPEN_AI).stream(QUERY)
    equal("".join(pieces), continuation(QUERY, 12))


@check("langchain-community", "InfinityEmbeddings")
def _():
    embeddings = InfinityEmbeddings(model=ENCODER, infinity_api_url=URL)
    equal([f32(vector) for vector in embeddings.embed_documents(TEXTS)], vectors(TEXTS))


@check("langchain-community", "InfinityRerank")
def _():
    ranks = InfinityRerank(client=Client(base_url=URL), model="ranker").rerank(DOCUMENTS, QUERY, top_n=2)
    equal(ranked((rank["index"], rank["relevance_score"]) for rank in ranks), ranking()[:2])


done()
