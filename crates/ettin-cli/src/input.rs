//! Where texts come from: arguments, a file or stdin, as plain lines or JSONL records, in chunks.

mod lines;
mod reader;
mod records;

pub(crate) use reader::{ChunkSize, Item, Texts};
pub(crate) use records::*;

use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::InputArgs;
use crate::exit::Usage;

/// `--input-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// JSONL when the first line begins with '{', else text
    Auto,
    /// One input per line
    Text,
    /// One JSON object per line
    Jsonl,
}

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard input.
    Stdin,
    /// This file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Stdin => f.write_str("stdin"),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

impl Source {
    /// The file or stdin that was asked for, or stdin when something is piped into it.
    ///
    /// `wanted` says what arguments would do, for the message when there is nothing to read.
    pub(crate) fn resolve(input: &InputArgs, wanted: &str) -> anyhow::Result<Source> {
        match &input.input {
            Some(path) if path.as_os_str() == "-" => Ok(Source::Stdin),
            Some(path) => Ok(Source::File(path.clone())),
            None if std::io::stdin().is_terminal() => {
                Err(Usage::error(format!("nothing to do: give {wanted}, --input FILE, or pipe text into stdin")))
            }
            None => Ok(Source::Stdin),
        }
    }
}

/// The texts given as arguments, else the lines of the file or of stdin.
///
/// `wanted` names the argument for the message when there is nothing to read.
pub(crate) fn texts<T: Record>(
    arguments: Vec<String>,
    input: &InputArgs,
    wanted: &str,
    from_text: impl Fn(String) -> T + Send + 'static,
) -> anyhow::Result<Texts<T>> {
    if arguments.is_empty() {
        let source = Source::resolve(input, wanted)?;
        return Ok(Texts::lines(source, input.input_format, Some(Box::new(from_text))));
    }
    refuse_both(input, wanted)?;
    Ok(Texts::Arguments(arguments.into_iter().map(from_text).collect()))
}

/// JSONL records only: for tasks whose inputs have several parts and no arguments.
pub(crate) fn records<T: Record>(input: &InputArgs, wanted: &str) -> anyhow::Result<Texts<T>> {
    if input.input_format == InputFormat::Text {
        return Err(Usage::error(format!(
            "--input-format text: plain lines need {wanted} as an argument; without one only JSONL records make sense"
        )));
    }
    let source = Source::resolve(input, wanted)?;
    Ok(Texts::lines(source, InputFormat::Jsonl, None))
}

/// The lines of the file or of stdin, to go with an argument: always plain text.
pub(crate) fn plain_source(input: &InputArgs, wanted: &str) -> anyhow::Result<Source> {
    if input.input_format == InputFormat::Jsonl {
        return Err(Usage::error("--input-format jsonl: records hold all parts of an input; leave the arguments out"));
    }
    Source::resolve(input, wanted)
}

/// The texts given as arguments, else all lines of the file or of stdin as texts of one input.
pub(crate) fn arguments_or_lines(
    arguments: Vec<String>,
    input: &InputArgs,
    wanted: &str,
) -> anyhow::Result<Vec<String>> {
    if arguments.is_empty() {
        return reader::collect_lines(&plain_source(input, wanted)?);
    }
    refuse_both(input, wanted)?;
    Ok(arguments)
}

/// Texts come from one place.
pub(crate) fn refuse_both(input: &InputArgs, given: &str) -> anyhow::Result<()> {
    match &input.input {
        Some(path) => Err(Usage::error(format!("--input {} and {given} as arguments: choose one", path.display()))),
        None => Ok(()),
    }
}

/// Where one input stood, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The so-manieth text among the arguments, from 1.
    Argument(usize),
    /// The line of the file or of stdin, from 1.
    Line(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Argument(number) => write!(f, "argument {number}"),
            Place::Line(number) => write!(f, "line {number}"),
        }
    }
}
