//! Multiple choice: one score per pair of a context and a choice.

use candle_core::Tensor;

use super::{SequenceClassifier, open};
use crate::{
    Backend, Config, Error, PackedBatch, Result, Trunk, config::Objective, files::ModelFiles, finite::Traced,
    params::Parameters, weights,
};

/// A sequence classifier with one output, whatever labels its configuration names: each choice is scored alone, and a
/// softmax over the scores of all choices gives their probabilities.
#[derive(Debug)]
pub struct ChoiceScorer(SequenceClassifier);

impl ChoiceScorer {
    /// Loads the model that `files` hold.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a decoder; what reading configuration and weights finds wrong.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        open(files, backend, |_| weights::Head::Classifier { outputs: 1 }, Self::build)
    }

    /// Builds the model from parameters with [`Head::Classifier`](crate::weights::Head::Classifier) of one output.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a decoder; [`Error::Input`] for parameters without a classifier.
    pub fn build(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        if config.objective == Objective::Decoder {
            return Err(Error::Unsupported(
                "multiple choice on a decoder: transformers has no such class to compare with".to_owned(),
            ));
        }
        SequenceClassifier::build(parameters, config, backend).map(Self)
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Config {
        self.0.config()
    }

    /// The layers without the head.
    pub fn trunk(&self) -> &Trunk {
        self.0.trunk()
    }

    /// The raw score of every pair, `[sequences]`.
    pub fn scores(&self, batch: &PackedBatch) -> Result<Tensor> {
        Ok(self.0.logits(batch)?.squeeze(1)?)
    }
}

impl Traced for ChoiceScorer {
    const RESULT: &str = "the scores of choices";

    fn trunk(&self) -> &Trunk {
        self.0.trunk()
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        self.0.trace(batch)
    }
}
