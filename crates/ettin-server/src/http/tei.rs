//! Routes of text-embeddings-inference.

use ettin::tasks::{
    Activation, ClassifyRequest, EmbedRequest, Embeddings, IndexedScore, Label, MultiVectorRequest, PromptChoice,
    RerankRequest, SearchSide, TextVectors,
};

use super::answer::Reply;
use super::asked::{Asked, only_texts, prompt};
use crate::error::ServeError;
use crate::models::Ability;
use crate::protocol::input::{PredictInputs, Sequence};
use crate::protocol::tei::{self, SimpleToken};
use crate::protocol::{Fault, FaultKind, json};
use crate::service::{
    ClassifyCall, EmbedCall, MultiVectorCall, PairText, RerankCall, SimilarityCall, TokenSpan, TokenizeCall,
};

pub(super) async fn embed(asked: &Asked, request: tei::EmbedRequest) -> Result<Reply, Fault> {
    let embed = EmbedRequest::default()
        .with_normalize(request.normalize)
        .with_dimensions(request.dimensions)
        .with_prompt(prompt(request.prompt_name))
        .with_truncate(asked.truncate(request.truncate, request.truncation_direction));
    let inputs = asked.inputs(Ability::Embed, request.inputs, "inputs")?;
    let call = EmbedCall { model: asked.model.clone(), inputs, request: embed };
    let answer = asked.service().embed(call, asked.caller).await?;
    asked.reply(answer, |value| numbers(value), |value, _| tei::embed_answer(&pooled(value)?)).await
}

/// One vector a token: of an embedder, special tokens included; of a model of late interaction, those that it keeps.
pub(super) async fn embed_all(asked: &Asked, request: tei::EmbedAllRequest) -> Result<Reply, Fault> {
    let tei::EmbedAllRequest { inputs, truncate, truncation_direction, prompt_name } = request;
    if is_late_interaction(asked) {
        let call = late_interaction(asked, only_texts(inputs, "inputs")?, prompt_name);
        let answer = asked.service().embed_multi(call, asked.caller).await?;
        return asked.reply(answer, |value| values(value), |value, _| tei::embed_all_answer(&rows(&value))).await;
    }
    let embed = EmbedRequest::default()
        .with_per_token(true)
        .with_normalize(false)
        .with_prompt(prompt(prompt_name))
        .with_truncate(asked.truncate(truncate, truncation_direction));
    let inputs = asked.inputs(Ability::Embed, inputs, "inputs")?;
    let call = EmbedCall { model: asked.model.clone(), inputs, request: embed };
    let answer = asked.service().embed(call, asked.caller).await?;
    asked.reply(answer, |value| numbers(value), |value, _| tei::embed_all_answer(&of_tokens(value)?)).await
}

/// Whether the model that will answer has several vectors per text, and none that has one is meant.
pub(super) fn is_late_interaction(asked: &Asked) -> bool {
    asked.choose(Ability::Embed).is_err() && asked.choose(Ability::EmbedMulti).is_ok()
}

/// Texts for late interaction. The side of a search that they are on is said by the prompt's name, as in
/// sentence-transformers; documents without one.
pub(super) fn late_interaction(asked: &Asked, texts: Vec<String>, prompt_name: Option<String>) -> MultiVectorCall {
    let side = match prompt_name.as_deref() {
        Some("query") => SearchSide::Query,
        _ => SearchSide::Document,
    };
    let prompt = match prompt_name {
        Some(name) if name != "query" && name != "document" => PromptChoice::Named(name),
        _ => PromptChoice::Default,
    };
    let request = MultiVectorRequest::default().with_side(side).with_prompt(prompt);
    MultiVectorCall { model: asked.model.clone(), texts, request }
}

pub(super) async fn embed_sparse(asked: &Asked, request: tei::EmbedSparseRequest) -> Result<Reply, Fault> {
    let embed = EmbedRequest::default()
        .with_prompt(prompt(request.prompt_name))
        .with_truncate(asked.truncate(request.truncate, request.truncation_direction));
    let inputs = asked.inputs(Ability::EmbedSparse, request.inputs, "inputs")?;
    let call = EmbedCall { model: asked.model.clone(), inputs, request: embed };
    let answer = asked.service().embed_sparse(call, asked.caller).await?;
    asked.reply(answer, |value| numbers(value), |value, _| tei::embed_sparse_answer(sparse(value)?)).await
}

pub(super) async fn predict(asked: &Asked, request: tei::PredictRequest, nested: bool) -> Result<Reply, Fault> {
    let pair = |sequence| match sequence {
        Sequence::Single([text]) => PairText { text, pair: None },
        Sequence::Pair([text, pair]) => PairText { text, pair: Some(pair) },
    };
    let inputs = match request.inputs {
        PredictInputs::One(one) => vec![pair(one)],
        PredictInputs::Batch(batch) => batch.into_iter().map(pair).collect(),
    };
    let classify = ClassifyRequest::default()
        .with_top_k(None)
        .with_raw(request.raw_scores)
        .with_truncate(asked.truncate(request.truncate, request.truncation_direction));
    predictions(asked, ClassifyCall { model: asked.model.clone(), inputs, request: classify }, nested).await
}

/// Labels, best first.
pub(super) async fn predictions(asked: &Asked, call: ClassifyCall, nested: bool) -> Result<Reply, Fault> {
    let answer = asked.service().classify(call, asked.caller).await?;
    let size = |value: &Vec<Vec<Label>>| value.iter().map(Vec::len).sum();
    asked.reply(answer, size, move |value, _| tei::predict_answer(named_scores(value), nested)).await
}

/// Names and scores of each text's labels.
pub(super) fn named_scores(texts: Vec<Vec<Label>>) -> Vec<Vec<(String, f32)>> {
    let of_text = |labels: Vec<Label>| labels.into_iter().map(|label| (label.label, label.score)).collect();
    texts.into_iter().map(of_text).collect()
}

pub(super) async fn rerank(asked: &Asked, request: tei::TextRerankRequest) -> Result<Reply, Fault> {
    let tei::TextRerankRequest { query, texts, truncate, truncation_direction, raw_scores, return_text, top_n } =
        request;
    let rerank = RerankRequest::default()
        .with_activation(raw_scores.then_some(Activation::Raw))
        .with_truncate(asked.truncate(truncate, truncation_direction));
    let kept = return_text.then(|| texts.clone());
    let call = RerankCall { model: asked.model.clone(), query, documents: texts, request: rerank };
    let answer = asked.service().rerank(call, asked.caller).await?;
    let write = move |ranked, _: &_| tei::rerank_answer(&by_index(ranked), top_n, kept.as_deref());
    asked.reply(answer, Vec::len, write).await
}

/// Scores in the order of the request.
pub(super) fn by_index(mut ranked: Vec<IndexedScore>) -> Vec<f32> {
    ranked.sort_by_key(|one| one.index);
    ranked.into_iter().map(|one| one.score).collect()
}

pub(super) async fn similarity(asked: &Asked, request: tei::SimilarityRequest) -> Result<Reply, Fault> {
    let tei::SimilarityRequest { inputs, parameters } = request;
    let embed = EmbedRequest::default()
        .with_prompt(prompt(parameters.prompt_name))
        .with_truncate(asked.truncate(parameters.truncate, parameters.truncation_direction));
    let call = SimilarityCall {
        model: asked.model.clone(),
        source: inputs.source_sentence,
        sentences: inputs.sentences,
        request: embed,
    };
    let answer = asked.service().similarity(call, asked.caller).await?;
    asked.reply(answer, Vec::len, |scores, _| tei::similarity_answer(&by_index(scores))).await
}

pub(super) async fn tokenize(asked: &Asked, request: tei::TokenizeRequest) -> Result<Reply, Fault> {
    let mut texts = only_texts(request.inputs, "inputs")?;
    if let Some(name) = request.prompt_name {
        let model = asked.choose(Ability::Embed)?;
        let embedder = model.tasks.embed.as_ref();
        let prompt = embedder.map(|embedder| embedder.prompt_text(&PromptChoice::Named(name))).transpose();
        let prompt = prompt.map_err(|error| Fault::field("prompt_name", error.to_string()))?.unwrap_or_default();
        texts.iter_mut().for_each(|text| text.insert_str(0, prompt));
    }
    let call =
        TokenizeCall { model: asked.model.clone(), texts: texts.clone(), special_tokens: request.add_special_tokens };
    let (_, tokens) = asked.service().tokenize(call).await?;
    let size = texts.iter().map(String::len).sum();
    let write = move || {
        let of_text = |(text, tokens): (&String, Vec<TokenSpan>)| simple_tokens(text, tokens);
        tei::tokenize_answer(&texts.iter().zip(tokens).map(of_text).collect::<Vec<_>>())
    };
    Ok(Reply::plain(asked.apart(size, write).await?))
}

/// Tokens with their places in bytes, and what the text has there.
fn simple_tokens(text: &str, tokens: Vec<TokenSpan>) -> Vec<SimpleToken> {
    let bytes: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
    let place = |scalar: usize| bytes.get(scalar).copied().unwrap_or(text.len());
    let simple = |TokenSpan { id, token, special, span }| match span {
        Some((start, end)) => {
            let (start, stop) = (place(start), place(end));
            let covered = text.get(start..stop).unwrap_or_default().to_owned();
            SimpleToken { id, text: covered, special, start: Some(start), stop: Some(stop) }
        }
        None => SimpleToken { id, text: token, special, start: None, stop: None },
    };
    tokens.into_iter().map(simple).collect()
}

pub(super) async fn decode(asked: &Asked, request: tei::DecodeRequest) -> Result<Reply, Fault> {
    let lists = request.ids.into_lists();
    let (_, texts) = asked.service().decode(asked.model.as_deref(), lists, request.skip_special_tokens).await?;
    let size = texts.iter().map(String::len).sum();
    Ok(Reply::plain(asked.apart(size, move || json::text_of(&texts)).await?))
}

/// How many numbers vectors have.
pub(super) fn numbers(vectors: &[TextVectors]) -> usize {
    let of_text = |vectors: &TextVectors| match vectors {
        TextVectors::Pooled(vector) => vector.len(),
        TextVectors::Tokens(rows) => rows.iter().map(Vec::len).sum(),
        TextVectors::Sparse(vector) => 2 * vector.len(),
    };
    vectors.iter().map(of_text).sum()
}

/// How many numbers several vectors per text have.
pub(super) fn values(texts: &[Embeddings]) -> usize {
    texts.iter().map(|vectors| vectors.values.len()).sum()
}

/// The one vector of each text.
pub(super) fn pooled(vectors: Vec<TextVectors>) -> Result<Vec<Vec<f32>>, Fault> {
    let vector = |vectors| match vectors {
        TextVectors::Pooled(vector) => Ok(vector),
        _ => Err(other_vectors("one dense vector per text")),
    };
    vectors.into_iter().map(vector).collect()
}

/// The vectors of each text's tokens.
pub(super) fn of_tokens(vectors: Vec<TextVectors>) -> Result<Vec<Vec<Vec<f32>>>, Fault> {
    let rows = |vectors| match vectors {
        TextVectors::Tokens(rows) => Ok(rows),
        _ => Err(other_vectors("one vector per token")),
    };
    vectors.into_iter().map(rows).collect()
}

/// The same of models of late interaction.
pub(super) fn rows(texts: &[Embeddings]) -> Vec<Vec<Vec<f32>>> {
    texts.iter().map(|vectors| vectors.rows().map(<[f32]>::to_vec).collect()).collect()
}

fn sparse(vectors: Vec<TextVectors>) -> Result<Vec<Vec<(usize, f32)>>, Fault> {
    let pairs = |vectors| match vectors {
        TextVectors::Sparse(vector) => {
            Ok(vector.indices.into_iter().map(|index| index as usize).zip(vector.values).collect())
        }
        _ => Err(other_vectors("one sparse vector per text")),
    };
    vectors.into_iter().map(pairs).collect()
}

fn other_vectors(asked: &str) -> Fault {
    Fault::new(FaultKind::Internal, ServeError::internal(format!("{asked} was asked for, and others came")).message)
}
