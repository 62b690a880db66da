//! `GET /info`: what is served, and its limits.

use std::collections::BTreeMap;

use super::answer::Reply;
use super::{AppState, ServerOptions};
use crate::models::{Ability, LoadedModel, ModelState, ModelStatus};
use crate::protocol::tei::{ClassifierInfo, EmbeddingInfo, Info, ModelType, Nothing, ServedModel};
use crate::protocol::{BodyLimits, Fault, FaultKind, json};

/// The first model that is ready, as TEI describes its one model, then all of them.
///
/// # Errors
/// [`FaultKind::Unavailable`] until a model is ready.
pub(super) fn info(state: &AppState) -> Result<Reply, Fault> {
    let status = state.service.registry().status();
    let first = status.iter().find_map(|status| match &status.state {
        ModelState::Ready(model) => Some(model),
        _ => None,
    });
    let Some(first) = first else {
        let reason = state.service.health().err().map(Fault::from);
        return Err(reason.unwrap_or_else(|| Fault::new(FaultKind::Unavailable, "no model is ready")));
    };
    let (description, options) = (&first.description, &state.options);
    let queue = first.admission.limit();
    let any_number = BodyLimits::of_bytes(options.payload_limit).values;
    let info = Info {
        model_id: description.id.clone(),
        model_sha: description.revision.clone(),
        model_dtype: description.dtype.clone(),
        served_model_name: first.name.to_string(),
        model_type: model_type(first),
        // A text has a token at least.
        max_concurrent_requests: options.max_concurrent_requests.unwrap_or(queue),
        max_input_length: description.max_input_length,
        max_batch_tokens: first.encoder.settings().batch_tokens,
        max_batch_requests: None,
        max_client_batch_size: options.max_client_batch_size.unwrap_or(any_number),
        auto_truncate: options.auto_truncate,
        tokenization_workers: options.tokenization_workers,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sha: None,
        docker_label: None,
        payload_limit: options.payload_limit,
        max_queue_tokens: queue,
        request_timeout: options.request_timeout.as_secs(),
        limits: limits(options),
        models: status.iter().map(served).collect(),
        activation: description.activation.clone(),
    };
    Ok(Reply::plain(json::text_of(&info)?))
}

fn limits(options: &ServerOptions) -> BTreeMap<String, u64> {
    let patience = &options.patience;
    let limits = [
        ("body_memory", options.body_memory as u64),
        ("body_rate", patience.body_rate as u64),
        ("body_timeout", patience.body.as_secs()),
        ("drain_timeout", options.drain_timeout.as_secs()),
        ("head_timeout", patience.head.as_secs()),
        ("idle_timeout", patience.idle.as_secs()),
        ("max_connections", options.max_connections as u64),
        ("write_timeout", patience.write.as_secs()),
    ];
    limits.into_iter().map(|(name, limit)| (name.to_owned(), limit)).collect()
}

fn model_type(model: &LoadedModel) -> ModelType {
    let labels = || ClassifierInfo::of_labels(model.description.labels.iter().map(String::as_str));
    let pooling = |pooling: &str| ModelType::Embedding(EmbeddingInfo { pooling: pooling.to_owned() });
    match model.abilities.main() {
        Some(Ability::Rerank) => ModelType::Reranker(labels()),
        Some(Ability::Classify | Ability::ZeroShot) => ModelType::Classifier(labels()),
        Some(Ability::Tag) => ModelType::TokenClassifier(labels()),
        Some(Ability::Answer) => ModelType::QuestionAnswering(Nothing {}),
        Some(Ability::Generate | Ability::Score) => ModelType::Generator(Nothing {}),
        Some(Ability::FillMask) => ModelType::MaskedLanguageModel(Nothing {}),
        Some(Ability::EmbedSparse) => pooling("splade"),
        Some(Ability::EmbedMulti) => pooling("late_interaction"),
        Some(Ability::Embed) | None => pooling(model.description.pooling.as_deref().unwrap_or("mean")),
    }
}

fn served(status: &ModelStatus) -> ServedModel {
    let mut served = ServedModel { name: status.name.clone(), ..ServedModel::default() };
    match &status.state {
        ModelState::Loading(_) => served.state = "loading".to_owned(),
        ModelState::Failed(error) => {
            served.state = "failed".to_owned();
            served.reason = Some(error.message.clone());
        }
        ModelState::Ready(model) => {
            served.state = "ready".to_owned();
            served.model_id = Some(model.description.id.clone());
            served.dtype = Some(model.description.dtype.clone());
            served.max_input_length = Some(model.description.max_input_length);
            served.tasks = model.abilities.0.iter().map(|ability| ability.name().to_owned()).collect();
            served.reason = status.reload_error.as_ref().map(|error| error.message.clone());
        }
    }
    served
}
