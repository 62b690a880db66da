//! Token vectors out of a packed table, normalised.

use crate::{Norm, PackedMatrix, buffer::with_scratch, norm::normalise, team::Team};

/// `norm(table[ids])`, `[ids, hidden]`.
///
/// # Panics
/// If an id is not in the table, or the lengths do not fit together.
pub fn embed(team: &Team, table: &PackedMatrix, ids: &[u32], norm: Norm<'_>, out: &mut [f32]) {
    let hidden = table.k();
    assert!(out.len() == ids.len() * hidden && norm.weight.len() == hidden, "out is not [{}, {hidden}]", ids.len());
    // An element costs more than a flop: a token's values are spread over as many cache lines.
    team.run_rows(out, hidden, 16 * ids.len() * hidden, |first, out| {
        with_scratch(hidden, |vector| {
            let ids = &ids[first..];
            for (i, out) in out.chunks_exact_mut(hidden).enumerate() {
                if let Some(&next) = ids.get(i + 1) {
                    table.prefetch_row(next as usize);
                }
                table.row(ids[i] as usize, vector);
                normalise(table.isa(), vector, norm, out);
            }
        });
    });
}
