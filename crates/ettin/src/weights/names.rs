//! How checkpoints spell their tensors, and what those spellings mean here.

use std::borrow::Cow;

/// Parts of the trunk that base models and sentence-transformers exports store without the `model.` prefix.
const TRUNK: [&str; 3] = ["embeddings.", "layers.", "final_norm."];

/// The name under which a tensor is known here: trunk tensors carry `model.`, others keep their name.
pub(crate) fn canonical(stored: &str) -> Cow<'_, str> {
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

/// Whether a tensor is a matrix that a conversion to few bits quantises: those of the trunk, of the prediction head and
/// before the vocabulary. Others (classifiers, dense modules) are small, end a model, and are computed in f32.
pub(super) fn is_quantizable(canonical: &str, shape: &[usize]) -> bool {
    let parts = ["model.", "head.", "lm_head.", "decoder."];
    let [rows, columns] = *shape else { return false };
    rows > 0 && columns > 0 && canonical.ends_with(".weight") && parts.iter().any(|part| canonical.starts_with(part))
}

/// Whether an unused tensor belongs to a head that this load did not ask for.
pub(crate) fn is_head(canonical: &str) -> bool {
    ["head.", "lm_head.", "decoder.", "classifier."].iter().any(|part| canonical.starts_with(part))
}

/// The library that has quantised a model, told by a tensor that it stores beside the rows it has changed.
pub(super) fn quantizer(stored: &str) -> Option<&'static str> {
    /// Ends of names, as the libraries' save functions write them.
    const MARKS: [(&str, &str); 10] = [
        (".SCB", "bitsandbytes (8 bits)"),
        (".quant_state.bitsandbytes__nf4", "bitsandbytes (4 bits)"),
        (".quant_state.bitsandbytes__fp4", "bitsandbytes (4 bits)"),
        ("._weight_qdata", "torchao"),
        (".qweight", "GPTQ or AWQ"),
        (".weight_packed", "compressed-tensors"),
        (".weight_scale", "compressed-tensors"),
        (".weight_scale_inv", "block-wise FP8"),
        (".W_q", "HQQ"),
        (".weight._data", "quanto"),
    ];
    MARKS.iter().find(|(end, _)| stored.ends_with(end)).map(|(_, library)| *library)
}
