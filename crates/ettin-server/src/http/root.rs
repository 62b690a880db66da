//! What `/` does with a body whose shape does not say its task: what the model is for.

use serde_json::Value;

use crate::models::{Ability, LoadedModel, Registry};
use crate::protocol::RootTask;
use crate::protocol::route::model_of;

/// What the model that a body names (or the first one that is ready) is for. Where none is ready any task will do: its
/// model is looked for, and the client is told to wait.
pub(super) fn task(registry: &Registry, body: &Value) -> RootTask {
    let Ok(model) = registry.choose_by(model_of(body), "be asked at `/`", |_| true) else { return RootTask::Embed };
    match model.abilities.main() {
        // A masked language model embeds, too. Only requests to fill a mask have one, or `parameters`.
        _ if model.abilities.has(Ability::FillMask) => match body.get("parameters").is_some() || has_mask(&model, body)
        {
            true => RootTask::FillMask,
            false => RootTask::Embed,
        },
        Some(Ability::EmbedSparse) => RootTask::EmbedSparse,
        Some(Ability::EmbedMulti) => RootTask::EmbedAll,
        Some(Ability::Rerank) => RootTask::Rerank,
        Some(Ability::Classify | Ability::ZeroShot) => RootTask::Predict,
        Some(Ability::Tag) => RootTask::Tag,
        Some(Ability::Answer) => RootTask::Question,
        Some(Ability::FillMask) => RootTask::FillMask,
        Some(Ability::Generate | Ability::Score) => RootTask::Generate,
        Some(Ability::Embed) | None => RootTask::Embed,
    }
}

/// Whether a text has the model's mask in it.
fn has_mask(model: &LoadedModel, body: &Value) -> bool {
    let mask = model.tokenizer.special().mask.and_then(|id| model.tokenizer.token(id));
    let Some(mask) = mask else { return false };
    let has = |text: &Value| text.as_str().is_some_and(|text| text.contains(&mask));
    match body.get("inputs") {
        Some(Value::Array(texts)) => texts.iter().any(has),
        Some(text) => has(text),
        None => false,
    }
}
