//! Extractive question answering.

use serde::Serialize;

use super::{Options, Outcomes};
use crate::Result;
use crate::files::ModelFiles;

/// Finds the answer to a question in a text.
#[derive(Debug)]
pub struct Answerer {}

/// A question and the text that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// The question.
    pub question: &'a str,
    /// The text searched; it may be longer than the model's context.
    pub context: &'a str,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerRequest {
    /// The longest answer, in tokens.
    pub max_answer_len: usize,
}

impl Default for AnswerRequest {
    fn default() -> Self {
        Self { max_answer_len: 15 }
    }
}

/// The best answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The text of the context from `start` to `end`.
    pub answer: String,
    /// Product of the start's and the end's probability.
    pub score: f32,
    /// Where it starts in the context, in Unicode scalars.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Answerer {
    /// Loads a question answering model.
    pub fn load(_files: &ModelFiles, _options: &Options) -> Result<Self> {
        todo!()
    }

    /// The best answer to every question.
    pub fn run(
        &self,
        _questions: &[Question<'_>],
        _request: &AnswerRequest,
    ) -> Result<Outcomes<Answer>> {
        todo!()
    }
}
