"""One sequence of the engine beside transformers: where they differ most, and who is nearer to f64."""

from __future__ import annotations

from dataclasses import dataclass

from engine import EngineError
from reference import States, relative_error, worst


@dataclass
class Comparison:
    """The measure is max|Δ| / max|reference| of a tensor."""

    tokens: int
    hidden: float
    hidden_at: str
    logits: float
    first_divergent: str | None
    """The first hidden state past the bound, in the order of computation."""
    ours_f64: float | None = None
    torch_f64: float | None = None
    rms_ratio: float | None = None
    """Of the root mean squares, where `ratio` is one of maxima."""

    @property
    def ratio(self) -> float | None:
        if self.ours_f64 is None or not self.torch_f64:
            return None
        return self.ours_f64 / self.torch_f64

    @property
    def error(self) -> float:
        """The worst over all tensors."""
        return max(self.hidden, self.logits)

    @property
    def divergence(self) -> str:
        """The error in words."""
        return f"{self.tokens} tokens: {self.error:.1e} (first divergent: {self.first_divergent or 'logits'})"


def compare(ours: States, reference: States, exact: States | None, tokens: int, bound: float) -> Comparison:
    for name, tensor in reference.items():
        if name not in ours:
            raise EngineError(f"{tokens} tokens: the engine's output lacks {name}")
        if ours[name].shape != tensor.shape:
            raise EngineError(f"{tokens} tokens: {name} is {list(ours[name].shape)}, not {list(tensor.shape)}")
    errors = {name: relative_error(ours[name], reference[name]) for name in _in_order(reference)}
    at = max(errors, key=errors.__getitem__)
    return Comparison(
        tokens=tokens,
        hidden=errors[at],
        hidden_at=_place(at),
        logits=relative_error(ours["logits"], reference["logits"]),
        first_divergent=next((_place(name) for name, error in errors.items() if not error <= bound), None),
        ours_f64=worst(ours, exact)[0] if exact else None,
        torch_f64=worst(reference, exact)[0] if exact else None,
        rms_ratio=_rms_error(ours, exact) / _rms_error(reference, exact) if exact else None,
    )


def _in_order(states: States) -> list[str]:
    """Names of the hidden states as they are computed: embedding, layers, final norm."""
    layers = sum(name.startswith("hidden.") for name in states)
    return [*(f"hidden.{layer}" for layer in range(layers)), "final"]


def _place(name: str) -> str:
    """A tensor's name in words."""
    if name == "hidden.0":
        return "embedding"
    return f"layer {int(name.split('.')[1]) - 1}" if name.startswith("hidden.") else "final norm"


def _rms_error(ours: States, exact: States) -> float:
    """The largest rms|Δ| / rms|exact| over all tensors."""
    return max(((ours[name].double() - state).norm() / state.norm()).item() for name, state in exact.items())
