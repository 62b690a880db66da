//! Token vectors out of a table, normalised.

use crate::{Isa, Norm, buffer::with_scratch, norm::normalise, simd::LANES, team::Team};

/// `norm(table[ids])`, `[ids, hidden]`. The table is what `look_up(ids, out)` takes vectors from, into `[ids, hidden]`:
/// a few tokens at a time, from several threads. It must not call parallel kernels.
///
/// # Panics
/// If the lengths do not fit together.
pub fn embed(
    isa: Isa,
    team: &Team,
    ids: &[u32],
    look_up: &(dyn Fn(&[u32], &mut [f32]) + Sync),
    norm: Norm<'_>,
    out: &mut [f32],
) {
    let hidden = norm.weight.len();
    assert_eq!(out.len(), ids.len() * hidden, "out is not [{}, {hidden}]", ids.len());
    // An element costs more than a flop: a token's values are spread over as many cache lines.
    team.run_rows(out, hidden, 16 * ids.len() * hidden, |first, out| {
        let ids = &ids[first..][..out.len() / hidden];
        for (ids, out) in ids.chunks(LANES).zip(out.chunks_mut(LANES * hidden)) {
            look_up(ids, out);
            with_scratch(hidden, |vector| {
                for out in out.chunks_exact_mut(hidden) {
                    vector.copy_from_slice(out);
                    normalise(isa, vector, norm, out);
                }
            });
        }
    });
}
