"""Writes fixtures of adapters (LoRA): folders as PEFT saves them, and what the adapted models compute.

    python scripts/make_adapter_fixtures.py

Needs the pins of `scripts/requirements-peft.txt`. The bases are models of `models/`. An adapter goes to `models/tiny-adapters/<case>`,
what the model with it computes (not merged, f32, eager attention, one sequence at a time) to `tests/fixtures/adapters.safetensors`
as `<case>.<sequence>`, and what belongs together to `tests/fixtures/adapters.json`: the base, transformers' class, the adapters that
are active, and how far PEFT's own merged model is from the unmerged one (max|Δ| / max|reference|). It is far where PEFT merges into
a matrix that is two: `merged` is then no reference.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import save_file

from make_fixtures import FIXTURES, MODELS
from reference import provenance

FOLDER = MODELS / "tiny-adapters"
SEED = 20261201
EAGER = {"attn_implementation": "eager", "dtype": torch.float32}
SEQUENCES = (19, 7)


@dataclass
class Case:
    """An adapter, or several, on a base."""

    name: str
    base: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `LoraConfig`."""
    loading: dict[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained`."""
    together: tuple[str, ...] = ()
    """Adapters of other cases that are active at once, instead of one of its own."""
    merged: bool = True
    """Whether PEFT's merged model computes the same."""


ENCODER, DECODER = "tiny-encoder", "tiny-decoder"
MASKED, CAUSAL = "ModernBertForMaskedLM", "ModernBertDecoderForCausalLM"
SEQUENCE, DECODER_SEQUENCE = "ModernBertForSequenceClassification", "ModernBertDecoderForSequenceClassification"
CASES = (
    Case("list", ENCODER, MASKED, {"r": 3, "lora_alpha": 12, "target_modules": ["Wqkv", "attn.Wo"]}),
    Case(
        "patterns",
        ENCODER,
        MASKED,
        {
            "r": 4,
            "lora_alpha": 6,
            "use_rslora": True,
            "target_modules": "all-linear",
            "rank_pattern": {"attn.Wo": 2, r"layers\.[12]\.mlp\.W.": 3, "mlp.Wo": 1},
            "alpha_pattern": {r"(0|3)\.attn\.Wqkv": 3, "head.dense": 1.5},
        },
    ),
    Case("regex", ENCODER, MASKED, {"r": 2, "lora_alpha": 8, "target_modules": r".*layers\.[13]\.(attn\.Wqkv|mlp\.W[io])"}),
    Case(
        "layers",
        ENCODER,
        MASKED,
        {
            "r": 2,
            "lora_alpha": 8,
            "target_modules": ["Wo"],
            "exclude_modules": ["layers.2.mlp.Wo"],
            "layers_to_transform": [0, 2],
            "layers_pattern": "layers",
            "fan_in_fan_out": True,
        },
    ),
    Case("together", ENCODER, MASKED, together=("list", "regex")),
    Case("tied-output", ENCODER, MASKED, {"r": 2, "lora_alpha": 4, "target_modules": ["decoder"]}, merged=False),
    Case("tied-embedding", ENCODER, MASKED, {"r": 2, "lora_alpha": 4, "target_modules": ["tok_embeddings"]}, merged=False),
    Case(
        "tied-output-saved",
        ENCODER,
        MASKED,
        {"r": 2, "target_modules": ["attn.Wo"], "modules_to_save": ["decoder"]},
    ),
    Case(
        "tied-embedding-saved",
        ENCODER,
        MASKED,
        {"r": 2, "target_modules": ["attn.Wo"], "modules_to_save": ["tok_embeddings"]},
    ),
    Case("biases-all", "tiny-encoder-biases", MASKED, {"r": 2, "lora_alpha": 8, "target_modules": ["Wqkv"], "bias": "all"}),
    Case("biases-lora", "tiny-encoder-biases", MASKED, {"r": 2, "target_modules": ["Wi", "head.dense"], "bias": "lora_only"}),
    Case(
        "classifier",
        ENCODER,
        SEQUENCE,
        {"r": 2, "lora_alpha": 8, "task_type": "SEQ_CLS", "target_modules": ["Wqkv", "head.dense"]},
        {"num_labels": 3},
    ),
    Case(
        "one-label",
        ENCODER,
        SEQUENCE,
        {"r": 2, "lora_alpha": 8, "task_type": "SEQ_CLS", "target_modules": ["Wqkv"]},
        {"num_labels": 1},
    ),
    Case(
        "answer",
        "tiny-encoder-answer",
        "ModernBertForQuestionAnswering",
        {"r": 2, "lora_alpha": 8, "task_type": "QUESTION_ANS", "target_modules": "all-linear"},
    ),
    Case("bare", "tiny-text-chain-mean", "ModernBertModel", {"r": 2, "lora_alpha": 8, "target_modules": ["Wqkv", "Wi"]}),
    Case("separate", DECODER, CAUSAL, {"r": 3, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "lm_head.dense"]}),
    Case(
        "decoder-classifier",
        DECODER,
        DECODER_SEQUENCE,
        {
            "r": 2,
            "lora_alpha": 8,
            "task_type": "SEQ_CLS",
            "target_modules": ["k_proj", "mlp.Wo"],
            "modules_to_save": ["classifier", "head"],
        },
        {"num_labels": 3},
    ),
    Case(
        "decoder-headless",
        DECODER,
        DECODER_SEQUENCE,
        {"r": 2, "task_type": "SEQ_CLS", "target_modules": ["q_proj"]},
        {"num_labels": 3},
    ),
)


def load(case: Case) -> Any:
    return getattr(transformers, case.kind).from_pretrained(MODELS / case.base, **EAGER, **case.loading).eval()


def train(model: Any, generator: torch.Generator) -> None:
    """Numbers such as training would leave in what PEFT made trainable."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.empty(parameter.shape).normal_(0.0, 1.0, generator=generator)
            if "lora_embedding_A" in name:
                parameter.copy_(noise * 0.3)
            elif "lora_" in name:
                parameter.copy_(noise * 0.7 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(noise * 0.1)


def computed(model: Any, sequences: list[list[int]]) -> list[torch.Tensor]:
    with torch.no_grad():
        outputs = [model(input_ids=torch.tensor([ids])) for ids in sequences]
    if "start_logits" in outputs[0]:
        return [torch.stack([output.start_logits[0], output.end_logits[0]], 1).contiguous() for output in outputs]
    return [(output.logits if "logits" in output else output.last_hidden_state)[0].clone() for output in outputs]


def distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    largest = max(float(tensor.abs().max()) for tensor in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


def adapted(case: Case, generator: torch.Generator) -> Any:
    """The model of a case, its adapter saved; as PEFT loads it from there."""
    if not case.together:
        model = load(case)
        untrained = copy.deepcopy(model)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**case.settings))
        train(wrapped, generator)
        wrapped.peft_config["default"].base_model_name_or_path = f"models/{case.base}"
        folder = FOLDER / case.name
        wrapped.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        # PEFT saves a set in any order.
        config = json.loads((folder / "adapter_config.json").read_text())
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        return peft.PeftModel.from_pretrained(untrained, folder).eval()
    model = peft.PeftModel.from_pretrained(load(case), FOLDER / case.together[0], adapter_name=case.together[0])
    for name in case.together[1:]:
        model.load_adapter(FOLDER / name, adapter_name=name)
    model.base_model.set_adapter(list(case.together))
    return model.eval()


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    shutil.rmtree(FOLDER, ignore_errors=True)
    sequences = [torch.randint(5, 120, (length,), generator=generator).tolist() for length in SEQUENCES]
    tensors = {f"ids.{index}": torch.tensor(ids) for index, ids in enumerate(sequences)}
    cases = []
    for case in CASES:
        # Layers that transformers makes at random are the same in every run.
        torch.manual_seed(SEED)
        model = adapted(case, generator)
        unmerged = computed(model, sequences)
        plain = computed(load(case), sequences) if not case.loading else None
        assert plain is None or distance(plain, unmerged) > 1e-2, f"{case.name}: the adapter does nothing"
        merged = distance(computed(copy.deepcopy(model).merge_and_unload(), sequences), unmerged)
        assert (merged < 5e-5) == case.merged, f"{case.name}: merged is off by {merged}"
        tensors |= {f"{case.name}.{index}": tensor for index, tensor in enumerate(unmerged)}
        cases.append(
            {
                "name": case.name,
                "base": case.base,
                "class": case.kind,
                "adapters": list(case.together) or [case.name],
                "merged": merged,
            }
        )
        print(f"{case.name}: merged differs by {merged:.1e}")
    save_file(tensors, FIXTURES / "adapters.safetensors")
    listing = {"provenance": provenance(peft=peft.__version__, seed=SEED), "cases": cases}
    (FIXTURES / "adapters.json").write_text(json.dumps(listing, indent=1) + "\n")


if __name__ == "__main__":
    main()
