//! Generated text as it comes, one prompt after the other although all are generated together.

use std::io::{self, Write};

use ettin::generate::Piece;

/// Shows pieces of several outputs in the order of their prompts: those of later prompts wait.
pub(super) struct Stream<'a, W> {
    out: W,
    /// Each prompt, what of its continuation waits to be shown, and whether that is all.
    outputs: Vec<(&'a str, String, bool)>,
    /// The output being shown, and whether its prompt has been.
    current: usize,
    begun: bool,
}

impl<'a, W: Write> Stream<'a, W> {
    pub(super) fn new(out: W, prompts: &[&'a str]) -> Self {
        Stream {
            out,
            outputs: prompts.iter().map(|&prompt| (prompt, String::new(), false)).collect(),
            current: 0,
            begun: false,
        }
    }

    /// Shows or keeps a piece.
    pub(super) fn piece(&mut self, piece: &Piece<'_>) -> io::Result<()> {
        if let Some((_, waiting, done)) = self.outputs.get_mut(piece.index) {
            waiting.push_str(piece.text);
            *done |= piece.finish.is_some();
        }
        self.show()
    }

    /// Shows what still waits behind prompts that never got a piece, which were bad.
    pub(super) fn finish(mut self) -> io::Result<()> {
        for (_, waiting, done) in &mut self.outputs[self.current..] {
            // Only a bad prompt has neither text nor an end.
            if waiting.is_empty() && !*done && !(self.begun) {
                continue;
            }
            *done = true;
        }
        while self.current < self.outputs.len() {
            if self.outputs[self.current].2 {
                self.show()?;
            } else {
                self.current += 1;
            }
        }
        Ok(())
    }

    fn show(&mut self) -> io::Result<()> {
        while let Some((prompt, waiting, done)) = self.outputs.get_mut(self.current) {
            if !self.begun {
                if waiting.is_empty() && !*done {
                    break;
                }
                self.out.write_all(harmless(prompt).as_bytes())?;
                self.begun = true;
            }
            self.out.write_all(harmless(waiting).as_bytes())?;
            waiting.clear();
            if !*done {
                break;
            }
            self.out.write_all(b"\n")?;
            self.begun = false;
            self.current += 1;
        }
        self.out.flush()
    }
}

/// Text that cannot move the cursor, with its line ends and tabs.
fn harmless(text: &str) -> String {
    let visible = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().filter(|&c| visible(c)).collect()
}

#[cfg(test)]
mod tests {
    use ettin::generate::FinishReason;

    use super::*;

    fn shown(prompts: &[&str], pieces: &[(usize, &str, bool)]) -> String {
        let mut out = Vec::new();
        let mut stream = Stream::new(&mut out, prompts);
        for &(index, text, end) in pieces {
            let finish = end.then_some(FinishReason::Length);
            stream.piece(&Piece { index, text, finish }).unwrap();
        }
        stream.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn outputs_do_not_mix() {
        let pieces = [(0, " a", false), (1, " x", false), (0, "b", true), (1, "y", true)];
        assert_eq!(shown(&["P", "Q"], &pieces), "P ab\nQ xy\n");
        let pieces = [(1, " xy", true), (0, " a", false), (0, "b", true)];
        assert_eq!(shown(&["P", "Q"], &pieces), "P ab\nQ xy\n");
    }

    #[test]
    fn bad_prompts_hold_nobody_up() {
        assert_eq!(shown(&["bad", "Q"], &[(1, " x", true)]), "Q x\n");
        assert_eq!(shown(&["bad", "Q", "bad"], &[(1, "", true)]), "Q\n");
        assert_eq!(shown(&["bad"], &[]), "");
    }

    #[test]
    fn text_moves_no_cursor() {
        assert_eq!(shown(&["P\u{1b}[2J"], &[(0, "a\tb\r\n", true)]), "P[2Ja\tb\n\n");
    }
}
