"""The openai SDK: vectors, continuations, streams, log-probabilities, models, errors."""

from checks import DECODER, ENCODER, QUERY, TEXTS, URL, check, continuation, done, equal, ettin, f32, vectors
from openai import BadRequestError, NotFoundError, OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


@check("openai", "embeddings of a list (base64, which it asks for by itself)")
def _():
    answer = client.embeddings.create(model=ENCODER, input=TEXTS)
    equal([f32(datum.embedding) for datum in answer.data], vectors(TEXTS))
    equal([datum.index for datum in answer.data], list(range(len(TEXTS))))


@check("openai", "embeddings of one text, floats, dimensions")
def _():
    answer = client.embeddings.create(model=ENCODER, input=TEXTS[0], encoding_format="float", dimensions=32)
    equal([f32(datum.embedding) for datum in answer.data], vectors(TEXTS[:1], ENCODER, True, "--dimensions", "32"))


@check("openai", "ids of another vocabulary are refused with advice")
def _():
    try:
        client.embeddings.create(model=ENCODER, input=[[100_000, 1]])
    except BadRequestError as error:
        assert "check_embedding_ctx_length" in error.message, error.message
    else:
        raise AssertionError("it was answered")


@check("openai", "completions")
def _():
    answer = client.completions.create(model=DECODER, prompt=QUERY, max_tokens=12, temperature=0)
    equal(answer.choices[0].text, continuation(QUERY, 12))
    equal((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 12))


@check("openai", "completions as a stream with usage")
def _():
    stream = client.completions.create(
        model=DECODER, prompt=QUERY, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    equal("".join(choice.text for chunk in chunks for choice in chunk.choices), continuation(QUERY, 12))
    equal(chunks[-1].usage.completion_tokens, 12)


@check("openai", "log-probabilities of a prompt (echo)")
def _():
    answer = client.completions.create(model=DECODER, prompt=TEXTS[0], max_tokens=0, echo=True, logprobs=1, temperature=0)
    logprobs = answer.choices[0].logprobs
    [expected] = ettin("score", "-m", DECODER, TEXTS[0])
    known = [number for number in logprobs.token_logprobs if number is not None]
    scored = f32(token["logprob"] for token in expected["tokens"])
    equal(f32(known)[-len(scored) :] if len(known) >= len(scored) else f32(known), scored[-len(known) :])


@check("openai", "several prompts, several continuations of each")
def _():
    answer = client.completions.create(model=DECODER, prompt=["A", "B"], n=2, max_tokens=3, seed=1, temperature=0)
    equal([choice.index for choice in answer.choices], [0, 1, 2, 3])
    expected = [continuation(prompt, 3) for prompt in ("A", "A", "B", "B")]
    equal([choice.text for choice in answer.choices], expected)


@check("openai", "models")
def _():
    names = [model.id for model in client.models.list()]
    assert ENCODER in names and DECODER in names, names
    equal(client.models.retrieve(DECODER).id, DECODER)
    try:
        client.models.retrieve("no/such")
    except NotFoundError:
        return
    raise AssertionError("a model that is not there was found")


done()
