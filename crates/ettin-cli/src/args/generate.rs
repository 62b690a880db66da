//! `generate`.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::Args;
use clap::builder::FalseyValueParser;

use ettin::ops::Dtype;

use super::RunArgs;
use super::common::count;

/// Continue a text with a decoder
///
/// Greedy unless the model's generation_config.json or one of the sampling flags asks otherwise. On a terminal the text
/// appears as it is made; piped, each prompt gives a record {prompt, text, tokens, finish_reason, timings}, where text
/// and tokens are the continuation only and finish_reason is eos, stop, length or context. The text begins with the
/// space that stands behind the prompt, and leaves special tokens out. Several prompts are generated together and give
/// the same texts as one by one; a beginning that they share is read once.
///
/// The settings of generation_config.json hold as in generate() of transformers, also the end-of-sequence tokens, which
/// that file alone names where it exists; flags win over it. A setting that is not implemented is refused by name.
#[derive(Debug, Args)]
#[command(after_help = "\
JSONL fields:
  prompt, id

Examples:
  ettin-run generate \"Once upon a time\"
  ettin-run generate -m decoder-400m --temperature 0.8 --top-p 0.95 \"The sea\"
  ettin-run generate -i prompts.jsonl -n 64 --stop '.' > continued.jsonl
  ettin-run generate --draft lookup -i texts-to-quote-from.txt
  ettin-run generate -m decoder-1b --draft decoder-17m \"The sea\"")]
pub(crate) struct Generate {
    /// Prompts to continue
    pub(crate) prompt: Vec<String>,

    /// Most tokens to generate for each prompt [default: that of generation_config.json, else 128]
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub(crate) max_new_tokens: Option<NonZeroUsize>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,

    /// Stop before this text appears; may be given several times. Spellings of special tokens count as text here (as in
    /// --stop '<|im_end|>'); what the prompt ends with does not
    #[arg(long, value_name = "TEXT", value_parser = non_empty)]
    pub(crate) stop: Vec<String>,

    /// Go on after the end-of-sequence token
    #[arg(long)]
    pub(crate) ignore_eos: bool,

    /// Generate as if the model had no generation_config.json, nor settings of generation in its config.json
    #[arg(long, env = "ETTIN_IGNORE_GENERATION_CONFIG", value_parser = FalseyValueParser::new())]
    pub(crate) ignore_generation_config: bool,

    /// Do not put the model's beginning-of-sequence token before the prompt
    #[arg(long)]
    pub(crate) no_bos: bool,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Sampling temperature; 0 is greedy [default: 0, or 1 with --top-p, --top-k or --min-p, unless
    /// generation_config.json says otherwise]
    #[arg(short, long, value_name = "T", value_parser = temperature)]
    pub(crate) temperature: Option<f32>,

    /// Sample from the smallest set of tokens whose probabilities reach P
    #[arg(long, value_name = "P", value_parser = top_p)]
    pub(crate) top_p: Option<f32>,

    /// Sample from the K most probable tokens
    #[arg(long, value_name = "K", value_parser = count)]
    pub(crate) top_k: Option<NonZeroUsize>,

    /// Leave out tokens less probable than P times the most probable one
    #[arg(long, value_name = "P", value_parser = min_p)]
    pub(crate) min_p: Option<f32>,

    /// Make tokens already present less likely by this factor (1 changes nothing)
    #[arg(long, value_name = "R", value_parser = positive)]
    pub(crate) repetition_penalty: Option<f32>,

    /// Seed of the sampler; without it one is drawn and printed on stderr. A text depends on the seed, its prompt and
    /// its prompt's number among all, not on when the prompt arrives or what runs beside it
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
}

/// Guessing ahead.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speculation")]
pub(crate) struct SpeculationArgs {
    /// Guess tokens ahead and let the model check them together, which is faster when guesses are cheap and often
    /// right, and never changes the text. DRAFT is lookup (how the last words went on earlier in the text: for prompts
    /// to be quoted or edited), a number format (the same model in it), or a smaller model with the same tokenizer, by
    /// any name that --model takes
    #[arg(long, env = "ETTIN_DRAFT", value_name = "DRAFT")]
    pub(crate) draft: Option<DraftChoice>,

    /// Most tokens guessed at a time; fewer are while few prove right
    #[arg(long, env = "ETTIN_DRAFT_TOKENS", default_value = "8", value_name = "N", value_parser = draft_tokens)]
    pub(crate) draft_tokens: usize,
}

/// `--draft`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DraftChoice {
    /// The text itself.
    Lookup,
    /// The same model in this format.
    Format(Dtype),
    /// Another model.
    Model(String),
}

impl FromStr for DraftChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text, text.parse()) {
            ("lookup", _) => DraftChoice::Lookup,
            (_, Ok(format)) if format != Dtype::Auto => DraftChoice::Format(format),
            _ => DraftChoice::Model(text.to_owned()),
        })
    }
}

fn draft_tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=ettin::generate::MAX_DRAFTED) => Ok(count),
        _ => Err(format!("must be between 1 and {}", ettin::generate::MAX_DRAFTED)),
    }
}

fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a number".into()),
    }
}

fn bounded(text: &str, holds: impl Fn(f32) -> bool, range: &str) -> Result<f32, String> {
    let value = number(text)?;
    if holds(value) { Ok(value) } else { Err(format!("must be {range}")) }
}

fn temperature(text: &str) -> Result<f32, String> {
    bounded(text, |t| t >= 0.0, "0 or more")
}

fn top_p(text: &str) -> Result<f32, String> {
    bounded(text, |p| p > 0.0 && p <= 1.0, "above 0 and at most 1")
}

fn min_p(text: &str) -> Result<f32, String> {
    bounded(text, |p| (0.0..=1.0).contains(&p), "between 0 and 1")
}

fn positive(text: &str) -> Result<f32, String> {
    bounded(text, |r| r > 0.0, "above 0")
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("an empty text would stop at once".into()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse;

    #[test]
    fn sampling_values_are_checked() {
        for bad in [
            ["--temperature", "-1"],
            ["--temperature", "nan"],
            ["--temperature", "inf"],
            ["--top-p", "0"],
            ["--top-p", "1.5"],
            ["--min-p", "2"],
            ["--repetition-penalty", "0"],
            ["--top-k", "0"],
            ["--max-new-tokens", "0"],
            ["--seed", "x"],
            ["--stop", ""],
            ["--draft-tokens", "0"],
            ["--draft-tokens", "65"],
        ] {
            let arguments = ["ettin-run", "generate", bad[0], bad[1], "text"];
            assert!(parse(arguments).is_err(), "{bad:?} was accepted");
        }
        assert!(parse(["ettin-run", "generate", "--temperature", "0", "text"]).is_ok());
    }

    #[test]
    fn drafts_are_told_apart() {
        assert_eq!("lookup".parse(), Ok(DraftChoice::Lookup));
        assert_eq!("f32".parse(), Ok(DraftChoice::Format(Dtype::F32)));
        for model in ["decoder-17m", "./lookup", "auto"] {
            assert_eq!(model.parse(), Ok(DraftChoice::Model(model.into())));
        }
    }
}
