//! Text generation as text-generation-inference (TGI) has it, which InferenceClient speaks with a URL.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::requests::check_parameter;
use crate::protocol::decoding::Decoding;
use crate::protocol::fault::Fault;
use crate::protocol::json::{Refused, WireRequest, finite, one_or_many, refuse, seed, text_of};
use crate::protocol::openai::event_of;

/// A request to continue a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationRequest {
    /// The text.
    pub inputs: String,
    /// How it is continued.
    #[serde(default)]
    pub parameters: GenerationParameters,
    /// Whether the answer comes token by token, as server-sent events.
    #[serde(default)]
    pub stream: bool,
}

/// The parameters of a [`GenerationRequest`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationParameters {
    /// Tokens that are generated at most; 100 if left out, as in TGI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_new_tokens: Option<usize>,
    /// Whether tokens are sampled. They are, too, when a parameter of sampling is set.
    #[serde(default)]
    pub do_sample: bool,
    /// Divides logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Sample from so many best tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Sample from the smallest set of tokens that holds this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Sample from tokens that surprise about as much as expected, up to this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Taken off the logits of tokens as often as the continuation holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// The seed of sampling; drawn if left out.
    #[serde(default, deserialize_with = "seed", skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Texts that end the generation. They stay in the text, as in TGI.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// More of them: the older name, which some clients send beside the newer one.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
    /// Samples that are drawn; the most likely is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub best_of: Option<usize>,
    /// Whether the answer begins with the text of the request.
    #[serde(default)]
    pub return_full_text: bool,
    /// The text is cut from the left to so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub truncate: Option<usize>,
    /// Whether the answer has details.
    #[serde(default)]
    pub details: bool,
    /// Whether details have the tokens of the request with their log-probabilities.
    #[serde(default)]
    pub decoder_input_details: bool,
    /// So many of the best tokens in each place are part of the details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_n_tokens: Option<usize>,
}

/// Best tokens in each place; the limit of TGI is 5, that of the completions route this one.
const MAX_TOP_TOKENS: usize = 20;

/// Samples of one text, as many as the completions route draws.
const MAX_BEST_OF: usize = 128;

/// Parameters that are refused. They stand one level below the request.
const REFUSED_PARAMETERS: &[Refused] = &[
    Refused::always("grammar", "decoding follows no grammar"),
    Refused::unless_empty("watermark", "texts are not watermarked"),
    Refused::always("adapter_id", "no adapters are loaded"),
    Refused::unless("num_beams", |value| value.as_u64() == Some(1), "decoding samples or is greedy"),
    Refused::unless("num_return_sequences", |value| value.as_u64() == Some(1), "use /v1/completions with `n`"),
];

impl GenerationRequest {
    /// How the text is continued. As in TGI, greedily unless `do_sample` or a parameter of sampling is set.
    pub fn decoding(&self) -> Decoding {
        let parameters = &self.parameters;
        let stops = parameters.stop.iter().chain(&parameters.stop_sequences);
        let below_one = |p: &f32| *p < 1.0;
        let mut decoding = Decoding {
            max_new_tokens: parameters.max_new_tokens.unwrap_or(100),
            top_k: parameters.top_k.filter(|&k| k > 0),
            top_p: parameters.top_p.filter(below_one),
            typical_p: parameters.typical_p.filter(below_one),
            repetition_penalty: parameters.repetition_penalty.unwrap_or(1.0),
            frequency_penalty: parameters.frequency_penalty.unwrap_or(0.0),
            seed: parameters.seed,
            stop: stops.filter(|stop| !stop.is_empty()).cloned().collect(),
            keep_stop: true,
            ..Decoding::default()
        };
        let warped = parameters.temperature.is_some_and(|t| t != 1.0)
            || decoding.top_k.is_some()
            || decoding.top_p.is_some()
            || decoding.typical_p.is_some();
        if parameters.do_sample || warped {
            decoding.temperature = parameters.temperature.unwrap_or(1.0);
        }
        decoding
    }
}

impl WireRequest for GenerationRequest {
    fn check_refused(body: &Map<String, Value>) -> Result<(), Fault> {
        match body.get("parameters") {
            Some(Value::Object(parameters)) => {
                refuse(parameters, REFUSED_PARAMETERS).map_err(|fault| fault.within("parameters"))
            }
            _ => Ok(()),
        }
    }

    fn validate(&self) -> Result<(), Fault> {
        let parameters = &self.parameters;
        if self.inputs.is_empty() {
            return Err(Fault::empty("inputs"));
        }
        let counts = [
            ("max_new_tokens", parameters.max_new_tokens),
            ("best_of", parameters.best_of),
            ("truncate", parameters.truncate),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            let name = format!("parameters.{name}");
            return Err(Fault::field(name.clone(), format!("`{name}` must be 1 or more")));
        }
        // LangChain sends a temperature of 0.01 for greedy; clients of the hosted API send 0, which means the same.
        check_parameter("temperature", parameters.temperature, |t| t >= 0.0, "0 or more")?;
        check_parameter("top_p", parameters.top_p, |p| p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        check_parameter("typical_p", parameters.typical_p, |p| p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        check_parameter("repetition_penalty", parameters.repetition_penalty, |p| p > 0.0, "above 0")?;
        check_parameter("frequency_penalty", parameters.frequency_penalty, |p| p.abs() <= 2.0, "between -2 and 2")?;
        if let Some(count) = parameters.top_n_tokens.filter(|&count| count > MAX_TOP_TOKENS) {
            let name = "parameters.top_n_tokens";
            return Err(Fault::field(name, format!("`{name}` is {count}; it must be 0 to {MAX_TOP_TOKENS}")));
        }
        if let Some(best_of) = parameters.best_of.filter(|&best_of| best_of > MAX_BEST_OF) {
            let name = "parameters.best_of";
            return Err(Fault::field(name, format!("`{name}` is {best_of}; it must be 1 to {MAX_BEST_OF}")));
        }
        if self.stream && parameters.best_of.is_some_and(|best_of| best_of > 1) {
            let message = "`parameters.best_of` cannot stream: the best is known only at the end";
            return Err(Fault::field("parameters.best_of", message));
        }
        Ok(())
    }
}

/// Why a generation ended, in TGI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GenerationEnd {
    /// At the limit of tokens.
    Length,
    /// At the end-of-text token.
    EosToken,
    /// At a stop text.
    StopSequence,
}

/// A text that goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GeneratedText {
    /// The text.
    pub generated_text: String,
    /// The details, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<GenerationDetails>,
}

/// Details of a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationDetails {
    /// Why it ended.
    pub finish_reason: GenerationEnd,
    /// How many tokens were generated.
    pub generated_tokens: usize,
    /// The seed.
    pub seed: Option<u64>,
    /// The tokens of the request, if asked for.
    pub prefill: Vec<PrefillToken>,
    /// The tokens that were generated.
    pub tokens: Vec<GeneratedToken>,
    /// The best tokens in each place, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_tokens: Option<Vec<Vec<GeneratedToken>>>,
}

/// A token of the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrefillToken {
    /// The token's id.
    pub id: u32,
    /// The token's string.
    pub text: String,
    /// Its log-probability; null for the first.
    #[serde(serialize_with = "finite::optional")]
    pub logprob: Option<f32>,
}

/// A token that was generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GeneratedToken {
    /// The token's id.
    pub id: u32,
    /// The token's string.
    pub text: String,
    /// Its log-probability.
    #[serde(serialize_with = "finite::number")]
    pub logprob: f32,
    /// Whether it is a special token.
    pub special: bool,
}

/// One event of a stream: a token; the last one has the whole text and the details.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationStep {
    /// The token's place, from 1.
    pub index: usize,
    /// The token.
    pub token: GeneratedToken,
    /// The best tokens in its place, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_tokens: Option<Vec<GeneratedToken>>,
    /// The whole text, with the last token; null before.
    pub generated_text: Option<String>,
    /// Details, with the last token; null before.
    pub details: Option<StepDetails>,
}

/// Details at the end of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepDetails {
    /// Why it ended.
    pub finish_reason: GenerationEnd,
    /// How many tokens were generated.
    pub generated_tokens: usize,
    /// The seed.
    pub seed: Option<u64>,
    /// How many tokens were read.
    pub input_length: usize,
}

impl GenerationStep {
    /// The event as it is sent. No `[DONE]` follows the last one.
    ///
    /// # Errors
    /// A log-probability is not finite.
    pub fn to_event(&self) -> Result<String, Fault> {
        event_of(self)
    }

    /// The error that ends a stream.
    pub fn fault(fault: &Fault) -> String {
        let body = fault.answer(crate::protocol::fault::ErrorForm::Tei).body;
        format!("data: {body}\n\n")
    }
}

/// The answer to a [`GenerationRequest`]: a list of one, as TGI gives it at `/`.
///
/// # Errors
/// A log-probability is not finite.
pub fn generation_answer(text: GeneratedText) -> Result<String, Fault> {
    text_of(&[text])
}
