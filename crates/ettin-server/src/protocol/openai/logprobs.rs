//! Log-probabilities of a completion, as lm-eval and others read them.

use serde::de::{MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// What stands for a probability of zero, whose logarithm JSON cannot write. vLLM's number.
pub const MIN_LOGPROB: f32 = -9999.0;

/// A token with what the model thought of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredToken {
    /// The token's id.
    pub id: u32,
    /// The token's string.
    pub text: String,
    /// Its log-probability; none for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place, best first: ids, strings, log-probabilities.
    pub top: Vec<(u32, String, f32)>,
}

/// Four lists of equal length, one entry a token. With `echo` the prompt's tokens come first.
///
/// The end-of-text token that ends a generation has an entry, too: lm-eval drops the last entry whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' strings.
    pub tokens: Vec<String>,
    /// The tokens' log-probabilities; null for the first token of a prompt.
    #[serde(serialize_with = "numbers")]
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens in each place, and the token itself; null for the first token of a prompt.
    #[schema(value_type = Vec<Option<std::collections::HashMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<TopLogprobs>>,
    /// Where each token begins: Unicode scalars from the start of the text.
    pub text_offset: Vec<usize>,
}

/// Log-probabilities by token string, best first. Strings are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopLogprobs(pub Vec<(String, f32)>);

impl TopLogprobs {
    /// Adds a token. Two tokens may have one string (bytes of a broken character are both `�`): the larger
    /// log-probability stays, so that the largest of all is still the greedy token's.
    fn add(&mut self, string: String, logprob: f32) {
        match self.0.iter_mut().find(|(known, _)| *known == string) {
            Some((_, known)) => *known = known.max(logprob),
            None => self.0.push((string, logprob)),
        }
    }
}

impl CompletionLogprobs {
    /// The lists for some tokens, the first of which begins at character `offset` of the text. Each place has its `k`
    /// most likely tokens and its own. `as_ids` names tokens by id (`token_id:17`).
    pub fn new(tokens: &[ScoredToken], k: usize, offset: usize, as_ids: bool) -> Self {
        let name = |id: u32, text: &str| if as_ids { format!("token_id:{id}") } else { text.to_owned() };
        let mut lists = Self::default();
        let mut offset = offset;
        for token in tokens {
            lists.top_logprobs.push(token.logprob.map(|logprob| {
                let mut top = TopLogprobs::default();
                for (id, text, logprob) in token.top.iter().take(k) {
                    top.add(name(*id, text), finite_logprob(*logprob));
                }
                top.add(name(token.id, &token.text), finite_logprob(logprob));
                top
            }));
            lists.tokens.push(name(token.id, &token.text));
            lists.token_logprobs.push(token.logprob.map(finite_logprob));
            lists.text_offset.push(offset);
            offset += token.text.chars().count();
        }
        lists
    }
}

/// A probability of zero gets [`MIN_LOGPROB`]; what else is not finite stays, and fails when it is written.
fn finite_logprob(logprob: f32) -> f32 {
    if logprob == f32::NEG_INFINITY { MIN_LOGPROB } else { logprob }
}

fn numbers<S: Serializer>(numbers: &[Option<f32>], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(numbers.len()))?;
    for number in numbers {
        if number.is_some_and(|number| !number.is_finite()) {
            return Err(S::Error::custom("a log-probability is not finite"));
        }
        list.serialize_element(number)?;
    }
    list.end()
}

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (string, logprob) in &self.0 {
            if !logprob.is_finite() {
                return Err(S::Error::custom("a log-probability is not finite"));
            }
            map.serialize_entry(string, logprob)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for TopLogprobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = TopLogprobs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("log-probabilities by token")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TopLogprobs, A::Error> {
                let mut top = TopLogprobs::default();
                while let Some((string, logprob)) = map.next_entry()? {
                    top.add(string, logprob);
                }
                Ok(top)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
