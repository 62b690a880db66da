//! Inference for Ettin and ModernBERT-type encoders and decoders.
#![forbid(unsafe_code)]

pub mod batch;
pub mod cache;
pub mod config;
mod dtype;
mod error;
pub mod files;
mod finite;
pub mod generate;
pub mod heads;
pub mod hub;
pub mod identity;
pub mod json;
pub mod model;
pub mod ops;
pub mod params;
pub mod pooling;
mod sentence_transformers;
pub mod suite;
pub mod tasks;
pub mod tokenizer;
pub mod weights;

pub use batch::PackedBatch;
pub use cache::KvCache;
pub use config::{Config, Objective};
pub use error::{Error, Result};
pub use ettin_kernels::{Activation, Isa, KvFormat, Quantisation, Scheme, Span, Team};
pub use model::Trunk;
pub use ops::{Backend, DeviceChoice, Dtype};
pub use params::Parameters;
pub use pooling::Pooling;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
