//! How checkpoints spell their tensors, and what those spellings mean here.

use std::borrow::Cow;

/// Parts of the trunk that base models and sentence-transformers exports store without the `model.` prefix.
const TRUNK: [&str; 3] = ["embeddings.", "layers.", "final_norm."];

/// The name under which a tensor is known here: trunk tensors carry `model.`, others keep their name.
pub(super) fn canonical(stored: &str) -> Cow<'_, str> {
    match TRUNK.iter().any(|part| stored.starts_with(part)) {
        true => Cow::Owned(format!("model.{stored}")),
        false => Cow::Borrowed(stored),
    }
}

/// Buffers that early releases saved beside the weights and that are recomputed, not read.
pub(super) fn is_buffer(stored: &str) -> bool {
    let last = stored.rsplit('.').next().unwrap_or(stored);
    last == "position_ids" || last.ends_with("inv_freq") || stored == "model.embeddings.position_embeddings"
}

/// Whether an unused tensor belongs to a head that this load did not ask for.
pub(super) fn is_head(canonical: &str) -> bool {
    ["head.", "lm_head.", "decoder.", "classifier."].iter().any(|part| canonical.starts_with(part))
}
