//! Inference for Ettin and ModernBERT-type encoders and decoders.
#![forbid(unsafe_code)]

pub mod batch;
mod error;
pub mod files;
pub mod hub;
pub mod suite;

pub use error::{Error, Result};
