//! What the routes that generate have in common: from a request's settings to a call, from events to texts.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use axum::response::Response;
use ettin::generate::{FinishReason, GenerateRequest, Logprobs, Sampling, Shaping, draw_seed};
use ettin::tokenizer::Tokenizer;

use super::AppState;
use crate::error::ServeError;
use crate::models::{Ability, LoadedModel};
use crate::protocol::Fault;
use crate::protocol::decoding::Decoding;
use crate::protocol::input::TextOrIds;
use crate::protocol::openai::{MIN_LOGPROB, ScoredToken};
use crate::scheduler::{Caller, GenerationEvent, SampleEnd};
use crate::service::{GenerateCall, Generation, InputText};

/// Entries of each of a request's lists that are gone through for every token, between the steps of all streams.
const MAX_RULES: usize = 1024;

/// What a request comes to, whatever its protocol.
pub(super) struct Continuation {
    pub(super) model: Option<String>,
    pub(super) prompts: Vec<TextOrIds>,
    pub(super) decoding: Decoding,
    /// Continuations of each prompt.
    pub(super) samples: usize,
    pub(super) logprobs: Option<usize>,
    pub(super) prompt_logprobs: Option<usize>,
    /// Whether the bos token stands before prompts that are texts. None: where the model has one, as `ettin-run
    /// generate` does.
    pub(super) bos: Option<bool>,
    /// Tokens that are left of a prompt: a number, or −1 for what leaves room for the continuation.
    pub(super) keep_tokens: Option<i64>,
    /// Whether spellings of special tokens are part of the text.
    pub(super) special: bool,
}

impl Continuation {
    /// Begins to generate.
    ///
    /// # Errors
    /// What is wrong with the request, or in the way.
    pub(super) async fn begin(self, state: &AppState, caller: Caller) -> Result<Generation, Fault> {
        let model = state.service.registry().choose(self.model.as_deref(), Ability::Generate).map_err(Fault::from)?;
        let bos = self.bos.unwrap_or(model.tokenizer.special().bos.is_some());
        let request = request(&model, &self.decoding)?.with_samples(self.samples).with_bos(bos);
        let room = model.description.max_input_length.saturating_sub(request.max_new_tokens).max(1);
        let input = |prompt| match prompt {
            TextOrIds::Text(text) => InputText::Text(text),
            TextOrIds::Ids(ids) => InputText::Ids(ids),
        };
        let call = GenerateCall {
            // The model that was looked at, unless it is replaced meanwhile.
            model: Some(model.name.to_string()),
            prompts: self.prompts.into_iter().map(input).collect(),
            keep_tokens: self.keep_tokens.map(|keep| usize::try_from(keep).unwrap_or(room)),
            request,
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            special: self.special,
        };
        state.service.generate(call, caller).await.map_err(Fault::from)
    }
}

/// The library's request.
///
/// # Errors
/// Ids beyond the vocabulary; a model whose files do not say what ends a text.
fn request(model: &LoadedModel, decoding: &Decoding) -> Result<GenerateRequest, Fault> {
    let none = || Fault::from(ServeError::internal("a generator without its task"));
    let generator = model.tasks.generate.as_ref().ok_or_else(none)?;
    let ends = GenerateRequest::default().with_ignore_eos(decoding.ignore_eos);
    generator.check_ends(&ends).map_err(|error| Fault::from(ServeError::from(error)))?;
    let vocabulary = generator.model().config().vocab_size;
    for (field, count) in [
        ("stop", decoding.stop.len()),
        ("stop_token_ids", decoding.stop_ids.len()),
        ("bad_words", decoding.bad_words.len()),
        ("logit_bias", decoding.logit_bias.len()),
    ] {
        if count > MAX_RULES {
            let message = format!("`{field}` has {count} entries; it may have {MAX_RULES}");
            return Err(Fault::field(field, message));
        }
    }
    check_ids("stop_token_ids", &decoding.stop_ids, vocabulary)?;
    check_ids("allowed_token_ids", decoding.allowed_ids.as_deref().unwrap_or_default(), vocabulary)?;
    let biased: Vec<u32> = decoding.logit_bias.iter().map(|(id, _)| *id).collect();
    check_ids("logit_bias", &biased, vocabulary)?;
    let sampling = Sampling::default()
        .with_temperature(decoding.temperature)
        .with_top_k(decoding.top_k)
        .with_top_p(decoding.top_p)
        .with_min_p(decoding.min_p)
        .with_typical_p(decoding.typical_p)
        .with_repetition_penalty(decoding.repetition_penalty)
        .with_seed(decoding.seed);
    let shaping = Shaping::default()
        .with_sequence_bias(decoding.logit_bias.iter().map(|&(id, bias)| (vec![id], bias)).collect())
        .with_presence_penalty(decoding.presence_penalty)
        .with_frequency_penalty(decoding.frequency_penalty)
        .with_min_new_tokens(decoding.min_new_tokens)
        .with_bad_words(bad_words(&model.tokenizer, &decoding.bad_words)?)
        .with_suppress(all_but(decoding.allowed_ids.as_deref(), vocabulary));
    let mut ends = decoding.stop_ids.clone();
    if !decoding.ignore_eos {
        ends.extend(&model.tokenizer.special().eos);
    }
    Ok(GenerateRequest::default()
        .with_max_new_tokens(decoding.max_new_tokens)
        .with_sampling(sampling)
        .with_shaping(shaping)
        .with_stop(decoding.stop.clone())
        .with_eos(Some(ends)))
}

fn check_ids(field: &str, ids: &[u32], vocabulary: usize) -> Result<(), Fault> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        None => Ok(()),
        Some(id) => {
            let message =
                format!("`{field}` names token {id}, and the vocabulary has {vocabulary}; name ids below that");
            Err(Fault::field(field, message))
        }
    }
}

/// The tokens of words at a text's beginning and within it, as vLLM forbids them.
fn bad_words(tokenizer: &Tokenizer, words: &[String]) -> Result<Vec<Vec<u32>>, Fault> {
    let mut all = Vec::new();
    for word in words {
        for spelling in [word.clone(), format!(" {}", word.trim_start())] {
            let ids = tokenizer.ids(&spelling).map_err(|error| Fault::from(ServeError::from(error)))?;
            if !ids.is_empty() && !all.contains(&ids) {
                all.push(ids);
            }
        }
    }
    Ok(all)
}

/// What is not allowed, by ascending id.
fn all_but(allowed: Option<&[u32]>, vocabulary: usize) -> Vec<u32> {
    let Some(allowed) = allowed else { return Vec::new() };
    let mut out = vec![true; vocabulary];
    for &id in allowed {
        out[id as usize] = false;
    }
    (0..vocabulary as u32).filter(|&id| out[id as usize]).collect()
}

/// Says in a header how many prompts were cut.
pub(super) fn tell_truncated(response: &mut Response, truncated: usize) {
    if truncated > 0 {
        response.headers_mut().insert("x-truncated", HeaderValue::from(truncated as u64));
    }
}

/// An id that no other answer has.
pub(super) fn answer_id(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:016x}", draw_seed(), draw_seed())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Everything that became of a generation.
pub(super) struct Collected {
    /// Log-probabilities of each prompt, where they were asked for.
    pub(super) prompts: Vec<Vec<Logprobs>>,
    /// Prompts × samples.
    pub(super) outputs: Vec<WholeOutput>,
}

/// One output, complete.
#[derive(Clone)]
pub(super) struct WholeOutput {
    pub(super) text: String,
    /// Each token with its log-probabilities, where they were asked for.
    pub(super) tokens: Vec<(u32, Option<Logprobs>)>,
    pub(super) end: SampleEnd,
}

impl WholeOutput {
    /// The mean log-probability of its tokens.
    fn mean_logprob(&self) -> f64 {
        let known: Vec<f64> =
            self.tokens.iter().filter_map(|(_, logprobs)| Some(logprobs.as_ref()?.token.into())).collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    }
}

/// Waits for the end.
///
/// # Errors
/// The first failure; the rest is cancelled then.
pub(super) async fn collect(mut generation: Generation) -> Result<Collected, Fault> {
    let samples = generation.outputs / generation.prompts.len().max(1);
    let mut prompts = vec![Vec::new(); generation.prompts.len()];
    let mut begun = vec![(String::new(), Vec::new()); generation.outputs];
    let mut ends = vec![None; generation.outputs];
    while let Some(event) = generation.next().await {
        match event {
            GenerationEvent::Prompt(scores) => prompts[scores.output / samples.max(1)] = scores.logprobs,
            GenerationEvent::Token(piece) => {
                begun[piece.output].0 += &piece.text;
                begun[piece.output].1.push((piece.id, piece.logprobs));
            }
            GenerationEvent::End(end) => {
                let output = end.output;
                ends[output] = Some(end);
            }
            GenerationEvent::Failed { error, .. } => return Err(Fault::from(error)),
        }
    }
    let whole = |((text, tokens), end): ((String, Vec<_>), Option<SampleEnd>)| {
        let end = end.ok_or_else(|| Fault::from(ServeError::internal("an output did not end")))?;
        Ok(WholeOutput { text, tokens, end })
    };
    Ok(Collected { prompts, outputs: begun.into_iter().zip(ends).map(whole).collect::<Result<_, Fault>>()? })
}

/// Of every `drawn` outputs in a row the `kept` with the best mean log-probability, best first; all in order where none
/// is left out.
pub(super) fn best(outputs: Vec<WholeOutput>, drawn: usize, kept: usize) -> Vec<WholeOutput> {
    if drawn == kept {
        return outputs;
    }
    let best_of = |outputs: &[WholeOutput]| {
        let mut ranked: Vec<(f64, &WholeOutput)> = outputs.iter().map(|one| (one.mean_logprob(), one)).collect();
        // Stable: of equals the first.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.into_iter().take(kept).map(|(_, one)| one.clone()).collect::<Vec<_>>()
    };
    outputs.chunks(drawn.max(1)).flat_map(best_of).collect()
}

/// A log-probability as it is written: JSON has no word for −∞.
fn shown(logprob: f32) -> f32 {
    if logprob == f32::NEG_INFINITY { MIN_LOGPROB } else { logprob }
}

/// Strings of single tokens, special ones included; each is decoded once.
pub(super) struct TokenStrings<'a> {
    tokenizer: &'a Tokenizer,
    known: HashMap<u32, String>,
}

impl<'a> TokenStrings<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, known: HashMap::new() }
    }

    /// A token's string.
    pub(super) fn of(&mut self, id: u32) -> Result<String, ServeError> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        let string = self.tokenizer.decode(&[id], false)?;
        self.known.insert(id, string.clone());
        Ok(string)
    }

    /// Whether a token is special: no part of a text.
    pub(super) fn is_special(&mut self, id: u32) -> Result<bool, ServeError> {
        Ok(!self.of(id)?.is_empty() && self.tokenizer.decode(&[id], true)?.is_empty())
    }

    /// A token with its log-probabilities; those of −∞ as the number that stands for it.
    pub(super) fn scored(&mut self, id: u32, logprobs: Option<&Logprobs>) -> Result<ScoredToken, ServeError> {
        let top = logprobs.map_or(&[][..], |logprobs| &logprobs.top);
        Ok(ScoredToken {
            id,
            text: self.of(id)?,
            logprob: logprobs.map(|logprobs| shown(logprobs.token)),
            top: top
                .iter()
                .map(|&(id, logprob)| Ok((id, self.of(id)?, shown(logprob))))
                .collect::<Result<_, ServeError>>()?,
        })
    }

    /// A prompt's tokens; the first has no log-probability.
    pub(super) fn scored_prompt(&mut self, ids: &[u32], logprobs: &[Logprobs]) -> Result<Vec<ScoredToken>, ServeError> {
        let logprobs = std::iter::once(None).chain(logprobs.iter().map(Some));
        ids.iter().zip(logprobs).map(|(&id, logprobs)| self.scored(id, logprobs)).collect()
    }

    /// What is put behind a text for the stop string or the stop token of the request that ended it, where those are
    /// to stay.
    pub(super) fn kept_stop(&mut self, decoding: &Decoding, end: &SampleEnd) -> Result<String, ServeError> {
        if !decoding.keep_stop {
            return Ok(String::new());
        }
        match self.stop_token(decoding, end) {
            Some(id) => Ok(self.tokenizer.decode(&[id], true)?),
            None => Ok(end.stop.clone().unwrap_or_default()),
        }
    }

    /// The stop token of the request that ended a text; none where the model's own did.
    pub(super) fn stop_token(&self, decoding: &Decoding, end: &SampleEnd) -> Option<u32> {
        let last = *end.tokens.last().filter(|_| end.reason == FinishReason::Eos)?;
        let own = !decoding.ignore_eos && self.tokenizer.special().eos.contains(&last);
        (!own && decoding.stop_ids.contains(&last)).then_some(last)
    }
}
