//! Small functions over the scores of labels and answers. Sums run in f64 and in a fixed order.

use std::cmp::Ordering;

/// Probabilities of a row.
pub(super) fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = max(logits);
    let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|exp| (exp / sum) as f32).collect()
}

/// The logistic function.
pub(super) fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + f64::from(-logit).exp())) as f32
}

/// Index of the largest value, the first of equals.
pub(super) fn argmax(values: &[f32]) -> usize {
    let better = |best: usize, index: usize| {
        if values[index] > values[best] { index } else { best }
    };
    (1..values.len()).fold(0, better)
}

/// Larger first.
pub(super) fn descending(a: f32, b: f32) -> Ordering {
    b.total_cmp(&a)
}

fn max(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_large_logits_is_finite() {
        let probabilities = softmax(&[1e4, 1e4, -1e4]);
        assert_eq!(probabilities, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn sigmoid_of_extremes() {
        assert_eq!((sigmoid(0.0), sigmoid(1e4), sigmoid(-1e4)), (0.5, 1.0, 0.0));
    }

    #[test]
    fn the_first_of_equals_is_the_largest() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0, 3.0]), 1);
    }
}
