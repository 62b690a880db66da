//! What packing leaves of rows, for such as are not packed.

use super::{
    formats::{PackWeights, PanelBuffers, PanelRows},
    layout::ActivationLayout,
    scheme::{Scheme, with_microkernel},
    weight::{PackPanel, panel_words},
};
use crate::{
    buffer::{as_words, with_scratch},
    isa::Isa,
    simd::LANES,
};

/// Rounds rows `[rows, k]` to what a [`PackedWeight`](super::PackedWeight) of the scheme would give back of them, bit
/// for bit.
///
/// # Panics
/// If this CPU lacks `isa`, or these are not whole rows.
pub fn rounded(isa: Isa, scheme: Scheme, k: usize, rows: &mut [f32]) {
    assert!(rows.is_empty() || rows.len().is_multiple_of(k), "not whole rows of {k}");
    if scheme == Scheme::F32 || rows.is_empty() {
        return;
    }
    let (room, words) = (LANES * ActivationLayout::words(isa, scheme, k), panel_words(isa, scheme, 1, k));
    with_scratch(room + words, |scratch| {
        let (room, words) = as_words(scratch).split_at_mut(room);
        for rows in rows.chunks_mut(LANES * k) {
            words.fill(0);
            let (mut scales, mut compensation) = ([1.0; LANES], [0; LANES]);
            let panel = PanelRows { rows, count: rows.len() / k, k, vectors: 1 };
            let parts = PanelBuffers { words: &mut *words, scales: &mut scales, compensation: &mut compensation };
            PackPanel { isa, scheme, panel, room: &mut *room, parts }.run();
            for (output, row) in rows.chunks_exact_mut(k).enumerate() {
                with_microkernel!(scheme, isa, F => F::unpack(words, 1, output, scales[output], row));
            }
        }
    });
}
