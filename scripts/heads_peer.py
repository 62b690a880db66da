"""The libraries' workers for heads_speed.py: PyLate, sentence-transformers' SparseEncoder, the pipeline of transformers, torch.

Speaks the protocol of `peers/README.md`, with work of its own: `texts`, `labels`, `batch`, `repeat`, `output` (a file for the numbers
of the last repetition, as f32). Loading is outside the clock, tokenising inside.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from serve import peak_rss  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
Work = dict[str, Any]
Rows = list[np.ndarray]


def version(*names: str) -> str:
    return ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in names)


def pylate(model: str, dtype: str) -> tuple[str, Callable[[Work], Any], Callable[[Any], Rows]]:
    from importlib.metadata import version as installed

    from pylate.models import ColBERT

    encoder = ColBERT(model, device="cpu").to(DTYPES[dtype])

    def run(work: Work) -> Any:
        # numpy has no bf16.
        form = {"convert_to_numpy": dtype == "f32", "convert_to_tensor": dtype != "f32"}
        return encoder.encode(work["texts"], batch_size=work["batch"], is_query=False, show_progress_bar=False, **form)

    name = f"PyLate {installed('pylate')}, {version('sentence_transformers', 'transformers', 'torch')}, {dtype}"
    return name, run, lambda found: [torch.as_tensor(rows).float().numpy() for rows in found]


def sparse(model: str, dtype: str) -> tuple[str, Callable[[Work], Any], Callable[[Any], Rows]]:
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(model, device="cpu", model_kwargs={"dtype": DTYPES[dtype]})

    def run(work: Work) -> Any:
        return encoder.encode(work["texts"], batch_size=work["batch"], show_progress_bar=False)

    name = f"{version('sentence_transformers', 'transformers', 'torch')}, {dtype}"
    return name, run, lambda found: list(found.to_dense().float().numpy())


def zero_shot(model: str, dtype: str) -> tuple[str, Callable[[Work], Any], Callable[[Any], Rows]]:
    import transformers

    pipe = transformers.pipeline("zero-shot-classification", model=model, device="cpu", dtype=DTYPES[dtype])

    def run(work: Work) -> Any:
        labels, size = work["labels"], work["batch"]
        answers = [pipe(text, labels) if size == 1 else pipe(text, labels, batch_size=size) for text in work["texts"]]
        return [[dict(zip(a["labels"], a["scores"], strict=True))[label] for label in labels] for a in answers]

    return f"{version('transformers', 'torch')}, {dtype}", run, lambda found: [np.array(row) for row in found]


def maxsim(_: str, __: str) -> tuple[str, Callable[[Work], Any], Callable[[Any], Rows]]:
    """Ways to score one query against documents of one length; `way` chooses."""
    from importlib.metadata import version as installed

    from pylate.rank import rerank
    from pylate.scores import colbert_scores

    loaded: dict[str, torch.Tensor] = {}
    lists: dict[str, list[torch.Tensor]] = {}

    def vectors(path: str, *shape: int) -> torch.Tensor:
        if path not in loaded:
            loaded[path] = torch.from_numpy(np.fromfile(path, dtype=np.float32)).view(*shape)
        return loaded[path]

    def by_rows(query: torch.Tensor, documents: torch.Tensor, several: int) -> torch.Tensor:
        """One matrix product for so many documents, whose results stay in a cache if they are few."""
        parts = documents.split(several)
        return torch.cat([(part @ query.T).amax(1).sum(1) for part in parts])

    def run(work: Work) -> Any:
        length, size, way = work["length"], work["size"], work["batch"]
        query, documents = vectors(work["query"], -1, size), vectors(work["documents"], -1, length, size)
        if way == "rerank":
            # As vectors come from `encode`: a list of one tensor per document.
            tensors = lists.setdefault(work["documents"], list(documents))
            found = rerank([list(range(len(tensors)))], [query], [tensors])[0]
            scores = {result["id"]: result["score"] for result in found}
            return torch.tensor([scores[index] for index in range(len(documents))])
        if way == "colbert_scores":
            return colbert_scores(query[None], documents)[0]
        return by_rows(query, documents, int(way))

    return f"PyLate {installed('pylate')}, {version('torch')}", run, lambda found: [found.numpy()]


HEADS = {"multi-vector": pylate, "sparse": sparse, "zero-shot": zero_shot, "maxsim": maxsim}


def answer(run: Callable[[Work], Any], rows: Callable[[Any], Rows], work: Work) -> dict[str, Any]:
    seconds = []
    found = None
    for _ in range(work.get("repeat", 1)):
        found = None  # its memory is free again
        started = time.perf_counter()
        found = run(work)
        seconds.append(time.perf_counter() - started)
    offsets = [0]
    peak = peak_rss()
    if output := work.get("output"):
        numbers = rows(found)
        np.concatenate([row.ravel() for row in numbers]).astype("<f4").tofile(output)
        offsets += np.cumsum([row.size for row in numbers]).tolist()
    return {"seconds": seconds, "offsets": offsets, "peak_rss": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", choices=HEADS, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print where they like

    def say(value: Any) -> None:
        print(json.dumps(value), file=output, flush=True)

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    name, run, rows = HEADS[options.head](options.model, options.dtype)
    say({"ready": name})
    for line in sys.stdin:
        try:
            say(answer(run, rows, json.loads(line)["work"]))
        except Exception as error:  # the driver decides what a failed peer means
            say({"error": f"{type(error).__name__}: {error}"[:500]})


if __name__ == "__main__":
    main()
