"""Makes the model that llama.cpp is measured on: the dimensions of SmolLM2-135M with random weights, in its number formats.

    python scripts/peers/prepare_llama.py FOLDER

FOLDER becomes a folder of `FORMAT.gguf`. In the formats of eight and four bits all matrices have them, the tied output matrix
too, as in ours; the norms are f32.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

SEED = 20261201
LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 30, 576, 1536, 9, 3, 49152
POSITIONS, THETA, EPSILON, SCALE = 8192, 100_000.0, 1e-5, 0.02
FORMATS = {
    "f32": GGMLQuantizationType.F32,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}


def tensors() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0.0, SCALE, (rows, columns)).astype(np.float32)

    norm = np.ones(HIDDEN, dtype=np.float32)
    keys = HIDDEN // HEADS * KV_HEADS
    yield "token_embd.weight", matrix(VOCABULARY, HIDDEN)
    yield "output_norm.weight", norm
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (keys, HIDDEN),
            "attn_v": (keys, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (INTERMEDIATE, HIDDEN),
            "ffn_up": (INTERMEDIATE, HIDDEN),
            "ffn_down": (HIDDEN, INTERMEDIATE),
        }
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", norm
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}.weight", matrix(*shape)


def write(path: Path, format: GGMLQuantizationType) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    for name, values in tensors():
        type = format if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(values, type), raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    folder = Path(sys.argv[1])
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, format in FORMATS.items():
        write(unfinished / f"{name}.gguf", format)
    unfinished.rename(folder)


if __name__ == "__main__":
    main()
