//! Zeroed storage of 32-bit elements whose first one starts a cache line.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use crate::{
    pages::{HUGE, Pages},
    simd::LANES,
};

/// One vector, one x86 cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LANES]);

/// Types of 32 bits of which every bit pattern is a value.
pub(crate) trait Word: Copy + Send + Sync + private::Sealed {}
impl Word for f32 {}
impl Word for u32 {}

mod private {
    pub(crate) trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
}

/// A growable buffer, a whole number of cache lines.
pub(crate) struct Buffer<T = f32> {
    memory: Memory,
    /// Lines in use. Those behind them are zero.
    lines: usize,
    element: PhantomData<T>,
}

enum Memory {
    Heap(Box<[Line]>),
    /// Room for so many lines.
    Pages(Pages, usize),
}

/// Bytes from which a buffer that grows takes whole huge pages. Such buffers are few: the scratch of threads, not the
/// storage of each sequence.
const PAGES_FROM: usize = 128 << 10;

impl Memory {
    fn heap(lines: usize) -> Self {
        let lines = Box::<[Line]>::new_zeroed_slice(lines);
        // SAFETY: all-zero bytes are sixteen zeros.
        Memory::Heap(unsafe { lines.assume_init() })
    }

    fn pages(lines: usize) -> Option<Self> {
        let bytes = lines.checked_mul(size_of::<Line>())?.checked_next_multiple_of(HUGE)?;
        Some(Memory::Pages(Pages::zeroed(bytes)?, bytes / size_of::<Line>()))
    }

    fn capacity(&self) -> usize {
        match self {
            Memory::Heap(lines) => lines.len(),
            Memory::Pages(_, lines) => *lines,
        }
    }

    fn start(&self) -> *const Line {
        match self {
            Memory::Heap(lines) => lines.as_ptr(),
            Memory::Pages(pages, _) => pages.start().cast(),
        }
    }

    fn start_mut(&mut self) -> *mut Line {
        match self {
            Memory::Heap(lines) => lines.as_mut_ptr(),
            Memory::Pages(pages, _) => pages.start_mut().cast(),
        }
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { memory: Memory::heap(0), lines: 0, element: PhantomData }
    }
}

impl<T: Word> Buffer<T> {
    /// At least `len` zeros, and not many more. Pages stay untouched until written, where the allocator hands out
    /// zeroed ones.
    pub(crate) fn zeroed(len: usize) -> Self {
        let lines = len.div_ceil(LANES);
        // Whole huge pages where most of the memory is.
        let pages = if lines * size_of::<Line>() < 2 * HUGE { None } else { Memory::pages(lines) };
        Self { memory: pages.unwrap_or_else(|| Memory::heap(lines)), lines, element: PhantomData }
    }

    /// At least `len` elements; new ones are zero, old ones keep their place.
    pub(crate) fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(LANES);
        if lines <= self.lines {
            return;
        }
        if lines > self.memory.capacity() {
            // Half as much again as it had, so that growing step by step copies every element a few times at most.
            let room = lines.max(self.lines + self.lines / 2);
            let pages = if room * size_of::<Line>() < PAGES_FROM { None } else { Memory::pages(room) };
            let mut memory = pages.unwrap_or_else(|| Memory::heap(room));
            // SAFETY: both have that many lines, and they are apart.
            unsafe { memory.start_mut().copy_from_nonoverlapping(self.memory.start(), self.lines) };
            self.memory = memory;
        }
        self.lines = lines;
    }
}

impl<T: Word> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Word> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `Line` is exactly sixteen words without padding, so `n` lines are `16·n` consecutive words, and any
        // bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.memory.start().cast(), self.lines * LANES) }
    }
}

impl<T: Word> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, through a unique reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start_mut().cast(), self.lines * LANES) }
    }
}

/// Numbers whose first one starts a cache line, so that vectors of whole rows cross none; kept for use after use.
#[derive(Default)]
pub struct Aligned {
    data: Buffer,
    len: usize,
}

impl Aligned {
    /// Makes it so long. New elements have undefined contents.
    pub fn resize(&mut self, len: usize) {
        self.data.grow(len);
        self.len = len;
    }

    /// Appends numbers.
    pub fn extend_from_slice(&mut self, x: &[f32]) {
        let start = self.len;
        self.resize(start + x.len());
        self[start..].copy_from_slice(x);
    }
}

impl From<&[f32]> for Aligned {
    fn from(x: &[f32]) -> Self {
        let mut aligned = Self::default();
        aligned.extend_from_slice(x);
        aligned
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl std::fmt::Debug for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Aligned {{ {} numbers }}", self.len)
    }
}

/// The same memory as words.
pub(crate) fn bits(x: &[f32]) -> &[u32] {
    // SAFETY: the two have one size and alignment, and any bits are either.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// The same memory as numbers.
#[inline(always)]
pub(crate) fn numbers(x: &[u32]) -> &[f32] {
    // SAFETY: the two have one size and alignment, and any bits are either.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// The same memory as numbers.
pub(crate) fn as_numbers(x: &mut [u32]) -> &mut [f32] {
    // SAFETY: the two have one size and alignment, any bits are either, and the reference stays unique.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// The same memory as words.
pub(crate) fn as_words(x: &mut [f32]) -> &mut [u32] {
    // SAFETY: the two have one size and alignment, any bits are either, and the reference stays unique.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// Runs `f` on this thread's scratch of at least `len` elements with undefined contents. Reused between calls, so
/// the steady state allocates nothing.
///
/// `f` must not call a parallel kernel: while waiting, the thread could be given another task that needs scratch.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    use std::cell::RefCell;
    thread_local!(static SCRATCH: RefCell<Buffer> = RefCell::default());
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.grow(len);
        f(&mut scratch[..len])
    })
}

/// An empty list with the memory of another, whose elements differ in lifetimes only: what one call collects from
/// references of its own, the next collects in the same place. (That collecting in place keeps the memory is an
/// optimisation of the standard library; without it results are the same.)
pub fn recycled<T, U>(mut list: Vec<T>) -> Vec<U> {
    list.clear();
    list.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// The first `len` elements of the scratch that is left.
#[inline(always)]
pub(crate) fn take<'a>(left: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, rest) = std::mem::take(left).split_at_mut(len);
    *left = rest;
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_what_is_there_and_adds_zeros() {
        let mut buffer = Buffer::<u32>::default();
        let mut filled = 0;
        // Through the heap, the first huge page and several.
        for len in [1, 17, 1000, PAGES_FROM / 4 - 1, PAGES_FROM / 4, HUGE / 4 + 5, 3 * HUGE / 4] {
            buffer.grow(len);
            assert!(buffer.len() >= len && buffer.as_ptr().addr().is_multiple_of(64), "{len}");
            assert!((0..filled).all(|i| buffer[i] == i as u32 + 1), "{len}: kept");
            assert!(buffer[filled..].iter().all(|&word| word == 0), "{len}: new");
            filled = buffer.len();
            (0..).zip(&mut *buffer).for_each(|(i, word)| *word = i + 1);
        }
        let large = matches!(buffer.memory, Memory::Pages(..));
        assert!(large && buffer.as_ptr().addr().is_multiple_of(HUGE));
        let copy = buffer.clone();
        buffer.fill(7);
        assert!((0..filled).all(|i| copy[i] == i as u32 + 1));
    }
}
