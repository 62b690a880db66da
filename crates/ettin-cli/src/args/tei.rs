//! What text-embeddings-inference's users type: its variables, and flags of its that mean nothing here.

use std::env;

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};

/// Flags and TEI's variables for them, which count where ours are not set. `HOSTNAME` is left out: every shell and
/// container sets it, to something that is no address.
const VARIABLES: [(&str, &str, &str); 17] = [
    ("models", "ETTIN_MODEL", "MODEL_ID"),
    ("revision", "ETTIN_REVISION", "REVISION"),
    ("served_model_name", "ETTIN_SERVED_MODEL_NAME", "SERVED_MODEL_NAME"),
    ("dtype", "ETTIN_DTYPE", "DTYPE"),
    ("cache_dir", "ETTIN_CACHE_DIR", "HUGGINGFACE_HUB_CACHE"),
    ("batch_tokens", "ETTIN_BATCH_TOKENS", "MAX_BATCH_TOKENS"),
    ("pooling", "ETTIN_POOLING", "POOLING"),
    ("port", "ETTIN_PORT", "PORT"),
    ("auto_truncate", "ETTIN_AUTO_TRUNCATE", "AUTO_TRUNCATE"),
    ("default_prompt_name", "ETTIN_DEFAULT_PROMPT_NAME", "DEFAULT_PROMPT_NAME"),
    ("max_concurrent_requests", "ETTIN_MAX_CONCURRENT_REQUESTS", "MAX_CONCURRENT_REQUESTS"),
    ("max_client_batch_size", "ETTIN_MAX_CLIENT_BATCH_SIZE", "MAX_CLIENT_BATCH_SIZE"),
    ("payload_limit", "ETTIN_PAYLOAD_LIMIT", "PAYLOAD_LIMIT"),
    ("tokenization_workers", "ETTIN_TOKENIZATION_WORKERS", "TOKENIZATION_WORKERS"),
    ("api_key", "ETTIN_API_KEY", "API_KEY"),
    ("cors_allow_origin", "ETTIN_CORS_ALLOW_ORIGIN", "CORS_ALLOW_ORIGIN"),
    ("json_output", "ETTIN_JSON_OUTPUT", "JSON_OUTPUT"),
];

/// Flags that are refused, and why.
const REFUSED: [(&str, &str); 9] = [
    ("default-prompt", "name one of the model's prompts with --default-prompt-name, or put the text before yours"),
    ("dense-path", "dense layers are run as the model's modules.json says"),
    ("disable-spans", "there are no spans to disable; RUST_LOG chooses what is logged"),
    ("hf-api-token", "set HF_TOKEN: others may see command lines"),
    ("hf-token", "set HF_TOKEN: others may see command lines"),
    ("max-batch-requests", "nothing is padded: --max-batch-tokens alone bounds a batch"),
    ("otlp-endpoint", "nothing is sent anywhere: log lines carry trace_id and span_id of `traceparent`"),
    ("otlp-service-name", "nothing is sent anywhere: log lines carry trace_id and span_id of `traceparent`"),
    ("prometheus-port", "/metrics is on the same port as everything else"),
];

/// The definition of `serve` with what is not to be shown in help, manual and completions.
pub(super) fn understood(mut serve: Command) -> Command {
    for (id, ours, theirs) in VARIABLES {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        if !set(ours) && set(theirs) {
            serve = serve.mut_arg(id, |flag| flag.env(theirs));
        }
    }
    let refused = |(name, _): (&'static str, &str)| {
        Arg::new(name).long(name).hide(true).num_args(0..=1).allow_hyphen_values(false).action(ArgAction::Append)
    };
    serve
        .mut_arg("batch_tokens", |flag| flag.alias("max-batch-tokens"))
        .mut_arg("cache_dir", |flag| flag.alias("huggingface-hub-cache"))
        .args(REFUSED.map(refused))
}

/// # Errors
/// For a flag that is refused, with the reason.
pub(super) fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(serve) = matches.subcommand_matches("serve") else { return Ok(()) };
    match REFUSED.into_iter().find(|(name, _)| serve.contains_id(name)) {
        None => Ok(()),
        Some((name, reason)) => {
            let message = format!("--{name} of text-embeddings-inference means nothing here: {reason}");
            Err(command.error(ErrorKind::UnknownArgument, message))
        }
    }
}
