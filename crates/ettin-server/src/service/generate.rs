//! Continuations.

use std::sync::Arc;
use std::time::Instant;

use ettin::generate::{GenerateRequest, Request, draw_seed};
use ettin::tasks::{Generator, Truncate};
use tokio::sync::mpsc;

use super::{CallSize, InputText, Service, Usage, told};
use crate::error::{ErrorKind, ServeError};
use crate::logs;
use crate::metrics::{self, CallKind, Dropped};
use crate::models::{Ability, LoadedModel};
use crate::scheduler::{CallTimes, Caller, GenerationEvent, GenerationTask, Reservation};

/// Prompts to continue.
#[derive(Debug, Clone, Default)]
pub struct GenerateCall {
    /// The model's name.
    pub model: Option<String>,
    /// Prompts; ids are taken as they are, without a bos token.
    pub prompts: Vec<InputText>,
    /// Tokens that are left of a prompt, cut from its beginning; a bos token before a text stays.
    pub keep_tokens: Option<usize>,
    /// How.
    pub request: GenerateRequest,
    /// Whether tokens come with log-probabilities, and those of how many of the likeliest beside.
    pub logprobs: Option<usize>,
    /// The same of the prompts' tokens.
    pub prompt_logprobs: Option<usize>,
    /// Whether spellings of special tokens are part of the continuations' text.
    pub special: bool,
}

/// Continuations in progress. Dropping it cancels them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Generation {
    /// Who continues them.
    pub model: Arc<LoadedModel>,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// The ids of each prompt, as the model reads them.
    pub prompts: Vec<Arc<[u32]>>,
    /// Prompts that were cut.
    pub truncated: usize,
    /// Outputs: prompts × samples.
    pub outputs: usize,
    /// The seed in use; none where nothing is drawn.
    pub seed: Option<u64>,
    events: mpsc::Receiver<GenerationEvent>,
    /// How many outputs have not ended.
    open: usize,
    /// Tokens that were generated.
    generated: usize,
    /// Unicode scalars of the prompts.
    characters: usize,
    begun: Instant,
    failed: bool,
    /// Counts what nobody waits for until the end; gone then.
    dropped: Option<Dropped>,
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
            self.failed = true;
            self.ended();
            let error = ServeError::new(ErrorKind::Unhealthy, "the stream was given up");
            return Some(GenerationEvent::Failed { output: 0, error });
        };
        match &event {
            GenerationEvent::Prompt(_) => {}
            GenerationEvent::Token(_) => self.generated += 1,
            GenerationEvent::End(_) => self.open -= 1,
            GenerationEvent::Failed { error, .. } => {
                self.open -= 1;
                self.failed = true;
                metrics::failure(error);
            }
        }
        if self.open == 0 {
            self.ended();
        }
        Some(event)
    }

    /// Counts the call: its last event is there.
    fn ended(&mut self) {
        if let Some(dropped) = self.dropped.take() {
            dropped.disarm();
        }
        if !self.failed {
            let total = self.begun.elapsed();
            let times = CallTimes { inference: total, ..CallTimes::default() };
            let (inputs, tokens) = (self.prompts.len(), self.prompt_tokens);
            let usage = Usage { inputs, tokens, characters: self.characters, truncated: self.truncated };
            logs::answered(&self.model.name, usage, times);
            logs::note(|noted| noted.generated += self.generated);
            metrics::success(CallKind::Generate, inputs, self.truncated, &times, total);
        }
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
        GenerateCall { model, prompts, keep_tokens, mut request, logprobs, prompt_logprobs, special }: GenerateCall,
        caller: Caller,
    ) -> Result<Generation, ServeError> {
        let begun = Instant::now();
        let (model, generator) =
            self.task(model.as_deref(), Ability::Generate, |model| model.tasks.generate.as_ref())?;
        let size = CallSize::of_inputs(&prompts).not_empty()?;
        if request.samples == 0 {
            return Err(told(ServeError::new(ErrorKind::Validation, "at least one continuation must be asked for")));
        }
        metrics::request(CallKind::Generate, size.inputs);
        let dropped = Dropped::armed();
        let submitted = async {
            self.bound(size)?;
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
            let prepare = move || {
                let mut prepared = tasks(&generator, &prompts, &request, keep_tokens)?;
                for (task, _) in &mut prepared {
                    task.request.logprobs = logprobs;
                    task.request.prompt_logprobs = prompt_logprobs;
                    task.special = special;
                }
                Ok(prepared)
            };
            let prepared = self.pool.run(prepare).await?;
            let prompts: Vec<Arc<[u32]>> =
                prepared.iter().map(|(task, _)| task.request.ids.as_slice().into()).collect();
            let prompt_tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
            reservation.settle(prompt_tokens.saturating_add(made))?;
            let truncated = prepared.iter().filter(|(_, cut)| *cut).count();
            let tasks = prepared.into_iter().map(|(task, _)| task).collect();
            let events = decoder.submit(tasks, caller);
            Ok((prompts, prompt_tokens, truncated, outputs, seed, events, reservation))
        }
        .await;
        let (prompts, prompt_tokens, truncated, outputs, seed, events, reservation) = match submitted {
            Ok(submitted) => submitted,
            Err(error) => {
                dropped.disarm();
                return Err(told(error));
            }
        };
        let (open, _reservation) = (outputs, reservation);
        let (failed, dropped) = (false, Some(dropped));
        Ok(Generation {
            model,
            prompt_tokens,
            prompts,
            truncated,
            outputs,
            seed,
            events,
            open,
            generated: 0,
            characters: size.characters,
            begun,
            failed,
            dropped,
            _reservation,
        })
    }

    /// Work on texts that is too much for a thread that hears connections.
    pub(crate) async fn on_texts<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
    ) -> Result<T, ServeError> {
        self.pool.run(work).await
    }
}

/// What an engine is asked for, and which prompts were cut.
fn tasks(
    generator: &Generator,
    prompts: &[InputText],
    request: &GenerateRequest,
    keep_tokens: Option<usize>,
) -> Result<Vec<(GenerationTask, bool)>, ServeError> {
    let stop: Arc<[String]> = request.stop.clone().into();
    let vocabulary = generator.model().config().vocab_size;
    let room = generator.preprocessor().limit_for(Some(Truncate::Model)).tokens;
    let task = |(index, prompt): (usize, &InputText)| {
        let of_input = |error: ServeError| error.of_input(index, prompts.len());
        let (prepared, cut) = match (prompt, keep_tokens) {
            (InputText::Text(text), None) => generator.prepare(text, request).map_err(ServeError::from),
            (InputText::Ids(ids), None) => generator.prepare_ids(ids, request).map_err(ServeError::from),
            (prompt, Some(keep)) => end_of(generator, prompt, request, keep),
        }
        .map_err(of_input)?;
        let ids = &prepared.ids;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            let message = format!(
                "token {id}: the vocabulary has {vocabulary}; send ids of this model's own tokenizer, or the text"
            );
            return Err(of_input(ServeError::new(ErrorKind::Validation, message)));
        }
        if ids.len() + usize::from(request.max_new_tokens > 0) > room {
            let message = format!(
                "the prompt has {} tokens, and prompt and continuation together may have {room}; shorten it, or send \
                 `truncate_prompt_tokens`",
                ids.len()
            );
            return Err(of_input(ServeError::new(ErrorKind::TooLong, message)));
        }
        let first_output = index * request.samples;
        let first_sample = request.first_index.saturating_add(first_output) as u64;
        let request = prepared.with_first_sample(first_sample);
        Ok((GenerationTask { request, stop: stop.clone(), special: false, first_output }, cut))
    };
    prompts.iter().enumerate().map(task).collect()
}

/// A prompt of which at most `keep` tokens are left, its last ones behind the bos token of a text.
fn end_of(
    generator: &Generator,
    prompt: &InputText,
    request: &GenerateRequest,
    keep: usize,
) -> Result<(Request, bool), ServeError> {
    let tokenizer = generator.tokenizer();
    let (bos, ids) = match prompt {
        InputText::Ids(ids) => (None, ids.clone()),
        InputText::Text(text) => (tokenizer.special().bos.filter(|_| request.bos), tokenizer.ids(text)?),
    };
    let keep = keep.saturating_sub(usize::from(bos.is_some()));
    let cut = ids.len() > keep;
    let kept = ids[ids.len().saturating_sub(keep)..].iter().copied();
    let ids: Vec<u32> = bos.into_iter().chain(kept).collect();
    let (prepared, _) = generator.prepare_ids(&ids, request)?;
    Ok((prepared, cut))
}
