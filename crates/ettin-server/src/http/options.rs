//! How the server listens and what it lets in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Options of the server; those of models are [`ModelSettings`](crate::models::ModelSettings).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The largest body, in bytes.
    pub payload_limit: usize,
    /// How long a request may take, from its last byte to the first of its answer.
    pub request_timeout: Duration,
    /// How long requests may go on when the server is told to end.
    pub drain_timeout: Duration,
    /// Threads that encode texts.
    pub tokenization_workers: usize,
    /// Whether texts over the limit are cut, unless a request has its own say.
    pub auto_truncate: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 3000),
            payload_limit: 16_000_000,
            request_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
            tokenization_workers: 2,
            auto_truncate: true,
        }
    }
}
