//! What repetitions come to.

use serde::{Deserialize, Serialize};

/// Mean, spread and extremes of some measured values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (over n − 1); 0 for a single value.
    pub sd: f64,
    /// The least.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Statistics {
    /// Of at least one value; all zeros for none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self { mean: 0.0, sd: 0.0, min: 0.0, median: 0.0, max: 0.0 };
        };
        let count = sorted.len();
        let mean = sorted.iter().sum::<f64>() / count as f64;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            sd: if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 },
            min,
            median: f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let statistics = Statistics::of(&[4.0, 2.0, 9.0, 5.0]);
        assert_eq!((statistics.mean, statistics.min, statistics.median, statistics.max), (5.0, 2.0, 4.5, 9.0));
        // Squared distances 1, 9, 16, 0 over three.
        assert!((statistics.sd - (26.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Statistics::of(&[7.0, 1.0, 3.0]).median, 3.0);
        assert_eq!(Statistics::of(&[3.5]), Statistics { mean: 3.5, sd: 0.0, min: 3.5, median: 3.5, max: 3.5 });
    }
}
