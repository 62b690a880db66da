//! Routes of vLLM for models that do not generate, its tokenizer, and rankings of `documents`, which Cohere, Jina and
//! infinity have, too.

use std::sync::Arc;

use ettin::tasks::{Activation, ClassifyRequest, EmbedRequest, Label, RerankRequest};
use serde_json::{Map, Value};

use super::AppState;
use super::answer::{Facts, Reply};
use super::asked::{Asked, only_texts};
use super::tei::{
    by_index, is_late_interaction, late_interaction, named_scores, numbers, of_tokens, pooled, rows, values,
};
use crate::models::{Ability, LoadedModel};
use crate::protocol::rerank::{DocumentRerankRequest, document_rerank_answer};
use crate::protocol::vllm::{
    ClassifyRequest as LabelsRequest, DetokenizeRequest, Detokenized, PooledData, PoolingRequest, PoolingTask,
    PromptTokenizeRequest, PromptTokens, ScoreRequest, classify_answer, classify_list_answer, pooling_answer,
    score_answer,
};
use crate::protocol::{Fault, FaultKind, json};
use crate::service::{ClassifyCall, EmbedCall, PairText, RerankCall, ScorePairsCall, TokenizeCall};

pub(super) async fn rerank(asked: &Asked, request: DocumentRerankRequest) -> Result<Reply, Fault> {
    let truncate = asked.truncate_to(Ability::Rerank, request.truncate_prompt_tokens, None)?;
    if request.max_tokens_per_doc > 0 {
        let limit = asked.choose(Ability::Rerank)?.description.max_input_length;
        if request.max_tokens_per_doc < limit {
            let message = format!(
                "`max_tokens_per_doc` of {} is not supported: pairs are cut at the model's own limit, {limit} \
                 tokens; leave it out, or cut documents before",
                request.max_tokens_per_doc
            );
            return Err(Fault::new(FaultKind::Refused, message).with_param("max_tokens_per_doc"));
        }
    }
    let activation = request.raw().then_some(Activation::Raw);
    let rerank = RerankRequest::default().with_activation(activation).with_truncate(truncate);
    let documents = request.documents.iter().map(|document| document.0.clone()).collect();
    let call = RerankCall { model: asked.model.clone(), query: request.query, documents, request: rerank };
    let answer = asked.service().rerank(call, asked.caller).await?;
    let (top_n, kept) = (request.top_n, request.return_documents.then_some(request.documents));
    let write = move |ranked, facts: &Facts| {
        document_rerank_answer(facts.head("rerank"), &by_index(ranked), top_n, kept.as_deref(), facts.tokens)
    };
    asked.reply(answer, Vec::len, write).await
}

pub(super) async fn score(asked: &Asked, request: ScoreRequest) -> Result<Reply, Fault> {
    let truncate = asked.truncate_to(Ability::Rerank, request.truncate_prompt_tokens, None)?;
    let activation = (!request.use_activation).then_some(Activation::Raw);
    let rerank = RerankRequest::default().with_activation(activation).with_truncate(truncate);
    let call = ScorePairsCall { model: asked.model.clone(), pairs: request.into_pairs(), request: rerank };
    let answer = asked.service().score_pairs(call, asked.caller).await?;
    let write = |scores: Vec<f32>, facts: &Facts| score_answer(facts.head("score"), &scores, facts.tokens);
    asked.reply(answer, Vec::len, write).await
}

/// What both forms of `/classify` and `/pooling` ask a classifier.
fn labels_of(asked: &Asked, texts: Vec<String>, raw: bool, tokens: Option<i64>) -> Result<ClassifyCall, Fault> {
    let truncate = asked.truncate_to(Ability::Classify, tokens, None)?;
    let request = ClassifyRequest::default().with_top_k(None).with_raw(raw).with_truncate(truncate);
    let inputs = texts.into_iter().map(|text| PairText { text, pair: None }).collect();
    Ok(ClassifyCall { model: asked.model.clone(), inputs, request })
}

pub(super) async fn classify(asked: &Asked, request: LabelsRequest) -> Result<Reply, Fault> {
    let (raw, of_infinity) = (request.raw(), request.raw_scores.is_some());
    let call = labels_of(asked, only_texts(request.input, "input")?, raw, request.truncate_prompt_tokens)?;
    let answer = asked.service().classify(call, asked.caller).await?;
    let size = |value: &Vec<Vec<Label>>| value.iter().map(Vec::len).sum();
    let write = move |value, facts: &Facts| {
        let head = facts.head("classify");
        if of_infinity {
            return classify_list_answer(head, named_scores(value), facts.tokens);
        }
        let labels = &facts.model.description.labels;
        let probabilities = value.into_iter().map(|ranked| in_order(labels, ranked)).collect::<Result<_, _>>()?;
        classify_answer(head, labels, probabilities, facts.tokens)
    };
    asked.reply(answer, size, write).await
}

/// Scores in the order of the model's outputs. Of labels with one name, the first of the ranked is the first of the
/// model's.
fn in_order(labels: &[String], ranked: Vec<Label>) -> Result<Vec<f32>, Fault> {
    let mut scores: Vec<Option<f32>> = vec![None; labels.len()];
    for Label { label, score, .. } in ranked {
        let place = labels.iter().zip(&mut scores).find(|(name, place)| **name == label && place.is_none());
        if let Some((_, place)) = place {
            *place = Some(score);
        }
    }
    let all: Option<Vec<f32>> = scores.into_iter().collect();
    all.ok_or_else(|| Fault::new(FaultKind::Internal, "a label of the model has no score"))
}

pub(super) async fn pooling(asked: &Asked, request: PoolingRequest) -> Result<Reply, Fault> {
    let format = request.encoding_format;
    let activation = request.use_activation != Some(false);
    let task = match request.task {
        Some(task) => task,
        None => task_of(asked)?,
    };
    if request.dimensions.is_some() && task != PoolingTask::Embed {
        let message = "`dimensions` belongs to the task `embed`";
        return Err(Fault::new(FaultKind::Refused, message).with_param("dimensions"));
    }
    match task {
        PoolingTask::TokenEmbed if is_late_interaction(asked) => {
            let call = late_interaction(asked, only_texts(request.input, "input")?, None);
            let answer = asked.service().embed_multi(call, asked.caller).await?;
            let write = move |value: Vec<_>, facts: &Facts| {
                let data = rows(&value).into_iter().map(PooledData::Rows).collect();
                pooling_answer(facts.head("pool"), data, format, facts.tokens)
            };
            asked.reply(answer, |value| values(value), write).await
        }
        PoolingTask::Embed | PoolingTask::TokenEmbed => {
            let per_token = task == PoolingTask::TokenEmbed;
            let embed = EmbedRequest::default()
                .with_per_token(per_token)
                .with_normalize(activation && !per_token)
                .with_dimensions(request.dimensions)
                .with_truncate(asked.truncate_to(Ability::Embed, request.truncate_prompt_tokens, None)?);
            let inputs = asked.inputs(Ability::Embed, request.input, "input")?;
            let call = EmbedCall { model: asked.model.clone(), inputs, request: embed };
            let answer = asked.service().embed(call, asked.caller).await?;
            let write = move |value, facts: &Facts| {
                let data = match per_token {
                    true => of_tokens(value)?.into_iter().map(PooledData::Rows).collect(),
                    false => pooled(value)?.into_iter().map(PooledData::Vector).collect(),
                };
                pooling_answer(facts.head("pool"), data, format, facts.tokens)
            };
            asked.reply(answer, |value| numbers(value), write).await
        }
        PoolingTask::Classify | PoolingTask::Score => {
            let texts = only_texts(request.input, "input")?;
            let call = labels_of(asked, texts, !activation, request.truncate_prompt_tokens)?;
            let answer = asked.service().classify(call, asked.caller).await?;
            let size = |value: &Vec<Vec<Label>>| value.iter().map(Vec::len).sum();
            let write = move |value: Vec<Vec<Label>>, facts: &Facts| {
                let labels = &facts.model.description.labels;
                let vector = |ranked| in_order(labels, ranked).map(PooledData::Vector);
                let data = value.into_iter().map(vector).collect::<Result<_, _>>()?;
                pooling_answer(facts.head("pool"), data, format, facts.tokens)
            };
            asked.reply(answer, size, write).await
        }
        PoolingTask::TokenClassify => {
            let message = "the task `token_classify` is not supported: send the text to `/`, which answers its labels";
            Err(Fault::new(FaultKind::Refused, message).with_param("task"))
        }
    }
}

/// What the model that will answer is made for.
fn task_of(asked: &Asked) -> Result<PoolingTask, Fault> {
    let model = asked.service().registry().choose_by(asked.model.as_deref(), "pooling", |_| true)?;
    Ok(match model.abilities.main() {
        Some(Ability::EmbedMulti) => PoolingTask::TokenEmbed,
        Some(Ability::Classify | Ability::ZeroShot) => PoolingTask::Classify,
        Some(Ability::Rerank) => PoolingTask::Score,
        Some(Ability::Tag) => PoolingTask::TokenClassify,
        _ => PoolingTask::Embed,
    })
}

pub(super) async fn tokenize(asked: &Asked, request: PromptTokenizeRequest) -> Result<Reply, Fault> {
    let PromptTokenizeRequest { prompt, add_special_tokens, return_token_strs, .. } = request;
    let size = prompt.len();
    let call = TokenizeCall { model: asked.model.clone(), texts: vec![prompt], special_tokens: add_special_tokens };
    let (model, mut texts) = asked.service().tokenize(call).await?;
    let tokens = texts.pop().unwrap_or_default();
    let write = move || {
        let strings = return_token_strs.then(|| tokens.iter().map(|token| token.token.clone()).collect());
        json::text_of(&PromptTokens {
            count: tokens.len(),
            max_model_len: model.description.max_input_length,
            tokens: tokens.iter().map(|token| token.id).collect(),
            token_strs: strings,
        })
    };
    Ok(Reply::plain(asked.apart(size, write).await?))
}

pub(super) async fn detokenize(asked: &Asked, request: DetokenizeRequest) -> Result<Reply, Fault> {
    let (_, mut texts) = asked.service().decode(asked.model.as_deref(), vec![request.tokens], false).await?;
    Ok(Reply::plain(json::text_of(&Detokenized { prompt: texts.pop().unwrap_or_default() })?))
}

/// `GET /tokenizer_info`: the special tokens, by the names that `tokenizer_config.json` has for them. lm-eval asks for
/// it, so that where a model generates it is that model's.
pub(super) fn tokenizer_info(state: &AppState) -> Result<Reply, Fault> {
    let registry = state.service.registry();
    let generates = registry.choose(None, Ability::Generate);
    let model: Arc<LoadedModel> = generates.or_else(|_| registry.choose_by(None, "tokenize", |_| true))?;
    let tokenizer = &model.tokenizer;
    let special = tokenizer.special();
    let mut info = Map::new();
    let tokens = [
        ("bos_token", special.bos.or(special.cls)),
        ("eos_token", special.eos.first().copied().or(special.sep)),
        ("cls_token", special.cls),
        ("sep_token", special.sep),
        ("mask_token", special.mask),
        ("pad_token", special.pad),
        ("unk_token", special.unk),
    ];
    for (name, id) in tokens {
        info.insert(name.to_owned(), id.and_then(|id| tokenizer.token(id)).map_or(Value::Null, Value::String));
    }
    info.insert("model_max_length".to_owned(), model.description.max_input_length.into());
    info.insert("vocab_size".to_owned(), tokenizer.vocab_size().into());
    info.insert("model".to_owned(), model.name.to_string().into());
    Ok(Reply::plain(json::text_of(&info)?))
}
