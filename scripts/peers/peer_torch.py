"""PyTorch + transformers as a peer: sdpa attention, its own cache; f32 and bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import ModernBertDecoderForCausalLM, ModernBertModel

from serve import Batch, Model, main

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class State(NamedTuple):
    cache: Any
    logits: torch.Tensor
    """Of the last position, `[rows, vocabulary]`."""


class Torch(Model):
    device = "cpu"

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        model_class = ModernBertDecoderForCausalLM if kind == "modernbert-decoder" else ModernBertModel
        self.model = model_class.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation="sdpa").eval().to(self.device)
        capability = torch.backends.cpu.get_cpu_capability()
        self.name = f"torch {torch.__version__}, transformers {transformers.__version__}, sdpa, {dtype}, {capability}"

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def embed(self, batch: Batch) -> np.ndarray:
        ids = self._tensor(batch.ids)
        if batch.mask is None:
            return self.model(input_ids=ids).last_hidden_state.float().mean(dim=1).cpu().numpy()
        mask = self._tensor(batch.mask)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        # A row of padding may be NaN: no real token is in its window.
        sums = hidden.masked_fill(mask[..., None] == 0, 0.0).sum(dim=1)
        return (sums / mask.sum(dim=1, keepdim=True)).cpu().numpy()

    def prefill(self, ids: np.ndarray) -> State:
        output = self.model(input_ids=self._tensor(ids), use_cache=True, logits_to_keep=1)
        return State(output.past_key_values, output.logits[:, -1])

    def _step(self, state: State, ids: torch.Tensor) -> State:
        output = self.model(input_ids=ids, past_key_values=state.cache, use_cache=True)
        return State(output.past_key_values, output.logits[:, -1])

    def decode(self, state: State, steps: int) -> None:
        for _ in range(steps):
            state = self._step(state, state.logits.argmax(dim=-1, keepdim=True))

    def feed(self, state: State, ids: np.ndarray) -> np.ndarray:
        for column in self._tensor(ids).split(1, dim=1):
            state = self._step(state, column)
        return state.logits.float().cpu().numpy()


if __name__ == "__main__":
    main(Torch)
