"""What a measurement was made on: the commit and the machine. Needs nothing beyond Python."""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit(*ignored: str) -> str:
    """The engine's commit, with a plus sign where tracked files differ from it; folders that hold reports are `ignored`."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{folder}" for folder in ignored))
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def machine(threads: int) -> str:
    """The instruction sets that matter for the numbers."""
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "neon", "asimd")
    flags = set(cpuinfo("flags", "Features").split())
    forced = f", ETTIN_ISA={os.environ['ETTIN_ISA']}" if "ETTIN_ISA" in os.environ else ""
    return f"{os.uname().machine} with {' '.join(flag for flag in known if flag in flags)}{forced}, {threads} thread(s)"


def provenance(commit: str, peer: str, threads: int) -> str:
    """When a table was made, by which engine, with what beside it, on what."""
    return f"{datetime.date.today().isoformat()}; engine at {commit}; {peer}; {machine(threads)}"


def cpuinfo(*keys: str) -> str:
    """The first value that Linux gives under one of these keys; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys:
                return value.strip()
    return ""
