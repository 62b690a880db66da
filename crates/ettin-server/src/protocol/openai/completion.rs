//! `POST /v1/completions`: the request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::protocol::decoding::Decoding;
use crate::protocol::fault::Fault;
use crate::protocol::input::Inputs;
use crate::protocol::json::{Refused, WireRequest, one_or_many, seed};
use crate::protocol::rerank::check_truncation;

/// What a prompt may be: a text, ids, or a list of those.
pub type Prompts = Inputs;

/// Log-probabilities beside each token's own; OpenAI has 5, vLLM 20.
const MAX_LOGPROBS: usize = 20;

/// Samples of one prompt, as at OpenAI.
const MAX_SAMPLES: usize = 128;

/// A request to continue texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The model's name; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A text, ids, or a list of those. Ids are used as they are.
    pub prompt: Prompts,
    /// Tokens that are generated at most; 0 only with `echo`.
    #[serde(default = "max_tokens")]
    #[schema(default = 16)]
    pub max_tokens: usize,
    /// 0 takes the most likely token.
    #[serde(default = "one")]
    #[schema(default = 1.0, minimum = 0)]
    pub temperature: f32,
    /// Sample from the smallest set of tokens that holds this probability.
    #[serde(default = "one")]
    #[schema(default = 1.0, minimum = 0, maximum = 1)]
    pub top_p: f32,
    /// Samples of each prompt. Choice `prompt × n + sample` of the answer is one of them.
    #[serde(default = "once")]
    #[schema(default = 1, minimum = 1, maximum = 128)]
    pub n: usize,
    /// Samples that are drawn; the `n` most likely are answered. Left out: `n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of: Option<usize>,
    /// Whether the answer comes in pieces, as server-sent events.
    #[serde(default)]
    pub stream: bool,
    /// How it comes in pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Whether each token comes with its log-probability and those of so many best ones. 0: only its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 20)]
    pub logprobs: Option<usize>,
    /// Whether the answer begins with the prompt.
    #[serde(default)]
    pub echo: bool,
    /// Texts that end the generation: one, or a list of any length.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// The seed of sampling; drawn if left out.
    #[serde(default, deserialize_with = "seed", skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What is added to the logits of tokens, by id as a text: −100 to 100.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<String, f32>,
    /// Sample from so many best tokens; 0 and −1: from all (vLLM).
    #[serde(default)]
    #[schema(minimum = -1)]
    pub top_k: i64,
    /// Sample from tokens with this share of the best one's probability (vLLM).
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: f32,
    /// Sample from tokens that surprise about as much as expected, up to this probability (TGI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub typical_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already there (vLLM).
    #[serde(default = "one")]
    #[schema(default = 1.0)]
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens that the continuation holds.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: f32,
    /// Taken off as often as the continuation holds a token.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: f32,
    /// Tokens before the end-of-text token is allowed (vLLM).
    #[serde(default)]
    pub min_tokens: usize,
    /// Whether generation goes on after the end-of-text token (vLLM).
    #[serde(default)]
    pub ignore_eos: bool,
    /// Tokens that end the generation, beside the model's own (vLLM).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_token_ids: Vec<u32>,
    /// Whether the text keeps the stop text that ended it (vLLM).
    #[serde(default)]
    pub include_stop_str_in_output: bool,
    /// Whether special tokens are left out of the text (vLLM). Left out: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<bool>,
    /// Whether the model's template is put around a prompt that is a text (vLLM). Left out: the model's own way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
    /// Prompts are cut from the left to so many tokens; −1 is the model's limit (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
    /// Whether log-probabilities name tokens as `token_id:17`, which is unambiguous (vLLM).
    #[serde(default)]
    pub return_tokens_as_token_ids: bool,
    /// Whether choices carry `token_ids` and `prompt_token_ids` (vLLM).
    #[serde(default)]
    pub return_token_ids: bool,
    /// Texts that must not be generated (vLLM).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_words: Vec<String>,
    /// The only tokens that may be generated (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_token_ids: Option<Vec<u32>>,
}

/// How a stream is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Whether a last chunk carries the usage.
    #[serde(default)]
    pub include_usage: bool,
}

fn max_tokens() -> usize {
    16
}

fn once() -> usize {
    1
}

fn one() -> f32 {
    1.0
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

impl CompletionRequest {
    /// Samples that are drawn of each prompt.
    pub fn drawn(&self) -> usize {
        self.best_of.unwrap_or(self.n)
    }

    /// Whether a stream ends with a chunk of the usage.
    pub fn includes_usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage)
    }

    /// How each prompt is continued.
    ///
    /// # Errors
    /// A key of `logit_bias` is no token id; [`WireRequest::validate`] has refused that already.
    pub fn decoding(&self) -> Result<Decoding, Fault> {
        Ok(Decoding {
            max_new_tokens: self.max_tokens,
            min_new_tokens: self.min_tokens,
            temperature: self.temperature,
            top_k: usize::try_from(self.top_k).ok().filter(|&k| k > 0),
            top_p: Some(self.top_p).filter(|&p| p < 1.0),
            min_p: Some(self.min_p).filter(|&p| p > 0.0),
            typical_p: self.typical_p.filter(|&p| p < 1.0),
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            stop: self.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            stop_ids: self.stop_token_ids.clone(),
            keep_stop: self.include_stop_str_in_output,
            ignore_eos: self.ignore_eos,
            logit_bias: self.biases()?,
            bad_words: self.bad_words.clone(),
            allowed_ids: self.allowed_token_ids.clone(),
        })
    }

    fn biases(&self) -> Result<Vec<(u32, f32)>, Fault> {
        let bias = |(id, &bias): (&String, &f32)| match id.parse() {
            Ok(id) => Ok((id, bias)),
            Err(_) => Err(Fault::field("logit_bias", format!("the key `{id}` of `logit_bias` is no token id"))),
        };
        let mut biases: Vec<(u32, f32)> = self.logit_bias.iter().map(bias).collect::<Result<_, _>>()?;
        biases.sort_by_key(|(id, _)| *id);
        Ok(biases)
    }
}

/// Checks that a number of a request lies in a range.
pub(in crate::protocol) fn check_range(
    field: &str,
    value: f32,
    holds: impl Fn(f32) -> bool,
    range: &str,
) -> Result<(), Fault> {
    if holds(value) { Ok(()) } else { Err(Fault::field(field, format!("`{field}` is {value}; it must be {range}"))) }
}

impl WireRequest for CompletionRequest {
    const REFUSED: &'static [Refused] = &[
        Refused::always("messages", "these are models of text without a chat template; send `prompt`"),
        Refused::unless_empty("suffix", "the decoders continue text, they do not fill in; use an encoder's fill-mask"),
        Refused::always("prompt_logprobs", "send `echo: true` with `logprobs`, which has the prompt's tokens"),
        Refused::unless_empty("tools", "these models call no tools"),
        Refused::unless_empty("prompt_embeds", "send texts or token ids"),
        Refused::unless("response_format", |value| value["type"] == "text", "decoding follows no grammar"),
        Refused::unless_empty("structured_outputs", "decoding follows no grammar"),
        Refused::unless_empty("guided_json", "decoding follows no grammar"),
        Refused::unless_empty("guided_regex", "decoding follows no grammar"),
        Refused::unless_empty("guided_choice", "decoding follows no grammar; rank choices by their log-probability"),
        Refused::unless_empty("guided_grammar", "decoding follows no grammar"),
        Refused::unless_empty("grammar", "decoding follows no grammar"),
        Refused::unless_empty("logits_processors", "code of requests is not run"),
        Refused::unless_empty(
            "use_beam_search",
            "decoding samples or is greedy; `best_of` keeps the most likely samples",
        ),
        Refused::unless("length_penalty", is_one, "it belongs to beam search, which is not there"),
        Refused::unless_empty("early_stopping", "it belongs to beam search, which is not there"),
    ];

    fn validate(&self) -> Result<(), Fault> {
        self.prompt.check_ids_not_empty("prompt")?;
        if self.max_tokens == 0 && !self.echo {
            return Err(Fault::field("max_tokens", "`max_tokens` is 0, which has a meaning only with `echo: true`"));
        }
        check_range("temperature", self.temperature, |t| t >= 0.0, "0 or more")?;
        check_range("top_p", self.top_p, |p| p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        check_range("min_p", self.min_p, |p| (0.0..=1.0).contains(&p), "between 0 and 1")?;
        if let Some(p) = self.typical_p {
            check_range("typical_p", p, |p| p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        }
        check_range("repetition_penalty", self.repetition_penalty, |p| p > 0.0, "above 0")?;
        for (field, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            check_range(field, penalty, |p| p.abs() <= 2.0, "between -2 and 2")?;
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(Fault::empty("allowed_token_ids"));
        }
        if self.bad_words.iter().any(String::is_empty) {
            return Err(Fault::field("bad_words", "`bad_words` has an empty text, which would forbid everything"));
        }
        if self.top_k < -1 {
            return Err(Fault::field("top_k", format!("`top_k` is {}; it must be -1 or more", self.top_k)));
        }
        if !(1..=MAX_SAMPLES).contains(&self.n) {
            return Err(Fault::field("n", format!("`n` is {}; it must be 1 to {MAX_SAMPLES}", self.n)));
        }
        if let Some(best_of) = self.best_of {
            if !(self.n..=MAX_SAMPLES).contains(&best_of) {
                let message = format!("`best_of` is {best_of}; it must be `n` ({}) to {MAX_SAMPLES}", self.n);
                return Err(Fault::field("best_of", message));
            }
            if self.stream && best_of > self.n {
                let message = "`best_of` above `n` cannot stream: the best is known only at the end";
                return Err(Fault::field("best_of", message));
            }
        }
        if self.stream_options.is_some() && !self.stream {
            return Err(Fault::field("stream_options", "`stream_options` has a meaning only with `stream: true`"));
        }
        if let Some(k) = self.logprobs.filter(|&k| k > MAX_LOGPROBS) {
            return Err(Fault::field("logprobs", format!("`logprobs` is {k}; it must be 0 to {MAX_LOGPROBS}")));
        }
        if self.min_tokens > self.max_tokens {
            let message = format!("`min_tokens` is {}, more than `max_tokens` ({})", self.min_tokens, self.max_tokens);
            return Err(Fault::field("min_tokens", message));
        }
        for &bias in self.logit_bias.values() {
            check_range("logit_bias", bias, |bias| bias.abs() <= 100.0, "between -100 and 100")?;
        }
        self.biases()?;
        check_truncation(self.truncate_prompt_tokens)
    }
}
