//! Sequence classification: one row of label scores per sequence.

use candle_core::Tensor;

use super::{build_classifier, classifier, open, open_in, trace_head};
use crate::{
    Backend, Config, Error, PackedBatch, Pooling, Result, Trunk,
    config::{ClassifierPooling, Objective},
    files::ModelFiles,
    finite::Traced,
    identity,
    ops::Hidden,
    params::Parameters,
    sentence_transformers::{Repository, Task},
};

/// A trunk that pools each sequence and scores its labels.
///
/// Encoders pool (first token or mean, `classifier_pooling`) before the head; decoders score the last token that is not
/// padding, as transformers does.
#[derive(Debug)]
pub struct SequenceClassifier {
    trunk: Trunk,
}

impl SequenceClassifier {
    /// Loads the model that `files` hold.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        open(files, backend, classifier, Self::build)
    }

    /// Loads the classifier that is the one module of a repository of sentence-transformers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a repository with more modules; otherwise as [`load`](Self::load).
    pub(crate) fn of_repository(files: &ModelFiles, repository: &Repository, backend: &Backend) -> Result<Self> {
        if let Some(module) = repository.modules.first() {
            return Err(Error::Unsupported(format!(
                "the module {} ({:?}) behind a classifier in modules.json",
                module.class, module.folder
            )));
        }
        let transformer = &repository.transformer;
        if transformer.task != Task::SequenceClassification {
            return Err(Error::Unsupported(
                "labels of a chain in modules.json; it makes embeddings or scores, for embed or rerank".to_owned(),
            ));
        }
        identity::check(files, identity::Use::Vectors)?;
        open_in(files, &transformer.folder, transformer.longest(), backend, classifier, Self::build)
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

    /// Raw scores, `[sequences, labels]`.
    pub fn logits(&self, batch: &PackedBatch) -> Result<Tensor> {
        self.classify(&self.trunk.forward(batch)?, batch)
    }

    /// Raw scores from final hidden states.
    pub(crate) fn classify(&self, hidden: &Hidden, batch: &PackedBatch) -> Result<Tensor> {
        self.trunk.model().classify(&self.pooled(hidden, batch)?)
    }

    /// One row for each sequence.
    fn pooled(&self, hidden: &Hidden, batch: &PackedBatch) -> Result<Hidden> {
        match (self.config().objective, self.config().classifier_pooling) {
            (Objective::Decoder, _) => hidden.select(&self.last_rows(batch)),
            (Objective::Encoder, ClassifierPooling::Cls) => hidden.select(&batch.offsets()[..batch.sequences()]),
            (Objective::Encoder, ClassifierPooling::Mean) => Pooling::Mean.pool(hidden, batch, None),
        }
    }

    /// The last row of each sequence that is not padding; the first where all are.
    fn last_rows(&self, batch: &PackedBatch) -> Vec<usize> {
        let pad = self.config().pad_token_id;
        (0..batch.sequences())
            .map(|index| {
                let rows = batch.rows(index);
                let first = rows.start;
                rows.rev().find(|&row| Some(batch.ids()[row]) != pad).unwrap_or(first)
            })
            .collect()
    }
}

impl Traced for SequenceClassifier {
    const RESULT: &str = "the label scores";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        let pooled = self.pooled(&self.trunk.trace(batch)?, batch)?;
        trace_head(&pooled, &self.trunk)
    }
}
