//! `serve`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ettin::tasks::{Notices, Options, PromptChoice};
use ettin_server::error::{ErrorKind, ServeError};
use ettin_server::http::{self, AllowedOrigins, ApiKeys, ServerOptions};
use ettin_server::logs;
use ettin_server::models::{ModelSettings, ModelSource};

use crate::args::{self, AdapterArgs, HubArgs, ModelArgs, ServeArgs};
use crate::exit::{Status, Usage};
use crate::nano::Nano;
use crate::plan::{self, Model, Suited};
use crate::say::Notes;
use crate::{advice, device};

pub(super) fn run(args: args::Serve) -> anyhow::Result<Status> {
    let notes = Notes::new(args.quiet.quiet);
    let models = if args.models.iter().all(String::is_empty) {
        Nano::ALL.map(|nano| nano.name().to_owned()).into()
    } else {
        args.models
    };
    let mut sources = models.iter().map(|model| source(model, &args.hub, notes)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(name) = args.served_model_name {
        let [only] = &mut sources[..] else {
            return Err(Usage::error("--served-model-name names one model; name several with -m NAME=MODEL"));
        };
        only.name = name;
    }
    let mut settings = ModelSettings::default();
    settings.options = Options::default()
        .with_device(device::resolve(args.engine.device, notes)?)
        .with_dtype(args.engine.dtype)
        .with_kv_dtype(args.engine.kv_dtype)
        .with_notices(Notices::to(move |sentence| notes.note(sentence)));
    if let Some(tokens) = args.engine.batch_tokens {
        settings.options = settings.options.with_batch_tokens(tokens.get());
        settings.encoder.batch_tokens = tokens.get();
    }
    settings.max_queue_tokens = args.server.limits.max_queue_tokens.get();
    let json_output = args.server.json_output;
    let options = options(args.server)?;
    plan::set_threads(args.engine.threads)?;
    logs::begin(json_output);
    let answered = http::run(sources, settings, options, |endpoint| {
        notes.plain(format_args!("listening on {endpoint}"));
    })?;
    if !answered {
        notes.note("some requests were still in flight");
    }
    Ok(Status::Done)
}

fn options(args: ServeArgs) -> anyhow::Result<ServerOptions> {
    let ServeArgs { hostname, port, uds_path, texts, access, limits, tokenization_workers, json_output: _ } = args;
    let seconds = |seconds: NonZeroUsize| Duration::from_secs(seconds.get() as u64);
    let mut options = ServerOptions::default();
    options.address.set_ip(hostname.unwrap_or(options.address.ip()));
    options.address.set_port(port.unwrap_or(options.address.port()));
    options.unix_socket = uds_path;
    options.auto_truncate = texts.auto_truncate;
    options.default_prompt = texts.default_prompt_name.map_or(PromptChoice::Default, PromptChoice::Named);
    options.default_pooling = texts.pooling;
    options.keys = keys(access.api_key, access.api_key_file.as_deref())?;
    if !access.cors_allow_origin.is_empty() {
        options.origins = AllowedOrigins::new(access.cors_allow_origin).map_err(wrong)?;
    }
    options.payload_limit = limits.payload_limit.get();
    options.body_memory = limits.body_memory.get();
    options.max_connections = limits.max_connections.get();
    options.max_concurrent_requests = limits.max_concurrent_requests.map(NonZeroUsize::get);
    options.max_client_batch_size = limits.max_client_batch_size.map(NonZeroUsize::get);
    options.patience.head = seconds(limits.head_timeout);
    options.patience.body = seconds(limits.body_timeout);
    options.patience.body_rate = limits.body_rate.get();
    options.patience.idle = seconds(limits.idle_timeout);
    options.patience.write = seconds(limits.write_timeout);
    options.request_timeout = seconds(limits.request_timeout);
    options.drain_timeout = Duration::from_secs(limits.drain_timeout);
    options.tokenization_workers = tokenization_workers.get();
    Ok(options)
}

/// Keys that were typed, and those of a file: one a line.
fn keys(typed: Vec<String>, file: Option<&Path>) -> anyhow::Result<ApiKeys> {
    let mut keys = typed;
    if let Some(path) = file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the keys in {}", path.display()))?;
        let before = keys.len();
        keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        if keys.len() == before {
            // A file that was to protect and holds nothing must not let everybody in.
            return Err(Usage::error(format!("there is no key in {}", path.display())));
        }
    }
    ApiKeys::new(keys).map_err(wrong)
}

fn wrong(error: ServeError) -> anyhow::Error {
    Usage::error(error.message)
}

/// `MODEL`, or `NAME=MODEL`.
fn source(typed: &str, hub: &HubArgs, notes: Notes) -> anyhow::Result<ModelSource> {
    let (name, model) = named(typed);
    let args = ModelArgs { model: Some(model.to_owned()), adapters: AdapterArgs::default(), hub: hub.clone() };
    let model = Model::resolve(&args, Suited::Nano(Nano::Encoder), notes)?;
    let open = move || {
        model
            .open(notes)
            .map_err(|error| ServeError::new(ErrorKind::Backend, format!("{error:#}{}", advice::behind(&error))))
    };
    Ok(ModelSource::new(name, open))
}

/// The name that a model is asked for by, and the model. A folder is called by its last part.
fn named(typed: &str) -> (&str, &str) {
    match typed.split_once('=') {
        Some((name, model)) if !name.is_empty() && !name.contains(['/', '\\']) => (name, model),
        _ if Path::new(typed).exists() => {
            let last = Path::new(typed).file_name().and_then(|name| name.to_str());
            (last.unwrap_or(typed), typed)
        }
        _ => (typed, typed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_names() {
        assert_eq!(named("encoder-150m"), ("encoder-150m", "encoder-150m"));
        assert_eq!(named("embed=jhu-clsp/ettin-encoder-17m"), ("embed", "jhu-clsp/ettin-encoder-17m"));
        assert_eq!(named("./a=b"), ("./a=b", "./a=b"));
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(named(here), ("ettin-cli", here));
    }
}
