//! Small functions over rows of logits. Sums run in f64 and in a fixed order.

use std::cmp::Ordering;

/// Probabilities of a row.
pub(super) fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = max(logits);
    let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|exp| (exp / sum) as f32).collect()
}

/// `log Σ exp(logits)`.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = max(logits);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    f64::from(max) + sum.ln()
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

/// Indices of the `k` largest values, best first; the lower index of equals.
pub(super) fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| descending(values[*a], values[*b]).then(a.cmp(b));
    let mut indices: Vec<usize> = (0..values.len()).collect();
    if k == 0 {
        return Vec::new();
    }
    if k < indices.len() {
        indices.select_nth_unstable_by(k - 1, order);
        indices.truncate(k);
    }
    indices.sort_unstable_by(order);
    indices
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
        assert!((log_sum_exp(&[1e4, 1e4]) - (1e4 + 2f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn sigmoid_of_extremes() {
        assert_eq!((sigmoid(0.0), sigmoid(1e4), sigmoid(-1e4)), (0.5, 1.0, 0.0));
    }

    #[test]
    fn top_k_is_sorted_and_takes_the_lower_index_of_equals() {
        let values = [1.0, 3.0, 3.0, 2.0, 3.0];
        assert_eq!(top_k(&values, 0), [0usize; 0]);
        assert_eq!(top_k(&values, 2), [1, 2]);
        assert_eq!(top_k(&values, 4), [1, 2, 4, 3]);
        assert_eq!(top_k(&values, 9), [1, 2, 4, 3, 0]);
        assert_eq!(argmax(&values), 1);
    }
}
