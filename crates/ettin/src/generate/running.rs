//! Sequences of an engine: those that wait, and those that run.

use std::collections::BTreeMap;
use std::ops::Range;

use super::event::{Event, Failed, Handle};
use super::sequence::Sequence;
use crate::Error;

/// A sequence without a cache.
pub(super) struct Waiting {
    pub(super) sequence: Sequence,
    /// How many it stands for.
    pub(super) samples: usize,
}

/// Those that wait, first come, first served: by handle, then by sample. Whoever runs came before whoever waits, so one
/// that has to wait again is before the others, and each is found without a look at the rest.
pub(super) type Queue = BTreeMap<(Handle, usize), Waiting>;

impl Waiting {
    /// Its place in the queue.
    pub(super) fn place(&self) -> (Handle, usize) {
        (self.sequence.rules.handle, self.sequence.sample)
    }
}

/// A sequence with what models remember of it.
pub(super) struct Running<C, S> {
    pub(super) sequence: Sequence,
    /// How many it stands for: all samples of its request, until its prompt is computed.
    pub(super) samples: usize,
    pub(super) cache: C,
    pub(super) draft: S,
    /// Tokens of its prompt of which waiting prompts want a copy.
    pub(super) shared: Option<usize>,
    /// Tokens that the step feeds.
    pub(super) fed: usize,
    /// Its rows of the step's logits from which tokens are chosen.
    pub(super) logits: Range<usize>,
    /// Tokens of its prompt that the step scores, and the first of their rows of the step's logits.
    pub(super) scored: (Range<usize>, usize),
    /// Why its draft cannot go on.
    pub(super) failure: Option<Error>,
    pub(super) over: bool,
}

impl<C, S> Running<C, S> {
    pub(super) fn new(Waiting { sequence, samples }: Waiting, cache: C, draft: S, shared: Option<usize>) -> Self {
        let (logits, scored) = (0..0, (0..0, 0));
        Self { sequence, samples, cache, draft, shared, fed: 0, logits, scored, failure: None, over: false }
    }

    /// Tokens that it feeds next, where its turn allows `room`.
    pub(super) fn rows(&self, room: usize) -> usize {
        let computed = self.sequence.computed();
        let until = self.shared.filter(|&shared| computed < shared).map_or(usize::MAX, |shared| shared - computed);
        self.sequence.pending().len().min(until).min(room)
    }

    /// Whether it is computing a beginning that `prompt` wants a copy of.
    pub(super) fn reads_for(&self, prompt: &[u32]) -> bool {
        let shared = self.shared.filter(|&shared| self.sequence.computed() < shared);
        shared.is_some_and(|shared| prompt.len() > shared && prompt.starts_with(&self.sequence.tokens()[..shared]))
    }

    /// Ends it with an error.
    pub(super) fn failed(&mut self, error: Error) -> Event {
        self.over = true;
        Event::Failed(Failed { handle: self.sequence.rules.handle, sample: self.sequence.sample, error })
    }
}
