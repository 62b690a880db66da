//! Vector functions with a stated error, written once for all instruction sets.
//!
//! Coefficients are our own minimax fits (relative error, Lawson iteration on 400 Chebyshev nodes), rounded to f32.

use std::f32::consts::LOG2_E;

use crate::simd::Lanes;

/// Most relative error of the exponential for normal results (subnormal ones are rounded once more): 1.5 half-ulps.
/// Measured at every 257th f32: 8.1e-8 = 1.36 · 2⁻²⁴, of which the polynomial is 0.05.
pub const EXP_ERROR: f64 = 1.5 / 16_777_216.0;

/// Adding it rounds an f32 below 2²² to the nearest integer, which is then in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// ln 2 in two parts: the first has enough trailing zeros for its products with |n| ≤ 151 to be exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// eˣ. 0 below −103.98 (so −∞ gives exactly 0), ∞ above 88.73, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Lanes>(s: S, x: S::V) -> S::V {
    // Beyond these the result is 0 or ∞ anyway. The bound comes first, so that NaN passes.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let rounder = s.splat(ROUNDER);
    let n = s.sub(s.mul_add(x, s.splat(LOG2_E), rounder), rounder);
    let r = s.mul_add(n, s.splat(-LN_2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN_2_LOW), r);
    // eʳ = 1 + r + r²·q(r) for |r| ≤ ln 2 / 2
    let q = polynomial(s, r, [1.381_453_9e-3, 8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1]);
    let tail = s.mul_add(s.mul(r, r), q, r);
    s.scale(s.add(s.splat(1.0), tail), n)
}

/// Most relative error of [`exp2_weight`]: 3.5 half-ulps. Measured at every 257th f32: 1.7e-7 (1.8e-7 in two
/// roundings), of which the polynomial is 1.1e-7.
#[cfg(test)]
const EXP2_WEIGHT_ERROR: f64 = 3.5 / 16_777_216.0;

/// 2ˣ for x ≤ 0, exactly 1 at 0; 0 below −126 (so −∞ gives 0), NaN for NaN.
#[inline(always)]
pub(crate) fn exp2_weight<S: Lanes>(s: S, x: S::V) -> S::V {
    let rounder = s.splat(ROUNDER);
    let n = s.sub(s.add(x, rounder), rounder);
    // 2ʳ = 1 + r·q(r) for |r| ≤ 1/2
    let r = s.sub(x, n);
    #[allow(clippy::approx_constant)] // the last is fitted with the others, and is not ln 2
    let q = polynomial(s, r, [1.326_474_6e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1]);
    let power = s.scale_normal(s.mul_add(r, q, s.splat(1.0)), n);
    s.where_less(x, s.splat(-126.0), s.zero(), power)
}

/// Most relative error of [`exp2_approximate`]. Measured at every 257th f32: 7.49e-5, of which rounding is 1e-7.
#[cfg(test)]
const EXP2_APPROXIMATE_ERROR: f64 = 7.6e-5;

/// 2ˣ for x ≤ 127, for what is rounded to bf16 (2⁻⁹) afterwards; 0 below −126 (so −∞ gives 0), NaN for NaN.
#[inline(always)]
pub(crate) fn exp2_approximate<S: Lanes>(s: S, x: S::V) -> S::V {
    // 2ᶠ for 0 ≤ f < 1
    let f = s.fraction(x);
    s.scale_floor(polynomial(s, f, [7.802_452e-2, 2.260_671_6e-1, 6.958_335e-1, 9.999_252e-1]), x)
}

/// Horner's rule, highest coefficient first.
#[inline(always)]
pub(crate) fn polynomial<S: Lanes, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = s.mul_add(sum, x, s.splat(c));
    }
    sum
}

#[inline(always)]
pub(crate) fn negate<S: Lanes>(s: S, x: S::V) -> S::V {
    s.sub(s.zero(), x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Isa,
        simd::{Kernel, LANES, Simd},
        testing::each_isa,
    };

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = self.0;
            s.store(exp(s, s.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp_keeps_its_bound() {
        // Every 257th f32 of magnitude 2⁻³⁰ to 89, both signs.
        let (low, high) = (2f32.powi(-30).to_bits(), 89f32.to_bits());
        let points: Vec<f32> = (low..high).step_by(257).map(f32::from_bits).flat_map(|x| [x, -x]).collect();
        each_isa(|isa| {
            let mut worst = 0.0;
            for x in points.as_chunks::<LANES>().0 {
                for (&x, got) in x.iter().zip(isa.run(Exp(*x))) {
                    let want = f64::from(x).exp();
                    if want >= f64::from(f32::MIN_POSITIVE) && want <= f64::from(f32::MAX) {
                        let error = (f64::from(got) / want - 1.0).abs();
                        assert!(error <= EXP_ERROR, "{isa}: exp({x}) = {got}, {error:e}");
                        worst = f64::max(worst, error);
                    } else {
                        // Half a step of the subnormals, or infinite.
                        assert!(
                            (f64::from(got) - want).abs() <= 1e-45 + EXP_ERROR * want || got == f32::INFINITY,
                            "{isa}: {x}"
                        );
                    }
                }
            }
            println!("{isa}: {worst:e}");
        });
    }

    struct Exp2Weight([f32; LANES]);

    impl Kernel for Exp2Weight {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = self.0;
            s.store(exp2_weight(s, s.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp2_weight_keeps_its_bound() {
        let (low, high) = (2f32.powi(-30).to_bits(), 126f32.to_bits());
        let points: Vec<f32> = (low..=high).step_by(257).map(|x| -f32::from_bits(x)).collect();
        each_isa(|isa| {
            let mut worst = 0.0;
            for x in points.as_chunks::<LANES>().0 {
                for (&x, got) in x.iter().zip(isa.run(Exp2Weight(*x))) {
                    let error = (f64::from(got) / f64::from(x).exp2() - 1.0).abs();
                    assert!(error <= EXP2_WEIGHT_ERROR, "{isa}: 2^{x} = {got}, {error:e}");
                    worst = f64::max(worst, error);
                }
            }
            println!("{isa}: {worst:e}");
            let mut x = [0.0; LANES];
            x[..7].copy_from_slice(&[0.0, -0.0, f32::NEG_INFINITY, f32::NAN, -126.0, -126.1, -f32::NAN]);
            let y = isa.run(Exp2Weight(x));
            assert_eq!(y[..3], [1.0, 1.0, 0.0], "{isa}");
            assert!(y[3].is_nan() && y[6].is_nan(), "{isa}");
            assert_eq!(y[4..6], [f32::MIN_POSITIVE, 0.0], "{isa}");
        });
    }

    struct Exp2Approximate([f32; LANES]);

    impl Kernel for Exp2Approximate {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = self.0;
            s.store(exp2_approximate(s, s.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp2_approximate_keeps_its_bound() {
        let (low, high) = (2f32.powi(-30).to_bits(), 126f32.to_bits());
        let magnitudes = (low..=high).step_by(257).map(f32::from_bits);
        let points: Vec<f32> = magnitudes.flat_map(|x| [-x, x]).collect();
        let all = |isa: Isa, run: &dyn Fn([f32; LANES]) -> [f32; LANES]| {
            let mut worst = 0.0;
            for x in points.as_chunks::<LANES>().0 {
                for (&x, got) in x.iter().zip(run(*x)) {
                    let error = (f64::from(got) / f64::from(x).exp2() - 1.0).abs();
                    assert!(error <= EXP2_APPROXIMATE_ERROR, "{isa}: 2^{x} = {got}, {error:e}");
                    worst = f64::max(worst, error);
                }
            }
            println!("{isa}: {worst:e}");
            let mut x = [0.0; LANES];
            x[..6].copy_from_slice(&[f32::NEG_INFINITY, f32::NAN, -126.1, -1e30, f32::MIN, -f32::NAN]);
            let y = run(x);
            assert!(y[0].to_bits() == 0 && y[2..5] == [0.0; 3], "{isa}: {y:?}");
            assert!(y[1].is_nan() && y[5].is_nan(), "{isa}: {y:?}");
        };
        each_isa(|isa| {
            all(isa, &|x| isa.run(Exp2Approximate(x)));
            all(isa, &|x| isa.run_low_precision(Exp2Approximate(x)));
        });
    }

    #[test]
    fn exp_of_special_values() {
        each_isa(|isa| {
            let mut x = [0.0; LANES];
            x[..8].copy_from_slice(&[0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -1e30, 1e30, -104.0]);
            let y = isa.run(Exp(x));
            assert_eq!(y[..4], [1.0, 1.0, 0.0, f32::INFINITY], "{isa}");
            assert!(y[4].is_nan(), "{isa}");
            assert_eq!(y[5..8], [0.0, f32::INFINITY, 0.0], "{isa}");
            assert!(y[2].is_sign_positive());
        });
    }
}
