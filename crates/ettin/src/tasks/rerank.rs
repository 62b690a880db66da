//! Reranking: how well documents answer a query.

mod by_vectors;

use std::sync::Arc;

use candle_core::Tensor;

use super::limit::Bounds;
use super::numbers::{descending, sigmoid};
use super::prompt::{PromptChoice, Prompts};
use super::spec::{TaskSpec, of_repository, of_scores};
use super::staged::{self, EachInput};
use super::{
    EmbedRequest, IndexedScore, Options, Outcome, Outcomes, Prepared, PreparedSequence, Preprocessor, Staged,
    TextEmbedder, TextInput, TextVectors, Truncate,
};
use crate::files::ModelFiles;
use crate::finite::{Traced, is_finite};
use crate::heads::{Asked, EmbedOptions, Embedder, SequenceClassifier, TorchActivation, TracedEmbedder};
use crate::named::Named;
use crate::sentence_transformers::{ModelType, Routes, Settings, Task};
use crate::setters::setters;
use crate::{Config, Error, PackedBatch, Result};

/// Scores documents against a query with a cross-encoder, with an encoder of sparse vectors, or with an embedder that has
/// routes for queries and documents.
///
/// Query and document are encoded as a pair, a prompt before the query; a pair over the limit is cut at its longer
/// text first, as sentence-transformers does. The others see each text alone: a query behind the prompt and on the route
/// of queries, a document behind and on those of documents, and their score is the model's similarity.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Options, RerankInput, RerankRequest, Reranker};
///
/// let reranker = Reranker::load(&ModelFiles::folder("ettin-reranker-32m-v1")?, &Options::default())?;
/// let input = RerankInput { query: "Where was Apple founded?", documents: vec!["In Los Altos.", "Pears are green."] };
/// for outcome in reranker.run(&[input], &RerankRequest::default())? {
///     let best = outcome?.value[0];
///     println!("document {} scores {}", best.index, best.score);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reranker {
    model: RerankModel,
    preprocessor: Preprocessor,
    prompts: Prompts,
    /// What the model's files ask for.
    activation: Configured,
}

#[derive(Debug)]
enum RerankModel {
    Chain(Arc<Embedder>),
    Classifier(Arc<SequenceClassifier>),
    Vectors(Box<TextEmbedder>),
}

/// What messages call a model that comes without a name.
const THE_MODEL: &str = "the model";

/// A query and its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RerankInput<'a> {
    /// The query.
    pub query: &'a str,
    /// The documents.
    pub documents: Vec<&'a str>,
}

/// What is applied to the model's score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Raw,
    /// The logistic function.
    Sigmoid,
}

/// How to rerank; the default leaves everything to the model's own files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RerankRequest {
    /// What is applied to scores instead of the model's own activation.
    pub activation: Option<Activation>,
    /// The prompt put before every query.
    pub prompt: PromptChoice,
    /// What becomes of inputs over the limit, instead of the task's own choice.
    pub truncate: Option<Truncate>,
}

setters!(RerankRequest {
    /// With an activation instead of the model's own.
    with_activation(activation: impl Into<Option<Activation>>);
    /// With another prompt.
    with_prompt(prompt: PromptChoice);
    /// With another fate of inputs over the limit.
    with_truncate(truncate: impl Into<Option<Truncate>>);
});

/// The activation of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Configured {
    /// One that can be asked for.
    Known(Activation),
    /// Another of torch's.
    Torch(TorchActivation),
    /// One that is not implemented, by its Python name.
    Other(String),
}

impl Reranker {
    /// Loads a reranker: a chain of sentence-transformers with one score, a classifier with one label, an encoder of
    /// sparse vectors, or an embedder that has routes for queries and documents.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model with several outputs or with modules that are not implemented; what loading
    /// the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "rerank", objective: None };
        let routes = Routes::load(files)?;
        if routes.as_ref().is_some_and(|routes| routes.is_sparse() || routes.has_sides()) {
            return Ok(Self::by_similarity(TextEmbedder::load(files, options)?));
        }
        match routes.map(Routes::into_trunk).transpose()? {
            None => {
                let (model, preprocessor) = spec.load(files, options, SequenceClassifier::load, Bounds::strict)?;
                Self::from_classifier(files.name(), model.into(), preprocessor)
            }
            Some(repository) if repository.transformer.task == Task::SequenceClassification => {
                let load =
                    |files: &ModelFiles, backend: &_| SequenceClassifier::of_repository(files, &repository, backend);
                let (model, preprocessor) = spec.load_repository(files, options, &repository.transformer, load)?;
                let settings = &repository.settings;
                let (activation, prompts) = (activation(settings, model.config()), Prompts::new(settings));
                let plain = Self::from_classifier(files.name(), model.into(), preprocessor)?;
                Ok(Self { activation, prompts, ..plain })
            }
            Some(repository) => {
                let (model, tokenizer) = spec.load_parts(files, options, Embedder::load)?;
                let transformer = &repository.transformer;
                let preprocessor = of_repository(files, tokenizer, options, transformer, model.config())?;
                Self::from_chain(files.name(), model.into(), preprocessor)
            }
        }
    }

    /// A reranker of parts: a classifier with one label.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a classifier with several.
    pub fn new(model: impl Into<Arc<SequenceClassifier>>, preprocessor: Preprocessor) -> Result<Self> {
        Self::from_classifier(THE_MODEL, model.into(), preprocessor)
    }

    /// A reranker of parts: a chain of sentence-transformers whose last module writes one score.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an embedder without scores, or with several.
    pub fn of_embedder(model: impl Into<Arc<Embedder>>, preprocessor: Preprocessor) -> Result<Self> {
        Self::from_chain(THE_MODEL, model.into(), preprocessor)
    }

    /// A reranker that compares the vectors of queries and documents.
    pub fn by_similarity(embedder: TextEmbedder) -> Self {
        let preprocessor = embedder.preprocessor().clone();
        let prompts = embedder.chain().map_or_else(Prompts::of_embedder, |chain| Prompts::new(chain.settings()));
        let activation = Configured::Known(Activation::Raw);
        Self { model: RerankModel::Vectors(Box::new(embedder)), preprocessor, prompts, activation }
    }

    fn from_classifier(name: &str, model: Arc<SequenceClassifier>, preprocessor: Preprocessor) -> Result<Self> {
        match model.config().labels.len() {
            1 => {}
            labels => {
                return Err(Error::Unsupported(format!(
                    "rerank needs a model with one output, and {name} has {labels}; try classify"
                )));
            }
        }
        // The other files of sentence-transformers count in a repository of its own alone.
        let activation = configured([model.config().activation_fn.as_deref()]);
        Ok(Self { model: RerankModel::Classifier(model), preprocessor, prompts: Prompts::default(), activation })
    }

    fn from_chain(name: &str, model: Arc<Embedder>, preprocessor: Preprocessor) -> Result<Self> {
        let Some((chain, scores)) = model.chain().and_then(|chain| Some((chain, chain.scores_size()?))) else {
            let hint = match model.chain().and_then(|chain| chain.settings().model_type) {
                // Which embed refuses by that name.
                Some(ModelType::CrossEncoder) => "",
                _ => "; try embed",
            };
            return Err(Error::Unsupported(format!("rerank needs scores, and no module of {name} writes any{hint}")));
        };
        if scores != 1 {
            return Err(Error::Unsupported(format!(
                "rerank needs a model with one score, and {name} is {}",
                of_scores(scores)
            )));
        }
        let activation = activation(chain.settings(), model.config());
        let prompts = Prompts::new(chain.settings());
        Ok(Self { model: RerankModel::Chain(model), preprocessor, prompts, activation })
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The name of what the model's files apply to a score: `identity`, `sigmoid`, or as torch calls it. None where
    /// vectors are compared.
    pub fn activation_name(&self) -> Option<&str> {
        match (&self.model, &self.activation) {
            (RerankModel::Vectors(_), _) => None,
            (_, Configured::Known(Activation::Raw)) => Some("identity"),
            (_, Configured::Known(Activation::Sigmoid)) => Some("sigmoid"),
            (_, Configured::Torch(activation)) => Some(activation.name()),
            (_, Configured::Other(name)) => Some(name),
        }
    }

    /// What is applied unless the call says otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the model's files name an activation that is not implemented.
    fn activation(&self) -> Result<Configured> {
        match &self.activation {
            Configured::Other(name) => {
                Err(Error::Unsupported(format!("the model's activation {name}; ask for raw scores or for the sigmoid")))
            }
            known => Ok(known.clone()),
        }
    }

    /// The documents of every query, best first.
    ///
    /// # Errors
    /// Failures of the engine; a query fails in its place if one of its documents does.
    pub fn run(&self, inputs: &[RerankInput<'_>], request: &RerankRequest) -> Result<Outcomes<Vec<IndexedScore>>> {
        self.prepare(inputs, request)?.run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt that the model does not have; [`Error::Unsupported`] when the model's files name
    /// an activation that is not implemented, and the request none.
    pub fn prepare(&self, inputs: &[RerankInput<'_>], request: &RerankRequest) -> Result<Prepared<Self>> {
        let model = match &self.model {
            RerankModel::Vectors(embedder) => return by_vectors::prepare(embedder, inputs, request),
            RerankModel::Chain(model) => Some(model),
            RerankModel::Classifier(_) => None,
        };
        let activation = match request.activation {
            Some(activation) => Configured::Known(activation),
            None => self.activation()?,
        };
        let prompt = self.prompts.text(&request.prompt)?;
        let skip = match model.and_then(|model| model.chain()) {
            Some(chain) if chain.skips_prompt() => self.preprocessor.prompt_tokens(prompt)?,
            _ => 0,
        };
        let pair = |query, document| TextInput { text: query, pair: Some(document) };
        let pairs: Vec<TextInput<'_>> = inputs
            .iter()
            .flat_map(|input| input.documents.iter().map(|&document| pair(input.query, document)))
            .collect();
        let limit = self.preprocessor.limit_for(request.truncate);
        let encode = |pair: &TextInput<'_>| self.preprocessor.encode_behind(prompt, *pair, limit);
        let (sequences, pairs) = EachInput::new(self.preprocessor.encode_all(&pairs, encode), skip);
        let documents = inputs.iter().map(|input| input.documents.len()).collect();
        let reading = RerankReading::Scores(activation);
        Ok(Prepared::new(sequences, reading, RerankPlan::Pairs { pairs, documents }))
    }

    /// Names of the model's prompts.
    pub fn prompts(&self) -> Vec<&str> {
        self.prompts.names()
    }

    /// One raw score per sequence.
    fn scores(&self, batch: &PackedBatch, options: &EmbedOptions) -> Result<Tensor> {
        let scores = match &self.model {
            RerankModel::Chain(model) => model.scores(batch, options.skip.as_deref())?,
            RerankModel::Classifier(model) => model.logits(batch)?,
            RerankModel::Vectors(_) => return Err(Error::internal("vectors are compared, not run in pairs")),
        };
        Ok(scores.flatten_all()?)
    }
}

/// How sequences are read.
#[derive(Debug, Clone, PartialEq)]
pub enum RerankReading {
    /// As pairs, with this behind the score.
    Scores(Configured),
    /// As vectors to be compared.
    Vectors(EmbedRequest),
}

/// What a sequence is read as.
#[derive(Debug, Clone, PartialEq)]
pub enum RerankRow {
    /// A pair's score.
    Score(f32),
    /// A text's vector.
    Vector(TextVectors),
}

/// How rows become ranks.
#[derive(Debug)]
pub enum RerankPlan {
    /// A sequence per document.
    Pairs {
        /// All of them.
        pairs: EachInput,
        /// How many each query has.
        documents: Vec<usize>,
    },
    /// A sequence per text.
    Vectors(by_vectors::Sides),
}

impl Staged for Reranker {
    type Reading = RerankReading;
    type Row = RerankRow;
    type Plan = RerankPlan;
    type Answer = Vec<IndexedScore>;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        reading: &RerankReading,
    ) -> Result<Vec<Result<RerankRow>>> {
        let activation = match (&self.model, reading) {
            (RerankModel::Vectors(embedder), RerankReading::Vectors(request)) => {
                let vectors = embedder.compute(batch, sequences, request)?.into_iter();
                return Ok(vectors.map(|vector| vector.map(RerankRow::Vector)).collect());
            }
            (RerankModel::Chain(_) | RerankModel::Classifier(_), RerankReading::Scores(activation)) => activation,
            _ => return Err(Error::internal("a reranker was given what another prepared")),
        };
        let options = EmbedOptions { skip: staged::skipped(sequences), ..EmbedOptions::default() };
        let raw = self.scores(batch, &options)?;
        let scores = activation.apply(&raw)?;
        let scores = sequences.iter().zip(raw.to_vec1::<f32>()?).zip(scores).map(|((sequence, raw), score)| {
            let (finite, ids) = (is_finite(&[raw, score]), sequence.ids());
            let score = match &self.model {
                RerankModel::Chain(model) => {
                    let options = &EmbedOptions { skip: staged::skipped(&[sequence]), ..EmbedOptions::default() };
                    TracedEmbedder { model, options, result: Asked::Scores }.finite(finite, score, ids)
                }
                RerankModel::Classifier(model) => model.finite(finite, score, ids),
                RerankModel::Vectors(_) => Ok(score),
            };
            score.map(RerankRow::Score)
        });
        Ok(scores.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<RerankRow>>) -> Outcomes<Vec<IndexedScore>> {
        let (pairs, documents) = match (&prepared.plan, &self.model) {
            (RerankPlan::Pairs { pairs, documents }, _) => (pairs, documents),
            (RerankPlan::Vectors(sides), RerankModel::Vectors(embedder)) => return sides.ranked(embedder, rows),
            (RerankPlan::Vectors(sides), _) => return sides.of_another(),
        };
        let score = |row| match row {
            RerankRow::Score(score) => Ok(score),
            RerankRow::Vector(_) => Err(Error::internal("a pair was read as a vector")),
        };
        let mut scores = pairs.answers(rows, |_, row| score(row)).into_iter();
        documents.iter().map(|&documents| ranked(scores.by_ref().take(documents).collect())).collect()
    }
}

impl Configured {
    fn apply(&self, scores: &Tensor) -> Result<Vec<f32>> {
        let scores: Vec<f32> = match self {
            Configured::Torch(activation) => return Ok(activation.apply(scores)?.to_vec1()?),
            _ => scores.to_vec1()?,
        };
        Ok(match self {
            Configured::Known(Activation::Sigmoid) => scores.into_iter().map(sigmoid).collect(),
            _ => scores,
        })
    }
}

/// What a repository of sentence-transformers asks for; its own file wins over `config.json`.
fn activation(settings: &Settings, config: &Config) -> Configured {
    configured([settings.activation_fn.as_deref(), config.activation_fn.as_deref()])
}

/// The first Python class that the library would take, which is one of torch's; else the sigmoid, as for every model
/// with one output.
fn configured<const N: usize>(classes: [Option<&str>; N]) -> Configured {
    let Some(class) = classes.into_iter().flatten().find(|class| class.starts_with("torch.")) else {
        return Configured::Known(Activation::Sigmoid);
    };
    match TorchActivation::from_class(class) {
        Some(TorchActivation::Identity) => Configured::Known(Activation::Raw),
        Some(TorchActivation::Sigmoid) => Configured::Known(Activation::Sigmoid),
        Some(other) => Configured::Torch(other),
        None => Configured::Other(class.to_owned()),
    }
}

/// Best first; equal scores keep the order of the documents.
fn ranked(scores: Outcomes<f32>) -> Result<Outcome<Vec<IndexedScore>>> {
    let mut truncated = false;
    let mut ranked = Vec::with_capacity(scores.len());
    for (index, outcome) in scores.into_iter().enumerate() {
        let outcome = outcome?;
        truncated |= outcome.truncated;
        ranked.push(IndexedScore { index, score: outcome.value });
    }
    ranked.sort_by(|a, b| descending(a.score, b.score));
    Ok(Outcome { value: ranked, truncated })
}
