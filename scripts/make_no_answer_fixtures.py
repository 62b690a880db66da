"""Writes tests/fixtures/pipelines/no_answer.json: what the question-answering pipeline itself answers where a text may hold no answer.

    python scripts/make_no_answer_fixtures.py        # in an environment of its own: transformers 4.57.6, torch, numpy

The pipeline left transformers with version 5, so this one script needs the last release that has it. Its model is
`models/tiny-text-answer`, with the rope base of its newer configuration written as 4.57 spells it; that the numbers are
the same is checked against answer.json, which 5.23 made. The option is `handle_impossible_answer`.
"""

from __future__ import annotations

import json
import platform
import warnings
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "pipelines"
MODEL = "models/tiny-text-answer"
KEYS = ("answer", "score", "start", "end")

QUESTIONS = [
    "Where was the ball?",
    "Who?",
    "What costs 3 €?",
    "  Which emoji 🙂?",
    "Why did the old harbour master count the boats before the fog came?",
]


def pipeline() -> Any:
    config = json.loads((ROOT / MODEL / "config.json").read_text())
    bases = {kind: settings["rope_theta"] for kind, settings in config.pop("rope_parameters").items()}
    assert config["layer_types"] == ["full_attention", "sliding_attention"]
    kept = {key: value for key, value in config.items() if key not in ("architectures", "dtype", "layer_types", "transformers_version")}
    older = transformers.ModernBertConfig(
        **kept,
        global_rope_theta=bases["full_attention"],
        local_rope_theta=bases["sliding_attention"],
        global_attn_every_n_layers=2,
        attn_implementation="eager",
        reference_compile=False,
    )
    model = transformers.ModernBertForQuestionAnswering.from_pretrained(ROOT / MODEL, config=older, dtype=torch.float32).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(ROOT / MODEL)
    return transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)


def answers(pipe: Any, case: dict[str, str], **options: Any) -> list[dict[str, Any]]:
    """Always a list, in our order of keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pipe(question=case["question"], context=case["context"], **options)
    found = found if isinstance(found, list) else [found]
    return [{key: answer[key] for key in KEYS} for answer in found]


def main() -> None:
    assert transformers.__version__.startswith("4.57."), transformers.__version__
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipe = pipeline()
    known = json.loads((FIXTURES / "answer.json").read_text(encoding="utf-8"))["cases"]
    for case in known:
        if case["options"] == {}:
            (ours,), (theirs,) = answers(pipe, case["input"]), case["output"]
            assert ours["start"] == theirs["start"] and abs(ours["score"] - theirs["score"]) < 1e-5, (ours, theirs)
    # One has several windows; in the short ones [CLS] takes a share that can win.
    contexts = list(dict.fromkeys(case["input"]["context"] for case in known)) + ["x", ".", "No.", "A dog.", "It is 3 €."]
    cases = []
    for options in ({"handle_impossible_answer": True}, {"handle_impossible_answer": True, "top_k": 4}):
        for context in contexts:
            for question in QUESTIONS:
                given = {"question": question, "context": context}
                cases.append({"model": MODEL, "options": options, "input": given, "output": answers(pipe, given, **options)})
    won = sum(case["output"][0]["answer"] == "" for case in cases)
    assert 0 < won < len(cases), f"the empty answer wins {won} of {len(cases)} cases"
    head = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "python": platform.python_version(),
        "attention": "eager",
        "dtype": "f32",
    }
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    text = f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n'
    json.loads(text)
    (FIXTURES / "no_answer.json").write_text(text, encoding="utf-8")
    print(f"{len(cases)} cases, the empty answer wins {won}")


if __name__ == "__main__":
    main()
