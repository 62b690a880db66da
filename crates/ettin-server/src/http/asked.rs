//! One request on its way through: who asks for what, and what requests of several protocols share.

use std::time::Instant;

use ettin::tasks::{PromptChoice, Truncate};

use super::AppState;
use super::answer::{Facts, Reply};
use super::routes::Connection;
use crate::metrics;
use crate::models::{Ability, LoadedModel};
use crate::protocol::input::{Inputs, TextOrIds};
use crate::protocol::tei::TruncationDirection;
use crate::protocol::{Fault, FaultKind};
use crate::scheduler::Caller;
use crate::service::{Answered, InputText, Service};

/// Numbers (or as many bytes of text) of an answer that are written on the reactor. More are written apart: other
/// connections shall not wait for them.
const WRITTEN_HERE: usize = 1 << 13;

/// A request without its body.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) state: AppState,
    /// The model that the body names.
    pub(super) model: Option<String>,
    /// Who asks, and until when.
    pub(super) caller: Caller,
}

impl Asked {
    /// A request that came now, over this connection.
    pub(super) fn new(state: &AppState, Connection(client): Connection, model: Option<String>) -> Self {
        let deadline = Some(Instant::now() + state.options.request_timeout);
        Self { state: state.clone(), model, caller: Caller { client, deadline } }
    }

    pub(super) fn service(&self) -> &Service {
        &self.state.service
    }

    /// The model that will answer.
    ///
    /// # Errors
    /// Where there is none that can.
    pub(super) fn choose(&self, need: Ability) -> Result<std::sync::Arc<LoadedModel>, Fault> {
        Ok(self.service().registry().choose(self.model.as_deref(), need)?)
    }

    /// What becomes of texts over the limit: what the request says, else the server's one policy for all routes. The
    /// side is the model's own unless the request names one.
    pub(super) fn truncate(&self, asked: Option<bool>, side: Option<TruncationDirection>) -> Truncate {
        match (asked.unwrap_or(self.state.options.auto_truncate), side) {
            (false, _) => Truncate::Error,
            (true, None) => Truncate::Model,
            (true, Some(TruncationDirection::Left)) => Truncate::Left,
            (true, Some(TruncationDirection::Right)) => Truncate::Right,
        }
    }

    /// The same by vLLM's number of tokens.
    ///
    /// # Errors
    /// [`FaultKind::Refused`] for a limit of a request's own.
    pub(super) fn truncate_to(
        &self,
        need: Ability,
        tokens: Option<i64>,
        side: Option<TruncationDirection>,
    ) -> Result<Truncate, Fault> {
        let Some(tokens) = tokens else { return Ok(self.truncate(None, side)) };
        if tokens >= 0 {
            let limit = self.choose(need)?.description.max_input_length;
            if (tokens as usize) < limit {
                let message = format!(
                    "`truncate_prompt_tokens` of {tokens} is not supported: texts are cut at the model's own limit, \
                     {limit} tokens; send -1, or cut them before"
                );
                return Err(Fault::new(FaultKind::Refused, message).with_param("truncate_prompt_tokens"));
            }
        }
        Ok(self.truncate(Some(true), side))
    }

    /// Texts and ids as the service takes them. Ids are those of the model, or an error that says where others come
    /// from.
    ///
    /// # Errors
    /// [`FaultKind::Field`] for ids beyond the vocabulary.
    pub(super) fn inputs(&self, need: Ability, inputs: Inputs, field: &str) -> Result<Vec<InputText>, Fault> {
        let inputs = inputs.into_list();
        if inputs.iter().any(|input| matches!(input, TextOrIds::Ids(_))) {
            let model = self.choose(need)?;
            if let Some(embedder) = &model.tasks.embed
                && let Some(model) = embedder.model()
            {
                check_ids(&inputs, model.config().vocab_size, field)?;
            }
        }
        let text = |input| match input {
            TextOrIds::Text(text) => InputText::Text(text),
            TextOrIds::Ids(ids) => InputText::Ids(ids),
        };
        Ok(inputs.into_iter().map(text).collect())
    }

    /// The answer with the body that `write` makes of its value. `size` says about how many numbers or bytes the body
    /// has.
    ///
    /// # Errors
    /// Those of `write`.
    pub(super) async fn reply<T: Send + 'static>(
        &self,
        answered: Answered<T>,
        size: impl FnOnce(&T) -> usize,
        write: impl FnOnce(T, &Facts) -> Result<String, Fault> + Send + 'static,
    ) -> Result<Reply, Fault> {
        let (value, facts) = Facts::of(answered);
        let size = size(&value);
        let of_pool = facts.clone();
        let body = self.apart(size, move || write(value, &of_pool)).await?;
        Ok(facts.reply(body))
    }

    /// Work of this size: here where it is small, else on the threads for texts.
    ///
    /// # Errors
    /// Those of `work`; an internal one where it panics.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        size: usize,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        if size <= WRITTEN_HERE {
            return work();
        }
        self.service().pool().run(move || Ok(work())).await?
    }
}

/// A prompt by its name; the model's own default without one.
pub(super) fn prompt(name: Option<String>) -> PromptChoice {
    name.map_or(PromptChoice::Default, PromptChoice::Named)
}

/// Texts of inputs that may not be ids on this route.
///
/// # Errors
/// [`FaultKind::Refused`] for ids.
pub(super) fn only_texts(inputs: Inputs, field: &str) -> Result<Vec<String>, Fault> {
    let text = |input| match input {
        TextOrIds::Text(text) => Ok(text),
        TextOrIds::Ids(_) => {
            let message = format!("token ids in `{field}` are not supported for this task; send texts");
            Err(Fault::new(FaultKind::Refused, message).with_param(field))
        }
    };
    inputs.into_list().into_iter().map(text).collect()
}

fn check_ids(inputs: &[TextOrIds], vocabulary: usize, field: &str) -> Result<(), Fault> {
    let beyond = |input: &TextOrIds| match input {
        TextOrIds::Ids(ids) => ids.iter().copied().find(|&id| id as usize >= vocabulary),
        TextOrIds::Text(_) => None,
    };
    let Some((index, id)) = inputs.iter().enumerate().find_map(|(index, input)| Some((index, beyond(input)?))) else {
        return Ok(());
    };
    tracing::warn!(
        id,
        vocabulary,
        "a client sends ids of another tokenizer: LangChain's OpenAIEmbeddings does unless it is made with \
         check_embedding_ctx_length=False"
    );
    let message = format!(
        "input {index}: token {id} is beyond the model's vocabulary of {vocabulary}: these are ids of another \
         tokenizer. Send text; LangChain's OpenAIEmbeddings does so with check_embedding_ctx_length=False"
    );
    metrics::refused();
    Err(Fault::field(field, message))
}
