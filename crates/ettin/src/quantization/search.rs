//! Search among quantised vectors, as sentence-transformers' `semantic_search_faiss` and `semantic_search_usearch`
//! do exactly (without an approximate index).

use std::cmp::Reverse;

use super::{Integers, QuantizedVectors, Quantizer, SIGN};
use crate::setters::setters;
use crate::tasks::IndexedScore;
use crate::{Error, Result};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchRequest {
    /// How many vectors to find.
    pub top_k: usize,
    /// Whether the best candidates are scored again, by the query as it was before it was quantised.
    pub rescore: bool,
    /// How many candidates are scored again for each vector to be found.
    pub rescore_multiplier: usize,
}

impl Default for SearchRequest {
    fn default() -> Self {
        Self { top_k: 10, rescore: true, rescore_multiplier: 2 }
    }
}

setters!(SearchRequest {
    /// With so many vectors to be found.
    with_top_k(top_k: usize);
    /// With candidates scored again, or not.
    with_rescore(rescore: bool);
    /// With so many candidates for each vector to be found.
    with_rescore_multiplier(rescore_multiplier: usize);
});

impl QuantizedVectors {
    /// The number of bits in which a quantised vector differs from each row: of [`Binary`](super::Precision::Binary)
    /// and [`Ubinary`](super::Precision::Ubinary) vectors.
    ///
    /// # Errors
    /// [`Error::Input`] for vectors with ranges, and for a query of another kind or length.
    pub fn hamming_distances(&self, query: &Integers) -> Result<Vec<u32>> {
        if self.precision().has_ranges() {
            return Err(Error::input(format!("vectors in {} are no bits: compare them by products", self.precision())));
        }
        self.check_query(query)?;
        Ok(match (query, self.values()) {
            // 128 is taken off both sides: the same bits differ.
            (Integers::Signed(query), Integers::Signed(rows)) => {
                by_row(query, rows, |a, b| differing(a, b, i8::cast_unsigned))
            }
            (Integers::Unsigned(query), Integers::Unsigned(rows)) => {
                by_row(query, rows, |a, b| differing(a, b, u8::into))
            }
            _ => Vec::new(),
        })
    }

    /// The product of a quantised vector's integers with those of each row: of [`Int8`](super::Precision::Int8) and
    /// [`Uint8`](super::Precision::Uint8) vectors.
    ///
    /// # Errors
    /// [`Error::Input`] for vectors of bits, and for a query of another kind or length.
    pub fn dot_products(&self, query: &Integers) -> Result<Vec<i64>> {
        if !self.precision().has_ranges() {
            return Err(Error::input(format!("vectors in {} are bits: compare them by distance", self.precision())));
        }
        self.check_query(query)?;
        Ok(match (query, self.values()) {
            (Integers::Signed(query), Integers::Signed(rows)) => by_row(query, rows, product),
            (Integers::Unsigned(query), Integers::Unsigned(rows)) => by_row(query, rows, product),
            _ => Vec::new(),
        })
    }

    fn check_query(&self, query: &Integers) -> Result<()> {
        if matches!(query, Integers::Signed(_)) != self.precision().is_signed() {
            return Err(Error::input(format!("the query is not in {}, as the vectors are", self.precision())));
        }
        if !self.is_empty() && query.len() != self.width() {
            let (query, rows) = (query.len(), self.width());
            return Err(Error::input(format!("the query has {query} integers, the vectors {rows}")));
        }
        Ok(())
    }
}

impl Quantizer {
    /// The rows of `corpus`, quantised with these ranges, that are most like a query; the best first, and of equal ones
    /// the first.
    ///
    /// Candidates are found by the quantised query: the largest products, or the fewest bits that differ. Where they are
    /// scored again, a score is the product of the query as it is with what a row stands for: values in their ranges,
    /// or bits as 0 and 1. Otherwise it is the product of the integers, or minus the number of bits.
    ///
    /// # Errors
    /// [`Error::Input`] where query, corpus and ranges do not fit each other, and where the query is not finite.
    pub fn search(
        &self,
        query: &[f32],
        corpus: &QuantizedVectors,
        request: &SearchRequest,
    ) -> Result<Vec<IndexedScore>> {
        if corpus.precision() != self.precision() {
            let (corpus, own) = (corpus.precision(), self.precision());
            return Err(Error::input(format!("vectors in {corpus} are not searched in {own}")));
        }
        self.check(query)?;
        if corpus.is_empty() {
            return Ok(Vec::new());
        }
        if corpus.dimensions() != query.len() {
            let (corpus, query) = (corpus.dimensions(), query.len());
            return Err(Error::input(format!("the query has {query} dimensions, the vectors {corpus}")));
        }
        let integers = self.quantize_one(query)?;
        let scores: Vec<i64> = if self.precision().has_ranges() {
            corpus.dot_products(&integers)?
        } else {
            corpus.hamming_distances(&integers)?.into_iter().map(|bits| -i64::from(bits)).collect()
        };
        let count = if request.rescore {
            request.top_k.saturating_mul(request.rescore_multiplier.max(1))
        } else {
            request.top_k
        };
        let candidates = best(scores, count);
        if !request.rescore {
            let scored = |(index, score)| IndexedScore { index, score: score as f32 };
            return Ok(candidates.into_iter().map(scored).collect());
        }
        let score = |(index, _)| (index, self.product_with_row(query, corpus, index));
        let mut scored: Vec<(usize, f64)> = candidates.into_iter().map(score).collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scored.truncate(request.top_k);
        Ok(scored.into_iter().map(|(index, score)| IndexedScore { index, score: score as f32 }).collect())
    }

    /// The query times what a row stands for, in f64.
    fn product_with_row(&self, query: &[f32], corpus: &QuantizedVectors, row: usize) -> f64 {
        let width = corpus.width();
        let at = row * width..(row + 1) * width;
        match corpus.values() {
            Integers::Signed(values) => {
                self.product(query, values[at].iter().map(|value| value.cast_unsigned() ^ SIGN))
            }
            Integers::Unsigned(values) => self.product(query, values[at].iter().copied()),
        }
    }

    fn product(&self, query: &[f32], bytes: impl Iterator<Item = u8>) -> f64 {
        if self.precision().has_ranges() {
            let term = |((&value, byte), &(low, step)): ((&f32, u8), &(f32, f32))| {
                f64::from(value) * (f64::from(byte) * f64::from(step) + f64::from(low))
            };
            return query.iter().zip(bytes).zip(&self.steps).map(term).sum();
        }
        let eight = |(values, byte): (&[f32], u8)| -> f64 {
            let set = values.iter().enumerate().filter(|(at, _)| byte >> (7 - at) & 1 == 1);
            set.map(|(_, &value)| f64::from(value)).sum()
        };
        query.chunks(8).zip(bytes).map(eight).sum()
    }
}

/// What `compare` gives for a row and each of `rows`.
fn by_row<T, U>(row: &[T], rows: &[T], compare: impl Fn(&[T], &[T]) -> U) -> Vec<U> {
    if row.is_empty() { Vec::new() } else { rows.chunks_exact(row.len()).map(|other| compare(row, other)).collect() }
}

fn differing<T: Copy>(a: &[T], b: &[T], bits: impl Fn(T) -> u8) -> u32 {
    a.iter().zip(b).map(|(&a, &b)| (bits(a) ^ bits(b)).count_ones()).sum()
}

/// The sum of products of bytes.
fn product<T: Copy + Into<i32>>(a: &[T], b: &[T]) -> i64 {
    /// So many products of two bytes fit an i32, in which sums are fastest.
    const AT_ONCE: usize = 1 << 14;
    let part = |(a, b): (&[T], &[T])| -> i32 { a.iter().zip(b).map(|(&a, &b)| a.into() * b.into()).sum() };
    a.chunks(AT_ONCE).zip(b.chunks(AT_ONCE)).map(|parts| i64::from(part(parts))).sum()
}

/// The `count` largest with their indices, the best first, and of equal ones the first.
fn best(scores: Vec<i64>, count: usize) -> Vec<(usize, i64)> {
    let mut all: Vec<(usize, i64)> = scores.into_iter().enumerate().collect();
    let order = |&(index, score): &(usize, i64)| (Reverse(score), index);
    if count < all.len() {
        all.select_nth_unstable_by_key(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by_key(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{Precision, Ranges};

    fn found(quantizer: &Quantizer, query: &[f32], corpus: &[Vec<f32>], request: SearchRequest) -> Vec<(usize, f32)> {
        let found = quantizer.search(query, &quantizer.quantize(corpus).unwrap(), &request).unwrap();
        found.into_iter().map(|found| (found.index, found.score)).collect()
    }

    #[test]
    fn equal_scores_keep_their_order() {
        assert_eq!(best(vec![1, 3, 1, 3, 2], 3), [(1, 3), (3, 3), (4, 2)]);
        assert_eq!(best(vec![0; 5], 3), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(best(vec![1, 2], 9), [(1, 2), (0, 1)]);
        assert_eq!(best(vec![1, 2], 0), []);
    }

    #[test]
    fn products_do_not_overflow() {
        let extreme = vec![255u8; 3 << 15];
        assert_eq!(product(&extreme, &extreme), 255 * 255 * (3 << 15));
        let lowest = vec![-128i8; 3 << 15];
        assert_eq!(product(&lowest, &lowest), 128 * 128 * (3 << 15));
    }

    #[test]
    fn bits_are_found_by_distance_and_ordered_by_the_query() {
        let corpus = vec![vec![1.0f32, 1.0, -1.0], vec![1.0, -1.0, 1.0], vec![-1.0, -1.0, -1.0], vec![1.0, 1.0, 1.0]];
        let query = [0.1f32, 0.5, 2.0];
        for precision in [Precision::Binary, Precision::Ubinary] {
            let quantizer = Quantizer::new(precision, None).unwrap();
            let plain = SearchRequest::default().with_rescore(false);
            assert_eq!(found(&quantizer, &query, &corpus, plain), [(3, 0.0), (0, -1.0), (1, -1.0), (2, -3.0)]);
            let again = SearchRequest::default().with_top_k(2);
            let scores = [(3, 2.6), (1, 2.1)];
            assert_eq!(
                found(&quantizer, &query, &corpus, again),
                scores.map(|(index, score): (_, f64)| (index, score as f32))
            );
            // One candidate alone: the first of the two that are nearest is not there.
            assert_eq!(found(&quantizer, &query, &corpus[..2], again.with_rescore_multiplier(1).with_top_k(1))[0].0, 0);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ranges = Ranges::new(vec![-1.0; 2], vec![1.0; 2]).unwrap();
        let quantizer = Quantizer::new(Precision::Int8, ranges).unwrap();
        let corpus = quantizer.quantize(&[[0.0f32, 1.0]]).unwrap();
        let bits = Quantizer::new(Precision::Binary, None).unwrap();
        let request = SearchRequest::default();
        let refused = |result: Result<Vec<IndexedScore>>| result.unwrap_err().to_string();
        assert!(refused(bits.search(&[0.0, 1.0], &corpus, &request)).contains("int8 are not searched in binary"));
        assert!(refused(quantizer.search(&[0.0], &corpus, &request)).contains("ranges have 2 dimensions"));
        assert!(refused(quantizer.search(&[0.0, f32::NAN], &corpus, &request)).contains("NaN"));
        let few = bits.quantize(&[[1.0f32, 1.0]]).unwrap();
        assert!(refused(bits.search(&[1.0], &few, &request)).contains("query has 1 dimensions"));
        assert!(corpus.hamming_distances(&Integers::Signed(vec![0, 0])).is_err());
        assert!(corpus.dot_products(&Integers::Unsigned(vec![0, 0])).is_err());
        assert!(corpus.dot_products(&Integers::Signed(vec![0])).is_err());
        assert!(few.dot_products(&Integers::Signed(vec![0])).is_err());
        let empty = quantizer.quantize::<[f32; 2]>(&[]).unwrap();
        assert!(quantizer.search(&[0.0, 1.0], &empty, &request).unwrap().is_empty());
        assert!(quantizer.search(&[0.0, 1.0], &corpus, &request.with_top_k(0)).unwrap().is_empty());
        assert_eq!(quantizer.search(&[0.0, 1.0], &corpus, &request.with_top_k(usize::MAX)).unwrap().len(), 1);
    }
}
