//! Zeroed memory on pages of 2 MiB, where the system has them.
//!
//! Weights and activations are read from end to end, again and again. With pages of 4 KiB the CPU stops fetching ahead
//! at the end of each, translates an address (twice, in a virtual machine), and finds lines of neighbouring pages in
//! one place of its L2: measured in loops of products, a fifth of the speed for weights, a third for results.

use memmap2::MmapMut;

/// Size of a huge page on x86-64 and on most of AArch64.
pub(crate) const HUGE: usize = 2 << 20;

/// Zeros, from the start of a huge page on.
pub(crate) struct Pages {
    map: MmapMut,
    /// Where the first whole huge page starts.
    first: usize,
}

impl Pages {
    /// At least so many bytes, of which none is touched; `None` where nothing can be mapped.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        let map = MmapMut::map_anon(bytes.max(1).checked_add(HUGE)?).ok()?;
        #[cfg(target_os = "linux")]
        // Only a hint: nothing is lost where it is not taken.
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().addr();
        Some(Self { first: start.next_multiple_of(HUGE) - start, map })
    }

    pub(crate) fn start(&self) -> *const u8 {
        self.map[self.first..].as_ptr()
    }

    pub(crate) fn start_mut(&mut self) -> *mut u8 {
        self.map[self.first..].as_mut_ptr()
    }
}
