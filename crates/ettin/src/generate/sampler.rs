//! From a row of logits to the next token.
//!
//! Semantics and order are those of transformers 5.23's logits processors: repetition penalty, temperature, top-h,
//! top-k (ties with the k-th stay), top-p (the token that crosses p stays), min-p, typical-p, epsilon, eta. What is
//! left is drawn by a race (Gumbel-max): every token has an exponential random number of its own, and the one that is
//! smallest for its probability wins. Two models that nearly agree therefore mostly draw the same token, which is what
//! speculative decoding lives on.

use std::cmp::Ordering;
use std::sync::Arc;

use super::random::{self, Draws};
use super::shaping::{Place, Shaping, penalise};
use super::{Sampling, warpers};
use crate::{Error, Result};

/// Chooses tokens; holds no state, so that the choice for one sequence never depends on another.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
}

/// Memory for [`Sampler::choose`], as large as the vocabulary and used again for every token.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Logits as they are changed.
    logits: Vec<f32>,
    /// Tokens already penalised.
    penalised: Vec<bool>,
    ranks: Ranks,
}

/// Memory for the cuts of a distribution.
#[derive(Debug, Default)]
struct Ranks {
    /// Logits in the order of a selection.
    ranked: Vec<f32>,
    candidates: Vec<Contender>,
}

/// A token still in the running; the logit is at the temperature asked for, and 0 for the most likely one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contender {
    pub(super) id: u32,
    pub(super) logit: f32,
}

impl Contender {
    /// Its probability as a share of the most likely token's.
    pub(super) fn weight(self) -> f64 {
        f64::from(self.logit.exp())
    }
}

impl Sampler {
    /// Checks the settings; draws a seed if one is needed and none is given.
    ///
    /// # Errors
    /// [`Error::Input`] for settings out of range.
    pub fn new(sampling: &Sampling) -> Result<Self> {
        let Sampling { temperature, top_p, min_p, typical_p, repetition_penalty, seed, .. } = *sampling;
        let Sampling { top_h, epsilon_cutoff, eta_cutoff, .. } = *sampling;
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
        share("top-h", top_h)?;
        share("typical-p", typical_p)?;
        share("the epsilon cut-off", epsilon_cutoff)?;
        share("the eta cut-off", eta_cutoff)?;
        Ok(Self { sampling: sampling.clone(), seed: seed.unwrap_or_else(random::draw_seed) })
    }

    /// The seed, unless nothing is drawn.
    pub fn seed(&self) -> Option<u64> {
        (!self.is_greedy()).then_some(self.seed)
    }

    fn is_greedy(&self) -> bool {
        self.sampling.temperature == 0.0
    }

    /// The token that follows `history`, which is the whole sequence, in sample `sample`: the logits are those after
    /// its last token.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for logits of which one is NaN or +∞, or all are −∞.
    pub fn choose(&self, logits: &[f32], history: &[u32], sample: u64, scratch: &mut Scratch) -> Result<u32> {
        check(logits)?;
        if self.sampling.repetition_penalty == 1.0 {
            return self.pick(logits, history.len(), sample, &mut scratch.ranks);
        }
        let Scratch { logits: own, penalised, ranks } = scratch;
        own.clear();
        own.extend_from_slice(logits);
        penalise(own, history, self.sampling.repetition_penalty, penalised);
        self.pick(own, history.len(), sample, ranks)
    }

    /// Chooses from logits that are as they should be; forbidden tokens have −∞.
    fn pick(&self, logits: &[f32], position: usize, sample: u64, ranks: &mut Ranks) -> Result<u32> {
        let best = best(logits);
        let max = logits[best as usize];
        if max == f32::NEG_INFINITY {
            return Err(Error::input(format!(
                "no token is allowed at position {position}: the settings of generation forbid them all"
            )));
        }
        if self.is_greedy() {
            return Ok(best);
        }
        let Ranks { ranked, candidates } = ranks;
        let sampling = &self.sampling;
        // Shifting by the best first keeps tiny temperatures finite where it matters.
        let warm = |logit: f32| (logit - max) / sampling.temperature;
        let top_k = sampling.top_k.filter(|&k| 0 < k && k < logits.len());
        let kth = |ranked: &mut Vec<f32>, k: usize| *ranked.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
        candidates.clear();
        let all = (0..).zip(logits).map(|(id, &logit)| Contender { id, logit: warm(logit) });
        if let Some(h) = sampling.top_h {
            candidates.extend(all);
            warpers::keep_top_h(candidates, h);
            if let Some(k) = top_k.filter(|&k| k < candidates.len()) {
                ranked.clear();
                ranked.extend(candidates.iter().map(|candidate| candidate.logit));
                let lowest = kth(ranked, k);
                candidates.retain(|candidate| candidate.logit >= lowest);
            }
        } else {
            let lowest = top_k.map_or(f32::NEG_INFINITY, |k| {
                ranked.clear();
                ranked.extend(logits.iter().map(|&logit| warm(logit)));
                kth(ranked, k)
            });
            candidates.extend(all.filter(|candidate| candidate.logit >= lowest));
        }
        if let Some(p) = sampling.top_p.filter(|&p| p < 1.0) {
            keep_top_p(candidates, p);
        }
        if let Some(p) = sampling.min_p {
            candidates.retain(|candidate| candidate.weight() >= f64::from(p));
        }
        if let Some(mass) = sampling.typical_p.filter(|&mass| mass < 1.0) {
            warpers::keep_typical(candidates, mass);
        }
        if let Some(epsilon) = sampling.epsilon_cutoff.filter(|&epsilon| epsilon > 0.0) {
            warpers::cut_epsilon(candidates, epsilon);
        }
        if let Some(epsilon) = sampling.eta_cutoff.filter(|&epsilon| epsilon > 0.0) {
            warpers::cut_eta(candidates, epsilon);
        }
        let likeliest = Contender { id: best, logit: 0.0 };
        let first = match sampling.typical_p {
            // It may have left the likeliest out.
            Some(_) => candidates.iter().copied().min_by(by_rank).unwrap_or(likeliest),
            None => likeliest,
        };
        Ok(race(candidates, first, Draws::new(self.seed, sample, position)))
    }
}

/// A sampler behind the changes to logits that a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct Chooser {
    sampler: Sampler,
    /// None where nothing is changed.
    shaping: Option<Arc<Shaping>>,
    /// Tokens that end a text.
    ends: Vec<u32>,
}

impl Chooser {
    /// # Errors
    /// [`Error::Input`] for settings out of range.
    pub(crate) fn new(sampling: &Sampling, shaping: &Arc<Shaping>, ends: Vec<u32>) -> Result<Self> {
        shaping.check()?;
        let shaping = (!shaping.is_empty()).then(|| shaping.clone());
        Ok(Self { sampler: Sampler::new(sampling)?, shaping, ends })
    }

    /// The seed, unless nothing is drawn.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.sampler.seed()
    }

    /// Whether a token ends the text.
    pub(crate) fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The token that follows `tokens`, prompt included, as [`Sampler::choose`].
    ///
    /// # Errors
    /// [`Error::NotFinite`] as there; [`Error::Input`] where no token is allowed.
    pub(crate) fn choose(&self, logits: &[f32], tokens: &[u32], place: Place, scratch: &mut Scratch) -> Result<u32> {
        let Some(shaping) = &self.shaping else {
            return self.sampler.choose(logits, tokens, place.sample, scratch);
        };
        check(logits)?;
        let Scratch { logits: own, penalised, ranks } = scratch;
        own.clear();
        own.extend_from_slice(logits);
        shaping.before_penalty(own, tokens, place, penalised);
        let penalty = self.sampler.sampling.repetition_penalty;
        if penalty != 1.0 {
            penalise(own, tokens, penalty, penalised);
        }
        shaping.behind_penalty(own, tokens, place, &self.ends);
        self.sampler.pick(own, tokens.len(), place.sample, ranks)
    }
}

/// Fails for logits that a model cannot mean.
fn check(logits: &[f32]) -> Result<()> {
    let possible = |chunk: &[f32]| chunk.iter().any(|&logit| logit > f32::NEG_INFINITY);
    match all_below_infinity(logits) && logits.chunks(LANES).any(possible) {
        true => Ok(()),
        // Who has the model says where it comes from.
        false => Err(Error::NotFinite { place: "the logits".to_owned(), dtype: "the number format".to_owned() }),
    }
}

/// Values that a loop can treat at once; the compiler turns the loops over them into vector instructions.
const LANES: usize = 64;

/// Whether no logit is NaN or +∞; −∞ excludes a token.
fn all_below_infinity(logits: &[f32]) -> bool {
    logits.chunks(LANES).all(|chunk| chunk.iter().fold(true, |below, &logit| below & (logit < f32::INFINITY)))
}

/// The most likely token, the lowest id of equals.
fn best(logits: &[f32]) -> u32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in logits.chunks(LANES) {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == max).unwrap_or(0) as u32
}

pub(super) fn by_rank(a: &Contender, b: &Contender) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

fn keep_top_p(candidates: &mut Vec<Contender>, p: f32) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight()).sum();
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
            mass += candidate.weight();
            ranked += 1;
        }
        chunk *= 4;
    }
}

/// Draws one of the candidates, of which `first` is the most likely: that of the largest `logit − ln e`, where `e` is
/// the token's exponential random number (Gumbel-max: Gumbel 1954; Maddison et al., arXiv 1411.0030).
fn race(candidates: &[Contender], first: Contender, draws: Draws) -> u32 {
    // The likeliest is a good first mark: few others then need their logarithms.
    let (mut winner, mut mark) = (first.id, f64::from(first.logit) - time(number(&draws, first.id)).ln());
    let mut quad = (u32::MAX, [0; 4]);
    for &Contender { id, logit } in candidates {
        let logit = f64::from(logit);
        // No number of 32 bits makes up for more than this.
        if logit + MAX_NOISE <= mark {
            continue;
        }
        if quad.0 != id / 4 {
            quad = (id / 4, draws.quad(id / 4));
        }
        let number = quad.1[id as usize % 4];
        // A bound on −ln e from the number's leading zeros alone.
        if logit + f64::from(number.leading_zeros() + 1) * std::f64::consts::LN_2 <= mark {
            continue;
        }
        let score = logit - time(number).ln();
        if score > mark {
            (winner, mark) = (id, score);
        }
    }
    winner
}

/// The largest `−ln e` of all numbers, rounded up: e is at least 2⁻³³.
const MAX_NOISE: f64 = 22.9;

/// An exponential random number from 32 random bits.
fn time(number: u32) -> f64 {
    let uniform = (f64::from(number) + 0.5) / (1u64 << 32) as f64;
    -(-uniform).ln_1p()
}

fn number(draws: &Draws, id: u32) -> u32 {
    draws.quad(id / 4)[id as usize % 4]
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

    /// Shares of each token over many samples.
    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let sampler = sampler(sampling);
        let mut counts = vec![0usize; logits.len()];
        let scratch = &mut Scratch::default();
        for sample in 0..20_000 {
            let id = sampler.choose(logits, &[], sample, scratch).unwrap();
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
            let mut kept: Vec<_> =
                (0..).zip(&logits).map(|(id, &logit)| Contender { id, logit: logit - 3.0 }).collect();
            let mut sorted = kept.clone();
            sorted.sort_by(by_rank);
            let total: f64 = sorted.iter().map(|c| c.weight()).sum();
            let mut before = 0.0;
            sorted.retain(|c| {
                let keep = before < f64::from(p) * total;
                before += c.weight();
                keep
            });
            keep_top_p(&mut kept, p);
            let ids = |list: &[Contender]| list.iter().map(|c| c.id).collect::<Vec<_>>();
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
        // Once each, however often they occur; ids beyond the logits are ignored.
        let history = [0, 2, 99, 0];
        let mut logits = [4.0, 3.0, -1.0, -1.5];
        for _ in 0..2 {
            assert_eq!(sampler.choose(&logits, &history, 0, &mut Scratch::default()).unwrap(), 1);
        }
        penalise(&mut logits, &history, 2.0, &mut vec![true; 9]);
        assert_eq!(logits, [2.0, 3.0, -2.0, -1.5]);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_needs_no_seed() {
        let sampler = Sampler::new(&Sampling::default()).unwrap();
        assert_eq!(sampler.choose(&[1.0, 2.0, 2.0], &[], 0, &mut Scratch::default()).unwrap(), 1);
        assert_eq!(sampler.seed(), None);
        assert!(Sampler::new(&warm()).unwrap().seed().is_some());
    }

    #[test]
    fn the_likeliest_is_found_in_any_lane() {
        for len in [1, 63, 64, 65, 1000] {
            for at in [0, len / 2, len - 1] {
                let mut logits = vec![-3.0; len];
                logits[at] = -2.0;
                assert_eq!(best(&logits), at as u32, "{at} of {len}");
            }
        }
        let mut logits = vec![0.0; 200];
        logits[130] = f32::NAN;
        let below = |logits| all_below_infinity(logits);
        assert!(!below(&logits) && below(&logits[..130]) && below(&logits[131..]));
    }

    #[test]
    fn shortcuts_of_the_race_change_no_winner() {
        let logits: Vec<f32> = (0..3000).map(|i| -(((i * 7919) % 3000) as f32) / 70.0).collect();
        let candidates: Vec<_> = (0..).zip(&logits).map(|(id, &logit)| Contender { id, logit }).collect();
        let mut winners = std::collections::HashSet::new();
        for sample in 0..500 {
            let draws = Draws::new(3, sample, 9);
            let score = |c: &Contender| f64::from(c.logit) - time(number(&draws, c.id)).ln();
            let slow = candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap().id;
            assert_eq!(race(&candidates, candidates[0], draws), slow);
            winners.insert(slow);
        }
        assert!(winners.len() > 100);
    }

    /// Total variation d between two models: of all couplings the best agrees with probability 1 − d, and this one with
    /// at least (1 − d) / (1 + d) (Daliri et al., arXiv 2408.07978).
    #[test]
    fn near_distributions_mostly_draw_the_same_token() {
        let sampler = sampler(warm());
        let near: Vec<f32> = (0..50).map(|i| ((i * 37) % 50) as f32 / 10.0).collect();
        let far: Vec<f32> = (0..50).map(|i| near[i] + ((i * 13) % 7) as f32 / 7.0).collect();
        let share = |logits: &[f32]| {
            let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            logits.iter().map(|&l| f64::from(l).exp() / total).collect::<Vec<_>>()
        };
        let distance: f64 = share(&near).iter().zip(share(&far)).map(|(a, b)| (a - b).abs() / 2.0).sum();
        let scratch = &mut Scratch::default();
        let mut choose = |logits: &[f32], sample| sampler.choose(logits, &[], sample, scratch).unwrap();
        let equal = (0..20_000).filter(|&sample| choose(&near, sample) == choose(&far, sample)).count();
        let agreement = equal as f64 / 20_000.0;
        assert!(distance > 0.1, "{distance}");
        assert!(agreement > (1.0 - distance) / (1.0 + distance) && agreement < 1.0 - distance + 0.018, "{agreement}");
    }

    #[test]
    fn tiny_temperatures_are_greedy() {
        let sampling = Sampling { temperature: f32::MIN_POSITIVE, ..warm() };
        assert_shares(sampling, &FOUR, &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let excluded = f32::NEG_INFINITY;
        for bad in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[excluded, excluded], &[]] {
            for sampling in [Sampling::default(), warm()] {
                let error = sampler(sampling).choose(bad, &[1; 3], 0, &mut Scratch::default()).unwrap_err();
                assert!(matches!(error, Error::NotFinite { .. }), "{bad:?}: {error}");
            }
        }
    }

    #[test]
    fn an_excluded_token_is_never_chosen() {
        let some = |sampling: Sampling| Sampling { top_k: Some(3), top_p: Some(0.99), min_p: Some(0.0), ..sampling };
        for sampling in [Sampling::default(), warm(), some(warm()), Sampling { repetition_penalty: 1.3, ..warm() }] {
            let sampler = sampler(sampling);
            for sample in 0..50 {
                let logits = [f32::NEG_INFINITY, 0.5, f32::NEG_INFINITY, 0.4];
                let chosen = sampler.choose(&logits, &[0, 1], sample, &mut Scratch::default()).unwrap();
                assert!(chosen % 2 == 1, "{chosen}");
            }
        }
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
