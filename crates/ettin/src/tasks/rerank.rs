//! Reranking: how well documents answer a query.

use super::frontend::{Frontend, Need};
use super::numbers::{descending, sigmoid};
use super::{IndexedScore, Options, Outcome, Outcomes, TextInput};
use crate::files::ModelFiles;
use crate::finite::Traced;
use crate::heads::{EmbedOptions, Embedder, Embedding, SequenceClassifier};
use crate::{Error, PackedBatch, Result};

/// Scores documents against a query with a cross-encoder.
///
/// Query and document are encoded as a pair; a pair over the limit is cut at its longer text first, as
/// sentence-transformers does.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Options, RerankInput, Reranker};
///
/// let reranker = Reranker::load(&ModelFiles::folder("ettin-reranker-32m-v1")?, &Options::default())?;
/// let input = RerankInput { query: "Where was Apple founded?", documents: vec!["In Los Altos.", "Pears are green."] };
/// for outcome in reranker.run(&[input], None)? {
///     let best = outcome?.value[0];
///     println!("document {} scores {}", best.index, best.score);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reranker {
    model: Model,
    frontend: Frontend,
    /// What the model's files ask for.
    activation: Configured,
}

#[derive(Debug)]
enum Model {
    Chain(Box<Embedder>),
    Classifier(Box<SequenceClassifier>),
}

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

/// The activation of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Configured {
    Known(Activation),
    /// One that is not implemented, by its Python name.
    Other(String),
}

impl Reranker {
    /// Loads a reranker: a one-output sentence-transformers chain or a one-label classifier.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a chain or a classifier with several outputs; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let need = Need { task: "rerank", objective: None };
        let stated = stated_activation(files)?;
        if files.get("modules.json")?.is_some() {
            let (model, tokenizer) = need.load(files, options, Embedder::load)?;
            let (outputs, max_seq_length) = match model.chain() {
                Some(chain) => (chain.output_size(), chain.settings().max_seq_length),
                None => (0, None),
            };
            only_one(files, outputs, "embed")?;
            let frontend = Frontend::new(tokenizer, options, model.config(), max_seq_length);
            let activation = stated.map_or(Configured::Known(Activation::Raw), Configured::from);
            return Ok(Self { model: Model::Chain(Box::new(model)), frontend, activation });
        }
        let (model, tokenizer) = need.load(files, options, SequenceClassifier::load)?;
        only_one(files, model.config().labels.len(), "classify")?;
        let frontend = Frontend::new(tokenizer, options, model.config(), None);
        let stated = stated.or_else(|| model.config().activation_fn.clone());
        let activation = stated.map_or(Configured::Known(Activation::Sigmoid), Configured::from);
        Ok(Self { model: Model::Classifier(Box::new(model)), frontend, activation })
    }

    /// What is applied unless the call says otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the model's files name an activation that is neither of the two.
    pub fn activation(&self) -> Result<Activation> {
        match &self.activation {
            Configured::Known(activation) => Ok(*activation),
            Configured::Other(name) => {
                Err(Error::Unsupported(format!("the model's activation {name}; ask for raw scores or for the sigmoid")))
            }
        }
    }

    /// The documents of every query, best first.
    ///
    /// # Errors
    /// Failures of the engine; a query fails in its place if one of its documents does.
    pub fn run(
        &self,
        inputs: &[RerankInput<'_>],
        activation: Option<Activation>,
    ) -> Result<Outcomes<Vec<IndexedScore>>> {
        let activation = match activation {
            Some(activation) => activation,
            None => self.activation()?,
        };
        let pair = |query, document| TextInput { text: query, pair: Some(document) };
        let pairs: Vec<TextInput<'_>> = inputs
            .iter()
            .flat_map(|input| input.documents.iter().map(|&document| pair(input.query, document)))
            .collect();
        let encode = |pair: &TextInput<'_>| self.frontend.encode(*pair);
        let options = EmbedOptions::default();
        let scored = self.frontend.run(&pairs, encode, |batch, items| {
            let scores = items.iter().zip(self.scores(batch, &options)?).map(|(item, score)| {
                let (finite, ids) = (score.is_finite(), &item.encoding.ids);
                let score = activation.apply(score);
                match &self.model {
                    Model::Chain(model) => {
                        Embedding { model, options: &options, per_token: false }.finite(finite, score, ids)
                    }
                    Model::Classifier(model) => model.finite(finite, score, ids),
                }
            });
            Ok(scores.collect())
        })?;
        let mut scored = scored.into_iter();
        Ok(inputs.iter().map(|input| ranked(scored.by_ref().take(input.documents.len()).collect())).collect())
    }

    /// One raw score per sequence.
    fn scores(&self, batch: &PackedBatch, options: &EmbedOptions) -> Result<Vec<f32>> {
        let scores = match &self.model {
            Model::Chain(model) => model.embed(batch, options)?,
            Model::Classifier(model) => model.logits(batch)?,
        };
        Ok(scores.flatten_all()?.to_vec1()?)
    }
}

impl Activation {
    fn apply(self, score: f32) -> f32 {
        match self {
            Activation::Raw => score,
            Activation::Sigmoid => sigmoid(score),
        }
    }
}

impl From<String> for Configured {
    /// From a Python class path.
    fn from(path: String) -> Self {
        match path.rsplit('.').next() {
            Some("Identity") => Configured::Known(Activation::Raw),
            Some("Sigmoid") => Configured::Known(Activation::Sigmoid),
            _ => Configured::Other(path),
        }
    }
}

/// `activation_fn` of `config_sentence_transformers.json`, which wins over the keys in `config.json`.
fn stated_activation(files: &ModelFiles) -> Result<Option<String>> {
    const FILE: &str = "config_sentence_transformers.json";
    #[derive(serde::Deserialize)]
    struct Stated {
        activation_fn: Option<String>,
    }
    let Some(bytes) = files.get(FILE)? else {
        return Ok(None);
    };
    let stated: Stated = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Config { file: FILE.to_owned(), message: error.to_string() })?;
    Ok(stated.activation_fn)
}

fn only_one(files: &ModelFiles, outputs: usize, fits: &str) -> Result<()> {
    match outputs {
        1 => Ok(()),
        _ => Err(Error::Unsupported(format!(
            "rerank needs a model with one output, and {} has {outputs}; try {fits}",
            files.name()
        ))),
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
