//! Vectors of several texts in one flat array.

use std::ops::Index;

/// Vectors of one length, one behind the other in memory: what array libraries take without a copy.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Embeddings {
    /// All values, row by row.
    pub values: Vec<f32>,
    /// Rows (texts, or tokens of a text) and values in each.
    pub shape: [usize; 2],
}

impl Embeddings {
    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// Whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.shape[0] == 0
    }

    /// The vectors in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        (0..self.len()).map(|row| &self[row])
    }

    /// Puts vectors of one length together; `None` where lengths differ.
    pub(super) fn from_rows(rows: Vec<Vec<f32>>) -> Option<Self> {
        let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
        let even = rows.iter().all(|row| row.len() == shape[1]);
        even.then(|| Self { values: rows.concat(), shape })
    }
}

/// The vector of one row.
///
/// # Panics
/// When there are not so many rows.
impl Index<usize> for Embeddings {
    type Output = [f32];

    fn index(&self, row: usize) -> &[f32] {
        &self.values[row * self.shape[1]..][..self.shape[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_put_together() {
        let embeddings = Embeddings::from_rows(vec![vec![1.0, 2.0], vec![3.0, 4.0], vec![5.0, 6.0]]).unwrap();
        assert_eq!((embeddings.shape, embeddings.len()), ([3, 2], 3));
        assert_eq!(embeddings.values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(&embeddings[1], [3.0, 4.0]);
        assert_eq!(embeddings.rows().collect::<Vec<_>>(), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        assert!(Embeddings::from_rows(Vec::new()).unwrap().is_empty());
        assert_eq!(Embeddings::from_rows(vec![vec![1.0], vec![]]), None);
    }
}
