//! The register tile of attention: a few rows times two or four vectors.

use crate::simd::{Kernel, LANES, Lanes, Portable, Simd};

/// Outputs of a tile per row, in pairs of vectors: one block of keys.
pub(super) const WIDTH: usize = 2 * LANES;

/// `out[r][0..width] = start + Σ_t a[r][t] · b[t][0..width]`, one chain of multiply-adds over t per element.
#[derive(Clone, Copy)]
pub(crate) struct RowsTimesBlock {
    pub(super) rows: usize,
    /// Terms of the sum.
    pub(super) len: usize,
    /// A multiple of [`WIDTH`].
    pub(super) width: usize,
    pub(super) a: *const f32,
    pub(super) a_stride: usize,
    pub(super) b: *const f32,
    pub(super) b_stride: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// Start from what `out` holds, not from zero.
    pub(super) resume: bool,
}

/// The row counts that suit an instruction set.
pub(crate) trait Products: Lanes {
    /// Most rows of a tile.
    const GROUP: usize;

    /// # Safety
    /// `a` must be readable for `rows` rows of `len`, `b` for `len` rows of `width`, `out` readable and writable for
    /// `rows` rows of `width`, unaliased.
    unsafe fn rows_times_block(self, product: RowsTimesBlock);
}

/// Row counts of the tiles, largest first, down to 1. A row alone takes four vectors: two would wait on each other.
macro_rules! products {
    ($token:ty, $most:literal rows, $($rows:literal)+) => {
        impl Products for $token {
            const GROUP: usize = $most;

            #[inline(always)]
            unsafe fn rows_times_block(self, mut product: RowsTimesBlock) {
                $(while product.rows >= $rows {
                    let mut part = product;
                    if $rows == 1 {
                        while part.width >= 2 * WIDTH {
                            self.run(Micro::<1, 4>(part));
                            part = part.right(2 * WIDTH);
                        }
                    }
                    while part.width > 0 {
                        self.run(Micro::<$rows, 2>(part));
                        part = part.right(WIDTH);
                    }
                    product = product.below($rows);
                })+
            }
        }
    };
}

products!(Portable, 4 rows, 1);
#[cfg(target_arch = "aarch64")]
products!(crate::simd::Neon, 6 rows, 3 2 1);
#[cfg(target_arch = "x86_64")]
products!(crate::simd::Avx2, 6 rows, 3 2 1);
#[cfg(target_arch = "x86_64")]
products!(crate::simd::Avx512, 8 rows, 8 4 2 1);
#[cfg(target_arch = "x86_64")]
products!(crate::simd::Avx512Bf16, 8 rows, 8 4 2 1);

/// `wrapping`: only dereferenced under the promise of [`Products::rows_times_block`].
impl RowsTimesBlock {
    /// Without the first `rows`.
    #[inline(always)]
    fn below(self, rows: usize) -> Self {
        let a = self.a.wrapping_add(rows * self.a_stride);
        let out = self.out.wrapping_add(rows * self.out_stride);
        Self { rows: self.rows - rows, a, out, ..self }
    }

    /// Without the first `columns`.
    #[inline(always)]
    fn right(self, columns: usize) -> Self {
        let (b, out) = (self.b.wrapping_add(columns), self.out.wrapping_add(columns));
        Self { width: self.width - columns, b, out, ..self }
    }
}

/// Exactly `R` rows of `C` vectors. Built only by [`Products::rows_times_block`], whose promise it relies on.
struct Micro<const R: usize, const C: usize>(RowsTimesBlock);

impl<const R: usize, const C: usize> Kernel for Micro<R, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        let mut sums = [[s.zero(); C]; R];
        if p.resume {
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: R rows of `out` are readable, by the promise of `rows_times_block`.
                let out = unsafe { &*p.out.add(r * p.out_stride).cast::<[[f32; LANES]; C]>() };
                for (sum, out) in sums.iter_mut().zip(out) {
                    *sum = s.load(out);
                }
            }
        }
        for t in 0..p.len {
            // SAFETY: `len` rows of `b` are readable, by the same promise.
            let row = unsafe { &*p.b.add(t * p.b_stride).cast::<[[f32; LANES]; C]>() };
            let mut b = [s.zero(); C];
            for (b, row) in b.iter_mut().zip(row) {
                *b = s.load(row);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `len` elements of each of R rows of `a` are readable, by the same promise.
                let a = s.splat(unsafe { *p.a.add(r * p.a_stride + t) });
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = s.mul_add(a, b, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: R rows of `out` are writable and unaliased, by the same promise.
            let out = unsafe { &mut *p.out.add(r * p.out_stride).cast::<[[f32; LANES]; C]>() };
            for (sum, out) in sums.iter().zip(out) {
                s.store(*sum, out);
            }
        }
    }
}
