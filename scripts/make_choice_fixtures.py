"""Writes fixtures of tasks that choose between what comes with the call: labels (zero-shot classification) and texts (multiple choice).

    python scripts/make_choice_fixtures.py

A case is a tiny model of `models/` with other files laid over it; what transformers answers goes to
`tests/fixtures/pipelines/{zero_shot,multiple_choice}.json`, together with those files. Zero-shot answers are those of the pipeline,
or null where it raises an error. Multiple choice has no pipeline: pairs of context and choice are scored one at a time, so that no
padding enters the reference. Eager attention, f32.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from make_fixtures import MODELS, ROOT
from make_pipeline_fixtures import TEXTS, plain, write
from make_sentence_fixtures import tokenizer_settings
from overlay import Files, lay_over

THREE = MODELS / "tiny-text-classify-single"
TWO = MODELS / "tiny-text-classify-regression"
ONE = MODELS / "tiny-text-classify-one"
DECODER = MODELS / "tiny-text-classify-decoder"
EAGER = {"attn_implementation": "eager"}
Case = tuple[str, Path, Files, list[dict[str, Any]]]

LABELS = ["sports", "a game of cards", "Wetter in Zürich", "日本語"]
MANY = [f"{adjective} {noun}" for adjective in ("big", "small", "old", "red") for noun in ("cat", "ball", "town", "tree", "mother")]


def named(base: Path, *names: str, ids: Any = None, **changes: Any) -> Files:
    """config.json with other labels; `ids` is a label2id that is not the plain one, null for none."""
    config = json.loads((base / "config.json").read_text()) | changes
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = dict(sorted({name: index for index, name in enumerate(names)}.items())) if ids is None else ids
    return {"config.json": config}


def ask(text: str, labels: Any, template: str | None = None, multi_label: bool | None = None, **more: Any) -> dict[str, Any]:
    options = {"template": template, "multi_label": multi_label}
    options = {name: value for name, value in options.items() if value is not None}
    return {"input": {"text": text, "labels": labels}, "options": options, **more}


ASKED = [
    *(ask(text, LABELS) for text in TEXTS),
    *(ask(text, LABELS, multi_label=True) for text in TEXTS[:3]),
    ask(TEXTS[0], ["sports"]),
    ask(TEXTS[0], ["sports"], multi_label=True),
    ask(TEXTS[7], MANY, "In this story there is a {}."),
    ask(TEXTS[7], MANY, multi_label=True),
]
SOME = [ask(TEXTS[1], LABELS), ask(TEXTS[4], LABELS, multi_label=True), ask(TEXTS[0], ["sports"])]
PECULIAR = [
    ask(TEXTS[0], " sports , a game, of cards,,\u001fx\u00a0,"),
    ask(TEXTS[0], "one label"),
    ask(TEXTS[0], [" spaces ", "a, b", ""]),
    ask(TEXTS[0], ["cat", "dog", "cat", "bird", "dog"]),
    ask(TEXTS[0], ["cat", "dog", "cat", "bird", "dog"], multi_label=True),
    ask(TEXTS[0], ["", "x"], "{}"),
    ask(TEXTS[0], LABELS, "{0}: {0}!"),
    ask(TEXTS[0], LABELS, "{{{}}}"),
    ask(TEXTS[0], LABELS, "{{no place}}"),
    ask(TEXTS[0], ["x", "{}"], "{}"),
    ask(" ", LABELS),
    # Refused there.
    ask("", LABELS),
    ask(TEXTS[0], []),
    ask(TEXTS[0], " , "),
    ask(TEXTS[0], LABELS, "no place"),
    ask(TEXTS[0], ["{}", "x"], "It is {}."),
    ask(TEXTS[0], LABELS, "{} and {}"),
    ask(TEXTS[0], LABELS, "{} and {0}"),
    ask(TEXTS[0], LABELS, "{label}"),
    ask(TEXTS[0], LABELS, "{"),
    ask(TEXTS[0], LABELS, "} {}"),
]
LONG_LABEL = "a label so long that nothing is left of any text, however much of it may be cut off to make it fit"
CUT = [
    ask(TEXTS[7], LABELS, truncated=True),
    ask(TEXTS[7], ["x"], multi_label=True, truncated=True),
    ask(TEXTS[0], ["x"]),
    # Too long to be made to fit: left whole.
    ask(TEXTS[0], [LONG_LABEL, "x"]),
    ask(TEXTS[7], [LONG_LABEL, LONG_LABEL.upper()]),
]


def zero_shot_cases() -> list[Case]:
    nli = ("contradiction", "neutral", "entailment")
    limited = {"tokenizer_config.json": tokenizer_settings(THREE, model_max_length=40)}
    left = {"tokenizer_config.json": tokenizer_settings(THREE, model_max_length=40, truncation_side="left")}
    return [
        ("entailment last", THREE, named(THREE, *nli), ASKED),
        ("entailment first", THREE, named(THREE, *reversed(nli)), ASKED),
        ("entailment between", THREE, named(THREE, "CONTRADICTION", "ENTAILMENT", "NEUTRAL"), ASKED),
        ("two labels, entailment first", TWO, named(TWO, "entailment", "not_entailment"), ASKED),
        ("two labels, entailment last", TWO, named(TWO, "not_entailment", "entails"), SOME),
        ("none named entailment", THREE, {}, ASKED),
        ("two labels, none named entailment", TWO, {}, SOME),
        ("numbered labels", TWO, {"config.json": {
            key: value for key, value in json.loads((TWO / "config.json").read_text()).items() if key not in ("id2label", "label2id")}},
         SOME),
        ("label2id without id2label", TWO, {"config.json": {
            key: value for key, value in named(TWO, "entailment", "b")["config.json"].items() if key != "id2label"}}, SOME),
        ("one output", ONE, {}, SOME),
        ("the first of label2id counts", THREE,
         named(THREE, "a", "b", "c", ids={"b": 0, "entailed_b": 1, "entailment": 2}), SOME),
        ("label2id over id2label", THREE, named(THREE, *nli, ids={"entailment": 0, "neutral": 1, "contradiction": 2}), SOME),
        ("a number from the end", THREE, named(THREE, *nli, ids={"entailment": -2}), SOME),
        ("the first output, from the end", THREE, named(THREE, *nli, ids={"entailment": -3}), SOME),
        ("a number of no output", THREE, named(THREE, *nli, ids={"entailment": 3}), SOME),
        ("a number as text", THREE, named(THREE, *nli, ids={"entailment": "2"}), SOME),
        ("a decoder", DECODER, named(DECODER, *nli), SOME),
        ("peculiar calls", THREE, named(THREE, *nli), PECULIAR),
        ("a limit", THREE, named(THREE, *nli) | limited, CUT),
        ("a limit, cut on the left", THREE, named(THREE, *nli) | left, CUT[:3]),
    ]  # fmt: skip


def zero_shot(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    pipe = transformers.pipeline("zero-shot-classification", model=str(folder), device="cpu", model_kwargs=dict(EAGER))
    options = {{"template": "hypothesis_template"}.get(name, name): value for name, value in run["options"].items()}
    try:
        output = pipe(run["input"]["text"], candidate_labels=run["input"]["labels"], **options)
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        print(f"  refused: {type(error).__name__}: {error}")
        return run | {"output": None}
    output["scores"] = torch.tensor(output["scores"], dtype=torch.float32)
    return run | {"output": output}


CHOICES = [
    {"context": TEXTS[0], "choices": [" It slept.", "A dog barked.", ""]},
    {"context": TEXTS[7], "choices": [TEXTS[1], TEXTS[3], TEXTS[7], TEXTS[6], "She ran."]},
    {"context": "", "choices": [TEXTS[4], TEXTS[2]]},
    {"context": TEXTS[5], "choices": ["alone"]},
    {"context": TEXTS[3], "choices": ["twice", "once", "twice"]},
]


def multiple_choice_cases() -> list[Case]:
    def config(**changes: Any) -> Files:
        """What the library saves of a model that is loaded as one of multiple choice."""
        with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as saved:
            lay_over(ONE, {}, Path(place))
            model = transformers.ModernBertForMultipleChoice.from_pretrained(place, **changes)
            model.save_pretrained(saved)
            config = json.loads((Path(saved) / "config.json").read_text())
        # A model that was never a classifier of one label has no names of labels, which means two.
        return {"config.json": {key: value for key, value in config.items() if key not in ("id2label", "label2id")}}

    asked = [{"input": given} for given in CHOICES]
    limited = {"tokenizer_config.json": tokenizer_settings(ONE, model_max_length=24)}
    cut = [asked[0] | {"truncated": False}, asked[1] | {"truncated": True}]
    return [
        ("first token", ONE, config(classifier_pooling="cls"), asked),
        ("mean", ONE, config(classifier_pooling="mean"), asked),
        ("a limit", ONE, config(classifier_pooling="cls") | limited, cut),
    ]


@torch.no_grad()
def multiple_choice(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder, **EAGER).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    context, choices = run["input"]["context"], run["input"]["choices"]
    # As a list: called with two texts, the tokenizer takes an empty second one for none.
    encoded = [tokenizer([[context, choice]], truncation=True, return_tensors="pt") for choice in choices]
    logits = torch.stack([model(**{key: value[None] for key, value in pair.items()}).logits[0, 0] for pair in encoded])
    padded = tokenizer([context] * len(choices), choices, truncation=True, padding=True, return_tensors="pt")
    together = model(**{key: value[None] for key, value in padded.items()}).logits[0]
    assert torch.allclose(logits, together, atol=1e-5), "padding changes the reference"
    scores = logits.softmax(0)
    order = sorted(range(len(choices)), key=lambda index: -logits[index])
    scores, logits = plain(scores), plain(logits)
    return run | {"output": [{"index": index, "score": scores[index], "logit": logits[index]} for index in order]}


def main() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    for file, cases, answer in [
        ("zero_shot", zero_shot_cases(), zero_shot),
        ("multiple_choice", multiple_choice_cases(), multiple_choice),
    ]:
        written = []
        for name, base, files, runs in cases:
            print(f"{file}: {name}")
            with tempfile.TemporaryDirectory() as place:
                lay_over(base, files, Path(place))
                answers = [answer(Path(place), run) for run in runs]
            written.append({"name": name, "base": base.relative_to(ROOT).as_posix(), "files": files, "runs": answers})
        write(file, written)


if __name__ == "__main__":
    main()
