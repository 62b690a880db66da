//! Whether what begins with '[' is a JSON array or a text.
//!
//! The tokens of the beginning are looked at, and the first of these rules that says something decides:
//!
//! 1. `{` with a key behind it (`[{"`, `[{name:`) is JSON: no sentence begins so.
//! 2. Where the array closes, what follows decides: JSON when nothing but white space does, or another line that is an
//!    array or an object, whose reader then names it; else text: `[1] A footnote`, `["a", "b"] is a list`.
//! 3. What no array has in that place makes it a text: `[MASK] is`, `["Never," she said`, `["Never", she said`. But
//!    where the first value is a text, a second text without a comma, two commas, or two good values before are an
//!    array with a fault.
//! 4. An array that runs over line ends is JSON at the comma behind its second value, one in a single line where it is
//!    still good after [`ENOUGH`] bytes.
//! 5. Where the input ends, it is an array cut off when its first value is a text or two of its values are good; else
//!    text.
//!
//! A line end inside a text is a fault of JSON, and may be the quoted beginning of a text: there rules 2 and 4 alone
//! speak for an array.

use std::io::{self, BufRead};

use serde::de::IgnoredAny;

use super::super::lines::LONGEST;
use super::Ahead;

/// Bytes of good JSON that leave no doubt, and the most that are looked at behind a line end within a text.
const ENOUGH: usize = 64 << 10;

/// Longer words are no numbers that anybody writes.
const LONGEST_WORD: usize = 1024;

/// What stood last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Bracket,
    Comma,
    Text,
    Value,
}

/// How a quoted text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In its line.
    Line,
    /// In a later one.
    Later,
    /// Not within what is looked at.
    Never,
}

impl<R: BufRead> Ahead<'_, R> {
    /// Whether what follows a '[' makes it the beginning of a JSON array.
    pub(super) fn is_array(&mut self) -> io::Result<bool> {
        self.passed_line = false;
        let (mut depth, mut values, mut last) = (1_usize, 0_usize, Last::Bracket);
        // Whether the first value is a text, and whether a text had a line end in it.
        let (mut quoted, mut torn) = (false, false);
        let mut byte = self.solid()?;
        loop {
            let array = quoted && !torn;
            let value_due = matches!(last, Last::Bracket | Last::Comma);
            let mut behind = None;
            match byte {
                None => return Ok(array || (values >= 2 && !torn)),
                Some(b'"') if !value_due => return Ok(array && last == Last::Text),
                Some(b'"') => {
                    match self.string()? {
                        End::Line => {}
                        _ if array => return Ok(true),
                        End::Later => torn = true,
                        End::Never => return Ok(false),
                    }
                    quoted |= values == 0;
                    values += 1;
                    last = Last::Text;
                }
                Some(b'{') if value_due || array => match self.is_object()? {
                    Some(object) => return Ok(object),
                    None => {
                        values += 1;
                        last = Last::Value;
                    }
                },
                Some(b'[') if value_due => {
                    depth += 1;
                    last = Last::Bracket;
                }
                Some(b']') if depth == 1 => return self.is_all(array),
                Some(b']') => {
                    depth -= 1;
                    values += 1;
                    last = Last::Value;
                }
                Some(b',') => {
                    let doubled = last == Last::Comma;
                    if (array && doubled) || (values >= 2 && self.passed_line) {
                        return Ok(true);
                    }
                    last = Last::Comma;
                }
                Some(first) if value_due => {
                    let (good, next) = self.word(first)?;
                    if !good {
                        return Ok(array && values >= 2);
                    }
                    values += 1;
                    last = Last::Value;
                    behind = Some(next);
                }
                Some(_) => return Ok(false),
            }
            if self.taken.len() > ENOUGH && (values >= 2 || last == Last::Bracket) {
                return Ok(true);
            }
            byte = match behind {
                Some(Some(next)) if !self.is_space(next) => Some(next),
                Some(None) => None,
                _ => self.solid()?,
            };
        }
    }

    /// Whether nothing follows the array, or what its reader must name.
    fn is_all(&mut self, array: bool) -> io::Result<bool> {
        self.passed_line = false;
        Ok(match self.solid()? {
            None => true,
            Some(b']' | b'}') => array,
            Some(b'{') if self.passed_line => self.is_object()? != Some(false),
            Some(b'[') if self.passed_line => match self.solid()? {
                None => false,
                Some(b'"' | b'{' | b'[' | b']') => true,
                Some(first) => self.word(first)?.0,
            },
            Some(_) => false,
        })
    }

    /// Whether what follows a '{' makes it the beginning of a JSON object, well written or not; `None` for `{}`.
    fn is_object(&mut self) -> io::Result<Option<bool>> {
        Ok(match self.solid()? {
            Some(b'}') => None,
            None | Some(b'"' | b'\'' | b',' | b']') => Some(true),
            Some(first) if first.is_ascii_alphanumeric() || first == b'_' => {
                for _ in 0..LONGEST_WORD {
                    match self.next()? {
                        Some(byte) if byte.is_ascii_alphanumeric() || byte == b'_' => {}
                        byte => return Ok(Some(byte == Some(b':'))),
                    }
                }
                Some(false)
            }
            Some(_) => Some(false),
        })
    }

    /// Reads to the end of a quoted text.
    fn string(&mut self) -> io::Result<End> {
        let start = self.taken.len();
        let mut torn = None;
        loop {
            let read = self.taken.len();
            if read - start > LONGEST as usize || torn.is_some_and(|torn| read - torn > ENOUGH) {
                return Ok(End::Never);
            }
            match self.next()? {
                None => return Ok(End::Never),
                Some(b'"') if torn.is_some() => return Ok(End::Later),
                Some(b'"') => return Ok(End::Line),
                Some(b'\n') => torn = torn.or(Some(read)),
                Some(b'\\') => match self.next()? {
                    None => return Ok(End::Never),
                    Some(b'\n' | b'\r') => torn = torn.or(Some(read)),
                    Some(_) => {}
                },
                Some(_) => {}
            }
        }
    }

    /// Reads a number, `null`, `true`, `false` or one of the words that Python writes for numbers that are not finite;
    /// whether it is one, and the byte behind it.
    fn word(&mut self, first: u8) -> io::Result<(bool, Option<u8>)> {
        let mut word = vec![first];
        loop {
            let byte = self.next()?;
            match byte {
                Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.') => word.push(byte),
                _ => {
                    let good = serde_json::from_slice::<IgnoredAny>(&word).is_ok()
                        || matches!(&word[..], b"NaN" | b"Infinity" | b"-Infinity");
                    return Ok((good, byte));
                }
            }
            if word.len() > LONGEST_WORD {
                return Ok((false, None));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InputFormat, Plain, detect};
    use super::ENOUGH;

    fn is_array(text: &str) -> bool {
        let format = |plain| detect(&mut text.as_bytes(), plain).unwrap().0;
        assert_eq!(format(Plain::Texts), format(Plain::Parts), "{text:?}");
        assert_eq!(format(Plain::Never), InputFormat::Json, "{text:?}");
        format(Plain::Texts) == InputFormat::Json
    }

    #[test]
    fn arrays_of_anything_are_arrays() {
        for text in [
            "[\"first\", null, \"third\"]\n",
            "[\n \"first\",\n null,\n \"third\"\n]\n",
            "[null, \"b\"]",
            "[\"a\", 1.5]",
            "[null, {\"text\":\"b\"}]",
            "[true,false]",
            "[-1e5]",
            "[1, 2]\n\n",
            "[[1]]",
            "[[],[]]",
            "[{}]",
            "[{}, {\"text\":\"a\"}]",
            "[NaN, \"b\"]",
            "[[\"a\",\"b\"]]",
        ] {
            assert!(is_array(text), "{text:?}");
        }
    }

    #[test]
    fn arrays_with_a_fault_are_arrays() {
        for text in [
            "[\"a\",,\"b\"]",
            "[,\"b\"]",
            "[1,,2]",
            "[\"a\",]",
            "[\"a\" \"b\"]",
            "[\"a\"\n\"b\"]",
            "[\"a\" {\"text\":\"b\"}]",
            "[\"a\"",
            "[\"a\"\n",
            "[\"a\",",
            "[\"a\", \"b",
            "[1, 2",
            "[{",
            "[{]",
            "[{\"a\" is b}]\nhello",
            "[{\"text\":\"a\"} {\"text\":\"b\"}]",
            "[{\"text\":\"a\"}]]",
            "[{text: \"a\"}]",
            "[{'text': 'a'}]",
            "[\"a\nb\",\"c\"]",
            "[\"a\nb\"]",
            "[\"a\", \"b\nc\"]",
            "[\"a\", \"b\", oops]",
            "[\"a\"]\n[\"b\"]\n",
            "[\"a\"]\n{\"text\":\"b\"}\n",
            "[\"a\"]]",
        ] {
            assert!(is_array(text), "{text:?}");
        }
    }

    #[test]
    fn sentences_are_texts() {
        for text in [
            "[MASK] is the capital of France.",
            "[1] Footnote",
            "[1] Footnote\n[2] Another",
            "[1, 2, and 3] say so",
            "[1, 2] say so",
            "[1 \"Title\", 1999] Author",
            "[null]\nfoo",
            "[true] story",
            "[\"Never,\" she said",
            "[\"Never\", she said]",
            "[\"Never,\nshe said",
            "[\"Never mind,\nshe\", he said",
            "[\"Never\nmind\" \"he\" said",
            "[\"]\nfoo",
            "[\"a\"] trailing",
            "[\"a\", \"b\"] is a list\nfoo",
            "[\"a\", \"b\", \"c\"] is a list\n[\"d\"] too",
            "[{\nfoo",
            "[{name}] said",
            "[{{name}}]",
            "[{}] is empty",
            "[[1]] is a matrix",
            "[[MASK]]",
            "[[1], [2], and more]",
            "[]\nfoo",
            "[Intro]\n[Verse]",
            "[1]\n[Verse]",
            "['a','b']",
            "[",
            "[1",
            "[-",
        ] {
            assert!(!is_array(text), "{text:?}");
        }
    }

    #[test]
    fn no_more_is_read_than_it_takes() {
        let taken = |text: &str| detect(&mut text.as_bytes(), Plain::Texts).unwrap().1.len();
        let rest = " \"more\"".repeat(ENOUGH);
        assert!(taken(&format!("[{{\"text\"{rest}")) < 10);
        assert!(taken(&format!("[\n\"a\",\n\"b\",{rest}")) < 20);
        assert!(taken(&format!("[MASK]{rest}")) < 10);
        assert!(taken(&format!("[\"Never,\n{}", "she said ".repeat(ENOUGH))) < 2 * ENOUGH);
        let numbers = format!("[{}", "1,".repeat(ENOUGH));
        assert!(taken(&numbers) < 2 * ENOUGH && is_array(&numbers));
        // A first text of any length.
        let long = "x".repeat(3 * ENOUGH);
        assert!(is_array(&format!("[\"{long}\",\"b\"]")));
        assert!(!is_array(&format!("[\"{long}\", she said")));
        assert!(is_array(&"[".repeat(2 * ENOUGH)));
    }
}
