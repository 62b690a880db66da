"""Who is measured: this engine in every number format that it takes, and its peers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from host import ROOT
from rows import DECODER, ENCODER, SCHEME_OF, SMOLLM, Row

HERE = Path(__file__).resolve().parent
BINARIES = ROOT / "target" / "release"
OURS = "ettin-run"

AVX2_TORCH = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ALIASES = ("auto",)
"""Names that stand for one of the others."""

Command = tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """One library in one number format; `{model}` in a command stands for the checkpoint's folder."""

    family: str
    """A column of the table."""
    dtype: str
    scheme: str
    objectives: tuple[str, ...]
    command: Command
    once: Command | None = None
    """Embeds one text in a process of its own."""
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    model: str = ""
    """Of a peer that has another model than the checkpoint, its name: nothing can be its gate."""

    @property
    def name(self) -> str:
        return f"{self.family} {self.dtype}"

    @property
    def ours(self) -> bool:
        return self.family == OURS

    def takes_part(self, row: Row) -> bool:
        return self.ours or self.model == row.beside

    @property
    def pads(self) -> bool:
        """Whether it needs to be told how to cut work of mixed lengths."""
        return not self.ours


def peers(python: str, threads: int, candle: Path | None) -> list[Engine]:
    """Every peer in every format that it is good at."""

    def script(family: str, name: str, dtype: str, objectives: tuple[str, ...], scheme: str, **environment: str) -> Engine:
        command = (python, str(HERE / name), "--model", "{model}", "--dtype", dtype, "--threads", str(threads))
        once = (*command, "--once", "{text}") if ENCODER in objectives else None
        label = dtype if scheme != "f32-avx2" else scheme
        return Engine(family, label, scheme, objectives, command, once, environment)

    openvino = [("f32", "f32"), ("bf16", "bf16"), ("int8", "int8"), ("int8-bf16", "int8")]
    found = [script("OpenVINO", "peer_openvino.py", dtype, (ENCODER,), scheme) for dtype, scheme in openvino]
    found += [script("ONNX Runtime", "peer_onnx.py", dtype, (ENCODER,), dtype) for dtype in ("f32", "int8")]
    found += [script("torch", "peer_torch.py", dtype, (ENCODER, DECODER), dtype) for dtype in ("f32", "bf16")]
    found.append(script("torch", "peer_torch.py", "f32", (ENCODER,), "f32-avx2", **AVX2_TORCH))
    if candle is not None:
        found.append(Engine("candle", "f32", "f32", (ENCODER,), (str(candle), "--model", "{model}")))
    return found


LLAMA_FORMATS = {"f32": "f32", "bf16": "bf16", "q8_0": "w8", "q4_0": "w4"}
"""llama.cpp's number formats with ours of the same bits."""


def llama(python: str, threads: int, folder: Path) -> list[Engine]:
    """llama.cpp on the files of prepare_llama.py."""

    def engine(dtype: str, scheme: str) -> Engine:
        command = (python, str(HERE / "peer_llama.py"), "--model", str(folder), "--dtype", dtype, "--threads", str(threads))
        return Engine("llama.cpp", dtype, scheme, (DECODER,), command, model=SMOLLM)

    return [engine(*formats) for formats in LLAMA_FORMATS.items()]


def ours() -> tuple[list[Engine], dict[str, str]]:
    """This engine in every format, and the formats that this machine's CPU backend refuses, with its reasons."""
    worker = str(BINARIES / "examples" / "peer")
    answer = subprocess.run([worker, "--dtypes"], capture_output=True, text=True, check=True).stdout
    refused = {dtype: reason for dtype, reason in json.loads(answer).items() if reason is not None}

    def engine(dtype: str, scheme: str, **environment: str) -> Engine:
        command = (worker, "--model", "{model}", "--dtype", dtype)
        embed = (str(BINARIES / "ettin-run"), "embed", "--offline", "--quiet", "--model", "{model}", "--dtype", dtype, "{text}")
        label = dtype if scheme != "f32-avx2" else scheme
        return Engine(OURS, label, scheme, (ENCODER, DECODER), command, embed, environment)

    taken = [dtype for dtype in json.loads(answer) if dtype not in refused and dtype not in ALIASES]
    found = [engine(dtype, SCHEME_OF.get(dtype, dtype)) for dtype in taken]
    if "f32" in taken:
        found.append(engine("f32", "f32-avx2", ETTIN_ISA="avx2"))
    return found, refused
