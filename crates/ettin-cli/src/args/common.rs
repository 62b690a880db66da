//! Flags that several commands share.

use std::num::{IntErrorKind, NonZeroUsize};
use std::path::PathBuf;

use clap::builder::{FalseyValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use ettin::{DeviceChoice, KvFormat, MAX_THREADS, ops::Dtype};

use crate::input::{ExtraFields, InputFormat};
use crate::output::Format;

/// Where model files come from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct HubArgs {
    /// Git revision of the model repository: a branch, tag or commit, such as step599525 or main
    #[arg(long, env = "ETTIN_REVISION", value_name = "REV")]
    pub(crate) revision: Option<String>,

    /// Never touch the network: use local folders and the cache only (also HF_HUB_OFFLINE=1)
    #[arg(long, env = "ETTIN_OFFLINE", value_parser = FalseyValueParser::new())]
    pub(crate) offline: bool,

    /// Hugging Face cache folder [default: HF_HUB_CACHE, else HF_HOME/hub]
    #[arg(long, env = "ETTIN_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

/// Which model, and where its files come from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Model: a short name (encoder-150m, name@revision), a Hub id, a local folder, a .safetensors file
    /// beside its config, or nano-encoder / nano-decoder [default: the embedded nano pair]
    #[arg(short, long, env = "ETTIN_MODEL", value_name = "MODEL")]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    pub(crate) adapters: AdapterArgs,

    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// What goes on top of a model.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct AdapterArgs {
    /// Adapter (LoRA) on top of the model: a folder with adapter_config.json and adapter_model.safetensors, as PEFT
    /// saves it, or a Hub id (organisation/name@revision); given more than once, adapters add up
    #[arg(long = "adapter", env = "ETTIN_ADAPTER", value_name = "ADAPTER")]
    pub(crate) names: Vec<String>,
}

/// How the model computes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Computation")]
pub(crate) struct EngineArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, env = "ETTIN_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: DeviceChoice,

    /// Number format: auto is w8 or w4 where the weights are stored so, else f32, on every machine
    #[arg(
        long,
        env = "ETTIN_DTYPE",
        default_value = "auto",
        value_name = "DTYPE",
        value_parser = dtypes()
    )]
    pub(crate) dtype: Dtype,

    /// How attention keeps keys and values: f32, bf16 or int8 [default: bf16 with bf16, int8, w8 and w4, else f32]
    #[arg(long, env = "ETTIN_KV_DTYPE", value_name = "DTYPE")]
    pub(crate) kv_dtype: Option<KvFormat>,

    /// Threads to compute with [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long, env = "ETTIN_THREADS", value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Most tokens computed in one batch; memory grows with it, results do not change
    #[arg(long, env = "ETTIN_BATCH_TOKENS", value_name = "N", value_parser = count)]
    pub(crate) batch_tokens: Option<NonZeroUsize>,
}

/// What happens to texts longer than the model can read.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Computation")]
pub(crate) struct LengthArgs {
    /// Most tokens of one input, special tokens included [default: the limit of the model's files]
    #[arg(long, env = "ETTIN_MAX_LENGTH", value_name = "N", value_parser = count)]
    pub(crate) max_length: Option<NonZeroUsize>,

    /// What to do with a longer input: refuse it, or cut its right or left end, or the one that the model's files name,
    /// and say so
    #[arg(long, env = "ETTIN_TRUNCATE", default_value = "error", value_name = "SIDE")]
    pub(crate) truncate: TruncateSide,
}

/// `--truncate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TruncateSide {
    /// Refuse the input
    Error,
    /// Drop tokens on the side that the model's files name: its end, unless they say otherwise
    Model,
    /// Drop tokens from its end
    Right,
    /// Drop tokens from its beginning
    Left,
}

/// Where texts are read from when they are not arguments.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Read inputs from FILE, or from stdin with - [default: stdin when no text is given]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// How to read it: text is one input per line, jsonl one record per line, json an array of records or
    /// texts; auto tells them by the beginning: '{' is jsonl, an array is json
    #[arg(long, env = "ETTIN_INPUT_FORMAT", default_value = "auto", value_name = "FORMAT")]
    pub(crate) input_format: InputFormat,

    /// Pass over lines of nothing but white space, which else are empty texts; the others keep their
    /// index, except as rows of an array
    #[arg(long)]
    pub(crate) skip_blank: bool,

    /// What to do with a record's fields beyond those listed below: refuse the record, ignore them, or keep
    /// them in the output
    #[arg(long, default_value = "error", value_name = "RULE")]
    pub(crate) extra: ExtraFields,
}

/// How results are written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Output format [default: table on a terminal, else jsonl]
    #[arg(
        short,
        long,
        env = "ETTIN_FORMAT",
        value_name = "FORMAT",
        value_parser = text_formats()
    )]
    pub(crate) format: Option<Format>,

    /// Write to FILE instead of stdout; the file appears when it is complete
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) quiet: QuietArgs,
}

/// `--quiet` alone.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct QuietArgs {
    /// No notes, progress or timings on stderr; errors still are
    #[arg(short, long, env = "ETTIN_QUIET", value_parser = FalseyValueParser::new())]
    pub(crate) quiet: bool,
}

/// What all model-running commands take.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) length: LengthArgs,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(super) fn dtypes() -> impl TypedValueParser<Value = Dtype> {
    // Python's names are understood, too.
    let value = |(_, name): &(Dtype, &'static str)| match *name {
        "f32" => PossibleValue::new("f32").alias("float32"),
        "bf16" => PossibleValue::new("bf16").alias("bfloat16"),
        "f16" => PossibleValue::new("f16").alias("float16"),
        name => PossibleValue::new(name),
    };
    PossibleValuesParser::new(Dtype::ALL.iter().map(value)).try_map(|name| match name.as_str() {
        "float32" => Ok(Dtype::F32),
        "bfloat16" => "bf16".parse(),
        "float16" => "f16".parse(),
        name => name.parse::<Dtype>(),
    })
}

/// A number of things of which there must be some.
pub(super) fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse::<NonZeroUsize>().map_err(|error| match error.kind() {
        IntErrorKind::Zero => "must be 1 or more".into(),
        _ => error.to_string(),
    })
}

/// As many as a [`Team`](ettin::Team) may have.
pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(count) if count.get() <= MAX_THREADS => Ok(count),
        _ => Err(format!("must be between 1 and {MAX_THREADS}")),
    }
}

fn text_formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::TEXT.iter().filter_map(ValueEnum::to_possible_value))
        .try_map(|name| Format::from_str(&name, false))
}
