//! The register tile of attention: a few rows times one pair of vectors.

use crate::simd::{Kernel, LANES, Lanes, Portable, Simd};

/// Outputs of a tile per row: two vectors, one block of keys.
pub(super) const WIDTH: usize = 2 * LANES;

/// `out[r][0..WIDTH] = start + Σ_t a[r][t] · b[t][0..WIDTH]`, one chain of multiply-adds over t per element.
#[derive(Clone, Copy)]
pub(crate) struct RowsTimesBlock {
    pub(super) rows: usize,
    /// Terms of the sum.
    pub(super) len: usize,
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
    /// `a` must be readable for `rows` rows of `len`, `b` for `len` rows of [`WIDTH`], `out` readable and writable
    /// for `rows` rows of [`WIDTH`], unaliased. `rows` is at most `GROUP`.
    unsafe fn rows_times_block(self, product: RowsTimesBlock);
}

macro_rules! products {
    ($token:ty, $most:literal rows, $($rows:literal)+) => {
        impl Products for $token {
            const GROUP: usize = $most;

            #[inline(always)]
            unsafe fn rows_times_block(self, mut product: RowsTimesBlock) {
                $(while product.rows >= $rows {
                    self.run(Micro::<$rows>(product));
                    product.rows -= $rows;
                    product.a = product.a.wrapping_add($rows * product.a_stride);
                    product.out = product.out.wrapping_add($rows * product.out_stride);
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

/// Exactly `R` rows. Built only by [`Products::rows_times_block`], whose promise it relies on.
struct Micro<const R: usize>(RowsTimesBlock);

impl<const R: usize> Kernel for Micro<R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        let mut sums = [[s.zero(); 2]; R];
        if p.resume {
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: R rows of `out` are readable, by the promise of `rows_times_block`.
                let out = unsafe { &*p.out.add(r * p.out_stride).cast::<[[f32; LANES]; 2]>() };
                *sum = [s.load(&out[0]), s.load(&out[1])];
            }
        }
        for t in 0..p.len {
            // SAFETY: `len` rows of `b` are readable, by the same promise.
            let b = unsafe { &*p.b.add(t * p.b_stride).cast::<[[f32; LANES]; 2]>() };
            let b = [s.load(&b[0]), s.load(&b[1])];
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `len` elements of each of R rows of `a` are readable, by the same promise.
                let a = s.splat(unsafe { *p.a.add(r * p.a_stride + t) });
                *sum = [s.mul_add(a, b[0], sum[0]), s.mul_add(a, b[1], sum[1])];
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            // SAFETY: R rows of `out` are writable and unaliased, by the same promise.
            let out = unsafe { &mut *p.out.add(r * p.out_stride).cast::<[[f32; LANES]; 2]>() };
            s.store(sum[0], &mut out[0]);
            s.store(sum[1], &mut out[1]);
        }
    }
}
