"""Measures heads beside their libraries: late interaction, MaxSim, learned sparse vectors, zero-shot classification.

    python scripts/heads_speed.py --workdir DIR --pylate PYTHON [--only ROW,…] [--documents N] [--rounds R] [--threads 2] [--output FILE]

This Python needs `requirements.txt`; `--pylate` is one with `requirements-pylate.txt`. Checkpoints go to DIR (1.5 GB for all rows). Ours
is the `heads` example of `ettin-bench`, built here unless `--engine FILE` names one. `--list` shows rows.

As in `peers/`: nothing is timed before the numbers agree; workers are stopped while another has its turn; A B A B …, medians of the
rounds; loading is outside the clock, tokenising inside; texts are passages of `tests/fixtures/valid_sample.jsonl`. A library is given
the best of several batch sizes, found on the first documents; what it does when nothing is said is a column of its own. Peak memory is
that of a fresh process which loads the model and does the work once. The record is written after each row; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from host import ROOT, commit, machine

sys.path.insert(0, str(ROOT / "scripts" / "peers"))
from process import Failed, Worker  # noqa: E402
from tables import table  # noqa: E402

HERE = Path(__file__).resolve().parent
TIMEOUT = 3600.0
LENGTHS = (20, 300)
"""Tokens of a document, about."""
TRIED = 96
"""Documents on which batch sizes are tried."""
CHECKED = 24
"""Documents whose numbers are compared."""
WORDS = 60
"""Of a text to be classified: a paragraph, for which labels are usually wanted."""
QUERY, LENGTH, SIZE = 32, 128, 128
"""Of the MaxSim row: vectors of the query and of a document, elements of a vector."""
TURN = 0.5
"""Seconds for which a turn repeats short work."""


@dataclass(frozen=True)
class Row:
    """Work of one head. `batches` are what a library may do, the first of them what it does by itself."""

    head: str
    dtype: str
    batches: tuple[Any, ...]
    goal: float
    """How many times as fast as the library at its best."""
    size: str = ""
    tolerance: float = 1e-4
    """Largest difference, of the largest number."""
    cosine: float = 0.0
    """The least cosine of a text's numbers, where a difference says nothing; then `tolerance` is not looked at."""
    documents: int = 1000
    memory: float | None = None
    """Goal of our peak memory by the library's."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of our worker, and of the library's."""


AVX2 = {"ETTIN_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
PYLATE = (32, 1, 8, 16, 64)
ROWS = {
    "colbert-17m-f32": Row("multi-vector", "f32", PYLATE, 2.0, "17m"),
    "colbert-150m-f32": Row("multi-vector", "f32", PYLATE, 2.0, "150m"),
    "colbert-17m-bf16": Row("multi-vector", "bf16", PYLATE, 2.5, "17m", cosine=0.98),
    "colbert-150m-bf16": Row("multi-vector", "bf16", PYLATE, 2.5, "150m", cosine=0.98),
    "maxsim": Row("maxsim", "f32", ("rerank", "colbert_scores", 1000, 64, 8), 3.0),
    "maxsim-avx2": Row("maxsim", "f32", ("rerank", "colbert_scores", 1000, 64, 8), 3.0, environment=AVX2),
    # Weights are what is left of logits that a large bias is taken from, so rounding counts for more.
    "splade-32m-f32": Row("sparse", "f32", (32, 1, 4, 8, 16), 3.0, "32m", tolerance=1e-3, memory=0.25),
    "splade-32m-bf16": Row("sparse", "bf16", (32, 1, 4, 8, 16), 3.0, "32m", cosine=0.98, memory=0.25),
    "zero-shot-17m-f32": Row("zero-shot", "f32", (1, 4, 10, 20), 4.0, "17m", documents=8),
    "zero-shot-17m-bf16": Row("zero-shot", "bf16", (1, 4, 10, 20), 4.0, "17m", cosine=0.98, documents=8),
    "zero-shot-150m-f32": Row("zero-shot", "f32", (1, 4, 10, 20), 4.0, "150m", documents=4),
}
PEAK = 0.5
"""Share of the peak of multiply-adds that MaxSim is to reach."""


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def passages() -> list[str]:
    lines = (ROOT / "tests" / "fixtures" / "valid_sample.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def documents(count: int) -> list[str]:
    """Runs of words of books, as many lengths as there are."""
    draw = random.Random(1)
    words = " ".join(passages()).split(" ")
    found = []
    for index in range(count):
        # Every length comes as often as another; a word is 1.3 tokens, about.
        tokens = LENGTHS[0] + (LENGTHS[1] - LENGTHS[0]) * index / max(1, count - 1)
        many = max(1, round((tokens - 3) / 1.3))
        start = draw.randrange(len(words) - many)
        found.append(" ".join(words[start : start + many]))
    draw.shuffle(found)
    return found


def work_of(row: Row, count: int, workdir: Path) -> dict[str, Any]:
    if row.head == "zero-shot":
        long = (text.split() for text in passages())
        texts = [" ".join(words[:WORDS]) for words in long if len(words) >= WORDS][:count]
        return {"texts": texts, "labels": [f"subject number {index}" for index in range(20)]}
    if row.head == "maxsim":
        draw = np.random.default_rng(1)
        work: dict[str, Any] = {"length": LENGTH, "size": SIZE}
        for name, vectors in (("query", QUERY), ("documents", count * LENGTH)):
            values = draw.standard_normal((vectors, SIZE), dtype=np.float32)
            path = workdir / f"maxsim-{name}-{vectors}.f32"
            (values / np.linalg.norm(values, axis=1, keepdims=True)).tofile(path)
            work[name] = str(path)
        return work
    return {"texts": documents(count)}


@dataclass
class Place:
    """Where workers come from."""

    workdir: Path
    engine: Path
    pylate: str
    threads: int

    def start(self, name: str, row: Row) -> Worker:
        arguments = ["--head", row.head]
        if row.head != "maxsim":
            from heads_models import folder_of

            arguments += ["--model", str(folder_of(self.workdir, row.head, row.size)), "--dtype", row.dtype]
        if name == "ours":
            command = [str(self.engine), *arguments]
        else:
            python = self.pylate if row.head in ("multi-vector", "maxsim") else sys.executable
            command = [python, str(HERE / "heads_peer.py"), *arguments, "--threads", str(self.threads)]
        threads = {"RAYON_NUM_THREADS": str(self.threads), "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}
        return Worker(command, threads | row.environment, self.workdir / f"{name}.log")


def numbers(worker: Worker, work: dict[str, Any], path: Path) -> list[np.ndarray]:
    offsets = worker(work | {"output": str(path)}, TIMEOUT)["offsets"]
    values = np.fromfile(path, dtype=np.float32)
    path.unlink()
    return [values[a:b] for a, b in zip(offsets, offsets[1:])]


def agreement(row: Row, mine: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float]:
    """How alike the numbers of two workers are; `Failed` where that is not enough."""
    if [a.size for a in mine] != [b.size for b in theirs]:
        raise Failed(f"sizes differ: {[a.size for a in mine][:5]} and {[b.size for b in theirs][:5]}")
    largest = max(float(np.abs(b).max()) for b in theirs)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True)) / largest
    cosine = min(float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in zip(mine, theirs, strict=True))
    good = cosine >= row.cosine if row.cosine else difference <= row.tolerance
    if not good or not math.isfinite(difference):
        raise Failed(f"the numbers differ by {difference:.1e} of the largest, cosine {cosine:.5f}")
    return {"difference": difference, "cosine": cosine}


def median(worker: Worker, work: dict[str, Any], repeat: int = 1) -> tuple[float, dict[str, Any]]:
    answer = worker(work | {"repeat": repeat}, TIMEOUT)
    return statistics.median(answer["seconds"]), answer


def measure(name: str, row: Row, place: Place, count: int, rounds: int) -> dict[str, Any]:
    work = work_of(row, count, place.workdir)
    count = len(work["texts"]) if "texts" in work else count
    few = {key: value[:TRIED] if key == "texts" else value for key, value in work.items()}
    checked = {key: value[:CHECKED] if key == "texts" else value for key, value in work.items()}
    default = row.batches[0]
    workers = {who: place.start(who, row) for who in ("ours", "library")}
    try:
        mine, theirs = (numbers(workers[who], checked | {"batch": default}, place.workdir / f"{who}.f32") for who in workers)
        agreed = agreement(row, mine, theirs)
        say(name, agreed)
        tried = {batch: min(median(workers["library"], few | {"batch": batch})[0] for _ in range(2)) for batch in row.batches}
        own = [batch for batch in row.batches if isinstance(batch, int)] if row.head == "maxsim" else []
        # Of MaxSim, what PyLate computes counts; forms written by hand stand beside it.
        best = min((batch for batch in tried if batch not in own), key=tried.__getitem__)
        ways: dict[str, Any] = {"as it comes": default, "best": best}
        if own:
            ways["by hand"] = min(own, key=tried.__getitem__)
        say(name, "tried:", {str(batch): round(seconds, 4) for batch, seconds in tried.items()})
        part = min(1.0, TRIED / count) if "texts" in work else 1.0
        repeats = {way: max(1, math.ceil(TURN * part / tried[batch])) for way, batch in ways.items()}
        first, _ = median(workers["ours"], work)
        repeats["ours"] = max(1, min(64, math.ceil(TURN / first)))
        seconds: dict[str, list[float]] = {way: [] for way in ("ours", *ways)}
        least = dict.fromkeys(seconds, math.inf)
        peaks = []
        for _ in range(rounds):
            found, answer = median(workers["ours"], work, repeats["ours"])
            seconds["ours"].append(found)
            least["ours"] = min(least["ours"], *answer["seconds"], math.inf)
            peaks.append(answer.get("peak_flops"))
            for way, batch in ways.items():
                if way == "best" and batch == default:
                    seconds[way].append(seconds["as it comes"][-1])
                    least[way] = least["as it comes"]
                    continue
                found, answer = median(workers["library"], work | {"batch": batch}, repeats[way])
                seconds[way].append(found)
                least[way] = min(least[way], *answer["seconds"], math.inf)
        versions = {who: worker.ready["ready"] for who, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    middle = {way: statistics.median(found) for way, found in seconds.items()}
    record = {
        "row": name,
        "documents": count,
        "agreement": agreed,
        "versions": versions,
        "ways": ways,
        "tried": {str(batch): found for batch, found in tried.items()},
        "seconds": seconds,
        "median": middle,
        "least": least,
        "ratio": {way: middle[way] / middle["ours"] for way in ways},
        "goal": row.goal,
        "load": os.getloadavg()[0],
    }
    if row.head == "maxsim":
        flops = 2.0 * QUERY * count * LENGTH * SIZE
        record["share_of_peak"] = statistics.median(flops / took / peak for took, peak in zip(seconds["ours"], peaks, strict=True))
        record["gflops"] = flops / middle["ours"] / 1e9
        record["peak_gflops"] = statistics.median(peaks) / 1e9
    if row.memory is not None:
        record["memory_goal"] = row.memory
        record["peak_rss"] = {who: fresh(who, row, place, work | {"batch": ways["best"]}) for who in ("ours", "library")}
    return record


def fresh(who: str, row: Row, place: Place, work: dict[str, Any]) -> int:
    worker = place.start(who, row)
    try:
        return worker(work, TIMEOUT)["peak_rss"]
    finally:
        worker.close()


def line(record: dict[str, Any]) -> list[str]:
    """Of the table."""
    ways, middle = record["ways"], record["median"]

    def cell(way: str) -> str:
        if way not in ways:
            return ""
        return f"{middle[way]:.4g} s, {record['ratio'][way]:.2f} ({ways[way]})"

    notes = []
    if "share_of_peak" in record:
        notes.append(f"{record['gflops']:.0f} of {record['peak_gflops']:.0f} Gflop/s: {100 * record['share_of_peak']:.0f} %")
    if "peak_rss" in record:
        mine, theirs = (record["peak_rss"][who] / 1e6 for who in ("ours", "library"))
        notes.append(f"peak memory {mine:.0f} of {theirs:.0f} MB: {mine / theirs:.2f} (goal {record['memory_goal']})")
    own = [record["row"], str(record["documents"]), f"{middle['ours']:.4g} s"]
    return [*own, *(cell(way) for way in ("best", "as it comes", "by hand")), f"{record['goal']:g}", "; ".join(notes)]


HEADINGS = ["row", "documents", "ours", "library at its best: time, ratio", "as it comes", "torch by hand", "goal", "also"]


def build() -> Path:
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "ettin-bench", "--example", "heads"], cwd=ROOT, check=True)
    return ROOT / "target" / "release" / "examples" / "heads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--pylate", default=sys.executable, metavar="PYTHON", help="with requirements-pylate.txt")
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW,…", help="rows; see --list")
    parser.add_argument("--list", action="version", version="\n".join(ROWS))
    parser.add_argument("--documents", type=int, help="instead of each row's own number")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", type=Path, help="the `heads` example, already built")
    parser.add_argument("--output", type=Path, help="where the record goes [default: DIR/heads.json]")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    options.workdir.mkdir(parents=True, exist_ok=True)
    place = Place(options.workdir, options.engine or build(), options.pylate, options.threads)
    output = options.output or options.workdir / "heads.json"
    record = {"commit": commit("docs", "benches"), "machine": machine(options.threads), "date": time.strftime("%Y-%m-%d"), "rows": []}
    failed = False
    for name in options.only.split(","):
        row = ROWS[name]
        started = time.monotonic()
        try:
            found = measure(name, row, place, options.documents or row.documents, options.rounds)
        except Failed as reason:
            say(f"{name}: {reason}")
            record["rows"].append({"row": name, "failed": str(reason)})
            failed = True
        else:
            record["rows"].append(found | {"took": time.monotonic() - started})
            say(table(HEADINGS, [line(found)]))
        output.write_text(json.dumps(record, indent=1) + "\n")
    print(table(HEADINGS, [line(found) for found in record["rows"] if "failed" not in found]))
    print(json.dumps({key: record[key] for key in ("date", "commit", "machine")}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
