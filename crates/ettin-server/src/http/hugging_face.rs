//! Bodies of Hugging Face's clients at `/`, but for those that TEI has, too.

use ettin::tasks::{
    Aggregation, Answer, AnswerRequest, Candidate, ClassifyRequest, Fills, HypothesisTemplate, ScoreFunction, Tag,
    TagRequest, ZeroShotLabels, ZeroShotRequest,
};

use super::answer::Reply;
use super::asked::Asked;
use super::tei::predictions;
use crate::protocol::hugging_face::{
    self as wire, FilledMask, FoundAnswer, FunctionToApply, QuestionParameters, TaggedSpan, fill_mask_answer,
    question_answer, token_classification_answer, zero_shot_answer,
};
use crate::protocol::{Fault, FaultKind};
use crate::service::{AnswerCall, ClassifyCall, FillMaskCall, PairText, TagCall, ZeroShotCall};

/// Words that a mask gets unless a request says otherwise.
const FILLS: usize = 5;

pub(super) async fn classification(
    asked: &Asked,
    request: wire::ClassificationRequest,
    nested: bool,
) -> Result<Reply, Fault> {
    let function = request.parameters.function_to_apply.map(|function| match function {
        FunctionToApply::Sigmoid => ScoreFunction::Sigmoid,
        FunctionToApply::Softmax => ScoreFunction::Softmax,
        FunctionToApply::None => ScoreFunction::Raw,
    });
    let classify = ClassifyRequest::default()
        .with_top_k(request.parameters.top_k)
        .with_function(function)
        .with_truncate(asked.truncate(None, None));
    let inputs = request.inputs.into_list().into_iter().map(|text| PairText { text, pair: None }).collect();
    predictions(asked, ClassifyCall { model: asked.model.clone(), inputs, request: classify }, nested).await
}

pub(super) async fn fill_mask(asked: &Asked, request: wire::FillMaskRequest) -> Result<Reply, Fault> {
    let wire::FillMaskRequest { inputs, parameters } = request;
    if !parameters.targets.is_empty() {
        return Err(unsupported("targets", "masks are filled from the whole vocabulary; choose among `top_k` of them"));
    }
    let one = inputs.is_one();
    let top_k = parameters.top_k.unwrap_or(FILLS);
    let call = FillMaskCall { model: asked.model.clone(), texts: inputs.into_list(), top_k };
    let answer = asked.service().fill_mask(call, asked.caller).await?;
    let filled = |candidate: Candidate| FilledMask {
        score: candidate.score,
        token: candidate.token,
        token_str: candidate.token_str,
        sequence: candidate.sequence,
    };
    let of_mask = move |candidates: Vec<Candidate>| candidates.into_iter().map(filled).collect::<Vec<_>>();
    let of_text = move |fills| match fills {
        Fills::One(candidates) => vec![of_mask(candidates)],
        Fills::Many(masks) => masks.into_iter().map(of_mask).collect(),
    };
    let size = |texts: &Vec<Fills>| texts.len() * top_k * 16;
    asked.reply(answer, size, move |texts, _| fill_mask_answer(texts.into_iter().map(of_text).collect(), one)).await
}

pub(super) async fn tag(asked: &Asked, request: wire::TagRequest) -> Result<Reply, Fault> {
    let wire::TagRequest { inputs, parameters } = request;
    let aggregation = match parameters.aggregation_strategy {
        Some(wire::Aggregation::None) => Aggregation::None,
        None | Some(wire::Aggregation::Simple) => Aggregation::Simple,
        Some(wire::Aggregation::First) => Aggregation::First,
        Some(wire::Aggregation::Average) => Aggregation::Average,
        Some(wire::Aggregation::Max) => Aggregation::Max,
    };
    let ignored = parameters.ignore_labels;
    let tags = TagRequest::default().with_aggregation(aggregation).with_all(ignored.is_some());
    let one = inputs.is_one();
    let call = TagCall { model: asked.model.clone(), texts: inputs.into_list(), request: tags };
    let answer = asked.service().tag(call, asked.caller).await?;
    let size = |texts: &Vec<Vec<Tag>>| texts.iter().map(|tags| 32 * tags.len()).sum();
    let write = move |texts: Vec<Vec<Tag>>, _: &_| {
        let kept = |tag: &Tag| ignored.as_ref().is_none_or(|ignored| !ignored.iter().any(|label| label == tag.label()));
        let spans = |tags: Vec<Tag>| tags.into_iter().filter(kept).map(span).collect();
        token_classification_answer(texts.into_iter().map(spans).collect(), one)
    };
    asked.reply(answer, size, write).await
}

fn span(tag: Tag) -> TaggedSpan {
    match tag {
        Tag::Token { entity, score, index, word, start, end } => {
            TaggedSpan { entity: Some(entity), entity_group: None, score, index: Some(index), word, start, end }
        }
        Tag::Group { entity_group, score, word, start, end } => {
            TaggedSpan { entity: None, entity_group: Some(entity_group), score, index: None, word, start, end }
        }
    }
}

pub(super) async fn question(asked: &Asked, request: wire::QuestionRequest) -> Result<Reply, Fault> {
    let wire::QuestionRequest { inputs, parameters } = request;
    check_windows(&parameters)?;
    let mut how = AnswerRequest::default().with_no_answer(parameters.handle_impossible_answer);
    if let Some(longest) = parameters.max_answer_len {
        how = how.with_max_answer_len(longest);
    }
    let call =
        AnswerCall { model: asked.model.clone(), question: inputs.question, context: inputs.context, request: how };
    let answer = asked.service().answer(call, asked.caller).await?;
    let write = move |Answer { answer, score, start, end, .. }, _: &_| {
        question_answer(vec![FoundAnswer { score, start, end, answer }], parameters.top_k)
    };
    asked.reply(answer, |_| 1, write).await
}

/// Refuses what the search does not have. The numbers are those of transformers' pipeline, with which it works.
fn check_windows(parameters: &QuestionParameters) -> Result<(), Fault> {
    let only = |name: &str, value: Option<usize>, fixed: usize| match value {
        Some(value) if value != fixed => {
            Err(unsupported(name, &format!("{value} was asked for, and it is {fixed}; leave it out")))
        }
        _ => Ok(()),
    };
    only("top_k", parameters.top_k, 1)?;
    only("doc_stride", parameters.doc_stride, 128)?;
    only("max_seq_len", parameters.max_seq_len, 384)?;
    only("max_question_len", parameters.max_question_len, 64)?;
    match parameters.align_to_words {
        Some(false) => Err(unsupported("align_to_words", "answers begin and end with words; leave it out")),
        _ => Ok(()),
    }
}

pub(super) async fn zero_shot(asked: &Asked, request: wire::ZeroShotRequest) -> Result<Reply, Fault> {
    let wire::ZeroShotRequest { inputs, parameters } = request;
    let labels = parameters.labels();
    let mut how = ZeroShotRequest::default().with_multi_label(parameters.multi_label);
    if let Some(template) = parameters.hypothesis_template {
        let template: Result<HypothesisTemplate, _> = template.parse();
        let field = "parameters.hypothesis_template";
        how = how.with_template(template.map_err(|error| Fault::field(field, error.to_string()))?);
    }
    let one = inputs.is_one();
    let call = ZeroShotCall { model: asked.model.clone(), texts: inputs.into_list(), labels, request: how };
    let answer = asked.service().zero_shot(call, asked.caller).await?;
    let size = |texts: &Vec<ZeroShotLabels>| texts.iter().map(|text| 16 * text.labels.len()).sum();
    let pairs = |text: ZeroShotLabels| text.labels.into_iter().zip(text.scores).collect();
    asked.reply(answer, size, move |texts, _| zero_shot_answer(texts.into_iter().map(pairs).collect(), one)).await
}

fn unsupported(name: &str, why: &str) -> Fault {
    let name = format!("parameters.{name}");
    Fault::new(FaultKind::Refused, format!("`{name}` is not supported: {why}")).with_param(name)
}
