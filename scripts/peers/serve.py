"""The worker's half of the protocol (README.md), shared by the Python peers.

A peer is a `Model` of one library. `main` loads it, says that it is ready and answers one line of JSON per line of
JSON; with `--once TEXT` it embeds one text, prints the vector and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

PAD = 50283

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """Sequences of similar length as one rectangle."""

    rows: list[int]
    """Indices of the sequences."""
    ids: np.ndarray
    """`[rows, longest]`, int64."""
    mask: np.ndarray | None
    """1 at real tokens, 0 at padding; none where nothing is padded."""


def only_shape(work: list[Batch]) -> Shape | None:
    """The shape of all batches, if they have one and nothing is padded: a graph may be compiled for it."""
    shapes = {batch.ids.shape if batch.mask is None else None for batch in work}
    return shapes.pop() if len(shapes) == 1 else None


class Unsupported(Exception):
    """The library, or this use of it, cannot do this work."""


class Model:
    """What a library can do; each method gets a batch and returns f32."""

    name: str
    weight_bytes: int | None = None
    """Of the weights that a pass over the model reads, where that is known."""

    def expect(self, work: list[Batch]) -> None:
        """Told of the coming batches before the clock starts, where they are known."""

    def embed(self, batch: Batch) -> np.ndarray:
        """Mean-pooled final hidden states, `[rows, hidden]`."""
        raise Unsupported(f"{self.name} embeds nothing here")

    def prefill(self, ids: np.ndarray) -> Any:
        """Fills a cache; returns a state to go on from, with the last logits computed."""
        raise Unsupported(f"{self.name} decodes nothing here")

    def decode(self, state: Any, steps: int) -> None:
        """Adds `steps` greedy tokens to every sequence."""
        raise Unsupported(f"{self.name} decodes nothing here")

    def feed(self, state: Any, ids: np.ndarray) -> np.ndarray:
        """Adds given tokens one by one; returns the last logits, `[rows, vocabulary]`."""
        raise Unsupported(f"{self.name} decodes nothing here")


def batches(sequences: list[list[int]], size: int | None) -> list[Batch]:
    """Longest first, `size` at a time (all at once when none), each padded to its longest."""
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    found = []
    for start in range(0, len(order), size or len(order)):
        rows = order[start : start + (size or len(order))]
        lengths = [len(sequences[row]) for row in rows]
        ids = np.full((len(rows), lengths[0]), PAD, dtype=np.int64)
        for line, row in zip(ids, rows, strict=True):
            line[: len(sequences[row])] = sequences[row]
        mask = None
        if lengths[-1] < lengths[0]:
            mask = (np.arange(lengths[0]) < np.array(lengths)[:, None]).astype(np.int64)
        found.append(Batch(rows, ids, mask))
    return found


def embed(model: Model, work: list[Batch]) -> list[np.ndarray]:
    """Vectors in the order of the sequences."""
    vectors: dict[int, np.ndarray] = {}
    for batch in work:
        vectors.update(zip(batch.rows, model.embed(batch), strict=True))
    return [vectors[row] for row in range(len(vectors))]


def answer(model: Model, tokenizer: Callable[[], Tokenizer], work: dict[str, Any]) -> dict[str, Any]:
    """Does one piece of work; arrays are made before the clock starts, tokenisation is inside."""
    kind, size = work["kind"], work.get("batch")
    sequences = work.get("sequences", [])
    tokens = sum(map(len, sequences))
    ids = np.array(sequences, dtype=np.int64) if kind in ("prefill", "decode", "logits") else np.zeros(0)
    prepared = batches(sequences, size) if kind == "embed" else []
    model.expect(prepared)
    seconds, vectors = [], []
    for _ in range(work.get("repeat", 1)):
        state = model.prefill(ids) if kind == "decode" else None
        started = time.perf_counter()
        if kind == "embed":
            vectors = embed(model, prepared)
        elif kind == "text":
            encoded = [encoding.ids for encoding in tokenizer().encode_batch_fast(work["texts"])]
            vectors = embed(model, batches(encoded, size))
            tokens = sum(map(len, encoded))
        elif kind == "prefill":
            model.prefill(ids)
        elif kind == "decode":
            model.decode(state, work["new_tokens"])
            tokens = len(sequences) * work["new_tokens"]
        elif kind == "logits":
            cut = work["prefill"]
            vectors = list(model.feed(model.prefill(ids[:, :cut]), ids[:, cut:]))
        else:
            raise Unsupported(f"unknown kind of work {kind!r}")
        seconds.append(time.perf_counter() - started)
    result = {"seconds": seconds, "tokens": tokens, "peak_rss": peak_rss()}
    if model.weight_bytes is not None:
        result["weight_bytes"] = model.weight_bytes
    if work.get("vectors"):
        result["vectors"] = [vector.tolist() for vector in vectors]
    return result


def peak_rss() -> int | None:
    """Peak resident memory of this process in bytes, where Linux tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(load: Callable[[Path, str, int], Model]) -> None:
    """Runs a worker; `load` gets the checkpoint's folder, the number format and the number of threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--once", metavar="TEXT", help="embed this text, print its vector and end")
    options = parser.parse_args()
    # Libraries print where they like; standard output is for answers alone.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: Any) -> None:
        print(json.dumps(value), file=output, flush=True)

    loaded: list[Tokenizer] = []

    def tokenizer() -> Tokenizer:
        if not loaded:
            loaded.append(Tokenizer.from_file(str(options.model / "tokenizer.json")))
        return loaded[0]

    model = load(options.model, options.dtype, options.threads)
    if options.once is not None:
        say(embed(model, batches([tokenizer().encode(options.once).ids], 1))[0].tolist())
        return
    say({"ready": model.name})
    for line in sys.stdin:
        try:
            say(answer(model, tokenizer, json.loads(line)["work"]))
        except Unsupported as reason:
            say({"unsupported": str(reason)})
        except Exception as error:  # the driver decides what a failed peer means
            say({"error": f"{type(error).__name__}: {error}"[:500]})
