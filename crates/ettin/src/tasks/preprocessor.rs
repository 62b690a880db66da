//! Between texts and a model: encoding under a length limit, packing into batches.

use std::sync::Arc;

use super::limit::Bounds;
use super::prompt::prompted;
use super::{Options, Outcomes, TextInput};
use crate::batching::{self, BATCH_TOKENS, Item};
use crate::files::ModelFiles;
use crate::tokenizer::{Encoding, Limit, LimitOrigin, PairCut, PairIds, Side, TextPart, Tokenizer, Truncate};
use crate::{Config, Error, PackedBatch, Result, Team};

/// A tokenizer with a length limit and the size of batches: what turns texts into packed batches. Cheap to clone.
///
/// Every task makes its own when it is loaded from a model's files. Made by hand, it is the half of a task that is
/// not the model: every task has a `new` that takes a model and a preprocessor.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::tasks::{FillMask, Preprocessor, Scorer, Truncate};
/// use ettin::{Backend, files::ModelFiles, heads::LanguageModel, tokenizer::Tokenizer};
/// use std::sync::Arc;
///
/// let files = ModelFiles::open(folder)?;
/// let model = Arc::new(LanguageModel::load(&files, &Backend::cpu()?)?);
/// let tokenizer = Tokenizer::from_bytes(&files.require("tokenizer.json")?)?;
/// let preprocessor = Preprocessor::new(tokenizer, model.config())
///     .with_max_length(64)
///     .with_truncate(Truncate::Right)
///     .with_batch_tokens(1024);
/// // Two tasks of one model in memory.
/// let fill_mask = FillMask::new(model.clone(), preprocessor.clone())?;
/// let scorer = Scorer::new(model, preprocessor);
/// assert_eq!(fill_mask.fill("The capital of France is [MASK].", 1)?[0][0].token_str, " Paris");
/// assert!(scorer.score(&["The cat sat."])?[0].sum < 0.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Preprocessor {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) limit: Limit,
    /// The limit of calls that cut where this one does not, or do not where it does.
    other: Limit,
    pub(super) batch_tokens: usize,
    /// Whether the tokens of the tokenizer's template are put around inputs.
    special_tokens: bool,
    /// The threads that encode; none for rayon's global pool.
    team: Option<Team>,
}

impl Preprocessor {
    /// A tokenizer for a model of this configuration: inputs have at most as many tokens as the model has positions,
    /// with special tokens around them, and longer ones are errors. Batches hold [`BATCH_TOKENS`] tokens.
    pub fn new(tokenizer: impl Into<Arc<Tokenizer>>, config: &Config) -> Self {
        let tokenizer = tokenizer.into();
        let limit = Limit {
            tokens: config.max_position_embeddings,
            truncate: Truncate::Error,
            origin: LimitOrigin::Positions,
            side: tokenizer.truncation_side().unwrap_or_default(),
        };
        Self { tokenizer, limit, other: limit, batch_tokens: BATCH_TOKENS, special_tokens: true, team: None }
    }

    /// The tokenizer and the length limit that a model's files hold, under the options of a task.
    ///
    /// # Errors
    /// As [`Tokenizer::load`]; [`Error::Config`] where `tokenizer_config.json` states no length that can be used.
    pub fn load(files: &ModelFiles, config: &Config, options: &Options) -> Result<Self> {
        Ok(Self::within(Bounds::lenient(files, config)?, Tokenizer::load(files)?, options))
    }

    /// What a task makes when it is loaded.
    pub(super) fn within(bounds: Bounds, tokenizer: impl Into<Arc<Tokenizer>>, options: &Options) -> Self {
        let tokenizer = tokenizer.into();
        let limit = bounds.limit(options, tokenizer.truncation_side());
        let truncate = if options.truncate == Truncate::Error { Truncate::Model } else { Truncate::Error };
        let other = bounds.limit(&Options { truncate, ..options.clone() }, tokenizer.truncation_side());
        let (batch_tokens, team) = (options.batch_tokens, options.team.clone());
        Self { tokenizer, limit, other, batch_tokens, special_tokens: true, team }
    }

    /// With at most so many tokens in an input, special tokens included; never more than before.
    #[must_use]
    pub fn with_max_length(mut self, tokens: usize) -> Self {
        for limit in [&mut self.limit, &mut self.other] {
            if tokens < limit.tokens {
                *limit = Limit { tokens, origin: LimitOrigin::Asked, ..*limit };
            }
        }
        self
    }

    /// With another fate of inputs over the limit.
    #[must_use]
    pub fn with_truncate(mut self, truncate: Truncate) -> Self {
        self.limit.truncate = truncate;
        self.other.tokens = self.limit.tokens;
        self.other.origin = self.limit.origin;
        self
    }

    /// With batches of at most so many tokens; a single longer input is a batch of its own.
    #[must_use]
    pub fn with_batch_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// With the batches and the threads of a task's options.
    pub(super) fn with_options(self, options: &Options) -> Self {
        Self { batch_tokens: options.batch_tokens, team: options.team.clone(), ..self }
    }

    /// With the tokens of the tokenizer's template around inputs, or without.
    #[must_use]
    pub fn with_special_tokens(self, special_tokens: bool) -> Self {
        Self { special_tokens, ..self }
    }

    /// Encodes on the threads of `team` instead of rayon's global pool. A model computes on those of its backend
    /// ([`Backend::on_team`](crate::Backend::on_team)).
    #[must_use]
    pub fn with_team(self, team: Team) -> Self {
        Self { team: Some(team), ..self }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// How long an input may be, and what happens to a longer one.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The limit of a call that may have its own say in what becomes of longer inputs. Which files count for those that
    /// are cut, and which for others, may differ.
    pub fn limit_for(&self, truncate: Option<Truncate>) -> Limit {
        let Some(truncate) = truncate else {
            return self.limit;
        };
        let cuts = |truncate| truncate != Truncate::Error;
        let limit = if cuts(truncate) == cuts(self.limit.truncate) { self.limit } else { self.other };
        Limit { truncate, ..limit }
    }

    /// Takes token ids as an input, within a limit.
    ///
    /// # Errors
    /// [`Error::Input`] for no ids, and for ids that the model has no vector for; [`Error::TooLong`].
    pub(super) fn take_ids(&self, ids: &[u32], vocabulary: usize, limit: Limit) -> Result<Encoding> {
        if ids.is_empty() {
            return Err(Error::input("the input is empty: it has no tokens"));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::input(format!(
                "the input holds token {id}, and the model's vocabulary has {vocabulary}: these are ids of another \
                 tokenizer; send text, or ids of the model's own"
            )));
        }
        let kept = match (ids.len() > limit.tokens, limit.cut()) {
            (false, _) => ids,
            (true, None) => return Err(limit.too_long(ids.len())),
            (true, Some(Side::Right)) => &ids[..limit.tokens],
            (true, Some(Side::Left)) => &ids[ids.len() - limit.tokens..],
        };
        Ok(Encoding::of_ids(kept, kept.len() < ids.len()))
    }

    /// Tokens packed into one batch.
    pub fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    /// Encodes a text or a pair within the limit.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_within`]; [`Error::Input`] for a text without any token.
    pub fn encode(&self, input: TextInput<'_>) -> Result<Encoding> {
        self.encode_behind("", input, self.limit)
    }

    /// Encodes an input whose (first) text has a prompt before it, under a limit of its own.
    pub(super) fn encode_behind(&self, prompt: &str, input: TextInput<'_>, limit: Limit) -> Result<Encoding> {
        let encoding = self.encode_whatever(prompt, input, limit)?;
        match encoding.ids.is_empty() {
            true => Err(no_tokens()),
            false => Ok(encoding),
        }
    }

    /// The same of an input that may have no tokens.
    pub(super) fn encode_whatever(&self, prompt: &str, input: TextInput<'_>, limit: Limit) -> Result<Encoding> {
        self.tokenizer.within(&prompted(prompt, input.text), input.pair, self.special_tokens, limit)
    }

    /// Puts two texts together that were encoded apart: the ids of [`encode`](Self::encode) of the pair, but for the
    /// text that is cut where it is over the limit.
    pub(super) fn pair(&self, first: &TextPart, second: &TextPart, cut: PairCut) -> Result<PairIds> {
        let pair = self.tokenizer.pair(first, second, self.special_tokens, cut, self.limit)?;
        if pair.ids.is_empty() { Err(no_tokens()) } else { Ok(pair) }
    }

    /// How many leading tokens of an input are its prompt's, with the special tokens before it, as
    /// sentence-transformers counts them: the prompt is encoded alone, cut as a text would be, and a special token at
    /// its end is not counted.
    pub(super) fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let encoding = self.tokenizer.encode(prompt, None, self.special_tokens)?;
        let closing = encoding.ids.last().is_some_and(|&id| self.tokenizer.special().contains(id));
        Ok(encoding.ids.len().min(self.limit.tokens) - usize::from(closing))
    }

    /// Encodes inputs in parallel, on the threads of this preprocessor; see [`batching::encode_all`].
    pub fn encode_all<I: Sync, E: Send>(
        &self,
        inputs: &[I],
        encode: impl Fn(&I) -> Result<E> + Sync + Send,
    ) -> Vec<Result<E>> {
        batching::encode_all(inputs, self.team.as_ref(), encode)
    }

    /// Encodes inputs of one sequence each, packs them and computes batch by batch; see
    /// [`batching::run_encodings`].
    ///
    /// This is how a head of your own gets its batches:
    ///
    /// ```
    /// # fn main() -> ettin::Result<()> {
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
    /// use ettin::tasks::{Options, Preprocessor};
    /// use ettin::{Backend, Pooling, files::ModelFiles, heads::Embedder};
    ///
    /// let files = ModelFiles::open(folder)?;
    /// let model = Embedder::load(&files, &Backend::cpu()?)?;
    /// let preprocessor = Preprocessor::load(&files, model.config(), &Options::default())?;
    /// let texts = ["The cat sat.", "A much longer text about a dog.", "Birds."];
    /// let encode = |text: &&str| preprocessor.encode((*text).into());
    /// let outcomes = preprocessor.run(&texts, encode, |batch, _items| {
    ///     let hidden = model.trunk().forward(batch)?;
    ///     let pooled = Pooling::Max.pool(&hidden, batch, None)?.to_tensor()?; // [sequences, hidden]
    ///     Ok(pooled.sum(1)?.to_vec1::<f32>()?.into_iter().map(Ok).collect())
    /// })?;
    /// assert_eq!(outcomes.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`batching::run_encodings`]; an input's own failure is in its place.
    pub fn run<I: Sync, T>(
        &self,
        inputs: &[I],
        encode: impl Fn(&I) -> Result<Encoding> + Sync + Send,
        compute: impl FnMut(&PackedBatch, &[Item<'_>]) -> Result<Vec<Result<T>>>,
    ) -> Result<Outcomes<T>> {
        batching::run_encodings(self.encode_all(inputs, encode), self.batch_tokens, compute)
    }
}

/// Only where no special tokens are put around a text.
fn no_tokens() -> Error {
    Error::input("the text has no tokens, and the model's files put none around it")
}
