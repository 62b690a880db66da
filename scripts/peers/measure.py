"""One row, one size, one number format: the parity gate, the warm-up, the alternating rounds."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engines import Engine
from process import Failed, Worker, first_answer
from rows import BATCHINGS, ENCODER, SENTENCE, Row

BOUNDS = {"f32": 0.9999, "f32-avx2": 0.9999, "bf16": 0.97, "int8": 0.8, "w8": 0.9, "w4": -1.0}
"""Least cosine between an engine's vectors and transformers', both centred on the mean of the latter: an encoder's vectors of
different texts resemble one another, and without centring almost anything would pass. Random weights amplify rounding some twentyfold, more
with every layer (at 150m the peers' own bf16 reaches 0.98, their int8 0.87), and of four bits leave nothing: w4, which has no
peer, is not gated; `docs/ACCURACY.md` bounds it on trained weights."""
SENSITIVE = {"400m": {"bf16": 0.9, "int8": 0.7}}
"""The same at sizes whose random weights amplify more: at 400m the peers' own bf16 reaches 0.946 (at 1b 0.998)."""
TURN = 0.25
"""Seconds that a turn takes at least, by repetition."""
MOST = 400
"""Repetitions of a turn at most."""
AGAIN = 2
"""Times that a limit is measured again which work has passed: beside other work it is measured too low."""
BEHIND = 4.0
"""A peer that many times slower than another in the warm-up takes one turn: it has a number, and cannot be the best."""


@dataclass(frozen=True)
class Settings:
    """What holds for a whole run."""

    workdir: Path
    threads: int
    rounds: int
    patience: float
    """Seconds a pass may take; a slower peer is left out of that row."""
    inputs: dict[str, Any]

    def environment(self, engine: Engine) -> dict[str, str]:
        count = str(self.threads)
        names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return dict.fromkeys(names, count) | {"TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"} | engine.environment

    def folder(self, size: str, row_objective: str) -> Path:
        return self.workdir / f"{size}-{row_objective}"

    def start(self, engine: Engine, size: str, objective: str) -> Worker:
        command = [word.replace("{model}", str(self.folder(size, objective))) for word in engine.command]
        return Worker(command, self.environment(engine), self.log(engine))

    def log(self, engine: Engine) -> Path:
        folder = self.workdir / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{engine.name.replace(' ', '-')}.log"


# ---------------------------------------------------------------------------------------------------------------------
# The parity gate


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = math.sumprod(a, b) if hasattr(math, "sumprod") else sum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return product / lengths if lengths > 0 else math.nan


def similarity(ours: list[list[float]], reference: list[list[float]]) -> float:
    """The least centred cosine of rows; minus infinity for anything that is not finite."""
    mean = [statistics.fmean(column) for column in zip(*reference, strict=True)]

    def centred(row: list[float]) -> list[float]:
        return [x - m for x, m in zip(row, mean, strict=True)]

    found = [cosine(centred(a), centred(b)) for a, b in zip(ours, reference, strict=True)]
    return min(x if math.isfinite(x) else -math.inf for x in found)


def bound(scheme: str, size: str) -> float:
    """The least cosine for a number format at a size."""
    return SENSITIVE.get(size, {}).get(scheme, BOUNDS.get(scheme, min(BOUNDS.values())))


def gate(worker: Worker, folder: Path, objective: str) -> float:
    """How near a worker is to transformers: padded and alone, or through its cache."""
    reference = json.loads((folder / "reference.json").read_text())
    inputs, vectors = reference["sequences"], reference["vectors"]
    if objective != ENCODER:
        work = {"kind": "logits", "sequences": inputs, "prefill": reference["prefill"], "vectors": True}
        return similarity(worker(work, 600.0)["vectors"], vectors)
    together = worker({"kind": "embed", "sequences": inputs, "batch": 3, "vectors": True}, 600.0)["vectors"]
    # Two are enough: each length is a graph to compile.
    alone = [worker({"kind": "embed", "sequences": [ids], "vectors": True}, 600.0)["vectors"][0] for ids in inputs[:2]]
    return min(similarity(together, vectors), similarity(alone + together[2:], vectors))


class Verdict(NamedTuple):
    """Of the gate, about an engine."""

    engine: Engine
    version: str
    cosine: float
    passes: bool


@contextlib.contextmanager
def gated(engines: Sequence[Engine], size: str, objective: str, settings: Settings) -> Iterator[tuple[dict[Engine, Worker], list[Verdict]]]:
    """Workers of the engines that pass the gate, and what it says of all; they are closed in the end."""
    workers: dict[Engine, Worker] = {}
    verdicts = []
    try:
        for engine in engines:
            worker = workers[engine] = settings.start(engine, size, objective)
            cosine = gate(worker, settings.folder(size, objective), objective)
            verdict = Verdict(engine, worker.ready["ready"], cosine, cosine >= bound(engine.scheme, size))
            verdicts.append(verdict)
            if not verdict.passes:
                workers.pop(engine).close()
        yield workers, verdicts
    finally:
        for worker in workers.values():
            worker.close()


# ---------------------------------------------------------------------------------------------------------------------
# Rows


Results = dict[str, dict[str, Any]]
Skipped = dict[str, str]


def alternate(engines: list[Engine], rounds: int, turn: Callable[[Engine], float | None], skipped: Skipped) -> dict[str, list[float]]:
    """A B C A B C …; an engine that fails is left out from there on, one that passes a turn has fewer values."""
    values: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            if engine.name in skipped:
                continue
            try:
                if (value := turn(engine)) is not None:
                    values[engine.name].append(value)
            except Failed as reason:
                skipped[engine.name] = str(reason)
    return {name: found for name, found in values.items() if name not in skipped}


def measure(row: Row, size: str, workers: dict[Engine, Worker], settings: Settings) -> tuple[Results, Skipped]:
    """A row of workers that are ready: median over rounds of the median over a turn's repetitions."""
    work = row.work(settings.inputs)
    tokens = row.tokens(settings.inputs)
    skipped: Skipped = {}
    plans: Results = {}
    timeout = 4 * settings.patience
    for engine, worker in workers.items():
        try:
            fastest = min((plan["warm"] for plan in plans.values()), default=math.inf)
            plans[engine.name] = warm_up(engine, worker, row, work, timeout, BEHIND * fastest)
        except Failed as reason:
            skipped[engine.name] = str(reason)
            continue
        if plans[engine.name]["warm"] > settings.patience and not engine.ours:
            skipped[engine.name] = f"{plans[engine.name]['warm']:.0f} s a pass"

    taking_part = [engine for engine in workers if engine.name in plans and engine.name not in skipped]
    fastest = min((plans[engine.name]["warm"] for engine in taking_part), default=math.inf)
    for engine in taking_part:
        plans[engine.name]["turns"] = settings.rounds if engine.ours or plans[engine.name]["warm"] <= BEHIND * fastest else 1

    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in plans}

    def turn(engine: Engine) -> float | None:
        plan = plans[engine.name]
        plan["turns"] -= 1
        if plan["turns"] < 0:
            return None
        repeat = min(MOST, max(1, math.ceil(TURN / plan["warm"])))
        answer = workers[engine](work | {"batch": plan["batch"], "repeat": repeat}, timeout)
        if answer["tokens"] != tokens:
            raise Failed(f"did {answer['tokens']} tokens of a work of {tokens}")
        middle = statistics.median(answer["seconds"])
        if engine.ours and "limit_seconds" in answer:
            limit_again = {key: work[key] for key in ("kind", "sequences", "new_tokens") if key in work} | {"repeat": 0}
            answer |= settled(answer, middle, lambda: workers[engine](limit_again, timeout))
        answers[engine.name].append(answer)
        return middle

    results = {}
    for name, seconds in alternate(taking_part, settings.rounds, turn, skipped).items():
        plan = plans[name]
        middle = statistics.median(seconds)
        value = 1000 * middle if row.unit == "ms" else tokens / middle
        results[name] = {"value": value, "seconds": seconds, "tokens": tokens, "batch": plan["batch"]} | limit(answers[name])
    return results, skipped


def settled(found: dict[str, Any], seconds: float, again: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The best of the limits that were found for work of so many seconds: measured again where the work was faster."""
    for _ in range(AGAIN):
        if found["limit_seconds"] <= seconds:
            break
        found = min(found, again(), key=lambda answer: answer["limit_seconds"])
    return {key: found[key] for key in ("limit_seconds", "bound") if key in found}


def settled_peak(peak: float, flops: float, seconds: float, again: Callable[[], float]) -> float:
    """The same of a peak of arithmetic, for work of so many operations."""

    def found(peak: float) -> dict[str, Any]:
        return {"limit_seconds": flops / peak}

    return flops / settled(found(peak), seconds, lambda: found(again()))["limit_seconds"]


def limit(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What the machine would allow: the median over turns of the share that the turn reached of what was measured in it."""
    found = {key: answers[-1][key] for key in ("weight_bytes", "bound") if answers and key in answers[-1]}
    shares = [a["limit_seconds"] / statistics.median(a["seconds"]) for a in answers if "limit_seconds" in a]
    return found | ({"share": statistics.median(shares), "shares": shares} if shares else {})


def warm_up(engine: Engine, worker: Worker, row: Row, work: dict[str, Any], timeout: float, hopeless: float) -> dict[str, Any]:
    """Twice over the work, so that every shape is compiled, but once where that took `hopeless` seconds; where lengths
    differ, with the peer's best batching."""
    choices = BATCHINGS if row.chooses_batch and engine.pads else (None,)
    found = {}
    for batch in choices:
        for _ in range(2):
            found[batch] = worker(work | {"batch": batch}, timeout)["seconds"][0]
            if found[batch] > hopeless:
                break
    best = min(found, key=found.__getitem__)
    return {"batch": best, "warm": found[best]}


def fresh(row: Row, size: str, engines: list[Engine], settings: Settings) -> tuple[Results, Skipped]:
    """A row that takes a new process each time: seconds to the first answer, or megabytes of peak memory."""
    skipped: Skipped = {}
    folder = settings.folder(size, row.objective)
    work = row.work(settings.inputs) if row.kind == "memory" else {}

    def turn(engine: Engine) -> float:
        if row.kind == "start":
            if engine.once is None:
                raise Failed("has no command for one text")
            command = [word.replace("{model}", str(folder)).replace("{text}", SENTENCE) for word in engine.once]
            # The second counts: it has the memory that the first gave back. On a virtual machine, whoever comes behind a
            # pause, or is the first to need so much, would wait for its host to find some.
            for _ in range(2):
                seconds = first_answer(command, settings.environment(engine), settings.log(engine))
            return seconds
        worker = settings.start(engine, size, row.objective)
        try:
            peak = worker(work, 4 * settings.patience)["peak_rss"]
        finally:
            worker.close()
        if peak is None:
            raise Failed("peak memory is read from /proc, which this system has not")
        return peak / 1e6

    alternate(engines, 1, turn, skipped)  # files into the page cache
    values = alternate(engines, settings.rounds if row.kind == "start" else 1, turn, skipped)
    return {name: {"value": statistics.median(found), "rounds": found} for name, found in values.items()}, skipped


def load_average() -> float:
    """Of the last minute: above the threads in use, someone else computes here."""
    return os.getloadavg()[0]
