//! Reranking: how well documents answer a query.

use super::{IndexedScore, Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;

/// Scores documents against a query with a cross-encoder.
#[derive(Debug)]
pub struct Reranker {}

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

impl Reranker {
    /// Loads a reranker: a one-output sentence-transformers chain or a one-label classifier.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// What is applied unless the call says otherwise.
    pub fn activation(&self) -> Activation {
        todo!()
    }

    /// The documents of every query, best first.
    pub fn run(
        &self,
        _inputs: &[RerankInput<'_>],
        _activation: Option<Activation>,
    ) -> Result<Outcomes<Vec<IndexedScore>>> {
        todo!()
    }
}
