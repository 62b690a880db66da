//! The protocols without a server: recorded bodies, refusals, answers, and what no body may do.

mod answers;
mod door;
mod errors;
mod properties;
mod validation;
mod wire;
