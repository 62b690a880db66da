//! `serve`.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args};
use ettin::Pooling;

use super::common::count;
use super::{EngineArgs, HubArgs, QuietArgs};

/// Answer over HTTP as text-embeddings-inference, OpenAI, vLLM and Hugging Face do
///
/// The port is bound at once, and models are loaded behind it: until they are, /health says 503 and why; a model that
/// cannot be loaded ends the server. A request is answered by the model that it names, else by the first one that can.
///
/// SIGTERM ends the server when what is in flight is answered, a second one at once. SIGHUP loads the models again: the
/// old ones answer until the new ones are ready. Flags and variables of text-embeddings-inference are understood where
/// they mean something here, and refused by name where not. docs/SERVING.md has routes, limits, tuning and security.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run serve
  ettin-run serve -m encoder-150m -p 8080
  ettin-run serve -m embed=encoder-150m -m rerank=./my-reranker --hostname 127.0.0.1
  ettin-run serve --model-id ./my-model --api-key-file keys.txt --json-output
  ettin-run serve --uds-path /run/ettin.sock
  curl localhost:3000/embed -H 'content-type: application/json' \\
       -d '{\"inputs\": [\"A cat.\"]}'")]
pub(crate) struct Serve {
    /// Model to serve, or NAME=MODEL to give it a name; given more than once, all are served [default: the embedded
    /// nano pair]
    #[arg(
        short,
        long = "model",
        visible_alias = "model-id",
        env = "ETTIN_MODEL",
        value_name = "[NAME=]MODEL",
        help_heading = "Model"
    )]
    pub(crate) models: Vec<String>,

    /// Name of the one model, in answers and metrics [default: the last part of its path, or what was typed]
    #[arg(long, env = "ETTIN_SERVED_MODEL_NAME", value_name = "NAME", help_heading = "Model")]
    pub(crate) served_model_name: Option<String>,

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
    /// IP address to listen on [default: 0.0.0.0]. The variable HOSTNAME is not read: shells and containers set it
    #[arg(long, visible_alias = "host", env = "ETTIN_HOSTNAME", value_name = "IP")]
    pub(crate) hostname: Option<IpAddr>,

    /// Port to listen on; 0 takes a free one and says which [default: 3000]
    #[arg(short, long, env = "ETTIN_PORT", value_name = "PORT")]
    pub(crate) port: Option<u16>,

    /// Unix socket to listen on instead of an address
    #[arg(
        long,
        visible_alias = "uds",
        env = "ETTIN_UDS_PATH",
        value_name = "PATH",
        conflicts_with_all = ["hostname", "port"]
    )]
    pub(crate) uds_path: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) texts: ServeTextArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Threads that turn texts into tokens
    #[arg(
        long,
        env = "ETTIN_TOKENIZATION_WORKERS",
        default_value = "2",
        value_name = "N",
        value_parser = super::common::threads
    )]
    pub(crate) tokenization_workers: NonZeroUsize,

    /// Write log lines as JSON. RUST_LOG or LOG_LEVEL (error, warn, info, debug) chooses which
    #[arg(long, env = "ETTIN_JSON_OUTPUT", value_parser = FalseyValueParser::new())]
    pub(crate) json_output: bool,
}

/// What holds for requests that say nothing else.
#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
pub(crate) struct ServeTextArgs {
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

    /// The model's prompt of this name before texts that are embedded or compared [default: the model's
    /// default_prompt_name, if it has one]
    #[arg(long, env = "ETTIN_DEFAULT_PROMPT_NAME", value_name = "NAME")]
    pub(crate) default_prompt_name: Option<String>,

    /// How token vectors become one: cls, mean, last-token, max or weighted-mean [default: the model's]
    #[arg(long, env = "ETTIN_POOLING", value_name = "POOLING", value_parser = pooling)]
    pub(crate) pooling: Option<Pooling>,
}

/// Who may ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// Key of which a request needs one, as `authorization: Bearer KEY` or `x-api-key: KEY`; given more than once, any
    /// will do. /health, /ready, /ping and /metrics need none. Others may see command lines: better a file or the
    /// variable
    #[arg(long, env = "ETTIN_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Vec<String>,

    /// File with one key a line
    #[arg(long, env = "ETTIN_API_KEY_FILE", value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Origin whose pages may ask from a browser, such as https://example.org; given more than once, all of them
    /// [default: any]
    #[arg(long, env = "ETTIN_CORS_ALLOW_ORIGIN", value_name = "ORIGIN")]
    pub(crate) cors_allow_origin: Vec<String>,
}

/// What is let in, how much of it and how slowly.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Most tokens of all requests that wait, for each model; beyond, a request is answered by 429
    #[arg(long, env = "ETTIN_MAX_QUEUE_TOKENS", default_value = "262144", value_name = "N", value_parser = count)]
    pub(crate) max_queue_tokens: NonZeroUsize,

    /// Most requests at once, beside the limit of tokens [default: any number]
    #[arg(long, env = "ETTIN_MAX_CONCURRENT_REQUESTS", value_name = "N", value_parser = count)]
    pub(crate) max_concurrent_requests: Option<NonZeroUsize>,

    /// Most inputs of one request [default: any number]
    #[arg(long, env = "ETTIN_MAX_CLIENT_BATCH_SIZE", value_name = "N", value_parser = count)]
    pub(crate) max_client_batch_size: Option<NonZeroUsize>,

    /// Largest request body, in bytes
    #[arg(long, env = "ETTIN_PAYLOAD_LIMIT", default_value = "16000000", value_name = "BYTES", value_parser = count)]
    pub(crate) payload_limit: NonZeroUsize,

    /// Bytes of all request bodies at once; beyond, a request is answered by 429
    #[arg(long, env = "ETTIN_BODY_MEMORY", default_value = "256000000", value_name = "BYTES", value_parser = count)]
    pub(crate) body_memory: NonZeroUsize,

    /// Most connections at once; one more is answered by 503 and closed
    #[arg(long, env = "ETTIN_MAX_CONNECTIONS", default_value = "4096", value_name = "N", value_parser = count)]
    pub(crate) max_connections: NonZeroUsize,

    /// Seconds for the head of a request
    #[arg(long, env = "ETTIN_HEAD_TIMEOUT", default_value = "10", value_name = "SECONDS", value_parser = count)]
    pub(crate) head_timeout: NonZeroUsize,

    /// Seconds for the body of a request, and one more for each --body-rate bytes of it
    #[arg(long, env = "ETTIN_BODY_TIMEOUT", default_value = "20", value_name = "SECONDS", value_parser = count)]
    pub(crate) body_timeout: NonZeroUsize,

    /// Bytes of a body that earn a second
    #[arg(long, env = "ETTIN_BODY_RATE", default_value = "16384", value_name = "BYTES", value_parser = count)]
    pub(crate) body_rate: NonZeroUsize,

    /// Seconds that a connection may be idle between requests
    #[arg(long, env = "ETTIN_IDLE_TIMEOUT", default_value = "120", value_name = "SECONDS", value_parser = count)]
    pub(crate) idle_timeout: NonZeroUsize,

    /// Seconds without progress after which a client is given up that does not take its answer
    #[arg(long, env = "ETTIN_WRITE_TIMEOUT", default_value = "60", value_name = "SECONDS", value_parser = count)]
    pub(crate) write_timeout: NonZeroUsize,

    /// Seconds that a request may take
    #[arg(long, env = "ETTIN_REQUEST_TIMEOUT", default_value = "600", value_name = "SECONDS", value_parser = count)]
    pub(crate) request_timeout: NonZeroUsize,

    /// Seconds that requests may go on when the server is told to end
    #[arg(long, env = "ETTIN_DRAIN_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    pub(crate) drain_timeout: u64,
}

/// TEI's names for poolings beside ours.
fn pooling(name: &str) -> Result<Pooling, String> {
    match name {
        "last-token" | "last_token" => Ok(Pooling::Last),
        "splade" => Err("sparse models say in their own files that they are; serve one without --pooling".to_owned()),
        name => name.parse().map_err(|error: ettin::Error| error.to_string()),
    }
}
