"""Makes what all engines are measured on: one random checkpoint, its graphs for the peers, the inputs.

    python scripts/peers/prepare.py --workdir DIR --size 17m --objective encoder --schemes f32 bf16

DIR/17m-encoder becomes a Hugging Face folder with `reference.json`, the inputs of the parity gate with what transformers
(eager, f32, one sequence at a time) computes for them, and the graphs of the same weights that OpenVINO and ONNX Runtime need
for these number formats. What is there already is kept. DIR/inputs.json holds the texts of mixed length with their ids.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from checkpoints import OBJECTIVES, build, sequences  # noqa: E402
from host import ROOT  # noqa: E402
from rows import SCHEMES, graphs  # noqa: E402

SEED = 20261201
TOKENIZER = ROOT / "models" / "tokenizer"
SAMPLE = ROOT / "tests" / "fixtures" / "valid_sample.jsonl"

GATE_LENGTHS = {"encoder": [16, 128, 300, 77, 513, 40], "decoder": [96, 96, 96, 96]}
GATE_PREFILL = 80
"""Of the decoder's gate sequences; the rest is fed token by token, across the border of the window."""

TEXTS = 256
MEDIAN, SIGMA, SHORTEST, LONGEST = 81, 0.8, 8, 512
CALIBRATION = 32
"""Texts that int8 is calibrated on."""


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def mixed() -> dict[str, Any]:
    """Texts cut from held-out prose, lengths log-normal in tokens, with their ids."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    prose = "\n".join(json.loads(line)["text"] for line in SAMPLE.read_text().splitlines())
    stream = tokenizer.encode(prose, add_special_tokens=False).ids
    rng = random.Random(SEED)
    texts = []
    for _ in range(TEXTS):
        length = round(min(max(rng.lognormvariate(math.log(MEDIAN), SIGMA), SHORTEST), LONGEST - 4))
        start = rng.randrange(len(stream) - length)
        texts.append(tokenizer.decode(stream[start : start + length - 2]))
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert max(map(len, ids)) <= LONGEST
    return {"texts": texts, "ids": ids}


# ---------------------------------------------------------------------------------------------------------------------
# What the gate compares with


@torch.no_grad()
def reference(model: Any, objective: str) -> dict[str, Any]:
    """Mean-pooled vectors of an encoder, last logits of a decoder."""
    inputs = sequences(GATE_LENGTHS[objective], SEED)
    vectors = []
    for ids in inputs:
        if objective == "encoder":
            vectors.append(model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0).tolist())
        else:
            vectors.append(model(input_ids=torch.tensor([ids])).logits[0, -1].tolist())
    return {"sequences": inputs, "prefill": GATE_PREFILL, "vectors": vectors}


# ---------------------------------------------------------------------------------------------------------------------
# Graphs


class Pooled(torch.nn.Module):
    """Trunk to mean-pooled vectors. transformers' own masks would be minus infinity: a row of padding with no real token
    in its window would become NaN, and spread."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.reach = trunk.config.sliding_window

    def hidden(self, ids: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        positions = torch.arange(ids.shape[1])
        near = ((positions[None, :] - positions[:, None]).abs() <= self.reach)[None, None]
        forbidden = -1e30
        masks = {
            "full_attention": None if keys is None else torch.where(keys, 0.0, forbidden),
            "sliding_attention": torch.where(near if keys is None else near & keys, 0.0, forbidden),
        }
        return self.trunk(input_ids=ids, attention_mask=masks).last_hidden_state


class Plain(Pooled):
    """Rows of one length."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.hidden(ids, None).mean(dim=1)


class Masked(Pooled):
    """Rows with padding."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(ids, mask.to(torch.bool)[:, None, None, :])
        weights = mask.to(hidden.dtype)[..., None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def modules(folder: Path) -> Iterator[tuple[str, torch.nn.Module, dict[str, torch.Tensor]]]:
    """The two modules of a checkpoint with their names and example inputs."""
    trunk = OBJECTIVES["encoder"].trunk.from_pretrained(folder, attn_implementation="sdpa").eval()
    ids = torch.tensor(sequences([200, 200], SEED))
    mask = torch.ones_like(ids)
    mask[1, 150:] = 0
    yield "plain", Plain(trunk).eval(), {"ids": ids}
    yield "masked", Masked(trunk).eval(), {"ids": ids, "mask": mask}


@torch.no_grad()
def export_openvino(folder: Path, to: Path, texts: list[list[int]]) -> None:
    import openvino as ov

    for name, module, example in modules(folder):
        model = ov.convert_model(module, example_input=example)
        for port in model.inputs:
            port.node.set_partial_shape(ov.PartialShape([-1, -1]))
        model.validate_nodes_and_infer_types()
        ov.save_model(model, to / f"{name}.xml", compress_to_fp16=False)


def quantise_openvino(folder: Path, to: Path, texts: list[list[int]]) -> None:
    """Quantised by NNCF on some of the texts."""
    import nncf
    import openvino as ov

    for path in sorted((folder / "openvino").glob("*.xml")):
        model = ov.Core().read_model(path)
        samples = [{"ids": torch.tensor([ids]).numpy()} for ids in texts[:CALIBRATION]]
        if len(model.inputs) > 1:
            samples = [sample | {"mask": torch.ones(sample["ids"].shape, dtype=torch.int64).numpy()} for sample in samples]
        data = nncf.Dataset(samples)
        small = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION)
        ov.save_model(small, to / path.name, compress_to_fp16=False)


@torch.no_grad()
def export_onnx(folder: Path, to: Path, texts: list[list[int]]) -> None:
    for name, module, example in modules(folder):
        axes = {key: {0: "rows", 1: "length"} for key in example}
        torch.onnx.export(
            module,
            tuple(example.values()),
            str(to / f"{name}.onnx"),
            input_names=list(example),
            output_names=["vectors"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def quantise_onnx(folder: Path, to: Path, texts: list[list[int]]) -> None:
    """With dynamically quantised activations."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in sorted((folder / "onnx").glob("*.onnx")):
        quantize_dynamic(path, to / path.name, weight_type=QuantType.QInt8, per_channel=True)


EXPORTS: dict[str, Callable[[Path, Path, list[list[int]]], None]] = {
    "openvino": export_openvino,
    "onnx": export_onnx,
    "openvino-int8": quantise_openvino,
    "onnx-int8": quantise_onnx,
}
"""By the folder that is made: from the checkpoint's folder, into an empty one, with texts to calibrate on."""


# ---------------------------------------------------------------------------------------------------------------------


def whole(folder: Path, make: Callable[[Path], None]) -> None:
    """Makes a folder that is there only when it is finished."""
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    unfinished.rename(folder)


def checkpoint(folder: Path, size: str, objective: str) -> None:
    model = build(size, objective, SEED)
    model.save_pretrained(folder)
    for file in TOKENIZER.glob("*.json"):
        shutil.copy(file, folder)
    (folder / "reference.json").write_text(json.dumps(reference(model, objective)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--objective", choices=OBJECTIVES, required=True)
    parser.add_argument("--schemes", nargs="*", default=SCHEMES)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.workdir.mkdir(parents=True, exist_ok=True)
    inputs = mixed()
    (options.workdir / "inputs.json").write_text(json.dumps(inputs))
    folder = options.workdir / f"{options.size}-{options.objective}"
    whole(folder, lambda to: checkpoint(to, options.size, options.objective))
    for name in graphs(options.size, options.schemes) if options.objective == "encoder" else ():
        whole(folder / name, lambda to, export=EXPORTS[name]: export(folder, to, inputs["ids"]))


if __name__ == "__main__":
    main()
