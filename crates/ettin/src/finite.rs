//! Results that are no numbers (NaN or infinite): kept back, and traced to the step they come from.
//!
//! Looked at are the few numbers that leave a model. Only when one of them is not finite is its sequence computed
//! once more, alone, with a look at every step; by the invariance rule it then gives the same numbers. A broken
//! weight that no input meets (the vector of a token that does not occur) is thus no error.

use candle_core::Tensor;

use crate::{Dtype, Error, PackedBatch, Result, Trunk, ops::States};

/// Whether all are numbers.
pub(crate) fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// Whether scores can be compared: some are numbers, and none is NaN or +∞. A score of −∞ excludes a choice.
pub(crate) fn is_comparable<'a>(scores: impl IntoIterator<Item = &'a f32>) -> bool {
    let mut any = false;
    scores.into_iter().all(|&score| {
        any |= score.is_finite();
        score < f32::INFINITY
    }) && any
}

/// A model that can look at every step of what it computes.
pub(crate) trait Traced {
    /// What the last step gives, in words.
    const RESULT: &'static str;

    fn trunk(&self) -> &Trunk;

    /// Computes a batch with a look at every step before the last.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first step whose result is not finite.
    fn trace(&self, batch: &PackedBatch) -> Result<()>;

    /// The value, or where the numbers of the sequence it was made of stop being `finite`.
    ///
    /// # Errors
    /// [`Error::NotFinite`]; failures of the engine.
    fn finite<T>(&self, finite: bool, value: T, ids: &[u32]) -> Result<T> {
        if finite { Ok(value) } else { Err(self.not_finite(ids)) }
    }

    /// Where the numbers of this sequence stop being finite.
    #[cold]
    fn not_finite(&self, ids: &[u32]) -> Error {
        let traced = PackedBatch::new(&[ids]).and_then(|batch| self.trace(&batch));
        traced.err().unwrap_or_else(|| not_finite(Self::RESULT, self.trunk().backend().dtype()))
    }
}

/// The error for a place in a model.
pub(crate) fn not_finite(place: impl Into<String>, dtype: Dtype) -> Error {
    Error::NotFinite { place: place.into(), dtype: dtype.to_string() }
}

/// Fails where a step's result is not finite.
pub(crate) fn check(place: impl FnOnce() -> String, step: &dyn States, dtype: Dtype) -> Result<()> {
    if step.is_finite()? { Ok(()) } else { Err(not_finite(place(), dtype)) }
}

/// `after`, with NaN in each row `[rows, size]` of which `before` holds what is not finite: for functions that hide
/// it, as tanh(∞) is 1 and the largest of NaN and 0 is 0.
pub(crate) fn passed_on(before: &Tensor, after: &Tensor) -> Result<Tensor> {
    // 0 · ∞ is NaN, and times 1 changes no number.
    let one_or_nan = ((before * 0.0)?.sum_keepdim(1)? + 1.0)?;
    Ok(after.broadcast_mul(&one_or_nan)?)
}

/// The largest of every column of `[rows, size]`, as `[1, size]`; NaN where one of them is not finite.
pub(crate) fn largest(rows: &Tensor) -> Result<Tensor> {
    let one_or_nan = ((rows * 0.0)?.sum_keepdim(0)? + 1.0)?;
    Ok(rows.max_keepdim(0)?.broadcast_mul(&one_or_nan)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn an_impossible_choice_is_no_fault_but_none_possible_is() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert!(is_comparable(&[1.0, -infinite, -3.0]) && is_comparable(&[0.0]));
        for scores in [&[1.0, nan][..], &[infinite, 1.0], &[-infinite, -infinite], &[]] {
            assert!(!is_comparable(scores), "{scores:?}");
        }
        assert!(is_finite(&[0.0, -1e38]) && !is_finite(&[-infinite]) && !is_finite(&[nan]));
    }

    #[test]
    fn what_a_function_hides_is_passed_on_and_numbers_stay() {
        let rows = [[1e38f32, -0.0], [f32::INFINITY, 2.0], [f32::NAN, 0.0]];
        let before = Tensor::new(&rows, &Device::Cpu).unwrap();
        let after = passed_on(&before, &before.tanh().unwrap()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(after[0].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1f32, -0.0].map(f32::to_bits));
        assert!(after[1..].iter().flatten().all(|x| x.is_nan()), "{after:?}");
    }
}
