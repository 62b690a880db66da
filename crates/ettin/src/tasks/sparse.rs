//! Sparse vectors: what learned sparse encoders make of texts.

use std::cmp::Ordering;
use std::iter;

use serde::Serialize;

use crate::heads::Similarity;

/// A vector of which most values are 0: the others, by ascending index.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct SparseVector {
    /// Places of the values: token ids, or features of an autoencoder.
    pub indices: Vec<u32>,
    /// The values, none of them 0.
    pub values: Vec<f32>,
    /// The token at each place as the vocabulary spells it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<String>>,
}

impl SparseVector {
    /// The values of a dense vector that are not 0; with a bound, only so many, the largest by magnitude, and of equal
    /// ones the first.
    pub fn of_dense(vector: &[f32], max_active_dims: Option<usize>) -> Self {
        let mut active: Vec<(u32, f32)> =
            (0..).zip(vector.iter().copied()).filter(|(_, value)| *value != 0.0).collect();
        if let Some(kept) = max_active_dims.filter(|&kept| kept < active.len()) {
            active.select_nth_unstable_by(kept, larger);
            active.truncate(kept);
            active.sort_unstable_by_key(|(index, _)| *index);
        }
        let (indices, values) = active.into_iter().unzip();
        Self { indices, values, tokens: None }
    }

    /// How many values are not 0.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether all values are 0.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The places of the values in [`values`](Self::values), the largest value first.
    pub fn descending(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|&a, &b| self.values[b].total_cmp(&self.values[a]).then(a.cmp(&b)));
        order
    }

    /// Compares two vectors; larger is more alike. Sums run in f64, by ascending index.
    pub fn similarity(&self, other: &Self, similarity: Similarity) -> f32 {
        similarity.of_pairs(|| self.pairs(other))
    }

    /// The values of two vectors wherever one of them is not 0.
    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (f64, f64)> + 'a {
        let (mut a, mut b) = (0, 0);
        iter::from_fn(move || {
            let order = match (self.indices.get(a), other.indices.get(b)) {
                (None, None) => return None,
                (Some(a), Some(b)) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let left = if order.is_le() { self.values[a] } else { 0.0 };
            let right = if order.is_ge() { other.values[b] } else { 0.0 };
            a += usize::from(order.is_le());
            b += usize::from(order.is_ge());
            Some((left.into(), right.into()))
        })
    }
}

/// The larger by magnitude first, a NaN before all; of equal ones the lower index.
fn larger(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_left_out_and_the_largest_magnitudes_stay() {
        let dense = [0.0, -3.0, 1.0, -0.0, 2.0, -1.0];
        let all = SparseVector::of_dense(&dense, None);
        assert_eq!((&all.indices[..], &all.values[..]), (&[1, 2, 4, 5][..], &[-3.0, 1.0, 2.0, -1.0][..]));
        assert_eq!(SparseVector::of_dense(&dense, Some(2)).indices, [1, 4]);
        assert_eq!(SparseVector::of_dense(&dense, Some(3)).indices, [1, 2, 4], "of equal ones the first");
        assert_eq!(SparseVector::of_dense(&dense, Some(9)), all);
        assert_eq!(all.descending(), [2, 1, 3, 0]);
        assert!(SparseVector::of_dense(&[0.0], None).is_empty());
    }

    #[test]
    fn sparse_vectors_compare_as_dense_ones_do() {
        let (a, b) = ([0.0, 1.5, 0.0, -2.0, 3.0], [1.0, 0.5, 0.0, 0.0, 2.0]);
        let sparse = |vector: &[f32]| SparseVector::of_dense(vector, None);
        for similarity in [Similarity::Cosine, Similarity::Dot, Similarity::Euclidean, Similarity::Manhattan] {
            assert_eq!(sparse(&a).similarity(&sparse(&b), similarity), similarity.score(&a, &b), "{similarity:?}");
        }
        assert_eq!(sparse(&a).similarity(&sparse(&[0.0; 5]), Similarity::Cosine), 0.0);
    }
}
