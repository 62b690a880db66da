//! The commands around models: looking, fetching, converting, and the shell's help.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::{AdapterArgs, EngineArgs, HubArgs, ModelArgs, OutputArgs, QuietArgs};

/// Show what this machine and this binary can do, or what a model is
///
/// A doctor: version, CPU features and the kernels they select, threads, devices compiled in and present, the
/// cache folder. With --model also its configuration, the attention span of each layer, parameters, and the
/// memory its weights take in each dtype.
///
/// --check is the first thing to do with a new model: it compares every layer, in the number format and on the
/// device that were chosen, with plain f32 arithmetic on the CPU, names the first layer that differs, and ends
/// with status 1 if one does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run info
  ettin-run info --model encoder-150m
  ettin-run info --model ./my-model --format json
  ettin-run info --check --model ./my-model --dtype bf16")]
pub(crate) struct Info {
    /// Compare the model, layer by layer, with the reference path, and say whether it is computed as it should be
    #[arg(long)]
    pub(crate) check: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// List the Ettin models and which of them are cached
///
/// All 24: their names, Hub ids, dimensions and the revisions found in the cache. Never touches the network.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run models
  ettin-run models --format json")]
pub(crate) struct Models {
    /// Hugging Face cache folder [default: HF_HUB_CACHE, else HF_HOME/hub]
    #[arg(long, env = "ETTIN_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Download a model into the Hugging Face cache
///
/// What is already cached is not fetched again, and an interrupted download goes on where it stopped. Prints
/// the folder. Python finds the files there too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run pull encoder-150m
  ettin-run pull encoder-150m --revision step599525
  HF_TOKEN=… ettin-run pull my-org/my-private-model")]
pub(crate) struct Pull {
    /// Short name, name@revision or Hub id
    #[arg(required = true, value_name = "MODEL")]
    pub(crate) models: Vec<String>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    #[command(flatten)]
    pub(crate) quiet: QuietArgs,
}

/// Write a model as safetensors, in the dtype of your choice
///
/// Reads every layout the engine loads (pytorch_model.bin and shards included) and writes a folder with
/// model.safetensors and the model's other files, ready for --model, transformers and the Hub. With w8 and w4
/// the large matrices are quantised once and for all; only ettin-run reads that format (docs/FORMATS.md). With
/// --adapter the adapter is merged, and the result is a plain model (docs/ADAPTERS.md).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run convert encoder-150m --output ./encoder-150m
  ettin-run convert ./my-model --dtype bf16 --output ./my-model-bf16
  ettin-run convert decoder-150m --dtype w4 --output ./decoder-150m-w4
  ettin-run convert ./compiled --strip-prefix _orig_mod. --output ./my-model
  ettin-run convert encoder-150m --adapter ./my-lora --output ./merged")]
pub(crate) struct Convert {
    /// Model to read: a name, Hub id or local folder
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,

    /// Folder to write; must not exist yet, or be empty
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,

    /// Type of the stored numbers
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    pub(crate) dtype: StoredDtype,

    /// Take PREFIX off the names of the tensors that begin with it, such as module. of a model saved inside DDP
    ///
    /// _orig_mod., _checkpoint_wrapped_module. and _fsdp_wrapped_module., which torch puts around single layers too, go
    /// wherever they stand in a name.
    #[arg(long, value_name = "PREFIX", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) strip_prefix: Option<String>,

    #[command(flatten)]
    pub(crate) adapters: AdapterArgs,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    #[command(flatten)]
    pub(crate) quiet: QuietArgs,
}

/// `convert --dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoredDtype {
    /// 32-bit floats
    F32,
    /// 16-bit IEEE floats; refused where a value does not fit
    F16,
    /// 16-bit brain floats
    Bf16,
    /// 8-bit weights with a scale per output; the rest in f32
    W8,
    /// 4-bit weights with a scale per 32 inputs; the rest in f32
    W4,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run completions bash > ~/.local/share/bash-completion/completions/ettin-run
  ettin-run completions zsh > ~/.zfunc/_ettin-run
  ettin-run completions fish > ~/.config/fish/completions/ettin-run.fish")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: Shell,
}

/// Print the manual page, or write one page per command
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ettin-run man | man -l -
  ettin-run man --output ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Write ettin-run.1, ettin-run-embed.1, … into this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}
