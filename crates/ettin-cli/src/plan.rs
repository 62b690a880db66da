//! What will happen: the typed words resolved against the environment, the terminal and the machine.
//!
//! A plan is made before anything is read, loaded or written, and can be printed (`RUST_LOG=debug`).

use std::fmt;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::Device;
use ettin::DeviceChoice;
use ettin::files::ModelFiles;
use ettin::hub::HubOptions;
use ettin::tasks::{Notices, Options};
use ettin::tokenizer::Truncate;

use crate::args::{
    AdapterArgs, EngineArgs, HubArgs, InputArgs, LengthArgs, ModelArgs, OutputArgs, RunArgs, TruncateSide,
};
use crate::device;
use crate::exit::Usage;
use crate::input::{ChunkSize, ExtraFields, Input, Source};
use crate::nano::Nano;
use crate::output::{Format, Sink};
use crate::progress;
use crate::say::{self, Notes};

/// The embedded model that suits a command, if any does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Suited {
    /// This one.
    Nano(Nano),
    /// The embedded models lack the head; this says which.
    NeedsHead(&'static str),
}

/// Which model is used.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    base: BaseModel,
    adapters: AdapterArgs,
    /// Where adapters are looked for.
    adapter_hub: Box<HubOptions>,
}

/// The model itself, without what goes on top.
#[derive(Debug, Clone)]
enum BaseModel {
    /// An embedded one.
    Nano {
        /// Which.
        nano: Nano,
        /// Whether because none was chosen.
        by_default: bool,
    },
    /// One of this name.
    Named {
        /// As typed.
        name: String,
        /// `--revision`.
        revision: Option<String>,
        /// Where to look.
        hub: Box<HubOptions>,
    },
}

impl Model {
    /// The model asked for, else the embedded one that suits.
    pub(crate) fn resolve(args: &ModelArgs, suited: Suited, notes: Notes) -> anyhow::Result<Model> {
        let name = args.model.as_deref().filter(|name| !name.is_empty());
        let nano = match (name, suited) {
            (None, Suited::Nano(nano)) => Some(nano),
            (None, Suited::NeedsHead(head)) => {
                return Err(Usage::error(format!(
                    "choose a model with --model: this needs one with {head}, which the embedded ones lack"
                )));
            }
            (Some(name), _) if Path::new(name).exists() => None,
            (Some(name), Suited::Nano(nano)) => Nano::named(name, nano),
            (Some(name), Suited::NeedsHead(_)) => Nano::named(name, Nano::Encoder),
        };
        let of = |base| Model {
            base,
            adapters: args.adapters.clone(),
            adapter_hub: Box::new(hub_options(&args.hub, notes)),
        };
        match (nano, name) {
            (Some(nano), _) => {
                if let Some(revision) = &args.hub.revision {
                    return Err(Usage::error(format!(
                        "--revision {revision}: the embedded models have no revisions; choose a model with --model"
                    )));
                }
                Ok(of(BaseModel::Nano { nano, by_default: name.is_none() }))
            }
            (None, name) => Ok(of(BaseModel::Named {
                name: name.unwrap_or_default().to_owned(),
                revision: args.hub.revision.clone(),
                hub: Box::new(hub_options(&args.hub, notes)),
            })),
        }
    }

    /// Its files; nothing is downloaded until they are asked for.
    pub(crate) fn open(&self, notes: Notes) -> anyhow::Result<ModelFiles> {
        let files = match &self.base {
            BaseModel::Nano { nano, by_default } => {
                if *by_default {
                    notes.note(format_args!(
                        "using the embedded {}, a small demonstration model, not Ettin; choose one with --model (see \
                         `ettin-run models`)",
                        nano.name()
                    ));
                }
                nano.files()
            }
            BaseModel::Named { name, revision, hub } => ettin::hub::resolve(name, revision.as_deref(), hub)?,
        };
        with_adapters(files, &self.adapters, &self.adapter_hub)
    }
}

/// A model with adapters on top, each known by what was typed.
pub(crate) fn with_adapters(files: ModelFiles, args: &AdapterArgs, hub: &HubOptions) -> anyhow::Result<ModelFiles> {
    args.names.iter().try_fold(files, |files, name| {
        if Path::new(name).is_file() {
            return Err(Usage::error(format!(
                "--adapter {name}: it is no folder; name the one with adapter_config.json"
            )));
        }
        // A revision that is given apart is the model's.
        let adapter = ettin::hub::resolve(name, None, hub).with_context(|| format!("--adapter {name}"))?;
        Ok(files.with_adapter(name, adapter)?)
    })
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            BaseModel::Nano { nano, by_default } => {
                let why = if *by_default { ", by default" } else { "" };
                write!(f, "{} (embedded{why})", nano.name())?;
            }
            BaseModel::Named { name, revision, hub } => {
                write!(f, "{name}")?;
                if let Some(revision) = revision {
                    write!(f, " at {revision}")?;
                }
                let offline = if hub.offline { ", offline" } else { "" };
                write!(f, " (cache {}{offline})", hub.cache.display())?;
            }
        }
        self.adapters.names.iter().try_for_each(|name| write!(f, " with the adapter {name}"))
    }
}

/// The environment's word on the Hub and its cache, with the flags' on top.
pub(crate) fn hub_options(args: &HubArgs, notes: Notes) -> HubOptions {
    let mut options = HubOptions::from_env();
    options.offline |= args.offline;
    if let Some(cache) = &args.cache_dir {
        options.cache = cache.clone();
    }
    options.progress = progress::downloads(notes);
    options
}

/// A command that runs a model on inputs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) model: Model,
    pub(crate) options: Options,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) input: Input,
    pub(crate) output: Output,
}

/// Where texts that are not arguments come from: the file or stdin that was asked for, else stdin when something is
/// piped into it.
pub(crate) fn input(args: &InputArgs) -> Input {
    let source = match &args.input {
        Some(path) if path.as_os_str() == "-" => Some(Source::Stdin),
        Some(path) => Some(Source::File(path.clone())),
        None => (!std::io::stdin().is_terminal()).then_some(Source::Stdin),
    };
    Input {
        named: args.input.clone(),
        source,
        format: args.input_format,
        extra: args.extra,
        skip_blank: args.skip_blank,
    }
}

/// Refuses to keep fields where the output has no room for them, before anything is loaded.
pub(crate) fn check_extra(extra: ExtraFields, format: Format) -> anyhow::Result<()> {
    match (extra, format) {
        (ExtraFields::Keep, Format::Table | Format::Npy | Format::Npz | Format::Safetensors) => Err(Usage::error(
            "--extra keep: only JSON has room for the fields of the records; add --format jsonl or json",
        )),
        _ => Ok(()),
    }
}

/// Where results go.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) path: Option<PathBuf>,
    pub(crate) notes: Notes,
}

impl Output {
    /// From the flags and the terminal.
    pub(crate) fn resolve(args: &OutputArgs) -> Output {
        Output { format: format(args), path: args.output.clone(), notes: Notes::new(args.quiet.quiet) }
    }

    /// Whether results appear on the terminal as they come.
    pub(crate) fn on_terminal(&self) -> bool {
        self.path.is_none() && std::io::stdout().is_terminal()
    }

    /// Opens it.
    pub(crate) fn open(&self) -> anyhow::Result<Sink> {
        Sink::open(self.path.as_deref())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_deref().unwrap_or(Path::new("stdout"));
        write!(f, "{:?} to {}", self.format, path.display())
    }
}

/// What a command has once its files are open.
pub(crate) struct Job {
    /// The model's files.
    pub(crate) files: ModelFiles,
    /// Where results go.
    pub(crate) sink: Sink,
}

impl Plan {
    /// Resolves what was typed.
    pub(crate) fn new(args: &RunArgs, suited: Suited) -> anyhow::Result<Plan> {
        let output = Output::resolve(&args.output);
        check_extra(args.input.extra, output.format)?;
        let plan = Plan {
            model: Model::resolve(&args.model, suited, output.notes)?,
            options: options(&args.engine, &args.length, output.notes)?,
            threads: args.engine.threads,
            input: input(&args.input),
            output,
        };
        say::plan(&plan);
        Ok(plan)
    }

    /// Sets the threads up and opens what is read and written.
    pub(crate) fn open(&self) -> anyhow::Result<Job> {
        set_threads(self.threads)?;
        Ok(Job { sink: self.output.open()?, files: self.model.open(self.output.notes)? })
    }

    /// Another model for the same work, from where the first one may come.
    pub(crate) fn second_model(&self, name: &str, hub: &HubArgs, suited: Suited) -> anyhow::Result<ModelFiles> {
        // A revision is that of the first model; the second one's is part of its name. So are adapters.
        let hub = HubArgs { revision: None, ..hub.clone() };
        let args = ModelArgs { model: Some(name.to_owned()), adapters: AdapterArgs::default(), hub };
        Model::resolve(&args, suited, self.output.notes)?.open(self.output.notes)
    }

    /// How much is answered at a time.
    pub(crate) fn chunk_size(&self) -> ChunkSize {
        ChunkSize::for_batches(self.options.batch_tokens)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { device, dtype, kv_dtype, max_length, truncate, batch_tokens, .. } = &self.options;
        write!(f, "model {}; ", self.model)?;
        write!(f, "device {}, dtype {dtype}, ", device_name(device))?;
        if let Some(kv_dtype) = kv_dtype {
            write!(f, "keys and values in {kv_dtype}, ")?;
        }
        match self.threads {
            Some(threads) => write!(f, "{threads} threads; ")?,
            None => write!(f, "default threads; ")?,
        }
        match max_length {
            Some(length) => write!(f, "at most {length} tokens per input")?,
            None => write!(f, "the model's length limit")?,
        }
        write!(f, " (longer: {truncate:?}), {batch_tokens} per batch; ")?;
        write!(f, "{}; {}", self.input, self.output)
    }
}

/// The format asked for, else a table for a person and JSON lines for a program.
fn format(output: &OutputArgs) -> Format {
    output.format.unwrap_or_else(|| {
        if output.output.is_none() && std::io::stdout().is_terminal() { Format::Table } else { Format::Jsonl }
    })
}

/// How tasks are loaded and run.
fn options(engine: &EngineArgs, length: &LengthArgs, notes: Notes) -> anyhow::Result<Options> {
    let truncate = match length.truncate {
        TruncateSide::Error => Truncate::Error,
        TruncateSide::Model => Truncate::Model,
        TruncateSide::Right => Truncate::Right,
        TruncateSide::Left => Truncate::Left,
    };
    let options = Options::default()
        .with_device(device::resolve(engine.device, notes)?)
        .with_dtype(engine.dtype)
        .with_kv_dtype(engine.kv_dtype)
        .with_max_length(length.max_length.map(NonZeroUsize::get))
        .with_truncate(truncate)
        .with_notices(Notices::to(move |sentence| notes.note(sentence)));
    Ok(match engine.batch_tokens {
        Some(tokens) => options.with_batch_tokens(tokens.get()),
        None => options,
    })
}

/// Sizes the pool that all computing threads come from; without a number rayon follows `RAYON_NUM_THREADS`.
pub(crate) fn set_threads(threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
    let Some(threads) = threads else {
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|index| format!("ettin-compute-{index}"))
        .build_global()
        .with_context(|| format!("cannot start {threads} threads"))
}

/// What `--device` would call it.
pub(crate) fn device_name(device: &Device) -> String {
    use candle_core::DeviceLocation;
    match device.location() {
        DeviceLocation::Cpu => DeviceChoice::Cpu,
        DeviceLocation::Cuda { gpu_id } => DeviceChoice::Cuda(gpu_id),
        DeviceLocation::Metal { .. } => DeviceChoice::Metal,
    }
    .to_string()
}
