//! Text generation as text-generation-inference has it at `/`: whole, and as a stream of tokens.

use axum::http::StatusCode;
use axum::response::Response;
use ettin::generate::{FinishReason, Logprobs};

use super::AppState;
use super::answer::{json, refused};
use super::continuation::{Continuation, TokenStrings, WholeOutput, best, collect, tell_truncated};
use super::event_stream::{EventSender, Gone, event_stream};
use crate::error::ServeError;
use crate::protocol::decoding::Decoding;
use crate::protocol::hugging_face::{
    GeneratedText, GeneratedToken, GenerationDetails, GenerationEnd, GenerationRequest, GenerationStep, PrefillToken,
    StepDetails, generation_answer,
};
use crate::protocol::input::TextOrIds;
use crate::protocol::openai::ScoredToken;
use crate::protocol::{ErrorForm, Fault};
use crate::scheduler::{Caller, GenerationEvent, SampleEnd};
use crate::service::Generation;

/// Answers a request. A model of an unknown name is any.
pub(super) async fn generation(
    state: &AppState,
    caller: Caller,
    model: Option<String>,
    request: GenerationRequest,
) -> Response {
    match answer(state, caller, model, request).await {
        Ok(response) => response,
        Err(fault) => refused(&fault, ErrorForm::Tei),
    }
}

async fn answer(
    state: &AppState,
    caller: Caller,
    model: Option<String>,
    request: GenerationRequest,
) -> Result<Response, Fault> {
    let decoding = request.decoding();
    let drawn = request.parameters.best_of.unwrap_or(1);
    // Every token of a stream carries its own.
    let details = request.stream || has_details(&request) || drawn > 1;
    let continuation = Continuation {
        model,
        prompts: vec![TextOrIds::Text(request.inputs.clone())],
        decoding: decoding.clone(),
        samples: drawn,
        logprobs: details.then(|| request.parameters.top_n_tokens.unwrap_or(0)),
        prompt_logprobs: request.parameters.decoder_input_details.then_some(0),
        bos: None,
        keep_tokens: request.parameters.truncate.map(|keep| i64::try_from(keep).unwrap_or(i64::MAX)),
        special: false,
    };
    let generation = continuation.begin(state, caller).await?;
    let truncated = generation.truncated;
    let mut response = match request.stream {
        true => stream(request, decoding, generation),
        false => whole(state, request, decoding, generation).await?,
    };
    tell_truncated(&mut response, truncated);
    Ok(response)
}

fn has_details(request: &GenerationRequest) -> bool {
    request.parameters.details || request.parameters.decoder_input_details
}

async fn whole(
    state: &AppState,
    request: GenerationRequest,
    decoding: Decoding,
    generation: Generation,
) -> Result<Response, Fault> {
    let (model, seed, ids) = (generation.model.clone(), generation.seed, generation.prompts[0].clone());
    let mut collected = collect(generation).await?;
    let scores = std::mem::take(&mut collected.prompts[0]);
    let drawn = collected.outputs.len();
    let write = move || {
        let mut strings = TokenStrings::new(&model.tokenizer);
        let output = best(collected.outputs, drawn, 1).pop();
        let output = output.ok_or_else(|| ServeError::internal("nothing was generated"))?;
        let details = match has_details(&request) {
            true => Some(details(&request, &ids, &scores, &output, seed, &mut strings)?),
            false => None,
        };
        let kept = strings.kept_stop(&decoding, &output.end)?;
        let generated_text = full_text(&request, output.text + &kept);
        Ok(generation_answer(GeneratedText { generated_text, details }))
    };
    state.service.on_texts(write).await.map_err(Fault::from)?.map(|body| json(StatusCode::OK, body))
}

fn full_text(request: &GenerationRequest, text: String) -> String {
    if request.parameters.return_full_text { request.inputs.clone() + &text } else { text }
}

fn details(
    request: &GenerationRequest,
    ids: &[u32],
    scores: &[Logprobs],
    output: &WholeOutput,
    seed: Option<u64>,
    strings: &mut TokenStrings<'_>,
) -> Result<GenerationDetails, ServeError> {
    let mut prefill = Vec::new();
    if request.parameters.decoder_input_details {
        let scored = strings.scored_prompt(ids, scores)?;
        prefill.extend(scored.into_iter().map(|ScoredToken { id, text, logprob, .. }| PrefillToken {
            id,
            text,
            logprob,
        }));
    }
    let (mut tokens, mut top_tokens) = (Vec::new(), Vec::new());
    for (id, logprobs) in &output.tokens {
        let (token, top) = token(*id, logprobs.as_ref(), strings)?;
        tokens.push(token);
        top_tokens.push(top);
    }
    Ok(GenerationDetails {
        finish_reason: end_of(&output.end),
        generated_tokens: tokens.len(),
        seed,
        prefill,
        tokens,
        top_tokens: wants_top(request).then_some(top_tokens),
    })
}

fn wants_top(request: &GenerationRequest) -> bool {
    request.parameters.top_n_tokens.is_some_and(|count| count > 0)
}

/// A token, and the likeliest in its place.
fn token(
    id: u32,
    logprobs: Option<&Logprobs>,
    strings: &mut TokenStrings<'_>,
) -> Result<(GeneratedToken, Vec<GeneratedToken>), ServeError> {
    let ScoredToken { id, text, logprob, top } = strings.scored(id, logprobs)?;
    let logprob = logprob.ok_or_else(|| ServeError::internal("a token without its log-probability"))?;
    let special = strings.is_special(id)?;
    let top = top
        .into_iter()
        .map(|(id, text, logprob)| Ok(GeneratedToken { id, text, logprob, special: strings.is_special(id)? }))
        .collect::<Result<_, ServeError>>()?;
    Ok((GeneratedToken { id, text, logprob, special }, top))
}

fn end_of(end: &SampleEnd) -> GenerationEnd {
    match end.reason {
        FinishReason::Eos => GenerationEnd::EosToken,
        FinishReason::Stop => GenerationEnd::StopSequence,
        FinishReason::Length | FinishReason::Context | FinishReason::Cancelled => GenerationEnd::Length,
    }
}

fn stream(request: GenerationRequest, decoding: Decoding, mut generation: Generation) -> Response {
    let (sender, response) = event_stream();
    // A client that hangs up is gone, and so is its generation.
    tokio::spawn(async move {
        if let Ok(Err(fault)) = write_steps(&request, &decoding, &mut generation, &sender).await {
            let _ = sender.send(GenerationStep::fault(&fault)).await;
        }
    });
    response
}

/// Writes a token as soon as it is there; the last one with the whole text.
async fn write_steps(
    request: &GenerationRequest,
    decoding: &Decoding,
    generation: &mut Generation,
    sender: &EventSender,
) -> Result<Result<(), Fault>, Gone> {
    let model = generation.model.clone();
    let mut strings = TokenStrings::new(&model.tokenizer);
    let (mut text, mut index, mut last) = (String::new(), 0, None);
    while let Some(event) = sender.next(generation).await? {
        let step = match event {
            GenerationEvent::Prompt(_) => continue,
            GenerationEvent::Token(piece) => {
                text += &piece.text;
                index += 1;
                let (token, top) = match token(piece.id, piece.logprobs.as_ref(), &mut strings) {
                    Ok(token) => token,
                    Err(error) => return Ok(Err(Fault::from(error))),
                };
                let top_tokens = wants_top(request).then_some(top);
                let step = GenerationStep { index, token, top_tokens, generated_text: None, details: None };
                if piece.finish.is_some() {
                    last = Some(step);
                    continue;
                }
                step
            }
            GenerationEvent::End(end) => {
                let kept = match strings.kept_stop(decoding, &end) {
                    Ok(kept) => kept,
                    Err(error) => return Ok(Err(Fault::from(error))),
                };
                let Some(step) = last.take() else {
                    return Ok(Err(Fault::from(ServeError::internal("a generation without a token"))));
                };
                let details = StepDetails {
                    finish_reason: end_of(&end),
                    generated_tokens: end.tokens.len(),
                    seed: generation.seed,
                    input_length: end.prompt_tokens,
                };
                let generated_text = Some(full_text(request, std::mem::take(&mut text) + &kept));
                GenerationStep { generated_text, details: Some(details), ..step }
            }
            GenerationEvent::Failed { error, .. } => return Ok(Err(Fault::from(error))),
        };
        match step.to_event() {
            Ok(event) => sender.send(event).await?,
            Err(fault) => return Ok(Err(fault)),
        }
    }
    Ok(Ok(()))
}
