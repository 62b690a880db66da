//! Lines of a byte stream: numbered, bounded, UTF-8 or reported as not.

use std::io::{self, BufRead, Read};

/// The longest line, or element of a JSON array, that is kept, in bytes. No text that a model can read comes near; a
/// file without line ends must not fill the memory.
pub(super) const LONGEST: u64 = 64 << 20;

/// What some programs put before UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads numbered lines, without line ends (`\n` or `\r\n`) and without a byte order mark.
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    longest: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Lines { reader, number: 0, longest: LONGEST }
    }

    /// The next line, empty or not, with its number from 1, or what is wrong with it; `None` at the end. The end of the
    /// last line begins no further one.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Result<String, String>)>> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(self.longest + 1).read_until(b'\n', &mut bytes)?;
        // A byte order mark alone is a file of nothing.
        if read == 0 || (self.number == 0 && bytes == BYTE_ORDER_MARK) {
            return Ok(None);
        }
        self.number += 1;
        if read as u64 > self.longest && bytes.last() != Some(&b'\n') {
            self.reader.skip_until(b'\n')?;
            let message = format!("the line is longer than {} bytes", self.longest);
            return Ok(Some((self.number, Err(message))));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let line = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("not UTF-8 (byte {} of the line)", at + 1)
        });
        Ok(Some((self.number, line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines::new(bytes);
        lines.longest = 8;
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    fn texts(bytes: &[u8]) -> Vec<(u64, String)> {
        read(bytes).into_iter().map(|(number, line)| (number, line.unwrap())).collect()
    }

    #[test]
    fn ends_marks_and_empty_lines() {
        let line = |number, text: &str| (number, text.to_owned());
        assert_eq!(texts(b""), []);
        assert_eq!(texts(b"\n\r\n\n"), [line(1, ""), line(2, ""), line(3, "")]);
        assert_eq!(texts(b"a\nb"), [line(1, "a"), line(2, "b")]);
        assert_eq!(texts(b"a\nb\n"), [line(1, "a"), line(2, "b")]);
        assert_eq!(texts(b"a\n\n"), [line(1, "a"), line(2, "")]);
        assert_eq!(texts(b"a\r\n\r\nb\r\n"), [line(1, "a"), line(2, ""), line(3, "b")]);
        assert_eq!(texts(b"\xEF\xBB\xBFa\n"), [line(1, "a")]);
        assert_eq!(texts(b"\xEF\xBB\xBF\n a \n"), [line(1, ""), line(2, " a ")]);
        assert_eq!(texts(b"\xEF\xBB\xBF"), []);
        assert_eq!(texts(b"\xEF\xBB\xBF\r\n"), [line(1, "")]);
        // Only the line end goes: what else is at the ends belongs to the text.
        assert_eq!(texts(b"\ta \r\r\n"), [line(1, "\ta \r")]);
    }

    #[test]
    fn bad_lines_do_not_lose_the_others() {
        let lines = read(b"a\n\xFFb\n123456789abcdefghijkl\n12345678\nc");
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], (1, Ok("a".into())));
        assert!(lines[1].1.as_ref().unwrap_err().contains("UTF-8"));
        assert!(lines[2].1.as_ref().unwrap_err().contains("longer"));
        assert_eq!(lines[3], (4, Ok("12345678".into())));
        assert_eq!(lines[4], (5, Ok("c".into())));
    }
}
