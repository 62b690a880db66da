//! What can be typed: every sub-command and flag, defined once.
//!
//! This layer only parses. What the words mean (which device, which format, where the text comes from)
//! is decided in [`crate::plan`]. Help, man pages and completions are generated from [`command`].

mod bench;
mod choices;
mod common;
mod extract;
mod generate;
mod serve;
mod tasks;
mod tei;
mod tools;

pub(crate) use bench::*;
pub(crate) use choices::*;
pub(crate) use common::*;
pub(crate) use extract::*;
pub(crate) use generate::*;
pub(crate) use serve::*;
pub(crate) use tasks::*;
pub(crate) use tools::*;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::EnumValueParser};

use crate::output::Format;

const ABOUT: &str = "Run Ettin and ModernBERT models: one binary, no Python";

const LONG_ABOUT: &str = "\
Run Ettin and ModernBERT encoders and decoders: fill masks, generate, embed, classify, tag, answer, \
choose, rerank and score text, on the command line, with the numbers transformers gives.

Without --model a tiny demonstration pair compiled into the binary answers, offline. It is not Ettin: \
choose a real one with --model encoder-150m (see `ettin-run models`).";

/// Lines that end in a colon are heads: sections of the manual page.
const AFTER_HELP: &str = "\
Input:
  Text arguments, --input FILE, or stdin: one text per line, JSONL records
  (recognised by a leading '{'), or one JSON array of records or texts, on one line
  or many. Put -- before a text that begins with a dash.
  A blank line is an empty text, so that line n has index n - 1; --skip-blank passes
  over it, and the others keep their index. In JSONL it is nothing, and records are
  counted. A record's unknown field is an error unless --extra says otherwise.

Output:
  A table on a terminal, JSON lines when piped; --format chooses:
    json   one array with one element per input, even for one input
    jsonl  one line per input, in input order
  An input that was cut to the length limit has \"truncated\": true as the last key
  of its object; where the result is a list, of each of the list's objects.
  A record's id is echoed as the first key, what --extra keep keeps behind it. A
  list then stands in an object: {\"id\": ..., \"result\": [...], \"truncated\": true}.
  A bad record is reported on stderr with its number or line and left out; the
  others are still answered. Data goes to stdout, everything else to stderr.

Exit status:
  0  success
  1  failure, also when some records were bad
  2  wrong usage
  3  the model is not cached, and the network must not be used

Environment:
  Flags marked [env: ...] can be set there. HF_HOME, HF_HUB_CACHE, HF_TOKEN,
  HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to Python. ETTIN_ISA forces
  an instruction set, NO_COLOR=1 leaves colours out, RUST_LOG=debug prints how
  a command was understood.

Examples:
  ettin-run fill-mask \"The capital of France is [MASK].\"
  ettin-run generate \"Once upon a time\"
  ettin-run embed -m encoder-150m -i texts.txt -f npy -o vectors.npy
  ettin-run pull decoder-150m
  ettin-run generate -m decoder-150m --offline \"The sea\"
  ettin-run bench -m encoder-17m";

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
    max_term_width = 100
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
    Extract(Extract),
    Answer(Answer),
    Choose(Choose),
    Rerank(Rerank),
    Score(Score),
    Serve(Serve),
    Tokenize(Tokenize),
    Bench(Bench),
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
        embed.mut_arg("format", |format| format.value_parser(EnumValueParser::<Format>::new()))
    })
}

/// Parses the process's arguments; errors, `--help` and `--version` come back as clap's error.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let mut command = command().mut_subcommand("serve", tei::understood);
    let matches = command.try_get_matches_from_mut(arguments)?;
    tei::check(&mut command, &matches)?;
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
            assert!(help.contains(&format!("ettin-run {name}")), "{name} --help shows no example:\n{help}");
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        let mut command = command();
        let texts = command.get_subcommands().map(|sub| sub.get_after_help());
        let texts: Vec<String> = texts.chain([command.get_after_help()]).flatten().map(ToString::to_string).collect();
        let long = |line: &&str| line.chars().count() > 84;
        let long: Vec<&str> = texts.iter().flat_map(|text| text.lines()).filter(long).collect();
        assert!(long.is_empty(), "{long:#?}");
        assert!(command.render_help().to_string().contains("Exit status"));
    }

    #[test]
    fn array_formats_belong_to_embed() {
        assert!(parse(["ettin-run", "embed", "--format", "npy", "text"]).is_ok());
        assert!(parse(["ettin-run", "tag", "--format", "npy", "text"]).is_err());
        assert!(parse(["ettin-run", "tag", "--format", "json", "text"]).is_ok());
    }

    #[test]
    fn flags_of_tei_are_understood_or_refused_by_name() {
        let serve = |flags: &[&str]| parse(["ettin-run", "serve"].iter().chain(flags));
        let Ok(Cli { command: Command::Serve(args) }) = serve(&[
            "--model-id",
            "a",
            "--max-batch-tokens",
            "5",
            "--huggingface-hub-cache",
            "d",
            "--pooling",
            "last-token",
            "--dtype",
            "float32",
            "--host",
            "127.0.0.1",
            "--auto-truncate",
            "false",
            "--max-client-batch-size",
            "3",
        ]) else {
            panic!("refused");
        };
        assert_eq!((args.models, args.server.texts.pooling), (vec!["a".to_owned()], Some(ettin::Pooling::Last)));
        assert_eq!(args.engine.batch_tokens.map(|tokens| tokens.get()), Some(5));
        assert!(!args.server.texts.auto_truncate && args.hub.cache_dir.is_some());
        for (flags, reason) in [
            (&["--prometheus-port", "9000"][..], "same port"),
            (&["--hf-token", "secret"], "HF_TOKEN"),
            (&["--disable-spans"], "RUST_LOG"),
            (&["--pooling", "splade"], "without --pooling"),
        ] {
            let error = serve(flags).map(drop).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(reason) && !message.contains("secret"), "{message}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(parse(["ettin-run", "embed", "--max-batch-tokens", "5", "a"]).is_err());
    }
}
