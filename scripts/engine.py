"""The engine as parity.py sees it: the `states` example, built once, run on a checkpoint in a number format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from host import ROOT, commit
from reference import States


class EngineError(Exception):
    """The engine did not run, or its output lacks a tensor."""


@dataclass(frozen=True)
class Engine:
    """A binary, the commit it is built from, and how it is run."""

    binary: Path
    commit: str
    threads: int
    logit_rows: int
    """Logits of so many last rows are asked for."""

    @staticmethod
    def build(workdir: Path, threads: int, logit_rows: int) -> Engine:
        """Builds the engine of this checkout and copies it into `workdir`.

        So rows of one run have one engine, and the commit that is written beside them is its own, whatever happens to the
        checkout meanwhile.
        """
        built_from = commit("docs", "scripts")
        command = ["cargo", "build", "--release", "--quiet", "--message-format", "json"]
        command += ["-p", "ettin-bench", "--example", "states"]
        try:
            messages = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise EngineError(f"the engine could not be built: {error}") from error
        executables = [json.loads(line).get("executable") for line in messages.splitlines()]
        binary = workdir / "states"
        shutil.copy2(next(path for path in executables if path), binary)
        return Engine(binary, built_from, threads, logit_rows)

    def states(self, folder: Path, inputs: list[list[int]], dtype: str = "f32") -> Iterator[States]:
        """Runs the checkpoint in `folder` on all sequences at once and reads one after the other."""
        ids, output = folder / "ids.json", folder / "states.safetensors"
        ids.write_text(json.dumps(inputs))
        command = [self.binary, "--model", folder, "--ids", ids, "--output", output, "--logit-rows", str(self.logit_rows), "--dtype", dtype]
        try:
            subprocess.run(command, env=os.environ | {"RAYON_NUM_THREADS": str(self.threads)}, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EngineError(f"the engine failed: {error}") from error
        with safe_open(output, "pt") as file:
            names = set(file.keys())
            for i in range(len(inputs)):
                states = {}
                for name in names:
                    kind, index, *layer = name.split(".")
                    if int(index) == i:
                        states[".".join([kind, *layer])] = file.get_tensor(name)
                yield states
        output.unlink()
