"""OpenVINO as a peer: the graphs of prepare.py on the CPU with the latency hint; f32, bf16 and int8.

`int8` computes what NNCF left unquantised in f32, `int8-bf16` in bf16: which is faster depends on the machine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov

from serve import Batch, Model, Shape, main, only_shape

FORMATS = {
    "f32": ("openvino", "f32"),
    "bf16": ("openvino", "bf16"),
    "int8": ("openvino-int8", "f32"),
    "int8-bf16": ("openvino-int8", "bf16"),
}


class OpenVino(Model):
    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        graphs, precision = FORMATS[dtype]
        self.folder = folder / graphs
        self.core = ov.Core()
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
        }
        self.any_shape = cache(self._any_shape)
        self.fixed: tuple[Shape | None, ov.CompiledModel | None] = (None, None)
        self.name = f"openvino {ov.__version__}, {dtype}"

    def _any_shape(self, graph: str) -> ov.CompiledModel:
        return self.core.compile_model(self.folder / f"{graph}.xml", "CPU", self.settings)

    def expect(self, work: list[Batch]) -> None:
        shape = only_shape(work)
        if shape is not None and shape != self.fixed[0]:
            self.fixed = (None, None)  # one at a time: each holds its own weights
            model = self.core.read_model(self.folder / "plain.xml")
            model.reshape(list(shape))
            self.fixed = (shape, self.core.compile_model(model, "CPU", self.settings))

    def embed(self, batch: Batch) -> np.ndarray:
        if batch.mask is not None:
            return self.any_shape("masked")([batch.ids, batch.mask])[0]
        shape, fixed = self.fixed
        return (fixed if fixed and batch.ids.shape == shape else self.any_shape("plain"))([batch.ids])[0]


if __name__ == "__main__":
    main(OpenVino)
