//! Cuts of the distribution that look at more than rank: top-h, typical-p, and the cut-offs epsilon and eta of
//! transformers 5.23.
//!
//! Candidates are tokens still in the running; each cut takes the distribution that the cuts before it left.

use super::sampler::{Contender, by_rank};

/// Top-h looks at this many tokens.
const TOP_H_TOKENS: usize = 100;

/// Keeps the likeliest tokens as long as their entropy in all stays within the share `h` of the hundred likeliest ones'
/// entropy.
pub(super) fn keep_top_h(candidates: &mut Vec<Contender>, h: f32) {
    if candidates.len() > TOP_H_TOKENS {
        candidates.select_nth_unstable_by(TOP_H_TOKENS - 1, by_rank);
        candidates.truncate(TOP_H_TOKENS);
    }
    candidates.sort_unstable_by(by_rank);
    let terms: Vec<f64> = surprises(candidates).map(|(p, surprise)| p * surprise).collect();
    let most = f64::from(h) * terms.iter().sum::<f64>();
    let mut sum = 0.0;
    let within = terms.iter().take_while(|&&term| {
        sum += term;
        sum <= most
    });
    let kept = within.count().max(1);
    candidates.truncate(kept);
}

/// Keeps the tokens whose surprise is nearest to the expected one, until they hold the probability `mass` (Meister et
/// al., arXiv 2202.00666). Equals of the last one stay.
pub(super) fn keep_typical(candidates: &mut Vec<Contender>, mass: f32) {
    let entropy: f64 = surprises(candidates).map(|(p, surprise)| p * surprise).sum();
    let mut ranked: Vec<(f64, f64)> =
        surprises(candidates).map(|(p, surprise)| ((surprise - entropy).abs(), p)).collect();
    let distances: Vec<f64> = ranked.iter().map(|&(distance, _)| distance).collect();
    ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0.0;
    let below = ranked.iter().take_while(|&&(_, p)| {
        sum += p;
        sum < f64::from(mass)
    });
    let last = below.count().min(ranked.len().saturating_sub(1));
    let Some(&(farthest, _)) = ranked.get(last) else { return };
    let mut distances = distances.into_iter();
    candidates.retain(|_| distances.next().is_some_and(|distance| distance <= farthest));
}

/// Leaves tokens out that are less likely than `epsilon`, but for the likeliest.
pub(super) fn cut_epsilon(candidates: &mut Vec<Contender>, epsilon: f32) {
    cut_below(candidates, f64::from(epsilon));
}

/// As [`cut_epsilon`], with a bound that falls where the distribution is flat (Hewitt et al., arXiv 2210.15191).
pub(super) fn cut_eta(candidates: &mut Vec<Contender>, epsilon: f32) {
    let entropy: f64 = surprises(candidates).map(|(p, surprise)| p * surprise).sum();
    let epsilon = f64::from(epsilon);
    cut_below(candidates, epsilon.min(epsilon.sqrt() * (-entropy).exp()));
}

fn cut_below(candidates: &mut Vec<Contender>, least: f64) {
    let best = candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = candidates.iter().map(|candidate| candidate.weight()).sum();
    candidates.retain(|candidate| candidate.weight() / total >= least || candidate.logit >= best);
}

/// Each candidate's probability and its negative logarithm. Those without a probability have no surprise.
fn surprises(candidates: &[Contender]) -> impl Iterator<Item = (f64, f64)> {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight()).sum();
    let log_total = total.ln();
    candidates.iter().map(move |candidate| {
        let p = candidate.weight() / total;
        (p, if p > 0.0 { log_total - f64::from(candidate.logit) } else { 0.0 })
    })
}
