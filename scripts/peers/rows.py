"""What is measured: the work, how it is counted, and the goals of this project."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from suite import SIZES

SEED = 20261202
ENCODER, DECODER = "encoder", "decoder"
SCHEMES = ("f32", "f32-avx2", "bf16", "int8", "w8", "w4")
"""Number formats that are compared with one another; f32-avx2 is f32 without the wider instruction sets."""
SCHEME_OF = {"bf16x3": "f32", "bf16x6": "f32"}
"""Number formats of ours that stand beside peers of another."""
GRAPHS = {"f32": ("openvino", "onnx"), "bf16": ("openvino",), "int8": ("openvino", "onnx", "openvino-int8", "onnx-int8")}
"""What the encoders' peers read, by number format, each behind what it is made from."""
ONNX_BYTES = 2**31
"""The most that one ONNX file holds."""
BATCHINGS = (1, 8, 32)
"""Sequences per padded batch that a peer may choose from where lengths differ."""
PROMPT = 16
SENTENCE = "The quick brown fox jumps over the lazy dog, and nobody in the village is surprised any more."


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    objective: str
    kind: str
    """Of the work; or `start` and `memory`, which need a process of their own."""
    shape: tuple[int, int] = (0, 0)
    """Sequences and tokens of each; of the texts of mixed length, none."""
    schemes: tuple[str, ...] = ("f32", "bf16", "int8")
    unit: str = "tok/s"
    new_tokens: int = 0
    beside: str = ""
    """The model of the peers that take part: none for the same checkpoint."""
    sizes: tuple[str, ...] = tuple(SIZES)

    @property
    def chooses_batch(self) -> bool:
        return self.kind in ("embed", "text") and self.shape == (0, 0)

    def work(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The protocol's request; `inputs` are the texts of mixed length."""
        if self.kind == "text":
            return {"kind": "text", "texts": inputs["texts"]}
        if self.chooses_batch:
            return {"kind": "embed", "sequences": inputs["ids"]}
        count, length = self.shape
        rng = random.Random(SEED)
        sequences = [[50281] + [rng.randrange(50280) for _ in range(length - 1)] for _ in range(count)]
        kind = "embed" if self.kind == "memory" else self.kind
        return {"kind": kind, "sequences": sequences} | ({"new_tokens": self.new_tokens} if kind == "decode" else {})

    def tokens(self, inputs: dict[str, Any]) -> int:
        """Real tokens of one pass: read, or generated."""
        if self.kind in ("embed", "text") and self.chooses_batch:
            return sum(map(len, inputs["ids"]))
        count, length = self.shape
        return count * (self.new_tokens or length)

    def flops(self, size: str, inputs: dict[str, Any]) -> float | None:
        """Of one pass without padding: products of the layers and of attention inside its spans. None where a pass is more."""
        if self.kind not in ("embed", "text"):
            return None
        count, length = self.shape
        lengths = [len(ids) for ids in inputs["ids"]] if self.chooses_batch else [length] * count
        return sum(encoder_flops(size, length) for length in lengths)


def graphs(size: str, schemes: Iterable[str]) -> list[str]:
    """The folders of graphs that a size needs for some number formats."""
    fits = 4 * SIZES[size].parameters < ONNX_BYTES
    found = dict.fromkeys(graph for scheme in schemes for graph in GRAPHS.get(scheme, ()))
    return [graph for graph in found if fits or not graph.startswith("onnx")]


def encoder_flops(size: str, tokens: int) -> float:
    """Floating-point operations of one sequence through the layers of an encoder."""
    dimensions = SIZES[size]
    weights = dimensions.layers * dimensions.hidden * (4 * dimensions.hidden + 3 * dimensions.intermediate)
    reach, every = 64, 3
    near = sum(min(tokens, i + reach + 1) - max(0, i - reach) for i in range(tokens))
    global_layers = -(-dimensions.layers // every)
    pairs = global_layers * tokens**2 + (dimensions.layers - global_layers) * near
    return 2.0 * tokens * weights + 4.0 * dimensions.hidden * pairs


DECODING = ("f32", "bf16", "int8", "w8", "w4")
SMOLLM = "135m"
"""A model of SmolLM2-135M's dimensions, of our 150m decoder's size: llama.cpp has no ModernBERT decoders."""
BITS = ("f32", "bf16", "w8", "w4")

ROWS = {
    row.name: row
    for row in (
        Row("32x128", "32 × 128", ENCODER, "embed", (32, 128), ("f32", "f32-avx2", "bf16", "int8")),
        Row("1x16", "1 × 16, latency", ENCODER, "embed", (1, 16), unit="ms"),
        Row("1x128", "1 × 128", ENCODER, "embed", (1, 128)),
        Row("1x4096", "1 × 4096", ENCODER, "embed", (1, 4096)),
        Row("1x7999", "1 × 7999", ENCODER, "embed", (1, 7999)),
        Row("mixed", "256 texts of mixed length, ids", ENCODER, "embed"),
        Row("text", "the same, text in, vectors out", ENCODER, "text"),
        Row("start", "process start to first answer", ENCODER, "start", unit="s"),
        Row("memory-1x128", "peak memory, 1 × 128", ENCODER, "memory", (1, 128), unit="MB"),
        Row("memory-32x128", "peak memory, 32 × 128", ENCODER, "memory", (32, 128), unit="MB"),
        Row("tg128", "128 tokens, one sequence", DECODER, "decode", (1, PROMPT), DECODING, new_tokens=128),
        Row("tg128x8", "128 tokens, 8 sequences", DECODER, "decode", (8, PROMPT), DECODING, new_tokens=128),
        Row("tg128-135m", "128 tokens, beside 135m", DECODER, "decode", (1, PROMPT), BITS, new_tokens=128, beside=SMOLLM, sizes=("150m",)),
        Row("tg128x8-135m", "8 × 128, beside 135m", DECODER, "decode", (8, PROMPT), BITS, new_tokens=128, beside=SMOLLM, sizes=("150m",)),
        Row("pp512", "prompt of 512", DECODER, "prefill", (1, 512), DECODING),
        Row("pp4096", "prompt of 4096", DECODER, "prefill", (1, 4096), DECODING),
    )
}

DEFAULT_SIZES = {ENCODER: ("17m", "68m", "150m"), DECODER: ("17m", "150m")}


def _goals() -> dict[tuple[str, str, str], float]:
    """Ratios to the best peer by row, size and our number format: at least for tokens per second, at most otherwise."""
    found = {
        ("32x128", "150m", "bf16"): 2.0,
        ("32x128", "150m", "bf16x3"): 2.5,
        ("32x128", "150m", "bf16x6"): 1.3,
        ("32x128", "150m", "f32"): 1.15,
        ("32x128", "150m", "f32-avx2"): 1.15,
        ("32x128", "150m", "int8"): 2.8,
        ("32x128", "17m", "bf16"): 2.5,
        ("32x128", "68m", "bf16"): 1.8,
        ("32x128", "400m", "bf16"): 1.5,
        ("32x128", "1b", "bf16"): 1.5,
        ("1x16", "150m", "bf16"): 0.6,
        ("1x16", "150m", "f32"): 0.65,
        ("1x16", "150m", "int8"): 0.5,
        ("tg128", "150m", "bf16"): 2.0,
        ("tg128", "150m", "f32"): 2.0,
        ("tg128", "17m", "bf16"): 4.0,
        ("tg128x8", "150m", "bf16"): 1.8,
        ("pp512", "150m", "bf16"): 2.5,
    }
    for dtype in ("f32", "bf16", "int8"):
        found["1x16", "17m", dtype] = 0.3
        found["start", "150m", dtype] = 0.2
        for row in ("memory-1x128", "memory-32x128"):
            found[row, "150m", dtype] = 0.7 if dtype == "f32" else 0.5
    for dtype in BITS:
        found["tg128-135m", "150m", dtype] = 1.0
    for size in ("17m", "150m"):
        found |= {("1x4096", size, "bf16"): 3.0, ("1x7999", size, "bf16"): 3.5}
        found |= {("mixed", size, "bf16"): 3.0, ("text", size, "bf16"): 3.0}
    return found


GOALS = _goals()

SHARES = {
    ("tg128", "17m", "bf16"): 0.6,
    ("tg128", "150m", "bf16"): 0.8,
    ("tg128", "400m", "bf16"): 0.8,
    ("tg128", "1b", "bf16"): 0.8,
    ("tg128", "150m", "w8"): 0.75,
    ("tg128", "150m", "w4"): 0.75,
    ("tg128", "1b", "w8"): 0.75,
    ("tg128", "1b", "w4"): 0.75,
}
"""Goals for shares of the machine's limit."""

SIDE_BY_SIDE = {("150m", "bf16"): 5.5}
"""Goals for 8 sequences against one, by size and our number format."""


def with_goals() -> set[tuple[str, str, str]]:
    """Every row, size and number format of the comparison that a goal is for."""
    found = [*GOALS, *SHARES, *(("tg128x8", *which) for which in SIDE_BY_SIDE)]
    return {(row, size, SCHEME_OF.get(dtype, dtype)) for row, size, dtype in found}


@dataclass(frozen=True)
class Draft:
    """Guesses ahead of a trained model, beside plain decoding of the same texts."""

    title: str
    draft: str
    """`lookup`, or the number format that guesses."""
    dtypes: tuple[str, ...]
    """Number formats of the model that decides."""
    goal: float | None = None
    """Times as fast as plain decoding."""


DRAFTS = {
    "lookup": Draft("looked up in the text", "lookup", ("f32", "bf16"), 1.5),
    "w4-draft": Draft("guessed in w4", "w4", ("f32",)),
}
DRAFTED_TOKENS = 128
QUOTING = 8
"""Prompts of a draft's row."""


def quoting(passages: list[str]) -> list[str]:
    """Prompts that ask for a quotation: a passage of at most 250 words, the passage quoted, and the first words of it again."""

    def prompt(words: list[str]) -> str:
        passage = " ".join(words)
        return f"{passage}\n\n{passage}\n\n{' '.join(words[:8])}"

    return [prompt(passage.split()[:250]) for passage in passages[:QUOTING]]
