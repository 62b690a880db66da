//! Token classification and extractive question answering: one row of scores per token.

use candle_core::Tensor;

use super::{build_classifier, classifier, open, trace_head};
use crate::{
    Backend, Config, Error, PackedBatch, Result, Trunk, files::ModelFiles, finite::Traced, params::Parameters,
};

/// A trunk that scores the labels of every token.
///
/// Decoders can carry this head too; transformers has no such class, so there is no reference to compare them with.
#[derive(Debug)]
pub struct TokenClassifier {
    trunk: Trunk,
}

impl TokenClassifier {
    /// Loads the model that `files` hold.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        open(files, backend, classifier, Self::build)
    }

    /// Builds the model from parameters with [`Head::Classifier`](crate::weights::Head::Classifier).
    pub fn build(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        Ok(Self { trunk: build_classifier(parameters, config, backend)? })
    }

    /// The configuration it was built from; `labels` names the columns of the scores.
    pub fn config(&self) -> &Config {
        self.trunk.config()
    }

    /// The layers without the head.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// Raw scores, `[tokens, labels]`.
    pub fn logits(&self, batch: &PackedBatch) -> Result<Tensor> {
        self.trunk.model().classify(&self.trunk.forward(batch)?)
    }
}

/// A token classifier whose two labels are the start and the end of an answer.
#[derive(Debug)]
pub struct QuestionAnswering(TokenClassifier);

impl QuestionAnswering {
    /// Loads the model that `files` hold.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        open(files, backend, classifier, Self::build)
    }

    /// Builds the model from parameters with [`Head::Classifier`](crate::weights::Head::Classifier).
    pub fn build(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        if config.labels.len() != 2 {
            return Err(Error::Unsupported(format!(
                "question answering with {} labels; it needs two, start and end",
                config.labels.len()
            )));
        }
        Ok(Self(TokenClassifier::build(parameters, config, backend)?))
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Config {
        self.0.config()
    }

    /// The layers without the head.
    pub fn trunk(&self) -> &Trunk {
        self.0.trunk()
    }

    /// Raw scores of each token to start and to end the answer, `[tokens, 2]`.
    pub fn logits(&self, batch: &PackedBatch) -> Result<Tensor> {
        self.0.logits(batch)
    }
}

impl Traced for TokenClassifier {
    const RESULT: &str = "the label scores";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        trace_head(&self.trunk.trace(batch)?, &self.trunk)
    }
}

impl Traced for QuestionAnswering {
    const RESULT: &str = "the scores of starts and ends";

    fn trunk(&self) -> &Trunk {
        &self.0.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        self.0.trace(batch)
    }
}
