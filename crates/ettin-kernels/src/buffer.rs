//! Zeroed storage of 32-bit elements whose first one starts a cache line.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use crate::simd::LANES;

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
#[derive(Clone)]
pub(crate) struct Buffer<T = f32>(Vec<Line>, PhantomData<T>);

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<T: Word> Buffer<T> {
    /// At least `len` zeros. Pages stay untouched until written, where the allocator hands out zeroed ones.
    pub(crate) fn zeroed(len: usize) -> Self {
        let lines = Box::<[Line]>::new_zeroed_slice(len.div_ceil(LANES));
        want_huge_pages(lines.as_ptr().cast(), size_of_val(&*lines));
        // SAFETY: all-zero bytes are sixteen zeros.
        Self(unsafe { lines.assume_init() }.into_vec(), PhantomData)
    }

    /// At least `len` elements; new ones are zero, old ones keep their place.
    pub(crate) fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(LANES);
        if lines > self.0.len() {
            if lines > self.0.capacity() {
                self.0.reserve(lines - self.0.len());
                want_huge_pages(self.0.as_ptr().cast(), self.0.capacity() * size_of::<Line>());
            }
            self.0.resize(lines, Line([0; LANES]));
        }
    }
}

/// Asks for pages of 2 MiB for memory that is not used yet. Weights and activations are read from end to end: with small
/// pages the CPU stops fetching ahead every 4 KiB, and looks up what a virtual machine must translate twice (measured: up
/// to a quarter of a product's time). Only a hint; does nothing elsewhere.
fn want_huge_pages(start: *const u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const SMALL: usize = 4 << 10;
        const HUGE: usize = 2 << 20;
        let (first, end) = (start.addr().next_multiple_of(SMALL), (start.addr() + bytes) / SMALL * SMALL);
        if end.saturating_sub(first) >= HUGE {
            // SAFETY: the pages lie inside memory of ours, and the advice changes no byte of them.
            unsafe { libc::madvise(start.with_addr(first).cast_mut().cast(), end - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl<T: Word> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `Line` is exactly sixteen words without padding, so `n` lines are `16·n` consecutive words, and any
        // bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LANES) }
    }
}

impl<T: Word> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, through a unique reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LANES) }
    }
}

/// Numbers whose first one starts a cache line, so that vectors of whole rows cross none; kept for use after use.
#[derive(Default)]
pub struct Aligned {
    data: Buffer,
    len: usize,
}

impl Aligned {
    /// Makes it so long; what is new has undefined contents.
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
