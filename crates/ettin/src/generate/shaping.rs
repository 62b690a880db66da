//! What a request changes about logits before a token is chosen from them: biases, penalties, tokens that are forbidden
//! or forced at some place.
//!
//! Formulas and order are those of transformers 5.23's logits processors; the repetition penalty of
//! [`Sampling`](super::Sampling) stands between the penalty on the prompt and the n-grams. Everything depends on the
//! sequence alone, so that batches and proposals change nothing.

use crate::setters::setters;
use crate::{Error, Result};

/// Changes to the logits. The default changes nothing.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Shaping {
    /// Added to the logit of a sequence's last token where the tokens before it are there (`sequence_bias`).
    pub sequence_bias: Vec<(Vec<u32>, f32)>,
    /// Multiplies positive and divides negative logits of the prompt's tokens (`encoder_repetition_penalty`, which for
    /// a decoder is about its prompt); 1 is off. In f64, as its inverse is what is applied.
    pub prompt_boost: Option<f64>,
    /// No sequence of this many tokens comes twice (`no_repeat_ngram_size`).
    pub no_repeat: Option<usize>,
    /// No sequence of this many tokens of the prompt comes again (`encoder_no_repeat_ngram_size`).
    pub no_repeat_of_prompt: Option<usize>,
    /// Sequences of tokens that are never completed (`bad_words_ids`). An end-of-text token alone may come
    /// nevertheless.
    pub bad_words: Vec<Vec<u32>>,
    /// No end before prompt and continuation have this many tokens.
    pub min_length: usize,
    /// No end before the continuation has this many tokens.
    pub min_new_tokens: usize,
    /// What follows a prompt of one token.
    pub forced_bos: Option<u32>,
    /// Any of these is the last token that `max_new_tokens` or `max_length` allows; none is forced where there are
    /// none.
    pub forced_eos: Vec<u32>,
    /// From this many new tokens on, an end grows likelier by this factor with every token
    /// (`exponential_decay_length_penalty`).
    pub end_growth: Option<(usize, f64)>,
    /// Tokens that never come.
    pub suppress: Vec<u32>,
    /// Tokens that do not come first.
    pub begin_suppress: Vec<u32>,
    /// Taken off the logit of every token that the continuation holds (`presence_penalty` of OpenAI and vLLM).
    pub presence_penalty: f32,
    /// Taken off as often as the continuation holds the token (`frequency_penalty` of OpenAI and vLLM).
    pub frequency_penalty: f32,
}

/// Where a sequence stands when its next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The sample's index, for the random numbers.
    pub(crate) sample: u64,
    /// Tokens of its prompt.
    pub(crate) prompt: usize,
    /// The most tokens that it may have by the request, prompt included.
    pub(crate) most: usize,
}

setters!(Shaping {
    /// With these biases.
    with_sequence_bias(sequence_bias: Vec<(Vec<u32>, f32)>);
    /// With the logits of the prompt's tokens multiplied; 1 is off.
    with_prompt_boost(prompt_boost: impl Into<Option<f64>>);
    /// With no sequence of this many tokens twice.
    with_no_repeat(no_repeat: impl Into<Option<usize>>);
    /// With no sequence of this many tokens of the prompt.
    with_no_repeat_of_prompt(no_repeat_of_prompt: impl Into<Option<usize>>);
    /// Without these sequences of tokens.
    with_bad_words(bad_words: Vec<Vec<u32>>);
    /// With no end before prompt and continuation have this many tokens.
    with_min_length(min_length: usize);
    /// With no end before the continuation has this many tokens.
    with_min_new_tokens(min_new_tokens: usize);
    /// With this token behind a prompt of one token.
    with_forced_bos(forced_bos: impl Into<Option<u32>>);
    /// With any of these as the last token that the limits allow.
    with_forced_eos(forced_eos: Vec<u32>);
    /// With an end that grows likelier from so many new tokens on, by this factor.
    with_end_growth(end_growth: impl Into<Option<(usize, f64)>>);
    /// Without these tokens.
    with_suppress(suppress: Vec<u32>);
    /// Without these tokens as the first.
    with_begin_suppress(begin_suppress: Vec<u32>);
    /// With this penalty on tokens that the continuation holds.
    with_presence_penalty(presence_penalty: f32);
    /// With this penalty for each time that the continuation holds a token.
    with_frequency_penalty(frequency_penalty: f32);
});

impl Shaping {
    /// # Errors
    /// [`Error::Input`] for settings out of range.
    pub(super) fn check(&self) -> Result<()> {
        let fails = |message: String| Err(Error::input(message));
        if self.sequence_bias.iter().any(|(tokens, bias)| tokens.is_empty() || bias.is_nan()) {
            return fails("a sequence bias needs tokens and a number".to_owned());
        }
        if self.bad_words.iter().any(Vec::is_empty) {
            return fails("a bad word needs tokens".to_owned());
        }
        if !(self.presence_penalty.is_finite() && self.frequency_penalty.is_finite()) {
            return fails("the penalties on presence and frequency must be numbers".to_owned());
        }
        match (self.prompt_boost, self.end_growth) {
            (Some(boost), _) if !(boost.is_finite() && boost > 0.0) => {
                fails(format!("the penalty on the prompt's tokens must be above 0, not {boost}"))
            }
            (_, Some((_, factor))) if !(factor.is_finite() && factor > 0.0) => {
                fails(format!("the growth of the end must be above 0, not {factor}"))
            }
            _ => Ok(()),
        }
    }

    /// A token that is to be chosen, forbidden by its word or biased although a vocabulary of `size` does not hold it,
    /// with the name of its setting. Suppressed ones may be missing: what is no token never comes.
    pub(super) fn beyond(&self, size: usize) -> Option<(&'static str, u32)> {
        let biased = self.sequence_bias.iter().flat_map(|(ids, _)| ids);
        let named: [(&str, Vec<u32>); 4] = [
            ("forced_bos_token_id", self.forced_bos.into_iter().collect()),
            ("forced_eos_token_id", self.forced_eos.clone()),
            ("bad_words_ids", self.bad_words.concat()),
            ("sequence_bias", biased.copied().collect()),
        ];
        named.into_iter().find_map(|(key, ids)| Some((key, ids.into_iter().find(|&id| id as usize >= size)?)))
    }

    /// # Errors
    /// [`Error::Input`] for ids beyond a vocabulary of `size` tokens.
    pub(crate) fn check_ids(&self, size: usize) -> Result<()> {
        match self.beyond(size) {
            None => Ok(()),
            Some((setting, id)) => Err(Error::input(format!(
                "{setting} names token {id}, and the model's vocabulary has {size}; name ids below that"
            ))),
        }
    }

    /// Whether it changes nothing whatever the place.
    pub(super) fn is_empty(&self) -> bool {
        *self == Shaping::default()
    }

    /// What comes before the repetition penalty.
    pub(super) fn before_penalty(&self, logits: &mut [f32], tokens: &[u32], place: Place, seen: &mut Vec<bool>) {
        add_biases(logits, tokens, &self.sequence_bias);
        if let Some(boost) = self.prompt_boost {
            penalise(logits, &tokens[..place.prompt.min(tokens.len())], (1.0 / boost) as f32, seen);
        }
    }

    /// Penalties on what the continuation holds, as vLLM has them: first by how often, then for being there.
    fn penalise_continuation(&self, logits: &mut [f32], continuation: &[u32]) {
        let Self { presence_penalty: presence, frequency_penalty: frequency, .. } = *self;
        if presence == 0.0 && frequency == 0.0 {
            return;
        }
        let mut tokens = continuation.to_vec();
        tokens.sort_unstable();
        for same in tokens.chunk_by(|a, b| a == b) {
            each(logits, &same[..1], |logit| *logit = *logit - frequency * same.len() as f32 - presence);
        }
    }

    /// What comes behind the repetition penalty; `ends` are the tokens that end a text.
    pub(super) fn behind_penalty(&self, logits: &mut [f32], tokens: &[u32], place: Place, ends: &[u32]) {
        let length = tokens.len();
        let new = length.saturating_sub(place.prompt);
        self.penalise_continuation(logits, &tokens[length - new..]);
        if let Some(size) = self.no_repeat {
            forbid_repeats(logits, tokens, tokens, size);
        }
        if let Some(size) = self.no_repeat_of_prompt {
            forbid_repeats(logits, &tokens[..place.prompt.min(length)], tokens, size);
        }
        for word in &self.bad_words {
            if let Some((&last, before)) = word.split_last()
                && tokens.ends_with(before)
                && !(before.is_empty() && ends.contains(&last))
            {
                forbid(logits, &[last]);
            }
        }
        if length < self.min_length || new < self.min_new_tokens {
            forbid(logits, ends);
        }
        if let Some(bos) = self.forced_bos.filter(|_| length == 1) {
            force(logits, &[bos]);
        }
        if !self.forced_eos.is_empty() && length + 1 == place.most {
            force(logits, &self.forced_eos);
        }
        if let Some((start, factor)) = self.end_growth.filter(|&(start, _)| new > start) {
            let growth = (factor.powf((new - start) as f64) - 1.0) as f32;
            each(logits, ends, |logit| {
                if logit.is_finite() {
                    *logit += logit.abs() * growth;
                }
            });
        }
        forbid(logits, &self.suppress);
        // A forced first token is not the first that is chosen.
        let first = place.prompt + usize::from(place.prompt <= 1 && self.forced_bos.is_some());
        if length == first {
            forbid(logits, &self.begin_suppress);
        }
    }
}

/// Divides positive and multiplies negative logits of every token of `history`, once.
pub(super) fn penalise(logits: &mut [f32], history: &[u32], penalty: f32, penalised: &mut Vec<bool>) {
    penalised.clear();
    penalised.resize(logits.len(), false);
    for &id in history {
        if let (Some(logit), Some(done @ false)) = (logits.get_mut(id as usize), penalised.get_mut(id as usize)) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            *done = true;
        }
    }
}

/// Biases of one token are summed before they are added.
fn add_biases(logits: &mut [f32], tokens: &[u32], biases: &[(Vec<u32>, f32)]) {
    let active = |(sequence, bias): &(Vec<u32>, f32)| {
        let (&last, before) = sequence.split_last()?;
        tokens.ends_with(before).then_some((last, *bias))
    };
    for (index, one) in biases.iter().enumerate() {
        let Some((token, bias)) = active(one) else { continue };
        let of_token = |list: &[(Vec<u32>, f32)]| {
            let of_token = list.iter().filter_map(active).filter(|&(other, _)| other == token);
            of_token.map(|(_, bias)| bias).reduce(|sum, bias| sum + bias)
        };
        // The first of a token's biases adds them all.
        if of_token(&biases[..index]).is_none() {
            let more = of_token(&biases[index + 1..]).unwrap_or(0.0);
            each(logits, &[token], |logit| *logit += bias + more);
        }
    }
}

/// Forbids what followed in `text` wherever its tokens were the last `size - 1` of `tokens`.
fn forbid_repeats(logits: &mut [f32], text: &[u32], tokens: &[u32], size: usize) {
    if size == 0 || tokens.len() + 1 < size {
        return;
    }
    let end = &tokens[tokens.len() + 1 - size..];
    for window in text.windows(size).filter(|window| window.starts_with(end)) {
        forbid(logits, &window[size - 1..]);
    }
}

fn forbid(logits: &mut [f32], ids: &[u32]) {
    each(logits, ids, |logit| *logit = f32::NEG_INFINITY);
}

/// Leaves these tokens alone, all of them alike.
fn force(logits: &mut [f32], ids: &[u32]) {
    logits.fill(f32::NEG_INFINITY);
    each(logits, ids, |logit| *logit = 0.0);
}

/// Ids beyond the vocabulary are no tokens.
fn each(logits: &mut [f32], ids: &[u32], mut change: impl FnMut(&mut f32)) {
    for &id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            change(logit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: f32 = f32::NEG_INFINITY;

    fn shaped(shaping: &Shaping, tokens: &[u32], prompt: usize, most: usize) -> Vec<f32> {
        let mut logits = vec![1.0, -1.0, 2.0, 3.0];
        let place = Place { sample: 0, prompt, most };
        shaping.before_penalty(&mut logits, tokens, place, &mut Vec::new());
        shaping.behind_penalty(&mut logits, tokens, place, &[3, 9]);
        logits
    }

    fn empty() -> Shaping {
        Shaping::default()
    }

    #[test]
    fn repeated_sequences_are_forbidden() {
        let of = |size, tokens: &[u32]| shaped(&Shaping { no_repeat: Some(size), ..empty() }, tokens, 0, 99);
        assert_eq!(of(2, &[0, 1, 2, 0]), [1.0, NEVER, 2.0, 3.0]);
        assert_eq!(of(1, &[0, 2]), [NEVER, -1.0, NEVER, 3.0]);
        assert_eq!(of(3, &[0, 0]), [1.0, -1.0, 2.0, 3.0]);
        assert_eq!(of(3, &[0, 0, 0]), [NEVER, -1.0, 2.0, 3.0]);
        let shaping = Shaping { no_repeat_of_prompt: Some(2), ..empty() };
        assert_eq!(shaped(&shaping, &[0, 1, 0, 2, 0], 2, 99), [1.0, NEVER, 2.0, 3.0]);
    }

    #[test]
    fn biases_of_one_token_add_up_and_bad_words_spare_the_end() {
        let sequence_bias = vec![(vec![1], 0.5), (vec![0, 1], 0.25), (vec![2, 1], 8.0)];
        assert_eq!(shaped(&Shaping { sequence_bias, ..empty() }, &[0], 1, 99), [1.0, -0.25, 2.0, 3.0]);
        let bad_words = vec![vec![3], vec![0], vec![1, 2], vec![0, 1, 2], vec![1, 3]];
        let shaping = Shaping { bad_words, ..empty() };
        assert_eq!(shaped(&shaping, &[0], 1, 99), [NEVER, -1.0, 2.0, 3.0]);
        assert_eq!(shaped(&shaping, &[1], 1, 99), [NEVER, -1.0, NEVER, NEVER]);
    }

    #[test]
    fn what_the_continuation_holds_is_penalised_by_presence_and_number() {
        let shaping = Shaping { presence_penalty: 0.5, frequency_penalty: 0.25, ..empty() };
        // Of the prompt nothing counts.
        assert_eq!(shaped(&shaping, &[0, 1, 2], 3, 99), [1.0, -1.0, 2.0, 3.0]);
        assert_eq!(shaped(&shaping, &[0, 2, 1, 2], 1, 99), [1.0, -1.75, 1.0, 3.0]);
    }

    #[test]
    fn ends_wait_for_both_minima_and_are_forced_at_the_limit() {
        let shaping = Shaping { min_length: 3, min_new_tokens: 1, ..empty() };
        assert_eq!(shaped(&shaping, &[0, 0], 1, 99)[3], NEVER);
        assert_eq!(shaped(&shaping, &[0, 0, 0], 3, 99)[3], NEVER);
        assert_eq!(shaped(&shaping, &[0, 0, 0], 2, 99)[3], 3.0);
        let shaping = Shaping { forced_bos: Some(1), forced_eos: vec![2, 3], begin_suppress: vec![0], ..empty() };
        assert_eq!(shaped(&shaping, &[0], 1, 99), [NEVER, 0.0, NEVER, NEVER]);
        assert_eq!(shaped(&shaping, &[0, 1], 1, 99), [NEVER, -1.0, 2.0, 3.0]);
        assert_eq!(shaped(&shaping, &[0, 1], 1, 3), [NEVER, NEVER, 0.0, 0.0]);
        assert_eq!(shaped(&shaping, &[0, 1, 1], 1, 3), [1.0, -1.0, 2.0, 3.0]);
    }

    #[test]
    fn an_end_grows_likelier() {
        let shaping = Shaping { end_growth: Some((1, 2.0)), ..empty() };
        assert_eq!(shaped(&shaping, &[0, 0], 1, 99)[3], 3.0);
        assert_eq!(shaped(&shaping, &[0; 4], 1, 99)[3], 12.0);
    }

    #[test]
    fn the_prompts_tokens_can_be_favoured() {
        let shaping = Shaping { prompt_boost: Some(2.0), ..empty() };
        assert_eq!(shaped(&shaping, &[0, 1, 2], 2, 99), [2.0, -0.5, 2.0, 3.0]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for shaping in [
            Shaping { sequence_bias: vec![(Vec::new(), 1.0)], ..empty() },
            Shaping { bad_words: vec![Vec::new()], ..empty() },
            Shaping { prompt_boost: Some(0.0), ..empty() },
            Shaping { end_growth: Some((1, f64::NAN)), ..empty() },
        ] {
            assert!(matches!(shaping.check(), Err(Error::Input(_))), "{shaping:?}");
        }
        assert!(empty().is_empty() && empty().check().is_ok());
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_refused_by_name_but_where_they_are_suppressed() {
        for (key, shaping) in [
            ("forced_bos_token_id", Shaping { forced_bos: Some(4), ..empty() }),
            ("forced_eos_token_id", Shaping { forced_eos: vec![3, 4], ..empty() }),
            ("bad_words_ids", Shaping { bad_words: vec![vec![1], vec![4, 1]], ..empty() }),
            ("sequence_bias", Shaping { sequence_bias: vec![(vec![0, 4], 1.0)], ..empty() }),
        ] {
            let error = shaping.check_ids(4).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("token 4"), "{error}");
            assert!(shaping.check_ids(5).is_ok());
        }
        assert!(Shaping { suppress: vec![4], begin_suppress: vec![9], ..empty() }.check_ids(4).is_ok());
    }
}
