//! Continuations.

use std::sync::Arc;

use ettin::generate::{GenerateRequest, draw_seed};
use ettin::tasks::Generator;
use tokio::sync::mpsc;

use super::{CallSize, InputText, Service, told};
use crate::error::{ErrorKind, ServeError};
use crate::metrics::{self, CallKind};
use crate::models::{Ability, LoadedModel};
use crate::scheduler::{Caller, GenerationEvent, GenerationTask, Reservation};

/// Prompts to continue.
#[derive(Debug, Clone, Default)]
pub struct GenerateCall {
    /// The model's name.
    pub model: Option<String>,
    /// Prompts; ids are taken as they are, without a bos token.
    pub prompts: Vec<InputText>,
    /// How.
    pub request: GenerateRequest,
    /// Whether tokens come with log-probabilities, and those of how many of the likeliest beside.
    pub logprobs: Option<usize>,
}

/// Continuations in progress. Dropping it cancels them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Generation {
    /// Who continues them.
    pub model: Arc<LoadedModel>,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Prompts that were cut.
    pub truncated: usize,
    /// Outputs: prompts × samples.
    pub outputs: usize,
    /// The seed in use; none where nothing is drawn.
    pub seed: Option<u64>,
    events: mpsc::Receiver<GenerationEvent>,
    /// How many outputs have not ended.
    open: usize,
    /// Held until the end.
    _reservation: Reservation,
}

impl Generation {
    /// The next event; none when every output has ended.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        if self.open == 0 {
            return None;
        }
        let Some(event) = self.events.recv().await else {
            // The client was given up, or the model is gone.
            self.open = 0;
            let error = ServeError::new(ErrorKind::Unhealthy, "the stream was given up");
            return Some(GenerationEvent::Failed { output: 0, error });
        };
        match &event {
            GenerationEvent::Token(_) => {}
            GenerationEvent::End(_) => self.open -= 1,
            GenerationEvent::Failed { error, .. } => {
                self.open -= 1;
                metrics::failure(error);
            }
        }
        Some(event)
    }
}

impl Service {
    /// Begins to continue prompts. Outputs are numbered as [`Generator::run`] numbers them: the samples of a prompt in
    /// a row. Their tokens are those of that call.
    ///
    /// # Errors
    /// Those of a call, see the [module](crate::service), before there is anything to stream. A prompt that the engine
    /// refuses fails by an event.
    pub async fn generate(
        &self,
        GenerateCall { model, prompts, mut request, logprobs }: GenerateCall,
        caller: Caller,
    ) -> Result<Generation, ServeError> {
        let (model, generator) =
            self.task(model.as_deref(), Ability::Generate, |model| model.tasks.generate.as_ref())?;
        let size = CallSize::of_inputs(&prompts).not_empty()?;
        if request.samples == 0 {
            return Err(told(ServeError::new(ErrorKind::Validation, "at least one continuation must be asked for")));
        }
        metrics::request(CallKind::Generate, size.inputs);
        let begun = async {
            let decoder =
                model.decoder.as_ref().ok_or_else(|| ServeError::internal("a generator without an engine"))?;
            let outputs = prompts.len().saturating_mul(request.samples);
            let made = request.max_new_tokens.min(model.description.max_input_length).saturating_mul(outputs);
            let mut reservation = model.stream_admission.reserve_bytes(size.bytes.saturating_add(made), size.inputs)?;
            if request.sampling.temperature > 0.0 {
                // One seed for all prompts.
                request.sampling.seed = request.sampling.seed.or_else(|| Some(draw_seed()));
            }
            let seed = request.sampling.seed.filter(|_| request.sampling.temperature > 0.0);
            let prepared = self.pool.run(move || tasks(&generator, &prompts, &request, logprobs)).await?;
            let prompt_tokens: usize = prepared.iter().map(|(task, _)| task.request.ids.len()).sum();
            reservation.settle(prompt_tokens.saturating_add(made))?;
            let truncated = prepared.iter().filter(|(_, cut)| *cut).count();
            let tasks = prepared.into_iter().map(|(task, _)| task).collect();
            let events = decoder.submit(tasks, caller);
            Ok((prompt_tokens, truncated, outputs, seed, events, reservation))
        };
        let (prompt_tokens, truncated, outputs, seed, events, reservation) = begun.await.map_err(told)?;
        let (open, _reservation) = (outputs, reservation);
        Ok(Generation { model, prompt_tokens, truncated, outputs, seed, events, open, _reservation })
    }
}

/// What an engine is asked for, and which prompts were cut.
fn tasks(
    generator: &Generator,
    prompts: &[InputText],
    request: &GenerateRequest,
    logprobs: Option<usize>,
) -> Result<Vec<(GenerationTask, bool)>, ServeError> {
    let stop: Arc<[String]> = request.stop.clone().into();
    let task = |(index, prompt): (usize, &InputText)| {
        let (prepared, cut) = match prompt {
            InputText::Text(text) => generator.prepare(text, request),
            InputText::Ids(ids) => generator.prepare_ids(ids, request),
        }
        .map_err(|error| ServeError::from(error).of_input(index, prompts.len()))?;
        let first_output = index * request.samples;
        let first_sample = request.first_index.saturating_add(first_output) as u64;
        let prepared = prepared.with_first_sample(first_sample).with_logprobs(logprobs);
        Ok((GenerationTask { request: prepared, stop: stop.clone(), first_output }, cut))
    };
    prompts.iter().enumerate().map(task).collect()
}
