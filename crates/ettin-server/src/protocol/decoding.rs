//! How a continuation is decoded: what the requests of all protocols that generate come down to.

/// Settings of one generation. A request's own form gives them by its `decoding` method.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// Tokens that are generated at most.
    pub max_new_tokens: usize,
    /// Tokens before the end-of-text token is allowed.
    pub min_new_tokens: usize,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens that holds this probability.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the best one's probability.
    pub min_p: Option<f32>,
    /// Keep the tokens that surprise about as much as expected, up to this probability.
    pub typical_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already there; 1 is off.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens that the continuation holds.
    pub presence_penalty: f32,
    /// Taken off as often as the continuation holds a token.
    pub frequency_penalty: f32,
    /// The seed; drawn when missing.
    pub seed: Option<u64>,
    /// Texts that end the generation.
    pub stop: Vec<String>,
    /// Tokens that end the generation, beside the model's own.
    pub stop_ids: Vec<u32>,
    /// Whether the text keeps the stop text that ended it.
    pub keep_stop: bool,
    /// Whether generation goes on after the end-of-text token.
    pub ignore_eos: bool,
    /// What is added to the logits of tokens, by ascending id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Texts that must not be generated.
    pub bad_words: Vec<String>,
    /// The only tokens that may be generated.
    pub allowed_ids: Option<Vec<u32>>,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            max_new_tokens: 16,
            min_new_tokens: 0,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            keep_stop: false,
            ignore_eos: false,
            logit_bias: Vec::new(),
            bad_words: Vec::new(),
            allowed_ids: None,
        }
    }
}
