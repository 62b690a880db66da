//! Classification by a schema: labels of one's own, read together with the text.

mod words;

use std::borrow::Cow;
use std::sync::Arc;

use super::limit::Bounds;
use super::numbers::{descending, sigmoid, softmax};
use super::{Options, Outcome, Outcomes, Preprocessor, ZeroShotInput, ZeroShotLabels};
use crate::batching::{merge, run_rows, split};
use crate::files::ModelFiles;
use crate::finite::{Traced, is_finite};
use crate::gliner::schema_trunk;
use crate::heads::SchemaModel;
use crate::setters::setters;
use crate::tokenizer::{Encoding, Side, Tokenizer};
use crate::{Error, Result};

/// Marks of the schema, in the order in which they appear.
const MARKS: [&str; 3] = ["[P]", "[L]", "[SEP_TEXT]"];
/// The first label's mark is word number 4: `( [P] task ( [L] label …`.
const FIRST_LABEL: usize = 4;

/// Gives texts one of any labels, or several, with a GLiNER2 span model.
///
/// Labels and text are one sequence, `( [P] task ( [L] label [L] label ) ) [SEP_TEXT] words`; the text is in lower case and
/// has a full stop at its end, as gliner2 gives it to its models. A label's score depends on the others.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Options, SchemaClassifier, SchemaRequest, ZeroShotInput};
///
/// let classifier = SchemaClassifier::load(&ModelFiles::folder("my-gliner2")?, &Options::default())?;
/// let input = ZeroShotInput { text: "The keeper saved it.", labels: vec!["sports", "politics"] };
/// let best = classifier.run(&[input], &SchemaRequest::default().with_task("topic".to_owned()))?.remove(0)?;
/// println!("{} {}", best.value.labels[0], best.value.scores[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SchemaClassifier {
    model: Arc<SchemaModel>,
    preprocessor: Preprocessor,
}

/// How to classify.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaRequest {
    /// What is decided, in words that the model reads; gliner2 has no default for it.
    pub task: String,
    /// Whether labels hold independently: a sigmoid for each instead of a softmax over all.
    pub multi_label: bool,
}

impl Default for SchemaRequest {
    fn default() -> Self {
        Self { task: "category".to_owned(), multi_label: false }
    }
}

setters!(SchemaRequest {
    /// With another task.
    with_task(task: String);
    /// With labels that hold independently, or not.
    with_multi_label(multi_label: bool);
});

/// A text with its labels on its way into a batch.
struct LabelledEncoding {
    encoding: Encoding,
    /// The row of each label's mark.
    rows: Vec<usize>,
}

impl SchemaClassifier {
    /// Whether a model is a GLiNER2 model.
    ///
    /// # Errors
    /// For one that is not run; when its files cannot be read.
    pub fn fits(files: &ModelFiles) -> Result<bool> {
        Ok(schema_trunk(files)?.is_some())
    }

    /// Loads a GLiNER2 model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models of other kinds, and for GLiNER2 of another architecture; what loading the
    /// model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let model = SchemaModel::load(files, &options.backend()?)?;
        for sentence in model.trunk().report().sentences() {
            options.notices.tell(&format!("{}: {sentence}", files.name()));
        }
        let tokenizer = Tokenizer::load(files)?;
        if let Some(mark) = MARKS.iter().find(|mark| tokenizer.id(mark).is_none()) {
            return Err(Error::Unsupported(format!("{}: its tokenizer has no token {mark}", files.name())));
        }
        let bounds = Bounds::positions(files, model.config())?;
        let preprocessor = Preprocessor::within(bounds, tokenizer, options);
        Ok(Self { model: Arc::new(model), preprocessor })
    }

    /// The model.
    pub fn model(&self) -> &Arc<SchemaModel> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The labels of every text, best first; of equal scores, the earlier label first. A text over the limit is cut
    /// between words, never the labels.
    ///
    /// # Errors
    /// Failures of the engine; a text fails in its place if it has no labels.
    pub fn run(&self, inputs: &[ZeroShotInput<'_>], request: &SchemaRequest) -> Result<Outcomes<ZeroShotLabels>> {
        let encoded = self.preprocessor.encode_all(inputs, |input| self.encode(input, &request.task));
        let (rows, errors) = split(encoded.into_iter());
        let places: Vec<usize> = (0..errors.len()).filter(|&input| errors[input].is_none()).collect();
        let lengths: Vec<usize> = rows.iter().map(|row| row.encoding.ids.len()).collect();
        let ids = |row: usize| Cow::Borrowed(&rows[row].encoding.ids[..]);
        let values = run_rows(&lengths, self.preprocessor.batch_tokens(), ids, |batch, group| {
            let of_row = |(index, row): (usize, &usize)| {
                let first = batch.rows(index).start;
                rows[*row].rows.iter().map(move |label| first + label)
            };
            let marks: Vec<usize> = group.iter().enumerate().flat_map(of_row).collect();
            let scores = self.model.scores(batch, &marks)?;
            let mut rest = &scores[..];
            let labels = group.iter().map(|&row| {
                let (own, others) = rest.split_at(rows[row].rows.len());
                rest = others;
                let ranked = ranked(&inputs[places[row]], own, request.multi_label);
                self.model.finite(is_finite(own), ranked, &rows[row].encoding.ids)
            });
            Ok(labels.collect())
        })?;
        let outcomes = rows.iter().zip(values).map(|(row, value)| {
            let truncated = row.encoding.truncated;
            value.map(|value| Outcome { value, truncated })
        });
        Ok(merge(outcomes, errors))
    }

    fn encode(&self, input: &ZeroShotInput<'_>, task: &str) -> Result<LabelledEncoding> {
        if input.labels.is_empty() {
            return Err(Error::input("there are no labels to choose from"));
        }
        let mut schema = vec!["(", MARKS[0], task, "("];
        schema.extend(input.labels.iter().flat_map(|label| [MARKS[1], label]));
        schema.extend([")", ")", MARKS[2]]);
        let words = words::words(input.text);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let limit = self.preprocessor.limit;
        let mut encoding = self.encode_behind(&schema, &words)?;
        if encoding.ids.len() > limit.tokens {
            let side = limit.cut().ok_or_else(|| limit.too_long(encoding.ids.len()))?;
            let mut sizes = vec![0; schema.len() + words.len()];
            encoding.words.iter().flatten().for_each(|&word| sizes[word as usize] += 1);
            let (schema_sizes, sizes) = sizes.split_at(schema.len());
            let special: usize = schema_sizes.iter().sum();
            let mut room = limit.tokens.saturating_sub(special);
            let fits = |size: &usize| {
                room = room.checked_sub(*size)?;
                Some(())
            };
            let kept = match side {
                Side::Right => sizes.iter().map_while(fits).count(),
                Side::Left => sizes.iter().rev().map_while(fits).count(),
            };
            if kept == 0 {
                return Err(Error::NoRoom { limit: limit.tokens, origin: limit.origin, special });
            }
            match side {
                Side::Right => words.truncate(kept),
                Side::Left => drop(words.drain(..words.len() - kept)),
            }
            encoding = self.encode_behind(&schema, &words)?;
            encoding.truncated = true;
        }
        // By place: a label may hold a mark itself.
        let mark = |label: usize| FIRST_LABEL + 2 * label;
        let row = |label: usize| encoding.words.iter().position(|&word| word.map(|w| w as usize) == Some(mark(label)));
        let rows: Option<Vec<usize>> = (0..input.labels.len()).map(row).collect();
        let rows = rows.ok_or_else(|| Error::internal("the mark of a label has no token"))?;
        Ok(LabelledEncoding { encoding, rows })
    }

    fn encode_behind(&self, schema: &[&str], words: &[&str]) -> Result<Encoding> {
        let all: Vec<&str> = schema.iter().chain(words).copied().collect();
        self.preprocessor.tokenizer.encode_words(&all, false)
    }
}

fn ranked(input: &ZeroShotInput<'_>, logits: &[f32], multi_label: bool) -> ZeroShotLabels {
    let scores = match multi_label {
        true => logits.iter().map(|&logit| sigmoid(logit)).collect(),
        false => softmax(logits),
    };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| descending(scores[a], scores[b]));
    ZeroShotLabels {
        sequence: input.text.to_owned(),
        labels: order.iter().map(|&index| input.labels[index].to_owned()).collect(),
        scores: order.iter().map(|&index| scores[index]).collect(),
    }
}
