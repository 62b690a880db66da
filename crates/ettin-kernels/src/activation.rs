//! Activation functions and the gated product GeGLU, on whole vectors.

use crate::{
    isa::Isa,
    math::{exp, negate, polynomial},
    simd::{Kernel, LANES, Simd},
    team::Team,
};

/// Rough flops of an activation.
const WORK: usize = 32;

/// A function applied element by element. All pass NaN on.
///
/// Errors are against f64; see [`Activation::max_error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), exact (erf) form: `gelu`.
    Gelu,
    /// The tanh approximation: `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// x·sigmoid(x).
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Most absolute error as a multiple of |x|, for |x| ≥ 2⁻¹⁰⁰; 2⁻²³ is 1.19e-7. Measured at every 997th f32: 1.0e-7
    /// (Gelu), 1.2e-7 (GeluTanh), 1.15e-7 (Silu).
    pub fn max_error(self) -> f64 {
        match self {
            Activation::Gelu => 1.2e-7,
            Activation::GeluTanh => 1.3e-7,
            Activation::Silu => 1.3e-7,
            Activation::Relu => 0.0,
        }
    }
}

/// Applies `act` to every element of `x` in place.
pub fn activate(isa: Isa, team: &Team, act: Activation, x: &mut [f32]) {
    let work = x.len() * WORK;
    team.run_rows(x, LANES, work, |_, part| isa.run(Activate { act, x: part }));
    let tail = x.len() / LANES * LANES;
    isa.run(Activate { act, x: &mut x[tail..] });
}

/// `out = act(a) ⊙ b` on the calling thread; `coarse` where the result is rounded to bf16 or less.
pub(crate) fn gated(isa: Isa, act: Activation, coarse: bool, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len(), "a, b and out differ in length");
    isa.run(Gated { act, coarse, a, b, out })
}

/// A function of one vector, as a type: the choice is made outside the loop.
pub(crate) trait Function: Copy {
    fn of<S: Simd>(self, s: S, x: S::V) -> S::V;
}

#[derive(Clone, Copy)]
pub(crate) struct Gelu;
#[derive(Clone, Copy)]
pub(crate) struct CoarseGelu;
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;
#[derive(Clone, Copy)]
pub(crate) struct Silu;
#[derive(Clone, Copy)]
pub(crate) struct Relu;

impl Function for Gelu {
    /// Two forms of Φ, for a = |x|. Up to 1: ½ + x·R(x²), R of relative error 5e-10, as the other would lose three
    /// bits there. Above: Φ(−a) = e^(−a²/2)·t·Q(t) with t = 1 / (1 + 0.3a), Q of 3.5e-9, whose error is relative to
    /// the tail, where 1 + erf cancels.
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V) -> S::V {
        let one = s.splat(1.0);
        let square = s.mul(x, x);
        let r = polynomial(
            s,
            square,
            [-7.462_895e-6, 1.129_521_7e-4, -1.185_784_9e-3, 9.973_078e-3, -6.649_031_5e-2, 3.989_423e-1],
        );
        let near = s.mul_add(x, r, s.splat(0.5));

        // Φ is 0 or 1 beyond 16; finite, so that nothing below becomes NaN. A NaN comes second and stays.
        let a = s.min(s.splat(16.0), s.max(negate(s, x), x));
        let t = s.div(one, s.mul_add(s.splat(0.3), a, one));
        let q = polynomial(
            s,
            t,
            [
                -2.062_488_3e-2,
                1.124_435_7e-1,
                -2.282_33e-1,
                1.918_114_6e-1,
                -7.944_686e-2,
                9.616_996e-2,
                7.838_489e-2,
                1.102_365e-1,
                1.195_716_8e-1,
                1.196_867e-1,
            ],
        );
        // Where multiply-add is fused, the rounding error of a² is carried into the result: e^(−e/2) ≈ 1 − e/2.
        let square = s.mul(a, a);
        let lost = s.mul_add(a, a, negate(s, square));
        let e = exp(s, s.mul(s.splat(-0.5), square));
        let e = s.mul_add(s.mul(s.splat(-0.5), lost), e, e);
        let below = s.mul(s.mul(t, q), e);
        let far = s.where_less(x, s.zero(), below, s.sub(one, below));
        s.mul(x, s.where_less(a, one, near, far))
    }
}

/// Most absolute error of [`CoarseGelu`] as a multiple of |x|: a hundredth of what bf16 rounds. Measured: 1.7e-5.
#[cfg(test)]
const COARSE_ERROR: f64 = 1.8e-5;

impl Function for CoarseGelu {
    /// Φ = ½ + x·R(x²), with x held to where Φ is 0 or 1 within the error; R is fitted so that it is 0 there nearly
    /// exactly.
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V) -> S::V {
        // A NaN comes second and stays.
        let held = s.min(s.splat(4.4), s.max(s.splat(-4.4), x));
        let r = polynomial(
            s,
            s.mul(held, held),
            [
                4.376_074_5e-11,
                -4.448_816e-9,
                1.989_263_4e-7,
                -5.201_442_5e-6,
                8.958_319e-5,
                -1.089_104_3e-3,
                9.764_224e-3,
                -6.628_358e-2,
                3.988_818_2e-1,
            ],
        );
        s.mul(x, s.mul_add(held, r, s.splat(0.5)))
    }
}

impl Function for GeluTanh {
    /// ½x(1 + tanh u) = x / (1 + e^(−2u)), u = √(2/π)(x + 0.044715x³).
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V) -> S::V {
        let cubic = s.mul_add(s.mul(s.splat(0.044_715), x), s.mul(x, x), x);
        let e = exp(s, s.mul(s.splat(-1.595_769_2), cubic));
        s.div(x, s.add(s.splat(1.0), e))
    }
}

impl Function for Silu {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.div(x, s.add(s.splat(1.0), exp(s, negate(s, x))))
    }
}

impl Function for Relu {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.where_less(x, s.zero(), s.zero(), x)
    }
}

/// Evaluates an expression with the function of an activation: `with_function!(activation, coarse, f => f.of(s, x))`;
/// `coarse` where the result is rounded to bf16 or less, so that a shorter polynomial serves.
macro_rules! with_function {
    ($activation:expr, $coarse:expr, $f:ident => $do:expr) => {{
        use $crate::activation::{Activation, CoarseGelu, Gelu, GeluTanh, Relu, Silu};
        match $activation {
            Activation::Gelu if $coarse => $crate::activation::with_function!(@ $f = CoarseGelu => $do),
            Activation::Gelu => $crate::activation::with_function!(@ $f = Gelu => $do),
            Activation::GeluTanh => $crate::activation::with_function!(@ $f = GeluTanh => $do),
            Activation::Silu => $crate::activation::with_function!(@ $f = Silu => $do),
            Activation::Relu => $crate::activation::with_function!(@ $f = Relu => $do),
        }
    }};
    (@ $f:ident = $function:expr => $do:expr) => {{
        let $f = $function;
        $do
    }};
}
pub(crate) use with_function;

struct Activate<'a> {
    act: Activation,
    x: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (vectors, tail) = self.x.as_chunks_mut();
        with_function!(self.act, false, f => {
            for v in vectors {
                s.store(f.of(s, s.load(v)), v);
            }
            s.store_part(f.of(s, s.load_part(tail)), tail);
        });
    }
}

struct Gated<'a> {
    act: Activation,
    /// Whether the result is rounded to bf16 or less, so that a shorter polynomial serves.
    coarse: bool,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { act, coarse, a, b, out } = self;
        let (a, a_tail) = a.as_chunks();
        let (b, b_tail) = b.as_chunks();
        let (out, tail) = out.as_chunks_mut();
        // By index: iterators side by side would be kept in memory, and waited for.
        let vectors = out.len();
        let (a, b) = (&a[..vectors], &b[..vectors]);
        with_function!(act, coarse, f => {
            for i in 0..vectors {
                s.store(s.mul(f.of(s, s.load(&a[i])), s.load(&b[i])), &mut out[i]);
            }
            if !tail.is_empty() {
                s.store_part(s.mul(f.of(s, s.load_part(a_tail)), s.load_part(b_tail)), tail);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_isa;

    #[test]
    fn the_short_polynomial_keeps_its_bound() {
        let points: Vec<f32> = (-60_000..=60_000).map(|i| i as f32 / 5_000.0).collect();
        each_isa(|isa| {
            let ones = vec![1.0; points.len()];
            let [mut exact, mut coarse] = [(); 2].map(|()| vec![0.0; points.len()]);
            gated(isa, Activation::Gelu, false, &points, &ones, &mut exact);
            gated(isa, Activation::Gelu, true, &points, &ones, &mut coarse);
            let mut worst = 0.0;
            for ((&x, exact), coarse) in points.iter().zip(exact).zip(coarse) {
                let error = f64::from(exact - coarse).abs() / f64::from(x.abs()).max(1e-30);
                assert!(error <= COARSE_ERROR, "{isa}: gelu({x}) = {exact}, not {coarse}");
                worst = f64::max(worst, error);
            }
            println!("{isa}: {worst:e}");
            // Far out it is nothing, whatever x is multiplied by.
            let mut far = [0.0];
            gated(isa, Activation::Gelu, true, &[-1e4], &[1.0], &mut far);
            assert!(far[0].abs() < 1e-3, "{isa}: gelu(-1e4) = {}", far[0]);
            gated(isa, Activation::Gelu, true, &[f32::NAN], &[1.0], &mut far);
            assert!(far[0].is_nan(), "{isa}");
        });
    }
}
