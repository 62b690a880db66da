//! What routes call: typed requests in, typed answers out, and nothing of HTTP or JSON.
//!
//! Every call has a struct of its own with a `model` (by name; none, or a name that no model has, means the first that
//! can do it), the inputs, and the library's own request with every option. Answers come in the order of the inputs,
//! and each is bit for bit what the library gives for its input alone.
//!
//! A call fails as a whole: with the first input that fails, whose number the message has where there are several. What
//! the library's `run` gives to each input apart, no protocol has a place for.
//!
//! What happens to a call, in order: a model is chosen; the request is let in or refused by its bytes
//! ([`Admission`](crate::scheduler::Admission)); texts are encoded on the [`TokenizerPool`]; the request is let in or
//! refused by its tokens; its sequences wait for their turns; the answer is put together. Dropping the future anywhere
//! in between takes the call out, and what it held is free.
//!
//! ```no_run
//! # async fn example(service: ettin_server::service::Service) -> Result<(), ettin_server::error::ServeError> {
//! use ettin_server::scheduler::Caller;
//! use ettin_server::service::{EmbedCall, InputText};
//!
//! let call = EmbedCall { inputs: vec![InputText::from("A cat.")], ..EmbedCall::default() };
//! let answer = service.embed(call, Caller::default()).await?;
//! println!("{:?} of {} tokens", answer.value[0], answer.usage.tokens);
//! # Ok(())
//! # }
//! ```

mod embed;
mod generate;
mod predict;
mod text;

pub use embed::{EmbedCall, MultiVectorCall, SimilarityCall};
pub use generate::{GenerateCall, Generation};
pub use predict::{
    AnswerCall, ClassifyCall, FillMaskCall, PairText, RerankCall, ScorePairsCall, TagCall, ZeroShotCall,
};
pub use text::{TokenSpan, TokenizeCall};

use std::sync::Arc;
use std::time::{Duration, Instant};

use ettin::Pooling;
use ettin::tasks::{EmbedRequest, Outcomes, Prepared, PromptChoice, Staged};

use crate::error::{ErrorKind, ServeError};
use crate::logs;
use crate::metrics::{self, CallKind, Dropped};
use crate::models::{Ability, LoadedModel, Registry};
use crate::scheduler::{CallTimes, Caller, ComputedCall, TokenizerPool};

/// The server beneath its routes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    registry: Arc<Registry>,
    pool: TokenizerPool,
    defaults: Arc<ServiceDefaults>,
}

/// What an operator decides for requests that say nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServiceDefaults {
    /// The most inputs of one call; none is no limit but that of tokens.
    pub max_inputs: Option<usize>,
    /// The prompt of texts that are embedded or compared, instead of the model's default one.
    pub prompt: PromptChoice,
    /// The pooling of models whose files may leave it open.
    pub pooling: Option<Pooling>,
}

impl ServiceDefaults {
    /// What a request for vectors leaves open.
    fn complete(&self, request: &mut EmbedRequest) {
        if request.prompt == PromptChoice::Default && request.side.is_none() {
            request.prompt = self.prompt.clone();
        }
        if !request.per_token && request.pooling.is_none() {
            request.pooling = self.pooling;
        }
    }
}

/// A text, or the ids of its tokens, which are used as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputText {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl From<&str> for InputText {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for InputText {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl InputText {
    /// Its size for admission, before it is encoded.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            // As many as stand for a token.
            Self::Ids(ids) => 3 * ids.len(),
        }
    }

    /// Unicode scalars; none of ids.
    fn characters(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count(),
            Self::Ids(_) => 0,
        }
    }
}

/// What a call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Inputs.
    pub inputs: usize,
    /// Tokens that were computed, special tokens included.
    pub tokens: usize,
    /// Unicode scalars of the inputs.
    pub characters: usize,
    /// Inputs that were cut to the model's limit.
    pub truncated: usize,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            inputs: self.inputs + other.inputs,
            tokens: self.tokens + other.tokens,
            characters: self.characters + other.characters,
            truncated: self.truncated + other.truncated,
        }
    }
}

/// An answer, and what there is to say of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answered<T> {
    /// The answer.
    pub value: T,
    /// Who gave it.
    pub model: Arc<LoadedModel>,
    /// What it used.
    pub usage: Usage,
    /// How long its parts took.
    pub times: CallTimes,
    /// How long all of it took.
    pub total: Duration,
}

/// The size of a call's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallSize {
    inputs: usize,
    bytes: usize,
    characters: usize,
}

impl CallSize {
    fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut size = Self { inputs: 0, bytes: 0, characters: 0 };
        for text in texts {
            size.inputs += 1;
            size.bytes += text.len();
            size.characters += text.chars().count();
        }
        size
    }

    fn of_inputs(inputs: &[InputText]) -> Self {
        Self {
            inputs: inputs.len(),
            bytes: inputs.iter().map(InputText::bytes).sum(),
            characters: inputs.iter().map(InputText::characters).sum(),
        }
    }

    /// # Errors
    /// [`Empty`](ErrorKind::Empty) for no inputs.
    fn not_empty(self) -> Result<Self, ServeError> {
        match self.inputs {
            0 => Err(ServeError::new(ErrorKind::Empty, "there is no input")),
            _ => Ok(self),
        }
    }
}

impl Service {
    /// Over these models, with so many threads for texts.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(registry: Arc<Registry>, tokenization_workers: usize) -> Result<Self, ServeError> {
        Ok(Self { registry, pool: TokenizerPool::new(tokenization_workers)?, defaults: Arc::default() })
    }

    /// With other defaults.
    #[must_use]
    pub fn with_defaults(mut self, defaults: ServiceDefaults) -> Self {
        self.defaults = Arc::new(defaults);
        self
    }

    /// The models.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The threads for texts.
    pub(crate) fn pool(&self) -> &TokenizerPool {
        &self.pool
    }

    /// Whether all models answer.
    ///
    /// # Errors
    /// [`Unhealthy`](ErrorKind::Unhealthy) with the reason.
    pub fn health(&self) -> Result<(), ServeError> {
        self.registry.health()
    }

    /// Carries a staged task out whose answers are quickly put together. `value` makes one value of the outcomes of all
    /// inputs.
    async fn staged<T: Staged + 'static, A>(
        &self,
        kind: CallKind,
        task: (Arc<LoadedModel>, Arc<T>),
        size: CallSize,
        caller: Caller,
        prepare: impl FnOnce(&T) -> Result<Prepared<T>, ettin::Error> + Send + 'static,
        value: impl FnOnce(Outcomes<T::Answer>, &mut Usage) -> Result<A, ServeError>,
    ) -> Result<Answered<A>, ServeError> {
        let assemble = async |computed: ComputedCall<T>| Ok(computed.assemble());
        self.carry_out(kind, task, size, caller, prepare, assemble, value).await
    }

    /// The same where putting answers together is work.
    async fn staged_apart<T: Staged + 'static, A>(
        &self,
        kind: CallKind,
        task: (Arc<LoadedModel>, Arc<T>),
        size: CallSize,
        caller: Caller,
        prepare: impl FnOnce(&T) -> Result<Prepared<T>, ettin::Error> + Send + 'static,
        value: impl FnOnce(Outcomes<T::Answer>, &mut Usage) -> Result<A, ServeError>,
    ) -> Result<Answered<A>, ServeError> {
        let assemble = |computed: ComputedCall<T>| self.pool.run(move || Ok(computed.assemble()));
        self.carry_out(kind, task, size, caller, prepare, assemble, value).await
    }

    #[expect(clippy::too_many_arguments, reason = "all but one are those of its two callers")]
    async fn carry_out<T: Staged + 'static, A, F: Future<Output = Result<Outcomes<T::Answer>, ServeError>>>(
        &self,
        kind: CallKind,
        (model, task): (Arc<LoadedModel>, Arc<T>),
        size: CallSize,
        caller: Caller,
        prepare: impl FnOnce(&T) -> Result<Prepared<T>, ettin::Error> + Send + 'static,
        assemble: impl FnOnce(ComputedCall<T>) -> F,
        value: impl FnOnce(Outcomes<T::Answer>, &mut Usage) -> Result<A, ServeError>,
    ) -> Result<Answered<A>, ServeError> {
        let begun = Instant::now();
        logs::note(|noted| noted.model = Some(model.name.clone()));
        metrics::request(kind, size.inputs);
        let dropped = Dropped::armed();
        let mut usage = Usage { inputs: size.inputs, characters: size.characters, ..Usage::default() };
        let answered = async {
            self.bound(size)?;
            let mut reservation = model.admission.reserve_bytes(size.bytes, size.inputs)?;
            let of_pool = task.clone();
            let prepared = self.pool.run(move || Ok(prepare(&of_pool)?)).await?;
            let lengths = prepared.sequences().iter().map(|sequence| sequence.ids().len());
            usage.tokens = lengths.inspect(|&length| metrics::input_length(length)).sum();
            reservation.settle(usage.tokens)?;
            let tokenization = begun.elapsed();
            let computed = model.encoder.compute(&task, prepared, caller).await?;
            let times = CallTimes { tokenization, ..computed.times };
            Ok((value(assemble(computed).await?, &mut usage)?, times))
        }
        .await;
        dropped.disarm();
        match answered {
            Ok((value, times)) => {
                let total = begun.elapsed();
                logs::answered(&model.name, usage, times);
                metrics::success(kind, size.inputs, usage.truncated, &times, total);
                Ok(Answered { value, model, usage, times, total })
            }
            Err(error) => Err(told(error)),
        }
    }

    /// # Errors
    /// For more inputs than an operator lets in.
    fn bound(&self, size: CallSize) -> Result<(), ServeError> {
        match self.defaults.max_inputs {
            Some(most) if size.inputs > most => {
                let message = format!(
                    "the request has {} inputs, more than the {most} that this server was told to take \
                     (max_client_batch_size); send them in parts",
                    size.inputs
                );
                Err(ServeError::new(ErrorKind::Validation, message))
            }
            _ => Ok(()),
        }
    }

    /// A model that can do what is needed, with the task that does it.
    fn task<T>(
        &self,
        name: Option<&str>,
        need: Ability,
        task: impl Fn(&LoadedModel) -> Option<&Arc<T>>,
    ) -> Result<(Arc<LoadedModel>, Arc<T>), ServeError> {
        let found = |model: Arc<LoadedModel>| {
            let task = task(&model).cloned();
            logs::note(|noted| noted.model = Some(model.name.clone()));
            task.map(|task| (model, task)).ok_or_else(|| ServeError::internal(format!("no task for {need}")))
        };
        self.registry.choose(name, need).and_then(found).map_err(told)
    }
}

/// Counts and logs an error on its way out.
fn told(error: ServeError) -> ServeError {
    metrics::failure(&error);
    logs::failed(&error);
    if metrics::is_ours(error.kind) {
        tracing::error!(%error, "a request failed");
    }
    error
}

/// The values of all inputs, or the first failure.
fn values<A>(outcomes: Outcomes<A>, usage: &mut Usage) -> Result<Vec<A>, ServeError> {
    let inputs = outcomes.len();
    let value = |(index, outcome): (usize, Result<ettin::tasks::Outcome<A>, ettin::Error>)| {
        let outcome = outcome.map_err(|error| ServeError::from(error).of_input(index, inputs))?;
        usage.truncated += usize::from(outcome.truncated);
        Ok(outcome.value)
    };
    outcomes.into_iter().enumerate().map(value).collect()
}

/// The value of the one input.
fn single<A>(outcomes: Outcomes<A>, usage: &mut Usage) -> Result<A, ServeError> {
    values(outcomes, usage)?.pop().ok_or_else(|| ServeError::internal("one input gave no answer"))
}
