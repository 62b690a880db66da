//! HTTP for ettin: what stands between a socket and the library.
//!
//! From the ground up, each line stands on those above it:
//!
//! | module | what it does |
//! |---|---|
//! | [`error`] | why a request got no answer |
//! | [`logs`] | lines about what happens |
//! | [`metrics`] | numbers for Prometheus |
//! | [`scheduler`] | who computes what when: one turn, fair queues of sequences, streams, admission |
//! | [`models`] | models by name: loaded in the background, chosen, replaced |
//! | [`service`] | **what routes call**: typed requests in, typed answers out |
//! | [`protocol`] | what clients send and read, as pure types: no server, no model |
//! | [`http`] | routes, the listener, and how the server ends |
#![forbid(unsafe_code)]

pub mod error;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod models;
pub mod protocol;
pub mod scheduler;
pub mod service;
