//! What stands on the trunk: language models, classifiers, embedders.

mod chain;
mod embedder;
mod language;
mod sequence;
mod token;

pub(crate) use chain::trunk_folder;
pub use chain::{Chain, Settings, Similarity};
pub(crate) use embedder::Embedding;
pub use embedder::{EmbedOptions, Embedder};
pub use language::LanguageModel;
pub use sequence::SequenceClassifier;
pub use token::{QuestionAnswering, TokenClassifier};

use candle_core::Tensor;

use crate::{
    Config, Error, Result,
    files::ModelFiles,
    finite,
    ops::{self, Backend, Hidden, Linear},
    params::Parameters,
    weights::{self, Weights},
};

/// Reads configuration and weights and builds a model from them; every tensor must be there, of its shape.
fn open<T>(
    files: &ModelFiles,
    backend: &Backend,
    head: impl FnOnce(&Config) -> weights::Head,
    build: impl FnOnce(Parameters<'_>, &Config, &Backend) -> Result<T>,
) -> Result<T> {
    let config = Config::load(files)?;
    let head = head(&config);
    if matches!(head, weights::Head::Classifier { .. }) {
        config.check_classifier()?;
    }
    let weights = Weights::open(files)?;
    let parameters = Parameters::from_weights(&weights, &config, head)?;
    let backend = backend.for_stored(parameters.quantisation);
    build(parameters, &config, &backend)
}

/// Prediction head and label matrix, shared by every classifier.
#[derive(Debug)]
struct Classifier {
    head: ops::Head,
    output: Linear,
}

impl Classifier {
    /// The head that its parameters are looked up as.
    fn parameters(config: &Config) -> weights::Head {
        weights::Head::Classifier { outputs: config.labels.len() }
    }

    fn build(parameters: &mut Parameters<'_>, backend: &Backend) -> Result<Self> {
        Ok(Self {
            head: prediction_head(parameters, backend)?,
            output: match parameters.classifier.take() {
                Some(output) => backend.linear(output)?,
                None => return Err(Error::input("these parameters have no classifier")),
            },
        })
    }

    /// Fails where the prediction head's result is not finite.
    fn trace(&self, hidden: &Hidden, backend: &Backend) -> Result<()> {
        trace_head(hidden, &self.head, backend)
    }

    /// `[rows, hidden]` to `[rows, labels]`.
    fn logits(&self, hidden: &Hidden) -> Result<Tensor> {
        ops::linear(&ops::head(hidden, &self.head)?, &self.output)?.to_tensor()
    }
}

fn trace_head(hidden: &Hidden, head: &ops::Head, backend: &Backend) -> Result<()> {
    finite::check(|| "the prediction head".to_owned(), &ops::head(hidden, head)?, backend.dtype())
}

fn prediction_head(parameters: &mut Parameters<'_>, backend: &Backend) -> Result<ops::Head> {
    match parameters.head.take() {
        Some(head) => backend.head(head),
        None => Err(Error::input("these parameters have no prediction head")),
    }
}
