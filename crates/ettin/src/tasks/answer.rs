//! Extractive question answering.

mod search;

use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::spec::TaskSpec;
use super::{Options, Outcome, Outcomes, Prepared, PreparedSequence, Preprocessor, Staged, staged};
use crate::files::ModelFiles;
use crate::finite::Traced;
use crate::heads::QuestionAnswering;
use crate::setters::setters;
use crate::tokenizer::{Encoding, Limit, LimitOrigin};
use crate::{Error, PackedBatch, Result};
use search::{Scores, Search};

/// Length of a window over question and context, unless the model's limit or `max_length` is smaller.
const WINDOW: usize = 384;
/// Tokens of the context that neighbouring windows share; at most half a window.
const OVERLAP: usize = 128;

/// Finds the answer to a question in a text.
///
/// The algorithm is that of the question-answering pipeline of transformers 4.57 (gone in 5) with its defaults: the
/// context is read in windows of up to 384 tokens that overlap by 128, and the answer is the best span of at most
/// [`AnswerRequest::max_answer_len`] tokens, widened to whole words. A context is never cut, so `truncate` does not
/// apply; `max_length` sets the window. A question that leaves no room for the context is an error.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{AnswerRequest, Answerer, Options, Question};
///
/// let answerer = Answerer::load(&ModelFiles::folder("squad")?, &Options::default())?;
/// let question = Question { question: "Where is Ada?", context: "Ada lives in London." };
/// for outcome in answerer.run(&[question], &AnswerRequest::default())? {
///     println!("{}", outcome?.value.answer);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Answerer {
    model: Arc<QuestionAnswering>,
    preprocessor: Preprocessor,
}

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
#[non_exhaustive]
pub struct AnswerRequest {
    /// The longest answer, in tokens.
    pub max_answer_len: usize,
    /// Whether the text may hold no answer (the pipeline's `handle_impossible_answer`, for models of SQuAD 2): an empty
    /// answer from 0 to 0 then competes with the spans. Its score is the probability of `[CLS]` as start times that as
    /// end, in the window where this is least.
    pub no_answer: bool,
}

setters!(AnswerRequest {
    /// With another longest answer.
    with_max_answer_len(max_answer_len: usize);
    /// With the empty answer among the candidates, or without.
    with_no_answer(no_answer: bool);
});

impl Default for AnswerRequest {
    fn default() -> Self {
        Self { max_answer_len: 15, no_answer: false }
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
    ///
    /// # Errors
    /// What loading the model's files can meet; the two-label classifier's tensors must be there.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "answer", objective: None };
        let (model, preprocessor) = spec.load(files, options, QuestionAnswering::load, Bounds::strict)?;
        Ok(Self::new(model, preprocessor))
    }

    /// An answerer of parts; the preprocessor's limit sets the window where it is less than 384 tokens.
    pub fn new(model: impl Into<Arc<QuestionAnswering>>, preprocessor: Preprocessor) -> Self {
        Self { model: model.into(), preprocessor }
    }

    /// The model.
    pub fn model(&self) -> &Arc<QuestionAnswering> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The best answer to every question.
    ///
    /// # Errors
    /// Failures of the engine; a question's own failure is in its place.
    pub fn run(&self, questions: &[Question<'_>], request: &AnswerRequest) -> Result<Outcomes<Answer>> {
        self.prepare(questions, request)?.run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Input`] for an answer of no tokens.
    pub fn prepare(&self, questions: &[Question<'_>], request: &AnswerRequest) -> Result<Prepared<Self>> {
        let AnswerRequest { max_answer_len, no_answer } = *request;
        if max_answer_len == 0 {
            return Err(Error::input("an answer must be allowed at least one token"));
        }
        Ok(self.prepare_search(questions, Search { answers: 1, max_answer_len, no_answer }))
    }

    fn prepare_search(&self, questions: &[Question<'_>], search: Search) -> Prepared<Self> {
        let windows = self.preprocessor.encode_all(questions, |question| self.windows(question));
        let sequence = |window: &Encoding| PreparedSequence::new(window.ids.clone());
        let sequences = windows.iter().flatten().flatten().map(sequence).collect();
        let asked = windows.into_iter().zip(questions).map(|(windows, question)| {
            let context = question.context.to_owned();
            windows.map(|windows| AskedQuestion { context, windows })
        });
        Prepared::new(sequences, (), AnswerPlan { asked: asked.collect(), search })
    }

    /// The best answers to every question, as many as were asked for.
    fn found(&self, plan: &AnswerPlan, rows: Vec<Result<Scores>>) -> Vec<Result<Vec<Answer>>> {
        let cls = self.preprocessor.tokenizer.special().cls;
        let mut rows = rows.into_iter();
        let answers = plan.asked.iter().map(|asked| {
            let AskedQuestion { context, windows } = asked.as_ref().map_err(Error::clone)?;
            let scores = staged::take_rows(&mut rows, windows.len())?;
            let scored: Vec<_> = windows.iter().zip(scores).collect();
            Ok(plan.search.answers(context, &scored, cls))
        });
        answers.collect()
    }

    fn windows(&self, question: &Question<'_>) -> Result<Vec<Encoding>> {
        for (name, text) in [("question", question.question), ("context", question.context)] {
            if text.is_empty() {
                return Err(Error::input(format!("the {name} is empty")));
            }
        }
        let window = match self.preprocessor.limit {
            limit if limit.tokens > WINDOW => Limit { tokens: WINDOW, origin: LimitOrigin::Window, ..limit },
            limit => limit,
        };
        let overlap = OVERLAP.min(window.tokens / 2);
        self.preprocessor.tokenizer.encode_windows(question.question, question.context, window, overlap)
    }
}

/// Questions that wait for the logits of their windows.
#[derive(Debug)]
pub struct AnswerPlan {
    asked: Vec<Result<AskedQuestion>>,
    search: Search,
}

#[derive(Debug)]
struct AskedQuestion {
    context: String,
    windows: Vec<Encoding>,
}

impl Staged for Answerer {
    type Reading = ();
    type Row = Scores;
    type Plan = AnswerPlan;
    type Answer = Answer;

    fn compute(&self, batch: &PackedBatch, sequences: &[&PreparedSequence], (): &()) -> Result<Vec<Result<Scores>>> {
        let logits = self.model.logits(batch)?.to_vec2::<f32>()?;
        let scores = sequences.iter().enumerate().map(|(index, sequence)| {
            let scores = Scores::new(&logits[batch.rows(index)]);
            self.model.finite(scores.are_comparable(), scores, sequence.ids())
        });
        Ok(scores.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<Scores>>) -> Outcomes<Answer> {
        let none = || Error::internal("a search gave no answer");
        let best = |answers: Vec<Answer>| answers.into_iter().next().ok_or_else(none);
        let found = self.found(&prepared.plan, rows).into_iter();
        found.map(|answers| Ok(Outcome { value: best(answers?)?, truncated: false })).collect()
    }
}

#[cfg(test)]
mod tests;
