//! How the server listens and what it lets in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ettin::Pooling;
use ettin::tasks::PromptChoice;

use super::cors::AllowedOrigins;
use super::keys::ApiKeys;

/// Options of the server; those of models are [`ModelSettings`](crate::models::ModelSettings).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// A Unix socket to listen on instead.
    pub unix_socket: Option<PathBuf>,
    /// The largest body, in bytes.
    pub payload_limit: usize,
    /// The most bytes of bodies of all requests at once. A body counts as far as it has come, until it is answered.
    pub body_memory: usize,
    /// How long clients may take.
    pub patience: Patience,
    /// The most connections at once; one more is told so and closed.
    pub max_connections: usize,
    /// The most requests that are worked on at once, for those who want such a limit beside that of tokens.
    pub max_concurrent_requests: Option<usize>,
    /// The most inputs of one request, for those who want such a limit.
    pub max_client_batch_size: Option<usize>,
    /// How long a request may take, from its last byte to the first of its answer.
    pub request_timeout: Duration,
    /// How long requests may go on when the server is told to end.
    pub drain_timeout: Duration,
    /// Threads that encode texts.
    pub tokenization_workers: usize,
    /// Whether texts over the limit are cut, unless a request has its own say.
    pub auto_truncate: bool,
    /// The keys of which a request needs one; none lets everybody in.
    pub keys: ApiKeys,
    /// Whose pages may ask from a browser.
    pub origins: AllowedOrigins,
    /// The prompt of texts that are embedded or compared, where a request chooses none.
    pub default_prompt: PromptChoice,
    /// The pooling of texts that are embedded, where a request chooses none.
    pub default_pooling: Option<Pooling>,
}

/// How long a client may take to do its part, so that none holds a place for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patience {
    /// From the first byte of a request (or from the beginning of the connection) to the end of its head.
    pub head: Duration,
    /// For the body, whatever its length.
    pub body: Duration,
    /// Beyond that, a second for so many bytes that have come.
    pub body_rate: usize,
    /// Between two requests of a connection.
    pub idle: Duration,
    /// For taking a part of the answer.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(20),
            body_rate: 16 << 10,
            // Longer than the pools of clients and proxies keep connections, so that it is they who close them.
            idle: Duration::from_secs(120),
            write: Duration::from_secs(60),
        }
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 3000),
            unix_socket: None,
            payload_limit: 16_000_000,
            body_memory: 256_000_000,
            patience: Patience::default(),
            max_connections: 4096,
            max_concurrent_requests: None,
            max_client_batch_size: None,
            request_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
            tokenization_workers: 2,
            auto_truncate: true,
            keys: ApiKeys::default(),
            origins: AllowedOrigins::default(),
            default_prompt: PromptChoice::Default,
            default_pooling: None,
        }
    }
}
