//! Token classification: named entities, parts of speech.

mod aggregate;

use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::numbers::softmax;
use super::spec::TaskSpec;
use super::staged::{self, EachInput};
use super::{Options, Outcomes, Prepared, PreparedSequence, Preprocessor, Staged};
use crate::files::ModelFiles;
use crate::finite::{Traced, is_comparable};
use crate::heads::TokenClassifier;
use crate::setters::setters;
use crate::tokenizer::Encoding;
use crate::{PackedBatch, Result};

/// Labels the tokens of a text.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Aggregation, Options, TagRequest, Tagger};
///
/// let tagger = Tagger::load(&ModelFiles::folder("entities")?, &Options::default())?;
/// let request = TagRequest::default().with_aggregation(Aggregation::Simple);
/// for outcome in tagger.run(&["Ada Lovelace was born in London."], &request)? {
///     println!("{:?}", outcome?.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tagger {
    model: Arc<TokenClassifier>,
    preprocessor: Preprocessor,
}

/// How tokens are joined to entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aggregation {
    /// One tag per token.
    #[default]
    None,
    /// Neighbouring tokens with the same tag are one entity; a `B-` tag starts a new one.
    Simple,
    /// As `Simple` over words, a word being labelled as its first token.
    First,
    /// As `Simple` over words, by the mean of their tokens' probabilities.
    Average,
    /// As `Simple` over words, by the token with the highest probability.
    Max,
}

/// What to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TagRequest {
    /// How tokens are joined.
    pub aggregation: Aggregation,
    /// Report the label `O` too.
    pub all: bool,
}

setters!(TagRequest {
    /// With another way to join tokens.
    with_aggregation(aggregation: Aggregation);
    /// With the label `O`, or without.
    with_all(all: bool);
});

/// One labelled token or entity. Offsets count Unicode scalars of the input.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Tag {
    /// A token, from [`Aggregation::None`].
    Token {
        /// The label.
        entity: String,
        /// Its probability.
        score: f32,
        /// Index of the token in the encoded text, special tokens counted.
        index: usize,
        /// The token as the vocabulary spells it.
        word: String,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Joined tokens.
    Group {
        /// The label without its `B-` or `I-`.
        entity_group: String,
        /// Mean probability.
        score: f32,
        /// The decoded text.
        word: String,
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
}

impl Tag {
    /// The label or group label.
    pub fn label(&self) -> &str {
        match self {
            Tag::Token { entity, .. } => entity,
            Tag::Group { entity_group, .. } => entity_group,
        }
    }
}

impl Tagger {
    /// Loads a token classifier.
    ///
    /// # Errors
    /// What loading the model's files can meet; the classifier's tensors must be there.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "tag", objective: None };
        let (model, preprocessor) = spec.load(files, options, TokenClassifier::load, Bounds::strict)?;
        Ok(Self::new(model, preprocessor))
    }

    /// A tagger of parts.
    pub fn new(model: impl Into<Arc<TokenClassifier>>, preprocessor: Preprocessor) -> Self {
        Self { model: model.into(), preprocessor }
    }

    /// The model.
    pub fn model(&self) -> &Arc<TokenClassifier> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The tags of every text, in text order.
    ///
    /// # Errors
    /// Failures of the engine; a text's own failure is in its place.
    pub fn run(&self, texts: &[&str], request: &TagRequest) -> Result<Outcomes<Vec<Tag>>> {
        self.prepare(texts, request).run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    pub fn prepare(&self, texts: &[&str], request: &TagRequest) -> Prepared<Self> {
        let encoded = self.preprocessor.encode_all(texts, |text: &&str| self.preprocessor.encode((*text).into()));
        let keep = |(text, encoding): (&&str, &Result<Encoding>)| {
            encoding
                .as_ref()
                .map_or_else(|_| Default::default(), |encoding| ((*text).to_owned(), Some(encoding.clone())))
        };
        let texts = texts.iter().zip(&encoded).map(keep).collect();
        let (sequences, inputs) = EachInput::new(encoded, 0);
        Prepared::new(sequences, (), TagPlan { inputs, texts, request: *request })
    }

    fn tags(&self, text: &str, encoding: &Encoding, logits: &[Vec<f32>], request: &TagRequest) -> Result<Vec<Tag>> {
        let unk = self.preprocessor.tokenizer.special().unk;
        let marked = self.preprocessor.tokenizer.marks_continuations();
        let tokens = aggregate::tokens(text, encoding, unk, marked, |index| softmax(&logits[index]));
        let labels = &self.model.config().labels;
        let mut tags = aggregate::tags(&tokens, labels, request.aggregation, &self.preprocessor.tokenizer)?;
        if !request.all {
            tags.retain(|tag| tag.label() != "O");
        }
        Ok(tags)
    }
}

/// Texts that wait for the logits of their tokens.
#[derive(Debug)]
pub struct TagPlan {
    inputs: EachInput,
    /// Nothing where a text could not be encoded.
    texts: Vec<(String, Option<Encoding>)>,
    request: TagRequest,
}

impl Staged for Tagger {
    type Reading = ();
    /// `[tokens, labels]`.
    type Row = Vec<Vec<f32>>;
    type Plan = TagPlan;
    type Answer = Vec<Tag>;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        (): &(),
    ) -> Result<Vec<Result<Vec<Vec<f32>>>>> {
        let mut logits = self.model.logits(batch)?.to_vec2::<f32>()?.into_iter();
        let rows = sequences.iter().map(|sequence| {
            let logits: Vec<Vec<f32>> = logits.by_ref().take(sequence.ids().len()).collect();
            let finite = logits.iter().all(is_comparable);
            self.model.finite(finite, logits, sequence.ids())
        });
        Ok(rows.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<Vec<Vec<f32>>>>) -> Outcomes<Vec<Tag>> {
        let TagPlan { inputs, texts, request } = &prepared.plan;
        inputs.answers(rows, |input, logits| match texts.get(input) {
            Some((text, Some(encoding))) => self.tags(text, encoding, &logits, request),
            _ => Err(staged::no_row()),
        })
    }
}
