//! What travels over HTTP: requests and answers of every protocol, without a server and without a model.
//!
//! A body goes through one door ([`json::parse_body`]), one decision ([`route::route`]) and becomes a
//! [`route::Call`]: a typed request, checked as far as it can be without a model. Answers are written from plain Rust
//! values by one function each, and a [`Fault`] in the form of the protocol that asked. Nothing here waits, reads
//! files or keeps state.

pub mod decoding;
pub mod fault;
pub mod hugging_face;
pub mod input;
pub mod json;
pub mod openai;
mod ranking;
pub mod rerank;
pub mod route;
pub mod schemas;
pub mod tei;
pub mod vllm;

pub use fault::{ErrorForm, Fault, FaultAnswer, FaultKind};
pub use json::BodyLimits;
pub use route::{Call, RootTask, route};
