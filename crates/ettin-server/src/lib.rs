//! HTTP for ettin.
