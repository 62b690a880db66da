//! What an engine is asked for: token ids in.

use std::sync::Arc;

use super::event::Handle;
use super::sampler::Chooser;
use super::{EngineSettings, Sampling, Shaping};
use crate::setters::setters;
use crate::{Error, Result};

/// One prompt, and how it is to be continued. Everything is the request's own: requests that run together need not
/// agree in anything.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The prompt's token ids, at least one.
    pub ids: Vec<u32>,
    /// How tokens are chosen; greedy by default.
    pub sampling: Sampling,
    /// What changes logits before a token is chosen; nothing by default. Shared, as it may be large.
    pub shaping: Arc<Shaping>,
    /// Tokens that end a sequence, end-of-text tokens or others; none by default.
    pub eos: Vec<u32>,
    /// The most tokens added to the prompt; 128 by default.
    pub max_new_tokens: usize,
    /// The most tokens of prompt and continuation together, besides the model's own limit. A prompt that leaves no room
    /// ends without a token.
    pub max_length: Option<usize>,
    /// Continuations, at most [`MAX_SAMPLES`]; 1 by default. The prompt is computed once for all of them.
    pub samples: usize,
    /// Number of the first sample among all that share a seed; the others follow. Random numbers are keyed by the seed,
    /// this number and the token's position.
    pub first_sample: u64,
    /// The most tokens drafted ahead for one sequence, where the engine has a draft; fewer are while few prove right,
    /// or while many sequences run. It changes the speed, never a token. 8 by default.
    pub draft_tokens: usize,
    /// Whether tokens come with log-probabilities, and those of how many of the likeliest tokens beside.
    pub logprobs: Option<usize>,
    /// Whether the prompt's own tokens have log-probabilities ([`Event::Prompt`](super::Event)), and those of how many
    /// of the likeliest tokens beside. Every token of the prompt is then computed, and no shared beginning is used.
    pub prompt_logprobs: Option<usize>,
}

setters!(Request {
    /// For another prompt.
    with_ids(ids: impl Into<Vec<u32>>);
    /// With tokens chosen this way.
    with_sampling(sampling: Sampling);
    /// With these changes to the logits.
    with_shaping(shaping: impl Into<Arc<Shaping>>);
    /// With these tokens as ends.
    with_eos(eos: impl Into<Vec<u32>>);
    /// With at most this many tokens added.
    with_max_new_tokens(max_new_tokens: usize);
    /// With at most this many tokens, the prompt's included.
    with_max_length(max_length: impl Into<Option<usize>>);
    /// With this many continuations.
    with_samples(samples: usize);
    /// With the first sample counted as this one.
    with_first_sample(first_sample: u64);
    /// With at most this many tokens drafted ahead.
    with_draft_tokens(draft_tokens: usize);
    /// With log-probabilities of every token, and of this many of the likeliest beside.
    with_logprobs(logprobs: impl Into<Option<usize>>);
    /// With log-probabilities of the prompt's tokens, and of this many of the likeliest beside.
    with_prompt_logprobs(prompt_logprobs: impl Into<Option<usize>>);
});

impl Request {
    /// Continues a prompt greedily by at most 128 tokens, whatever they are.
    pub fn new(ids: impl Into<Vec<u32>>) -> Self {
        Self {
            ids: ids.into(),
            sampling: Sampling::default(),
            shaping: Arc::default(),
            eos: Vec::new(),
            max_new_tokens: 128,
            max_length: None,
            samples: 1,
            first_sample: 0,
            draft_tokens: 8,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

/// The most samples of one request: each is a sequence with a cache of its own, and all run together.
pub const MAX_SAMPLES: usize = 1 << 16;

/// What all sequences of a request go by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) handle: Handle,
    pub(super) chooser: Chooser,
    /// The most tokens that the request allows, prompt included.
    pub(super) max_length: usize,
    /// The most tokens that the engine allows, prompt included.
    pub(super) context: usize,
    pub(super) vocabulary: usize,
    pub(super) samples: usize,
    pub(super) first_sample: u64,
    pub(super) draft_tokens: usize,
    pub(super) logprobs: Option<usize>,
    pub(super) prompt_logprobs: Option<usize>,
}

impl Rules {
    /// Those of a request to a model of `vocabulary` tokens, with sequences of at most `context`.
    ///
    /// # Errors
    /// [`Error::Input`] for settings out of range. The prompt's ids are not looked at.
    pub(super) fn new(
        handle: Handle,
        request: &Request,
        settings: &EngineSettings,
        vocabulary: usize,
        context: usize,
    ) -> Result<Self> {
        if request.samples == 0 {
            return Err(Error::input("at least one sample per prompt must be asked for"));
        }
        if request.samples > MAX_SAMPLES {
            return Err(Error::input(format!("{} samples of a prompt; at most {MAX_SAMPLES}", request.samples)));
        }
        request.shaping.check_ids(vocabulary)?;
        let max_length = request.ids.len().saturating_add(request.max_new_tokens);
        Ok(Self {
            handle,
            chooser: Chooser::new(&request.sampling, &request.shaping, request.eos.clone())?,
            max_length: max_length.min(request.max_length.unwrap_or(usize::MAX)),
            context,
            vocabulary,
            samples: request.samples,
            first_sample: request.first_sample,
            draft_tokens: request.draft_tokens.min(settings.max_drafted),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
        })
    }
}
