//! Routes of OpenAI but for completions.

use ettin::tasks::EmbedRequest;

use super::AppState;
use super::answer::{Reply, seconds};
use super::asked::{Asked, prompt};
use super::tei::{numbers, pooled};
use crate::models::{Ability, LoadedModel, ModelState};
use crate::protocol::openai::{EmbeddingsRequest, ModelCard, ModelList, embeddings_answer};
use crate::protocol::{Fault, FaultKind, json};
use crate::service::EmbedCall;

pub(super) async fn embeddings(asked: &Asked, request: EmbeddingsRequest) -> Result<Reply, Fault> {
    if request.add_special_tokens == Some(false) {
        let message = "`add_special_tokens: false` is not supported: send token ids, which are used as they are";
        return Err(Fault::new(FaultKind::Refused, message).with_param("add_special_tokens"));
    }
    let truncate = asked.truncate_to(Ability::Embed, request.truncate_prompt_tokens, request.truncation_side)?;
    let embed = EmbedRequest::default()
        .with_normalize(request.normalized())
        .with_dimensions(request.dimensions)
        .with_prompt(prompt(request.prompt_name))
        .with_truncate(truncate);
    let inputs = asked.inputs(Ability::Embed, request.input, "input")?;
    let call = EmbedCall { model: asked.model.clone(), inputs, request: embed };
    let answer = asked.service().embed(call, asked.caller).await?;
    let format = request.encoding_format;
    let write = move |value, facts: &super::answer::Facts| {
        embeddings_answer(facts.head("embd"), pooled(value)?, format, facts.tokens)
    };
    asked.reply(answer, |value| numbers(value), write).await
}

/// `GET /v1/models`: those that answer.
pub(super) fn models(state: &AppState) -> Result<Reply, Fault> {
    let status = state.service.registry().status();
    let cards = status.iter().filter_map(|status| match &status.state {
        ModelState::Ready(model) => Some(card(model)),
        _ => None,
    });
    Ok(Reply::plain(json::text_of(&ModelList::new(cards.collect()))?))
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// [`FaultKind::UnknownModel`]; [`FaultKind::Unavailable`] for one that does not answer yet.
pub(super) fn model(state: &AppState, id: &str) -> Result<Reply, Fault> {
    let status = state.service.registry().status();
    match status.iter().find(|status| status.name == id).map(|status| &status.state) {
        Some(ModelState::Ready(model)) => Ok(Reply::plain(json::text_of(&card(model))?)),
        Some(ModelState::Loading(_)) => Err(Fault::new(FaultKind::Unavailable, format!("model {id} is loading"))),
        Some(ModelState::Failed(error)) => {
            Err(Fault::new(FaultKind::Unavailable, format!("model {id} could not be loaded: {error}")))
        }
        None => {
            let known: Vec<&str> = status.iter().map(|status| status.name.as_str()).collect();
            let message = format!("no model is called {id:?}; there is {}", known.join(", "));
            Err(Fault::new(FaultKind::UnknownModel, message).with_param("model"))
        }
    }
}

fn card(model: &LoadedModel) -> ModelCard {
    let mut card = ModelCard::new(&*model.name, seconds(model.loaded));
    card.root = Some(model.description.id.clone());
    card.max_model_len = Some(model.description.max_input_length);
    card.tasks = model.abilities.0.iter().map(|ability| ability.name().to_owned()).collect();
    card
}
