//! `serve`.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use clap::{ArgAction, Args};

use super::common::count;
use super::{EngineArgs, HubArgs, QuietArgs};

/// Answer over HTTP: embeddings and reranking, by the routes of text-embeddings-inference and OpenAI
///
/// The port is bound at once, and models are loaded behind it: until they are, /health says 503 and why. A request is
/// answered by the model that it names, else by the first one that can. SIGTERM ends the server when what is in
/// flight is answered.
///
/// Routes: /embed, /rerank, /v1/embeddings, /info, /health, /metrics.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run serve
  ettin-run serve -m encoder-150m -p 8080
  ettin-run serve -m embed=encoder-150m -m rerank=./my-reranker --hostname 127.0.0.1
  curl localhost:3000/embed -H 'content-type: application/json' \\
       -d '{\"inputs\": [\"A cat.\"]}'")]
pub(crate) struct Serve {
    /// Model to serve, or NAME=MODEL to give it a name; given more than once, all are served [default: the embedded
    /// nano pair]
    #[arg(short, long = "model", env = "ETTIN_MODEL", value_name = "[NAME=]MODEL", help_heading = "Model")]
    pub(crate) models: Vec<String>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) server: ServeArgs,
    #[command(flatten)]
    pub(crate) quiet: QuietArgs,
}

/// How the server listens and what it lets in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServeArgs {
    /// IP address to listen on
    #[arg(long, env = "ETTIN_HOSTNAME", default_value = "0.0.0.0", value_name = "IP")]
    pub(crate) hostname: IpAddr,

    /// Port to listen on; 0 takes a free one and says which
    #[arg(short, long, env = "ETTIN_PORT", default_value_t = 3000, value_name = "PORT")]
    pub(crate) port: u16,

    /// Cut texts over the model's limit instead of refusing them, unless a request says otherwise; an answer tells in
    /// x-truncated how many were cut
    #[arg(
        long,
        env = "ETTIN_AUTO_TRUNCATE",
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub(crate) auto_truncate: bool,

    /// Most tokens of all requests that wait, for each model; beyond, a request is answered by 429
    #[arg(long, env = "ETTIN_MAX_QUEUE_TOKENS", default_value = "262144", value_name = "N", value_parser = count)]
    pub(crate) max_queue_tokens: NonZeroUsize,

    /// Largest request body, in bytes
    #[arg(long, env = "ETTIN_PAYLOAD_LIMIT", default_value = "16000000", value_name = "BYTES", value_parser = count)]
    pub(crate) payload_limit: NonZeroUsize,

    /// Seconds that a request may take
    #[arg(long, env = "ETTIN_REQUEST_TIMEOUT", default_value = "600", value_name = "SECONDS", value_parser = count)]
    pub(crate) request_timeout: NonZeroUsize,

    /// Seconds that requests may go on when the server is told to end
    #[arg(long, env = "ETTIN_DRAIN_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    pub(crate) drain_timeout: u64,

    /// Threads that turn texts into tokens
    #[arg(
        long,
        env = "ETTIN_TOKENIZATION_WORKERS",
        default_value = "2",
        value_name = "N",
        value_parser = super::common::threads
    )]
    pub(crate) tokenization_workers: NonZeroUsize,

    /// Write log lines as JSON
    #[arg(long, env = "ETTIN_JSON_OUTPUT", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) json_output: bool,
}
