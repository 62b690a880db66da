//! Vectors of labels, out of a file or a model.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::files::FileData;
use crate::weights::{Weights, canonical};
use crate::{Error, Result};

/// The names that are worth reading in an error.
const MAX_NAMES: usize = 5;

/// Vectors of labels, computed before: a safetensors file with a tensor for each label, called as the label is written,
/// of as many values as the model's [`label_size`](crate::heads::SpanModel::label_size).
///
/// They are what gliner's `encode_labels` gives:
///
/// ```python
/// save_file({label: v.clone() for label, v in zip(labels, model.encode_labels(labels))}, "labels.safetensors")
/// ```
#[derive(Debug)]
pub struct LabelVectors {
    file: String,
    weights: Weights,
}

impl LabelVectors {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Input`] where there is none; [`Error::Weights`] for one that is no safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let Some(data) = FileData::open(path)? else {
            return Err(Error::input(format!("{file}: there is no such file of label vectors")));
        };
        Ok(Self { weights: Weights::from_file(data)?, file })
    }

    /// The vectors of some labels, `[labels, size]`.
    pub(super) fn rows(&self, labels: &[String], size: usize) -> Result<Tensor> {
        let mut values = Vec::with_capacity(labels.len() * size);
        for label in labels {
            let name = canonical(label);
            let Some(view) = self.weights.get(&name) else {
                return Err(self.missing(label));
            };
            if view.shape() != [size] {
                return Err(Error::input(format!(
                    "{}: the vector of the label {label:?} is {:?}, and the model's have [{size}] values",
                    self.file,
                    view.shape()
                )));
            }
            let vector = view.to_f32();
            if vector.iter().any(|value| !value.is_finite()) {
                return Err(Error::input(format!("{}: the vector of the label {label:?} is not finite", self.file)));
            }
            values.extend(vector);
        }
        Ok(Tensor::from_vec(values, (labels.len(), size), &Device::Cpu)?)
    }

    fn missing(&self, label: &str) -> Error {
        let names: Vec<&str> = self.weights.names().take(MAX_NAMES).collect();
        let more = if self.weights.names().nth(MAX_NAMES).is_some() { ", …" } else { "" };
        Error::input(format!(
            "{}: there is no vector of the label {label:?} (there are {}{more})",
            self.file,
            names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        ))
    }
}
