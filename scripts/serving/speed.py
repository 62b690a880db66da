"""Measures the server beside the command line, the library and another server: every row of its goals.

    python scripts/serving/speed.py --workdir DIR --infinity PYTHON [--only ROW,…] [--rounds R] [--seconds S] [--texts N]

This Python needs `scripts/requirements.txt`; `--infinity` is one with `scripts/serving/requirements-infinity.txt`. Checkpoints go to DIR
(3 GB for all rows). The binary and the load generator (the `load` example of `ettin-server`) are built here unless `--binaries DIR` holds
both. `--list` shows rows.

Nothing is timed before the answers agree: with the command line and the library bit for bit, with the peer by cosine. Servers are stopped
while another has its turn; A B A B …, medians of the rounds; loading is outside the clock, tokenising and JSON inside. The load generator
runs on the same machine and is counted for all alike. Texts are runs of words of books. The record is written after each row; run it on
a quiet machine, without limits on its open files below 2,000.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from host import ROOT, commit, machine  # noqa: E402
from servers import Failed, Server, infinity, ours  # noqa: E402
from tables import table  # noqa: E402

CLIENTS = 32
COSINE = 0.9999
"""The least of a text's vector in f32 and the peer's."""
COSINE_BF16 = 0.98
STREAMS = 8
TOKENS = 128
"""Generated for each prompt."""
DOCUMENTS = 100
OVERLOAD = 4.0
"""Times what the server can do."""
IDLE, SLOW = 1000, 200


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def book() -> list[str]:
    lines = (ROOT / "tests" / "fixtures" / "valid_sample.jsonl").read_text().splitlines()
    return " ".join(json.loads(line)["text"] for line in lines).split(" ")


def texts_of(lengths: list[int], seed: int = 1) -> list[str]:
    """Runs of words of about so many tokens each; a word is 1.3, about."""
    draw, words = random.Random(seed), book()
    found = []
    for tokens in lengths:
        many = max(1, round((tokens - 2) / 1.3))
        start = draw.randrange(max(1, len(words) - many))
        found.append(" ".join((words[start:] + words * (many // len(words) + 1))[:many]))
    return found


def mixed(count: int) -> list[str]:
    """Lengths between 8 and 512 tokens, log-normal around 81 as in `peers/`."""
    draw = random.Random(2)
    return texts_of([min(512, max(8, round(draw.lognormvariate(4.4, 0.8)))) for _ in range(count)])


@dataclass
class Place:
    """What rows are measured with."""

    workdir: Path
    binaries: Path
    infinity: str | None
    threads: int
    rounds: int
    seconds: float
    texts: int | None = None
    """Instead of a row's own number."""

    @property
    def binary(self) -> Path:
        return self.binaries / "ettin-run"

    def folder(self, kind: str, size: str) -> Path:
        from checkpoints_served import folder_of

        return folder_of(self.workdir, kind, size)

    def server(self, models: dict[str, Path], dtype: str, *more: str) -> Server:
        return ours(self.binary, models, dtype, self.threads, self.workdir / "ours.log", *more)

    def peer(self, folder: Path, dtype: str) -> Server:
        if self.infinity is None:
            raise Failed("no --infinity was given")
        return infinity(self.infinity, folder, dtype, self.threads, self.workdir / "infinity.log")

    def lines(self, name: str, values: list[Any]) -> str:
        """A file with a JSON value in each line."""
        path = self.workdir / f"{name}.jsonl"
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
        return str(path)

    def generator(self, work: dict[str, Any]) -> Any:
        environment = os.environ | {"RAYON_NUM_THREADS": str(self.threads)}
        command = [str(self.binaries / "examples" / "load")]
        done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise Failed(f"the load generator: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def load(self, server: Server, *groups: dict[str, Any], **more: Any) -> dict[str, Any]:
        """What clients see; `Failed` where an answer is wrong, lost or an error."""
        found = self.generator({"load": {"address": server.address, "groups": list(groups)} | more})
        for name, group in found.items():
            if group["lost"] or group["differing"] or set(group["statuses"]) - {"200"}:
                raise Failed(f"{server.name}, {name}: {group}")
        return found

    def library(self, model: Path, dtype: str, texts: list[str], seconds: float, **more: Any) -> dict[str, Any]:
        calls = {"model": str(model), "dtype": dtype, "texts": self.lines("library", texts), "seconds": seconds}
        return self.generator({"library": calls | more})

    def embed(self, model: Path, dtype: str, texts: list[str], *more: str) -> tuple[float, bytes]:
        """The command line on these texts: seconds of the process, and its output."""
        path = self.lines("command", [{"text": text} for text in texts])
        command = [str(self.binary), "embed", "-m", str(model), "--dtype", dtype, "--threads", str(self.threads), "--normalize"]
        command += ["--truncate", "model", "-i", path, "--quiet", *more]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise Failed(f"ettin-run embed: {done.stderr.decode().strip()[-300:]}")
        return time.perf_counter() - started, done.stdout


def vectors(answers: Path, openai: bool) -> np.ndarray:
    """Of answers of one text each."""
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    return np.array([row["data"][0]["embedding"] if openai else row[0] for row in rows], dtype=np.float32)


def same_bits(place: Place, server: Server, model: Path, dtype: str, texts: list[str]) -> None:
    """The gate: answers to many clients at once are those of the command line."""
    saved, output = place.workdir / "answers.jsonl", place.workdir / "command.npy"
    bodies = place.lines("gate", [{"inputs": text} for text in texts])
    group = {"name": "gate", "path": "/embed", "bodies": bodies, "clients": CLIENTS, "once": True, "save": str(saved)}
    with server.turn():
        place.load(server, group)
    place.embed(model, dtype, texts, "-f", "npy", "-o", str(output))
    mine, theirs = vectors(saved, openai=False), np.load(output)
    if mine.shape != theirs.shape or (mine.view(np.uint32) != theirs.view(np.uint32)).any():
        raise Failed(
            f"answers are not those of the command line: {np.abs(mine - theirs).max() if mine.shape == theirs.shape else mine.shape}"
        )


def alternated(rounds: int, ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            found[way].append(measure())
    return found


def compared(seconds: dict[str, list[float]], unit: str, ratio: Callable[[dict[str, float]], float], goal: str) -> dict[str, Any]:
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    return {"measured": seconds, "median": middle, "unit": unit, "ratio": ratio(middle), "goal": goal}


def of_text(body: dict[str, Any], path: str, place: Place, texts: list[str], key: str, name: str) -> dict[str, Any]:
    bodies = place.lines(name, [body | {key: text} for text in texts])
    return {"name": name, "path": path, "bodies": bodies, "clients": CLIENTS, "once": True}


def throughput(size: str, dtype: str, count: int) -> Callable[[Place], dict[str, Any]]:
    """Texts in a second, beside the command line; what that takes to start and load is measured with one text, and taken off."""

    def measure(place: Place) -> dict[str, Any]:
        model, texts = place.folder("embed", size), mixed(place.texts or count)
        server = place.server({"model": model}, dtype)
        try:
            server.stop()
            same_bits(place, server, model, dtype, texts[:256])
            group = of_text({}, "/embed", place, texts, "inputs", "mixed") | {"compare": True}

            def serve() -> float:
                with server.turn():
                    return len(texts) / place.load(server, group)["mixed"]["seconds"]

            def command() -> float:
                return (len(texts) - 1) / (place.embed(model, dtype, texts)[0] - place.embed(model, dtype, texts[:1])[0])

            found = alternated(place.rounds, {"server": serve, "command": command})
        finally:
            server.close()
        return compared(found, "texts/s", lambda middle: middle["server"] / middle["command"], "≥ 0.90")

    return measure


def against_peer(size: str, dtype: str, count: int, floor: float) -> Callable[[Place], dict[str, Any]]:
    """The same beside infinity in f32, which is faster there than in bf16 or as fast on most CPUs, on OpenAI's route of both."""

    def measure(place: Place) -> dict[str, Any]:
        model, texts = place.folder("embed", size), mixed(place.texts or count)
        servers = {"server": place.server({"model": model}, dtype)}
        try:
            servers["server"].stop()
            same_bits(place, servers["server"], model, dtype, texts[:64])
            servers["peer"] = place.peer(model, "f32")
            servers["peer"].stop()
            paths = {"server": "/v1/embeddings", "peer": "/embeddings"}
            groups = {name: of_text({"model": "peer"}, path, place, texts, "input", "mixed") for name, path in paths.items()}
            rows = {}
            for name, server in servers.items():
                saved = place.workdir / f"{name}.answers"
                few = of_text({"model": "peer"}, paths[name], place, texts[:64], "input", "gate") | {"save": str(saved)}
                with server.turn():
                    place.load(server, few)
                rows[name] = vectors(saved, openai=True)
                rows[name] /= np.linalg.norm(rows[name], axis=1, keepdims=True)
            cosine = float((rows["server"] * rows["peer"]).sum(1).min())
            if cosine < (COSINE if dtype == "f32" else COSINE_BF16):
                raise Failed(f"vectors differ from the peer's: cosine {cosine:.5f}")

            def serve(name: str) -> Callable[[], float]:
                def once() -> float:
                    with servers[name].turn():
                        return len(texts) / place.load(servers[name], groups[name])["mixed"]["seconds"]

                return once

            found = alternated(place.rounds, {name: serve(name) for name in servers})
        finally:
            for server in servers.values():
                server.close()
        return compared(found, "texts/s", lambda middle: middle["server"] / middle["peer"], f"≥ {floor:g}") | {"cosine": cosine}

    return measure


def latency(size: str, dtype: str) -> Callable[[Place], dict[str, Any]]:
    """One client, texts of 16 tokens."""

    def measure(place: Place) -> dict[str, Any]:
        model, texts = place.folder("embed", size), texts_of([16] * 64)
        server = place.server({"model": model}, dtype)
        found: dict[str, list[float]] = {"server": [], "library": [], "p99": []}
        try:
            server.stop()
            same_bits(place, server, model, dtype, texts)
            bodies = place.lines("short", [{"inputs": text} for text in texts])
            group = {"name": "one", "path": "/embed", "bodies": bodies, "clients": 1, "seconds": place.seconds, "compare": True}
            for _ in range(place.rounds):
                with server.turn():
                    seen = place.load(server, group)["one"]["latency"]
                found["server"].append(1e3 * seen["median"])
                found["p99"].append(1e3 * seen["p99"])
                found["library"].append(1e3 * place.library(model, dtype, texts, place.seconds)["latency"]["median"])
        finally:
            server.close()
        record = compared(found, "ms", lambda middle: middle["server"] - middle["library"], "+ ≤ 0.25 ms; p99 ≤ 2 × median")
        return record | {"tail": record["median"]["p99"] / record["median"]["server"]}

    return measure


def beside_long(size: str, dtype: str) -> Callable[[Place], dict[str, Any]]:
    """The 99th of 100 short requests, with and without a client that sends 8,000 tokens at a time."""

    def measure(place: Place) -> dict[str, Any]:
        model = place.folder("long", size)
        shorts, longs = texts_of([16] * 64), texts_of([8000] * 4)
        server = place.server({"model": model}, dtype)
        try:
            same_bits(place, server, model, dtype, [*shorts[:16], longs[0]])
            short = {"name": "short", "path": "/embed", "bodies": place.lines("short", [{"inputs": text} for text in shorts])}
            long = {"name": "long", "path": "/embed", "bodies": place.lines("long", [{"inputs": text} for text in longs])}
            short |= {"clients": 4, "seconds": place.seconds, "compare": True}
            long |= {"clients": 1, "seconds": place.seconds, "compare": True}
            seen: list[Any] = []

            def with_it() -> float:
                with server.turn():
                    seen.append(place.load(server, short, long))
                return 1e3 * seen[-1]["short"]["latency"]["p99"]

            def without() -> float:
                with server.turn():
                    return 1e3 * place.load(server, short)["short"]["latency"]["p99"]

            found = alternated(place.rounds, {"with": with_it, "without": without})
        finally:
            server.close()
        record = compared(found, "ms", lambda middle: middle["with"] / middle["without"], "≤ 3")
        return record | {"long_median_ms": statistics.median(1e3 * one["long"]["latency"]["median"] for one in seen)}

    return measure


def generation(size: str, dtype: str) -> Callable[[Place], dict[str, Any]]:
    """Tokens in a second of eight streams, beside one call with eight prompts."""

    def measure(place: Place) -> dict[str, Any]:
        model, prompts = place.folder("decode", size), texts_of([32] * STREAMS)
        server = place.server({"model": model}, dtype)
        try:
            body = {"model": "model", "max_tokens": TOKENS, "temperature": 0}
            whole = [server.ask("/v1/completions", body | {"prompt": prompt}) for prompt in prompts]
            server.stop()
            library = place.library(model, dtype, prompts, 0.0, generate=TOKENS, save=str(place.workdir / "generated.jsonl"))
            expected = [json.loads(line) for line in (place.workdir / "generated.jsonl").read_text().splitlines()]
            if [answer["choices"][0]["text"] for answer in whole] != expected:
                raise Failed("texts are not those of the library")
            tokens = sum(answer["usage"]["completion_tokens"] for answer in whole)
            if tokens != library["done"] / library["latency"]["count"]:
                raise Failed(f"{tokens} tokens and not the library's: {library}")
            stream = body | {"stream": True, "stream_options": {"include_usage": True}}
            bodies = place.lines("prompts", [stream | {"prompt": prompt} for prompt in prompts])
            group = {"name": "streams", "path": "/v1/completions", "bodies": bodies, "clients": STREAMS, "once": True}

            def serve() -> float:
                with server.turn():
                    return tokens / place.load(server, group)["streams"]["seconds"]

            def call() -> float:
                found = place.library(model, dtype, prompts, place.seconds / 2, generate=TOKENS)
                return found["done"] / found["seconds"]

            found = alternated(place.rounds, {"server": serve, "library": call})
        finally:
            server.close()
        return compared(found, "tok/s", lambda middle: middle["server"] / middle["library"], "≥ 0.95")

    return measure


def rerank(size: str, dtype: str, floor: float) -> Callable[[Place], dict[str, Any]]:
    """Seconds for one query and its documents."""

    def measure(place: Place) -> dict[str, Any]:
        model = place.folder("rerank", size)
        body = {"query": "who walked along the river", "documents": mixed(DOCUMENTS), "model": "peer"}
        ways = {"server": (body | {"texts": body["documents"]}, "/rerank"), "peer": (body | {"return_documents": False}, "/rerank")}
        ways["server"][0].pop("documents")
        servers = {"server": place.server({"model": model}, dtype)}
        try:
            servers["server"].stop()
            servers["peer"] = place.peer(model, "f32")
            servers["peer"].stop()
            scores = {}
            for name, server in servers.items():
                with server.turn():
                    answer = server.ask(ways[name][1], ways[name][0])
                ranked = answer if isinstance(answer, list) else answer["results"]
                found = {one["index"]: one.get("score", one.get("relevance_score")) for one in ranked}
                scores[name] = np.array([found[index] for index in range(DOCUMENTS)])
            difference = float(np.abs(scores["server"] - scores["peer"]).max())
            if difference > (1e-4 if dtype == "f32" else 0.05):
                raise Failed(f"scores differ from the peer's by {difference:.1e}")

            def once(name: str) -> Callable[[], float]:
                content, path = ways[name]

                def ask() -> float:
                    with servers[name].turn():
                        started = time.perf_counter()
                        servers[name].ask(path, content)
                        return time.perf_counter() - started

                return ask

            found = alternated(place.rounds, {name: once(name) for name in servers})
        finally:
            for server in servers.values():
                server.close()
        record = compared(found, "s", lambda middle: middle["peer"] / middle["server"], f"≥ {floor:g}")
        return record | {"difference": difference}

    return measure


def overload(size: str, dtype: str) -> Callable[[Place], dict[str, Any]]:
    """Memory while four times as much comes as can be computed; what is answered must be right, what is not must say so."""

    def measure(place: Place) -> dict[str, Any]:
        model, texts = place.folder("embed", size), mixed(1024)
        server = place.server({"model": model}, dtype, "--max-queue-tokens", "32768")
        try:
            same_bits(place, server, model, dtype, texts[:256])
            group = of_text({}, "/embed", place, texts, "inputs", "mixed") | {"compare": True}
            with server.turn():
                rate = len(texts) / place.load(server, group)["mixed"]["seconds"]
                # The beginning of an overload: the queue has been full once.
                busy = group | {"once": False, "clients": 512, "rate": OVERLOAD * rate}
                place.generator({"load": {"address": server.address, "groups": [busy | {"seconds": place.seconds}]}})
                memory, done = [server.memory()], threading.Event()

                def watch() -> None:
                    while not done.wait(0.5):
                        memory.append(server.memory())

                watcher = threading.Thread(target=watch)
                watcher.start()
                try:
                    long = busy | {"seconds": 60 * place.seconds}
                    seen = place.generator({"load": {"address": server.address, "groups": [long]}})["mixed"]
                finally:
                    done.set()
                    watcher.join()
                # Nothing is left of it.
                place.load(server, group)
        finally:
            server.close()
        wrong = {status: count for status, count in seen["statuses"].items() if status not in ("200", "429", "503")}
        if wrong or seen["lost"] or seen["differing"] or seen["unadvised"]:
            raise Failed(f"under overload: {wrong}, {seen}")
        answered, refused = seen["statuses"].get("200", 0), seen["requests"] - seen["statuses"].get("200", 0)
        return {
            "measured": {"memory": memory},
            "median": {"start": memory[0] / 1e6, "most": max(memory) / 1e6},
            "unit": "MB",
            "ratio": max(memory) / memory[0],
            "goal": "≤ 1.10",
            "seen": seen,
            "also": f"{answered} answered, {refused} told to come again, {answered / seen['seconds'] / rate:.2f} of the usual rate",
        }

    return measure


def start(size: str, dtype: str) -> Callable[[Place], dict[str, Any]]:
    """Seconds from the start of a process to its first answer."""

    def measure(place: Place) -> dict[str, Any]:
        model = place.folder("embed", size)

        def first(peer: bool) -> Callable[[], float]:
            def once() -> float:
                # Not by /health: a server may be healthy and warm nothing up.
                server = place.peer(model, dtype) if peer else place.server({"model": model}, dtype)
                try:
                    server.ask("/embeddings" if peer else "/v1/embeddings", {"model": "peer", "input": "a cat"})
                    return time.perf_counter() - server.started
                finally:
                    server.close()

            return once

        found = alternated(place.rounds, {"server": first(False), "peer": first(True)})
        return compared(found, "s", lambda middle: middle["server"] / middle["peer"], "≤ 0.1")

    return measure


def connections(size: str, dtype: str, count: int) -> Callable[[Place], dict[str, Any]]:
    """Throughput beside connections that say nothing, and others that say it slowly."""

    def measure(place: Place) -> dict[str, Any]:
        model, texts = place.folder("embed", size), mixed(place.texts or count)
        server = place.server({"model": model}, dtype)
        try:
            same_bits(place, server, model, dtype, texts[:64])
            group = of_text({}, "/embed", place, texts, "inputs", "mixed") | {"compare": True}

            def serve(**more: int) -> Callable[[], float]:
                def once() -> float:
                    with server.turn():
                        return len(texts) / place.load(server, group, **more)["mixed"]["seconds"]

                return once

            found = alternated(place.rounds, {"with": serve(idle=IDLE, slow=SLOW), "without": serve()})
        finally:
            server.close()
        return compared(found, "texts/s", lambda middle: middle["with"] / middle["without"], "≥ 0.95")

    return measure


ROWS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "embed-17m-f32": throughput("17m", "f32", 4000),
    "embed-150m-f32": throughput("150m", "f32", 400),
    "embed-17m-bf16": throughput("17m", "bf16", 4000),
    "embed-150m-bf16": throughput("150m", "bf16", 800),
    "peer-17m-f32": against_peer("17m", "f32", 512, 5.0),
    "peer-17m-bf16": against_peer("17m", "bf16", 512, 9.0),
    "latency-17m-f32": latency("17m", "f32"),
    "beside-long-17m-f32": beside_long("17m", "f32"),
    "generate-150m-bf16": generation("150m", "bf16"),
    "rerank-17m-f32": rerank("17m", "f32", 4.0),
    "overload-17m-f32": overload("17m", "f32"),
    "start-150m-bf16": start("150m", "bf16"),
    "connections-17m-f32": connections("17m", "f32", 2000),
}

HEADINGS = ["row", "measured", "ratio or difference", "goal", "also"]


def line(record: dict[str, Any]) -> list[str]:
    """Of the table."""
    if "failed" in record:
        return [record["row"], "", "failed", "", record["failed"][:200]]
    measured = ", ".join(f"{way} {value:.4g}" for way, value in record["median"].items())
    known = {"tail": "p99 / median", "cosine": "cosine", "difference": "largest difference", "long_median_ms": "long text, ms"}
    also = [*(f"{words} {record[key]:.5g}" for key, words in known.items() if key in record), record.get("also", "")]
    notes = "; ".join(note for note in also if note)
    return [record["row"], f"{measured} {record['unit']}", f"{record['ratio']:.3g}", record["goal"], notes]


def built() -> Path:
    command = ["cargo", "build", "--release", "--quiet", "--workspace", "--features", "hub", "--bins", "--example", "load"]
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / "target" / "release"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--infinity", metavar="PYTHON", help="with requirements-infinity.txt; without it, rows with a peer fail")
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW,…", help="rows; see --list")
    parser.add_argument("--list", action="version", version="\n".join(ROWS))
    parser.add_argument("--texts", type=int, metavar="N", help="instead of each row's own number")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn; the overload lasts sixty times as long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binaries", type=Path, metavar="DIR", help="a target folder's `release`, already built")
    parser.add_argument("--output", type=Path, help="where the record goes [default: DIR/serving.json]")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options.workdir.mkdir(parents=True, exist_ok=True)
    binaries = options.binaries or built()
    place = Place(options.workdir, binaries, options.infinity, options.threads, options.rounds, options.seconds, options.texts)
    output = options.output or options.workdir / "serving.json"
    record = {"commit": commit("docs", "benches"), "machine": machine(options.threads), "date": time.strftime("%Y-%m-%d"), "rows": []}
    for name in options.only.split(","):
        began = time.monotonic()
        try:
            found = ROWS[name](place)
        except Failed as reason:
            found = {"failed": str(reason)}
        found = {"row": name} | found | {"load": os.getloadavg()[0]}
        record["rows"].append(found)
        output.write_text(json.dumps(record, indent=1) + "\n")
        say(f"{name}: {time.monotonic() - began:.0f} s", *line(found)[1:])
    print(f"{record['date']}, {record['commit']}, {record['machine']}\n")
    print(table(HEADINGS, [line(found) for found in record["rows"]]))
    if any("failed" in found for found in record["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
