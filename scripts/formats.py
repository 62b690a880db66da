"""The number formats beside f32, and how far each may be from transformers in f32 on a random checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """The bound of a format and where it comes from."""

    error: float
    """Most max|Δ| / max|reference|."""
    why: str


FORMATS = {
    "bf16x6": Format(1e-4, "Three bf16 parts hold the 24 bits of f32, so the bound is that of f32."),
    "bf16x3": Format(1e-3, "Two parts round by 2⁻¹⁷ at most. These checkpoints, made to amplify, need some hundred times that."),
    "bf16": Format(0.2, "One part rounds by 2⁻⁹ at most: again a hundred times that."),
    "int8": Format(
        1.5,
        "Weights and activations round by 1/254 of the largest of a row. Amplified a hundred times, little is left, and the bound only "
        "catches what is unrelated or not finite; [ACCURACY.md](ACCURACY.md) bounds it where nothing is amplified.",
    ),
    "w8": Format(1.0, "As int8, of weights alone."),
    "w4": Format(2.0, "Weights round by 1/14 of the largest of 32: nothing is left, and the bound is what unrelated states show at most."),
}
