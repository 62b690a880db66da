//! Stand-in until the real module is merged.
#![allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    Encoder,
    Decoder,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemType {
    Regression,
    SingleLabel,
    MultiLabel,
}
#[derive(Debug, Clone)]
pub struct Config {
    pub objective: Objective,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub labels: Vec<String>,
    pub problem_type: Option<ProblemType>,
    pub architectures: Vec<String>,
    pub activation_fn: Option<String>,
}
