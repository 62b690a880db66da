"""tei-client. It asks /info first what the model is."""

from checks import CLASSIFIER, DOCUMENTS, ENCODER, OF_ONE_TASK, QUERY, TEXTS, URL, check, done, equal, ettin, f32, ranked, ranking, vectors
from tei_client.clients.http_client import HttpClient

client = HttpClient(URL)


@check("tei-client", "embed")
def _():
    equal([f32(vector) for vector in client.embed(TEXTS)], vectors(TEXTS))
    equal([f32(vector) for vector in client.embed(TEXTS, normalize=False)], vectors(TEXTS, ENCODER, False))


@check("tei-client", "embed_all")
def _():
    [rows] = client.embed_all([TEXTS[0]])
    [expected] = ettin("embed", "-m", ENCODER, "--pooling", "none", TEXTS[0])
    equal([f32(row) for row in rows], [f32(row) for row in expected["embedding"]])


@check("tei-client", "classify")
def _():
    answer = HttpClient(OF_ONE_TASK["classify"]).classify(TEXTS[0])
    [expected] = ettin("classify", "-m", CLASSIFIER, TEXTS[0])
    equal([(one.label, f32([one.score])) for one in answer[0].scores], [(one["label"], f32([one["score"]])) for one in expected])


@check("tei-client", "rerank")
def _():
    answer = HttpClient(OF_ONE_TASK["rerank"]).rerank(QUERY, DOCUMENTS)
    equal(ranked((one.index, one.score) for one in answer.ranks), ranking())


done()
