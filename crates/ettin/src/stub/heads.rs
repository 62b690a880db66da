//! Stand-in until the real module is merged.
#![allow(missing_docs)]
use crate::{batch::PackedBatch, config::Config, files::ModelFiles, ops::Backend, pooling::Pooling, Error, Result};
use candle_core::Tensor;
#[derive(Debug, Clone)]
pub struct KvCache;
impl KvCache {
    pub fn len(&self) -> usize { 0 }
    pub fn fork(&self) -> Self { self.clone() }
}
macro_rules! head {
    ($name:ident) => {
        #[derive(Debug)]
        pub struct $name { config: Config }
        impl $name {
            pub fn load(_: &ModelFiles, _: &Backend) -> Result<Self> { Err(Error::input("stub")) }
            pub fn config(&self) -> &Config { &self.config }
        }
    };
}
head!(LanguageModel);
head!(SequenceClassifier);
head!(TokenClassifier);
head!(QuestionAnswering);
head!(Embedder);
type T = Result<Tensor>;
fn no() -> T { Err(Error::input("stub")) }
impl LanguageModel {
    pub fn logits(&self, _: &PackedBatch, _rows: &[usize]) -> T { no() }
    pub fn step(&self, _: &PackedBatch, _: &mut [&mut KvCache], _rows: &[usize]) -> T { no() }
    pub fn cache(&self, _: usize) -> Result<KvCache> { Ok(KvCache) }
}
impl SequenceClassifier { pub fn logits(&self, _: &PackedBatch) -> T { no() } }
impl TokenClassifier { pub fn logits(&self, _: &PackedBatch) -> T { no() } }
impl QuestionAnswering { pub fn logits(&self, _: &PackedBatch) -> T { no() } }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Similarity { Cosine, Dot, Euclidean, Manhattan }
#[derive(Debug, Clone, Default)]
pub struct EmbedOptions { pub pooling: Option<Pooling>, pub normalize: Option<bool>, pub dimensions: Option<usize>, pub layer: Option<usize>, pub skip: Option<Vec<usize>> }
#[derive(Debug)]
pub struct Chain;
impl Embedder {
    pub fn chain(&self) -> Option<&Chain> { None }
    pub fn embed(&self, _: &PackedBatch, _: &EmbedOptions) -> T { no() }
    pub fn token_embeddings(&self, _: &PackedBatch, _layer: Option<usize>) -> T { no() }
    pub fn max_seq_length(&self) -> Option<usize> { None }
    pub fn prompts(&self) -> &std::collections::BTreeMap<String, String> { todo!() }
    pub fn default_prompt_name(&self) -> Option<&str> { None }
    pub fn include_prompt(&self) -> bool { true }
    pub fn similarity(&self) -> Similarity { Similarity::Cosine }
    pub fn scores(&self) -> bool { false }
}
