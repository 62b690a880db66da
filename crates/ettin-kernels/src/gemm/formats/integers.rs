//! Numbers as integers times a scale: what the formats of few bits share.

/// 1.5 · 2²³: added to a small number, it leaves the nearest integer in the lowest bits.
pub(super) const ROUND_TO_INTEGER: f32 = 12_582_912.0;

/// Magnitude of the largest byte.
pub(super) const MAX_BYTE: f32 = 127.0;

/// The largest magnitude; NaN if a weight is not finite, so that what it takes part in is NaN too, not wrong.
pub(super) fn largest(weights: &[f32]) -> f32 {
    let most = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    if weights.iter().all(|w| w.is_finite()) { most } else { f32::NAN }
}

/// The nearest integer, as f32, of what is far below 2²²: without a call, where the baseline CPU cannot round.
pub(super) fn nearest_integer(x: f32) -> f32 {
    x + ROUND_TO_INTEGER - ROUND_TO_INTEGER
}
