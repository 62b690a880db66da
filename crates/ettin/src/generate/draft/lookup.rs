//! Proposals looked up in the text itself.

use super::{Draft, DraftRequest};
use crate::Result;

/// Looks the end of the text up in what came before and proposes that it goes on as it did there: for texts that quote
/// (Saxena, "Prompt lookup decoding", 2023).
#[derive(Debug, Clone, Copy, Default)]
pub struct Lookup;

impl Lookup {
    /// Tokens that must agree: fewer are too often a coincidence.
    const MIN_MATCH: usize = 2;
    /// Agreement beyond this makes no proposal better.
    const MAX_MATCH: usize = 8;

    /// Where the text went on after the longest earlier match of its end, the latest of equals.
    fn find(tokens: &[u32]) -> Option<usize> {
        let (&last, before) = tokens.split_last()?;
        let mut found = (Self::MIN_MATCH - 1, None);
        for end in (1..tokens.len()).rev().filter(|&end| tokens[end - 1] == last) {
            let pairs = tokens[..end - 1].iter().rev().zip(before.iter().rev());
            let agreeing = 1 + pairs.take(Self::MAX_MATCH - 1).take_while(|(a, b)| a == b).count();
            if agreeing > found.0 {
                found = (agreeing, Some(end));
                if agreeing == Self::MAX_MATCH {
                    break;
                }
            }
        }
        found.1
    }

    /// Proposes for every request what its own text says.
    pub(super) fn look_up<S>(requests: &mut [DraftRequest<'_, S>]) {
        for request in requests.iter_mut().filter(|request| request.wanted > 0) {
            if let Some(start) = Self::find(request.tokens) {
                // Behind the text's end follow the proposals themselves: a repetition goes on.
                (start..start + request.wanted).for_each(|from| request.propose(request.tokens[from]));
            }
        }
    }
}

impl Draft for Lookup {
    type State = ();

    fn state(&self) -> Result<()> {
        Ok(())
    }

    fn fork(&self, (): &()) {}

    fn propose(&mut self, requests: &mut [DraftRequest<'_, ()>]) -> Result<()> {
        Self::look_up(requests);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::sampler::Chooser;
    use super::super::super::shaping::Place;
    use super::*;
    use crate::generate::Sampling;

    fn looked_up(tokens: &[u32], wanted: usize) -> Vec<u32> {
        let mut all = tokens.to_vec();
        let place = Place { sample: 0, prompt: 0, most: usize::MAX };
        let chooser = Chooser::new(&Sampling::default(), &Arc::default(), Vec::new()).unwrap();
        let (vocabulary, state, failure, chooser) = (100, &mut (), &mut None, &chooser);
        let request = DraftRequest { tokens: &mut all, wanted, vocabulary, state, place, chooser, failure };
        Lookup.propose(&mut [request]).unwrap();
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
