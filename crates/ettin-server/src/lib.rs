//! HTTP for ettin.

pub mod protocol;
