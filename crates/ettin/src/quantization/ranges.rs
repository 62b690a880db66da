//! The lowest and the highest value of each dimension.

use super::{Precision, check_finite};
use crate::{Error, Result};

/// The lowest and the highest value of each dimension, between which [`Precision::Int8`] and [`Precision::Uint8`] have
/// their 256 steps. Values beyond are kept as the nearest of the two.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranges {
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Ranges {
    /// Ranges of these ends, one of each for a dimension.
    ///
    /// # Errors
    /// [`Error::Input`] where there are none, where lengths differ, where a value is not finite, where the lowest is
    /// above the highest, and where their difference is too large for f32.
    pub fn new(low: Vec<f32>, high: Vec<f32>) -> Result<Self> {
        if low.len() != high.len() || low.is_empty() {
            let (low, high) = (low.len(), high.len());
            return Err(Error::input(format!(
                "ranges of {low} lowest and {high} highest values: one of each is needed"
            )));
        }
        check_finite(&low, "the row of lowest values")?;
        check_finite(&high, "the row of highest values")?;
        for (at, (&low, &high)) in low.iter().zip(&high).enumerate() {
            if low > high {
                return Err(Error::input(format!(
                    "the range of dimension {at} goes down, from {low} to {high}; the lowest values come first"
                )));
            }
            if !(high - low).is_finite() {
                return Err(Error::input(format!("the range of dimension {at} is too wide: from {low} to {high}")));
            }
        }
        Ok(Self { low, high })
    }

    /// The ranges of vectors that stand for those to come: sentence-transformers' `calibration_embeddings`.
    ///
    /// # Errors
    /// [`Error::Input`] where there are none, where lengths differ, and where a value is not finite.
    pub fn of<V: AsRef<[f32]>>(vectors: &[V]) -> Result<Self> {
        let mut seen = RunningRanges::default();
        vectors.iter().try_for_each(|vector| seen.add(vector.as_ref()))?;
        seen.ranges()
    }

    /// How many dimensions they have.
    pub fn dimensions(&self) -> usize {
        self.low.len()
    }

    /// The lowest value of each dimension.
    pub fn low(&self) -> &[f32] {
        &self.low
    }

    /// The highest value of each dimension.
    pub fn high(&self) -> &[f32] {
        &self.high
    }

    /// Where each dimension begins, and how far a step goes: a dimension without extent has steps of 1.
    pub(super) fn steps(&self) -> impl Iterator<Item = (f32, f32)> {
        self.low.iter().zip(&self.high).map(|(&low, &high)| {
            let step = (high - low) / 255.0;
            (low, if step == 0.0 { 1.0 } else { step })
        })
    }
}

/// Ranges of vectors that come one after the other.
#[derive(Debug, Clone, Default)]
pub struct RunningRanges {
    count: usize,
    low: Vec<f32>,
    high: Vec<f32>,
}

impl RunningRanges {
    /// Widens the ranges to hold a vector.
    ///
    /// # Errors
    /// [`Error::Input`] where it has another length than those before, and where a value is not finite.
    pub fn add(&mut self, vector: &[f32]) -> Result<()> {
        if self.count == 0 {
            self.low = vec![f32::INFINITY; vector.len()];
            self.high = vec![f32::NEG_INFINITY; vector.len()];
        }
        if vector.len() != self.low.len() {
            let (new, known) = (vector.len(), self.low.len());
            return Err(Error::input(format!("a vector of {new} dimensions among vectors of {known}")));
        }
        check_finite(vector, "a vector")?;
        for ((&value, low), high) in vector.iter().zip(&mut self.low).zip(&mut self.high) {
            *low = low.min(value);
            *high = high.max(value);
        }
        self.count += 1;
        Ok(())
    }

    /// How many vectors there were.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The ranges of all vectors so far.
    ///
    /// # Errors
    /// [`Error::Input`] where there was none, or where a range is too wide for f32.
    pub fn ranges(&self) -> Result<Ranges> {
        if self.count == 0 {
            return Err(Error::input("there are no vectors to take ranges from"));
        }
        Ranges::new(self.low.clone(), self.high.clone())
    }

    /// The ranges for the very vectors that were added, of which there must be more than one.
    ///
    /// # Errors
    /// [`Error::NoRanges`] where there was one: each of its values would be the lowest and the highest. As
    /// [`ranges`](Self::ranges).
    pub fn own(&self, precision: Precision) -> Result<Ranges> {
        if self.count == 1 {
            return Err(Error::NoRanges { precision: precision.to_string() });
        }
        self.ranges()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(low: &[f32], high: &[f32]) -> String {
        Ranges::new(low.to_vec(), high.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        assert!(refused(&[], &[]).contains("0 lowest"));
        assert!(refused(&[0.0], &[1.0, 2.0]).contains("1 lowest and 2 highest"));
        assert!(refused(&[0.0, f32::NAN], &[1.0, 2.0]).contains("NaN in dimension 1"));
        assert!(refused(&[0.0], &[f32::INFINITY]).contains("highest values has inf in dimension 0"));
        assert!(refused(&[0.0, 2.0], &[1.0, 1.0]).contains("dimension 1 goes down"));
        assert!(refused(&[-3e38], &[3e38]).contains("too wide"));
    }

    #[test]
    fn ranges_hold_all_vectors() {
        let ranges = Ranges::of(&[[1.0f32, -2.0], [-1.0, 0.0], [0.5, -3.0]]).unwrap();
        assert_eq!((ranges.low(), ranges.high(), ranges.dimensions()), (&[-1.0, -3.0][..], &[1.0, 0.0][..], 2));
        // A calibration of one is odd, and allowed by sentence-transformers.
        assert_eq!(Ranges::of(&[[1.0f32]]).unwrap().steps().collect::<Vec<_>>(), [(1.0, 1.0)]);
        assert!(Ranges::of(&[[0.0f32; 0]; 0]).is_err());
        assert!(Ranges::of(&[vec![0.0f32], vec![0.0, 1.0]]).unwrap_err().to_string().contains("2 dimensions"));
        assert!(Ranges::of(&[[f32::NAN]]).unwrap_err().to_string().contains("NaN in dimension 0"));
    }
}
