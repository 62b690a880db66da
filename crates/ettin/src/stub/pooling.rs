//! Stand-in until the real module is merged.
#![allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Cls,
    Mean,
    Last,
    WeightedMean,
    Max,
}
