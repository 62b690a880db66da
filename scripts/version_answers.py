"""What the installed libraries answer when they read a folder: one function per task, each with the library's defaults.

Part of `make_version_fixtures.py`; runs in the virtual environment of any generation. A case is
`{"task", "options", "inputs"}`, and its answers are one per input, in order.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

Case = dict[str, Any]


def plain(value: Any) -> Any:
    """Python values; f32 numbers in the shortest form that gives the same f32 back."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        value = (value.detach().float() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, float):
        value = np.float32(value)
    if isinstance(value, np.floating):
        return float(str(np.float32(value)))
    return value.item() if isinstance(value, np.generic) else value


def load(folder: Path, cls: Any) -> tuple[Any, Any]:
    """The model in f32 (newer versions would compute in the dtype of the file) and its tokenizer."""
    model = cls.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def pipe(task: str, folder: Path, cls: Any) -> Any:
    model, tokenizer = load(folder, cls)
    return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")


# ---------------------------------------------------------------------------------------------------------------------
# sentence-transformers


def sentence_transformer(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"torch_dtype": torch.float32})


def encoding(model: Any, route: str | None = None, **options: Any) -> Callable[[list[str]], Any]:
    """What encodes texts on a route: the method of a side of a search, else the argument; before version 5, texts have a key."""
    encode = getattr(model, f"encode_{route}", None)
    if route and encode is None and not hasattr(model, "encode_query"):
        return lambda texts: model.encode([{route: text} for text in texts], batch_size=1, show_progress_bar=False, **options)
    named = {"task": route} if route and encode is None else {}
    return lambda texts: (encode or model.encode)(texts, batch_size=1, show_progress_bar=False, **named, **options)


def embed(folder: Path, options: dict[str, Any], inputs: list[str]) -> Any:
    """`encode`; the option `prompt_name` is its own."""
    return encoding(sentence_transformer(folder), **options)(inputs)


def similarity(folder: Path, _options: dict[str, Any], inputs: list[list[str]]) -> Any:
    """The first text of each input against the others."""
    model = sentence_transformer(folder)
    vectors = [model.encode(texts, batch_size=1, show_progress_bar=False) for texts in inputs]
    return [model.similarity(rows[:1], rows[1:])[0] for rows in vectors]


def sparse_encoder(folder: Path) -> Any:
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(folder), device="cpu", model_kwargs={"torch_dtype": torch.float32})


def embed_sparse(folder: Path, options: dict[str, Any], inputs: list[str]) -> Any:
    """`encode`: the values that are not 0 and their places."""
    rows = encoding(sparse_encoder(folder), convert_to_sparse_tensor=False, **options)(inputs)
    places = [row.nonzero()[:, 0] for row in rows]
    return [{"indices": place, "values": row[place]} for row, place in zip(rows, places, strict=True)]


def similarity_sparse(folder: Path, _options: dict[str, Any], inputs: list[list[str]]) -> Any:
    model = sparse_encoder(folder)
    vectors = [model.encode(texts, batch_size=1, show_progress_bar=False, convert_to_sparse_tensor=False) for texts in inputs]
    return [model.similarity(rows[:1], rows[1:])[0] for rows in vectors]


def rerank_sparse(folder: Path, _options: dict[str, Any], inputs: list[list[str]]) -> Any:
    """The similarity of a query and a document."""
    model = sparse_encoder(folder)

    def score(query: str, document: str) -> Any:
        sides = ((model.encode_query, query), (model.encode_document, document))
        vectors = [encode([text], show_progress_bar=False, convert_to_sparse_tensor=False) for encode, text in sides]
        return model.similarity(*vectors).item()

    return [score(*pair) for pair in inputs]


def rerank(folder: Path, options: dict[str, Any], inputs: list[list[str]]) -> Any:
    """`predict` of pairs: one score each, or one per label."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(inputs, batch_size=1, show_progress_bar=False, **options)


# ---------------------------------------------------------------------------------------------------------------------
# transformers


def classify(folder: Path, _options: dict[str, Any], inputs: list[str]) -> Any:
    classifier = pipe("text-classification", folder, transformers.AutoModelForSequenceClassification)
    return [classifier(text, top_k=None, truncation=True) for text in inputs]


def tag(folder: Path, options: dict[str, Any], inputs: list[str]) -> Any:
    tagger = pipe("token-classification", folder, transformers.AutoModelForTokenClassification)
    return [tagger(text, **options) for text in inputs]


def fill_mask(folder: Path, options: dict[str, Any], inputs: list[str]) -> Any:
    filler = pipe("fill-mask", folder, transformers.AutoModelForMaskedLM)
    return [filler(text, tokenizer_kwargs={"truncation": True}, **options) for text in inputs]


def answer(folder: Path, _options: dict[str, Any], inputs: list[dict[str, str]]) -> Any:
    """The pipeline where the version still has it, else its algorithm in our words."""
    if "question-answering" in transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks():
        answerer = pipe("question-answering", folder, transformers.AutoModelForQuestionAnswering)
        return [answerer(**question) for question in inputs]
    from question_answering import answer_question

    model, tokenizer = load(folder, transformers.AutoModelForQuestionAnswering)
    window = min(tokenizer.model_max_length, 384)
    return [answer_question(model, tokenizer, **question, max_seq_len=window)[0] for question in inputs]


@torch.no_grad()
def choose(folder: Path, _options: dict[str, Any], inputs: list[dict[str, Any]]) -> Any:
    """The logit of every choice, each pair alone."""
    model, tokenizer = load(folder, transformers.AutoModelForMultipleChoice)

    def logit(context: str, choice: str) -> torch.Tensor:
        pair = tokenizer([[context, choice]], truncation=True, return_tensors="pt")
        return model(**{key: value[None] for key, value in pair.items()}).logits[0, 0]

    return [torch.stack([logit(given["context"], choice) for choice in given["choices"]]) for given in inputs]


def causal(folder: Path) -> tuple[Any, Callable[[str], list[int]]]:
    """The model, and a prompt's ids: the bos token and the text, no closing token."""
    model, tokenizer = load(folder, transformers.AutoModelForCausalLM)
    return model, lambda text: [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


@torch.no_grad()
def generate(folder: Path, options: dict[str, Any], inputs: list[str]) -> Any:
    """`generate` as generation_config.json has it, greedily: the new tokens."""
    model, encode = causal(folder)
    answers = []
    for text in inputs:
        ids = encode(text)
        answers.append({"tokens": model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()})
    return answers


@torch.no_grad()
def score(folder: Path, _options: dict[str, Any], inputs: list[str]) -> Any:
    """The sum of the log-probabilities behind the bos token."""
    model, encode = causal(folder)
    answers = []
    for text in inputs:
        ids = torch.tensor([encode(text)])
        logprobs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        answers.append({"sum": float(logprobs.gather(1, ids[0, 1:, None]).sum())})
    return answers


TASKS: dict[str, Callable[[Path, dict[str, Any], Any], Any]] = {
    "embed": embed,
    "similarity": similarity,
    "embed-sparse": embed_sparse,
    "similarity-sparse": similarity_sparse,
    "rerank-sparse": rerank_sparse,
    "rerank": rerank,
    "rerank-labels": rerank,
    "classify": classify,
    "tag": tag,
    "fill-mask": fill_mask,
    "answer": answer,
    "choose": choose,
    "generate": generate,
    "score": score,
}


def answers(folder: Path, case: Case) -> Any:
    torch.manual_seed(0)  # what a library invents for missing weights must not look like an answer of its own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plain(TASKS[case["task"]](folder, case["options"], case["inputs"]))


def quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main() -> None:
    """`version_answers.py LISTING`: adds to each folder of a listing what the installed versions read from it."""
    quiet()
    path = Path(sys.argv[1])
    listing = json.loads(path.read_text())
    for entry in listing["folders"]:
        for case in entry.get("cases", []):
            case["newest"] = answers(path.parent / entry["kind"], case)
    path.write_text(json.dumps(listing))


if __name__ == "__main__":
    main()
