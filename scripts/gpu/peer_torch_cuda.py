"""scripts/peers/peer_torch.py on a CUDA device."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

from peer_torch import State, Torch  # noqa: E402
from serve import main  # noqa: E402


class Cuda(Torch):
    """Work is done when the device has done it."""

    device = "cuda"

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        super().__init__(folder, dtype, threads)
        self.name += f", {torch.cuda.get_device_name()}"

    def prefill(self, ids: np.ndarray) -> State:
        state = super().prefill(ids)
        torch.cuda.synchronize()
        return state

    def decode(self, state: State, steps: int) -> None:
        super().decode(state, steps)
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(Cuda)
