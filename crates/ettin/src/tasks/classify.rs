//! Sequence classification.

use serde::Serialize;

use super::{Options, Outcomes, TextInput};
use crate::Result;
use crate::files::ModelFiles;

/// Labels whole texts or pairs of texts.
#[derive(Debug)]
pub struct Classifier {}

/// What to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifyRequest {
    /// How many labels, best first; `None` for all of them.
    pub top_k: Option<usize>,
    /// Report logits instead of probabilities.
    pub raw: bool,
}

impl Default for ClassifyRequest {
    fn default() -> Self {
        Self {
            top_k: Some(1),
            raw: false,
        }
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

impl Classifier {
    /// Loads a sequence classifier.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// All label names in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        todo!()
    }

    /// The labels of every input, best first.
    pub fn run(
        &self,
        _inputs: &[TextInput<'_>],
        _request: &ClassifyRequest,
    ) -> Result<Outcomes<Vec<Label>>> {
        todo!()
    }
}
