"""ONNX Runtime as a peer: the graphs of prepare.py on the CPU; f32 and dynamically quantised int8."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from serve import Batch, Model, Shape, main, only_shape

FORMATS = {"f32": "onnx", "int8": "onnx-int8"}


class OnnxRuntime(Model):
    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        self.folder = folder / FORMATS[dtype]
        self.threads = threads
        self.any_shape = cache(self._session)
        self.fixed: tuple[Shape | None, onnxruntime.InferenceSession | None] = (None, None)
        self.name = f"onnxruntime {onnxruntime.__version__}, {dtype}"

    def _session(self, graph: str, shape: Shape | None = None) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        for dimension, size in zip(("rows", "length"), shape or (), strict=False):
            options.add_free_dimension_override_by_name(dimension, size)
        return onnxruntime.InferenceSession(str(self.folder / f"{graph}.onnx"), options, ["CPUExecutionProvider"])

    def expect(self, work: list[Batch]) -> None:
        shape = only_shape(work)
        if shape is not None and shape != self.fixed[0]:
            self.fixed = (None, None)  # one at a time: each holds its own weights
            self.fixed = (shape, self._session("plain", shape))

    def embed(self, batch: Batch) -> np.ndarray:
        if batch.mask is not None:
            return self.any_shape("masked").run(None, {"ids": batch.ids, "mask": batch.mask})[0]
        shape, fixed = self.fixed
        return (fixed if fixed and batch.ids.shape == shape else self.any_shape("plain")).run(None, {"ids": batch.ids})[0]


if __name__ == "__main__":
    main(OnnxRuntime)
