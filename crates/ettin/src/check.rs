//! A self-check: does this engine, on this machine, compute *this* model as its reference path does?
//!
//! The kernels were tested on other weights than yours. Here the reference path, plain tensor operations in f32 on the
//! CPU, runs beside the path that tasks take, on fixed texts of several lengths. The reference gets every matrix as the
//! number format keeps it, so that what a format costs by rounding weights is no difference. Each step is looked at in
//! three ways:
//!
//! * **alone**: the step gets the reference's result of the step before. A fault shows where it is, and nowhere behind;
//! * **chained**: a whole run gives what its steps give one by one. State that leaks from step to step shows here;
//! * **drift**: how far a whole run is from the reference's. Some weights amplify any rounding, so this is told, not
//!   judged.
//!
//! ```
//! use ettin::check::{CheckOptions, check};
//! use ettin::files::ModelFiles;
//!
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! let report = check(&ModelFiles::folder(folder)?, &CheckOptions::default())?;
//! assert!(report.passed(), "{}", report.verdict());
//! # Ok(())
//! # }
//! ```

mod compare;
mod model;
mod rounded;
mod texts;
mod tolerance;

use candle_core::Device;
use ettin_kernels::KvFormat;
use serde::Serialize;

use crate::files::ModelFiles;
use crate::{Backend, Dtype, Error, Result, Trunk};
use compare::Comparison;
use model::Subject;
pub use tolerance::tolerance;

/// What computes the model that is checked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckOptions {
    /// The device; the CPU unless said otherwise.
    pub device: Device,
    /// The number format; [`Dtype::Auto`] unless said otherwise.
    pub dtype: Dtype,
    /// How attention keeps keys and values, if not as the number format does.
    pub kv_dtype: Option<KvFormat>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: Dtype::Auto, kv_dtype: None }
    }
}

impl CheckOptions {
    /// On another device.
    pub fn with_device(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// In another number format.
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// With keys and values in another format.
    pub fn with_kv_dtype(self, kv_dtype: impl Into<Option<KvFormat>>) -> Self {
        Self { kv_dtype: kv_dtype.into(), ..self }
    }
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was checked: device, number format, kernels.
    pub computing: String,
    /// What it was compared with.
    pub reference: String,
    /// Tokens of each text.
    pub texts: Vec<usize>,
    /// The largest difference that is allowed, see [`tolerance`].
    pub tolerance: f64,
    /// Embeddings, layers, final norm and what the head gives, in order.
    pub steps: Vec<Step>,
}

/// One step of a model, at its worst text. A difference that is no number is infinite, which is `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// What it is: `the embeddings`, `layer 3 of 22`, `the final norm`, `the logits`.
    pub name: String,
    /// The largest difference where the step had the reference's input, beside the largest value of the reference; of a
    /// layer, beside the largest value that it adds to the residual stream.
    pub alone: f64,
    /// The largest difference between the step inside a whole run and the same step on its own, beside the same value.
    pub chained: f64,
    /// The largest difference between whole runs of this engine and of the reference, beside the largest value of the
    /// reference. No tolerance bounds it.
    pub drift: f64,
    /// The text at which the step alone differs most: `1 token`, `200 tokens`, `all texts in one batch`.
    pub text: String,
}

impl Step {
    /// Whether the step is within a tolerance, alone and chained.
    pub fn is_within(&self, tolerance: f64) -> bool {
        self.alone <= tolerance && self.chained <= tolerance
    }
}

impl Report {
    /// Whether every step is within the tolerance.
    pub fn passed(&self) -> bool {
        self.first_divergent().is_none()
    }

    /// The first step that is not within the tolerance.
    pub fn first_divergent(&self) -> Option<&Step> {
        self.steps.iter().find(|step| !step.is_within(self.tolerance))
    }

    /// One line: whether the model is computed as it should be, and else where not.
    pub fn verdict(&self) -> String {
        let tolerance = self.tolerance;
        let Some(Step { name, alone, chained, text, .. }) = self.first_divergent() else {
            let worst = self.steps.iter().map(|step| step.alone.max(step.chained)).fold(0.0, f64::max);
            return format!("passed: every step is within {tolerance:e} of the reference (worst {worst:.1e})");
        };
        if !alone.is_finite() || !chained.is_finite() {
            return format!("failed: values that are not finite in {name} ({text})");
        }
        let allowed = format!("{tolerance:e} is allowed");
        if *alone <= tolerance {
            return format!(
                "failed: {name} differs by {chained:.1e} in a whole run from what it gives alone; {allowed}"
            );
        }
        format!("failed: {name} differs by {alone:.1e} of its largest value from the reference ({text}); {allowed}")
    }
}

/// Compares the model of `files` with its reference on fixed texts.
///
/// Which head is compared follows the model's files: a chain of sentence-transformers, else the class that
/// `config.json` names, else mean or last-token pooling. Memory is that of the model and of a second one in f32.
///
/// # Errors
/// What loading the model or opening a backend can meet. A difference is no error: the report has it.
pub fn check(files: &ModelFiles, options: &CheckOptions) -> Result<Report> {
    let mut backend = Backend::new(&options.device, options.dtype)?;
    if let Some(kv) = options.kv_dtype {
        backend = backend.with_kv(kv)?;
    }
    let subject = Subject::open(files)?;
    let backend = backend.for_stored(subject.quantization());
    let ours = subject.build(&backend, None)?;
    let reference = subject.build(&Backend::reference(&Device::Cpu, Dtype::F32)?, Some(&backend))?;
    let texts = texts::token_ids(files, subject.config())?;
    let mut comparison = Comparison::new(ours.trunk(), reference.trunk());
    for batch in compare::batches(&texts)? {
        let finals = comparison.trunk(&batch)?;
        comparison.result(reference.result_name(), &batch, &finals, &ours, &reference)?;
    }
    Ok(Report {
        computing: backend.describe(),
        reference: reference.trunk().backend().describe(),
        texts: texts.iter().map(Vec::len).collect(),
        tolerance: tolerance(backend.dtype(), options.kv_dtype),
        steps: comparison.steps(),
    })
}

/// Compares two builds of one trunk on texts of token ids: embeddings, layers, final norm.
///
/// # Errors
/// When the two have different shapes, a text is none that they can read, or there is none: nothing would be compared.
pub fn compare_trunks(ours: &Trunk, reference: &Trunk, texts: &[Vec<u32>]) -> Result<Vec<Step>> {
    if texts.is_empty() {
        return Err(Error::input("no text was given, so nothing would be compared; give some ids of tokens"));
    }
    let mut comparison = Comparison::new(ours, reference);
    for batch in compare::batches(texts)? {
        comparison.trunk(&batch)?;
    }
    Ok(comparison.steps())
}
