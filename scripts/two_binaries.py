"""Speed of one build of ettin-run beside another: both run every row, alternately.

    python scripts/two_binaries.py OLD NEW [--sizes 17m,150m] [--dtypes bf16,f32,w4] [--rounds 5] [--rows enc,pp,tg]

Prints one row per workload: the ratio of the best times (new / old: less is faster), of the medians, and how far the
old binary's own rounds lie apart. A ratio nearer to 1 than that says nothing. Needs no package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict


def workloads(size: str, rows: set[str]) -> list[list[str]]:
    """Arguments of `ettin-run bench`, a list each."""
    encoder, decoder = ["-m", f"encoder-{size}"], ["-m", f"decoder-{size}"]
    shapes = {
        "enc": [[*encoder, "--enc", "1x16", "--enc", "32x128", "--mixed", "32"]],
        "pp": [[*decoder, "-p", "512", "-n", "1"]],
        "tg": [[*decoder, "-p", "16", "-n", "128", "-b", batch] for batch in ("1", "8")],
    }
    return [arguments for row, several in shapes.items() if row in rows for arguments in several]


def measure(binary: str, arguments: list[str], dtype: str) -> dict[str, tuple[float, float]]:
    """Best and median seconds by row."""
    common = ["bench", "-q", "--no-limits", "--random-weights", "-f", "jsonl", "--min-time", "0.2", "-r", "3", "--dtype", dtype]
    run = subprocess.run([binary, *common, *arguments], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{binary} failed: {run.stderr.strip()}")
    records = [json.loads(line) for line in run.stdout.splitlines()]
    return {record["test"]: (record["seconds"]["min"], record["seconds"]["median"]) for record in records if record["test"] != "load"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--sizes", default="17m,150m")
    parser.add_argument("--dtypes", default="bf16,f32,w4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="enc,pp,tg")
    options = parser.parse_args()

    jobs = [
        (size, dtype, arguments)
        for size in options.sizes.split(",")
        for dtype in options.dtypes.split(",")
        for arguments in workloads(size, set(options.rows.split(",")))
    ]
    print("| model | row | numbers | best, new / old | median, new / old | old, worst / best | old, ms |")
    print("|---|---|---|---|---|---|---|")
    for size, dtype, arguments in jobs:
        times: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for turn in range(options.rounds):
            order = ("old", "new") if turn % 2 == 0 else ("new", "old")
            for name in order:
                for row, seconds in measure(getattr(options, name), arguments, dtype).items():
                    times[row][name].append(seconds)
        for row, by_name in times.items():
            best = {name: min(seconds[0] for seconds in rounds) for name, rounds in by_name.items()}
            median = {name: statistics.median(seconds[1] for seconds in rounds) for name, rounds in by_name.items()}
            spread = max(seconds[1] for seconds in by_name["old"]) / min(seconds[1] for seconds in by_name["old"])
            ratios = f"{best['new'] / best['old']:.2f} | {median['new'] / median['old']:.2f} | {spread:.2f}"
            print(f"| {size} | {row} | {dtype} | {ratios} | {best['old'] * 1e3:.4g} |", flush=True)


if __name__ == "__main__":
    main()
