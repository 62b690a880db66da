//! How the next token is chosen: the settings.

use crate::setters::setters;

/// How the next token is chosen.
///
/// Order of the steps, as in transformers: repetition penalty, temperature, top-h, top-k, top-p, min-p, typical-p,
/// epsilon, eta.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// 0 takes the most likely token (greedy, the default).
    pub temperature: f32,
    /// Keep the k most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens that holds this probability.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the best one's probability.
    pub min_p: Option<f32>,
    /// Of the hundred most likely tokens, keep the first ones that together hold this share of their entropy.
    pub top_h: Option<f32>,
    /// Keep the tokens that surprise about as much as expected, up to this probability.
    pub typical_p: Option<f32>,
    /// Keep tokens with at least this probability.
    pub epsilon_cutoff: Option<f32>,
    /// Keep tokens with at least this probability, or less where many tokens are likely.
    pub eta_cutoff: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already there; 1 is off.
    pub repetition_penalty: f32,
    /// The seed; drawn when missing.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            top_h: None,
            typical_p: None,
            epsilon_cutoff: None,
            eta_cutoff: None,
            repetition_penalty: 1.0,
            seed: None,
        }
    }
}

setters!(Sampling {
    /// At this temperature; 0 is greedy.
    with_temperature(temperature: f32);
    /// From the k most likely tokens.
    with_top_k(top_k: impl Into<Option<usize>>);
    /// From the smallest set of tokens that holds this probability.
    with_top_p(top_p: impl Into<Option<f32>>);
    /// From tokens with at least this share of the best one's probability.
    with_min_p(min_p: impl Into<Option<f32>>);
    /// From the first tokens that together hold this share of the entropy.
    with_top_h(top_h: impl Into<Option<f32>>);
    /// From tokens that surprise about as much as expected, up to this probability.
    with_typical_p(typical_p: impl Into<Option<f32>>);
    /// From tokens with at least this probability.
    with_epsilon_cutoff(epsilon_cutoff: impl Into<Option<f32>>);
    /// From tokens with at least this probability, or less where many tokens are likely.
    with_eta_cutoff(eta_cutoff: impl Into<Option<f32>>);
    /// With this penalty on tokens already there; 1 is off.
    with_repetition_penalty(repetition_penalty: f32);
    /// With this seed, or one that is drawn.
    with_seed(seed: impl Into<Option<u64>>);
});
