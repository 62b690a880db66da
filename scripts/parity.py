"""Compares the engine with transformers at the exact dimensions of all six sizes, and writes docs/PARITY.md.

    python scripts/parity.py --workdir DIR [--sizes 17m …] [--objectives encoder decoder] [--lengths 16 600 4096]

For each size and objective: a random checkpoint with weights that make faults visible (reference.py), saved by
transformers; the hidden state behind every layer and the logits of transformers eager f32; the same of the engine,
through `cargo run --release -p ettin --example states`; the largest max|Δ| / max|reference|. Up to 600 tokens also both
against f64. The reference is then broken in every way that the numerical contract names, and each fault must miss the
bound tenfold: a comparison that no fault fails proves nothing.

Rows are kept in DIR/parity.json, so that parts can be run one at a time; the document is written from all of them. The
exit code is 1 if a row fails, 2 if the engine could not be run.

`--self-test` puts transformers' own sdpa attention in the engine's place and writes no document.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from checkpoints import OBJECTIVES, build, sequences
from host import ROOT, commit, machine
from reference import FAULTS, States, eager_by_head, exact_arithmetic, record, relative_error, worst
from suite import SIZES

DOCUMENT = ROOT / "docs" / "PARITY.md"
BOUND = 1e-4
RATIO = 2.0
SEED = 20261125

LONGEST_EXACT = 600
"""Up to here f64 is computed, all logits are compared and faults are injected; above, the last LOGIT_ROWS rows of the logits."""
LOGIT_ROWS = LONGEST_EXACT


# ---------------------------------------------------------------------------------------------------------------------
# The other engine


class EngineError(Exception):
    """The engine did not run, or its output lacks a tensor."""


def engine_states(command: list[str], folder: Path, inputs: list[list[int]], threads: int) -> Iterator[States]:
    """Runs the `states` example on all sequences at once and reads one after the other."""
    ids, output = folder / "ids.json", folder / "states.safetensors"
    ids.write_text(json.dumps(inputs))
    arguments = ["--model", str(folder), "--ids", str(ids), "--output", str(output), "--logit-rows", str(LOGIT_ROWS)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    try:
        subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(f"the engine failed: {error}") from error
    with safe_open(output, "pt") as file:
        names = set(file.keys())
        for i in range(len(inputs)):
            states = {}
            for name in names:
                kind, index, *layer = name.split(".")
                if int(index) == i:
                    states[".".join([kind, *layer])] = file.get_tensor(name)
            yield states
    output.unlink()


def sdpa_states(folder: Path, objective: str, inputs: list[list[int]]) -> Iterator[States]:
    """The self-test's other engine."""
    model = OBJECTIVES[objective].language_model.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
    for ids in inputs:
        yield trimmed(record(model, ids))


def trimmed(states: States) -> States:
    """Without the logits that are not compared."""
    return states | {"logits": states["logits"][-LOGIT_ROWS:].clone()}


# ---------------------------------------------------------------------------------------------------------------------
# One row


@dataclass
class Comparison:
    """One sequence: where the engine differs most, and who is nearer to f64."""

    tokens: int
    hidden: float
    hidden_at: str
    logits: float
    first_divergent: str | None
    """The first hidden state past the bound, in the order of computation."""
    ours_f64: float | None = None
    torch_f64: float | None = None
    rms_ratio: float | None = None
    """Of the root mean squares, where `ratio` is one of maxima."""

    @property
    def ratio(self) -> float | None:
        if self.ours_f64 is None or not self.torch_f64:
            return None
        return self.ours_f64 / self.torch_f64


@dataclass
class Row:
    """One size and objective."""

    size: str
    objective: str
    comparisons: list[Comparison]
    faults: dict[str, float]
    date: str
    commit: str
    machine: str
    versions: str
    seconds: float

    def failures(self) -> list[str]:
        """What is wrong with this row, in words."""
        found = []
        for comparison in self.comparisons:
            error = max(comparison.hidden, comparison.logits)
            if not error <= BOUND:
                found.append(f"{comparison.tokens} tokens: {error:.1e} (first divergent: {comparison.first_divergent or 'logits'})")
            if comparison.ratio is not None and not comparison.ratio <= RATIO:
                found.append(f"{comparison.tokens} tokens: {comparison.ratio:.2f} times torch's distance to f64")
        found += [f"fault not seen: {name} ({error:.1e})" for name, error in self.faults.items() if error <= 10 * BOUND]
        return found


def in_order(states: States) -> list[str]:
    """Names of the hidden states as they are computed: embedding, layers, final norm."""
    layers = sum(name.startswith("hidden.") for name in states)
    return [*(f"hidden.{layer}" for layer in range(layers)), "final"]


def place(name: str) -> str:
    """A tensor's name in words."""
    if name == "hidden.0":
        return "embedding"
    return f"layer {int(name.split('.')[1]) - 1}" if name.startswith("hidden.") else "final norm"


def rms_error(ours: States, exact: States) -> float:
    """The largest rms|Δ| / rms|exact| over all tensors."""
    return max(((ours[name].double() - state).norm() / state.norm()).item() for name, state in exact.items())


def compare(ours: States, reference: States, exact: States | None, tokens: int) -> Comparison:
    for name, tensor in reference.items():
        if name not in ours:
            raise EngineError(f"{tokens} tokens: the engine's output lacks {name}")
        if ours[name].shape != tensor.shape:
            raise EngineError(f"{tokens} tokens: {name} is {list(ours[name].shape)}, not {list(tensor.shape)}")
    errors = {name: relative_error(ours[name], reference[name]) for name in in_order(reference)}
    at = max(errors, key=errors.__getitem__)
    return Comparison(
        tokens=tokens,
        hidden=errors[at],
        hidden_at=place(at),
        logits=relative_error(ours["logits"], reference["logits"]),
        first_divergent=next((place(name) for name, error in errors.items() if not error <= BOUND), None),
        ours_f64=worst(ours, exact)[0] if exact else None,
        torch_f64=worst(reference, exact)[0] if exact else None,
        rms_ratio=rms_error(ours, exact) / rms_error(reference, exact) if exact else None,
    )


def sensitivity(model: Any, ids: list[int], healthy: States) -> dict[str, float]:
    """What each fault does to the reference."""
    errors = {}
    for name, fault in FAULTS.items():
        with fault(model):
            errors[name] = worst(trimmed(record(model, ids)), healthy)[0]
    return errors


def run_row(options: argparse.Namespace, size: str, objective: str) -> Row:
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

    others = sdpa_states(folder, objective, inputs) if options.self_test else engine_states(options.engine, folder, inputs, options.threads)
    comparisons = [compare(ours, reference[i], exact.get(i), len(inputs[i])) for i, ours in enumerate(others)]
    if not options.keep:
        shutil.rmtree(folder)
    return Row(
        size=size,
        objective=objective,
        comparisons=comparisons,
        faults=faults,
        date=datetime.date.today().isoformat(),
        commit=commit("docs"),
        machine=machine(options.threads),
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        seconds=time.monotonic() - started,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The report


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def line_of(row: Row, lengths: list[int]) -> str:
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
    return "| " + " | ".join(cells) + " |"


def table(rows: list[Row], lengths: list[int]) -> str:
    heads = ["size", "objective"]
    for length in lengths:
        heads += [f"{length}: hidden (worst at)", f"{length}: logits"]
    heads += ["ours − f64", "torch − f64", "ratio", "rms ratio", "weakest fault", "verdict"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + [line_of(row, lengths) for row in rows])


def fault_table(rows: list[Row]) -> str:
    rows = [row for row in rows if row.faults]
    if not rows:
        return "Not run."
    heads = ["fault", *(f"{row.size} {row.objective}" for row in rows)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for fault in rows[0].faults:
        lines.append(f"| {fault} | " + " | ".join(f"{row.faults[fault]:.0e}" for row in rows) + " |")
    return "\n".join(lines)


def document(rows: list[Row], lengths: list[int], command: str) -> str:
    """docs/PARITY.md."""
    distinct = {name: ", ".join(sorted({getattr(row, name) for row in rows})) for name in ("date", "commit", "machine", "versions")}
    failures = [f"* {row.size} {row.objective}: {failure}" for row in rows for failure in row.failures()]
    missing = len(SIZES) * len(OBJECTIVES) - len(rows)
    summary = f"{len(rows) - len({failure.split(':')[0] for failure in failures})} of {len(rows)} rows pass."
    if missing:
        summary += f" {missing} rows have not been run."
    return f"""# Parity with transformers

Written by `scripts/parity.py`; do not edit. {summary}

* Date {distinct["date"]}; engine at {distinct["commit"]}; {distinct["versions"]}; {distinct["machine"]}.
* Command: `{command}`
* Random checkpoints with the exact dimensions of the six sizes, both objectives; weights, activations and arithmetic in f32.

## Results

max|Δ| / max|reference| between the engine and transformers, eager attention, f32, one sequence at a time: the worst over
the embedding, the output of every layer and of the final norm, with the place it occurs at, and over the logits (the last
{LOGIT_ROWS} positions of longer inputs). Bound: {BOUND:.0e}. Above 1024 tokens transformers' eager attention is computed
head by head, to bound memory.

The distances to f64 are the same measure, the worst over all these tensors, for the input of up to {LONGEST_EXACT} tokens where
their ratio is largest; f64 is the same transformers model in double precision, rotation and softmax included, with its f32
rotary tables. Bound for the ratio: {RATIO:g}. A ratio of two maxima is noisy; the ratio of root mean squares is given beside it.

{table(rows, lengths)}

{chr(10).join(failures) if failures else "No failures."}

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
    return {key: Row(**(row | {"comparisons": [Comparison(**c) for c in row["comparisons"]]})) for key, row in stored.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="for checkpoints (4 GB at 1b) and rows")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 600, 4096])
    parser.add_argument("--threads", type=int, default=1, help="of both engines")
    parser.add_argument(
        "--engine",
        type=shlex.split,
        default=shlex.split("cargo run --release --quiet -p ettin --example states --"),
        help="the command that runs the `states` example",
    )
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

    for size in options.sizes:
        for objective in options.objectives:
            try:
                row = run_row(options, size, objective)
            except EngineError as error:
                print(f"{size} {objective}: {error}", file=sys.stderr)
                return 2
            rows[f"{size} {objective}"] = row
            store.write_text(json.dumps({key: asdict(row) for key, row in rows.items()}, indent=1))
            print(line_of(row, options.lengths), f"{row.seconds:.0f} s", flush=True)

    ordered = [rows[key] for size in SIZES for objective in OBJECTIVES if (key := f"{size} {objective}") in rows]
    lengths = sorted({comparison.tokens for row in ordered for comparison in row.comparisons})
    if options.self_test:
        print(fault_table(ordered))
    else:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(ordered, lengths, "python scripts/parity.py --workdir DIR"))
    failures = [f"{row.size} {row.objective}: {failure}" for row in ordered for failure in row.failures()]
    print("\n".join(failures) or f"{len(ordered)} rows pass", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
