//! Records in the format asked for, each as soon as it is there.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use ettin_bench::{Record, comparison, csv_head, csv_row, markdown_head, markdown_row};

use crate::args::BenchFormat;
use crate::output::{JsonArray, Sink, line, written};

pub(super) struct Writer {
    sink: Sink,
    format: BenchFormat,
    array: JsonArray,
    started: bool,
}

impl Writer {
    /// To a file or stdout, in the format asked for, else a table for a person and JSON lines for a program.
    pub(super) fn open(format: Option<BenchFormat>, path: Option<&Path>) -> anyhow::Result<Self> {
        let to_a_person = path.is_none() && io::stdout().is_terminal();
        let format = format.unwrap_or(if to_a_person { BenchFormat::Md } else { BenchFormat::Jsonl });
        Ok(Self { sink: Sink::open(path)?, format, array: JsonArray::default(), started: false })
    }

    /// Writes a record and lets it be seen.
    pub(super) fn record(&mut self, record: &Record) -> anyhow::Result<()> {
        let first = !std::mem::replace(&mut self.started, true);
        let head = |head: fn(&Record) -> String| if first { head(record) } else { String::new() };
        let sink = &mut self.sink;
        written(match self.format {
            BenchFormat::Md => sink.write_all((head(markdown_head) + &markdown_row(record)).as_bytes()),
            BenchFormat::Csv => sink.write_all((head(|_| csv_head()) + &csv_row(record)).as_bytes()),
            BenchFormat::Json => self.array.push(sink, record),
            BenchFormat::Jsonl => line(sink, record),
        })?;
        written(self.sink.flush())
    }

    /// Ends the output; a table is followed by the comparison with an earlier run.
    pub(super) fn finish(mut self, records: &[Record]) -> anyhow::Result<()> {
        match self.format {
            BenchFormat::Json => written(self.array.finish(&mut self.sink))?,
            BenchFormat::Md => {
                let comparison = comparison(records);
                if !comparison.is_empty() {
                    written(write!(self.sink, "\n{comparison}"))?;
                }
            }
            BenchFormat::Csv | BenchFormat::Jsonl => {}
        }
        self.sink.finish()
    }
}
