//! The register tile: a few rows times a few panels, accumulators in registers.

use super::{K_BLOCK, Store};
use crate::simd::{Kernel, LANES, Lanes, Portable, Simd};

/// Up to this many rows are read where they are; more are interleaved first, as each would need an address register.
pub(super) const DIRECT_ROWS: usize = 6;

/// How far ahead, in k, the weight is fetched by hand: some 3 KiB, what L3 needs. Hardware prefetch alone leaves a
/// fifth of the speed on the table, with many rows too (the first tile to meet a panel reads it from L3).
const FETCH_AHEAD: usize = 24;

/// `out[rows, columns] (+)= a·bᵀ + bias` for one tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(super) rows: usize,
    pub(super) k: usize,
    /// `[rows, k]`, or `[k, rows]` above [`DIRECT_ROWS`].
    pub(super) a: &'a [f32],
    /// Whole panels `[k, PANEL]`.
    pub(super) b: &'a [f32],
    /// `[columns]`
    pub(super) bias: Option<&'a [f32]>,
    /// Valid outputs: more than one panel less than `b` holds, and no more than it holds.
    pub(super) columns: usize,
    pub(super) store: Store,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// The tile shapes of an instruction set.
pub(crate) trait Tiles: Lanes {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Outputs of a panel.
    const PANEL: usize;

    /// Panels taken at once by a tile of `rows`.
    fn strip(rows: usize) -> usize;

    /// # Safety
    /// `tile.out` must be valid for `rows` rows of `columns`, unaliased. `rows` is in `1..=ROWS`.
    unsafe fn tile(self, tile: Tile<'_>);
}

/// `rows => strip`: enough accumulators to hide the latency of a multiply-add (4 cycles × 2 per cycle), few enough
/// to stay in registers.
macro_rules! tiles {
    ($token:ty, $most:literal rows, $vectors:literal vectors, { $($rows:literal => $strip:literal),+ }) => {
        impl Tiles for $token {
            const ROWS: usize = $most;
            const PANEL: usize = $vectors * LANES;

            #[inline(always)]
            fn strip(rows: usize) -> usize {
                match rows {
                    $($rows => $strip,)+
                    _ => 1,
                }
            }

            #[inline(always)]
            unsafe fn tile(self, tile: Tile<'_>) {
                match tile.rows {
                    // The last strip may hold fewer panels.
                    $($rows if tile.b.len() == tile.k * Self::PANEL * $strip => {
                        self.run(Micro::<$rows, $strip, $vectors>(tile))
                    })+
                    $($rows => {
                        for part in tile.panels(Self::PANEL) {
                            self.run(Micro::<$rows, 1, $vectors>(part))
                        }
                    })+
                    rows => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

tiles!(Portable, 2 rows, 1 vectors, { 1 => 2, 2 => 1 });
#[cfg(target_arch = "aarch64")]
tiles!(crate::simd::Neon, 6 rows, 1 vectors, { 1 => 4, 2 => 2, 3 => 1, 4 => 1, 5 => 1, 6 => 1 });
#[cfg(target_arch = "x86_64")]
tiles!(crate::simd::Avx2, 6 rows, 1 vectors, { 1 => 4, 2 => 2, 3 => 1, 4 => 1, 5 => 1, 6 => 1 });
#[cfg(target_arch = "x86_64")]
tiles!(crate::simd::Avx512, 14 rows, 2 vectors, {
    1 => 4, 2 => 4, 3 => 2, 4 => 2, 5 => 2, 6 => 2, 7 => 1, 8 => 1, 9 => 1, 10 => 1, 11 => 1, 12 => 1, 13 => 1, 14 => 1
});
#[cfg(target_arch = "x86_64")]
tiles!(crate::simd::Avx512Bf16, 14 rows, 2 vectors, {
    1 => 4, 2 => 4, 3 => 2, 4 => 2, 5 => 2, 6 => 2, 7 => 1, 8 => 1, 9 => 1, 10 => 1, 11 => 1, 12 => 1, 13 => 1, 14 => 1
});

impl<'a> Tile<'a> {
    /// The same tile, one panel at a time.
    #[inline(always)]
    fn panels(self, width: usize) -> impl Iterator<Item = Tile<'a>> {
        (0..self.columns.div_ceil(width)).map(move |p| {
            let columns = p * width..self.columns.min((p + 1) * width);
            Tile {
                b: &self.b[p * width * self.k..(p + 1) * width * self.k],
                bias: self.bias.map(|bias| &bias[columns.clone()]),
                columns: columns.len(),
                // `wrapping`: only dereferenced under the promise of `Tiles::tile`.
                out: self.out.wrapping_add(columns.start),
                ..self
            }
        })
    }
}

/// A tile of `R` rows, `P` panels of `N` vectors. Built only by [`Tiles::tile`], whose promise it relies on.
struct Micro<'a, const R: usize, const P: usize, const N: usize>(Tile<'a>);

impl<const R: usize, const P: usize, const N: usize> Kernel for Micro<'_, R, P, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tile = self.0;
        assert!(tile.a.len() == R * tile.k && tile.b.len() == P * N * LANES * tile.k);
        assert!(tile.bias.is_none_or(|bias| bias.len() == tile.columns));
        let mut sum = self.chain(s, 0);
        for start in (K_BLOCK..tile.k).step_by(K_BLOCK) {
            let block = self.chain(s, start);
            for r in 0..R {
                for p in 0..P {
                    for c in 0..N {
                        sum[r][p][c] = s.add(sum[r][p][c], block[r][p][c]);
                    }
                }
            }
        }
        for p in 0..P {
            for c in 0..N {
                let first = (p * N + c) * LANES;
                let len = tile.columns.saturating_sub(first).min(LANES);
                let bias = match tile.bias {
                    Some(bias) if len > 0 => Some(s.load_part(&bias[first..first + len])),
                    _ => None,
                };
                for (r, sum) in sum.iter().enumerate() {
                    let value = match bias {
                        Some(bias) => s.add(sum[p][c], bias),
                        None => sum[p][c],
                    };
                    // SAFETY: `columns` outputs of `R` rows are writable and ours, by the promise of `Tiles::tile`.
                    let out = unsafe {
                        std::slice::from_raw_parts_mut(tile.out.wrapping_add(r * tile.out_stride + first), len)
                    };
                    put(s, value, tile.store, out);
                }
            }
        }
    }
}

/// One vector of results to up to sixteen outputs.
#[inline(always)]
fn put<S: Simd>(s: S, value: S::V, store: Store, out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
        let value = if store == Store::Add { s.add(s.load(out), value) } else { value };
        s.store(value, out);
    } else {
        let value = if store == Store::Add { s.add(s.load_part(out), value) } else { value };
        s.store_part(value, out);
    }
}

impl<const R: usize, const P: usize, const N: usize> Micro<'_, R, P, N> {
    /// The sums over one block of k, each a single chain.
    #[inline(always)]
    fn chain<S: Simd>(&self, s: S, start: usize) -> [[[S::V; N]; P]; R] {
        let Tile { k, a, b, .. } = self.0;
        let (row, step) = if R <= DIRECT_ROWS { (k, 1) } else { (1, R) };
        let mut sums = [[[s.zero(); N]; P]; R];
        for t in start..k.min(start + K_BLOCK) {
            let mut weights = [[s.zero(); N]; P];
            for (p, panel) in weights.iter_mut().enumerate() {
                for (c, weight) in panel.iter_mut().enumerate() {
                    let at = (p * k + t) * N * LANES + c * LANES;
                    // SAFETY: t < k, and `b` holds P panels of k × N vectors (checked by `run`).
                    *weight = unsafe { s.load(&*b.as_ptr().add(at).cast()) };
                    s.prefetch(b.as_ptr().wrapping_add(at + FETCH_AHEAD * N * LANES));
                }
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: r < R, t < k, and `a` holds R × k (checked by `run`).
                let x = s.splat(unsafe { *a.as_ptr().add(r * row + t * step) });
                for (sum, weight) in sums.as_flattened_mut().iter_mut().zip(weights.as_flattened()) {
                    *sum = s.mul_add(x, *weight, *sum);
                }
            }
        }
        sums
    }
}

/// `[count, k]` to `[k, count]`, in blocks of 4 × 4, which the compiler turns into shuffles.
#[inline(always)]
pub(super) fn interleave(rows: &[f32], count: usize, k: usize, out: &mut [f32]) {
    const B: usize = 4;
    assert!(rows.len() == count * k && out.len() == count * k);
    let whole = (count / B * B, k / B * B);
    for t in (0..whole.1).step_by(B) {
        for r in (0..whole.0).step_by(B) {
            let mut block = [[0.0; B]; B];
            for (i, block) in block.iter_mut().enumerate() {
                block.copy_from_slice(&rows[(r + i) * k + t..][..B]);
            }
            for i in 0..B {
                let column = [block[0][i], block[1][i], block[2][i], block[3][i]];
                out[(t + i) * count + r..][..B].copy_from_slice(&column);
            }
        }
        for r in whole.0..count {
            for t in t..t + B {
                out[t * count + r] = rows[r * k + t];
            }
        }
    }
    for t in whole.1..k {
        for r in 0..count {
            out[t * count + r] = rows[r * k + t];
        }
    }
}
