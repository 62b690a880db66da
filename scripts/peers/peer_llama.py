"""llama.cpp as a peer, on a model of its own (prepare_llama.py): it has no ModernBERT decoders."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp as api
import numpy as np

from serve import Model, Unsupported, main

MOST = 256
"""Tokens of a sequence at most."""


class State:
    """Where all sequences end, and their next tokens."""

    def __init__(self, length: int, following: np.ndarray) -> None:
        self.length = length
        self.following = following


class Llama(Model):
    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        self.threads = threads
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(str(folder / f"{dtype}.gguf").encode(), api.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {dtype}.gguf")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.weight_bytes = api.llama_model_size(self.model)
        self.context, self.sequences = None, 0
        self.batch = api.llama_batch_init(512, 0, 1)
        features = api.llama_print_system_info().decode().strip()
        parameters = api.llama_model_n_params(self.model)
        self.name = f"llama.cpp by llama-cpp-python {api.__version__}, {dtype}, {parameters / 1e6:.1f} M parameters, {features}"

    def prefill(self, ids: np.ndarray) -> State:
        rows, length = ids.shape
        if rows != self.sequences:
            if self.context:
                api.llama_free(self.context)
            settings = api.llama_context_default_params()
            settings.n_ctx, settings.n_seq_max = rows * MOST, rows
            settings.n_threads = settings.n_threads_batch = self.threads
            self.context, self.sequences = api.llama_init_from_model(self.model, settings), rows
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        return State(length, self._feed(ids % self.vocabulary, 0))

    def decode(self, state: State, steps: int) -> None:
        if state.length + steps > MOST:
            raise Unsupported(f"more than {MOST} tokens")
        for _ in range(steps):
            state.following = self._feed(state.following[:, None], state.length)
            state.length += 1

    def _feed(self, ids: np.ndarray, start: int) -> np.ndarray:
        """Appends `[sequences, tokens]` at position `start` of each sequence; returns the most likely next tokens."""
        batch, length = self.batch, ids.shape[1]
        batch.n_tokens = ids.size
        for place, id in enumerate(ids.ravel().tolist()):
            row, column = divmod(place, length)
            batch.token[place], batch.pos[place] = id, start + column
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = column == length - 1
        if status := api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        return np.array([self._most_likely((row + 1) * length - 1) for row in range(len(ids))])

    def _most_likely(self, place: int) -> int:
        logits = ctypes.cast(api.llama_get_logits_ith(self.context, place), ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())


if __name__ == "__main__":
    main(Llama)
