"""Chroma's embedding functions."""

from checks import ENCODER, TEXTS, URL, check, done, equal, f32, vectors
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer, OpenAIEmbeddingFunction


@check("chromadb", "HuggingFaceEmbeddingServer")
def _():
    equal([f32(vector) for vector in HuggingFaceEmbeddingServer(url=f"{URL}/embed")(TEXTS)], vectors(TEXTS))


@check("chromadb", "OpenAIEmbeddingFunction")
def _():
    embedder = OpenAIEmbeddingFunction(api_key="none", api_base=f"{URL}/v1", model_name=ENCODER)
    equal([f32(vector) for vector in embedder(TEXTS)], vectors(TEXTS))


done()
