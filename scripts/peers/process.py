"""The driver's half of the protocol: one worker process, stopped whenever it is not its turn."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOADING = 900.0
"""Seconds until a worker must be ready."""


class Failed(Exception):
    """A worker that cannot do the work, and why."""


class Worker:
    """A process that answers one line of JSON per line of JSON.

    Between answers it is stopped by a signal, so that threads which spin for the next work take nothing from the engine
    whose turn it is, without changing how any library waits.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.buffer = b""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            env=os.environ | environment,
        )
        try:
            self.ready = self._read(LOADING)
        except Failed:
            self.close()
            raise
        self._stop()

    def __call__(self, work: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Does one piece of work."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"work": work}).encode() + b"\n")
            self.process.stdin.flush()
            answer = self._read(timeout)
        except OSError as error:
            raise Failed(f"the worker died: {self._last_words() or error}") from error
        self._stop()
        if reason := answer.get("unsupported") or answer.get("error"):
            raise Failed(reason)
        return answer

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def _read(self, timeout: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Failed(f"no answer within {timeout:.0f} s")
            part = os.read(pipe, 1 << 20)
            if not part:
                raise Failed(f"the worker ended: {self._last_words()}")
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def first_answer(command: Sequence[str], environment: dict[str, str], log: Path) -> float:
    """Seconds from the start of a process until its first line of output."""
    started = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.stdout.read()
    if process.wait() != 0 or not line:
        raise Failed(f"ended with {process.returncode}: {log.read_text(errors='replace').strip()[-300:]}")
    return seconds
