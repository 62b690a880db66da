//! Token classification: named entities, parts of speech.

mod aggregate;

use serde::Serialize;

use super::batching::Item;
use super::frontend::{Frontend, Need};
use super::limit::Bounds;
use super::numbers::softmax;
use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;
use crate::finite::{Traced, is_comparable};
use crate::heads::TokenClassifier;
use crate::tokenizer::Encoding;

/// Labels the tokens of a text.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Aggregation, Options, TagRequest, Tagger};
///
/// let tagger = Tagger::load(&ModelFiles::folder("entities")?, &Options::default())?;
/// let request = TagRequest { aggregation: Aggregation::Simple, all: false };
/// for outcome in tagger.run(&["Ada Lovelace was born in London."], &request)? {
///     println!("{:?}", outcome?.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tagger {
    model: TokenClassifier,
    frontend: Frontend,
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
pub struct TagRequest {
    /// How tokens are joined.
    pub aggregation: Aggregation,
    /// Report the label `O` too.
    pub all: bool,
}

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
        let need = Need { task: "tag", objective: None };
        let (model, tokenizer) = need.load(files, options, TokenClassifier::load)?;
        let frontend = Frontend::new(tokenizer, options, Bounds::strict(files, model.config())?);
        Ok(Self { model, frontend })
    }

    /// The tags of every text, in text order.
    ///
    /// # Errors
    /// Failures of the engine; a text's own failure is in its place.
    pub fn run(&self, texts: &[&str], request: &TagRequest) -> Result<Outcomes<Vec<Tag>>> {
        let encode = |text: &&str| self.frontend.encode((*text).into());
        self.frontend.run(texts, encode, |batch, items| {
            let logits = self.model.logits(batch)?.to_vec2::<f32>()?;
            let tags = |(index, item): (usize, &Item<'_>)| {
                let logits = &logits[batch.rows(index)];
                let finite = logits.iter().all(is_comparable);
                self.model.finite(finite, (), &item.encoding.ids)?;
                self.tags(texts[item.input], item.encoding, logits, request)
            };
            Ok(items.iter().enumerate().map(tags).collect())
        })
    }

    fn tags(&self, text: &str, encoding: &Encoding, logits: &[Vec<f32>], request: &TagRequest) -> Result<Vec<Tag>> {
        let unk = self.frontend.tokenizer.special().unk;
        let marked = self.frontend.tokenizer.marks_continuations();
        let tokens = aggregate::tokens(text, encoding, unk, marked, |index| softmax(&logits[index]));
        let labels = &self.model.config().labels;
        let mut tags = aggregate::tags(&tokens, labels, request.aggregation, &self.frontend.tokenizer)?;
        if !request.all {
            tags.retain(|tag| tag.label() != "O");
        }
        Ok(tags)
    }
}
