//! The order of a ranking, for all protocols that have one.

/// The places and scores of the best `top_n` (0: all), best first; equal scores in the order of the request.
pub(super) fn ranked(scores: &[f32], top_n: usize) -> impl Iterator<Item = (usize, f32)> {
    let mut order: Vec<_> = scores.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let kept = if top_n == 0 { order.len() } else { top_n };
    order.into_iter().take(kept)
}
