//! Memory of packed weights: one after the other in large chunks, on huge pages.
//!
//! A matrix alone seldom fills pages of 2 MiB, so matrices share them.

use std::{
    ops::{Deref, DerefMut, Range},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::buffer::Buffer;

/// Bytes of a chunk. Unused bytes of its last page are never touched, and take no memory.
const CHUNK: usize = 64 << 20;

/// Words of a cache line: slices start one.
const LINE: usize = 16;

/// Words of a chunk, zero at first.
pub(crate) struct ArenaSlice {
    chunk: Arc<Chunk>,
    /// Words that nobody else has.
    range: Range<usize>,
}

/// Words that are handed out once, from the start on, and freed with the last slice.
struct Chunk {
    start: *mut u32,
    /// Large enough to lie on huge pages, where the system has them.
    _buffer: Buffer<u32>,
}

// SAFETY: slices are disjoint, and each has its words as a `Box<[u32]>` would.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

/// The chunk that is being handed out, and how many of its words have been.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

impl Chunk {
    fn new(words: usize) -> Self {
        let mut buffer = Buffer::zeroed(words);
        Self { start: buffer.as_mut_ptr(), _buffer: buffer }
    }
}

impl ArenaSlice {
    /// So many zeros.
    pub(crate) fn zeroed(words: usize) -> Self {
        let most = CHUNK / size_of::<u32>();
        let taken = words.next_multiple_of(LINE);
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, used) = &mut *current;
        if let Some(chunk) = chunk.upgrade().filter(|_| taken <= most - *used) {
            let start = *used;
            *used += taken;
            return Self { chunk, range: start..start + words };
        }
        if taken > most / 2 {
            // It has one for itself, and the current one goes on.
            return Self { chunk: Arc::new(Chunk::new(taken)), range: 0..words };
        }
        let new = Arc::new(Chunk::new(most));
        *current = (Arc::downgrade(&new), taken);
        Self { chunk: new, range: 0..words }
    }
}

impl Clone for ArenaSlice {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for ArenaSlice {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: the words lie in the chunk, which this slice keeps, and are written only through it.
        unsafe { std::slice::from_raw_parts(self.chunk.start.add(self.range.start), self.range.len()) }
    }
}

impl DerefMut for ArenaSlice {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and no other slice has them.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start.add(self.range.start), self.range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_zero_aligned_and_apart() {
        let sizes = [0, 1, 15, 16, 17, 5_000_000, 9_000_000, 20_000_000, 3];
        let mut slices: Vec<_> = sizes.iter().map(|&words| ArenaSlice::zeroed(words)).collect();
        for (i, slice) in slices.iter_mut().enumerate() {
            assert_eq!((slice.len(), slice.as_ptr().addr() % 64), (sizes[i], 0));
            assert!(slice.iter().all(|&word| word == 0));
            slice.fill(i as u32 + 1);
        }
        let copy = slices[4].clone();
        slices.remove(5);
        for (slice, value) in slices.iter().zip([1, 2, 3, 4, 5, 7, 8, 9]) {
            assert!(slice.iter().all(|&word| word == value));
        }
        assert!(copy.iter().all(|&word| word == 5) && copy.len() == 17);
    }
}
