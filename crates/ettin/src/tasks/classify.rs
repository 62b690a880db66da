//! Sequence classification.

use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::numbers::{descending, sigmoid, softmax};
use super::prompt::{PromptChoice, Prompts};
use super::spec::TaskSpec;
use super::{Options, Outcomes, Preprocessor, TextInput};
use crate::config::ProblemType;
use crate::files::ModelFiles;
use crate::finite::{Traced, is_comparable};
use crate::heads::SequenceClassifier;
use crate::sentence_transformers::{Repository, Task};
use crate::setters::setters;
use crate::{Config, Result};

/// Labels whole texts or pairs of texts.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Classifier, ClassifyRequest, Options};
///
/// let classifier = Classifier::load(&ModelFiles::folder("sentiment")?, &Options::default())?;
/// let request = ClassifyRequest::default().with_top_k(None);
/// for outcome in classifier.run(&["A fine day.".into(), ("It rains.", "It is wet.").into()], &request)? {
///     for label in outcome?.value {
///         println!("{} {}", label.label, label.score);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Classifier {
    model: Arc<SequenceClassifier>,
    preprocessor: Preprocessor,
    prompts: Prompts,
}

/// What to report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassifyRequest {
    /// How many labels, best first; `None` for all of them.
    pub top_k: Option<usize>,
    /// Report logits instead of probabilities.
    pub raw: bool,
    /// The prompt put before every first text, of a model that sentence-transformers saved.
    pub prompt: PromptChoice,
}

setters!(ClassifyRequest {
    /// With another number of labels.
    with_top_k(top_k: impl Into<Option<usize>>);
    /// With logits instead of probabilities, or not.
    with_raw(raw: bool);
    /// With another prompt.
    with_prompt(prompt: PromptChoice);
});

impl Default for ClassifyRequest {
    fn default() -> Self {
        Self { top_k: Some(1), raw: false, prompt: PromptChoice::Default }
    }
}

/// One label of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// The label's name, from the model's `id2label`.
    pub label: String,
    /// Its probability, or the logit for regression and raw requests.
    pub score: f32,
}

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Raw,
    Sigmoid,
    Softmax,
}

impl Classifier {
    /// Loads a classifier.
    ///
    /// # Errors
    /// What loading the model's files can meet; the classifier's tensors must be there.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "classify", objective: None };
        // Any other chain is of no use here, and its trunk may have a classifier of its own beside it.
        let repository =
            Repository::load(files)?.filter(|repository| repository.transformer.task == Task::SequenceClassification);
        let Some(repository) = repository else {
            let (model, preprocessor) = spec.load(files, options, SequenceClassifier::load, Bounds::lenient)?;
            return Ok(Self::new(model, preprocessor));
        };
        let load = |files: &ModelFiles, backend: &_| SequenceClassifier::of_repository(files, &repository, backend);
        let (model, preprocessor) = spec.load_repository(files, options, &repository.transformer, load)?;
        Ok(Self { prompts: Prompts::new(&repository.settings), ..Self::new(model, preprocessor) })
    }

    /// A classifier of parts; it has no prompts.
    pub fn new(model: impl Into<Arc<SequenceClassifier>>, preprocessor: Preprocessor) -> Self {
        Self { model: model.into(), preprocessor, prompts: Prompts::default() }
    }

    /// The model.
    pub fn model(&self) -> &Arc<SequenceClassifier> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// All label names in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        &self.model.config().labels
    }

    /// The labels of every input, best first.
    ///
    /// # Errors
    /// Failures of the engine; an input's own failure is in its place.
    pub fn run(&self, inputs: &[TextInput<'_>], request: &ClassifyRequest) -> Result<Outcomes<Vec<Label>>> {
        let function = if request.raw { Function::Raw } else { Function::of(self.model.config()) };
        let prompt = self.prompts.text(&request.prompt)?;
        let encode = |input: &TextInput<'_>| self.preprocessor.encode_behind(prompt, *input, self.preprocessor.limit);
        self.preprocessor.run(inputs, encode, |batch, items| {
            let logits = self.model.logits(batch)?.to_vec2::<f32>()?;
            let labels = items.iter().zip(&logits).map(|(item, row)| {
                let ranked = ranked(self.labels(), &function.apply(row), request.top_k);
                let finite = is_comparable(row) && ranked.iter().all(|label| label.score.is_finite());
                self.model.finite(finite, ranked, &item.encoding.ids)
            });
            Ok(labels.collect())
        })
    }
}

impl Function {
    /// What the model was trained for, as transformers decides it.
    fn of(config: &Config) -> Self {
        match config.problem_type {
            Some(ProblemType::Regression) => Function::Raw,
            Some(ProblemType::MultiLabel) => Function::Sigmoid,
            _ if config.labels.len() == 1 => Function::Sigmoid,
            _ => Function::Softmax,
        }
    }

    fn apply(self, logits: &[f32]) -> Vec<f32> {
        match self {
            Function::Raw => logits.to_vec(),
            Function::Sigmoid => logits.iter().map(|&logit| sigmoid(logit)).collect(),
            Function::Softmax => softmax(logits),
        }
    }
}

/// Equal scores keep the order of the labels.
fn ranked(labels: &[String], scores: &[f32], top_k: Option<usize>) -> Vec<Label> {
    let pairs = labels.iter().zip(scores);
    let mut ranked: Vec<Label> = pairs.map(|(label, &score)| Label { label: label.clone(), score }).collect();
    ranked.sort_by(|a, b| descending(a.score, b.score));
    ranked.truncate(top_k.unwrap_or(usize::MAX));
    ranked
}
