//! What stands on the trunk: language models, classifiers, embedders.

mod activation;
mod chain;
mod embedder;
mod language;
mod sequence;
mod similarity;
mod token;

pub use crate::sentence_transformers::Settings;
pub(crate) use activation::TorchActivation;
pub use chain::Chain;
pub(crate) use embedder::{Asked, Embedding};
pub use embedder::{EmbedOptions, Embedder};
pub use language::LanguageModel;
pub use sequence::SequenceClassifier;
pub use similarity::Similarity;
pub use token::{QuestionAnswering, TokenClassifier};

use candle_core::Tensor;

use crate::{
    Config, Error, Result, Trunk,
    files::ModelFiles,
    finite, identity,
    ops::{self, Backend, Hidden, Linear},
    params::Parameters,
    weights::{self, Subfolder, Weights},
};

/// What stands on a trunk.
pub(crate) trait Head {
    /// The layers under it.
    fn trunk(&self) -> &Trunk;
}

macro_rules! heads {
    ($($head:ty),*) => {
        $(impl Head for $head {
            fn trunk(&self) -> &Trunk {
                <$head>::trunk(self)
            }
        })*
    };
}

heads!(LanguageModel, SequenceClassifier, TokenClassifier, QuestionAnswering, Embedder);

/// Reads configuration and weights and builds a model from them; every tensor must be there, of its shape.
fn open<T>(
    files: &ModelFiles,
    backend: &Backend,
    head: impl FnOnce(&Config) -> weights::Head,
    build: impl FnOnce(Parameters<'_>, &Config, &Backend) -> Result<T>,
) -> Result<T> {
    identity::check(files, identity::Use::Head)?;
    open_in(files, "", None, backend, head, build)
}

/// As [`open`], in a folder of the repository; with texts of `length` tokens, if the configuration allows fewer.
fn open_in<T>(
    files: &ModelFiles,
    folder: &str,
    length: Option<usize>,
    backend: &Backend,
    head: impl FnOnce(&Config) -> weights::Head,
    build: impl FnOnce(Parameters<'_>, &Config, &Backend) -> Result<T>,
) -> Result<T> {
    let trunk = Subfolder { files, folder };
    let mut config = Config::load(&trunk).map_err(|error| identity::explained(files, error))?;
    config.allow_length(length);
    let head = head(&config);
    if matches!(head, weights::Head::Classifier { .. }) {
        config.check_classifier()?;
    }
    let weights = Weights::open(&trunk).map_err(|error| identity::explained(files, error))?;
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
