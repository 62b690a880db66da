//! Inference for Ettin and ModernBERT-type encoders and decoders.
#![forbid(unsafe_code)]

pub mod batch;
mod error;

pub use error::{Error, Result};
