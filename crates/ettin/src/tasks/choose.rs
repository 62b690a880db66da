//! Multiple choice: which of several texts goes on from another one, or answers it.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::numbers::{descending, softmax};
use super::pairs::PairGroup;
use super::spec::TaskSpec;
use super::{Options, Outcome, Outcomes, Preprocessor};
use crate::files::ModelFiles;
use crate::finite::{Traced, is_finite};
use crate::heads::ChoiceScorer;
use crate::tokenizer::PairCut;
use crate::{Error, Objective, Result};

/// Chooses between texts, with a `ModernBertForMultipleChoice` of transformers.
///
/// Context and choice are encoded as a pair and scored alone; probabilities are the softmax over the choices of one
/// context. A context is encoded once, and its pairs are packed into the same batches.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{MultipleChoice, Options};
///
/// let task = MultipleChoice::load(&ModelFiles::folder("my-swag-model")?, &Options::default())?;
/// let choices = task.choose("She opened the door and", &["went in.", "two apples."])?;
/// println!("choice {} with probability {}", choices[0].index, choices[0].score);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MultipleChoice {
    model: Arc<ChoiceScorer>,
    preprocessor: Preprocessor,
}

/// A context and its choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceInput<'a> {
    /// What every choice follows.
    pub context: &'a str,
    /// The choices, of which there must be one.
    pub choices: Vec<&'a str>,
}

/// One choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScoredChoice {
    /// Its place among the choices, from 0.
    pub index: usize,
    /// Its probability among them.
    pub score: f32,
    /// The model's output for it alone.
    pub logit: f32,
}

impl MultipleChoice {
    /// Loads a multiple-choice model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a decoder and for a model of another kind; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "choose", objective: Some(Objective::Encoder) };
        let (model, preprocessor) = spec.load(files, options, ChoiceScorer::load, Bounds::lenient)?;
        Ok(Self::new(model, preprocessor))
    }

    /// A task of parts.
    pub fn new(model: impl Into<Arc<ChoiceScorer>>, preprocessor: Preprocessor) -> Self {
        Self { model: model.into(), preprocessor }
    }

    /// The model.
    pub fn model(&self) -> &Arc<ChoiceScorer> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The choices of every context, best first; equal ones keep their order. A pair over the limit is cut at its
    /// longer text first.
    ///
    /// # Errors
    /// Failures of the engine; a context fails in its place if it has no choices, or if one of them fails.
    pub fn run(&self, inputs: &[ChoiceInput<'_>]) -> Result<Outcomes<Vec<ScoredChoice>>> {
        let groups: Vec<_> = inputs.iter().map(ChoiceInput::pairs).collect();
        let logits = self.preprocessor.run_pairs(&groups, PairCut::LongestFirst, |batch, ids| {
            let scores = self.model.scores(batch)?.to_vec1::<f32>()?;
            let scored = scores.iter().zip(ids);
            Ok(scored.map(|(&score, ids)| self.model.finite(is_finite(&[score]), score, ids)).collect())
        })?;
        let ranked = logits.into_iter().map(|outcome| {
            let Outcome { value, truncated } = outcome?;
            Ok(Outcome { value: ranked(&value), truncated })
        });
        Ok(ranked.collect())
    }
}

impl<'a> ChoiceInput<'a> {
    fn pairs(&self) -> Result<PairGroup<'a>> {
        match self.choices.is_empty() {
            true => Err(Error::input("there are no choices")),
            false => {
                let seconds = self.choices.iter().map(|&choice| Cow::Borrowed(choice)).collect();
                Ok(PairGroup { first: self.context, seconds })
            }
        }
    }
}

/// Ordered by logits, which tell choices apart whose probabilities are rounded to the same number.
fn ranked(logits: &[f32]) -> Vec<ScoredChoice> {
    let scores = softmax(logits).into_iter().zip(logits).enumerate();
    let mut ranked: Vec<_> = scores.map(|(index, (score, &logit))| ScoredChoice { index, score, logit }).collect();
    ranked.sort_by(|a, b| descending(a.logit, b.logit));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_ranked_by_logits_and_equal_ones_keep_their_order() {
        let order = |logits: &[f32]| ranked(logits).iter().map(|choice| choice.index).collect::<Vec<_>>();
        assert_eq!(order(&[0.0, 2.0, 0.0, 1.0]), [1, 3, 0, 2]);
        // Both probabilities are 0.
        assert_eq!(order(&[-300.0, 0.0, -200.0]), [1, 2, 0]);
        assert_eq!(ranked(&[-7.0]), [ScoredChoice { index: 0, score: 1.0, logit: -7.0 }]);
    }
}
