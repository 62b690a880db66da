"""Compares the engine with transformers at the exact dimensions of all six sizes, and writes docs/PARITY.md.

    python scripts/parity.py --workdir DIR [--sizes 17m …] [--objectives encoder decoder] [--lengths 16 600 4096]

For each size and objective: a random checkpoint with weights that make faults visible (reference.py), saved by
transformers; the hidden state behind every layer and the logits of transformers eager f32; the same of the engine
(engine.py); the largest max|Δ| / max|reference|. Up to 600 tokens also both against f64. The reference is then broken in
every way that the numerical contract names, and each fault must miss the bound tenfold: a comparison that no fault fails
proves nothing. The other number formats (formats.py) are compared with the same reference, up to 600 tokens.

Rows are kept in DIR/parity.json, so that parts can be run one at a time (`--sizes` alone runs none); the document is
written from all of them. The exit code is 1 if a row fails, 2 if the engine could not be run.

`--self-test` puts transformers' own sdpa attention in the engine's place and writes no document.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from checkpoints import OBJECTIVES, build, sequences
from comparison import Comparison, compare
from engine import Engine, EngineError
from formats import FORMATS
from host import ROOT, machine
from reference import FAULTS, States, eager_by_head, exact_arithmetic, record, worst
from tables import table
from suite import SIZES

DOCUMENT = ROOT / "docs" / "PARITY.md"

BOUND = 1e-4
RATIO = 2.0
SEED = 20261125

LONGEST_EXACT = 600
"""Up to here f64 is computed, all logits are compared and faults are injected; above, the last LOGIT_ROWS rows of the logits."""
LOGIT_ROWS = LONGEST_EXACT


# ---------------------------------------------------------------------------------------------------------------------
# One row


def sdpa_states(folder: Path, objective: str, inputs: list[list[int]]) -> Iterator[States]:
    """The self-test's other engine."""
    model = OBJECTIVES[objective].language_model.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
    for ids in inputs:
        yield trimmed(record(model, ids))


def trimmed(states: States) -> States:
    """Without the logits that are not compared."""
    return states | {"logits": states["logits"][-LOGIT_ROWS:].clone()}


@dataclass
class Row:
    """One size and objective."""

    size: str
    objective: str
    comparisons: list[Comparison]
    faults: dict[str, float]
    formats: dict[str, list[Comparison]]
    """Every other number format."""
    date: str
    commit: str
    machine: str
    versions: str
    seconds: float

    def failures(self) -> list[str]:
        """What is wrong with this row, in words."""
        found = []
        for comparison in self.comparisons:
            if not comparison.error <= BOUND:
                found.append(comparison.divergence)
            if comparison.ratio is not None and not comparison.ratio <= RATIO:
                found.append(f"{comparison.tokens} tokens: {comparison.ratio:.2f} times torch's distance to f64")
        found += [f"fault not seen: {name} ({error:.1e})" for name, error in self.faults.items() if error <= 10 * BOUND]
        for dtype, comparisons in self.formats.items():
            beyond = (comparison for comparison in comparisons if not comparison.error <= FORMATS[dtype].error)
            found += [f"{dtype}, {comparison.divergence}" for comparison in beyond]
        return found


def sensitivity(model: Any, ids: list[int], healthy: States) -> dict[str, float]:
    """What each fault does to the reference."""
    errors = {}
    for name, fault in FAULTS.items():
        with fault(model):
            errors[name] = worst(trimmed(record(model, ids)), healthy)[0]
    return errors


def run_row(options: argparse.Namespace, engine: Engine | None, size: str, objective: str) -> Row:
    """Without an engine, transformers' sdpa attention is in its place."""
    started = time.monotonic()
    seed = SEED + 2 * list(SIZES).index(size) + (objective == "decoder")
    inputs = sequences(options.lengths, seed)
    folder = options.workdir / f"{size}-{objective}"
    model = build(size, objective, seed)
    model.save_pretrained(folder)
    print(f"{size} {objective}: built, {time.monotonic() - started:.0f} s", file=sys.stderr)

    with eager_by_head():
        reference = [trimmed(record(model, ids)) for ids in inputs]
    short = [i for i, ids in enumerate(inputs) if len(ids) <= LONGEST_EXACT]
    exact: dict[int, States] = {}
    if short and not options.no_f64:
        model.double()
        with exact_arithmetic():
            exact = {i: record(model, inputs[i], keep=torch.Tensor.clone) for i in short}
        model.float()
    faults = {}
    if short and not options.no_sensitivity:
        longest = max(short, key=lambda i: len(inputs[i]))
        faults = sensitivity(model, inputs[longest], reference[longest])
    # One model in memory at a time: at 1b each takes 4 GB.
    del model
    gc.collect()
    print(f"{size} {objective}: reference done, {time.monotonic() - started:.0f} s", file=sys.stderr)

    others = engine.states(folder, inputs) if engine else sdpa_states(folder, objective, inputs)
    comparisons = [compare(ours, reference[i], exact.get(i), len(inputs[i]), BOUND) for i, ours in enumerate(others)]
    formats = {}
    for dtype, form in FORMATS.items() if engine and short else ():
        others = zip(short, engine.states(folder, [inputs[i] for i in short], dtype), strict=True)
        formats[dtype] = [compare(ours, reference[i], None, len(inputs[i]), form.error) for i, ours in others]
    if not options.keep:
        shutil.rmtree(folder)
    return Row(
        size=size,
        objective=objective,
        comparisons=comparisons,
        faults=faults,
        formats=formats,
        date=datetime.date.today().isoformat(),
        commit=engine.commit if engine else "none",
        machine=machine(options.threads),
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        seconds=time.monotonic() - started,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The report


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def line_of(row: Row, lengths: list[int]) -> list[str]:
    by_length = {comparison.tokens: comparison for comparison in row.comparisons}
    cells = [row.size, row.objective]
    for length in lengths:
        comparison = by_length.get(length)
        cells += ["–", "–"] if comparison is None else [f"{comparison.hidden:.1e} ({comparison.hidden_at})", figure(comparison.logits)]
    exact = [comparison for comparison in row.comparisons if comparison.ratio is not None]
    if exact:
        closest = max(exact, key=lambda comparison: comparison.ratio or 0.0)
        cells += [figure(closest.ours_f64), figure(closest.torch_f64), f"{closest.ratio:.2f}", f"{closest.rms_ratio:.2f}"]
    else:
        cells += ["–"] * 4
    if row.faults:
        weakest = min(row.faults, key=row.faults.__getitem__)
        cells.append(f"{row.faults[weakest]:.1e} ({weakest})")
    else:
        cells.append("–")
    failures = row.failures()
    cells.append("**fails**" if failures else "passes")
    return cells


def result_table(rows: list[Row], lengths: list[int]) -> str:
    heads = ["size", "objective"]
    for length in lengths:
        heads += [f"{length}: hidden (worst at)", f"{length}: logits"]
    heads += ["ours − f64", "torch − f64", "ratio", "rms ratio", "weakest fault", "verdict"]
    return table(heads, [line_of(row, lengths) for row in rows])


def fault_table(rows: list[Row]) -> str:
    rows = [row for row in rows if row.faults]
    if not rows:
        return "Not run."
    heads = ["fault", *(f"{row.size} {row.objective}" for row in rows)]
    return table(heads, [[fault, *(f"{row.faults[fault]:.0e}" for row in rows)] for fault in rows[0].faults])


def distinct(rows: list[Row], name: str) -> str:
    """What the rows say of when, with what and on what they were computed."""
    return ", ".join(sorted({getattr(row, name) for row in rows}))


def format_table(rows: list[Row], dtype: str) -> str:
    """One of the other number formats."""
    rows = [row for row in rows if dtype in row.formats]
    lengths = sorted({comparison.tokens for row in rows for comparison in row.formats[dtype]})
    heads = ["size", "objective"]
    for length in lengths:
        heads += [f"{length}: hidden (worst at)", f"{length}: logits"]
    lines = []
    for row in rows:
        errors = ([f"{comparison.hidden:.1e} ({comparison.hidden_at})", figure(comparison.logits)] for comparison in row.formats[dtype])
        lines.append([row.size, row.objective, *itertools.chain(*errors)])
    return table(heads, lines)


def wrapped(text: str) -> str:
    """A paragraph or an item in lines of 132 columns; `documents.rs` refuses more than 140."""
    indent = "  " if text.startswith("* ") else ""
    return textwrap.fill(text, 132, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def format_sections(rows: list[Row]) -> str:
    """All of them."""
    return "\n\n".join(
        f"### {dtype}\n\n{wrapped(f'Bound: {form.error:g}. {form.why}')}\n\n{format_table(rows, dtype)}" for dtype, form in FORMATS.items()
    )


def document(rows: list[Row], lengths: list[int]) -> str:
    """docs/PARITY.md."""
    failures = [f"* {row.size} {row.objective}: {failure}" for row in rows for failure in row.failures()]
    missing = len(SIZES) * len(OBJECTIVES) - len(rows)
    summary = f"{sum(not row.failures() for row in rows)} of {len(rows)} rows pass, every number format in them."
    if missing:
        summary += f" {missing} rows have not been run."
    date, commit, versions, host = (distinct(rows, name) for name in ("date", "commit", "versions", "machine"))
    return f"""# Parity with transformers

Written by `scripts/parity.py`; do not edit. {summary}

{wrapped(f"* Date {date}; engine at {commit}; {versions}; {host}.")}
* Command: `python scripts/parity.py --workdir DIR`
* Random checkpoints with the exact dimensions of the six sizes, both objectives.

## Results in f32

Weights, activations and arithmetic are in f32.

max|Δ| / max|reference| between the engine and transformers, eager attention, f32, one sequence at a time: the worst over
the embedding, the output of every layer and of the final norm, with the place it occurs at, and over the logits (the last
{LOGIT_ROWS} positions of longer inputs). Bound: {BOUND:.0e}. Above 1024 tokens transformers' eager attention is computed
head by head, to bound memory.

The distances to f64 are the same measure, the worst over all these tensors, for the input of up to {LONGEST_EXACT} tokens where
their ratio is largest; f64 is the same transformers model in double precision, rotation and softmax included, with its f32
rotary tables. Bound for the ratio: {RATIO:g}. A ratio of two maxima is noisy; the ratio of root mean squares is given beside it.

{result_table(rows, lengths)}

{chr(10).join(failures) if failures else "No failures."}

## The other number formats

The same measure, against the same reference: transformers in f32. What the formats cost in agreement and divergence is in
[ACCURACY.md](ACCURACY.md).

{format_sections(rows)}

## Sensitivity

The same measure when transformers itself is broken, on the longest input of up to {LONGEST_EXACT} tokens. Every fault must
exceed {10 * BOUND:.0e}.

{fault_table(rows)}
"""


# ---------------------------------------------------------------------------------------------------------------------


def load_rows(path: Path) -> dict[str, Row]:
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    rows = {}
    for key, row in stored.items():
        formats = {dtype: read(comparisons) for dtype, comparisons in row["formats"].items()}
        rows[key] = Row(**row | {"comparisons": read(row["comparisons"]), "formats": formats})
    return rows


def read(comparisons: list[dict[str, Any]]) -> list[Comparison]:
    return [Comparison(**comparison) for comparison in comparisons]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="for checkpoints (4 GB at 1b) and rows")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 600, 4096])
    parser.add_argument("--threads", type=int, default=1, help="of both engines")
    parser.add_argument("--keep", action="store_true", help="leave checkpoints in the workdir")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--no-f64", action="store_true")
    parser.add_argument("--no-sensitivity", action="store_true")
    parser.add_argument("--self-test", action="store_true", help="transformers sdpa as the other engine; no document")
    return parser.parse_args()


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.workdir.mkdir(parents=True, exist_ok=True)
    store = options.workdir / ("parity-self-test.json" if options.self_test else "parity.json")
    rows = {} if options.fresh else load_rows(store)

    try:
        engine = None if options.self_test or not options.sizes else Engine.build(options.workdir, options.threads, LOGIT_ROWS)
        for size, objective in itertools.product(options.sizes, options.objectives):
            row = run_row(options, engine, size, objective)
            rows[f"{size} {objective}"] = row
            store.write_text(json.dumps({key: asdict(row) for key, row in rows.items()}, indent=1))
            print(*line_of(row, options.lengths), f"{row.seconds:.0f} s", flush=True)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2

    ordered = [rows[key] for size in SIZES for objective in OBJECTIVES if (key := f"{size} {objective}") in rows]
    lengths = sorted({comparison.tokens for row in ordered for comparison in row.comparisons})
    if options.self_test:
        print(fault_table(ordered))
    else:
        DOCUMENT.write_text(document(ordered, lengths))
    failures = [f"{row.size} {row.objective}: {failure}" for row in ordered for failure in row.failures()]
    print("\n".join(failures) or f"{len(ordered)} rows pass", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
