//! Keys that `config.json` may hold and that mean a model which this engine would compute wrongly.
//!
//! What transformers 5.23 makes of each was measured (docs/KEYS.md). An object that another tool left in the file
//! (`transformers.js_config`, `training_config`, …) is none of them: transformers keeps it and never looks at it.

use serde_json::Value;

use crate::metadata::CONFIG;

use super::Objective;
use super::keys::Keys;
use crate::Result;

/// Where transformers looks for the configuration of a causal model's text part, before it takes the file's own keys.
const TEXT_PARTS: [&str; 3] = ["decoder", "generator", "text_config"];

/// Refuses such a key by name.
pub(super) fn refuse(keys: &Keys<'_>, objective: Objective) -> Result<()> {
    for key in keys.names() {
        let rule = match key {
            "quantization_config" | "compression_config" => {
                "quantised checkpoints are not supported; use the original weights"
            }
            "per_layer_config" if !is_empty(keys, key) => "layers that differ in shape are not supported",
            "pruned_heads" if !is_empty(keys, key) => "pruned attention heads are not supported",
            "attribute_map" if !is_empty(keys, key) => "keys that stand for other keys are not supported",
            "configuration_files" if names_another(keys, key) => {
                "configurations by version are not supported; name the one to use config.json"
            }
            _ if objective == Objective::Decoder && TEXT_PARTS.contains(&key) => {
                "a configuration nested in another is not supported; use the text model's own config.json"
            }
            _ => continue,
        };
        return Err(keys.refuse(key, rule));
    }
    let causal = objective == Objective::Decoder;
    if keys.flag("is_causal", causal)? != causal {
        let rule = "attention that looks another way than the model type says is not supported";
        return Err(keys.refuse("is_causal", rule));
    }
    if causal && keys.flag("is_encoder_decoder", false)? {
        return Err(keys.refuse("is_encoder_decoder", "this model type has a decoder alone"));
    }
    // Never read by this model type; early releases wrote either word although no position is embedded.
    match keys.text("position_embedding_type")? {
        None | Some("sans_pos" | "absolute") => Ok(()),
        Some(_) => Err(keys.refuse("position_embedding_type", "supported: \"sans_pos\"; positions are rotary only")),
    }
}

/// An object or a list without entries.
fn is_empty(keys: &Keys<'_>, key: &str) -> bool {
    match keys.get(key) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => false,
    }
}

/// Whether a list of configuration files holds any but `config.json`.
fn names_another(keys: &Keys<'_>, key: &str) -> bool {
    let files = keys.get(key).and_then(Value::as_array);
    files.is_some_and(|files| files.iter().any(|file| file != CONFIG))
}
