//! The comparison of two builds of a model, step by step.

use candle_core::{DType, Device, Tensor};

use super::Step;
use super::model::CheckedModel;
use crate::ops::Hidden;
use crate::{Error, PackedBatch, Result, Trunk};

/// A layer that adds less than this part of the residual stream is measured beside that part: what f32 rounds off the
/// stream is no difference of the layer.
const MIN_ADDED: f64 = 1.0 / 256.0;

/// Each text alone, then all of them together: one row and many take different kernels.
pub(super) fn batches(texts: &[Vec<u32>]) -> Result<Vec<PackedBatch>> {
    let mut batches = texts.iter().map(|text| PackedBatch::new(&[text])).collect::<Result<Vec<_>>>()?;
    if texts.len() > 1 {
        batches.push(PackedBatch::new(texts)?);
    }
    Ok(batches)
}

/// Two builds of a model and what was found so far.
pub(super) struct Comparison<'a> {
    ours: &'a Trunk,
    reference: &'a Trunk,
    steps: Vec<StepDifferences>,
    /// The head's result is measured beside its largest value in any batch: scores of one text may all be near zero.
    result: Option<StepDifferences>,
}

/// What is known of a step.
#[derive(Default)]
struct StepDifferences {
    name: String,
    alone: Worst,
    chained: Worst,
    drift: Worst,
}

/// A difference beside the value that it is measured by, and the batch that has it.
#[derive(Default)]
struct Worst {
    difference: f64,
    scale: f64,
    text: String,
}

impl Worst {
    fn relative(&self) -> f64 {
        match self.difference {
            0.0 => 0.0,
            difference if difference.is_finite() => difference / self.scale,
            _ => f64::INFINITY,
        }
    }

    /// The worse of two, each beside its own largest value.
    fn see(&mut self, difference: f64, scale: f64, text: &str) {
        let seen = Worst { difference, scale, text: text.to_owned() };
        if self.text.is_empty() || seen.relative() > self.relative() {
            *self = seen;
        }
    }

    /// The worst difference, beside the largest value of all.
    fn gather(&mut self, difference: f64, scale: f64, text: &str) {
        if self.text.is_empty() || difference > self.difference {
            (self.difference, self.text) = (difference, text.to_owned());
        }
        self.scale = self.scale.max(scale);
    }
}

impl<'a> Comparison<'a> {
    pub(super) fn new(ours: &'a Trunk, reference: &'a Trunk) -> Self {
        let layers = reference.config().num_layers();
        let names = ["the embeddings".to_owned()].into_iter();
        let names = names.chain((1..=layers).map(|number| format!("layer {number} of {layers}")));
        let names = names.chain(["the final norm".to_owned()]);
        let steps = names.map(|name| StepDifferences { name, ..StepDifferences::default() });
        Self { ours, reference, steps: steps.collect(), result: None }
    }

    /// Compares the steps of the trunk; gives the reference's final hidden states, `[tokens, hidden]`.
    pub(super) fn trunk(&mut self, batch: &PackedBatch) -> Result<Tensor> {
        let text = text(batch);
        let (ours, reference) = (self.ours, self.reference);
        let (stream, run) = (reference.residuals(batch)?, ours.residuals(batch)?);
        if stream.len() != run.len() || stream.len() + 1 != self.steps.len() {
            return Err(Error::input("the two models that are compared have different numbers of layers"));
        }
        let mut below: Option<(Hidden, Hidden, Vec<f32>)> = None;
        for (number, (expected, run)) in stream.into_iter().zip(run).enumerate() {
            let step = &mut self.steps[number];
            let (reference, whole) = (values(&expected)?, values(&run)?);
            let largest = largest(&reference);
            let drift = difference(&whole, &reference)?;
            step.drift.see(drift, largest, &text);
            match &below {
                None => step.alone.see(drift, largest, &text),
                Some((input, run_input, before)) => {
                    let added = difference(&reference, before)?.max(MIN_ADDED * largest);
                    let alone = values(&ours.layer(number - 1, input, batch)?.to_tensor()?)?;
                    step.alone.see(difference(&alone, &reference)?, added, &text);
                    let again = values(&ours.layer(number - 1, run_input, batch)?.to_tensor()?)?;
                    step.chained.see(difference(&whole, &again)?, added, &text);
                }
            }
            below = Some((Hidden::new(expected), Hidden::new(run), reference));
        }
        let Some((last, run, _)) = below else {
            return Err(Error::internal("a model without layers"));
        };
        let finals = reference.final_norm(&last)?.to_tensor()?;
        let expected = values(&finals)?;
        let largest = largest(&expected);
        let step = &mut self.steps[self.reference.config().num_layers() + 1];
        step.alone.see(difference(&values(&ours.final_norm(&last)?.to_tensor()?)?, &expected)?, largest, &text);
        // As tasks compute it, in one call.
        let whole = values(&ours.forward(batch)?.to_tensor()?)?;
        step.chained.see(difference(&whole, &values(&ours.final_norm(&run)?.to_tensor()?)?)?, largest, &text);
        step.drift.see(difference(&whole, &expected)?, largest, &text);
        Ok(finals)
    }

    /// Compares what the head makes of the reference's final hidden states, and of our own.
    pub(super) fn result(
        &mut self,
        name: &str,
        batch: &PackedBatch,
        finals: &Tensor,
        ours: &CheckedModel,
        reference: &CheckedModel,
    ) -> Result<()> {
        let text = text(batch);
        let given = |model: &CheckedModel| values(&model.result(&model.trunk().backend().hidden(finals)?, batch)?);
        let (expected, alone) = (given(reference)?, given(ours)?);
        let whole = values(&ours.result(&self.ours.forward(batch)?, batch)?)?;
        let found =
            self.result.get_or_insert_with(|| StepDifferences { name: name.to_owned(), ..StepDifferences::default() });
        let largest = largest(&expected);
        found.alone.gather(difference(&alone, &expected)?, largest, &text);
        found.drift.gather(difference(&whole, &expected)?, largest, &text);
        Ok(())
    }

    pub(super) fn steps(self) -> Vec<Step> {
        let steps = self.steps.into_iter().chain(self.result).map(|found| Step {
            name: found.name,
            alone: found.alone.relative(),
            chained: found.chained.relative(),
            drift: found.drift.relative(),
            text: found.alone.text,
        });
        steps.collect()
    }
}

/// What to call a batch.
fn text(batch: &PackedBatch) -> String {
    match (batch.sequences(), batch.tokens()) {
        (1, 1) => "1 token".to_owned(),
        (1, tokens) => format!("{tokens} tokens"),
        _ => "all texts in one batch".to_owned(),
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |largest, &value| f64::from(value).abs().max(largest))
}

/// The largest difference; infinite where one is no number.
fn difference(ours: &[f32], reference: &[f32]) -> Result<f64> {
    if ours.len() != reference.len() {
        return Err(Error::input(format!(
            "the two models that are compared give {} and {} values",
            ours.len(),
            reference.len()
        )));
    }
    Ok(ours.iter().zip(reference).fold(0.0, |largest: f64, (&ours, &reference)| {
        let difference = (f64::from(ours) - f64::from(reference)).abs();
        if difference.is_finite() { largest.max(difference) } else { f64::INFINITY }
    }))
}
