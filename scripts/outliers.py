"""Measures whether bf16x3 keeps the contract of f32 where a few channels of the residual are huge: what `auto` rests on.

    python scripts/outliers.py --workdir DIR

The embedded pair, as it is and with its largest channels scaled until the residual reaches 2e4, and random checkpoints
scaled likewise: max|Δ| / max|reference|, the worst over every layer and the logits, against transformers in f32 and against
the same model in f64. Writes a table into docs/ACCURACY.md. `crates/ettin/tests/outliers.rs` bounds what it says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

from accuracy import DOCUMENT, SEED, ordinary
from checkpoints import OBJECTIVES, amplify, build
from engine import Engine, EngineError
from host import ROOT, provenance
from reference import States, exact_arithmetic, record, worst
from tables import replace, table

BOUND = 1e-4
FORMATS = ("f32", "bf16x6", "bf16x3")
SIZES = ("17m", "150m")
DOCUMENTS, TOKENS = 6, 256


def texts(tokenizer: Path) -> list[list[int]]:
    """The first held-out texts."""
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    sample = (ROOT / "tests" / "fixtures" / "valid_sample.jsonl").read_text().splitlines()
    return [encoder.encode(json.loads(line)["text"]).ids[:TOKENS] for line in sample[:DOCUMENTS]]


def cases() -> Iterator[tuple[str, Any, list[list[int]]]]:
    """Every checkpoint with its name and texts, one in memory at a time."""
    for objective, classes in OBJECTIVES.items():
        folder = ROOT / "models" / f"nano-{objective}"
        inputs = texts(folder)
        model = classes.language_model.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        yield f"nano {objective}", model, inputs
        amplify(model, inputs[0])
        yield f"nano {objective}, scaled", model, inputs
    for size in SIZES:
        for objective in OBJECTIVES:
            inputs = texts(ROOT / "models" / "tokenizer")
            model = build(size, objective, SEED, ordinary)
            amplify(model, inputs[0])
            yield f"random {size} {objective}, scaled", model, inputs


def line(engine: Engine, workdir: Path, name: str, model: Any, inputs: list[list[int]]) -> list[str]:
    """One row of the table."""
    folder = workdir / "outliers"
    model.save_pretrained(folder)
    reference = [record(model, ids) for ids in inputs]
    model.double()
    with exact_arithmetic():
        exact = [record(model, ids, keep=torch.Tensor.clone) for ids in inputs]
    model.float()
    peak = max(state.abs().max().item() for states in exact for key, state in states.items() if key.startswith("hidden."))
    cells = [name, f"{peak:.0f}", f"{distance(reference, exact):.1e}"]
    for dtype in FORMATS:
        ours = list(engine.states(folder, inputs, dtype))
        cells += [f"{distance(ours, reference):.1e}", f"{distance(ours, exact):.1e}"]
    within = max(distance(ours, reference), distance(ours, exact)) <= BOUND
    shutil.rmtree(folder)
    return [*cells, "holds" if within else "**misses**"]


def distance(ours: list[States], reference: list[States]) -> float:
    return max(worst(one, other)[0] for one, other in zip(ours, reference, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    options.workdir.mkdir(parents=True, exist_ok=True)
    heads = ["checkpoint", "largest residual", "torch f32 − f64"]
    for dtype in FORMATS:
        heads += [f"{dtype} − torch", f"{dtype} − f64"]
    try:
        engine = Engine.build(options.workdir, options.threads, TOKENS)
        lines = [line(engine, options.workdir, *case) for case in cases()]
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2
    made = provenance(engine.commit, f"transformers {transformers.__version__}", engine.threads)
    replace(DOCUMENT, "scripts/outliers.py", f"{made}.\n\n{table([*heads, f'bf16x3 within {BOUND:.0e}'], lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
