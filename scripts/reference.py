"""The reference side of every comparison: random models, recorded states, injected faults.

Shared by `make_fixtures.py`, `make_pipeline_fixtures.py` and `parity.py`, so that "hidden state of layer l" and
"dropped norm" mean one thing everywhere.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator

import safetensors
import tokenizers
import torch
import transformers
from torch import nn
from transformers.models.modernbert import modeling_modernbert as encoder_module
from transformers.models.modernbert_decoder import modeling_modernbert_decoder as decoder_module

States = dict[str, torch.Tensor]


def provenance(**extra: object) -> dict[str, object]:
    """What a fixture was made with: enough to make it again."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **extra,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Random weights


LEAN = 2.0
"""How far below zero the mean pre-activation of a leaning GELU lies: there |tanh form / exact form - 1| is about 1e-2."""


GAINS = {"head.dense.weight": 0.75, "mlp.Wo.weight": 10.0}
"""Matrices with another spread: around a lean only a narrow spread stays there; what leaves a leaning GELU is small."""


def randomise(model: nn.Module, seed: int) -> None:
    """Fills every parameter with seeded values that make faults visible.

    The published initialisation (0.02, norms at one, biases at zero) leaves attention nearly uniform and norms nearly
    idle, so a wrong window or a forgotten bias disappears in rounding. Here matrices get a standard deviation of
    1.5/sqrt(fan_in), so that scores and gates have the same spread at every size, norms are uniform in 0.5..1.5 and no
    bias is zero.

    Exact and tanh GELU differ by at most 5e-4, so the pre-activations must lie where that is much of the value: embedding
    rows share a common vector, as trained ones do, and `_lean` turns it into pre-activations around -2.
    """
    generator = torch.Generator().manual_seed(seed)
    # The deeper, the smaller each layer's contribution: otherwise rounding itself is amplified from layer to layer.
    branch = min(1.0, 4.0 / model.config.num_hidden_layers)
    norms = {id(norm.weight) for norm in model.modules() if isinstance(norm, nn.LayerNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in norms:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.5, generator=generator)
            elif name.endswith("tok_embeddings.weight"):
                parameter.normal_(0.0, 0.5, generator=generator)
                parameter += torch.empty(parameter.shape[1]).normal_(0.0, 1.0, generator=generator)
            else:
                gain = next((gain for suffix, gain in GAINS.items() if name.endswith(suffix)), 1.5)
                if name.endswith("Wo.weight"):
                    gain *= branch
                parameter.normal_(0.0, gain / parameter.shape[1] ** 0.5, generator=generator)
    _lean(model, torch.randint(5, model.config.vocab_size, (1, 64), generator=generator))


@torch.no_grad()
def _lean(model: nn.Module, ids: torch.Tensor) -> None:
    """Shifts the rows that feed each GELU along the mean of their input, in one pass from the first layer to the head."""

    def shift(linear: nn.Linear, rows: int, inputs: torch.Tensor) -> None:
        mean = inputs[0].mean(dim=0)
        linear.weight[:rows] -= LEAN * mean / mean.square().sum()

    def before_mlp(mlp: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        shift(mlp.Wi, mlp.Wo.in_features, inputs[0])

    def before_head(head: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        # Sequence heads see one pooled row [1, hidden], all others [1, tokens, hidden].
        shift(head.dense, head.dense.out_features, inputs[0] if inputs[0].dim() == 3 else inputs[0][None])

    # ReLU is left alone: leaning, it would be zero everywhere.
    handles = []
    if model.config.hidden_activation != "relu":
        handles += [layer.mlp.register_forward_pre_hook(before_mlp) for layer in trunk(model).layers]
    if model.config.classifier_activation != "relu" and (head := prediction_head(model)) is not None:
        handles.append(head.register_forward_pre_hook(before_head))
    model(input_ids=ids)
    for handle in handles:
        handle.remove()


# ---------------------------------------------------------------------------------------------------------------------
# States


def trunk(model: nn.Module) -> nn.Module:
    """The model without its head."""
    return getattr(model, "model", model)


def prediction_head(model: nn.Module) -> nn.Module | None:
    """dense, activation, norm; None for a bare trunk."""
    return getattr(model, "lm_head", getattr(model, "head", None))


@torch.no_grad()
def record(model: nn.Module, ids: list[int], keep: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float) -> States:
    """Runs one sequence and returns `hidden.{0..=layers}`, `final` and, where there is a head, `logits`.

    hidden.0 is the normalised embedding, hidden.l the residual stream behind layer l-1, before `final_norm`; final is
    behind `final_norm`. Hooks rather than `output_hidden_states`, whose last entry is already normalised.
    """
    states: States = {}
    base = trunk(model)

    def saving(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            states[name] = keep(output[0])

        return hook

    handles = [base.embeddings.register_forward_hook(saving("hidden.0"))]
    handles += [layer.register_forward_hook(saving(f"hidden.{i + 1}")) for i, layer in enumerate(base.layers)]
    handles += [base.final_norm.register_forward_hook(saving("final"))]
    try:
        output = model(input_ids=torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    if "start_logits" in output:  # question answering: the two columns of its classifier
        states["logits"] = keep(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
    elif "logits" in output:
        states["logits"] = keep(output.logits[0])
    return states


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """max|ours - reference| / max|reference|; infinite when anything is not finite."""
    difference = (ours.double() - reference.double()).abs().max().item()
    scale = reference.double().abs().max().item()
    if not torch.isfinite(ours).all():
        return float("inf")
    return difference / scale if scale > 0 else difference


def worst(ours: States, reference: States) -> tuple[float, str]:
    """The largest relative error over all recorded tensors, and where it is."""
    return max((relative_error(ours[name], reference[name]), name) for name in reference)


# ---------------------------------------------------------------------------------------------------------------------
# Double precision


def _rotate_exactly(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotate = encoder_module.rotate_half
    return q * cos + rotate(q) * sin, k * cos + rotate(k) * sin


def _attend_exactly(_module, query, key, value, attention_mask, scaling=None, **_):
    weights = torch.matmul(query, key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = torch.softmax(weights, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


@contextlib.contextmanager
def _patched(**replacements: Callable[..., object]) -> Iterator[None]:
    """Replaces functions of both modelling files."""
    modules = (encoder_module, decoder_module)
    saved = [(module, name, getattr(module, name)) for module in modules for name in replacements]
    try:
        for module, name, _ in saved:
            setattr(module, name, replacements[name])
        yield
    finally:
        for module, name, original in saved:
            setattr(module, name, original)


def exact_arithmetic() -> contextlib.AbstractContextManager[None]:
    """Removes the two places where transformers computes in f32 whatever the model's dtype: rotation and softmax.

    The rotary *tables* stay f32 values: they are part of the model's definition, the same for every engine.
    """
    return _patched(apply_rotary_pos_emb=_rotate_exactly, eager_attention_forward=_attend_exactly)


def eager_by_head(longest_at_once: int = 1024) -> contextlib.AbstractContextManager[None]:
    """Eager attention one head at a time above `longest_at_once` tokens.

    The same operations on the same numbers; but 28 heads of 4096 × 4096 scores, several times over, would be 6 GB.
    """
    original = encoder_module.eager_attention_forward

    def attend(module, query, key, value, attention_mask, scaling=None, **options):
        def some(heads: slice):
            parts = query[:, heads], key[:, heads], value[:, heads]
            return original(module, *parts, attention_mask, scaling=scaling or query.shape[-1] ** -0.5, **options)[0]

        if query.shape[2] <= longest_at_once:
            return some(slice(None)), None
        return torch.cat([some(slice(head, head + 1)) for head in range(query.shape[1])], dim=2), None

    return _patched(eager_attention_forward=attend)


# ---------------------------------------------------------------------------------------------------------------------
# Faults: each is a context manager that breaks a model and mends it again

Fault = Callable[[nn.Module], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _theta(model: nn.Module) -> Iterator[None]:
    """Every base of 160000 becomes 10000, and the other way round."""
    rotary, config = trunk(model).rotary_emb, model.config
    saved = {kind: getattr(rotary, f"{kind}_inv_freq").clone() for kind in rotary.layer_types}
    try:
        for kind, table in saved.items():
            base = config.rope_parameters[kind]["rope_theta"]
            exponents = -torch.log(table.double()) / torch.log(torch.tensor(base, dtype=torch.float64))
            other = 10000.0 if base > 10000.0 else 160000.0
            getattr(rotary, f"{kind}_inv_freq").copy_(other**-exponents)
        yield
    finally:
        for kind, table in saved.items():
            getattr(rotary, f"{kind}_inv_freq").copy_(table)


def _window(step: int) -> Fault:
    @contextlib.contextmanager
    def fault(model: nn.Module) -> Iterator[None]:
        """The window of local layers is one key wider or narrower (on each side it has)."""
        config = trunk(model).config
        saved = config.sliding_window
        try:
            config.sliding_window = saved + step
            yield
        finally:
            config.sliding_window = saved

    return fault


def _tanh_gelu(modules_of: Callable[[nn.Module], list[nn.Module]]) -> Fault:
    @contextlib.contextmanager
    def fault(model: nn.Module) -> Iterator[None]:
        """The tanh approximation instead of the exact GELU."""
        modules = modules_of(model)
        saved = [module.act for module in modules]
        try:
            for module in modules:
                module.act = nn.GELU(approximate="tanh")
            yield
        finally:
            for module, activation in zip(modules, saved, strict=True):
                module.act = activation

    return fault


@contextlib.contextmanager
def _swapped_halves(model: nn.Module) -> Iterator[None]:
    """The activation falls on the second half of Wi's output instead of the first."""

    def swap() -> None:
        for layer in trunk(model).layers:
            for parameter in layer.mlp.Wi.parameters():
                parameter.data = torch.cat(parameter.data.chunk(2)[::-1])

    swap()
    try:
        yield
    finally:
        swap()


def _dropped(parent_of: Callable[[nn.Module], nn.Module], name: str) -> Fault:
    @contextlib.contextmanager
    def fault(model: nn.Module) -> Iterator[None]:
        """One norm is forgotten."""
        parent = parent_of(model)
        saved = getattr(parent, name)
        try:
            setattr(parent, name, nn.Identity())
            yield
        finally:
            setattr(parent, name, saved)

    return fault


FAULTS: dict[str, Fault] = {
    "theta 10000 for 160000": _theta,
    "window one wider": _window(1),
    "window one narrower": _window(-1),
    "tanh GELU in the MLPs": _tanh_gelu(lambda model: [layer.mlp for layer in trunk(model).layers]),
    "tanh GELU in the head": _tanh_gelu(lambda model: [prediction_head(model)]),
    "swapped GLU halves": _swapped_halves,
    "no embedding norm": _dropped(lambda model: trunk(model).embeddings, "norm"),
    "no attention norm": _dropped(lambda model: trunk(model).layers[-1], "attn_norm"),
    "no MLP norm": _dropped(lambda model: trunk(model).layers[-1], "mlp_norm"),
    "no final norm": _dropped(trunk, "final_norm"),
    "no head norm": _dropped(prediction_head, "norm"),
}
