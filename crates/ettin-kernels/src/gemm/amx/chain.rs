//! Chains of tile instructions: what a product of tiles does with a panel, or two.

use super::super::{formats::Microkernel, tile::Tile};
use crate::{
    buffer::numbers,
    simd::{LANES, Simd},
};

/// Rows and outputs of a product of tiles.
pub(in crate::gemm) const SIDE: usize = 2 * LANES;

/// Bytes of a panel that stay in L1 while tiles of rows pass: half of 48 KiB.
const MAX_L1_PANEL: usize = 24 << 10;

/// Sums of rows × outputs, bit for bit.
#[repr(C, align(64))]
pub(in crate::gemm) struct Sums(pub(in crate::gemm) [[u32; SIDE]; SIDE]);

impl Sums {
    /// Where they are numbers.
    pub(in crate::gemm) fn numbers(&self) -> &[f32] {
        numbers(self.0.as_flattened())
    }
}

static START_AT_ZERO: [u32; SIDE] = [0; SIDE];

/// What the sums of a panel start from.
#[inline(always)]
fn start<'a>(tile: &Tile<'a>) -> &'a [u32; SIDE] {
    if tile.compensation.is_empty() { &START_AT_ZERO } else { &tile.compensation.as_chunks().0[0] }
}

/// Groups of a chain.
#[inline(always)]
fn groups<F: AmxMicrokernel>(tile: &Tile<'_>) -> usize {
    let groups = tile.steps / LANES;
    let row_words = groups * LANES * F::STEP_WORDS;
    assert!(groups > 0 && tile.steps == groups * LANES && tile.rows <= SIDE);
    assert!(tile.a.len() == tile.rows * row_words && tile.b.len() == SIDE * row_words);
    groups
}

/// Bytes from one group of the rows to the next.
#[inline(always)]
fn x_step<F: AmxMicrokernel>(tile: &Tile<'_>) -> usize {
    tile.rows * LANES * F::STEP_WORDS * size_of::<u32>()
}

/// The sums of up to 16 rows and two panels, which are fetched side by side, and behind them the ones `next` panels
/// further, if it is not 0.
#[inline(always)]
pub(in crate::gemm) fn pair<F: AmxMicrokernel>([first, second]: [&Tile<'_>; 2], next: usize, sums: &mut [Sums; 2]) {
    let groups = groups::<F>(first);
    assert!(first.rows <= LANES && second.b.len() == first.b.len());
    let w = [first.b.as_ptr(), second.b.as_ptr()];
    let next = match next {
        // Behind the last ones, what follows the second: at worst another thread will need it.
        0 => [w[1].wrapping_add(first.b.len()); 2],
        _ => w.map(|w| w.wrapping_add(next * first.b.len())),
    };
    let ahead = (AHEAD_OF_PAIR / F::STEP_WORDS).max(1);
    let near = groups > ahead;
    let pair = AmxPair {
        next,
        ahead: if near { w.map(|w| w.wrapping_add(ahead * SIDE * LANES * F::STEP_WORDS)) } else { next },
        left: if near { groups - ahead } else { usize::MAX },
        start: [start(first), start(second)],
    };
    let chain = AmxPairChain { x: first.a.as_ptr(), x_step: x_step::<F>(first), w, groups, pair: &pair, sums };
    // SAFETY: lengths were asserted: `groups` groups of `rows` rows and of two panels. The caller has shaped the tiles
    // for these rows.
    unsafe { F::pair(chain) }
}

/// The sums of a tile of rows, behind so many that have passed over this panel; the next one is `next` panels further,
/// if it is not 0.
#[inline(always)]
pub(in crate::gemm) fn one<F: AmxMicrokernel>(tile: &Tile<'_>, passed: usize, next: usize, sums: &mut Sums) {
    let groups = groups::<F>(tile);
    let first = passed == 0;
    let ahead = if first {
        AHEAD
    } else {
        // Where the last tile stopped; what it has asked for already, where the next panel has no more.
        let begun = (passed - 1) * groups * ANNOUNCE_STRIDE * F::STEP_WORDS;
        if begun < tile.b.len() { next * tile.b.len() + begun } else { 0 }
    };
    let chain = AmxChain {
        x: tile.a.as_ptr(),
        x_step: x_step::<F>(tile),
        w: tile.b.as_ptr(),
        groups,
        start: start(tile),
        ahead: tile.b.as_ptr().wrapping_add(ahead),
        sums,
    };
    // SAFETY: the lengths were asserted: `groups` groups of `rows` rows and of one panel. The caller has shaped the
    // tiles for these rows.
    unsafe {
        match (tile.rows > LANES, first) {
            (false, true) => F::one_first(chain),
            (false, false) => F::one(chain),
            (true, true) => F::two_first(chain),
            (true, false) if size_of_val(tile.b) <= MAX_L1_PANEL => F::two_near(chain),
            (true, false) => F::two(chain),
        }
    }
}

/// Where a chain reads and writes.
pub(in crate::gemm) struct AmxChain<'a> {
    pub(in crate::gemm) x: *const u32,
    /// Bytes from one group of the rows to the next.
    pub(in crate::gemm) x_step: usize,
    pub(in crate::gemm) w: *const u32,
    pub(in crate::gemm) groups: usize,
    pub(in crate::gemm) start: &'a [u32; SIDE],
    /// What is fetched beside the work; any address.
    pub(in crate::gemm) ahead: *const u32,
    pub(in crate::gemm) sums: &'a mut Sums,
}

/// Where two chains of up to 16 rows read and write.
pub(in crate::gemm) struct AmxPairChain<'a> {
    pub(in crate::gemm) x: *const u32,
    /// Bytes from one group of the rows to the next.
    pub(in crate::gemm) x_step: usize,
    pub(in crate::gemm) w: [*const u32; 2],
    pub(in crate::gemm) groups: usize,
    pub(in crate::gemm) pair: &'a AmxPair<'a>,
    pub(in crate::gemm) sums: &'a mut [Sums; 2],
}

/// What is read once of two chains, in the order that their instructions know.
#[repr(C)]
pub(in crate::gemm) struct AmxPair<'a> {
    /// The panels behind these; any addresses.
    pub(in crate::gemm) next: [*const u32; 2],
    /// What is fetched first; any addresses.
    pub(in crate::gemm) ahead: [*const u32; 2],
    /// Groups until `next` is.
    pub(in crate::gemm) left: usize,
    pub(in crate::gemm) start: [&'a [u32; SIDE]; 2],
}

/// Groups that each panel of a pair is fetched ahead of its use, of numbers in one part. It hardly matters.
const AHEAD_OF_PAIR: usize = 2;

/// Words that a panel is fetched ahead of its use: 3 KiB. From 2 to 16 it hardly matters; 32 measured slower.
const AHEAD: usize = 768;

/// Words from one line of the next panel that is asked for to the following one: three lines. In the loop, two and four
/// gave 3 % less, six nothing.
pub(in crate::gemm) const ANNOUNCE_STRIDE: usize = 3 * LANES;

/// A scheme that AMX multiplies.
///
/// # Safety
/// Tiles must be shaped for the rows; `x` must hold that many, and `w` a panel, of `groups` groups, at least one.
pub(in crate::gemm) trait AmxMicrokernel: Microkernel {
    /// The chains of 17 to 32 rows, behind others that passed over the panel.
    ///
    /// # Safety
    /// As the trait says; so below.
    unsafe fn two(chain: AmxChain<'_>);

    /// The same where the panel stays in L1.
    ///
    /// # Safety
    /// As above.
    unsafe fn two_near(chain: AmxChain<'_>);

    /// The same of the first to pass, which fetches the panel.
    ///
    /// # Safety
    /// As above.
    unsafe fn two_first(chain: AmxChain<'_>);

    /// The chains of up to 16 rows.
    ///
    /// # Safety
    /// As above.
    unsafe fn one(chain: AmxChain<'_>);

    /// The same of the first to pass, which fetches the panel.
    ///
    /// # Safety
    /// As above.
    unsafe fn one_first(chain: AmxChain<'_>);

    /// The chains of up to 16 rows and two panels, which are fetched.
    ///
    /// # Safety
    /// As above, for both panels.
    unsafe fn pair(chain: AmxPairChain<'_>);

    /// Whether sums are results, but for the bias.
    const DONE: bool;

    /// Sixteen sums.
    fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S>;
}

/// A function of a chain: sums start as `$start` says, a product of parts does each of `$step`, sums end as `$store`
/// says. A row's words of a group are `64 · parts` bytes, all parts side by side; a panel has twice as many. `$fetch`
/// is what is done in every group for panels to come ([`fetch!`]); what is behind the last panel is fetched in vain.
macro_rules! chain {
    ($name:ident, $parts:literal, $fetch:ident, [$($start:expr),+], [$($step:expr),+], [$($store:literal),+]) => {
        #[inline(always)]
        unsafe fn $name(chain: $crate::gemm::amx::chain::AmxChain<'_>) {
            // SAFETY: the caller's promise.
            unsafe {
                $crate::simd::tile_asm!(
                    "/* from zeros, or {start} */",
                    $($start,)+
                    "2:",
                    $($step,)+
                    fetch!($fetch),
                    "add {x}, {x_step}",
                    "add {w}, 2048 * {parts}",
                    "dec {groups}",
                    "jnz 2b",
                    "mov {stride:e}, 128",
                    $($store,)+
                    x = inout(reg) chain.x => _,
                    x_step = in(reg) chain.x_step,
                    w = inout(reg) chain.w => _,
                    groups = inout(reg) chain.groups => _,
                    stride = inout(reg) 64usize * $parts => _,
                    start = in(reg) chain.start,
                    ahead = inout(reg) chain.ahead => _,
                    sums = in(reg) chain.sums,
                    parts = const $parts,
                    apart = const $crate::gemm::amx::chain::ANNOUNCE_STRIDE * size_of::<u32>(),
                )
            }
        }
    };
}

/// Fetching beside a group: all its lines of a panel by the `first` tile, a few of the next panel by those `behind`.
macro_rules! fetch {
    (first) => {
        ".rept 32 * {parts}\nprefetcht0 [{ahead}]\nadd {ahead}, 64\n.endr\n/* {apart} */"
    };
    (behind) => {
        ".rept {parts}\nprefetcht2 [{ahead}]\nadd {ahead}, {apart}\n.endr"
    };
}

/// Instructions of a step for 17 to 32 rows. `both`: a part of the rows and one of the weights are loaded and
/// multiplied; `rows`, `weights`: the other one is there already.
macro_rules! step_of_two {
    (both, $x:literal, $w:literal, $parts:literal, $dot:literal, $load_x:literal, $load_w:literal) => {
        concat!(
            step_of_two!(@w 6, $w, 0, $parts, $load_w), step_of_two!(@x 4, $x, 0, $parts, $load_x), $dot, " tmm0, tmm4, tmm6\n",
            step_of_two!(@w 7, $w, 1, $parts, $load_w), $dot, " tmm1, tmm4, tmm7\n",
            step_of_two!(@x 5, $x, 16, $parts, $load_x), $dot, " tmm2, tmm5, tmm6\n", $dot, " tmm3, tmm5, tmm7"
        )
    };
    (rows, $x:literal, $w:literal, $parts:literal, $dot:literal, $load_x:literal, $load_w:literal) => {
        concat!(
            step_of_two!(@x 4, $x, 0, $parts, $load_x), $dot, " tmm0, tmm4, tmm6\n", $dot, " tmm1, tmm4, tmm7\n",
            step_of_two!(@x 5, $x, 16, $parts, $load_x), $dot, " tmm2, tmm5, tmm6\n", $dot, " tmm3, tmm5, tmm7"
        )
    };
    (weights, $x:literal, $w:literal, $parts:literal, $dot:literal, $load_x:literal, $load_w:literal) => {
        concat!(
            step_of_two!(@w 6, $w, 0, $parts, $load_w), $dot, " tmm0, tmm4, tmm6\n", $dot, " tmm2, tmm5, tmm6\n",
            step_of_two!(@w 7, $w, 1, $parts, $load_w), $dot, " tmm1, tmm4, tmm7\n", $dot, " tmm3, tmm5, tmm7"
        )
    };
    (@x $tile:literal, $x:literal, $row:literal, $parts:literal, $load:literal) => {
        concat!($load, " tmm", $tile, ", [{x} + {stride}*1 + 64*(", $x, " + ", $row, "*", $parts, ")]\n")
    };
    (@w $tile:literal, $w:literal, $half:literal, $parts:literal, $load:literal) => {
        concat!($load, " tmm", $tile, ", [{w} + {stride}*2 + 64*(", $w, " + ", $half, "*", $parts, ")]\n")
    };
}

/// The same for up to 16 rows.
macro_rules! step_of_one {
    (both, $x:literal, $w:literal, $parts:literal, $dot:literal, $load:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {stride}*1 + 64*",
            $x,
            "]\n",
            step_of_one!(weights, $x, $w, $parts, $dot, $load)
        )
    };
    (rows, $x:literal, $w:literal, $parts:literal, $dot:literal, $load:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {stride}*1 + 64*",
            $x,
            "]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $dot,
            " tmm1, tmm4, tmm7"
        )
    };
    (weights, $x:literal, $w:literal, $parts:literal, $dot:literal, $load:literal) => {
        concat!(
            $load,
            " tmm6, [{w} + {stride}*2 + 64*",
            $w,
            "]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $load,
            " tmm7, [{w} + {stride}*2 + 64*(",
            $w,
            " + ",
            $parts,
            ")]\n",
            $dot,
            " tmm1, tmm4, tmm7"
        )
    };
}

/// The same for up to 16 rows and two panels: weights are always loaded, into tiles by turns.
macro_rules! step_of_pair {
    (weights, $x:literal, $w:literal, $parts:literal, $dot:literal) => {
        concat!(
            step_of_pair!(@w "w0", 5, $w, 0, $parts), $dot, " tmm0, tmm4, tmm5\n",
            step_of_pair!(@w "w1", 6, $w, 0, $parts), $dot, " tmm2, tmm4, tmm6\n",
            step_of_pair!(@w "w0", 7, $w, 1, $parts), $dot, " tmm1, tmm4, tmm7\n",
            step_of_pair!(@w "w1", 5, $w, 1, $parts), $dot, " tmm3, tmm4, tmm5"
        )
    };
    ($rows_or_both:ident, $x:literal, $w:literal, $parts:literal, $dot:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {stride}*1 + 64*", $x, "]\n",
            step_of_pair!(weights, $x, $w, $parts, $dot)
        )
    };
    (@w $panel:literal, $tile:literal, $w:literal, $half:literal, $parts:literal) => {
        concat!("tileloadd tmm", $tile, ", [{", $panel, "} + {stride}*2 + 64*(", $w, " + ", $half, "*", $parts, ")]\n")
    };
}

/// What two tiles of sums start from: zeros, or the outputs' compensation.
macro_rules! starts {
    (zeros $first:literal $second:literal) => {
        concat!("tilezero tmm", $first, "\ntilezero tmm", $second)
    };
    (compensation $first:literal $second:literal) => {
        concat!("tileloadd tmm", $first, ", [{start}]\ntileloadd tmm", $second, ", [{start} + 64]")
    };
}

macro_rules! chain_of_two {
    ($name:ident, $start:ident, $dot:literal, $parts:literal, $fetch:ident, $load_x:literal, $load_w:literal, $(($step:ident $x:literal $w:literal))+) => {
        chain!(
            $name,
            $parts,
            $fetch,
            [starts!($start 0 1), starts!($start 2 3)],
            [$(step_of_two!($step, $x, $w, $parts, $dot, $load_x, $load_w)),+],
            [
                "tilestored [{sums} + {stride}*1], tmm0",
                "tilestored [{sums} + {stride}*1 + 64], tmm1",
                "tilestored [{sums} + {stride}*1 + 2048], tmm2",
                "tilestored [{sums} + {stride}*1 + 2112], tmm3"
            ]
        );
    };
}

macro_rules! chain_of_one {
    ($name:ident, $start:ident, $dot:literal, $parts:literal, $fetch:ident, $load:literal, $(($step:ident $x:literal $w:literal))+) => {
        chain!(
            $name,
            $parts,
            $fetch,
            [starts!($start 0 1)],
            [$(step_of_one!($step, $x, $w, $parts, $dot, $load)),+],
            ["tilestored [{sums} + {stride}*1], tmm0", "tilestored [{sums} + {stride}*1 + 64], tmm1"]
        );
    };
}

/// A function of two chains. Addresses that are used once are read from memory: there are not enough registers.
macro_rules! chains_of_pair {
    ($start:ident, $dot:literal, $parts:literal, $(($step:ident $x:literal $w:literal))+) => {
        #[inline(always)]
        unsafe fn pair(chain: $crate::gemm::amx::chain::AmxPairChain<'_>) {
            // SAFETY: the caller's promise.
            unsafe {
                $crate::simd::tile_asm!(
                    "mov {start}, [{pair} + {starts}]",
                    starts!($start 0 1),
                    "mov {start}, [{pair} + {starts} + 8]",
                    starts!($start 2 3),
                    "2:",
                    $(step_of_pair!($step, $x, $w, $parts, $dot),)+
                    ".rept 32 * {parts}\nprefetcht0 [{ahead0}]\nadd {ahead0}, 64\nprefetcht0 [{ahead1}]\nadd {ahead1}, 64\n.endr",
                    "dec {left}",
                    "cmovz {ahead0}, [{pair}]",
                    "cmovz {ahead1}, [{pair} + 8]",
                    "add {x}, {x_step}",
                    "add {w0}, 2048 * {parts}",
                    "add {w1}, 2048 * {parts}",
                    "dec {groups}",
                    "jnz 2b",
                    "mov {stride:e}, 128",
                    "tilestored [{sums} + {stride}*1], tmm0",
                    "tilestored [{sums} + {stride}*1 + 64], tmm1",
                    "tilestored [{sums} + {stride}*1 + 4096], tmm2",
                    "tilestored [{sums} + {stride}*1 + 4160], tmm3",
                    x = inout(reg) chain.x => _,
                    x_step = in(reg) chain.x_step,
                    w0 = inout(reg) chain.w[0] => _,
                    w1 = inout(reg) chain.w[1] => _,
                    ahead0 = inout(reg) chain.pair.ahead[0] => _,
                    ahead1 = inout(reg) chain.pair.ahead[1] => _,
                    left = inout(reg) chain.pair.left => _,
                    groups = inout(reg) chain.groups => _,
                    stride = inout(reg) 64usize * $parts => _,
                    start = out(reg) _,
                    pair = in(reg) chain.pair,
                    sums = in(reg) chain.sums,
                    parts = const $parts,
                    starts = const std::mem::offset_of!($crate::gemm::amx::chain::AmxPair<'_>, start),
                )
            }
        }
    };
}

/// Parts, and products of parts in order: what is loaded, part of the rows, part of the weights.
macro_rules! chained {
    ($form:ty, $start:ident, $dot:literal, $parts:literal, $load:ident, $done:literal: $($step:tt)+) => {
        impl $crate::gemm::amx::chain::AmxMicrokernel for $form {
            const DONE: bool = $done;

            chain_of_two!(two, $start, $dot, $parts, behind, "tileloaddt1", "tileloaddt1", $($step)+);
            chain_of_two!(two_near, $start, $dot, $parts, behind, "tileloaddt1", "tileloadd", $($step)+);
            chain_of_two!(two_first, $start, $dot, $parts, first, "tileloaddt1", "tileloadd", $($step)+);
            chain_of_one!(one, $start, $dot, $parts, behind, "tileloaddt1", $($step)+);
            chain_of_one!(one_first, $start, $dot, $parts, first, "tileloadd", $($step)+);
            chains_of_pair!($start, $dot, $parts, $($step)+);

            #[inline(always)]
            fn load<S: Simd>(s: S, sums: &[u32; LANES]) -> Self::Sum<S> {
                $load(s, sums)
            }
        }
    };
}

#[inline(always)]
pub(in crate::gemm) fn plain_sums<S: Simd>(s: S, sums: &[u32; LANES]) -> S::V {
    s.load(&numbers(sums).as_chunks().0[0])
}

#[inline(always)]
pub(in crate::gemm) fn exact_sums<S: Simd>(s: S, sums: &[u32; LANES]) -> S::Words {
    s.load_words(sums)
}

#[cfg(all(test, debug_assertions, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{
        gemm::{
            epilogue::Store,
            formats::{bf16::Bf16Parts, int8::W8A8},
            tile::Pass,
        },
        simd::{Amx, TileRegisters},
    };

    /// `words` numbers that end where memory does.
    fn before_the_end(words: usize) -> &'static mut [u32] {
        const PAGE: usize = 4096;
        let len = (4 * words).next_multiple_of(PAGE);
        // SAFETY: a new mapping, whose last page is then made inaccessible; what remains holds `words` zeros. It is
        // never unmapped.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), len + PAGE, access, flags, -1, 0).cast::<u8>();
            assert_eq!(libc::mprotect(start.add(len).cast(), PAGE, libc::PROT_NONE), 0);
            std::slice::from_raw_parts_mut(start.add(len - 4 * words).cast(), words)
        }
    }

    #[test]
    fn chains_read_nothing_outside() {
        fn check<F: AmxMicrokernel>() {
            let Some(amx) = Amx::new() else {
                return println!("skipped: no AMX");
            };
            for rows in [1, 15, 16, 17, 31, 32] {
                let steps = 3 * LANES;
                let tile = Tile {
                    rows,
                    pass: Pass::Any,
                    steps,
                    a: before_the_end(rows * steps * F::STEP_WORDS),
                    row_scales: &[],
                    b: before_the_end(SIDE * steps * F::STEP_WORDS),
                    scales: &[],
                    compensation: before_the_end(SIDE),
                    bias: None,
                    columns: SIDE,
                    store: Store::Write,
                    out: std::ptr::null_mut(),
                    out_stride: 0,
                };
                let mut tiles = TileRegisters::new(amx);
                tiles.shape(rows);
                if rows <= LANES {
                    let mut sums = [const { Sums([[7; SIDE]; SIDE]) }; 2];
                    let second = Tile { b: before_the_end(SIDE * steps * F::STEP_WORDS), ..tile };
                    pair::<F>([&tile, &second], 1, &mut sums);
                    for sums in sums {
                        assert!((0..SIDE).all(|row| sums.0[row] == [if row < rows { 0 } else { 7 }; SIDE]));
                    }
                }
                for passed in [0, 1, 1000] {
                    let mut sums = Sums([[7; SIDE]; SIDE]);
                    one::<F>(&tile, passed, 1, &mut sums);
                    for (row, sums) in sums.0.iter().enumerate() {
                        assert_eq!(*sums, [if row < rows { 0 } else { 7 }; SIDE]);
                    }
                }
            }
        }
        check::<Bf16Parts<1>>();
        check::<Bf16Parts<2>>();
        check::<Bf16Parts<3>>();
        check::<W8A8>();
    }
}
