//! Inference for Ettin and ModernBERT-type encoders and decoders.
#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
mod error;
pub mod weights;

pub use error::{Error, Result};
