"""litellm: OpenAI's, vLLM's, infinity's and TEI's way of asking."""

import litellm
from checks import DECODER, DOCUMENTS, ENCODER, QUERY, TEXTS, URL, check, continuation, done, equal, f32, ranked, ranking, vectors

litellm.telemetry = False

for provider in ("openai", "hosted_vllm"):

    @check("litellm", f"{provider}: embedding")
    def _(provider=provider):
        answer = litellm.embedding(model=f"{provider}/{ENCODER}", input=TEXTS, api_base=f"{URL}/v1", api_key="none")
        equal([f32(datum["embedding"]) for datum in answer.data], vectors(TEXTS))


@check("litellm", "text-completion-openai: text_completion")
def _():
    answer = litellm.text_completion(
        model=f"text-completion-openai/{DECODER}", prompt=QUERY, max_tokens=12, temperature=0, api_base=f"{URL}/v1", api_key="none"
    )
    equal(answer.choices[0].text, continuation(QUERY, 12))


for provider in ("hosted_vllm", "infinity", "huggingface"):

    @check("litellm", f"{provider}: rerank")
    def _(provider=provider):
        answer = litellm.rerank(
            model=f"{provider}/ranker", query=QUERY, documents=DOCUMENTS, api_base=URL, api_key="none", top_n=len(DOCUMENTS)
        )
        equal(ranked((one["index"], one["relevance_score"]) for one in answer.results), ranking())


done()
