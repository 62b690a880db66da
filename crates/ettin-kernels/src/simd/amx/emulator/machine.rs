//! Tiles, and the effects of the instructions on them (Intel's Software Developer's Manual, volume 2; palette 1).
//!
//! `tdpbf16ps` sums the products of even and of odd inputs of a row apart, each by multiply-adds from zero, adds the
//! two, and adds that to the destination; every operation takes subnormal numbers for zero and gives zero for them, and
//! rounds to nearest even. This is the manual's definition; it has not been compared with the bits of a CPU. (One
//! difference is known: whether a result is subnormal is asked after rounding here, so that what rounds up to the least
//! normal number stays.)

use std::ptr;

use super::decode::{DotOperands, Instruction};

const TILES: usize = 8;
const ROWS: usize = 16;
/// Words of a row.
const WORDS: usize = 16;

type TileWords = [[u32; WORDS]; ROWS];

/// One thread's tiles. Words of a tile beyond its shape are zero.
pub(super) struct Machine {
    shapes: Option<[Shape; TILES]>,
    tiles: [TileWords; TILES],
}

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    words: usize,
}

impl Machine {
    /// As after `tilerelease`.
    pub(super) const NEW: Machine = Machine { shapes: None, tiles: [[[0; WORDS]; ROWS]; TILES] };

    /// # Errors
    /// Where a CPU would raise an exception, and where the start row or a tile's width is not what a kernel sets.
    ///
    /// # Safety
    /// The memory that the instruction reads and writes must be readable and writable.
    pub(super) unsafe fn execute(&mut self, instruction: Instruction) -> Result<(), &'static str> {
        match instruction {
            Instruction::Configure { from } => {
                let mut bytes = [0; 64];
                // SAFETY: by the caller's promise.
                unsafe { ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
                self.configure(&bytes)?;
            }
            Instruction::Describe { to } => {
                let bytes = self.describe();
                // SAFETY: by the caller's promise.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
            }
            Instruction::Release => *self = Machine::NEW,
            Instruction::Zero { tile } => {
                self.shape(tile)?;
                self.tiles[usize::from(tile)] = [[0; WORDS]; ROWS];
            }
            Instruction::Load { tile, from, stride } => {
                let shape = self.shape(tile)?;
                let mut loaded = [[0; WORDS]; ROWS];
                let mut from = from;
                for row in &mut loaded[..shape.rows] {
                    // SAFETY: by the caller's promise; the row has the words of the shape.
                    unsafe { ptr::copy_nonoverlapping(from as *const u8, row.as_mut_ptr().cast(), 4 * shape.words) };
                    from = from.wrapping_add(stride);
                }
                self.tiles[usize::from(tile)] = loaded;
            }
            Instruction::Store { tile, to, stride } => {
                let shape = self.shape(tile)?;
                let mut to = to;
                for row in &self.tiles[usize::from(tile)][..shape.rows] {
                    // SAFETY: by the caller's promise; the row has the words of the shape.
                    unsafe { ptr::copy_nonoverlapping(row.as_ptr().cast(), to as *mut u8, 4 * shape.words) };
                    to = to.wrapping_add(stride);
                }
            }
            Instruction::DotBf16(operands) => self.dot(operands, dot_bf16)?,
            Instruction::DotBytes(operands) => self.dot(operands, dot_bytes)?,
        }
        Ok(())
    }

    fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), &'static str> {
        let (palette, start_row) = (bytes[0], bytes[1]);
        if palette == 0 {
            *self = Machine::NEW;
            return Ok(());
        }
        if palette != 1 {
            return Err("palettes are 0 and 1");
        }
        if start_row != 0 {
            return Err("a start row is for the system to set");
        }
        let (row_bytes, rows) = (&bytes[16..32], &bytes[48..56]);
        if bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]).any(|&byte| byte != 0) {
            return Err("reserved bytes of a configuration must be 0");
        }
        let mut shapes = [Shape { rows: 0, words: 0 }; TILES];
        for ((shape, &rows), bytes) in shapes.iter_mut().zip(rows).zip(row_bytes.as_chunks().0) {
            let (rows, bytes) = (usize::from(rows), usize::from(u16::from_le_bytes(*bytes)));
            if rows > ROWS || bytes > 4 * WORDS {
                return Err("a tile has at most 16 rows of 64 bytes");
            }
            if (rows == 0) != (bytes == 0) {
                return Err("a tile has rows without bytes, or bytes without rows");
            }
            if !bytes.is_multiple_of(4) {
                return Err("a tile's rows are not whole words");
            }
            *shape = Shape { rows, words: bytes / 4 };
        }
        *self = Machine { shapes: Some(shapes), ..Machine::NEW };
        Ok(())
    }

    fn describe(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        if let Some(shapes) = &self.shapes {
            bytes[0] = 1;
            for (tile, shape) in shapes.iter().enumerate() {
                bytes[16 + 2 * tile] = 4 * shape.words as u8;
                bytes[48 + tile] = shape.rows as u8;
            }
        }
        bytes
    }

    fn shape(&self, tile: u8) -> Result<Shape, &'static str> {
        let shapes = self.shapes.as_ref().ok_or("tiles are used before they are configured")?;
        let shape = shapes[usize::from(tile)];
        if shape.rows == 0 { Err("a tile without shape is used") } else { Ok(shape) }
    }

    fn dot(
        &mut self,
        of: DotOperands,
        dot: fn(&mut TileWords, &TileWords, &TileWords, [usize; 3]),
    ) -> Result<(), &'static str> {
        if of.sums == of.rows || of.sums == of.weights || of.rows == of.weights {
            return Err("the tiles of a product must differ");
        }
        let (sums, rows, weights) = (self.shape(of.sums)?, self.shape(of.rows)?, self.shape(of.weights)?);
        if sums.rows != rows.rows {
            return Err("the sums of a product have other rows than its first factor");
        }
        if sums.words != weights.words {
            return Err("the sums of a product have other columns than its second factor");
        }
        if rows.words != weights.rows {
            return Err("the factors of a product do not fit together");
        }
        let (a, b) = (self.tiles[usize::from(of.rows)], self.tiles[usize::from(of.weights)]);
        dot(&mut self.tiles[usize::from(of.sums)], &a, &b, [sums.rows, sums.words, rows.words]);
        Ok(())
    }
}

/// Zero for subnormal numbers.
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// `[rows, columns, pairs]`
fn dot_bf16(sums: &mut TileWords, a: &TileWords, b: &TileWords, shape: [usize; 3]) {
    #[target_feature(enable = "avx512f,fma")]
    fn compiled(sums: &mut TileWords, a: &TileWords, b: &TileWords, [rows, columns, pairs]: [usize; 3]) {
        let even = |pair: u32| flushed(f32::from_bits(pair << 16));
        let odd = |pair: u32| flushed(f32::from_bits(pair & 0xffff_0000));
        for (sums, a) in sums.iter_mut().zip(a).take(rows) {
            let (mut evens, mut odds) = ([0.0f32; WORDS], [0.0f32; WORDS]);
            for (&a, b) in a.iter().zip(b).take(pairs) {
                let (a_even, a_odd) = (even(a), odd(a));
                for ((evens, odds), &b) in evens.iter_mut().zip(&mut odds).zip(b) {
                    *evens = flushed(a_even.mul_add(even(b), *evens));
                    *odds = flushed(a_odd.mul_add(odd(b), *odds));
                }
            }
            for (sum, (even, odd)) in sums.iter_mut().zip(evens.into_iter().zip(odds)).take(columns) {
                *sum = flushed(flushed(f32::from_bits(*sum)) + flushed(even + odd)).to_bits();
            }
        }
    }
    // SAFETY: `Amx::new` has asked the CPU before it installed the emulator.
    unsafe { compiled(sums, a, b, shape) }
}

/// `[rows, columns, fours]`
fn dot_bytes(sums: &mut TileWords, a: &TileWords, b: &TileWords, [rows, columns, fours]: [usize; 3]) {
    for (sums, a) in sums.iter_mut().zip(a).take(rows) {
        for (&a, b) in a.iter().zip(b).take(fours) {
            let a = a.to_le_bytes().map(i32::from);
            for (sum, b) in sums.iter_mut().zip(b).take(columns) {
                let b = b.to_le_bytes().map(|byte| i32::from(byte as i8));
                let products: i32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                *sum = sum.wrapping_add(products as u32);
            }
        }
    }
}
