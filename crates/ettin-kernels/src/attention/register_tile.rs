//! The register tile of attention: a few rows times vectors of queries, accumulators in registers.

use std::marker::PhantomData;

use super::dot::FlashStep;
use crate::simd::{Kernel, LANES, Lanes, Portable, Simd};

/// `out[r][i] = start + Σ_t a[t][r] · b[t][i]` for rows r and the lanes i of `C` vectors of queries: one chain of
/// steps over t per element. Operands are those of a [`FlashStep`].
#[derive(Clone, Copy)]
pub(crate) struct TileProduct {
    /// A multiple of [`RegisterTiles::rows`].
    pub(super) rows: usize,
    /// Operands of a sum.
    pub(super) steps: usize,
    /// `[steps, rows]`
    pub(super) a: *const f32,
    pub(super) a_stride: usize,
    /// `[steps, vectors]`
    pub(super) b: *const f32,
    /// Hides terms of `a`, as `b`; null where everything is seen.
    pub(super) seen: *const f32,
    /// `[rows, vectors]`
    pub(super) out: *mut f32,
    /// Elements from one row of `b`, `seen` and `out` to the next.
    pub(super) stride: usize,
    /// Sums start from `out` times this, one vector for all rows; from zero where null.
    pub(super) correction: *const f32,
    /// Prefetched meanwhile, a line a step, as the next operands are read with strides: any address.
    pub(super) ahead: *const f32,
    /// Lines of it.
    pub(super) lines: usize,
}

/// The tiles that suit an instruction set.
pub(crate) trait RegisterTiles: Simd {
    /// Most vectors of queries of a tile.
    const MAX_VECTORS: usize;
    /// Up to so many queries are cheaper one by one.
    const MAX_SINGLE: usize;

    /// Rows of a tile with so many vectors of queries; they divide a block.
    fn rows(vectors: usize) -> usize;

    /// # Safety
    /// With `rows` and `steps` as in `product` and width 16 · `vectors` (at most
    /// [`RegisterTiles::MAX_VECTORS`]): `a` must be readable for `steps` rows of `rows`, `b` and `seen` (unless null)
    /// for `steps` rows of the width, `correction` (unless null) for the width; `out` readable and writable, unaliased,
    /// for `rows` rows of the width.
    unsafe fn product<A: FlashStep>(self, product: TileProduct, vectors: usize);
}

/// Vectors of queries of a tile and its rows.
macro_rules! register_tiles {
    ($token:ty, $most:literal vectors, alone up to $alone:literal, { $($vectors:literal => $rows:literal),+ }) => {
        impl RegisterTiles for $token {
            const MAX_VECTORS: usize = $most;
            const MAX_SINGLE: usize = $alone;

            #[inline(always)]
            fn rows(vectors: usize) -> usize {
                match vectors {
                    $($vectors => $rows,)+
                    _ => unreachable!("{vectors} vectors of queries"),
                }
            }

            #[inline(always)]
            unsafe fn product<A: FlashStep>(self, product: TileProduct, vectors: usize) {
                match (vectors, product.seen.is_null()) {
                    $(($vectors, true) => self.run(MicroProduct::<A, $rows, $vectors, false>(product, PhantomData)),
                    ($vectors, false) => self.run(MicroProduct::<A, $rows, $vectors, true>(product, PhantomData)),)+
                    _ => unreachable!("{vectors} vectors of queries"),
                }
            }
        }
    };
}

register_tiles!(Portable, 1 vectors, alone up to 3, { 1 => 2 });
#[cfg(target_arch = "aarch64")]
register_tiles!(crate::simd::Neon, 1 vectors, alone up to 4, { 1 => 4 });
#[cfg(target_arch = "x86_64")]
register_tiles!(crate::simd::Avx2, 1 vectors, alone up to 4, { 1 => 4 });
#[cfg(target_arch = "x86_64")]
register_tiles!(crate::simd::Avx512, 2 vectors, alone up to 3, { 1 => 16, 2 => 8 });
#[cfg(target_arch = "x86_64")]
register_tiles!(crate::simd::Avx512Bf16, 2 vectors, alone up to 3, { 1 => 16, 2 => 8 });

/// `R` rows and `C` vectors at a time. Built only by [`RegisterTiles::product`], whose promise it relies on.
struct MicroProduct<A, const R: usize, const C: usize, const HIDES: bool>(TileProduct, PhantomData<A>);

impl<A: FlashStep, const R: usize, const C: usize, const HIDES: bool> Kernel for MicroProduct<A, R, C, HIDES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        let mut line = 0;
        for first in (0..p.rows).step_by(R) {
            let mut sums = [[s.zero(); C]; R];
            if !p.correction.is_null() {
                // SAFETY: by the promise of `product`, as all below.
                let correction = unsafe { &*p.correction.cast::<[[f32; LANES]; C]>() };
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: rows of `out` are readable.
                    let out = unsafe { &*p.out.add((first + r) * p.stride).cast::<[[f32; LANES]; C]>() };
                    for c in 0..C {
                        sums[c] = s.mul(s.load(&out[c]), s.load(&correction[c]));
                    }
                }
            }
            for t in 0..p.steps {
                s.prefetch(p.ahead.wrapping_add(line * LANES));
                line = (line + 1).min(p.lines);
                // SAFETY: `steps` rows of `b` are readable.
                let row = unsafe { &*p.b.add(t * p.stride).cast::<[[f32; LANES]; C]>() };
                let mut b = [A::load(s, &row[0]); C];
                for c in 1..C {
                    b[c] = A::load(s, &row[c]);
                }
                let mut seen = b;
                if HIDES {
                    // SAFETY: `steps` rows of `seen` are readable, which is not null.
                    let row = unsafe { &*p.seen.add(t * p.stride).cast::<[[f32; LANES]; C]>() };
                    for c in 0..C {
                        seen[c] = A::load(s, &row[c]);
                    }
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `rows` elements of each of `steps` rows of `a` are readable.
                    let a = A::splat(s, unsafe { *p.a.add(t * p.a_stride + first + r) });
                    for c in 0..C {
                        sums[c] = if HIDES {
                            A::add_seen(s, sums[c], [a, b[c]], seen[c])
                        } else {
                            A::add(s, sums[c], a, b[c])
                        };
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: rows of `out` are writable and unaliased.
                let out = unsafe { &mut *p.out.add((first + r) * p.stride).cast::<[[f32; LANES]; C]>() };
                for c in 0..C {
                    s.store(sums[c], &mut out[c]);
                }
            }
        }
    }
}
