//! What can be typed: every sub-command and flag, defined once.
//!
//! This layer only parses. What the words mean (which device, which format, where the text comes from)
//! is decided in [`crate::plan`]. Help, man pages and completions are generated from [`command`].

mod common;
mod tasks;
mod tools;

pub(crate) use common::*;
pub(crate) use tasks::*;
pub(crate) use tools::*;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::EnumValueParser};

use crate::output::Format;

const ABOUT: &str = "Run Ettin and ModernBERT models: one binary, no Python";

const LONG_ABOUT: &str = "\
Run Ettin and ModernBERT encoders and decoders: fill masks, generate, embed, classify, tag, answer, \
rerank and score text, on the command line, with the numbers transformers gives.

Without --model a tiny demonstration pair compiled into the binary answers, offline. It is not Ettin: \
choose a real one with --model encoder-150m (see `ettin-run models`).";

const AFTER_HELP: &str = "\
Input: TEXT arguments, --input FILE, or stdin: one text per line, or JSONL records (recognised by a leading '{').
       Empty lines are skipped. Put -- before a text that begins with a dash.
Output: a table on a terminal, JSON lines when piped; --format chooses. Data goes to stdout, the rest to stderr.
  json   one array with one element per input, even for one input
  jsonl  one line per input, in input order
  A record's `id` is echoed as the first key, and a shortened input has `\"truncated\": true` as the last. A result
  that is a list becomes {\"id\": …, \"result\": […], \"truncated\": true} when it has either, and is the bare list otherwise.
  A bad record is reported on stderr with its line number and left out; the others are still answered.

Exit status: 0 success, 1 failure (also when some records were bad), 2 wrong usage, 3 model not cached while offline.

Examples:
  ettin-run fill-mask \"The capital of France is [MASK].\"
  ettin-run generate \"Once upon a time\"
  ettin-run embed --model encoder-150m --input texts.txt --format npy --output vectors.npy
  ettin-run pull decoder-150m && ettin-run generate --offline --model decoder-150m \"The sea\"

Environment: flags with an [env: …] note can be set there. HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE mean what they mean to Python; NO_COLOR is honoured; RUST_LOG=debug prints the plan of each command.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "ettin-run",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One sub-command with what was typed after it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    FillMask(FillMask),
    Generate(Generate),
    Embed(Embed),
    Similarity(Similarity),
    Classify(Classify),
    Tag(Tag),
    Answer(Answer),
    Rerank(Rerank),
    Score(Score),
    Tokenize(Tokenize),
    Info(Info),
    Models(Models),
    Pull(Pull),
    Convert(Convert),
    Completions(Completions),
    Man(Man),
}

/// The definition from which parsing, help, man pages and completions all come.
pub(crate) fn command() -> clap::Command {
    // `--format` is one flag; only `embed` has something to say in the array formats.
    Cli::command().mut_subcommand("embed", |embed| {
        embed.mut_arg("format", |format| {
            format.value_parser(EnumValueParser::<Format>::new())
        })
    })
}

/// Parses the process's arguments; errors, `--help` and `--version` come back as clap's error.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for sub in command().get_subcommands_mut() {
            let name = sub.get_name().to_owned();
            assert!(sub.get_about().is_some(), "{name} has no description");
            let help = sub.render_long_help().to_string();
            assert!(
                help.contains(&format!("ettin-run {name}")),
                "{name} --help shows no example:\n{help}"
            );
        }
    }

    #[test]
    fn array_formats_belong_to_embed() {
        assert!(parse(["ettin-run", "embed", "--format", "npy", "text"]).is_ok());
        assert!(parse(["ettin-run", "tag", "--format", "npy", "text"]).is_err());
        assert!(parse(["ettin-run", "tag", "--format", "json", "text"]).is_ok());
    }
}
