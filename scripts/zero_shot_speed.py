"""Measures zero-shot classification beside the pipeline of transformers: one text after the other, each against many labels.

    python scripts/zero_shot_speed.py [--binary target/release/ettin-run] [--size 17m] [--labels 20] [--rounds 5] [--threads 2]

A random classifier of three labels at the dimensions of a published size, f32, the real tokenizer, the first texts of
`tests/fixtures/valid_sample.jsonl`. The two alternate; a round of ours is the difference between a run on twice the texts and one on
the texts once, so that starting and loading do not count. The pipeline is given its better batch size of 1 and all labels. Nothing is
timed before the scores agree. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from host import ROOT, commit, provenance
from suite import SIZES

NLI = ("contradiction", "neutral", "entailment")
WORDS = 60
"""Of each text: a paragraph, for which labels are usually wanted."""
TOLERANCE = 1e-4


def write_model(name: str, folder: Path) -> None:
    size = SIZES[name]
    theta = {"rope_type": "default", "rope_theta": 160000.0}
    config = transformers.ModernBertConfig(
        vocab_size=50368,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=7999,
        rope_parameters={"full_attention": dict(theta), "sliding_attention": dict(theta)},
        id2label=dict(enumerate(NLI)),
        label2id={name: index for index, name in enumerate(NLI)},
    )
    torch.manual_seed(0)
    transformers.ModernBertForSequenceClassification(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "tokenizer" / file, folder / file)


def texts(count: int) -> list[str]:
    lines = (ROOT / "tests" / "fixtures" / "valid_sample.jsonl").read_text().splitlines()
    long = (json.loads(line)["text"].split() for line in lines)
    return [" ".join(words[:WORDS]) for words in long if len(words) >= WORDS][:count]


def ours(arguments: list[str], asked: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a run on these texts, and its answers."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in asked)
    start = time.perf_counter()
    run = subprocess.run(arguments, input=lines, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, [json.loads(line) for line in run.stdout.splitlines()]


def agree(theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    scores = dict(zip(mine["labels"], mine["scores"], strict=True))
    for label, score in zip(theirs["labels"], theirs["scores"], strict=True):
        assert abs(scores[label] - score) <= TOLERANCE, f"{label}: {scores[label]} is not {score}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "ettin-run")
    parser.add_argument("--size", choices=SIZES, default="17m")
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    labels, asked = [f"subject number {index}" for index in range(given.labels)], texts(given.texts)
    with tempfile.TemporaryDirectory() as place:
        write_model(given.size, Path(place))
        pipe = transformers.pipeline("zero-shot-classification", model=place, device="cpu")
        arguments = [str(given.binary), "classify", "-q", "--model", place, "--labels", ",".join(labels)]
        arguments += ["--dtype", "f32", "--threads", str(given.threads), "--format", "jsonl"]

        def theirs(size: int) -> float:
            start = time.perf_counter()
            for text in asked:
                pipe(text, labels, batch_size=size)
            return time.perf_counter() - start

        for text, mine in zip(asked, ours(arguments, asked)[1], strict=True):
            agree(pipe(text, labels), mine)
        times: dict[str, list[float]] = {"batch 1": [], "all labels": [], "ours": []}
        for _ in range(given.rounds):
            times["batch 1"].append(theirs(1))
            once = ours(arguments, asked)[0]
            times["all labels"].append(theirs(len(labels)))
            times["ours"].append(ours(arguments, asked * 2)[0] - once)
    each = {name: 1000 * statistics.median(seconds) / len(asked) for name, seconds in times.items()}
    best = min(each["batch 1"], each["all labels"])
    made = provenance(commit(), f"transformers {transformers.__version__}, torch {torch.__version__}", given.threads)
    print(made)
    for name, milliseconds in each.items():
        print(f"{name:>12}  {milliseconds:9.1f} ms a text")
    record = {"size": given.size, "labels": len(labels), "ms_per_text": each, "ratio": best / each["ours"], "provenance": made}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
