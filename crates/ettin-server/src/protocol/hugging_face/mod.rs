//! Bodies that Hugging Face's clients send to `/`: the task is not named, its shape or the model says it.
//!
//! Feature extraction, similarity and classification without `parameters` are TEI's ([`super::tei`]).

mod answers;
mod generation;
mod requests;

pub use answers::{
    FilledMask, FoundAnswer, LabelScore, TaggedSpan, fill_mask_answer, question_answer, token_classification_answer,
    zero_shot_answer,
};
pub use generation::{
    GeneratedText, GeneratedToken, GenerationDetails, GenerationEnd, GenerationParameters, GenerationRequest,
    GenerationStep, PrefillToken, StepDetails, generation_answer,
};
pub use requests::{
    Aggregation, ClassificationParameters, ClassificationRequest, FillMaskParameters, FillMaskRequest, FunctionToApply,
    Question, QuestionParameters, QuestionRequest, TagParameters, TagRequest, TextOrTexts, ZeroShotParameters,
    ZeroShotRequest,
};
