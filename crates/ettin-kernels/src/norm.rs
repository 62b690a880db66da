//! Layer normalisation over rows.

use crate::{
    isa::Isa,
    simd::{Kernel, LANES, Simd},
    team::Team,
};

/// Independent partial sums per row. Fixed, as they define the order of summation.
const CHAINS: usize = 4;

/// The parameters of a layer norm over rows of `weight.len()` elements.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Scale per column.
    pub weight: &'a [f32],
    /// Shift per column, same length.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

/// `(x − mean) / √(variance + eps) · weight + bias` for each row of `x`, into `out` of the same shape.
///
/// Mean and (population) variance are found in two passes, so large offsets cancel before squaring.
///
/// # Panics
/// If the lengths do not fit together.
pub fn layer_norm(isa: Isa, team: &Team, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
    let hidden = norm.weight.len();
    assert!(norm.bias.is_none_or(|bias| bias.len() == hidden), "norm bias is not [{hidden}]");
    assert_eq!(x.len(), out.len(), "x and out differ in length");
    assert!(out.is_empty() || (hidden > 0 && out.len().is_multiple_of(hidden)), "x is not [rows, {hidden}]");
    team.run_rows(out, hidden, 8 * x.len(), |first, out| {
        isa.run(Rows { x: &x[first * hidden..first * hidden + out.len()], norm, out })
    });
}

/// [`layer_norm`] on the calling thread.
pub(crate) fn normalise(isa: Isa, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
    isa.run(Rows { x, norm, out })
}

struct Rows<'a> {
    x: &'a [f32],
    norm: Norm<'a>,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hidden = self.norm.weight.len();
        for (x, out) in self.x.chunks_exact(hidden).zip(self.out.chunks_exact_mut(hidden)) {
            normalised(s, x, self.norm, out);
        }
    }
}

/// One row.
#[inline(always)]
pub(crate) fn normalised<S: Simd>(s: S, x: &[f32], Norm { weight, bias, eps }: Norm<'_>, out: &mut [f32]) {
    let hidden = weight.len();
    let mean = sum(s, x, s.zero(), false) / hidden as f32;
    let variance = sum(s, x, s.splat(mean), true) / hidden as f32;
    let mean = s.splat(mean);
    let scale = s.splat(1.0 / (variance + eps).sqrt());
    let (vectors, tail) = out.as_chunks_mut::<LANES>();
    let count = vectors.len();
    let (xs, weights) = (&x.as_chunks::<LANES>().0[..count], &weight.as_chunks::<LANES>().0[..count]);
    let biases = bias.map(|bias| &bias.as_chunks::<LANES>().0[..count]);
    for i in 0..count {
        let unit = s.mul(s.sub(s.load(&xs[i]), mean), scale);
        let weight = s.load(&weights[i]);
        let value = match biases {
            Some(biases) => s.mul_add(unit, weight, s.load(&biases[i])),
            None => s.mul(unit, weight),
        };
        s.store(value, &mut vectors[i]);
    }
    if tail.is_empty() {
        return;
    }
    let rest = hidden - tail.len()..;
    let unit = s.mul(s.sub(s.load_part(&x[rest.clone()]), mean), scale);
    let weight = s.load_part(&weight[rest.clone()]);
    let value = match bias {
        Some(bias) => s.mul_add(unit, weight, s.load_part(&bias[rest])),
        None => s.mul(unit, weight),
    };
    s.store_part(value, tail);
}

/// Σ(x − shift), or Σ(x − shift)². Vector i goes to chain i mod `CHAINS`, the tail to the last chain.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], shift: S::V, squared: bool) -> f32 {
    let mut sums = [s.zero(); CHAINS];
    let (vectors, tail) = x.as_chunks::<LANES>();
    let (groups, rest) = vectors.as_chunks::<CHAINS>();
    for group in groups {
        for c in 0..CHAINS {
            sums[c] = term(s, s.load(&group[c]), sums[c], shift, squared);
        }
    }
    for (c, v) in rest.iter().enumerate() {
        sums[c] = term(s, s.load(v), sums[c], shift, squared);
    }
    if !tail.is_empty() {
        // Lanes past the end hold the shift, so that they add nothing.
        let mut lanes = [0.0; LANES];
        s.store(shift, &mut lanes);
        lanes[..tail.len()].copy_from_slice(tail);
        sums[CHAINS - 1] = term(s, s.load(&lanes), sums[CHAINS - 1], shift, squared);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

#[inline(always)]
fn term<S: Simd>(s: S, v: S::V, sum: S::V, shift: S::V, squared: bool) -> S::V {
    let d = s.sub(v, shift);
    if squared { s.mul_add(d, d, sum) } else { s.add(sum, d) }
}
