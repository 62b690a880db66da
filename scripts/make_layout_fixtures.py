"""Writes one tiny model in every file form that the loader must read: `models/tiny-layouts/<layout>/`.

    python scripts/make_layout_fixtures.py

`tests/fixtures/layouts.json` names, for each layout, the set of expected outputs in `tests/fixtures/layouts.safetensors`; the
schema is in tests/fixtures/README.md. Layouts that transformers can read itself are read back and compared.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from make_fixtures import CLASSES, CONFIGS, DECODER, ENCODER, FIXTURES, GEOMETRY, MODELS, SPECIAL_IDS, rope
from reference import States, provenance, randomise, record, worst

LAYOUTS = MODELS / "tiny-layouts"
SEED = 20261124
EMBEDDING, OUTPUT = "model.embeddings.tok_embeddings.weight", "decoder.weight"
State = dict[str, torch.Tensor]


def sequences() -> list[list[int]]:
    rng = random.Random(SEED)
    return [[2] + [rng.randrange(5, 128) for _ in range(length - 1)] for length in (1, 33)]


def build(kind: str, **extra: Any) -> Any:
    config = CONFIGS[kind](
        **GEOMETRY["micro"],
        **SPECIAL_IDS,
        local_attention=16,
        max_position_embeddings=256,
        rope_parameters=rope(160000.0, 160000.0),
        attn_implementation="eager",
        **extra,
    )
    model = CLASSES[kind, "lm"](config).eval()
    randomise(model, SEED)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Writers: each puts weights into a folder that already has its config.json


def as_safetensors(state: State, folder: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})


def as_bin(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def as_old_bin(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def sharded(save: Callable[[State, Path], None], stem: str, suffix: str) -> Callable[[State, Path], None]:
    """Two shards and their index; the cut is in the middle of the sorted names."""

    def write(state: State, folder: Path) -> None:
        names = sorted(state)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        weight_map = {}
        for number, half in enumerate(halves, start=1):
            file = f"{stem}-{number:05}-of-{len(halves):05}.{suffix}"
            save({name: state[name].contiguous() for name in half}, folder / file)
            weight_map |= dict.fromkeys(half, file)
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    return write


as_sharded_safetensors = sharded(lambda state, path: save_file(state, path, {"format": "pt"}), "model", "safetensors")
as_sharded_bin = sharded(lambda state, path: torch.save(state, path), "pytorch_model", "bin")


# ---------------------------------------------------------------------------------------------------------------------
# Changes to the names and tensors


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def both(state: State) -> State:
    """The tied matrix under both names, in safetensors as two copies."""
    return state | {OUTPUT: state[EMBEDDING].clone()}


def sharing(state: State) -> State:
    """The tied matrix under both names in one storage, as transformers' .bin files have it."""
    return state | {OUTPUT: state[EMBEDDING]}


def views(state: State) -> State:
    """Tensors that are transposed or begin inside a larger storage."""
    changed = dict(state)
    for name, tensor in state.items():
        if name.endswith("attn.Wo.weight"):
            changed[name] = tensor.t().contiguous().t()
        if name.endswith("mlp.Wi.weight"):
            changed[name] = torch.cat([torch.zeros(3, tensor.shape[1]), tensor])[3:]
    return changed


def no_prefix(state: State) -> State:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def only_output(state: State) -> State:
    return without(EMBEDDING)(both(state))


def unequal(state: State) -> State:
    """Both names, different values: untied, whatever the config says."""
    other = torch.empty_like(state[EMBEDDING]).normal_(0.0, 0.5, generator=torch.Generator().manual_seed(SEED))
    return state | {OUTPUT: other}


def separate(state: State) -> State:
    """q, k and v apart in an encoder, which usually has them fused."""
    changed = {}
    for name, tensor in state.items():
        if "Wqkv" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                changed[name.replace("Wqkv", f"{part}_proj")] = piece.clone()
        else:
            changed[name] = tensor
    return changed


def fused(state: State) -> State:
    """q, k and v fused in a decoder, which usually has them apart."""
    changed = {}
    for name, tensor in state.items():
        if "q_proj" in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            changed[name.replace("q_proj", "Wqkv")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            changed[name] = tensor
    return changed


def cast(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda state: {name: tensor.to(dtype) for name, tensor in state.items()}


def same(state: State) -> State:
    return state


# (layout, kind, change, writer, expected set; None: the loader must refuse it by name)
TABLE: list[tuple[str, str, Callable[[State], State], Callable[[State, Path], None], str | None]] = [
    ("safetensors", ENCODER, same, as_safetensors, "f32"),
    ("safetensors-sharded", ENCODER, same, as_sharded_safetensors, "f32"),
    ("safetensors-f16", ENCODER, cast(torch.float16), as_safetensors, "f16"),
    ("safetensors-bf16", ENCODER, cast(torch.bfloat16), as_safetensors, "bf16"),
    ("bin", ENCODER, sharing, as_bin, "f32"),
    ("bin-sharded", ENCODER, same, as_sharded_bin, "f32"),
    ("bin-f16", ENCODER, cast(torch.float16), as_bin, "f16"),
    ("bin-bf16", ENCODER, cast(torch.bfloat16), as_bin, "bf16"),
    ("bin-views", ENCODER, views, as_bin, "f32"),
    ("bin-before-zip", ENCODER, same, as_old_bin, None),
    ("no-prefix", ENCODER, no_prefix, as_safetensors, "f32"),
    ("only-decoder-weight", ENCODER, only_output, as_safetensors, "f32"),
    ("both-tied", ENCODER, both, as_safetensors, "f32"),
    ("both-unequal", ENCODER, unequal, as_safetensors, "unequal"),
    ("encoder-separate-qkv", ENCODER, separate, as_safetensors, "f32"),
    ("decoder", DECODER, same, as_safetensors, "decoder"),
    ("decoder-bin", DECODER, sharing, as_bin, "decoder"),
    ("decoder-fused-qkv", DECODER, fused, as_safetensors, "decoder"),
    ("decoder-no-prefix", DECODER, no_prefix, as_safetensors, "decoder"),
]

READABLE = {"safetensors", "safetensors-sharded", "safetensors-f16", "safetensors-bf16", "bin", "bin-sharded", "bin-f16"}
READABLE |= {"bin-bf16", "bin-views", "both-tied", "decoder", "decoder-bin"}


def expected_models(models: dict[str, Any], states: dict[str, State]) -> dict[str, Any]:
    """For each expected set the model, f32 arithmetic on the stored values."""
    rounded = {}
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        rounded[name] = build(ENCODER)
        rounded[name].load_state_dict(cast(torch.float32)(cast(dtype)(states[ENCODER])), strict=False)
    untied = build(ENCODER, tie_word_embeddings=False)
    untied.load_state_dict(unequal(states[ENCODER]))
    return {"f32": models[ENCODER], "decoder": models[DECODER], "unequal": untied, **rounded}


def states_of(model: Any) -> States:
    return {f"{name}.{i}": state for i, ids in enumerate(sequences()) for name, state in record(model, ids).items()}


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shutil.rmtree(LAYOUTS, ignore_errors=True)
    models = {kind: build(kind) for kind in (ENCODER, DECODER)}
    states = {kind: without(OUTPUT)(dict(model.state_dict())) for kind, model in models.items()}
    expected = {name: states_of(model) for name, model in expected_models(models, states).items()}

    for layout, kind, change, write, wanted in TABLE:
        folder = LAYOUTS / layout
        with tempfile.TemporaryDirectory() as temporary:
            models[kind].save_pretrained(temporary)
            folder.mkdir(parents=True)
            shutil.copy(Path(temporary) / "config.json", folder)
        write(change(states[kind]), folder)
        if layout in READABLE:
            loaded = CLASSES[kind, "lm"].from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
            error, place = worst(states_of(loaded), expected[wanted])
            assert error < 1e-5, f"{layout}: {error} at {place}"  # alignment alone moves the last bits

    tensors = {f"ids.{i}": torch.tensor(ids, dtype=torch.uint32) for i, ids in enumerate(sequences())}
    for name, recorded in expected.items():
        for key, state in recorded.items():
            if key.startswith(("final", "logits")):
                tensors[f"{name}.{key}"] = state.contiguous()
    save_file(tensors, FIXTURES / "layouts.safetensors", {"sequences": str(len(sequences()))})
    listing = {
        "provenance": provenance(seed=SEED, attention="eager", dtype="f32", command="python scripts/make_layout_fixtures.py"),
        "layouts": [{"layout": layout, "expected": wanted} for layout, _, _, _, wanted in TABLE],
    }
    (FIXTURES / "layouts.json").write_text(json.dumps(listing, indent=1) + "\n")


if __name__ == "__main__":
    main()
