//! From a row of logits to the next token.
//!
//! Semantics and order are those of transformers 5.23's logits processors: repetition penalty, temperature, top-k
//! (ties with the k-th stay), top-p (the token that crosses p stays), min-p.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;

use super::{Sampling, random};
use crate::{Error, Result};

/// Chooses tokens; holds no state, so that the choice for one sequence never depends on another.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    sampling: Sampling,
    seed: u64,
}

/// A token still in the running.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// `exp(logit − max)`.
    weight: f64,
}

impl Sampler {
    /// Checks the settings; draws a seed if one is needed and none is given.
    pub(super) fn new(sampling: &Sampling) -> Result<Self> {
        let Sampling { temperature, top_p, min_p, repetition_penalty, seed, .. } = *sampling;
        let share = |name: &str, value: Option<f32>| match value {
            Some(value) if !(0.0..=1.0).contains(&value) => {
                Err(Error::input(format!("{name} must lie between 0 and 1, not {value}")))
            }
            _ => Ok(()),
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::input(format!("the temperature must be 0 or more, not {temperature}")));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Err(Error::input(format!("the repetition penalty must be above 0, not {repetition_penalty}")));
        }
        share("top-p", top_p)?;
        share("min-p", min_p)?;
        Ok(Self { sampling: sampling.clone(), seed: seed.unwrap_or_else(random::draw_seed) })
    }

    /// The seed, unless nothing is drawn.
    pub(super) fn seed(&self) -> Option<u64> {
        (!self.is_greedy()).then_some(self.seed)
    }

    /// Whether [`choose`](Self::choose) looks at the tokens seen.
    pub(super) fn wants_history(&self) -> bool {
        self.sampling.repetition_penalty != 1.0
    }

    fn is_greedy(&self) -> bool {
        self.sampling.temperature == 0.0
    }

    /// The token at absolute `position`; `seen` are the tokens before it (empty unless wanted).
    ///
    /// # Errors
    /// [`Error::Input`] for logits that are not finite.
    pub(super) fn choose(&self, logits: &[f32], seen: &HashSet<u32>, sample: u64, position: u64) -> Result<u32> {
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            return Err(Error::input(format!(
                "the model's logits for the token at position {position} are not finite: \
                 its weights or the numeric scheme are broken"
            )));
        }
        let logits = self.penalised(logits, seen);
        if self.is_greedy() {
            return Ok(best(&logits));
        }
        let mut candidates = self.warm(&logits);
        if let Some(k) = self.sampling.top_k.filter(|&k| k > 0) {
            keep_top_k(&mut candidates, k);
        }
        if let Some(p) = self.sampling.top_p.filter(|&p| p < 1.0) {
            keep_top_p(&mut candidates, p);
        }
        if let Some(p) = self.sampling.min_p {
            candidates.retain(|candidate| candidate.weight >= f64::from(p));
        }
        Ok(draw(&candidates, random::uniform(self.seed, sample, position)))
    }

    fn penalised<'l>(&self, logits: &'l [f32], seen: &HashSet<u32>) -> Cow<'l, [f32]> {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return Cow::Borrowed(logits);
        }
        let mut logits = logits.to_vec();
        for &id in seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        Cow::Owned(logits)
    }

    /// All tokens at the temperature asked for.
    fn warm(&self, logits: &[f32]) -> Vec<Candidate> {
        // Shifting by the best first keeps tiny temperatures finite where it matters.
        let max = logits[best(logits) as usize];
        let temperature = self.sampling.temperature;
        (0..)
            .zip(logits)
            .map(|(id, &logit)| {
                let logit = (logit - max) / temperature;
                Candidate { id, logit, weight: f64::from(logit).exp() }
            })
            .collect()
    }
}

/// The most likely token, the lowest id of equals.
fn best(logits: &[f32]) -> u32 {
    let better = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
    (1..logits.len()).fold(0, better) as u32
}

fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k >= candidates.len() {
        return;
    }
    let mut logits: Vec<f32> = candidates.iter().map(|candidate| candidate.logit).collect();
    let (_, &mut threshold, _) = logits.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    candidates.retain(|candidate| candidate.logit >= threshold);
}

fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let wanted = f64::from(p) * total;
    // Few tokens usually hold the mass: rank only as many as it takes.
    let mut ranked = 0;
    let mut mass = 0.0;
    let mut chunk = 64;
    while ranked < candidates.len() {
        let rest = &mut candidates[ranked..];
        let count = chunk.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count - 1, by_rank);
        }
        rest[..count].sort_unstable_by(by_rank);
        for candidate in &rest[..count] {
            // The first token always stays.
            if ranked > 0 && mass >= wanted {
                candidates.truncate(ranked);
                return;
            }
            mass += candidate.weight;
            ranked += 1;
        }
        chunk *= 4;
    }
}

/// The token whose share of the total weight covers `u`.
fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut rest = u * total;
    for candidate in candidates {
        rest -= candidate.weight;
        if rest < 0.0 {
            return candidate.id;
        }
    }
    // Rounding can leave a trace of the mass over: it belongs to the last token that has any.
    let last = candidates.iter().rev().find(|candidate| candidate.weight > 0.0);
    last.map_or(0, |candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(&Sampling { seed: Some(5), ..sampling }).unwrap()
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    /// Shares of each token over many positions.
    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let sampler = sampler(sampling);
        let mut counts = vec![0usize; logits.len()];
        for position in 0..20_000 {
            let id = sampler.choose(logits, &HashSet::new(), 0, position).unwrap();
            counts[id as usize] += 1;
        }
        counts.iter().map(|&count| count as f64 / 20_000.0).collect()
    }

    /// Five standard deviations of a share are at most 0.018.
    fn assert_shares(sampling: Sampling, probabilities: &[f64], expected: &[f64]) {
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32).collect();
        for (share, expected) in shares(sampling, &logits).iter().zip(expected) {
            assert!((share - expected).abs() < 0.018 && (*expected > 0.0 || *share == 0.0), "{share} {expected}");
        }
    }

    const FOUR: [f64; 4] = [0.1, 0.5, 0.15, 0.25];

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        assert_shares(warm(), &FOUR, &FOUR);
    }

    #[test]
    fn temperature_sharpens() {
        let squares: f64 = FOUR.iter().map(|p| p * p).sum();
        let expected = FOUR.map(|p| p * p / squares);
        assert_shares(Sampling { temperature: 0.5, ..warm() }, &FOUR, &expected);
    }

    #[test]
    fn top_k_keeps_ties() {
        assert_shares(Sampling { top_k: Some(2), ..warm() }, &FOUR, &[0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        assert_shares(Sampling { top_k: Some(2), ..warm() }, &[0.2, 0.4, 0.2, 0.2], &[0.2, 0.4, 0.2, 0.2]);
        assert_shares(Sampling { top_k: Some(0), ..warm() }, &FOUR, &FOUR);
        assert_shares(Sampling { top_k: Some(99), ..warm() }, &FOUR, &FOUR);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_it() {
        assert_shares(Sampling { top_p: Some(0.6), ..warm() }, &FOUR, &[0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        assert_shares(Sampling { top_p: Some(0.0), ..warm() }, &FOUR, &[0.0, 1.0, 0.0, 0.0]);
        assert_shares(Sampling { top_p: Some(1.0), ..warm() }, &FOUR, &FOUR);
    }

    #[test]
    fn top_p_over_many_tokens_equals_a_full_sort() {
        let logits: Vec<f32> = (0..3000).map(|i| ((i * 7919) % 3000) as f32 / 1000.0).collect();
        for p in [0.1f32, 0.5, 0.9, 0.999] {
            let mut kept = sampler(warm()).warm(&logits);
            let mut sorted = kept.clone();
            sorted.sort_by(by_rank);
            let total: f64 = sorted.iter().map(|c| c.weight).sum();
            let mut before = 0.0;
            sorted.retain(|c| {
                let keep = before < f64::from(p) * total;
                before += c.weight;
                keep
            });
            keep_top_p(&mut kept, p);
            let ids = |list: &[Candidate]| list.iter().map(|c| c.id).collect::<Vec<_>>();
            assert_eq!(ids(&kept), ids(&sorted), "{p}");
        }
    }

    #[test]
    fn min_p_is_a_share_of_the_best() {
        assert_shares(Sampling { min_p: Some(0.4), ..warm() }, &FOUR, &[0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        assert_shares(Sampling { min_p: Some(1.0), ..warm() }, &FOUR, &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_comes_before_top_p() {
        // Among the two best alone, 0.5 is two thirds of the mass: top-p 0.6 then keeps one token, not two.
        let sampling = Sampling { top_k: Some(2), top_p: Some(0.6), ..warm() };
        assert_shares(sampling, &FOUR, &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn repetition_penalty_divides_positive_and_multiplies_negative_logits() {
        let sampler = sampler(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        let seen = HashSet::from([0, 2, 99]);
        let logits = [4.0, 3.0, -1.0, -1.5];
        assert_eq!(*sampler.penalised(&logits, &seen), [2.0, 3.0, -2.0, -1.5]);
        assert_eq!(sampler.choose(&logits, &seen, 0, 0).unwrap(), 1);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_needs_no_seed() {
        let sampler = Sampler::new(&Sampling::default()).unwrap();
        assert_eq!(sampler.choose(&[1.0, 2.0, 2.0], &HashSet::new(), 0, 0).unwrap(), 1);
        assert_eq!(sampler.seed(), None);
        assert!(Sampler::new(&warm()).unwrap().seed().is_some());
    }

    #[test]
    fn tiny_temperatures_are_greedy() {
        let sampling = Sampling { temperature: f32::MIN_POSITIVE, ..warm() };
        assert_shares(sampling, &FOUR, &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for sampling in [Sampling::default(), warm()] {
                let error = sampler(sampling).choose(&[0.0, bad], &HashSet::new(), 0, 3).unwrap_err();
                assert!(error.to_string().contains("position 3"), "{error}");
            }
        }
        assert!(sampler(warm()).choose(&[], &HashSet::new(), 0, 0).is_err());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let base = Sampling::default;
        for sampling in [
            Sampling { temperature: -1.0, ..base() },
            Sampling { temperature: f32::NAN, ..base() },
            Sampling { top_p: Some(1.5), ..base() },
            Sampling { top_p: Some(f32::NAN), ..base() },
            Sampling { min_p: Some(-0.1), ..base() },
            Sampling { repetition_penalty: 0.0, ..base() },
        ] {
            assert!(matches!(Sampler::new(&sampling), Err(Error::Input(_))), "{sampling:?}");
        }
    }
}
