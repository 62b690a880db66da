//! Sequence classification.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::numbers::{descending, sigmoid, softmax};
use super::prompt::{PromptChoice, Prompts};
use super::spec::{TaskSpec, of_repository, of_scores};
use super::staged::{self, EachInput};
use super::{Options, Outcomes, Prepared, PreparedSequence, Preprocessor, Staged, TextInput, Truncate};
use crate::config::ProblemType;
use crate::files::ModelFiles;
use crate::finite::{Traced, is_comparable};
use crate::heads::{Asked, Chain, EmbedOptions, Embedder, SequenceClassifier, TorchActivation, TracedEmbedder};
use crate::named::Named;
use crate::sentence_transformers::{Repository, Task};
use crate::setters::setters;
use crate::{Config, Error, PackedBatch, Result};

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
    model: ClassifyModel,
    preprocessor: Preprocessor,
    prompts: Prompts,
    /// In the order of the model's outputs.
    labels: Vec<String>,
}

#[derive(Debug)]
enum ClassifyModel {
    Head(Arc<SequenceClassifier>),
    /// A chain with several scores, and what its files apply to them.
    Chain(Arc<Embedder>, TorchActivation),
}

/// What to report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassifyRequest {
    /// How many labels, best first; `None` for all of them.
    pub top_k: Option<usize>,
    /// Report logits instead of probabilities.
    pub raw: bool,
    /// What becomes of logits, instead of the model's own function and of `raw`.
    pub function: Option<ScoreFunction>,
    /// The prompt put before every first text, of a model that sentence-transformers saved.
    pub prompt: PromptChoice,
    /// What becomes of inputs over the limit, instead of the task's own choice.
    pub truncate: Option<Truncate>,
}

setters!(ClassifyRequest {
    /// With another number of labels.
    with_top_k(top_k: impl Into<Option<usize>>);
    /// With logits instead of probabilities, or not.
    with_raw(raw: bool);
    /// With another function behind the logits.
    with_function(function: impl Into<Option<ScoreFunction>>);
    /// With another prompt.
    with_prompt(prompt: PromptChoice);
    /// With another fate of inputs over the limit.
    with_truncate(truncate: impl Into<Option<Truncate>>);
});

impl Default for ClassifyRequest {
    fn default() -> Self {
        Self { top_k: Some(1), raw: false, function: None, prompt: PromptChoice::Default, truncate: None }
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
pub enum ScoreFunction {
    /// They are the scores.
    Raw,
    /// The logistic function of each.
    Sigmoid,
    /// Probabilities that add up to 1.
    Softmax,
}

impl Named for ScoreFunction {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Raw, "identity"), (Self::Sigmoid, "sigmoid"), (Self::Softmax, "softmax")];
}

impl fmt::Display for ScoreFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Classifier {
    /// Loads a classifier: a model with that head, or a cross-encoder of sentence-transformers whose modules write several
    /// scores, which have no names there (`LABEL_0`, …).
    ///
    /// # Errors
    /// What loading the model's files can meet; the classifier's tensors must be there.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "classify", objective: None };
        let repository = Repository::load(files)?;
        if let Some(repository) = &repository
            && repository.scores(files)?.is_some_and(|scores| scores > 1)
        {
            let (model, tokenizer) = spec.load_parts(files, options, Embedder::load)?;
            let preprocessor = of_repository(files, tokenizer, options, &repository.transformer, model.config())?;
            return Self::of_embedder(model, preprocessor);
        }
        // Any other chain is of no use here, and its trunk may have a classifier of its own beside it.
        let repository = repository.filter(|repository| repository.transformer.task == Task::SequenceClassification);
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
        let model = model.into();
        let labels = model.config().labels.clone();
        Self { model: ClassifyModel::Head(model), preprocessor, prompts: Prompts::default(), labels }
    }

    /// A classifier of parts: a chain of sentence-transformers whose last module writes several scores.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an embedder without several scores, or with an activation that is not implemented.
    pub fn of_embedder(model: impl Into<Arc<Embedder>>, preprocessor: Preprocessor) -> Result<Self> {
        let model = model.into();
        let scores = model.chain().and_then(|chain| Some((chain, chain.scores_size()?)));
        let Some((chain, scores)) = scores.filter(|(_, scores)| *scores > 1) else {
            let what = scores.map_or("an embedder".to_owned(), |(_, scores)| of_scores(scores));
            return Err(Error::Unsupported(format!("classify needs several scores, and the model is {what}")));
        };
        let class = [&chain.settings().activation_fn, &model.config().activation_fn].into_iter().flatten();
        // The library takes torch's own classes alone, and the identity where there is none.
        let activation = match class.into_iter().find(|class| class.starts_with("torch.")) {
            None => TorchActivation::Identity,
            Some(class) => TorchActivation::from_class(class)
                .ok_or_else(|| Error::Unsupported(format!("the model's activation {class}")))?,
        };
        let labels = (0..scores).map(|index| format!("LABEL_{index}")).collect();
        let prompts = Prompts::new(chain.settings());
        Ok(Self { model: ClassifyModel::Chain(model, activation), preprocessor, prompts, labels })
    }

    /// The model, where it is one with a head; none where it is a chain.
    pub fn model(&self) -> Option<&Arc<SequenceClassifier>> {
        match &self.model {
            ClassifyModel::Head(model) => Some(model),
            ClassifyModel::Chain(..) => None,
        }
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// All label names in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What becomes of logits unless a request says otherwise. The scores of a chain have its activation before.
    pub fn function(&self) -> ScoreFunction {
        match &self.model {
            ClassifyModel::Head(model) => ScoreFunction::of(model.config()),
            ClassifyModel::Chain(..) => ScoreFunction::Softmax,
        }
    }

    /// The labels of every input, best first.
    ///
    /// # Errors
    /// Failures of the engine; an input's own failure is in its place.
    pub fn run(&self, inputs: &[TextInput<'_>], request: &ClassifyRequest) -> Result<Outcomes<Vec<Label>>> {
        self.prepare(inputs, request)?.run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt that the model does not have.
    pub fn prepare(&self, inputs: &[TextInput<'_>], request: &ClassifyRequest) -> Result<Prepared<Self>> {
        let prompt = self.prompts.text(&request.prompt)?;
        let skip = match &self.model {
            ClassifyModel::Chain(model, _) if model.chain().is_some_and(Chain::skips_prompt) => {
                self.preprocessor.prompt_tokens(prompt)?
            }
            _ => 0,
        };
        let limit = self.preprocessor.limit_for(request.truncate);
        let encode = |input: &TextInput<'_>| self.preprocessor.encode_behind(prompt, *input, limit);
        let (sequences, plan) = EachInput::new(self.preprocessor.encode_all(inputs, encode), skip);
        let reading = request.clone().with_prompt(PromptChoice::Default).with_truncate(None);
        Ok(Prepared::new(sequences, reading, plan))
    }

    /// One row of scores per sequence, of a chain behind its activation unless they are to be raw.
    fn logits(&self, batch: &PackedBatch, options: &EmbedOptions, raw: bool) -> Result<Vec<Vec<f32>>> {
        let logits = match &self.model {
            ClassifyModel::Head(model) => model.logits(batch)?,
            ClassifyModel::Chain(model, activation) => {
                let scores = model.scores(batch, options.skip.as_deref())?;
                if raw { scores } else { activation.apply(&scores)? }
            }
        };
        Ok(logits.to_vec2::<f32>()?)
    }
}

impl Staged for Classifier {
    type Reading = ClassifyRequest;
    type Row = Vec<Label>;
    type Plan = EachInput;
    type Answer = Vec<Label>;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        request: &ClassifyRequest,
    ) -> Result<Vec<Result<Vec<Label>>>> {
        let asked = request.function.or(request.raw.then_some(ScoreFunction::Raw));
        let function = asked.unwrap_or_else(|| self.function());
        let options = EmbedOptions { skip: staged::skipped(sequences), ..EmbedOptions::default() };
        let logits = self.logits(batch, &options, asked.is_some())?;
        let labels = sequences.iter().zip(&logits).map(|(sequence, row)| {
            let ranked = ranked(self.labels(), &function.apply(row), request.top_k);
            let finite = is_comparable(row) && ranked.iter().all(|label| label.score.is_finite());
            let ids = sequence.ids();
            match &self.model {
                ClassifyModel::Head(model) => model.finite(finite, ranked, ids),
                ClassifyModel::Chain(model, _) => {
                    let options = &EmbedOptions { skip: staged::skipped(&[sequence]), ..EmbedOptions::default() };
                    TracedEmbedder { model, options, result: Asked::Scores }.finite(finite, ranked, ids)
                }
            }
        });
        Ok(labels.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<Vec<Label>>>) -> Outcomes<Vec<Label>> {
        prepared.plan.answers(rows, |_, labels| Ok(labels))
    }
}

impl ScoreFunction {
    /// What the model was trained for, as transformers decides it.
    fn of(config: &Config) -> Self {
        match config.problem_type {
            Some(ProblemType::Regression) => ScoreFunction::Raw,
            Some(ProblemType::MultiLabel) => ScoreFunction::Sigmoid,
            _ if config.labels.len() == 1 => ScoreFunction::Sigmoid,
            _ => ScoreFunction::Softmax,
        }
    }

    fn apply(self, logits: &[f32]) -> Vec<f32> {
        match self {
            ScoreFunction::Raw => logits.to_vec(),
            ScoreFunction::Sigmoid => logits.iter().map(|&logit| sigmoid(logit)).collect(),
            ScoreFunction::Softmax => softmax(logits),
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
