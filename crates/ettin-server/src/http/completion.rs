//! `POST /v1/completions`: whole, and as a stream.
//!
//! **Prompts.** Ids are read as they are. Before a text stands the bos token, as `ettin-run generate` has it; nothing
//! stands behind it. Where the text's own tokens are asked for (`echo` with `logprobs`), they are alone: who counts
//! them counts what a tokenizer gives without special tokens. `add_special_tokens` decides otherwise, in both cases.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use ettin::generate::{FinishReason, Logprobs};
use ettin::tokenizer::Tokenizer;

use super::AppState;
use super::answer::{json, refused};
use super::continuation::{Continuation, TokenStrings, WholeOutput, answer_id, best, collect, now, tell_truncated};
use super::event_stream::{EventSender, Gone, event_stream};
use crate::error::ServeError;
use crate::protocol::decoding::Decoding;
use crate::protocol::input::TextOrIds;
use crate::protocol::openai::{
    AnswerHead, CompletionAnswer, CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionStream, DONE,
    FinishCause, ScoredToken, StopReason, TokenUsage,
};
use crate::protocol::{ErrorForm, Fault};
use crate::scheduler::{Caller, GenerationEvent, SampleEnd, TokenPiece};
use crate::service::Generation;

/// Answers a request. A model of an unknown name is any.
pub(super) async fn completion(
    state: &AppState,
    caller: Caller,
    model: Option<String>,
    request: CompletionRequest,
) -> Response {
    match answer(state, caller, model, request).await {
        Ok(response) => response,
        Err(fault) => refused(&fault, ErrorForm::OpenAi),
    }
}

async fn answer(
    state: &AppState,
    caller: Caller,
    model: Option<String>,
    request: CompletionRequest,
) -> Result<Response, Fault> {
    let choices = Choices::new(request)?;
    let generation = choices.continuation(model).begin(state, caller).await?;
    let truncated = generation.truncated;
    let mut response = match choices.request.stream {
        true => stream(state.clone(), choices, generation),
        false => whole(state, choices, generation).await?,
    };
    tell_truncated(&mut response, truncated);
    Ok(response)
}

/// What of a generation goes into the answer, and how.
struct Choices {
    request: CompletionRequest,
    decoding: Decoding,
    prompts: Vec<TextOrIds>,
}

impl Choices {
    fn new(request: CompletionRequest) -> Result<Self, Fault> {
        let (decoding, prompts) = (request.decoding()?, request.prompt.clone().into_list());
        Ok(Self { request, decoding, prompts })
    }

    fn continuation(&self, model: Option<String>) -> Continuation {
        let request = &self.request;
        let ranks = request.drawn() > request.n;
        Continuation {
            model,
            prompts: self.prompts.clone(),
            decoding: self.decoding.clone(),
            samples: request.drawn(),
            logprobs: request.logprobs.or(ranks.then_some(0)),
            prompt_logprobs: request.logprobs.filter(|_| request.echo),
            // Whoever asks for a text's own tokens counts those of the text alone.
            bos: request.add_special_tokens.or((request.echo && request.logprobs.is_some()).then_some(false)),
            keep_tokens: request.truncate_prompt_tokens,
            special: request.skip_special_tokens == Some(false),
        }
    }

    /// What is echoed of a prompt.
    fn echoed(&self, prompt: usize, ids: &[u32], tokenizer: &Tokenizer) -> Result<String, ServeError> {
        match &self.prompts[prompt] {
            TextOrIds::Text(text) if self.request.truncate_prompt_tokens.is_none() => Ok(text.clone()),
            TextOrIds::Text(_) => Ok(tokenizer.decode(ids, true)?),
            // As it was given, special tokens included.
            TextOrIds::Ids(_) => Ok(tokenizer.decode(ids, false)?),
        }
    }

    /// Characters of tokens that stand before the text of a prompt and are no part of it.
    fn before_text(&self, prompt: usize, scored: &[ScoredToken], tokenizer: &Tokenizer) -> usize {
        let added = matches!(self.prompts[prompt], TextOrIds::Text(_)) && self.request.add_special_tokens == Some(true);
        let first = scored.first().filter(|first| added && tokenizer.special().bos == Some(first.id));
        first.map_or(0, |bos| bos.text.chars().count())
    }

    /// The lists of some tokens, the first of which begins at character `offset`; none where they are not asked for.
    fn logprobs(&self, scored: &[ScoredToken], offset: usize) -> Option<CompletionLogprobs> {
        let k = self.request.logprobs?;
        Some(CompletionLogprobs::new(scored, k, offset, self.request.return_tokens_as_token_ids))
    }

    fn stop_reason(&self, strings: &TokenStrings<'_>, end: &SampleEnd) -> Option<StopReason> {
        match strings.stop_token(&self.decoding, end) {
            Some(id) => Some(StopReason::Token(id)),
            None => end.stop.clone().map(StopReason::Text),
        }
    }

    /// A whole choice.
    fn choice(
        &self,
        index: usize,
        ids: &[u32],
        scores: &[Logprobs],
        output: WholeOutput,
        strings: &mut TokenStrings<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<CompletionChoice, ServeError> {
        let request = &self.request;
        let (mut text, mut scored, mut before) = (String::new(), Vec::new(), 0);
        let prompt = index / request.n;
        if request.echo {
            text = self.echoed(prompt, ids, tokenizer)?;
            if request.logprobs.is_some() {
                scored = strings.scored_prompt(ids, scores)?;
                before = self.before_text(prompt, &scored, tokenizer);
            }
        }
        if request.logprobs.is_some() {
            for (id, logprobs) in &output.tokens {
                scored.push(strings.scored(*id, logprobs.as_ref())?);
            }
        }
        let mut logprobs = self.logprobs(&scored, 0);
        for offset in logprobs.iter_mut().flat_map(|lists| &mut lists.text_offset) {
            *offset = offset.saturating_sub(before);
        }
        text += &output.text;
        text += &strings.kept_stop(&self.decoding, &output.end)?;
        Ok(CompletionChoice {
            index,
            text,
            logprobs,
            finish_reason: Some(cause(output.end.reason)),
            stop_reason: self.stop_reason(strings, &output.end),
            token_ids: request.return_token_ids.then(|| output.end.tokens.clone()),
            prompt_token_ids: request.return_token_ids.then(|| ids.to_vec()),
        })
    }
}

fn cause(reason: FinishReason) -> FinishCause {
    match reason {
        FinishReason::Eos | FinishReason::Stop => FinishCause::Stop,
        FinishReason::Length | FinishReason::Context | FinishReason::Cancelled => FinishCause::Length,
    }
}

fn head(generation: &Generation) -> AnswerHead {
    AnswerHead { id: answer_id("cmpl"), created: now(), model: generation.model.name.to_string() }
}

async fn whole(state: &AppState, choices: Choices, generation: Generation) -> Result<Response, Fault> {
    let (head, model) = (head(&generation), generation.model.clone());
    let (prompts, prompt_tokens) = (generation.prompts.clone(), generation.prompt_tokens);
    let collected = collect(generation).await?;
    // All that were drawn were computed.
    let made = collected.outputs.iter().map(|output| output.end.tokens.len()).sum();
    let usage = TokenUsage::of_completion(prompt_tokens, made);
    let write = move || {
        let (tokenizer, n) = (&*model.tokenizer, choices.request.n);
        let mut strings = TokenStrings::new(tokenizer);
        let kept = best(collected.outputs, choices.request.drawn(), n);
        let choice = |(index, output)| {
            let prompt = index / n;
            choices.choice(index, &prompts[prompt], &collected.prompts[prompt], output, &mut strings, tokenizer)
        };
        let all = kept.into_iter().enumerate().map(choice).collect::<Result<Vec<_>, ServeError>>()?;
        Ok(CompletionAnswer::new(head, all, usage).to_json())
    };
    state.service.on_texts(write).await.map_err(Fault::from)?.map(|body| json(StatusCode::OK, body))
}

fn stream(state: AppState, choices: Choices, generation: Generation) -> Response {
    let (sender, response) = event_stream();
    let writer = StreamWriter::new(state, choices, &generation, sender);
    // A client that hangs up is gone, and so is its generation.
    tokio::spawn(async move {
        let _ = writer.run(generation).await;
    });
    response
}

/// Writes the chunks of a stream.
struct StreamWriter {
    state: AppState,
    choices: Arc<Choices>,
    chunks: CompletionStream,
    sender: EventSender,
    /// Where each choice's next token begins, in characters.
    offsets: Vec<usize>,
}

impl StreamWriter {
    fn new(state: AppState, choices: Choices, generation: &Generation, sender: EventSender) -> Self {
        let chunks = CompletionStream::new(head(generation), choices.request.includes_usage());
        Self { state, choices: Arc::new(choices), chunks, sender, offsets: vec![0; generation.outputs] }
    }

    async fn run(mut self, mut generation: Generation) -> Result<(), Gone> {
        let model = generation.model.clone();
        let mut strings = TokenStrings::new(&model.tokenizer);
        let mut made = 0;
        if let Err(fault) = self.begin(&generation).await? {
            return self.fail(&fault).await;
        }
        while let Some(event) = self.sender.next(&mut generation).await? {
            let chunk = match event {
                GenerationEvent::Prompt(scores) => {
                    if let Err(fault) = self.prompt(&generation, scores.output, scores.logprobs).await? {
                        return self.fail(&fault).await;
                    }
                    continue;
                }
                GenerationEvent::Token(piece) => self.token(piece, &mut strings),
                GenerationEvent::End(end) => {
                    made += end.tokens.len();
                    self.end(&end, &mut strings).map(Some)
                }
                GenerationEvent::Failed { error, .. } => Err(Fault::from(error)),
            };
            match chunk {
                Ok(Some(chunk)) => self.sender.send(chunk).await?,
                Ok(None) => {}
                Err(fault) => return self.fail(&fault).await,
            }
        }
        if let Some(usage) = self.chunks.usage(TokenUsage::of_completion(generation.prompt_tokens, made)) {
            self.sender.send(usage).await?;
        }
        self.sender.send(DONE.to_owned()).await
    }

    /// Ends the stream with an error.
    async fn fail(&self, fault: &Fault) -> Result<(), Gone> {
        self.sender.send(CompletionStream::fault(fault)).await
    }

    /// What is known of prompts before anything is computed.
    async fn begin(&mut self, generation: &Generation) -> Result<Result<(), Fault>, Gone> {
        let request = &self.choices.request;
        let echo = request.echo && request.logprobs.is_none();
        if !echo && !request.return_token_ids {
            return Ok(Ok(()));
        }
        for index in 0..generation.outputs {
            let (prompt, tokenizer) = (index / self.choices.request.n, &generation.model.tokenizer);
            let ids = &generation.prompts[prompt];
            let text = match echo {
                true => self.choices.echoed(prompt, ids, tokenizer),
                false => Ok(String::new()),
            };
            let prompt_token_ids = self.choices.request.return_token_ids.then(|| ids.to_vec());
            let chunk = text.map_err(Fault::from).and_then(|text| {
                self.chunks.chunk(&[CompletionChoice { index, text, prompt_token_ids, ..CompletionChoice::default() }])
            });
            match chunk {
                Ok(chunk) => self.sender.send(chunk).await?,
                Err(fault) => return Ok(Err(fault)),
            }
        }
        Ok(Ok(()))
    }

    /// A prompt with its log-probabilities, once for each of its choices.
    async fn prompt(
        &mut self,
        generation: &Generation,
        first: usize,
        scores: Vec<Logprobs>,
    ) -> Result<Result<(), Fault>, Gone> {
        let (choices, model) = (self.choices.clone(), generation.model.clone());
        let prompt = first / choices.request.n;
        let ids = generation.prompts[prompt].clone();
        // A long prompt has many tokens with many beside each.
        let write = move || {
            let tokenizer = &*model.tokenizer;
            let scored = TokenStrings::new(tokenizer).scored_prompt(&ids, &scores)?;
            let before = choices.before_text(prompt, &scored, tokenizer);
            let end: usize = scored.iter().map(|token| token.text.chars().count()).sum();
            let mut logprobs = choices.logprobs(&scored, 0);
            for offset in logprobs.iter_mut().flat_map(|lists| &mut lists.text_offset) {
                *offset = offset.saturating_sub(before);
            }
            Ok((choices.echoed(prompt, &ids, tokenizer)?, logprobs, end - before))
        };
        let (text, logprobs, end) = match self.state.service.on_texts(write).await {
            Ok(written) => written,
            Err(error) => return Ok(Err(Fault::from(error))),
        };
        for index in first..first + self.choices.request.n {
            self.offsets[index] = end;
            let (text, logprobs) = (text.clone(), logprobs.clone());
            let choice = CompletionChoice { index, text, logprobs, ..CompletionChoice::default() };
            match self.chunks.chunk(&[choice]) {
                Ok(chunk) => self.sender.send(chunk).await?,
                Err(fault) => return Ok(Err(fault)),
            }
        }
        Ok(Ok(()))
    }

    /// The chunk of a token; none where it says nothing yet.
    fn token(&mut self, piece: TokenPiece, strings: &mut TokenStrings<'_>) -> Result<Option<String>, Fault> {
        let request = &self.choices.request;
        let index = piece.output;
        let mut logprobs = None;
        if request.logprobs.is_some() {
            let scored = strings.scored(piece.id, piece.logprobs.as_ref()).map_err(Fault::from)?;
            logprobs = self.choices.logprobs(std::slice::from_ref(&scored), self.offsets[index]);
            self.offsets[index] += scored.text.chars().count();
        }
        let token_ids = request.return_token_ids.then(|| vec![piece.id]);
        if piece.text.is_empty() && logprobs.is_none() && token_ids.is_none() {
            return Ok(None);
        }
        let choice = CompletionChoice { index, text: piece.text, logprobs, token_ids, ..CompletionChoice::default() };
        self.chunks.chunk(&[choice]).map(Some)
    }

    /// The chunk that says why a choice ended.
    fn end(&self, end: &SampleEnd, strings: &mut TokenStrings<'_>) -> Result<String, Fault> {
        let text = strings.kept_stop(&self.choices.decoding, end).map_err(Fault::from)?;
        let (finish_reason, stop_reason) = (Some(cause(end.reason)), self.choices.stop_reason(strings, end));
        let index = end.output;
        self.chunks.chunk(&[CompletionChoice {
            index,
            text,
            finish_reason,
            stop_reason,
            ..CompletionChoice::default()
        }])
    }
}
