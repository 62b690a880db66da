//! Zero-shot classification: labels that the model was never trained on.
//!
//! As the pipeline of transformers 5.23 does it: a text and a sentence about each label are a pair for a model of
//! natural language inference, and what counts is whether the text entails the sentence.

mod template;

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::numbers::{descending, softmax};
use super::pairs::{EncodedGroups, PairGroup, PairPlan};
use super::spec::TaskSpec;
use super::{Options, Outcome, Outcomes, Prepared, PreparedSequence, Preprocessor, Staged};
use crate::files::ModelFiles;
use crate::finite::{Traced, is_finite};
use crate::heads::SequenceClassifier;
use crate::setters::setters;
use crate::tokenizer::{LimitOrigin, PairCut};
use crate::{Config, Error, PackedBatch, Result};

pub use template::HypothesisTemplate;

/// Gives texts one of any labels, or several, with a classifier of natural language inference.
///
/// Every text is encoded once, and its pairs with all labels are packed into the same batches.
///
/// * The output of entailment is the first entry of `label2id` whose name begins with `entail` in any case, else the
///   last output. That of contradiction is the first, or the last where entailment is the first; names do not matter.
/// * Scores are a softmax of entailment over all labels. With [`multi_label`](ZeroShotRequest::multi_label), and of a
///   single label, each is a softmax of contradiction and entailment.
/// * A pair over the limit loses tokens of the text, never of the label's sentence.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{Options, ZeroShotClassifier};
///
/// let classifier = ZeroShotClassifier::load(&ModelFiles::folder("my-nli-model")?, &Options::default())?;
/// let best = classifier.classify("The keeper saved the penalty.", &["sports", "politics"])?;
/// println!("{} {}", best.labels[0], best.scores[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ZeroShotClassifier {
    model: Arc<SequenceClassifier>,
    preprocessor: Preprocessor,
    outputs: NliOutputs,
}

/// A text and the labels to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeroShotInput<'a> {
    /// The text; an empty one is an error.
    pub text: &'a str,
    /// The labels, of which there must be one; [`split_labels`] takes them out of a list with commas.
    pub labels: Vec<&'a str>,
}

/// How to classify.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ZeroShotRequest {
    /// The sentence that is made of each label.
    pub template: HypothesisTemplate,
    /// Whether labels hold independently, so that each has a score of its own.
    pub multi_label: bool,
}

setters!(ZeroShotRequest {
    /// With another sentence.
    with_template(template: HypothesisTemplate);
    /// With labels that hold independently, or not.
    with_multi_label(multi_label: bool);
});

/// Labels of a text, best first; of equal scores, the later label first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeroShotLabels {
    /// The text.
    pub sequence: String,
    /// The labels.
    pub labels: Vec<String>,
    /// The probability of each.
    pub scores: Vec<f32>,
}

/// The outputs of a classifier that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NliOutputs {
    entailment: usize,
    contradiction: usize,
    /// Whether a name says which is which.
    named: bool,
}

impl ZeroShotClassifier {
    /// Loads a classifier. One whose labels do not name entailment is told to the options' notices, and its last label
    /// counts.
    ///
    /// Files of sentence-transformers beside it count for nothing here, as in the pipeline.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `label2id` gives entailment no output of the model; what loading the model's files
    /// can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "classify", objective: None };
        let (model, preprocessor) = spec.load(files, options, SequenceClassifier::load, Bounds::strict)?;
        let classifier = Self::new(model, preprocessor)?;
        if !classifier.outputs.named {
            options.notices.tell(&format!(
                "{}: no label is called entailment; the last one ({}) is taken for it",
                files.name(),
                classifier.entailment()
            ));
        }
        Ok(classifier)
    }

    /// A classifier of parts.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `label2id` gives entailment no output of the model.
    pub fn new(model: impl Into<Arc<SequenceClassifier>>, preprocessor: Preprocessor) -> Result<Self> {
        let model = model.into();
        let outputs = NliOutputs::of(model.config())?;
        Ok(Self { model, preprocessor, outputs })
    }

    /// The model.
    pub fn model(&self) -> &Arc<SequenceClassifier> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The name of the output that is taken for entailment.
    pub fn entailment(&self) -> &str {
        &self.model.config().labels[self.outputs.entailment]
    }

    /// The name of the output that is taken for contradiction.
    pub fn contradiction(&self) -> &str {
        &self.model.config().labels[self.outputs.contradiction]
    }

    /// The labels of every text, best first.
    ///
    /// # Errors
    /// Failures of the engine; a text fails in its place if it is empty, has no labels, or if one of its pairs does.
    pub fn run(&self, inputs: &[ZeroShotInput<'_>], request: &ZeroShotRequest) -> Result<Outcomes<ZeroShotLabels>> {
        self.prepare(inputs, request).run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    pub fn prepare(&self, inputs: &[ZeroShotInput<'_>], request: &ZeroShotRequest) -> Prepared<Self> {
        let groups: Vec<_> = inputs.iter().map(|input| input.pairs(&request.template)).collect();
        let EncodedGroups { sequences, plan: pairs } = self.preprocessor.encode_pairs(&groups, self.cut());
        let owned = |input: &ZeroShotInput<'_>| {
            (input.text.to_owned(), input.labels.iter().map(|&label| label.to_owned()).collect())
        };
        let inputs = inputs.iter().map(owned).collect();
        Prepared::new(sequences, (), ZeroShotPlan { pairs, inputs, multi_label: request.multi_label })
    }

    /// A limit of the caller's own is one that pairs must keep.
    fn cut(&self) -> PairCut {
        let whole = match self.preprocessor.limit.origin {
            LimitOrigin::Asked => 0,
            _ => self.model.config().max_position_embeddings,
        };
        PairCut::FirstAlone { whole }
    }
}

/// Texts that wait for the logits of their pairs.
#[derive(Debug)]
pub struct ZeroShotPlan {
    pairs: PairPlan,
    /// Texts with their labels.
    inputs: Vec<(String, Vec<String>)>,
    multi_label: bool,
}

impl Staged for ZeroShotClassifier {
    type Reading = ();
    type Row = NliLogits;
    type Plan = ZeroShotPlan;
    type Answer = ZeroShotLabels;

    fn compute(&self, batch: &PackedBatch, sequences: &[&PreparedSequence], (): &()) -> Result<Vec<Result<NliLogits>>> {
        let NliOutputs { entailment, contradiction, .. } = self.outputs;
        let logits = self.model.logits(batch)?.to_vec2::<f32>()?;
        let of_pair = |(row, sequence): (&Vec<f32>, &&PreparedSequence)| {
            let logits = NliLogits { entailment: row[entailment], contradiction: row[contradiction] };
            let finite = is_finite(&[logits.entailment, logits.contradiction]);
            self.model.finite(finite, logits, sequence.ids())
        };
        Ok(logits.iter().zip(sequences).map(of_pair).collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<NliLogits>>) -> Outcomes<ZeroShotLabels> {
        let ZeroShotPlan { pairs, inputs, multi_label } = &prepared.plan;
        let ranked = inputs.iter().zip(pairs.together(rows)).map(|((text, labels), outcome)| {
            let Outcome { value, truncated } = outcome?;
            let input = ZeroShotInput { text, labels: labels.iter().map(String::as_str).collect() };
            Ok(Outcome { value: input.ranked(&scores(&value, *multi_label)), truncated })
        });
        ranked.collect()
    }
}

/// What a model says of one pair.
#[derive(Debug, Clone, Copy)]
pub struct NliLogits {
    entailment: f32,
    contradiction: f32,
}

fn scores(pairs: &[NliLogits], multi_label: bool) -> Vec<f32> {
    if multi_label || pairs.len() == 1 {
        return pairs.iter().map(|pair| softmax(&[pair.entailment, pair.contradiction])[0]).collect();
    }
    softmax(&pairs.iter().map(|pair| pair.entailment).collect::<Vec<_>>())
}

impl<'a> ZeroShotInput<'a> {
    fn pairs(&self, template: &HypothesisTemplate) -> Result<PairGroup<'a>> {
        if self.text.is_empty() {
            return Err(Error::input("the text is empty: there is nothing to classify"));
        }
        let seconds = template.hypotheses(&self.labels)?.into_iter().map(Cow::Owned).collect();
        Ok(PairGroup { first: self.text, seconds })
    }

    fn ranked(&self, scores: &[f32]) -> ZeroShotLabels {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| descending(scores[a], scores[b]).then(b.cmp(&a)));
        ZeroShotLabels {
            sequence: self.text.to_owned(),
            labels: order.iter().map(|&index| self.labels[index].to_owned()).collect(),
            scores: order.iter().map(|&index| scores[index]).collect(),
        }
    }
}

impl NliOutputs {
    fn of(config: &Config) -> Result<Self> {
        let labels = &config.labels;
        let entails = |name: &str| name.to_lowercase().starts_with("entail");
        // A name's number, and as Python counts: −1 is the last output.
        let named = match &config.label_ids {
            Some(ids) => ids.iter().find(|(name, _)| entails(name)).cloned(),
            None => labels.iter().find(|name| entails(name)).map(|name| {
                let last = labels.iter().rposition(|other| other == name);
                (name.clone(), last.and_then(|index| i64::try_from(index).ok()))
            }),
        };
        let last = labels.len().saturating_sub(1);
        let Some((name, id)) = named else {
            return Ok(Self { entailment: last, contradiction: 0, named: false });
        };
        let output = |id: i64| {
            let index = usize::try_from(id.unsigned_abs()).ok()?;
            let output = if id < 0 { labels.len().checked_sub(index)? } else { index };
            (output <= last).then_some(output)
        };
        let Some((id, entailment)) = id.and_then(|id| Some((id, output(id)?))) else {
            let number = id.map_or_else(|| "no whole number".to_owned(), |id| id.to_string());
            return Err(Error::Unsupported(format!(
                "zero-shot classification: `label2id` of config.json gives {name:?} the number {number}, and the \
                 model's outputs are 0 to {last}"
            )));
        };
        Ok(Self { entailment, contradiction: if id == 0 { last } else { 0 }, named: true })
    }
}

/// The labels in a text that separates them by commas, without white space around them and without empty ones.
///
/// ```
/// assert_eq!(ettin::tasks::split_labels("politics, public  health,,"), ["politics", "public  health"]);
/// ```
pub fn split_labels(text: &str) -> Vec<&str> {
    // Python strips these separators, too.
    let white = |letter: char| letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter);
    text.split(',').map(|label| label.trim_matches(white)).filter(|label| !label.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(labels: &[&str], ids: Option<&[(&str, Option<i64>)]>) -> Result<(usize, usize, bool)> {
        let mut config = Config::from_json(br#"{"model_type": "modernbert"}"#, "config.json")?;
        config.labels = labels.iter().map(|&label| label.to_owned()).collect();
        config.label_ids = ids.map(|ids| ids.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect());
        NliOutputs::of(&config).map(|found| (found.entailment, found.contradiction, found.named))
    }

    #[test]
    fn entailment_is_found_by_name_and_contradiction_by_place() {
        let three = ["a", "b", "c"];
        assert_eq!(outputs(&["contradiction", "neutral", "entailment"], None).unwrap(), (2, 0, true));
        assert_eq!(outputs(&["ENTAILS", "neutral", "contradiction"], None).unwrap(), (0, 2, true));
        assert_eq!(outputs(&["neutral", "Entailment", "contradiction"], None).unwrap(), (1, 0, true));
        assert_eq!(outputs(&["not_entailment", "entailment"], None).unwrap(), (1, 0, true));
        assert_eq!(outputs(&three, None).unwrap(), (2, 0, false));
        assert_eq!(outputs(&["entailed"], None).unwrap(), (0, 0, true));
        assert_eq!(outputs(&["entail", "b", "entail"], None).unwrap(), (2, 0, true));
        let by_file = |ids: &[(&str, Option<i64>)]| outputs(&three, Some(ids));
        assert_eq!(by_file(&[("entailed", Some(1)), ("entailment", Some(2))]).unwrap(), (1, 0, true));
        assert_eq!(by_file(&[("entailment", Some(-1))]).unwrap(), (2, 0, true));
        assert_eq!(by_file(&[("entailment", Some(-3))]).unwrap(), (0, 0, true));
        assert_eq!(by_file(&[("c", Some(0))]).unwrap(), (2, 0, false));
        assert_eq!(by_file(&[("x", None), ("entailment", Some(0))]).unwrap(), (0, 2, true));
        for bad in [Some(3), Some(-4), Some(i64::MIN), Some(i64::MAX), None] {
            let error = by_file(&[("entailment", bad)]).unwrap_err().to_string();
            assert!(error.contains("label2id") && error.contains("0 to 2"), "{error}");
        }
    }

    #[test]
    fn equal_scores_are_in_reverse_order() {
        let input = ZeroShotInput { text: "t", labels: vec!["a", "b", "c", "d"] };
        let ranked = input.ranked(&[0.25, 0.5, 0.25, 0.25]);
        assert_eq!(ranked.labels, ["b", "d", "c", "a"]);
        assert_eq!(ranked.scores, [0.5, 0.25, 0.25, 0.25]);
    }

    #[test]
    fn neutral_never_counts() {
        let pair = |entailment, contradiction| NliLogits { entailment, contradiction };
        let pairs = [pair(1.0, 0.0), pair(1.0, 5.0), pair(1.0, -5.0)];
        assert_eq!(scores(&pairs, false), [1.0 / 3.0; 3]);
        assert_eq!(scores(&pairs[..1], false), scores(&pairs[..1], true));
        assert_eq!(scores(&[pair(200.0, -200.0)], true), [1.0]);
    }

    #[test]
    fn labels_are_split_at_commas_alone() {
        assert_eq!(split_labels(" a b ,\tc\u{1f},\u{a0}d\n"), ["a b", "c", "d"]);
        assert_eq!(split_labels(" , ,"), [""; 0]);
        assert_eq!(split_labels("one"), ["one"]);
    }
}
