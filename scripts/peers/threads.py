"""How this engine and PyTorch speed up with threads: the rows and the gate of run.py, at one number of threads after the other.

    cargo build --release -p ettin-bench --example peer
    python scripts/peers/threads.py --workdir DIR [--threads 1 2 4 …] [--size 150m] [--dtype bf16] [--rows …] [--output FILE]

Python needs torch, transformers, tokenizers, safetensors and numpy (requirements.txt has them). Checkpoints with random weights
go to DIR. The table is tokens per second, and how many times that of the fewest threads. Each number of threads is written to FILE when
it is done, and one that is there already is not measured again. Where ours fails the gate, nothing is written, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engines import BINARIES, HERE, OURS, Engine  # noqa: E402
from host import commit, machine  # noqa: E402
from measure import Settings, gated, measure  # noqa: E402
from prepare import checkpoint, mixed, whole  # noqa: E402
from process import Failed  # noqa: E402
from rows import DECODER, ENCODER, ROWS, SCHEMES, Row  # noqa: E402
from suite import SIZES  # noqa: E402

DEFAULT_ROWS = ("32x128", "mixed", "1x128", "1x16", "tg128", "tg128x8", "pp512")
DTYPES = tuple(scheme for scheme in SCHEMES if scheme != "f32-avx2")


def powers_of_two(most: int) -> list[int]:
    return [count for shift in range(most.bit_length()) if (count := 1 << shift) <= most]


def engines(peer: Path, dtype: str, threads: int) -> list[Engine]:
    """Ours, and PyTorch where it has the number format."""
    both = (ENCODER, DECODER)
    found = [Engine(OURS, dtype, dtype, both, (str(peer), "--model", "{model}", "--dtype", dtype))]
    if dtype in ("f32", "bf16"):
        torch = (sys.executable, str(HERE / "peer_torch.py"), "--model", "{model}", "--dtype", dtype, "--threads", str(threads))
        found.append(Engine("torch", dtype, dtype, both, torch))
    return found


def rates(rows: list[Row], size: str, found: list[Engine], settings: Settings) -> tuple[dict[str, Any], bool]:
    """What each engine does of each row, and whether ours passed the gate."""
    with gated(found, size, rows[0].objective, settings) as (workers, verdicts):
        for verdict in verdicts:
            if not verdict.passes:
                print(f"{verdict.version}, {settings.threads} threads: fails the gate with {verdict.cosine:.4f}", file=sys.stderr)
        return {row.name: measure(row, size, workers, settings)[0] for row in rows}, any(engine.ours for engine in workers)


def table(record: dict[str, Any]) -> str:
    """Rows of Markdown, one for each row and engine."""
    counts = sorted(record["threads"], key=int)
    lines = ["| work | engine | " + " | ".join(counts) + " |", "|---|---" + "|---" * len(counts) + "|"]
    names = {(row, name): None for rows in record["threads"].values() for row, found in rows.items() for name in found}
    for row, name in names:
        values = [record["threads"][count].get(row, {}).get(name, {}).get("value") for count in counts]
        base = next((value for value in values if value), None)
        power = -1 if ROWS[row].unit == "ms" else 1
        cells = [f"{value:,.4g} ({(value / base) ** power:.1f})" if value else "–" for value in values]
        lines.append(f"| {row} ({ROWS[row].unit}) | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def known(output: Path | None, record: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run has written of the same engine on the same kind of machine."""
    if output is None or not output.exists():
        return {}
    earlier = json.loads(output.read_text())
    threads = earlier.pop("threads")
    if earlier != record:
        raise SystemExit(f"{output} is of {earlier}, not of {record}: give another file")
    return threads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument(
        "--peer", type=Path, default=BINARIES / "examples" / "peer", help="our worker, where cargo did not put it in target/"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=powers_of_two(len(os.sched_getaffinity(0))))
    parser.add_argument("--size", choices=SIZES, default="150m")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=DEFAULT_ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="everything as JSON")
    options = parser.parse_args()
    inputs = mixed()
    options.workdir.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "commit": commit(),
        "size": options.size,
        "dtype": options.dtype,
        "machine": machine(len(os.sched_getaffinity(0))),
    }
    record["threads"] = known(options.output, record)
    healthy = True
    for count in options.threads:
        if str(count) in record["threads"]:
            continue
        settings = Settings(options.workdir, count, options.rounds, 60.0, inputs)
        found, passed = {}, True
        for objective in (ENCODER, DECODER):
            rows = [ROWS[name] for name in options.rows if ROWS[name].objective == objective]
            if not rows:
                continue
            whole(settings.folder(options.size, objective), lambda to, objective=objective: checkpoint(to, options.size, objective))
            try:
                results, ours = rates(rows, options.size, engines(options.peer, options.dtype, count), settings)
            except Failed as reason:
                print(f"{objective}, {count} threads: {reason}", file=sys.stderr)
                results, ours = {}, False
            found |= results
            passed &= ours
        healthy &= passed
        if passed:
            record["threads"][str(count)] = found
        if options.output:
            options.output.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{count} threads done", file=sys.stderr, flush=True)
    print(record["machine"])
    print(table(record))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
