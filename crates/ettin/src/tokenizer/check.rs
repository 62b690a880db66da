//! What the `tokenizers` crate (0.23.2) takes for granted in a `tokenizer.json` and panics on when it is not so.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::normalizers::Precompiled;

use crate::{Error, Result};

/// The parts that it reads carelessly; the rest is checked to be JSON and skipped.
#[derive(Deserialize)]
struct Fragile {
    /// Must be a JSON value at all.
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
    normalizer: Option<Value>,
    post_processor: Option<Value>,
    model: Option<ModelKeys>,
}

#[derive(Deserialize)]
struct ModelKeys {
    continuing_subword_prefix: Option<String>,
    r#type: Option<Value>,
}

/// Refuses a file on which the crate would panic, now or when it encodes.
///
/// # Errors
/// [`Error::Tokenizer`] naming what is wrong.
pub(super) fn before_parsing(bytes: &[u8]) -> Result<()> {
    let fail = |problem: String| Error::Tokenizer(format!("tokenizer.json: {problem}"));
    let parts: Fragile = serde_json::from_slice(bytes).map_err(|error| fail(error.to_string()))?;
    if let Some(normalizer) = parts.normalizer {
        normalizers(&normalizer).map_err(fail)?;
    }
    if let Some(processor) = parts.post_processor {
        processors(&processor).map_err(fail)?;
    }
    // Merges are cut by the prefix's length without a look at what they begin with.
    let prefixed = |model: &ModelKeys| {
        model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty())
            && model.r#type.as_ref().is_none_or(|name| name == "BPE")
    };
    match parts.model.is_some_and(|model| prefixed(&model)) {
        true => Err(fail("BPE with a continuing_subword_prefix is not supported".to_owned())),
        false => Ok(()),
    }
}

fn normalizers(normalizer: &Value) -> Result<(), String> {
    if normalizer.get("precompiled_charsmap").is_some() {
        let read = serde_json::from_value::<Precompiled>(normalizer.clone());
        read.map_err(|error| format!("the Precompiled normalizer is malformed: {error}"))?;
    }
    listed(normalizer, "normalizers").try_for_each(normalizers)
}

fn processors(processor: &Value) -> Result<(), String> {
    let tokens = processor.get("special_tokens").and_then(Value::as_object);
    for (template, sequences) in [("single", 1), ("pair", 2)] {
        for piece in listed(processor, template) {
            check_piece(piece, tokens, sequences)
                .map_err(|problem| format!("the post-processor's {template} {problem}"))?;
        }
    }
    for (name, token) in tokens.into_iter().flatten() {
        let count = |key: &str| listed(token, key).count();
        if count("ids") != count("tokens") {
            return Err(format!("the post-processor's `{name}` has not as many ids as tokens"));
        }
    }
    listed(processor, "processors").try_for_each(processors)
}

/// A template may name only the special tokens that are listed and the sequences that there are.
fn check_piece(piece: &Value, tokens: Option<&Map<String, Value>>, sequences: usize) -> Result<(), String> {
    let id = |kind: &str| piece.get(kind).and_then(|piece| piece.get("id")?.as_str());
    match (id("SpecialToken"), id("Sequence")) {
        (Some(token), _) if tokens.is_none_or(|tokens| !tokens.contains_key(token)) => {
            Err(format!("template names `{token}`, which its special_tokens lack"))
        }
        (_, Some("B")) if sequences < 2 => Err("template names a second sequence".to_owned()),
        _ => Ok(()),
    }
}

/// The items of the list under `key`; none where there is no list.
fn listed<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}
