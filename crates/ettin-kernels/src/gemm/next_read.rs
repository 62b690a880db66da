//! The weight that is read next: what a thread that waits fetches.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::team::{share, while_waiting};

/// Bytes that a thread fetches of the next weights at most: a quarter of a common L2.
const MAX_BYTES: usize = 512 << 10;

/// Where the words of a weight are, or were: nothing but addresses to fetch from is made of it.
#[derive(Debug, Default)]
pub(super) struct NextRead {
    start: AtomicPtr<u32>,
    len: AtomicUsize,
    /// Equal parts, of each of which a thread reads its share, one after the other.
    parts: AtomicUsize,
}

impl NextRead {
    pub(super) fn set(&self, words: &[u32], parts: usize) {
        self.start.store(words.as_ptr().cast_mut(), Ordering::Relaxed);
        self.len.store(words.len(), Ordering::Relaxed);
        self.parts.store(parts, Ordering::Relaxed);
    }

    pub(super) fn set_as(&self, other: &NextRead) {
        self.start.store(other.start.load(Ordering::Relaxed), Ordering::Relaxed);
        self.len.store(other.len.load(Ordering::Relaxed), Ordering::Relaxed);
        self.parts.store(other.parts.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Has this thread fetch what one of several threads begins with, when it next waits.
    pub(super) fn fetch_while_waiting(&self, worker: usize, workers: usize) {
        let part = self.len.load(Ordering::Relaxed) / self.parts.load(Ordering::Relaxed).max(1);
        let part = share(part, workers, worker);
        let start = self.start.load(Ordering::Relaxed).wrapping_add(part.start);
        while_waiting(start.cast(), (part.len() * size_of::<u32>()).min(MAX_BYTES));
    }
}
