//! Deterministic data and comparisons shared by the tests.
#![allow(dead_code)] // each test file uses its part

/// A small counter-based generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub(crate) fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }
}

/// The bits, so that comparisons tell −0 from 0 and see NaN.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Largest difference divided by the largest reference.
pub(crate) fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).abs());
    let scale = want.iter().fold(0.0f64, |a, w| a.max(w.abs()));
    assert!(got.iter().all(|x| x.is_finite()), "not finite");
    error.fold(0.0, f64::max) / scale.max(f64::MIN_POSITIVE)
}
