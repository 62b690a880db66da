"""Servers as processes: started on a free port, waited for, stopped while another one has its turn, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LOADING = 600.0
"""Seconds until a server must answer."""

TIMEOUT = 600.0
"""Seconds for one answer."""


class Failed(Exception):
    """A server that cannot do the work, and why."""


class Server:
    """A server on a port of its own, stopped by a signal whenever it is not asked."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path, health: str) -> None:
        self.name, self.log = name, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.started = time.perf_counter()
        command = [word.format(port=self.port) for word in command]
        self.process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=os.environ | environment)
        try:
            self._wait(health)
        except Failed:
            self.close()
            raise
        self.loaded = time.perf_counter() - self.started

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any) -> Any:
        """One request, by this process."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except OSError as error:
            raise Failed(f"{self.name}: {error}; {self._last_words()}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(f"{self.name} answers {answer.status}: {content[:300]!r}")
        return json.loads(content)

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failed(f"{self.name} ended: {self._last_words()}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def turn(self) -> Iterator[Server]:
        """Runs for so long as the block does."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield self
        finally:
            self.stop()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self, health: str) -> None:
        while time.perf_counter() - self.started < LOADING:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with {self.process.returncode}: {self._last_words()}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", health)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.005)
        raise Failed(f"{self.name} is not ready: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])[-400:]


def ours(binary: Path, models: dict[str, Path], dtype: str, threads: int, log: Path, *more: str) -> Server:
    named = [word for name, folder in models.items() for word in ("-m", f"{name}={folder}")]
    command = [str(binary), "serve", *named, "--dtype", dtype, "--threads", str(threads), "--hostname", "127.0.0.1", "-p", "{port}"]
    return Server("ettin-run serve", [*command, *more], {}, log, "/health")


def infinity(python: str, folder: Path, dtype: str, threads: int, log: Path) -> Server:
    """As its documents say for a CPU, with the batch size that it has by itself."""
    program = str(Path(python).with_name("infinity_emb"))
    names = {"f32": "float32", "bf16": "bfloat16"}
    command = [program, "v2", "--model-id", str(folder), "--served-model-name", "peer", "--engine", "torch", "--device", "cpu"]
    command += ["--dtype", names[dtype], "--no-bettertransformer", "--no-model-warmup", "--batch-size", "32"]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    environment = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": str(threads)}
    return Server("infinity 0.0.78", command, environment, log, "/health")
