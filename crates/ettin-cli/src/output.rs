//! How results are written: the formats, the rules of the JSON contract, and where the bytes go.

mod arrays;
mod csr;
mod json;
mod sink;
mod table;

pub(crate) use arrays::{ArrayRow, ArrayWriter};
pub(crate) use csr::CsrWriter;
pub(crate) use json::{Answered, Cut, JsonArray, line};
pub(crate) use sink::{Sink, written};
pub(crate) use table::{number, shortened, table};

use std::io::Write;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table to read
    Table,
    /// One JSON array
    Json,
    /// One JSON document per line
    Jsonl,
    /// A NumPy array
    Npy,
    /// A CSR matrix of sparse vectors, as scipy.sparse.save_npz writes it
    Npz,
    /// A safetensors file with the tensor `embeddings`, of sparse vectors the parts of a CSR matrix
    Safetensors,
}

impl Format {
    /// The formats every command writes.
    pub(crate) const TEXT: [Format; 3] = [Format::Table, Format::Json, Format::Jsonl];
}

/// A kind of result.
pub(crate) trait Payload: Serialize {
    /// Whether it serialises to a list, which has no room for keys of its own.
    const LIST: bool;

    /// The keys that its output has beside the record's own; for a list, [`LIST_KEYS`].
    const KEYS: &'static [&'static str];

    /// Column heads of its table.
    const HEADS: &'static [&'static str];

    /// The rows of its table.
    fn rows(&self) -> Vec<Vec<String>>;

    /// Of a list: itself with each entry marked as [`Cut`], so that it stays a list where its input was cut.
    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }
}

/// The keys that a list gets beside what is kept of its record.
pub(crate) const LIST_KEYS: &[&str] = &["result", "truncated"];

/// Writes the results of one command in one of the text formats.
pub(crate) struct Printer {
    sink: Sink,
    style: Style,
}

enum Style {
    /// Whether rows are numbered, because there may be several inputs.
    Table {
        numbered: bool,
    },
    Json(JsonArray),
    Jsonl,
}

impl Printer {
    /// A printer for a text format; the array formats have [`ArrayWriter`].
    pub(crate) fn new(sink: Sink, format: Format, numbered: bool) -> Self {
        let style = match format {
            Format::Table => Style::Table { numbered },
            Format::Json => Style::Json(JsonArray::default()),
            Format::Jsonl | Format::Npy | Format::Npz | Format::Safetensors => Style::Jsonl,
        };
        Printer { sink, style }
    }

    /// Writes the results of a chunk, each with its input's index, and lets them be seen.
    pub(crate) fn print<P: Payload>(&mut self, answers: &[(usize, Answered<P>)]) -> anyhow::Result<()> {
        written(self.write(answers))
    }

    fn write<P: Payload>(&mut self, answers: &[(usize, Answered<P>)]) -> std::io::Result<()> {
        match &mut self.style {
            Style::Table { numbered } => {
                let text = table::of_answers(answers, *numbered);
                self.sink.write_all(text.as_bytes())?;
            }
            Style::Json(array) => {
                for (_, answer) in answers {
                    array.push(&mut self.sink, answer)?;
                }
            }
            Style::Jsonl => {
                for (_, answer) in answers {
                    line(&mut self.sink, answer)?;
                }
            }
        }
        self.sink.flush()
    }

    /// Ends the output. A file gets its name only here.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        if let Style::Json(array) = self.style {
            written(array.finish(&mut self.sink))?;
        }
        self.sink.finish()
    }
}
