"""Measures what number formats cost at the exact dimensions of all six sizes, and writes a table into docs/ACCURACY.md.

    python scripts/accuracy.py --workdir DIR [--sizes 17m …] [--objectives encoder decoder]

For each size and objective: a random checkpoint (`ordinary`, below); the engine's pooled vectors and logits on held-out text
in every number format, beside its own f32. Rows are kept in DIR/accuracy.json, so that parts can be run one at a time
(`--sizes` alone runs none); the table is written from all of them. The exit code is 1 if a figure is worse than its bound, 2
if the engine could not be run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import kl_div, log_softmax, normalize

from checkpoints import OBJECTIVES, build
from engine import Engine, EngineError
from host import ROOT, provenance
from reference import States
from tables import replace, table
from suite import SIZES

DOCUMENT = ROOT / "docs" / "ACCURACY.md"
SEED = 20261126

DOCUMENTS, TOKENS = 16, 64
MASK, MASK_EVERY = 50284, 8


@dataclass(frozen=True)
class Cost:
    """What a format costs on a checkpoint, or the most it may."""

    cosine: float
    """Least cosine of mean-pooled vectors, less their mean over the documents."""
    same: float
    """Share of positions whose best token is that of f32."""
    kl: float
    """Mean Kullback–Leibler divergence from f32, in nats."""

    def within(self, bound: Cost) -> bool:
        return self.cosine >= bound.cosine and self.same >= bound.same and self.kl <= bound.kl


BOUNDS = {
    "bf16x6": Cost(0.999999, 0.999, 1e-9),
    "bf16x3": Cost(0.999999, 0.995, 1e-8),
    "bf16": Cost(0.9995, 0.93, 2e-3),
    "int8": Cost(0.995, 0.7, 5e-2),
    "w8": Cost(0.997, 0.8, 2e-2),
    "w4": Cost(0.85, 0.15, 1.5),
}


@dataclass
class Row:
    """One size and objective."""

    size: str
    objective: str
    costs: dict[str, Cost]
    made: str
    """When, by which engine, with what, on what."""


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoint and text

LOGITS = 2.5
"""Standard deviation of the logits of one position. Divergences grow with its square; agreement does not depend on it."""


@torch.no_grad()
def ordinary(model: Any, seed: int) -> None:
    """Weights without the traps of `randomise`, which amplify whatever is rounded.

    Scores and gates have the same spread at every size; what goes back to the residual is scaled down by the depth, as in
    the initialisation that the published models were trained from; norms are uniform in 0.5..1.5, biases zero.
    """
    generator = torch.Generator().manual_seed(seed)
    branch = (2 * model.config.num_hidden_layers) ** -0.5
    norms = {id(norm.weight) for norm in model.modules() if isinstance(norm, nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        if id(parameter) in norms:
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif parameter.dim() == 1:
            parameter.zero_()
        else:
            gain = LOGITS if "embeddings" in name else 1.5 * (branch if name.endswith("Wo.weight") else 1.0)
            parameter.normal_(0.0, gain / parameter.shape[1] ** 0.5, generator=generator)


def documents(objective: str) -> list[list[int]]:
    """The beginnings of held-out texts; for encoders with every eighth token masked."""
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "tokenizer" / "tokenizer.json"))
    sample = (ROOT / "tests" / "fixtures" / "valid_sample.jsonl").read_text().splitlines()
    texts = [tokenizer.encode(json.loads(line)["text"]).ids for line in sample]
    chosen = [ids[:TOKENS] for ids in texts if len(ids) > TOKENS][:DOCUMENTS]
    if objective == "decoder":
        return chosen
    return [[MASK if i % MASK_EVERY == MASK_EVERY // 2 else token for i, token in enumerate(ids)] for ids in chosen]


# ---------------------------------------------------------------------------------------------------------------------
# One row


def run_row(workdir: Path, engine: Engine, size: str, objective: str) -> Row:
    folder = workdir / f"{size}-{objective}"
    build(size, objective, SEED, ordinary).save_pretrained(folder)
    texts = documents(objective)

    def answers(dtype: str) -> list[States]:
        return [{name: states[name] for name in ("final", "logits")} for states in engine.states(folder, texts, dtype)]

    reference = answers("f32")
    costs = {dtype: cost(answers(dtype), reference) for dtype in BOUNDS}
    shutil.rmtree(folder)
    return Row(size, objective, costs, provenance(engine.commit, f"transformers {transformers.__version__}", engine.threads))


def cost(ours: list[States], reference: list[States]) -> Cost:
    same, divergence, rows = 0, 0.0, 0
    for one, other in zip(ours, reference, strict=True):
        same += (one["logits"].argmax(dim=1) == other["logits"].argmax(dim=1)).sum().item()
        p, q = (log_softmax(states["logits"].double(), dim=1) for states in (other, one))
        divergence += kl_div(q, p, reduction="sum", log_target=True).item()
        rows += len(p)
    cosines = (directions(ours) * directions(reference)).sum(dim=1)
    return Cost(cosines.min().item(), same / rows, divergence / rows)


def directions(states: list[States]) -> torch.Tensor:
    """Unit vectors: documents differ little from their mean, so cosines of the vectors themselves say little."""
    vectors = torch.stack([one["final"].double().mean(dim=0) for one in states])
    return normalize(vectors - vectors.mean(dim=0), dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# The table


def report(rows: dict[str, Row]) -> str:
    heads = ["format", "size", "encoder: cosine", "masked: same best", "KL", "decoder: cosine", "next: same best", "KL", "verdict"]
    lines = []
    for dtype, bound in BOUNDS.items():
        for size in (size for size in SIZES if any(row.size == size for row in rows.values())):
            found = [rows.get(f"{size} {objective}") for objective in OBJECTIVES]
            cells = [cell for row in found for cell in (figures(row.costs[dtype]) if row else ["–"] * 3)]
            within = all(row.costs[dtype].within(bound) for row in found if row)
            lines.append([dtype, size, *cells, "within" if within else "**fails**"])
        lines.append([dtype, "*bound*", *figures(bound) * 2, ""])
    made = "\n".join(sorted({row.made for row in rows.values()}))
    missing = [f"{size} {objective}" for size, objective in itertools.product(SIZES, OBJECTIVES) if f"{size} {objective}" not in rows]
    return f"{made}.{' Not run: ' + ', '.join(missing) + '.' if missing else ''}\n\n{table(heads, lines)}"


def figures(cost: Cost) -> list[str]:
    return [f"{cost.cosine:.6f}", f"{cost.same:.4f}", f"{cost.kl:.1e}"]


def load(path: Path) -> dict[str, Row]:
    stored = json.loads(path.read_text()) if path.exists() else {}
    return {key: Row(**row | {"costs": {dtype: Cost(**cost) for dtype, cost in row["costs"].items()}}) for key, row in stored.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="for checkpoints (4 GB at 1b) and rows")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    options.workdir.mkdir(parents=True, exist_ok=True)
    store = options.workdir / "accuracy.json"
    rows = load(store)
    try:
        engine = Engine.build(options.workdir, options.threads, TOKENS) if options.sizes else None
        for size, objective in itertools.product(options.sizes, options.objectives):
            rows[f"{size} {objective}"] = run_row(options.workdir, engine, size, objective)
            store.write_text(json.dumps({key: asdict(row) for key, row in rows.items()}, indent=1))
            print(size, objective, rows[f"{size} {objective}"].costs, flush=True)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2
    replace(DOCUMENT, "scripts/accuracy.py", report(rows))
    within = all(cost.within(BOUNDS[dtype]) for row in rows.values() for dtype, cost in row.costs.items())
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
