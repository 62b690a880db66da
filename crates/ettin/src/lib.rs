//! Inference for Ettin and ModernBERT-type encoders and decoders.
#![forbid(unsafe_code)]

pub mod batch;
mod error;
pub mod generate;
pub mod tasks;
pub mod tokenizer;

#[path = "stub/config.rs"]
pub mod config;
#[path = "stub/files.rs"]
pub mod files;
#[path = "stub/heads.rs"]
pub mod heads;
#[path = "stub/ops.rs"]
pub mod ops;
#[path = "stub/pooling.rs"]
pub mod pooling;

pub use error::{Error, Result};
