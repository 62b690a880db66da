//! Requests of Hugging Face's inference clients.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::protocol::fault::Fault;
use crate::protocol::json::{Refused, WireRequest, one_or_many};
use crate::protocol::openai::check_range;

/// A text, answered by one result, or a list of texts, answered by a list of results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum TextOrTexts {
    /// One text.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl TextOrTexts {
    /// Whether it came without a list.
    pub fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }

    /// All texts in order.
    pub fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }

    fn check_not_empty(&self) -> Result<(), Fault> {
        let empty = match self {
            Self::One(text) => text.is_empty(),
            Self::Many(texts) => texts.is_empty() || texts.iter().any(String::is_empty),
        };
        if empty { Err(Fault::empty("inputs")) } else { Ok(()) }
    }
}

/// Refuses lists of no entries.
fn check_top_k(top_k: Option<usize>) -> Result<(), Fault> {
    match top_k {
        Some(0) => Err(Fault::field("parameters.top_k", "`parameters.top_k` must be 1 or more")),
        _ => Ok(()),
    }
}

/// Words for masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FillMaskRequest {
    /// Texts with masks.
    pub inputs: TextOrTexts,
    /// How masks are filled.
    #[serde(default)]
    pub parameters: FillMaskParameters,
}

/// The parameters of a [`FillMaskRequest`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FillMaskParameters {
    /// How many words a mask gets; 5 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
    /// Words to choose from; the vocabulary if left out.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
}

impl WireRequest for FillMaskRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty()?;
        check_top_k(self.parameters.top_k)
    }
}

/// What turns logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FunctionToApply {
    /// Each label by itself.
    Sigmoid,
    /// All labels together.
    Softmax,
    /// Nothing: logits.
    None,
}

/// Labels of texts, from a client that sends `parameters`; a list of strings is a list of texts here, not a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassificationRequest {
    /// Texts.
    pub inputs: TextOrTexts,
    /// How they are classified.
    pub parameters: ClassificationParameters,
}

/// The parameters of a [`ClassificationRequest`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassificationParameters {
    /// What turns logits into scores; the model's own function if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_to_apply: Option<FunctionToApply>,
    /// How many of the best labels are answered; all if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
}

impl WireRequest for ClassificationRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty()?;
        check_top_k(self.parameters.top_k)
    }
}

/// How labels of tokens become labels of words and groups, as in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    /// Not at all.
    None,
    /// Neighbouring tokens of one label are a group.
    Simple,
    /// A word has the label of its first token.
    First,
    /// A word has the label of its mean scores.
    Average,
    /// A word has the label of its largest score.
    Max,
}

/// Labels of tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TagRequest {
    /// Texts.
    pub inputs: TextOrTexts,
    /// How they are labelled.
    #[serde(default)]
    pub parameters: TagParameters,
}

/// The parameters of a [`TagRequest`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TagParameters {
    /// How tokens become groups. Left out: `simple`, as Hugging Face's hosted pipeline has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation_strategy: Option<Aggregation>,
    /// Labels that are not answered; `O` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_labels: Option<Vec<String>>,
}

impl WireRequest for TagRequest {
    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty()
    }
}

/// An answer within a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QuestionRequest {
    /// The question and the text.
    pub inputs: Question,
    /// How the answer is looked for.
    #[serde(default)]
    pub parameters: QuestionParameters,
}

/// A question and the text that has its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// Where the answer is.
    pub context: String,
}

/// The parameters of a [`QuestionRequest`]. Those left out are transformers' defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QuestionParameters {
    /// How many answers are given. Left out: one, as an object; otherwise a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
    /// Tokens that neighbouring windows of a long text share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_stride: Option<usize>,
    /// Tokens of an answer at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_answer_len: Option<usize>,
    /// Tokens of a window, the question included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seq_len: Option<usize>,
    /// Tokens of a question at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_question_len: Option<usize>,
    /// Whether no answer is an answer.
    #[serde(default)]
    pub handle_impossible_answer: bool,
    /// Whether answers begin and end with words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align_to_words: Option<bool>,
}

impl WireRequest for QuestionRequest {
    fn validate(&self) -> Result<(), Fault> {
        if self.inputs.question.is_empty() {
            return Err(Fault::empty("inputs.question"));
        }
        if self.inputs.context.is_empty() {
            return Err(Fault::empty("inputs.context"));
        }
        if self.parameters.max_answer_len == Some(0) {
            return Err(Fault::field("parameters.max_answer_len", "`parameters.max_answer_len` must be 1 or more"));
        }
        check_top_k(self.parameters.top_k)
    }
}

/// Labels that the request brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ZeroShotRequest {
    /// Texts.
    pub inputs: TextOrTexts,
    /// The labels.
    pub parameters: ZeroShotParameters,
}

/// The parameters of a [`ZeroShotRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ZeroShotParameters {
    /// The labels: a list, or one text with commas between them.
    #[serde(deserialize_with = "one_or_many")]
    pub candidate_labels: Vec<String>,
    /// Whether each label is judged by itself.
    #[serde(default)]
    pub multi_label: bool,
    /// A sentence with `{}` where the label goes; `This example is {}.` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypothesis_template: Option<String>,
}

impl ZeroShotParameters {
    /// The labels, one each: transformers takes `"a, b"` for two.
    pub fn labels(&self) -> Vec<String> {
        match self.candidate_labels.as_slice() {
            [one] => one.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect(),
            many => many.to_vec(),
        }
    }
}

impl WireRequest for ZeroShotRequest {
    const REFUSED: &'static [Refused] = &[];

    fn validate(&self) -> Result<(), Fault> {
        self.inputs.check_not_empty()?;
        if self.parameters.labels().is_empty() {
            return Err(Fault::empty("parameters.candidate_labels"));
        }
        match &self.parameters.hypothesis_template {
            Some(template) if !template.contains("{}") => Err(Fault::field(
                "parameters.hypothesis_template",
                "`parameters.hypothesis_template` has no `{}` where the label would go",
            )),
            _ => Ok(()),
        }
    }
}

/// As [`check_range`], of a parameter.
pub(super) fn check_parameter(
    name: &str,
    value: Option<f32>,
    holds: impl Fn(f32) -> bool,
    range: &str,
) -> Result<(), Fault> {
    value.map_or(Ok(()), |value| check_range(&format!("parameters.{name}"), value, holds, range))
}
