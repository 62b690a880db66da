//! The elements of one JSON array, one at a time: an array of any length is read in little memory, and a bad element
//! loses no other.

use std::io::BufRead;

use anyhow::bail;

use super::detect::next_byte;
use super::lines::{BYTE_ORDER_MARK, LONGEST};

/// Reads the elements of an array as JSON text.
pub(super) struct Elements<R> {
    reader: R,
    at: At,
    number: u64,
    longest: u64,
    state: State,
}

/// A place in the input, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: u64,
    /// In bytes.
    pub(super) column: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the bracket that opens the array.
    Before,
    /// Behind that bracket.
    Open,
    /// Behind a comma.
    More,
    /// Behind the bracket that closes it.
    Closed,
}

/// One element.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// Its number, from 1.
    pub(super) number: u64,
    /// Where it begins.
    pub(super) at: At,
    /// Its JSON text, or what is wrong with it.
    pub(super) text: Result<String, String>,
}

impl<R: BufRead> Elements<R> {
    pub(super) fn new(reader: R) -> Self {
        Elements { reader, at: At { line: 1, column: 0 }, number: 0, longest: LONGEST, state: State::Before }
    }

    /// The next element; `None` at the end of the array, behind which only white space may stand.
    ///
    /// # Errors
    /// When the input cannot be read, is no array, or does not end with it.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Element>> {
        let mut byte = self.solid()?;
        if self.state == State::Before {
            if byte == Some(BYTE_ORDER_MARK[0]) && (self.at == At { line: 1, column: 1 }) {
                for _ in 1..BYTE_ORDER_MARK.len() {
                    self.byte()?;
                }
                byte = self.solid()?;
            }
            match byte {
                Some(b'[') => self.state = State::Open,
                // As with lines, nothing is no input.
                None => return Ok(None),
                Some(_) => bail!(
                    "line {}: no JSON array, which begins with '['; --input-format jsonl reads one object per line",
                    self.at.line
                ),
            }
            byte = self.solid()?;
        }
        match (self.state, byte) {
            (State::Closed, None) => Ok(None),
            (State::Closed, Some(_)) => bail!(
                "line {}: there is more behind the end of the JSON array; --input-format text reads lines as they are",
                self.at.line
            ),
            (State::Open, Some(b']')) => {
                self.state = State::Closed;
                self.next()
            }
            (_, Some(first)) => self.element(first).map(Some),
            (_, None) => Err(self.unclosed(self.at)),
        }
    }

    /// Reads from the first byte of an element to the comma or bracket behind it. What is between is split, not
    /// checked.
    fn element(&mut self, first: u8) -> anyhow::Result<Element> {
        self.number += 1;
        let at = self.at;
        let (mut bytes, mut depth, mut read) = (Vec::new(), 0_usize, 0_u64);
        let (mut quoted, mut escaped) = (false, false);
        let mut byte = first;
        loop {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 => break,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            read += 1;
            if read <= self.longest {
                bytes.push(byte);
            }
            byte = match self.byte()? {
                Some(byte) => byte,
                None => return Err(self.unclosed(at)),
            };
        }
        self.state = if byte == b',' { State::More } else { State::Closed };
        let text = if read > self.longest {
            Err(format!("it is longer than {} bytes", self.longest))
        } else if bytes.is_empty() {
            Err("there is nothing before or behind a comma".into())
        } else {
            String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                format!("not UTF-8 (byte {} of the record)", at + 1)
            })
        };
        Ok(Element { number: self.number, at, text })
    }

    /// The input ended in what began here.
    fn unclosed(&self, from: At) -> anyhow::Error {
        anyhow::anyhow!(
            "line {}: the input ends before the JSON array is closed, in record {} or behind it; it may be cut off \
             (--input-format text reads lines as they are)",
            from.line,
            self.number
        )
    }

    fn solid(&mut self) -> anyhow::Result<Option<u8>> {
        loop {
            match self.byte()? {
                Some(b' ' | b'\t' | b'\n' | b'\r') => {}
                other => return Ok(other),
            }
        }
    }

    /// The next byte; `at` is then its place.
    fn byte(&mut self) -> anyhow::Result<Option<u8>> {
        let byte = next_byte(&mut self.reader)?;
        match byte {
            Some(b'\n') => self.at = At { line: self.at.line + 1, column: 0 },
            Some(_) => self.at.column += 1,
            None => {}
        }
        Ok(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(input: &[u8]) -> (Vec<Element>, Option<String>) {
        let mut elements = Elements::new(input);
        elements.longest = 12;
        let mut all = Vec::new();
        loop {
            match elements.next() {
                Ok(Some(element)) => all.push(element),
                Ok(None) => return (all, None),
                Err(error) => return (all, Some(error.to_string())),
            }
        }
    }

    fn texts(input: &str) -> Vec<String> {
        let (all, error) = elements(input.as_bytes());
        assert_eq!(error, None, "{input}");
        all.into_iter().map(|element| element.text.unwrap()).collect()
    }

    #[test]
    fn elements_are_split_at_commas_of_the_array_alone() {
        assert_eq!(
            texts(r#"[{"a":[1,2]}, "x,]\"" , [3,"]"],4]"#),
            [r#"{"a":[1,2]}"#, r#""x,]\"" "#, r#"[3,"]"]"#, "4"]
        );
        assert_eq!(texts("\u{feff} [ ] \n"), [""; 0]);
        assert_eq!(texts(""), [""; 0]);
        assert_eq!(texts("\u{feff}[1]"), ["1"]);
    }

    #[test]
    fn places_are_those_of_the_input() {
        let (all, _) = elements(b"[\n  1,\r\n\n    {\n\"a\":2}\n, 3]");
        let places: Vec<_> = all.iter().map(|Element { number, at, .. }| (*number, at.line, at.column)).collect();
        assert_eq!(places, [(1, 2, 3), (2, 4, 5), (3, 6, 3)]);
    }

    #[test]
    fn bad_elements_lose_no_other() {
        let (all, error) = elements(b"[1,,\"\xFF\",\"longer than that\",}x,2,]");
        assert_eq!(error, None);
        let good: Vec<bool> = all.iter().map(|element| element.text.is_ok()).collect();
        // What is between commas is for the parser to judge.
        assert_eq!(good, [true, false, false, false, true, true, false]);
    }

    #[test]
    fn arrays_that_do_not_end_as_such_are_named() {
        for (input, good, said) in [
            (&b"[1,\n{\"a\":2"[..], 1, "line 2: the input ends before the JSON array is closed"),
            (b"[1", 0, "closed"),
            (b"[1,", 1, "closed"),
            (b"[", 0, "closed"),
            (b"[1]\n\n[2]", 1, "line 3: there is more behind the end"),
            (b"\n{}", 0, "line 2: no JSON array"),
        ] {
            let (all, error) = elements(input);
            assert_eq!(all.len(), good);
            assert!(error.as_ref().is_some_and(|error| error.contains(said)), "{error:?}");
        }
    }
}
