//! What an input is, by its beginning: plain lines, JSONL records, or one JSON array.
//!
//! Looking ends as soon as it is clear, mostly at the first byte that is no white space, so that a slow pipe is
//! answered line by line. Behind a '[' it can take a few tokens, and the beginning of the line behind the array
//! ([`array`]).

mod array;

use std::io::{self, BufRead, ErrorKind};

use super::InputFormat;
use super::lines::BYTE_ORDER_MARK;

/// What the lines of an input may be where it does not say so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// Records only: what is no JSON array is JSONL, whether it looks so or not.
    Never,
    /// Texts, unless the first line begins with '{'.
    Texts,
    /// Texts that go with an argument, unless the first line begins as an object with a key.
    Parts,
}

/// The format, and the bytes that were taken from the reader to know it.
pub(super) fn detect(reader: &mut impl BufRead, plain: Plain) -> io::Result<(InputFormat, Vec<u8>)> {
    let mut ahead = Ahead { reader, taken: Vec::new(), passed_line: false };
    let format = ahead.format(plain)?;
    let text = match plain {
        Plain::Never => InputFormat::Jsonl,
        _ => InputFormat::Text,
    };
    Ok((format.unwrap_or(text), ahead.taken))
}

/// A reader that remembers what it has read.
struct Ahead<'a, R> {
    reader: &'a mut R,
    taken: Vec<u8>,
    /// Whether white space had a line end in it since this was last cleared.
    passed_line: bool,
}

impl<R: BufRead> Ahead<'_, R> {
    /// `None` is for what is no JSON.
    fn format(&mut self, plain: Plain) -> io::Result<Option<InputFormat>> {
        Ok(match (self.first()?, plain) {
            (Some(b'['), Plain::Never) => Some(InputFormat::Json),
            (Some(b'['), _) => self.is_array()?.then_some(InputFormat::Json),
            (Some(b'{'), Plain::Never | Plain::Texts) => Some(InputFormat::Jsonl),
            // Words in braces are texts.
            (Some(b'{'), Plain::Parts) => (self.solid()? == Some(b'"')).then_some(InputFormat::Jsonl),
            _ => None,
        })
    }

    /// The first byte behind a byte order mark that is no white space.
    fn first(&mut self) -> io::Result<Option<u8>> {
        match self.solid()? {
            Some(first) if first == BYTE_ORDER_MARK[0] && self.taken.len() == 1 => {
                for &byte in &BYTE_ORDER_MARK[1..] {
                    if self.next()? != Some(byte) {
                        return Ok(Some(first));
                    }
                }
                self.solid()
            }
            first => Ok(first),
        }
    }

    /// The next byte that is no white space of JSON.
    fn solid(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.next()? {
                Some(byte) if self.is_space(byte) => {}
                other => return Ok(other),
            }
        }
    }

    /// Whether it is white space of JSON; notes line ends.
    fn is_space(&mut self, byte: u8) -> bool {
        self.passed_line |= byte == b'\n';
        matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
    }

    fn next(&mut self) -> io::Result<Option<u8>> {
        let byte = next_byte(self.reader)?;
        self.taken.extend(byte);
        Ok(byte)
    }
}

/// One byte of a buffered reader; none at its end.
pub(super) fn next_byte(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        match reader.fill_buf() {
            Ok(bytes) => {
                let byte = bytes.first().copied();
                reader.consume(usize::from(byte.is_some()));
                return Ok(byte);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// The format; what was taken and what is left are the whole input.
    fn format(input: &str, plain: Plain) -> InputFormat {
        let mut reader = input.as_bytes();
        let (format, mut bytes) = detect(&mut reader, plain).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, input.as_bytes());
        format
    }

    #[test]
    fn texts_that_begin_with_a_bracket_are_texts() {
        for text in [
            "[MASK] is the capital of France.",
            "[1] A footnote.\n[2] Another.",
            "[]\nis empty",
            "[] is empty",
            "[",
            "[\n",
            "[\n\"Never,\" she said.",
            "[\"Never,\" she said.]",
            "[\"Never,\", she said.]",
            "[\"Never\"] she said.",
            "[\"no end",
            "[\"no end\n",
            "[[MASK]]",
            "[-",
            "text\n[{\"text\":\"a\"}]",
            "\u{feff}[MASK]",
            "ïf",
        ] {
            assert_eq!(format(text, Plain::Texts), InputFormat::Text, "{text:?}");
            assert_eq!(format(text, Plain::Parts), InputFormat::Text, "{text:?}");
        }
    }

    #[test]
    fn arrays_are_known_by_their_beginning() {
        for text in [
            "[{\"text\":\"a\"}]",
            "\u{feff}\n \r\n [\n  {\n  \"text\": \"a\"",
            "[{]",
            "[\"a\"]",
            "[ \"a\\\"]\" ]\r\n\n",
            "[\"a\",\n \"b\"",
            "[\"a\",{\"text\":\"b\"}]",
            "[\"a\",",
            "[]",
            "[\n]\n",
            "[[\"a\",\"b\"]]",
        ] {
            for plain in [Plain::Texts, Plain::Parts, Plain::Never] {
                assert_eq!(format(text, plain), InputFormat::Json, "{text:?}");
            }
        }
        assert_eq!(format("[MASK]", Plain::Never), InputFormat::Json);
    }

    #[test]
    fn records_are_known_by_a_brace() {
        for text in ["{\"text\":\"a\"}", "\n\r\n \t{\"text\"", "\u{feff}{ \"a\""] {
            for plain in [Plain::Texts, Plain::Parts, Plain::Never] {
                assert_eq!(format(text, plain), InputFormat::Jsonl, "{text:?}");
            }
        }
        assert_eq!(format("{Bob} was there.", Plain::Texts), InputFormat::Jsonl);
        assert_eq!(format("{Bob} was there.", Plain::Parts), InputFormat::Text);
        for text in ["", "\n\n", "\u{feff}", "text", "\n\ntext\n{"] {
            assert_eq!(format(text, Plain::Texts), InputFormat::Text, "{text:?}");
            assert_eq!(format(text, Plain::Never), InputFormat::Jsonl, "{text:?}");
        }
    }
}
