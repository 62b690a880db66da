//! Entities of any kinds that are named with the call: people, places, products, whatever labels say.

mod decode;
mod labels;
mod words;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::limit::Bounds;
use super::spec::TaskSpec;
use super::{Options, Outcome, Outcomes, Preprocessor};
use crate::batching::{merge, run_rows, split};
use crate::files::{ModelFiles, Subfolder};
use crate::finite::{Traced, is_finite};
use crate::gliner::{LABELS_TOKENIZER, LabelPrompt, LabelSide};
use crate::heads::{LabelMatrix, SpanModel, SpanText, spans};
use crate::ops::Hidden;
use crate::setters::setters;
use crate::tokenizer::{Encoding, Limit, LimitOrigin, Side, Tokenizer, TokenizerLimits};
use crate::{Error, Objective, Result};

use decode::decode;
pub use labels::LabelVectors;
use words::{Word, words};

/// How the refusal of labels ends that only a file of vectors can help with.
const NEEDS_VECTORS: &str = "give their vectors, as gliner computes them";

/// Finds entities in texts, with a GLiNER span model.
///
/// Words are split as gliner splits them; a span is up to `max_width` words and has the score of the label that fits it.
/// Spans above the threshold are taken by score, as long as they do not overlap. Offsets count Unicode scalars, as
/// Python's do.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{EntityExtractor, EntityRequest, Options};
///
/// let extractor = EntityExtractor::load(&ModelFiles::folder("my-gliner")?, &Options::default())?;
/// let labels = extractor.labels(&["person", "place"])?;
/// for outcome in extractor.run(&["Ada was born in London."], &labels, &EntityRequest::default())? {
///     for entity in outcome?.value {
///         println!("{} is a {} ({})", entity.text, entity.label, entity.score);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EntityExtractor {
    model: Arc<SpanModel>,
    preprocessor: Preprocessor,
    label_side: Labelling,
}

/// How labels become vectors.
#[derive(Debug)]
enum Labelling {
    Encoder { tokenizer: Box<Tokenizer>, limit: Limit },
    Foreign(String),
    Vectors(LabelVectors),
    Prompt(LabelPrompt),
}

/// Labels, ready to be looked for in any number of texts.
#[derive(Debug)]
pub struct EntityLabels {
    names: Vec<String>,
    /// None where labels stand before the texts.
    matrix: Option<LabelMatrix>,
}

impl EntityLabels {
    /// The labels, each once, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Which spans are entities.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EntityRequest {
    /// The score that an entity must have more than.
    pub threshold: f32,
    /// Whether an entity may lie inside another one.
    pub nested: bool,
    /// Whether a span may have several labels.
    pub multi_label: bool,
}

impl Default for EntityRequest {
    fn default() -> Self {
        Self { threshold: 0.5, nested: false, multi_label: false }
    }
}

setters!(EntityRequest {
    /// With another threshold.
    with_threshold(threshold: f32);
    /// With entities inside others, or not.
    with_nested(nested: bool);
    /// With several labels of a span, or one.
    with_multi_label(multi_label: bool);
});

/// A span of a text. Offsets count Unicode scalars.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entity {
    /// Where it starts.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// What stands there.
    pub text: String,
    /// What it is.
    pub label: String,
    /// The probability of that, by itself.
    pub score: f32,
}

/// A text on its way into a batch.
struct SplitText<'a> {
    words: Vec<Word<'a>>,
    encoding: Encoding,
    /// The tokens of each word.
    tokens: Vec<Range<usize>>,
    /// The rows of labels before the text.
    labels: Vec<usize>,
}

impl EntityExtractor {
    /// Loads a GLiNER model: a folder with a `gliner_config.json`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models of other kinds, and kinds of GLiNER that are not run; what loading the model's
    /// files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "extract", objective: Some(Objective::Encoder) };
        let (model, preprocessor) = spec.load(files, options, SpanModel::load, Bounds::strict)?;
        let label_side = match (model.labels().clone(), model.label_trunk()) {
            (LabelSide::Foreign(kind), _) => Labelling::Foreign(kind),
            (LabelSide::Prompt(prompt), _) => {
                let found = preprocessor.tokenizer.id(&prompt.marker);
                if found != Some(prompt.marker_id) {
                    return Err(Error::Unsupported(format!(
                        "{}: class_token_index is {}, and the tokenizer's id of {:?} is {}",
                        files.name(),
                        prompt.marker_id,
                        prompt.marker,
                        found.map_or("none".to_owned(), |id| id.to_string()),
                    )));
                }
                Labelling::Prompt(prompt)
            }
            (LabelSide::Encoder(_), None) => return Err(Error::internal("the encoder of labels was not built")),
            (LabelSide::Encoder(config), Some(_)) => {
                let tokenizer = Tokenizer::load_in(&Subfolder { files, folder: LABELS_TOKENIZER })?;
                let TokenizerLimits { length, side } =
                    TokenizerLimits::load(&Subfolder { files, folder: LABELS_TOKENIZER })?;
                let positions = config.max_position_embeddings;
                let (tokens, origin) = match length {
                    Some(length) if length < positions => (length, LimitOrigin::ModelMaxLength),
                    _ => (positions, LimitOrigin::Positions),
                };
                let side = side.or(tokenizer.truncation_side()).unwrap_or(Side::Right);
                let limit = Limit { tokens, truncate: options.truncate, origin, side };
                Labelling::Encoder { tokenizer: Box::new(tokenizer), limit }
            }
        };
        Ok(Self { model: Arc::new(model), preprocessor, label_side })
    }

    /// With vectors of labels from a file instead of the model's own encoder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model whose labels stand before the text: their vectors depend on it.
    pub fn with_label_vectors(self, vectors: LabelVectors) -> Result<Self> {
        if let Labelling::Prompt(_) = self.label_side {
            let message = "label vectors for a model that reads labels together with the text";
            return Err(Error::Unsupported(message.to_owned()));
        }
        Ok(Self { label_side: Labelling::Vectors(vectors), ..self })
    }

    /// The model.
    pub fn model(&self) -> &Arc<SpanModel> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// Makes labels ready. A label that is there twice counts once.
    ///
    /// # Errors
    /// [`Error::Input`] without labels, for an empty one, and for one that a file of vectors lacks;
    /// [`Error::Unsupported`] where labels need an encoder that is not run; failures of the engine.
    pub fn labels(&self, labels: &[impl AsRef<str>]) -> Result<EntityLabels> {
        let mut names: Vec<String> = Vec::with_capacity(labels.len());
        for label in labels.iter().map(AsRef::as_ref) {
            if label.is_empty() {
                return Err(Error::input("a label is empty"));
            }
            if !names.iter().any(|name| name == label) {
                names.push(label.to_owned());
            }
        }
        if names.is_empty() {
            return Err(Error::input("there are no labels to look for"));
        }
        let vectors = match &self.label_side {
            Labelling::Prompt(_) => None,
            Labelling::Vectors(vectors) => Some(vectors.rows(&names, self.model.label_size())?),
            Labelling::Encoder { tokenizer, limit } => Some(self.encoded(&names, tokenizer, *limit)?),
            Labelling::Foreign(kind) => {
                return Err(Error::Unsupported(format!(
                    "the model's labels are encoded by {kind}, which is not run here; {NEEDS_VECTORS}"
                )));
            }
        };
        let device = self.model.trunk().backend().device();
        let matrix =
            vectors.map(|vectors| self.model.label_matrix(&Hidden::new(vectors.to_device(&device)?))).transpose()?;
        Ok(EntityLabels { names, matrix })
    }

    /// The vectors of labels by the model's own encoder, `[labels, size]`.
    fn encoded(&self, names: &[String], tokenizer: &Tokenizer, limit: Limit) -> Result<Tensor> {
        let encodings = self.preprocessor.encode_all(names, |name| tokenizer.within(name, None, true, limit));
        let encodings = encodings.into_iter().collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = encodings.iter().map(|encoding| encoding.ids.len()).collect();
        let ids = |row: usize| Cow::Borrowed(&encodings[row].ids[..]);
        let rows = run_rows(&lengths, self.preprocessor.batch_tokens(), ids, |batch, _| {
            Ok(self.model.label_vectors(batch)?.to_vec2::<f32>()?)
        })?;
        if let Some((name, _)) = names.iter().zip(&rows).find(|(_, row)| !is_finite(row)) {
            return Err(Error::input(format!("the vector of the label {name:?} is not finite")));
        }
        let size = self.model.label_size();
        Ok(Tensor::from_vec(rows.concat(), (names.len(), size), &Device::Cpu)?)
    }

    /// The entities of every text, by where they start; of those that start together the best first.
    ///
    /// A text without a word has no entities. A text over the model's limit of words or tokens is cut between words,
    /// where cutting is asked for.
    ///
    /// # Errors
    /// Failures of the engine; a text's own failure is in its place.
    pub fn run(&self, texts: &[&str], labels: &EntityLabels, request: &EntityRequest) -> Result<Outcomes<Vec<Entity>>> {
        let split_texts = self.preprocessor.encode_all(texts, |text| self.split(text, labels));
        let (rows, errors) = split(split_texts.into_iter());
        let inputs: Vec<usize> = (0..errors.len()).filter(|&input| errors[input].is_none()).collect();
        // A text without words is not computed.
        let full: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].words.is_empty()).collect();
        let lengths: Vec<usize> = full.iter().map(|&row| rows[row].encoding.ids.len()).collect();
        let ids = |index: usize| Cow::Borrowed(&rows[full[index]].encoding.ids[..]);
        let found = run_rows(&lengths, self.preprocessor.batch_tokens(), ids, |batch, group| {
            let group: Vec<usize> = group.iter().map(|&index| full[index]).collect();
            let of = |&row: &usize| SpanText { words: &rows[row].tokens, labels: &rows[row].labels };
            let span_texts: Vec<SpanText<'_>> = group.iter().map(of).collect();
            let logits = self.model.logits(batch, &span_texts, labels.matrix.as_ref())?;
            let entities = logits.iter().zip(&group).map(|(logits, &row)| {
                let text = &rows[row];
                let entities = self.entities(texts[inputs[row]], text, logits, labels, request);
                self.model.finite(is_finite(logits), entities, &text.encoding.ids)
            });
            Ok(entities.collect())
        })?;
        let mut found = found.into_iter();
        let outcomes = rows.iter().map(|row| {
            let value = match row.words.is_empty() {
                true => Ok(Vec::new()),
                false => found.next().unwrap_or_else(|| Err(Error::internal("a text was not computed"))),
            };
            Ok(Outcome { value: value?, truncated: row.encoding.truncated })
        });
        Ok(merge(outcomes, errors))
    }

    fn entities(
        &self,
        text: &str,
        split: &SplitText<'_>,
        logits: &[f32],
        labels: &EntityLabels,
        request: &EntityRequest,
    ) -> Vec<Entity> {
        let count = split.words.len();
        let spans = spans(count, self.model.max_width());
        let chosen = decode(spans, logits, labels.names.len(), count, request);
        let entity = |span: decode::ChosenSpan| {
            let (first, last) = (split.words[span.start], split.words[span.end]);
            Entity {
                start: first.start,
                end: last.end,
                text: text[first.bytes.0..last.bytes.1].to_owned(),
                label: labels.names[span.label].clone(),
                score: span.score,
            }
        };
        chosen.into_iter().map(entity).collect()
    }

    /// A text's words and tokens, within the limits.
    fn split<'a>(&self, text: &'a str, labels: &EntityLabels) -> Result<SplitText<'a>> {
        let mut words = words(text);
        let limit = self.preprocessor.limit;
        let mut truncated = false;
        let most = self.model.max_words();
        if words.len() > most {
            let Some(side) = limit.cut() else {
                return Err(Error::TooManyWords { words: words.len(), limit: most });
            };
            keep(&mut words, most, side);
            truncated = true;
        }
        let mut prompt: Vec<&str> = Vec::new();
        if let Labelling::Prompt(LabelPrompt { marker, separator, .. }) = &self.label_side {
            prompt.extend(labels.names.iter().flat_map(|label| [marker.as_str(), label.as_str()]));
            prompt.push(separator);
        }
        let mut split = self.encode(&prompt, words)?;
        let tokens = split.encoding.ids.len();
        if tokens > limit.tokens && !split.words.is_empty() {
            let side = limit.cut().ok_or_else(|| limit.too_long(tokens))?;
            let around = tokens - split.tokens.iter().map(ExactSizeIterator::len).sum::<usize>();
            let mut room = limit.tokens.saturating_sub(around);
            let fits = |word: &Range<usize>| {
                room = room.checked_sub(word.len())?;
                Some(())
            };
            let kept = match side {
                Side::Right => split.tokens.iter().map_while(fits).count(),
                Side::Left => split.tokens.iter().rev().map_while(fits).count(),
            };
            if kept == 0 {
                return Err(Error::NoRoom { limit: limit.tokens, origin: limit.origin, special: around });
            }
            let mut words = split.words;
            keep(&mut words, kept, side);
            split = self.encode(&prompt, words)?;
            truncated = true;
        }
        split.encoding.truncated = truncated;
        if let Labelling::Prompt(LabelPrompt { marker, marker_id, by_marker, .. }) = &self.label_side {
            let ids = split.encoding.ids.iter().enumerate();
            let rows = ids.filter(|(_, id)| *id == marker_id).map(|(row, _)| row + usize::from(!by_marker));
            split.labels = rows.collect();
            if split.labels.len() != labels.names.len() {
                return Err(Error::input(format!("a label has the token {marker:?} in it, which marks labels")));
            }
        }
        Ok(split)
    }

    /// Words behind a prompt, with the tokens of each.
    fn encode<'a>(&self, prompt: &[&str], words: Vec<Word<'a>>) -> Result<SplitText<'a>> {
        let all: Vec<&str> = prompt.iter().copied().chain(words.iter().map(|word| word.text)).collect();
        let encoding = self.preprocessor.tokenizer.encode_words(&all, true)?;
        let mut tokens: Vec<Range<usize>> = vec![0..0; all.len()];
        for (token, word) in encoding.words.iter().enumerate() {
            let Some(range) = word.and_then(|word| tokens.get_mut(word as usize)) else {
                continue;
            };
            *range = if range.start == range.end { token..token + 1 } else { range.start..token + 1 };
        }
        if let Some((word, _)) = all.iter().zip(&tokens).find(|(_, tokens)| tokens.start == tokens.end) {
            return Err(Error::input(format!("the tokenizer makes no token of the word {word:?}")));
        }
        let tokens = tokens.split_off(prompt.len());
        Ok(SplitText { words, encoding, tokens, labels: Vec::new() })
    }
}

/// Keeps so many words, those that are not on the side that is cut.
fn keep(words: &mut Vec<Word<'_>>, count: usize, side: Side) {
    match side {
        Side::Right => words.truncate(count),
        Side::Left => drop(words.drain(..words.len() - count)),
    }
}

/// Whether an error is the refusal of labels that a file of their vectors would help with.
pub fn lacks_label_vectors(error: &Error) -> bool {
    matches!(error, Error::Unsupported(message) if message.ends_with(NEEDS_VECTORS))
}
