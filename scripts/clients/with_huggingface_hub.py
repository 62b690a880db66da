"""huggingface_hub's InferenceClient. It posts everything to the address it was given and does not name the task."""

from checks import (
    CLASSIFIER,
    ENCODER,
    OF_ONE_TASK,
    QUERY,
    READER,
    TAGGER,
    TEXTS,
    URL,
    check,
    continuation,
    done,
    equal,
    ettin,
    f32,
    vectors,
)
from huggingface_hub import InferenceClient

client = InferenceClient(URL)
generator = InferenceClient(OF_ONE_TASK["generate"])


@check("huggingface_hub", "feature_extraction")
def _():
    equal([f32(row) for row in client.feature_extraction(TEXTS[0]).tolist()], vectors(TEXTS[:1]))


@check("huggingface_hub", "feature_extraction, not normalised")
def _():
    got = client.feature_extraction(TEXTS[1], normalize=False, truncate=True)
    equal([f32(row) for row in got.tolist()], vectors(TEXTS[1:2], ENCODER, False))


@check("huggingface_hub", "sentence_similarity")
def _():
    got = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    expected = [row["score"] for row in ettin("similarity", "-m", ENCODER, *TEXTS)]
    equal([round(score, 5) for score in got], [round(score, 5) for score in expected])


@check("huggingface_hub", "fill_mask")
def _():
    text = "The capital of France is [MASK]."
    [expected] = ettin("fill-mask", "-m", ENCODER, "--top-k", "3", text)
    got = client.fill_mask(text, top_k=3)
    equal([(one.token, f32([one.score])) for one in got], [(one["token"], f32([one["score"]])) for one in expected])


@check("huggingface_hub", "text_classification")
def _():
    [expected] = ettin("classify", "-m", CLASSIFIER, TEXTS[0])
    got = InferenceClient(OF_ONE_TASK["classify"]).text_classification(TEXTS[0])
    equal([(one.label, f32([one.score])) for one in got], [(one["label"], f32([one["score"]])) for one in expected])


@check("huggingface_hub", "token_classification")
def _():
    [expected] = ettin("tag", "-m", TAGGER, "--aggregation", "simple", TEXTS[0])
    got = InferenceClient(OF_ONE_TASK["tag"]).token_classification(TEXTS[0], aggregation_strategy="simple")
    equal([(one.entity_group, one.start, one.end) for one in got], [(one["entity_group"], one["start"], one["end"]) for one in expected])


@check("huggingface_hub", "question_answering")
def _():
    question, context = "Where was Ada born?", "Ada Lovelace was born in London in 1815."
    [expected] = ettin("answer", "-m", READER, question, context)
    got = InferenceClient(OF_ONE_TASK["answer"]).question_answering(question=question, context=context)
    got = got[0] if isinstance(got, list) else got
    equal((got.answer, got.start, got.end), (expected["answer"], expected["start"], expected["end"]))


@check("huggingface_hub", "text_generation")
def _():
    equal(generator.text_generation(QUERY, max_new_tokens=12, do_sample=False), continuation(QUERY, 12))


@check("huggingface_hub", "text_generation as a stream")
def _():
    pieces = generator.text_generation(QUERY, max_new_tokens=12, do_sample=False, stream=True)
    equal("".join(pieces), continuation(QUERY, 12))


done()
