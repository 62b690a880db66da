//! Speculative decoding: something cheap guesses the next tokens, and the model checks all guesses in one step.
//!
//! The check is not a rule of its own. The model reads the guesses as further rows of its step, and the loop then chooses
//! tokens from row after row, exactly as it would without guesses, for as long as what it chose is what had been guessed.
//! As a row's logits do not depend on the rows beside it, and a choice is keyed by seed, sample and position, the result
//! is the same token for token, sampling included; guesses decide only how many tokens a step yields.
//!
//! A model that guesses chooses with the very sampler and random numbers of the model it guesses for. That coupling accepts
//! nearly as much as the accept-and-resample rule (Leviathan et al., arXiv 2211.17192), which gives only the same
//! distribution: with total variation d between the two, at least (1 − d) / (1 + d) where that has 1 − d (Daliri et al.,
//! arXiv 2408.07978). For guesses that are certain of themselves (greedy, looked up) the two accept alike.

use super::model::{Cache, CausalModel, STEP_ROWS};
use super::sampler::{Chooser, Scratch};
use super::shaping::Place;
use crate::{Error, PackedBatch, Result};

/// Guesses the next tokens of sequences.
pub(crate) trait Draft {
    /// What it remembers of one sequence.
    type Memory;

    /// That of a sequence it knows nothing of.
    fn memory(&self) -> Result<Self::Memory>;

    /// A copy that goes on independently.
    fn fork(&self, memory: &Self::Memory) -> Self::Memory;

    /// Appends at most `wanted` guesses to the tokens of every task; where none are wanted, only reads.
    fn guess(&mut self, chooser: &Chooser<'_>, tasks: &mut [Task<'_, Self::Memory>]) -> Result<()>;
}

/// One sequence to guess for. All its tokens but the last are those of the call before, where that guessed them right.
pub(crate) struct Task<'a, C> {
    /// Prompt and continuation; guesses are appended.
    pub(crate) tokens: &'a mut Vec<u32>,
    /// Where it stands.
    pub(crate) place: Place,
    /// The most guesses that are of use.
    pub(crate) wanted: usize,
    pub(crate) memory: &'a mut C,
}

/// Never guesses: plain decoding.
pub(crate) struct NoDraft;

impl Draft for NoDraft {
    type Memory = ();

    fn memory(&self) -> Result<()> {
        Ok(())
    }

    fn fork(&self, (): &()) {}

    fn guess(&mut self, _: &Chooser<'_>, _: &mut [Task<'_, ()>]) -> Result<()> {
        Ok(())
    }
}

/// Looks the end of the text up in what came before and guesses that it goes on as it did there: for texts that quote
/// (Saxena, "Prompt lookup decoding", 2023).
pub(crate) struct Lookup;

impl Lookup {
    /// Tokens that must agree: fewer are too often a coincidence.
    const LEAST: usize = 2;
    /// Agreement beyond this makes no guess better.
    const MOST: usize = 8;

    /// Where the text went on after the longest earlier match of its end, the latest of equals.
    fn find(tokens: &[u32]) -> Option<usize> {
        let (&last, before) = tokens.split_last()?;
        let mut found = (Self::LEAST - 1, None);
        for end in (1..tokens.len()).rev().filter(|&end| tokens[end - 1] == last) {
            let pairs = tokens[..end - 1].iter().rev().zip(before.iter().rev());
            let agreeing = 1 + pairs.take(Self::MOST - 1).take_while(|(a, b)| a == b).count();
            if agreeing > found.0 {
                found = (agreeing, Some(end));
                if agreeing == Self::MOST {
                    break;
                }
            }
        }
        found.1
    }
}

impl Draft for Lookup {
    type Memory = ();

    fn memory(&self) -> Result<()> {
        Ok(())
    }

    fn fork(&self, (): &()) {}

    fn guess(&mut self, _: &Chooser<'_>, tasks: &mut [Task<'_, ()>]) -> Result<()> {
        for task in tasks.iter_mut().filter(|task| task.wanted > 0) {
            if let Some(start) = Self::find(task.tokens) {
                // Behind the text's end follow the guesses themselves: a repetition goes on.
                (start..start + task.wanted).for_each(|from| task.tokens.push(task.tokens[from]));
            }
        }
        Ok(())
    }
}

/// Guesses what another model would say.
pub(crate) struct ModelDraft<'a, M> {
    model: &'a M,
    batch: PackedBatch,
    rows: Vec<usize>,
    logits: Vec<f32>,
    scratch: Scratch,
}

impl<'a, M: CausalModel> ModelDraft<'a, M> {
    pub(crate) fn new(model: &'a M) -> Self {
        let (batch, rows, logits, scratch) = Default::default();
        Self { model, batch, rows, logits, scratch }
    }
}

impl<M: CausalModel> Draft for ModelDraft<'_, M> {
    type Memory = M::Cache;

    fn memory(&self) -> Result<M::Cache> {
        self.model.cache()
    }

    fn fork(&self, memory: &M::Cache) -> M::Cache {
        memory.fork()
    }

    fn guess(&mut self, chooser: &Chooser<'_>, tasks: &mut [Task<'_, M::Cache>]) -> Result<()> {
        let mut open = Vec::with_capacity(tasks.len());
        for task in tasks {
            // The guess at the last place, if there was one, may have been wrong.
            let agreed = task.tokens.len() - 1;
            if task.memory.len() > agreed {
                task.memory.truncate(agreed)?;
            }
            let goal = task.tokens.len() + task.wanted;
            open.push((goal, task));
        }
        loop {
            open.retain(|(goal, task)| {
                let lacks = task.tokens.len() < *goal || task.memory.len() < task.tokens.len() && task.wanted == 0;
                lacks && task.tokens.len() <= self.model.positions()
            });
            if open.is_empty() {
                return Ok(());
            }
            self.batch.clear();
            self.rows.clear();
            let mut room = STEP_ROWS;
            let (mut caches, mut fed) = (Vec::with_capacity(open.len()), 0);
            for (_, task) in &mut open {
                let unread = &task.tokens[task.memory.len()..];
                let rows = unread.len().min(room);
                if rows == 0 {
                    break;
                }
                self.batch.push(&unread[..rows], task.memory.len())?;
                if rows == unread.len() && task.wanted > 0 {
                    self.rows.push(self.batch.tokens() - 1);
                }
                room -= rows;
                fed += 1;
                caches.push(&mut *task.memory);
            }
            self.model.step(&self.batch, &mut caches, &self.rows, &mut self.logits)?;
            if self.rows.is_empty() {
                continue;
            }
            let complete =
                open[..fed].iter_mut().filter(|(_, task)| task.memory.len() == task.tokens.len() && task.wanted > 0);
            for ((_, task), logits) in complete.zip(self.logits.chunks_exact(self.logits.len() / self.rows.len())) {
                let guess = chooser.choose(logits, task.tokens, task.place, &mut self.scratch);
                let guess = guess.map_err(|error| match error {
                    Error::NotFinite { place, dtype } => {
                        Error::NotFinite { place: format!("{place} of the draft"), dtype }
                    }
                    error => error,
                })?;
                task.tokens.push(guess);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up(tokens: &[u32], wanted: usize) -> Vec<u32> {
        let mut all = tokens.to_vec();
        let place = Place { sample: 0, prompt: 0, most: usize::MAX };
        let task = Task { tokens: &mut all, place, wanted, memory: &mut () };
        let (sampling, shaping) = Default::default();
        Lookup.guess(&Chooser::new(&sampling, &shaping, Vec::new()).unwrap(), &mut [task]).unwrap();
        all.split_off(tokens.len())
    }

    #[test]
    fn the_longest_match_goes_on() {
        assert_eq!(looked_up(&[1, 2, 3, 4, 9, 2, 3], 2), [4, 9]);
        // Longer beats later, later beats earlier.
        assert_eq!(looked_up(&[1, 2, 3, 7, 2, 3, 8, 1, 2, 3], 1), [7]);
        assert_eq!(looked_up(&[2, 3, 7, 2, 3, 8, 2, 3], 1), [8]);
        // Beyond eight tokens, later wins.
        let long: Vec<u32> = (10..19).collect();
        let tokens = [&long[..], &[7], &long[1..], &[8], &long[..]].concat();
        assert_eq!(looked_up(&tokens, 1), [8]);
    }

    #[test]
    fn one_token_or_none_is_no_match() {
        for tokens in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4, 1], &[5, 2, 6, 2]] {
            assert_eq!(looked_up(tokens, 3), [0; 0], "{tokens:?}");
        }
        assert_eq!(looked_up(&[1, 2, 1, 2], 0), [0; 0]);
    }

    #[test]
    fn a_repetition_goes_on_beyond_the_text() {
        assert_eq!(looked_up(&[1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(looked_up(&[6, 6, 6], 3), [6, 6, 6]);
    }
}
