//! Tables for people.

use std::io::IsTerminal;

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};

use super::{Answered, Payload};

/// Longest text shown in a cell, in characters.
const SHOWN: usize = 60;

/// A table with a head and a line end; columns whose cells are all numbers are aligned to the right.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(arrangement(table.width()));
    let bold = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal();
    if !heads.is_empty() {
        table.set_header(heads.iter().map(|head| {
            let cell = Cell::new(head);
            if bold { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
    }
    for row in rows {
        table.add_row(row.iter().map(|text| printable(text)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        let numbers = |row: &Vec<String>| row.get(index).is_none_or(|cell| is_number(cell));
        if !rows.is_empty() && rows.iter().all(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// Cells wrap to the width of a terminal; some pseudo-terminals say that theirs is 0.
fn arrangement(width: Option<u16>) -> ContentArrangement {
    const NARROWEST: u16 = 40;
    match width {
        Some(width) if width >= NARROWEST => ContentArrangement::Dynamic,
        _ => ContentArrangement::Disabled,
    }
}

/// The table of a chunk of answers; `numbered` rows begin with the record's `id`, or the input's number from 0.
pub(super) fn of_answers<P: Payload>(answers: &[(usize, Answered<P>)], numbered: bool) -> String {
    if answers.is_empty() {
        return String::new();
    }
    let any_cut = answers.iter().any(|(_, answer)| answer.truncated);
    let mut heads: Vec<&str> = Vec::new();
    heads.extend(numbered.then_some("input"));
    heads.extend(P::HEADS);
    heads.extend(any_cut.then_some("truncated"));
    let mut rows = Vec::new();
    for (index, answer) in answers {
        for cells in answer.payload.rows() {
            let mut row = Vec::with_capacity(heads.len());
            if numbered {
                row.push(match &answer.id {
                    Some(id) => shortened(&id.to_string()),
                    None => index.to_string(),
                });
            }
            row.extend(cells);
            if any_cut {
                row.push(if answer.truncated { "yes" } else { "" }.into());
            }
            rows.push(row);
        }
    }
    table(&heads, &rows)
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell.trim_end_matches('%').parse::<f64>().is_ok()
}

/// A float with four digits after the point, or in scientific form where that would show none of it.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && value.is_finite() && (value.abs() < 5e-4 || value.abs() >= 1e7) {
        format!("{value:.3e}")
    } else {
        format!("{value:.4}")
    }
}

/// The beginning of a text, with an ellipsis where something is missing.
pub(crate) fn shortened(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(SHOWN).collect();
    if characters.next().is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// A text with control characters made visible: nothing in a model's output moves the cursor.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["0.5", "a"], ["10.25", "bc"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&["score", "text"], &rows), "score  text\n  0.5  a\n10.25  bc\n");
    }

    #[test]
    fn terminal_of_no_width_is_no_terminal() {
        assert!(matches!(arrangement(Some(80)), ContentArrangement::Dynamic));
        for width in [None, Some(0), Some(3)] {
            assert!(matches!(arrangement(width), ContentArrangement::Disabled));
        }
    }

    #[test]
    fn cells_are_harmless_and_short() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(shortened("abc"), "abc");
        assert_eq!(shortened(&"é".repeat(100)).chars().count(), SHOWN);
    }

    #[test]
    fn numbers_are_short_and_not_zero_unless_they_are() {
        assert_eq!(number(0.515_187_2), "0.5152");
        assert_eq!(number(0.0), "0.0000");
        assert_eq!(number(1.234e-5), "1.234e-5");
        assert_eq!(number(f64::NAN), "NaN");
    }
}
