//! Where texts come from: arguments, a file or stdin, as plain lines, JSONL records or a JSON array, in chunks.

mod detect;
mod elements;
mod fields;
mod lines;
mod reader;
mod records;

pub(crate) use fields::ExtraFields;
pub(crate) use reader::{ChunkSize, How, Item, Texts};
pub(crate) use records::*;

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::exit::Usage;

/// `--input-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// By the beginning: JSONL where a line begins with '{', JSON where the input is an array, else text
    Auto,
    /// One input per line, blank lines included
    Text,
    /// One JSON object per line; blank lines mean nothing
    Jsonl,
    /// One array of objects or texts, however it is laid out
    Json,
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

/// Where texts that are not arguments come from, and how they are read.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// The file that was named, `-` included.
    pub(crate) named: Option<PathBuf>,
    /// Where it is read from; `None` where stdin is a terminal that nobody asked to read.
    pub(crate) source: Option<Source>,
    /// The format.
    pub(crate) format: InputFormat,
    /// What becomes of fields beyond those of the task.
    pub(crate) extra: ExtraFields,
    /// Whether blank lines are no texts.
    pub(crate) skip_blank: bool,
}

impl Input {
    /// The source; `wanted` says what arguments would do, for the message when there is nothing to read.
    fn source(&self, wanted: &str) -> anyhow::Result<Source> {
        self.source
            .clone()
            .ok_or_else(|| Usage::error(format!("nothing to do: give {wanted}, --input FILE, or pipe text into stdin")))
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "texts that are no arguments from {source}, format {:?}", self.format),
            None => f.write_str("texts from arguments"),
        }
    }
}

/// The texts given as arguments, else those in the file or in stdin.
///
/// `wanted` names the argument for the message when there is nothing to read.
pub(crate) fn texts<T: Record>(
    arguments: Vec<String>,
    input: &Input,
    wanted: &str,
    from_text: impl Fn(String) -> T + Send + 'static,
) -> anyhow::Result<Texts<T>> {
    texts_of(arguments, input, wanted, false, from_text)
}

/// As [`texts`], for texts that go with an argument already taken.
pub(crate) fn parts<T: Record>(
    arguments: Vec<String>,
    input: &Input,
    wanted: &str,
    from_text: impl Fn(String) -> T + Send + 'static,
) -> anyhow::Result<Texts<T>> {
    texts_of(arguments, input, wanted, true, from_text)
}

fn texts_of<T: Record>(
    arguments: Vec<String>,
    input: &Input,
    wanted: &str,
    parts: bool,
    from_text: impl Fn(String) -> T + Send + 'static,
) -> anyhow::Result<Texts<T>> {
    if arguments.is_empty() {
        let source = input.source(wanted)?;
        return Ok(Texts::read(source, how(input, parts), Some(Box::new(from_text))));
    }
    refuse_both(input, wanted)?;
    Ok(Texts::Arguments(arguments.into_iter().map(from_text).collect()))
}

/// Records only: for tasks whose inputs have several parts and no arguments.
pub(crate) fn records<T: Record>(input: &Input, wanted: &str) -> anyhow::Result<Texts<T>> {
    if input.format == InputFormat::Text {
        return Err(Usage::error(format!(
            "--input-format text: plain lines need {wanted} as an argument; without one only JSON records make sense"
        )));
    }
    let source = input.source(wanted)?;
    Ok(Texts::read(source, how(input, false), None))
}

/// The texts given as arguments, else all those in the file or in stdin, as parts of one input, and their numbers where
/// they are not 0, 1, 2, ….
///
/// # Errors
/// Names the first that is no text. One less would number all that follow differently.
pub(crate) fn listed(
    arguments: Vec<String>,
    input: &Input,
    wanted: &str,
) -> anyhow::Result<(Vec<String>, Option<Vec<usize>>)> {
    if input.extra == ExtraFields::Keep {
        return Err(Usage::error(format!(
            "--extra keep: a {wanted} has no record of its own in the output to hold its fields; use --extra ignore"
        )));
    }
    let place = input.named.as_ref().map_or_else(|| "stdin".into(), |path| path.display().to_string());
    let (mut texts, mut numbers) = (Vec::new(), Vec::new());
    for chunk in parts(arguments, input, wanted, Text::new)?.chunks(ChunkSize::LIGHT)? {
        for item in chunk? {
            let record = item.record.map_err(|error| anyhow::anyhow!("{place}: {}: {error}", item.place))?;
            texts.push(record.text);
            numbers.push(item.index);
        }
    }
    let gaps = numbers.last().is_some_and(|&last| last + 1 != numbers.len());
    Ok((texts, gaps.then_some(numbers)))
}

fn how(input: &Input, parts: bool) -> How {
    How { format: input.format, extra: input.extra, skip_blank: input.skip_blank, parts }
}

/// Texts come from one place.
fn refuse_both(input: &Input, given: &str) -> anyhow::Result<()> {
    match &input.named {
        Some(path) => Err(Usage::error(format!("--input {} and {given} as arguments: choose one", path.display()))),
        None => Ok(()),
    }
}

/// Where one input stood, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The number of the text among the arguments, from 1.
    Argument(usize),
    /// The line of the file or of stdin, from 1.
    Line(u64),
    /// An element of a JSON array.
    Record {
        /// Its number in the array, from 1.
        number: u64,
        /// The line that it begins in, from 1.
        line: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Argument(number) => write!(f, "argument {number}"),
            Place::Line(number) => write!(f, "line {number}"),
            Place::Record { number, line } => write!(f, "record {number} (line {line})"),
        }
    }
}
