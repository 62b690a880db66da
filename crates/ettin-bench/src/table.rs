//! Records as tables: Markdown in the shape of llama-bench, and CSV.

use std::fmt::Write;

use serde_json::Value;

use crate::limits::Bound;
use crate::record::{Limit, Record};

/// Columns of the Markdown table with their widths; numbers are aligned to the right.
const COLUMNS: [(&str, usize, Align); 11] = [
    ("model", 22, Align::Left),
    ("params", 9, Align::Right),
    ("device", 6, Align::Left),
    ("kernels", 8, Align::Left),
    ("dtype", 6, Align::Left),
    ("threads", 7, Align::Right),
    ("test", 12, Align::Left),
    ("t/s", 19, Align::Right),
    ("median ms", 10, Align::Right),
    ("of the limit", 16, Align::Right),
    ("peak MiB", 8, Align::Right),
];

#[derive(Clone, Copy, PartialEq)]
enum Align {
    Left,
    Right,
}

/// What stands above the rows: build, machine and date of the first record, and the heads of the columns.
pub fn markdown_head(record: &Record) -> String {
    let provenance = &record.provenance;
    let (build, machine) = (&provenance.build, &provenance.machine);
    let commit = build.commit.as_deref().unwrap_or("unknown commit");
    let mut head = format!("ettin {}, {commit}, {} build; {}\n", build.version, build.profile, provenance.date);
    let memory = machine.memory.map(|bytes| format!(", {:.0} GiB", gibibytes(bytes))).unwrap_or_default();
    let _ = writeln!(head, "{}, {} cores{memory}, {}", machine.cpu, machine.cores, machine.system);
    if let Some(figures) = &provenance.device_figures {
        let _ = writeln!(head, "{figures}");
    }
    let _ = writeln!(head, "not in the times: {}\n", super::record::EXCLUDED);
    head.push_str(&line(&COLUMNS.map(|(name, ..)| name.to_owned())));
    head.push('|');
    for (_, width, align) in COLUMNS {
        let _ = match align {
            Align::Left => write!(head, " {} |", "-".repeat(width)),
            Align::Right => write!(head, " {}: |", "-".repeat(width - 1)),
        };
    }
    head.push('\n');
    head
}

/// A record as a row of the table. `(random)` marks a model whose weights are.
pub fn markdown_row(record: &Record) -> String {
    let (model, setting) = (&record.model, &record.setting);
    let random = if model.weights == "random" { " (random)" } else { "" };
    let name = model.name.strip_prefix("ettin-").unwrap_or(&model.name);
    line(&[
        format!("{name}{random}").replace('|', "\\|"),
        parameters(model.parameters),
        setting.device.clone(),
        setting.kernels.clone(),
        setting.dtype.clone(),
        setting.threads.to_string(),
        record.test.clone(),
        record.tokens_per_second.map(|rate| with_spread(rate.mean, rate.sd)).unwrap_or_default(),
        significant(record.seconds.median * 1e3),
        record.limit.as_ref().map(share).unwrap_or_default(),
        record.memory.peak.map(|bytes| (bytes >> 20).to_string()).unwrap_or_default(),
    ])
}

fn line(cells: &[String; COLUMNS.len()]) -> String {
    let mut line = "|".to_owned();
    for (cell, (_, width, align)) in cells.iter().zip(COLUMNS) {
        let _ = match align {
            Align::Left => write!(line, " {cell:<width$} |"),
            Align::Right => write!(line, " {cell:>width$} |"),
        };
    }
    line + "\n"
}

/// Records beside what an earlier run measured, as a Markdown table; empty if no record has a counterpart.
///
/// The ratio is that of mean times. That of the rates beside it differs where times vary: a mean of rates gives short
/// repetitions more weight.
pub fn comparison(records: &[Record]) -> String {
    let mut table = String::new();
    for record in records {
        let Some(earlier) = &record.earlier else { continue };
        if table.is_empty() {
            table.push_str("| model | test | dtype | earlier t/s | now t/s | times as fast (mean time) | changed |\n");
            table.push_str("| --- | --- | --- | ---: | ---: | ---: | --- |\n");
        }
        let rate = |rate: Option<f64>| rate.map(significant).unwrap_or_default();
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {:.3} | {} |",
            record.model.name.replace('|', "\\|"),
            record.test,
            record.setting.dtype,
            rate(earlier.tokens_per_second),
            rate(record.tokens_per_second.map(|rate| rate.mean)),
            earlier.ratio,
            earlier.changed.join("; "),
        );
    }
    table
}

/// Columns of CSV: where the value lies in a record's JSON.
const FIELDS: [&str; 47] = [
    "/test",
    "/model/name",
    "/model/revision",
    "/model/objective",
    "/model/weights",
    "/model/parameters",
    "/work/batch",
    "/work/length",
    "/work/depth",
    "/work/tokens",
    "/work/padded_tokens",
    "/work/flops",
    "/work/excluded",
    "/setting/device",
    "/setting/dtype",
    "/setting/kernels",
    "/setting/threads",
    "/setting/warmup",
    "/seconds/mean",
    "/seconds/sd",
    "/seconds/min",
    "/seconds/median",
    "/seconds/max",
    "/samples",
    "/tokens_per_second/mean",
    "/tokens_per_second/sd",
    "/limit/bound",
    "/limit/share",
    "/limit/trusted",
    "/limit/tokens_per_second",
    "/limit/gflops",
    "/limit/peak_gflops",
    "/limit/bytes_per_token",
    "/limit/gigabytes_per_second",
    "/limit/peak_gigabytes_per_second",
    "/memory/peak",
    "/memory/resident",
    "/provenance/date",
    "/provenance/build/version",
    "/provenance/build/commit",
    "/provenance/build/profile",
    "/provenance/machine/cpu",
    "/provenance/machine/cores",
    "/provenance/machine/memory",
    "/provenance/machine/system",
    "/provenance/machine/load_average",
    "/earlier/ratio",
];

/// The heads of CSV: names of a record's fields, joined by points.
pub fn csv_head() -> String {
    FIELDS.map(|field| field[1..].replace('/', ".")).join(",") + "\n"
}

/// A record as a line of CSV; its repetitions are one field, joined by semicolons.
pub fn csv_row(record: &Record) -> String {
    let record = serde_json::to_value(record).unwrap_or_default();
    FIELDS.map(|field| quoted(&record.pointer(field).map(text).unwrap_or_default())).join(",") + "\n"
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(";"),
        other => other.to_string(),
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// `71 % arithmetic`; `unsure: 183 %` for a limit that cannot be trusted.
fn share(limit: &Limit) -> String {
    let percent = 100.0 * limit.share;
    match limit.bound {
        _ if !limit.trusted => format!("unsure: {percent:.0} %"),
        Bound::Arithmetic => format!("{percent:.0} % arithmetic"),
        Bound::Memory => format!("{percent:.0} % memory"),
    }
}

/// `16.8 M`, `1.03 B`.
pub(crate) fn parameters(count: u64) -> String {
    let count = count as f64;
    if count >= 1e9 { format!("{:.2} B", count / 1e9) } else { format!("{:.1} M", count / 1e6) }
}

/// Three or more significant digits, none of them without meaning.
pub(crate) fn significant(value: f64) -> String {
    match value.abs() {
        ..1.0 => format!("{value:.4}"),
        ..10.0 => format!("{value:.3}"),
        ..100.0 => format!("{value:.2}"),
        ..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A mean with its spread, with as many decimals as the mean deserves.
fn with_spread(mean: f64, spread: f64) -> String {
    let mean = significant(mean);
    let decimals = mean.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    format!("{mean} ± {spread:.decimals$}")
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{encoded, record};
    use crate::{Earlier, Workload};

    #[test]
    fn markdown() {
        let mut load = encoded("encoder-17m", 1, 1, 1.0);
        load.test = "load".into();
        load.tokens_per_second = None;
        load.limit = None;
        let mut tg = record("decoder-1b", Workload::Decode { tokens: 128, batch: 8, depth: 0 }, 123.456);
        tg.limit.as_mut().unwrap().bound = Bound::Memory;
        tg.model.weights = "files".into();
        let text = markdown_head(&load)
            + &markdown_row(&load)
            + &markdown_row(&encoded("encoder-150m", 32, 128, 98_765.4))
            + &markdown_row(&tg);
        assert_eq!(text, include_str!("samples/table.md"));
        let widths: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
    }

    #[test]
    fn csv() {
        let mut one = encoded("encoder-17m", 8, 128, 10_000.0);
        one.provenance.machine.cpu = "a \"quoted\", long name".into();
        let two = record("decoder-17m", Workload::Prefill { tokens: 512, batch: 1, depth: 0 }, 5_000.0);
        assert_eq!(csv_head() + &csv_row(&one) + &csv_row(&two), include_str!("samples/table.csv"));
    }

    #[test]
    fn every_column_of_csv_exists_in_a_record() {
        let mut record = encoded("encoder-17m", 8, 128, 10_000.0);
        record.earlier = Some(Earlier { ratio: 1.0, tokens_per_second: None, changed: Vec::new() });
        let json = serde_json::to_value(&record).unwrap();
        for field in FIELDS {
            assert!(json.pointer(field).is_some(), "{field}");
        }
    }

    #[test]
    fn a_comparison_is_a_table_of_counterparts() {
        let mut faster = encoded("encoder-17m", 8, 128, 10_000.0);
        faster.earlier = Some(Earlier {
            ratio: 1.25,
            tokens_per_second: Some(8_000.0),
            changed: vec!["dtype f32 → bf16".into(), "commit a → b".into()],
        });
        let alone = encoded("encoder-17m", 1, 128, 10_000.0);
        assert_eq!(comparison(&[faster, alone.clone()]), include_str!("samples/comparison.md"));
        assert_eq!(comparison(&[alone]), "");
    }

    #[test]
    fn a_share_above_all_that_is_possible_is_marked() {
        let mut record = encoded("encoder-17m", 8, 128, 10_000.0);
        let limit = record.limit.as_mut().unwrap();
        (limit.share, limit.trusted) = (1.83, false);
        let row = markdown_row(&record);
        assert!(row.contains("unsure: 183 % |") && !row.contains("arithmetic"), "{row}");
        assert!(csv_row(&record).contains(",arithmetic,1.83,false,"), "{}", csv_row(&record));
        let read = |record: &serde_json::Value| serde_json::from_value::<Record>(record.clone()).unwrap().limit;
        let mut json = serde_json::to_value(&record).unwrap();
        assert!(!read(&json).unwrap().trusted);
        json["limit"].as_object_mut().unwrap().remove("trusted");
        assert!(read(&json).unwrap().trusted, "a record of an earlier version");
    }

    #[test]
    fn numbers_keep_their_digits() {
        for (value, text) in
            [(0.01234, "0.0123"), (1.23456, "1.235"), (45.678, "45.68"), (123.45, "123.5"), (98_765.4, "98765")]
        {
            assert_eq!(significant(value), text);
        }
        assert_eq!(with_spread(45.678, 1.2345), "45.68 ± 1.23");
        assert_eq!((parameters(16_797_440), parameters(1_028_050_688)), ("16.8 M".into(), "1.03 B".into()));
    }
}
