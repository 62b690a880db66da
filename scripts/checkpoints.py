"""Random checkpoints at the exact dimensions of the published sizes, shared by parity.py and peers/."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.initialization import no_init_weights

from reference import randomise, record, trunk
from suite import SIZES


@dataclass(frozen=True)
class Objective:
    """transformers' classes of one half of the suite."""

    config: Any
    language_model: Any
    trunk: Any


OBJECTIVES = {
    "encoder": Objective(transformers.ModernBertConfig, transformers.ModernBertForMaskedLM, transformers.ModernBertModel),
    "decoder": Objective(
        transformers.ModernBertDecoderConfig, transformers.ModernBertDecoderForCausalLM, transformers.ModernBertDecoderModel
    ),
}


def build(name: str, objective: str, seed: int, fill: Callable[[Any, int], None] = randomise) -> Any:
    """The published configuration of one size with seeded random weights."""
    size = SIZES[name]
    theta = {"rope_type": "default", "rope_theta": 160000.0}
    config = OBJECTIVES[objective].config(
        vocab_size=50368,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=7999,
        local_attention=128,
        rope_parameters={"full_attention": dict(theta), "sliding_attention": dict(theta)},
        attn_implementation="eager",
    )
    with no_init_weights():  # all weights are drawn below
        model = OBJECTIVES[objective].language_model(config).eval()
    model.tie_weights()
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert parameters == size.parameters, f"{name}: {parameters} trunk parameters, published {size.parameters}"
    fill(model, seed)
    return model


def sequences(lengths: list[int], seed: int) -> list[list[int]]:
    """Random ids behind [CLS]."""
    rng = random.Random(seed)
    return [[50281] + [rng.randrange(50280) for _ in range(length - 1)] for length in lengths]


OUTLIERS = 2e4
"""What the residual stream of trained checkpoints reaches in a few channels."""


@torch.no_grad()
def amplify(model: Any, ids: list[int], channels: int = 4) -> None:
    """Scales what the layers add to the largest channels of the residual, until it reaches OUTLIERS on `ids`."""

    def residual() -> torch.Tensor:
        return torch.stack([state for name, state in record(model, ids).items() if name.startswith("hidden.")]).abs().amax(dim=(0, 1))

    largest = residual().topk(channels).indices
    # What a layer adds depends on what came before: the factor is found step by step.
    while not 0.9 * OUTLIERS <= (peak := residual()[largest].max().item()) <= 1.1 * OUTLIERS:
        for layer in trunk(model).layers:
            layer.attn.Wo.weight[largest] *= OUTLIERS / peak
            layer.mlp.Wo.weight[largest] *= OUTLIERS / peak
