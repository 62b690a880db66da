//! Bars for a terminal.

use std::fmt::Write;

use crate::record::Record;
use crate::table::significant;

/// Tokens per second as bars, at most `width` columns wide. Reading (`enc`, `mixed`, `pp`) and generating (`tg`) have a
/// scale each: they differ by orders of magnitude.
pub fn chart(records: &[Record], width: usize) -> String {
    let timed: Vec<&Record> = records.iter().filter(|record| record.tokens_per_second.is_some()).collect();
    let (generating, reading): (Vec<&Record>, Vec<&Record>) =
        timed.into_iter().partition(|record| record.test.starts_with("tg"));
    let mut chart = String::new();
    for (title, records) in [("tokens/s, reading", reading), ("tokens/s, generating", generating)] {
        if !records.is_empty() {
            let gap = if chart.is_empty() { "" } else { "\n" };
            let _ = writeln!(chart, "{gap}{title}");
            chart.push_str(&bars(&records, width));
        }
    }
    chart
}

fn bars(records: &[&Record], width: usize) -> String {
    let rows: Vec<(String, f64)> = records
        .iter()
        .zip(labels(records))
        .map(|(record, label)| (label, record.tokens_per_second.map_or(0.0, |rate| rate.mean)))
        .collect();
    let values: Vec<String> = rows.iter().map(|(_, value)| significant(*value)).collect();
    let longest = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| text.chars().count()).max().unwrap_or(0);
    let names = longest(&mut rows.iter().map(|(name, _)| name));
    let room = width.saturating_sub(names + longest(&mut values.iter()) + 4).max(8);
    let most = rows.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = String::new();
    for ((name, value), number) in rows.iter().zip(values) {
        let _ = writeln!(chart, "  {name:<names$} {} {number}", bar(value / most, room));
    }
    chart
}

/// A bar of `share` of `room` columns, in eighths of a column.
fn bar(share: f64, room: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = ((share * (8 * room) as f64).round() as usize).max(1);
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    bar
}

/// What tells records apart: model and test, and of the setting what is not the same in all.
pub(crate) fn labels(records: &[&Record]) -> Vec<String> {
    let parts: [fn(&Record) -> String; 6] = [
        |record| record.model.name.strip_prefix("ettin-").unwrap_or(&record.model.name).to_owned(),
        |record| record.test.clone(),
        |record| record.setting.device.clone(),
        |record| record.setting.kernels.clone(),
        |record| record.setting.dtype.clone(),
        |record| format!("{}t", record.setting.threads),
    ];
    let differs = |part: &fn(&Record) -> String| records.windows(2).any(|pair| part(pair[0]) != part(pair[1]));
    let shown: Vec<_> =
        parts.iter().enumerate().filter(|(index, part)| *index < 2 || differs(part)).map(|(_, part)| part).collect();
    records.iter().map(|record| shown.iter().map(|part| part(record)).collect::<Vec<_>>().join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workload;
    use crate::samples::{encoded, record};

    #[test]
    fn bars_have_their_length() {
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(9.0 / 32.0, 4), "█▏");
        assert_eq!(bar(0.0, 4), "▏");
    }

    #[test]
    fn a_chart_of_both_kinds() {
        let mut records = vec![
            encoded("encoder-17m", 8, 128, 40_000.0),
            encoded("encoder-150m", 8, 128, 4_000.0),
            record("decoder-17m", Workload::Decode { tokens: 64, batch: 1, depth: 0 }, 400.0),
        ];
        records[1].setting.dtype = "bf16".into();
        assert_eq!(chart(&records, 72), include_str!("samples/chart.txt"));
        assert_eq!(chart(&[], 72), "");
        // However narrow the terminal says it is.
        assert!(chart(&records, 0).contains('█'));
    }
}
