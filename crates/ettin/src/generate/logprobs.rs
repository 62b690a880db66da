//! Log-probabilities of chosen tokens.

use ettin_kernels::vocabulary;

use crate::Isa;

/// Log-probabilities of a token and of the likeliest tokens at its place: the log-softmax of the model's own logits,
/// before anything that a request asks for (penalties, temperature, cuts) changes them. A token that the model excludes
/// has −∞.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Logprobs {
    /// That of the token.
    pub token: f32,
    /// The likeliest tokens with theirs, the likeliest first, the lower id first of equals. The token is among them
    /// only where it is one of them.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Those of `token` and the `count` likeliest in a row of logits.
    pub(super) fn of(isa: Isa, logits: &[f32], token: u32, count: usize) -> Self {
        let sum = vocabulary::log_sum_exp(isa, logits);
        // One formula, so that a token has the same number in both places.
        let logprob = |logit: f32| (f64::from(logit) - sum) as f32;
        Self {
            token: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit)),
            top: vocabulary::top_k(logits, count).into_iter().map(|(id, logit)| (id as u32, logprob(logit))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_log_softmax() {
        let never = f32::NEG_INFINITY;
        let logits = [1.0f32, 3.0, never, 3.0];
        let Logprobs { token, top } = Logprobs::of(Isa::best(), &logits, 0, 2);
        let sum = (1f64.exp() + 2.0 * 3f64.exp()).ln();
        assert!((f64::from(token) - (1.0 - sum)).abs() < 1e-6, "{token}");
        assert_eq!(top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [1, 3]);
        assert!(top.iter().all(|&(_, logprob)| (f64::from(logprob) - (3.0 - sum)).abs() < 1e-6), "{top:?}");
        assert_eq!(Logprobs::of(Isa::best(), &logits, 2, 0), Logprobs { token: never, top: Vec::new() });
    }
}
