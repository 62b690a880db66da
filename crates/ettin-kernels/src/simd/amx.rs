//! AMX: whether tiles can be used, and their shapes.
//!
//! Three things must hold: the CPU has the instructions, the system keeps tiles when it switches threads, and the
//! process has asked Linux for the memory that it takes (on other systems no way to ask is known, so there is no
//! AMX). A thread says how large its tiles are before it uses them; [`TileRegisters`] takes that back when it is
//! dropped, so no tile outlives the call that filled it, whoever owns the thread.
//!
//! Tiles are not variables: a chain of tile instructions must stand in one `asm!`, which is why those of a product are
//! written out in `gemm/amx.rs`.
//!
//! For tests, a CPU without AMX runs them too (`emulator.rs`): where `ETTIN_AMX_EMULATOR=1`, in builds with debug
//! assertions.

#[cfg(all(debug_assertions, target_os = "linux"))]
mod emulator;

use std::{arch::x86_64::*, marker::PhantomData, sync::OnceLock};

use super::{Avx512, Avx512Bf16, LANES};

/// `asm!` that uses tiles: it may change all of them.
macro_rules! tile_asm {
    ($($part:tt)*) => {
        std::arch::asm!(
            $($part)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}
pub(crate) use tile_asm;

/// Proof that tiles can be used, with products of bf16 and of bytes, beside AVX-512 with BF16 and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Amx(Avx512, Avx512Bf16);

impl Amx {
    pub(crate) fn new() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        let vectors = Self(Avx512::new()?, Avx512Bf16::new()?);
        USABLE.get_or_init(|| present() && permitted() || emulated()).then_some(vectors)
    }

    /// The vectors beside the tiles.
    pub(crate) fn wide(self) -> Avx512 {
        self.0
    }

    /// The vectors beside the tiles, for narrow numbers.
    pub(crate) fn narrow(self) -> Avx512Bf16 {
        self.1
    }
}

/// Whether CPU and system have tiles, with products of bf16 and of bytes.
fn present() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const CONFIGURATION_AND_DATA: u64 = 1 << 17 | 1 << 18;

    #[target_feature(enable = "xsave")]
    fn kept_by_the_system() -> u64 {
        // SAFETY: the caller has seen that the system uses XSAVE; register 0 then exists.
        unsafe { _xgetbv(0) }
    }

    let has = |leaf: u32| __cpuid(0).eax >= leaf;
    has(7)
        && __cpuid(1).ecx & OSXSAVE != 0
        && __cpuid_count(7, 0).edx & BF16_TILE_INT8 == BF16_TILE_INT8
        // SAFETY: OSXSAVE says that the CPU has XSAVE and that the system has switched it on.
        && unsafe { kept_by_the_system() } & CONFIGURATION_AND_DATA == CONFIGURATION_AND_DATA
}

/// Asks Linux to let this process use tiles: once for all its threads, which then save 8 KiB more.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call reads and writes no memory of ours, and changes no register but these.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[cfg(all(debug_assertions, target_os = "linux"))]
fn emulated() -> bool {
    std::env::var_os("ETTIN_AMX_EMULATOR").is_some_and(|value| value == "1") && emulator::install()
}

#[cfg(not(all(debug_assertions, target_os = "linux")))]
fn emulated() -> bool {
    false
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Shapes>() == 64);

/// The tiles of this thread, for a product of two tiles of rows (4, 5) and two of weights (6, 7): sums of the first
/// rows in 0 and 1, of the second in 2 and 3. They are given back when this is dropped.
pub(crate) struct TileRegisters {
    rows: usize,
    /// It belongs to the thread.
    thread: PhantomData<*mut ()>,
}

impl TileRegisters {
    /// Not yet shaped.
    pub(crate) fn new(_: Amx) -> Self {
        Self { rows: 0, thread: PhantomData }
    }

    /// Shapes them for this many rows, at most 32: of sums, rows and weights. Sixteen rows or fewer have their sums in
    /// four tiles, too, for twice the outputs, and three tiles for weights. All become zero if the shape changes.
    pub(crate) fn shape(&mut self, rows: usize) {
        assert!((1..=2 * LANES).contains(&rows), "{rows} rows for two tiles");
        if rows == self.rows {
            return;
        }
        self.rows = rows;
        let first = rows.min(LANES);
        let (second, fifth) = if rows <= LANES { (first, LANES) } else { (rows - LANES, rows - LANES) };
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, rows) in [first, first, second, second, first, fifth, LANES, LANES].into_iter().enumerate() {
            shapes.rows[tile] = rows as u8;
            shapes.row_bytes[tile] = size_of::<[u32; LANES]>() as u16;
        }
        // SAFETY: `new` was given proof of AMX; the shapes are within palette 1.
        unsafe { tile_asm!("ldtilecfg [{}]", in(reg) &shapes,) };
    }
}

impl Drop for TileRegisters {
    fn drop(&mut self) {
        // SAFETY: `new` was given proof of AMX.
        unsafe { tile_asm!("tilerelease",) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_rows_and_are_given_back() {
        let Some(amx) = Amx::new() else {
            return println!("skipped: no AMX");
        };
        let described = || {
            let mut bytes = [0xffu8; 64];
            // SAFETY: there is AMX; the instruction writes 64 bytes.
            unsafe { std::arch::asm!("sttilecfg [{}]", in(reg) &mut bytes, options(nostack)) };
            bytes
        };
        let mut tiles = TileRegisters::new(amx);
        for rows in [32, 32, 5, 16, 17, 1] {
            tiles.shape(rows);
            let expected = match rows as u8 {
                few @ 1..=16 => [few, few, few, few, few, 16, 16, 16],
                many => [16, 16, many - 16, many - 16, 16, many - 16, 16, 16],
            };
            let bytes = described();
            assert_eq!(bytes[48..56], expected, "{rows} rows");
            assert_eq!(bytes[16..32], [64, 0].repeat(8));
        }
        drop(tiles);
        assert_eq!(described(), [0; 64]);
    }
}
