"""Measures this engine beside OpenVINO, ONNX Runtime, PyTorch, candle-transformers and llama.cpp; see README.md.

    python scripts/peers/run.py --workdir DIR [--goals] [--rows …] [--sizes …] [--schemes …] [--quick]

Needs Python 3.11 and cargo; everything else is installed into a virtual environment in DIR. Each row is written as soon as
it is finished, and a row that is there already is not measured again: a run that was interrupted goes on.
The exit code is 1 if an engine of ours fails the parity gate, or drafting changes what is generated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import drafts  # noqa: E402
from engines import HERE, Engine, llama, ours, peers  # noqa: E402
from host import ROOT, commit, cpuinfo, machine  # noqa: E402
from measure import Settings, bound, fresh, gate, load_average, measure, settled_peak  # noqa: E402
from process import Failed, Worker  # noqa: E402
from report import document  # noqa: E402
from rows import DEFAULT_SIZES, DRAFTS, ENCODER, ROWS, SCHEMES, SMOLLM, Row, graphs, with_goals  # noqa: E402
from suite import SIZES  # noqa: E402

QUICK = ("32x128", "1x16", "mixed", "tg128", "pp512")


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# What is needed


def interpreter(folder: Path, name: str = "requirements.txt") -> str:
    """Python with the peers that a file names, in a virtual environment that is made once."""
    python = folder / "bin" / "python"
    requirements = HERE / name
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        say("installing the peers into", folder)
        venv.create(folder, with_pip=True)
        # What pip builds from source is for this CPU.
        environment = os.environ | {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True, env=environment)
        stamp.write_text(requirements.read_text())
    return str(python)


def build_engine() -> None:
    subprocess.run(["cargo", "build", "--release", "--quiet", "--examples", "--bins"], cwd=ROOT, check=True)


def build_candle(workdir: Path) -> Path:
    """candle-transformers' program; its target folder is outside the repository."""
    target = workdir / "candle-target"
    manifest = HERE / "candle" / "Cargo.toml"
    subprocess.run(["cargo", "build", "--release", "--quiet", "--manifest-path", manifest, "--target-dir", target], check=True)
    return target / "release" / "peer-candle"


def prepare(python: str, workdir: Path, size: str, objective: str, schemes: list[str]) -> None:
    """Checkpoint, inputs, and the graphs for some number formats."""
    folder = workdir / f"{size}-{objective}"
    needed = [workdir / "inputs.json", folder]
    needed += [folder / name for name in (graphs(size, schemes) if objective == ENCODER else ())]
    if all(path.exists() for path in needed):
        return
    say(f"{size} {objective}: making the checkpoint and the peers' graphs")
    command = [python, HERE / "prepare.py", "--workdir", workdir, "--size", size, "--objective", objective, "--schemes", *schemes]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def prepare_llama(options: argparse.Namespace) -> list[Engine]:
    """llama.cpp with its model, or nobody where it cannot be built."""
    folder = options.workdir / f"{SMOLLM}-llama"
    try:
        python = options.llama_python or interpreter(options.workdir / "venv-llama", "requirements-llama.txt")
        if not folder.exists():
            say("making the model for llama.cpp")
            subprocess.run([python, HERE / "prepare_llama.py", folder], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError as reason:
        say(f"without llama.cpp, which needs cmake and a C++ compiler: {reason}")
        return []
    return llama(python, options.threads, folder)


# ---------------------------------------------------------------------------------------------------------------------
# The record


def without_places(arguments: list[str]) -> list[str]:
    """Arguments without the folders and programs of this machine, which say nothing to others."""
    places = {"--workdir": "DIR", "--python": "PYTHON", "--llama-python": "PYTHON", "--output": "FILE"}
    return [places.get(before, word) for before, word in zip(["", *arguments], arguments)]


class Record:
    """The JSON and the table, written after every row."""

    def __init__(self, path: Path, options: argparse.Namespace, refused: dict[str, str]) -> None:
        self.path = path
        about = {
            "cpu": cpuinfo("model name", "CPU part") or "unknown",
            "machine": machine(options.threads),
            "threads": options.threads,
            "rounds": options.rounds,
            "command": shlex.join(["python", "scripts/peers/run.py", *without_places(sys.argv[1:])]),
            "refused": refused,
        }
        empty: dict[str, Any] = {"units": {}, "gate": {}, "versions": {}, "peaks": {}, "drafts": {}}
        self.fresh = options.fresh
        self.data = empty | (json.loads(path.read_text()) if path.exists() else {}) | about

    def has(self, key: str, engines: list[Engine]) -> bool:
        """Whether a row is there with all these engines: one that came since is a reason to measure again."""
        unit = None if self.fresh else self.data["units"].get(key)
        return unit is not None and all(engine.name in unit["results"] | unit["skipped"] for engine in engines)

    def save(self, inputs: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1, ensure_ascii=False) + "\n")
        self.path.with_suffix(".md").write_text(document(self.data, inputs))


def output_path(threads: int) -> Path:
    cpu = re.sub(r"[^a-z0-9]+", "-", cpuinfo("model name", "CPU part").lower()).strip("-") or "unknown"
    return ROOT / "benches" / "runs" / f"{datetime.date.today().isoformat()}-{cpu}-{threads}-threads.json"


# ---------------------------------------------------------------------------------------------------------------------
# Sessions: the engines of one size and number format, loaded together


class Session:
    def __init__(self, size: str, objective: str, scheme: str, engines: list[Engine], settings: Settings, record: Record) -> None:
        self.size, self.objective, self.scheme = size, objective, scheme
        self.engines = [engine for engine in engines if engine.scheme == scheme and objective in engine.objectives]
        self.settings, self.record = settings, record
        self.workers: dict[Engine, Worker] | None = None
        self.failed: dict[str, str] = {}

    def run(self, rows: list[Row]) -> bool:
        """Measures what is missing; false if one of our engines failed the gate."""
        due = [row for row in rows if not self.record.has(self._key(row), self._taking_part(row))]
        self.engines = [engine for engine in self.engines if any(engine.takes_part(row) for row in due)]
        if not due or not self.engines:
            return True
        try:
            self._gate()
            for row in sorted(due, key=lambda row: row.kind in ("start", "memory")):
                self._row(row)
        finally:
            self._close()
        return not any(engine.ours and engine.name in self.failed for engine in self.engines)

    def _key(self, row: Row) -> str:
        return f"{row.name}/{self.size}/{self.scheme}"

    def _taking_part(self, row: Row) -> list[Engine]:
        return [engine for engine in self.engines if engine.takes_part(row)]

    def _gate(self) -> None:
        """Starts every worker; those that do not compute what transformers does stay out of every row."""
        self.workers = {}
        least = bound(self.scheme, self.size)
        folder = self.settings.folder(self.size, self.objective)
        for engine in self.engines:
            try:
                worker = self.settings.start(engine, self.size, self.objective)
                self.workers[engine] = worker
                self.record.data["versions"][engine.name] = worker.ready["ready"]
                if engine.model:
                    continue
                found = gate(worker, folder, self.objective)
            except Failed as reason:
                self.failed[engine.name] = str(reason)
                continue
            finally:
                if engine.name in self.failed and engine in self.workers:
                    self.workers.pop(engine).close()
            if engine.ours and (peak := worker.ready.get("peak_flops")):
                # The most that was seen: a calibration beside other work finds less.
                peaks = self.record.data["peaks"]
                peaks[engine.dtype] = max(peak, peaks.get(engine.dtype, 0.0))
            entry = {"engine": engine.name, "size": self.size, "objective": self.objective, "cosine": found, "bound": least}
            self.record.data["gate"][f"{self.size}/{self.objective}/{engine.name}"] = entry
            say(f"{self.size} {self.objective}: {worker.ready['ready']}: centred cosine {found:.6f}")
            if not found >= least:
                self.failed[engine.name] = f"fails the parity gate: {found:.4f} where {least:g} is required"
                self.workers.pop(engine).close()

    def _row(self, row: Row) -> None:
        load = load_average()
        if row.kind in ("start", "memory"):
            self._close()
            able = [engine for engine in self._taking_part(row) if engine.name not in self.failed]
            results, skipped = fresh(row, self.size, able, self.settings)
        else:
            workers = {engine: worker for engine, worker in (self.workers or {}).items() if engine.takes_part(row)}
            results, skipped = measure(row, self.size, workers, self.settings)
            self._settle_peaks(row, workers, results)
        self.record.data["units"][self._key(row)] = {
            "row": row.name,
            "size": self.size,
            "scheme": self.scheme,
            "date": datetime.date.today().isoformat(),
            "commit": commit("docs", "benches/runs"),
            "load": load,
            "results": results,
            "skipped": {engine.name: self.failed[engine.name] for engine in self._taking_part(row) if engine.name in self.failed} | skipped,
        }
        self.record.save(self.settings.inputs)
        values = ", ".join(f"{name} {result['value']:.4g}" for name, result in results.items())
        left_out = "".join(f"; without {name} ({reason})" for name, reason in skipped.items())
        say(f"{row.name} {self.size} {self.scheme} ({row.unit}): {values}{left_out}")

    def _settle_peaks(self, row: Row, workers: dict[Engine, Worker], results: dict[str, dict[str, Any]]) -> None:
        """Measures the peak of arithmetic again where a row of ours passes it."""
        flops, peaks = row.flops(self.size, self.settings.inputs), self.record.data["peaks"]
        for engine, worker in workers.items() if flops else ():
            if engine.ours and engine.name in results and engine.dtype in peaks:
                seconds = statistics.median(results[engine.name]["seconds"])

                def again(worker: Worker = worker) -> float:
                    return worker({"kind": "embed", "repeat": 0}, 600.0)["peak_flops"]

                peaks[engine.dtype] = settled_peak(peaks[engine.dtype], flops, seconds, again)

    def _close(self) -> None:
        for worker in (self.workers or {}).values():
            worker.close()
        self.workers = None


def measure_drafts(name: str, schemes: list[str], settings: Settings, record: Record) -> bool:
    """A row of drafting; false if it changed what is generated."""
    healthy = True
    draft = DRAFTS[name]
    for dtype in draft.dtypes:
        key = f"{name}/{dtype}"
        if dtype not in schemes or (key in record.data["drafts"] and not record.fresh):
            continue
        load = load_average()
        try:
            found = drafts.measure(draft, dtype, settings)
        except Failed as reason:
            say(f"{name} {dtype}: {reason}")
            healthy = False
            continue
        about = {"row": name, "date": datetime.date.today().isoformat(), "commit": commit("docs", "benches/runs"), "load": load}
        record.data["drafts"][key] = about | found
        record.save(settings.inputs)
        values = ", ".join(f"{mode} {value:.4g}" for mode, value in found["values"].items())
        say(f"{name} {dtype} (tok/s): {values}; {found['accepted_tokens']} of {found['drafted_tokens']} guesses accepted")
    return healthy


# ---------------------------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="for checkpoints, graphs and the virtual environment (6 GB at 150m)")
    parser.add_argument("--goals", action="store_true", help="only rows, sizes and number formats that a goal is for, of all sizes: the project's table")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *DRAFTS], help="all unless given")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="17m 68m 150m for encoders, 17m 150m for decoders unless given")
    parser.add_argument("--schemes", nargs="+", help=f"number formats: {' '.join(SCHEMES)}, all unless given")
    parser.add_argument("--engines", nargs="+", metavar="WORD", help="only those whose name contains one of these words")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds a pass of a peer may take before it is left out of a row")
    parser.add_argument("--quick", action="store_true", help=f"17m, three rounds, rows {' '.join(QUICK)}")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that are there already")
    parser.add_argument("--output", type=Path, help="the JSON, with a .md beside it [benches/runs/DATE-MACHINE.json]")
    parser.add_argument("--python", help="an interpreter that has the requirements already")
    parser.add_argument("--llama-python", help="one that has those of llama.cpp")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.sizes, options.rounds = options.rows or list(QUICK), options.sizes or ["17m"], 3
    return options


def is_due(row: Row, size: str, scheme: str, options: argparse.Namespace) -> bool:
    """Whether a row is asked for at a size in a number format."""
    return size in row.sizes and scheme in row.schemes and (not options.goals or (row.name, size, scheme) in with_goals())


def settings(options: argparse.Namespace) -> Settings:
    path = options.workdir / "inputs.json"
    inputs = json.loads(path.read_text()) if path.exists() else {}
    return Settings(options.workdir, options.threads, options.rounds, options.patience, inputs)


def main() -> int:
    options = parse()
    # Workers are stopped between turns: they would outlive a driver that did not end them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.workdir = options.workdir.resolve()
    options.workdir.mkdir(parents=True, exist_ok=True)
    names = options.rows or [*ROWS, *DRAFTS]
    rows = [ROWS[name] for name in names if name in ROWS]
    python = options.python or interpreter(options.workdir / "venv")
    build_engine()
    accepted, refused = ours()
    for dtype, reason in refused.items():
        say(f"ours in {dtype}: {reason}")
    wanted = [word.lower() for word in options.engines or [""]]
    candle = build_candle(options.workdir) if any(word in "candle" for word in wanted) else None
    engines = accepted + peers(python, options.threads, candle)
    if any(row.beside for row in rows):
        engines += prepare_llama(options)
    engines = [engine for engine in engines if any(word in engine.name.lower() for word in wanted)]
    known = list(dict.fromkeys([*SCHEMES, *(engine.scheme for engine in engines)]))
    schemes = [scheme for scheme in known if options.schemes is None or scheme in options.schemes]
    # Beside nobody, a row says nothing.
    rows = [row for row in rows if not row.beside or any(engine.model == row.beside for engine in engines)]
    record = Record(options.output or output_path(options.threads), options, refused)

    healthy = True
    for objective, default_sizes in DEFAULT_SIZES.items():
        wanted = [row for row in rows if row.objective == objective]
        sizes = options.sizes or (SIZES if options.goals else default_sizes)
        for size in sizes if wanted else ():
            due = {scheme: [row for row in wanted if is_due(row, size, scheme, options)] for scheme in schemes}
            if any(due.values()):
                prepare(python, options.workdir, size, objective, [scheme for scheme in schemes if due[scheme]])
            for scheme in schemes:
                healthy &= Session(size, objective, scheme, engines, settings(options), record).run(due[scheme])
    for name in DRAFTS:
        if name in names:
            healthy &= measure_drafts(name, schemes, settings(options), record)
    say("written:", record.path, record.path.with_suffix(".md"))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
