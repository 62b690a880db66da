//! Text as an iterator.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;

use super::GeneratorRun;
use crate::Result;
use crate::generate::FinishReason;

/// The text of one prompt's continuation as it comes, from [`Generator::stream`](super::Generator::stream).
///
/// Pieces of several samples alternate. A sample that fails gives its error in place of its last piece; a failure of
/// the engine ends the iterator.
pub struct GenerationStream<'a> {
    run: GeneratorRun<'a>,
    /// What a step gave and has not been taken.
    ready: VecDeque<Result<StreamPiece>>,
}

/// A piece of generated text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamPiece {
    /// Which of the samples it belongs to, from 0.
    pub sample: usize,
    /// Text that is final; may be empty when `finish` is there.
    pub text: String,
    /// Set once, on the last piece of a sample.
    pub finish: Option<FinishReason>,
}

impl<'a> GenerationStream<'a> {
    pub(super) fn new(run: GeneratorRun<'a>) -> Self {
        Self { run, ready: VecDeque::new() }
    }

    /// The seed in use; none when nothing is drawn.
    pub fn seed(&self) -> Option<u64> {
        self.run.seed()
    }

    /// Computes one step.
    fn step(&mut self) -> Result<()> {
        let stepped = self.run.step(&mut |piece| {
            let (sample, text) = (piece.index, piece.text.to_owned());
            self.ready.push_back(Ok(StreamPiece { sample, text, finish: piece.finish }));
            ControlFlow::Continue(())
        });
        let failed = self.run.take_done().into_iter().filter_map(|(_, result)| result.err());
        self.ready.extend(failed.map(Err));
        stepped.map(|_| ())
    }
}

impl Iterator for GenerationStream<'_> {
    type Item = Result<StreamPiece>;

    fn next(&mut self) -> Option<Result<StreamPiece>> {
        while self.ready.is_empty() && !self.run.is_idle() {
            if let Err(error) = self.step() {
                // What it still had to do is given up.
                self.ready.extend(self.run.cancel().err().map(Err));
                return Some(Err(error));
            }
        }
        self.ready.pop_front()
    }
}

impl fmt::Debug for GenerationStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationStream").field("ready", &self.ready).finish_non_exhaustive()
    }
}
