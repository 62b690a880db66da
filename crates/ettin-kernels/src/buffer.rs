//! Zeroed f32 storage whose first element starts a cache line.

use std::ops::{Deref, DerefMut};

use crate::simd::LANES;

/// One vector, one x86 cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// A growable buffer of f32, a whole number of cache lines.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// At least `len` zeros. Pages stay untouched until written, where the allocator hands out zeroed ones.
    pub(crate) fn zeroed(len: usize) -> Self {
        let lines = Box::<[Line]>::new_zeroed_slice(len.div_ceil(LANES));
        // SAFETY: all-zero bytes are sixteen zeros.
        Self(unsafe { lines.assume_init() }.into_vec())
    }

    /// At least `len` elements; new ones are zero, old ones keep their place.
    pub(crate) fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(LANES);
        if lines > self.0.len() {
            self.0.resize(lines, Line([0.0; LANES]));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is exactly sixteen f32 without padding, so `n` lines are `16·n` consecutive f32.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LANES) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, through a unique reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LANES) }
    }
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
