"""Writes the model-level fixtures: tiny random checkpoints and what transformers computes with them.

    python scripts/make_fixtures.py [--only NAME …] [--check-sensitivity]

Each variant becomes `models/<name>/` (config.json, model.safetensors) and `tests/fixtures/<name>.safetensors`; the
layout is described in tests/fixtures/README.md. The reference is transformers, eager attention, f32, one sequence at a
time, on the model *as read back from the folder*. `--check-sensitivity` breaks the reference in all the ways that the
numerical contract names and fails unless each fault misses the bound of 1e-4 at least tenfold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from reference import FAULTS, States, provenance, randomise, record, worst

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
FIXTURES = ROOT / "tests" / "fixtures"
SEED = 20261123
BOUND = 1e-4

ENCODER, DECODER = "encoder", "decoder"
CONFIGS = {ENCODER: transformers.ModernBertConfig, DECODER: transformers.ModernBertDecoderConfig}
CLASSES = {
    (ENCODER, "lm"): transformers.ModernBertForMaskedLM,
    (DECODER, "lm"): transformers.ModernBertDecoderForCausalLM,
    (ENCODER, "sequence"): transformers.ModernBertForSequenceClassification,
    (DECODER, "sequence"): transformers.ModernBertDecoderForSequenceClassification,
    (ENCODER, "token"): transformers.ModernBertForTokenClassification,
    (ENCODER, "answer"): transformers.ModernBertForQuestionAnswering,
}

# Local attention 16 means 8 keys on each side in an encoder, 8 with itself in a decoder: the lengths cross both.
FULL_LENGTHS = (1, 2, 7, 8, 9, 16, 17, 18, 67)
SHORT_LENGTHS = (1, 9, 33)

GEOMETRY = {
    # Two heads of 32; global layers 0 and 3.
    "tiny": {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2},
    "mini": {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2},
    "micro": {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    # No dimension is a multiple of a vector.
    "uneven": {"vocab_size": 101, "hidden_size": 72, "intermediate_size": 45, "num_hidden_layers": 2, "num_attention_heads": 3},
    "narrow": {"vocab_size": 97, "hidden_size": 40, "intermediate_size": 33, "num_hidden_layers": 2, "num_attention_heads": 2},
}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


def rope(full: float, sliding: float) -> dict[str, dict[str, Any]]:
    """`rope_parameters` of the newer dialect."""
    return {
        "full_attention": {"rope_type": "default", "rope_theta": full},
        "sliding_attention": {"rope_type": "default", "rope_theta": sliding},
    }


@dataclass(frozen=True)
class Variant:
    """One checkpoint: which class, what its config says, and what is rewritten in config.json afterwards."""

    name: str
    kind: str
    task: str = "lm"
    geometry: str = "micro"
    lengths: tuple[int, ...] = SHORT_LENGTHS
    config: dict[str, Any] = field(default_factory=dict)
    older: bool = False
    """config.json is written in the older dialect, with exactly the keys of `config` beside the common ones."""
    drop: tuple[str, ...] = ()
    """Keys removed from config.json, to exercise defaults."""
    add: dict[str, Any] = field(default_factory=dict)
    """Keys added to config.json."""
    salt: int = 0
    """Another draw of weights, where the first happened to hide a fault."""


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


ALL_BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True, "decoder_bias": True, "norm_eps": 1e-3}
ACTIVATIONS = {  # hidden_activation → classifier_activation, so that neither is taken for the other
    "gelu": "silu",
    "gelu_new": "relu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "gelu_pytorch_tanh",
    "relu": "gelu_new",
}


def variants() -> list[Variant]:
    """Every committed variant."""
    ettin = {"rope_parameters": rope(160000.0, 160000.0)}
    both = [
        variant
        for kind in (ENCODER, DECODER)
        for variant in (
            Variant(f"tiny-{kind}", kind, geometry="tiny", lengths=FULL_LENGTHS, config=ettin),
            Variant(f"tiny-{kind}-biases", kind, config=ettin | ALL_BIASES),
            Variant(f"tiny-{kind}-no-decoder-bias", kind, config=ettin | {"decoder_bias": False}),
            Variant(f"tiny-{kind}-untied", kind, config=ettin | {"tie_word_embeddings": False}),
            # No thetas, no window, no layer pattern: the documented defaults (160000, 10000, 128, every third).
            Variant(
                f"tiny-{kind}-defaults",
                kind,
                geometry="mini",
                lengths=(9, 150),
                older=True,
                drop=("local_attention", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
            ),
            # `sliding_window` (the half window, odd here) without `local_attention`; an irregular pattern of layers.
            Variant(
                f"tiny-{kind}-sliding-window",
                kind,
                geometry="mini",
                config={
                    "rope_parameters": rope(40000.0, 20000.0),
                    "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
                },
                drop=("local_attention",),
                add={"sliding_window": 5},
            ),
        )
    ]
    older = [
        Variant(
            "tiny-encoder-older",
            ENCODER,
            geometry="mini",
            lengths=FULL_LENGTHS,
            older=True,
            config={"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0},
        ),
        Variant(
            "tiny-decoder-older",
            DECODER,
            geometry="mini",
            lengths=FULL_LENGTHS,
            older=True,
            config={"global_attn_every_n_layers": 2, "global_rope_theta": 80000.0, "local_rope_theta": 160000.0},
        ),
    ]
    activations = [
        Variant(
            f"tiny-activation-{hidden}",
            ENCODER,
            config=ettin | {"hidden_activation": hidden, "classifier_activation": head},
        )
        for hidden, head in ACTIVATIONS.items()
    ]
    three, two = labels("negative", "neutral", "positive"), labels("LABEL_0", "LABEL_1")
    heads = [
        Variant("tiny-encoder-sequence-cls", ENCODER, "sequence", config=ettin | three | {"classifier_pooling": "cls"}),
        Variant("tiny-encoder-sequence-mean", ENCODER, "sequence", config=ettin | three | {"classifier_pooling": "mean"}),
        Variant("tiny-decoder-sequence", DECODER, "sequence", config=ettin | three),
        Variant("tiny-decoder-sequence-bias", DECODER, "sequence", config=ettin | three | {"classifier_bias": True}),
        Variant("tiny-decoder-sequence-one", DECODER, "sequence", config=ettin | labels("LABEL_0")),
        Variant(
            "tiny-decoder-sequence-multi",
            DECODER,
            "sequence",
            config=ettin | three | {"problem_type": "multi_label_classification"},
        ),
        Variant("tiny-decoder-sequence-regression", DECODER, "sequence", config=ettin | two | {"problem_type": "regression"}),
        Variant("tiny-encoder-token", ENCODER, "token", config=ettin | labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
        Variant("tiny-encoder-answer", ENCODER, "answer", config=ettin | two),
    ]
    dimensions = [
        Variant("tiny-encoder-uneven", ENCODER, geometry="uneven", config=ettin),
        Variant("tiny-decoder-narrow", DECODER, geometry="narrow", config=ettin | {"attention_bias": True}),
    ]
    return both + older + activations + heads + dimensions


# ---------------------------------------------------------------------------------------------------------------------


def older_config(variant: Variant, model: transformers.PreTrainedModel) -> dict[str, Any]:
    """config.json as the Hub's Ettin repositories have it (the keys that transformers 4 wrote)."""
    written = {
        "architectures": [type(model).__name__],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "gradient_checkpointing": False,
        "hidden_activation": "gelu",
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "local_attention": 16,
        "max_position_embeddings": 256,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": model.config.model_type,
        "norm_bias": False,
        "norm_eps": 1e-05,
        "position_embedding_type": "sans_pos",
        "repad_logits_with_grad": False,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.48.0",
    }
    return written | GEOMETRY[variant.geometry] | SPECIAL_IDS | variant.config


def write_model(variant: Variant, seed: int) -> transformers.PreTrainedModel:
    """Makes the checkpoint, writes its folder and returns the model as transformers reads it back."""
    folder = MODELS / variant.name
    shutil.rmtree(folder, ignore_errors=True)
    common = {"max_position_embeddings": 256, "local_attention": 16, "attn_implementation": "eager"}
    config = CONFIGS[variant.kind](**(common | GEOMETRY[variant.geometry] | SPECIAL_IDS | variant.config))
    model = CLASSES[variant.kind, variant.task](config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    path = folder / "config.json"
    written = older_config(variant, model) if variant.older else json.loads(path.read_text())
    written = {key: value for key, value in written.items() if key not in variant.drop} | variant.add
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    return CLASSES[variant.kind, variant.task].from_pretrained(folder, attn_implementation="eager").eval()


def sequences(variant: Variant, seed: int) -> list[list[int]]:
    """Random ids behind a [CLS], special ids excluded."""
    rng = random.Random(seed)
    vocabulary = GEOMETRY[variant.geometry]["vocab_size"]
    return [[2] + [rng.randrange(5, vocabulary) for _ in range(length - 1)] for length in variant.lengths]


def write_states(variant: Variant, model: transformers.PreTrainedModel, seed: int) -> None:
    tensors: States = {}
    for i, ids in enumerate(sequences(variant, seed)):
        tensors[f"ids.{i}"] = torch.tensor(ids, dtype=torch.uint32)
        for name, state in record(model, ids).items():
            prefix, _, layer = name.partition(".")
            tensors[f"{prefix}.{i}.{layer}" if layer else f"{prefix}.{i}"] = state.contiguous()
    # One key only: safetensors writes several in random order, and fixtures are to be reproducible to the byte.
    save_file(tensors, FIXTURES / f"{variant.name}.safetensors", metadata={"sequences": str(len(variant.lengths))})


# ---------------------------------------------------------------------------------------------------------------------


def applicable(fault: str, model: transformers.PreTrainedModel) -> bool:
    config = model.config
    if fault == "tanh GELU in the MLPs":
        return config.hidden_activation == "gelu"
    if fault == "tanh GELU in the head":
        return config.classifier_activation == "gelu"
    return True


@contextlib.contextmanager
def forgotten(parameter: torch.nn.Parameter) -> Iterator[None]:
    """One bias is left out."""
    saved = parameter.data.clone()
    try:
        parameter.data.zero_()
        yield
    finally:
        parameter.data.copy_(saved)


def check_sensitivity(variant: Variant, model: transformers.PreTrainedModel, seed: int) -> bool:
    """Prints what the faults do to this variant; true when each is seen, on some sequence, ten times over the bound."""
    inputs = sequences(variant, seed)
    healthy = [record(model, ids) for ids in inputs]

    def error() -> float:
        return max(worst(record(model, ids), states)[0] for ids, states in zip(inputs, healthy, strict=True))

    errors = {}
    for name, fault in FAULTS.items():
        if applicable(name, model):
            with fault(model):
                errors[name] = error()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            with forgotten(parameter):
                errors[f"no {name}"] = error()
    assert error() == 0, "a fault was not mended"
    weakest = min(errors, key=errors.__getitem__)
    passed = errors[weakest] > 10 * BOUND
    verdict = "ok" if passed else "TOO WEAK"
    print(f"{variant.name:34} {len(errors):3} faults, weakest: {weakest:26} {errors[weakest]:.1e} {verdict}")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="write just these variants")
    parser.add_argument("--check-sensitivity", action="store_true", help="fail unless every fault shows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    FIXTURES.mkdir(parents=True, exist_ok=True)

    passed = True
    for variant in variants():
        if options.only and variant.name not in options.only:
            continue
        seed = SEED ^ zlib.crc32(f"{variant.name}{variant.salt}".encode())  # of the name, so that a new variant changes no other
        model = write_model(variant, seed)
        write_states(variant, model, seed)
        if options.check_sensitivity:
            passed &= check_sensitivity(variant, model, seed)
    if not options.only:
        notes = provenance(seed=SEED, attention="eager", dtype="f32", command="python scripts/make_fixtures.py --check-sensitivity")
        (FIXTURES / "provenance.json").write_text(json.dumps(notes, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
