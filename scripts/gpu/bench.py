"""Measures this engine beside PyTorch on one CUDA device: the protocol, rows and gate of scripts/peers.

    cargo build --release --features cuda -p ettin-bench --example peer
    python scripts/gpu/bench.py --workdir DIR [--size 150m] [--dtypes bf16 f32] [--rows …] [--output FILE]

Python needs torch with CUDA, transformers, tokenizers, safetensors and numpy. Checkpoints with random weights go to DIR. The
exit code is 1 if ours fails the gate.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "peers"), str(HERE.parent)]

from engines import BINARIES, OURS, Engine  # noqa: E402
from host import commit  # noqa: E402
from measure import Settings, gated, measure  # noqa: E402
from prepare import checkpoint, mixed, whole  # noqa: E402
from process import Failed  # noqa: E402
from rows import DECODER, ENCODER, ROWS, Row  # noqa: E402
from suite import SIZES  # noqa: E402

DEFAULT_ROWS = ("32x128", "1x128", "1x4096", "1x7999", "mixed", "tg128", "tg128x8", "pp512", "pp4096")
THREADS = 4
"""Of the host, for both."""


def engines(peer: Path, dtype: str) -> list[Engine]:
    """Ours and PyTorch, in one number format."""
    ours = (str(peer), "--model", "{model}", "--dtype", dtype, "--device", "cuda")
    torch = (sys.executable, str(HERE / "peer_torch_cuda.py"), "--model", "{model}", "--dtype", dtype, "--threads", str(THREADS))
    both = (ENCODER, DECODER)
    return [Engine(OURS, dtype, dtype, both, ours), Engine("torch", dtype, dtype, both, torch)]


def session(found: list[Engine], rows: list[Row], size: str, settings: Settings, record: dict[str, Any]) -> bool:
    """All rows of one objective and number format; false if ours fails the gate."""
    objective = rows[0].objective
    with gated(found, size, objective, settings) as (workers, verdicts):
        for engine, version, cosine, _ in verdicts:
            record["gate"][f"{objective} {engine.name}"] = cosine
            record["versions"][engine.name] = version
            print(f"{objective}: {version}: centred cosine {cosine:.6f}", flush=True)
        for row in rows:
            results, skipped = measure(row, size, workers, settings)
            values = [f"{name} {result['value']:,.0f}" for name, result in results.items()]
            ratio = [result["value"] for result in results.values()]
            if len(ratio) == 2:
                values.append(f"ratio {ratio[0] / ratio[1]:.2f}")
            print(f"{row.name} ({row.unit}): {', '.join(values)}", *skipped.items(), flush=True)
            record["rows"][f"{row.name} {found[0].dtype}"] = results
        return any(engine.ours for engine in workers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument(
        "--peer", type=Path, default=BINARIES / "examples" / "peer", help="our worker, where cargo did not put it in target/"
    )
    parser.add_argument("--size", choices=SIZES, default="150m")
    parser.add_argument("--dtypes", nargs="+", choices=("bf16", "f32"), default=("bf16", "f32"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=DEFAULT_ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="everything as JSON")
    options = parser.parse_args()
    inputs = mixed()
    settings = Settings(options.workdir, THREADS, options.rounds, 60.0, inputs)
    record: dict[str, Any] = {"commit": commit(), "size": options.size, "gate": {}, "versions": {}, "rows": {}}
    healthy = True
    options.workdir.mkdir(parents=True, exist_ok=True)
    for objective in (ENCODER, DECODER):
        rows = [ROWS[name] for name in options.rows if ROWS[name].objective == objective]
        if not rows:
            continue
        whole(settings.folder(options.size, objective), lambda to, objective=objective: checkpoint(to, options.size, objective))
        for dtype in options.dtypes:
            try:
                healthy &= session(engines(options.peer, dtype), rows, options.size, settings, record)
            except Failed as reason:
                print(f"{objective} {dtype}: {reason}", flush=True)
                healthy = False
            if options.output:
                options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
