"""Cohere's SDK, both generations of its client."""

import cohere
from checks import DOCUMENTS, QUERY, URL, check, done, equal, ranked, ranking

for name, client in (
    ("v2", cohere.ClientV2(api_key="none", base_url=URL)),
    ("v1", cohere.Client(api_key="none", base_url=URL)),
):

    @check("cohere", f"rerank, {name}")
    def _(client=client):
        answer = client.rerank(model="ranker", query=QUERY, documents=DOCUMENTS, top_n=2)
        equal(ranked((one.index, one.relevance_score) for one in answer.results), ranking()[:2])


done()
