//! `serve`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ettin::tasks::{Notices, Options};
use ettin_server::error::{ErrorKind, ServeError};
use ettin_server::http::{self, ServerOptions};
use ettin_server::logs;
use ettin_server::models::{ModelSettings, ModelSource};

use crate::args::{self, AdapterArgs, HubArgs, ModelArgs};
use crate::exit::Status;
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
    let sources = models.iter().map(|model| source(model, &args.hub, notes)).collect::<anyhow::Result<Vec<_>>>()?;
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
    settings.max_queue_tokens = args.server.max_queue_tokens.get();
    let seconds = |seconds: usize| Duration::from_secs(seconds as u64);
    let mut options = ServerOptions::default();
    options.address = SocketAddr::new(args.server.hostname, args.server.port);
    options.payload_limit = args.server.payload_limit.get();
    options.request_timeout = seconds(args.server.request_timeout.get());
    options.drain_timeout = Duration::from_secs(args.server.drain_timeout);
    options.tokenization_workers = args.server.tokenization_workers.get();
    options.auto_truncate = args.server.auto_truncate;
    plan::set_threads(args.engine.threads)?;
    logs::begin(args.server.json_output);
    let answered = http::run(sources, settings, options, |address| {
        notes.plain(format_args!("listening on http://{address}"));
    })?;
    if !answered {
        notes.note("some requests were still in flight");
    }
    Ok(Status::Done)
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
