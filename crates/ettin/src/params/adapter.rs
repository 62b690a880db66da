//! Low-rank adapters (LoRA) as PEFT saves them, on top of any other source.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    ops::{LowRank, Matrix},
    tensors::{Kind, Part, Role, Source},
    weights::Weights,
};

/// What PEFT puts before the names of the model that it wraps.
const WRAPPER: &str = "base_model.model.";

/// Ends of the names of an adapter's two matrices.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The projections that a checkpoint may hold apart, in the order in which one matrix holds them.
const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Low-rank updates of linear layers, by the name of the layer.
#[derive(Debug, Clone)]
pub struct Adapter {
    layers: BTreeMap<String, LowRank>,
    file: String,
}

impl Adapter {
    /// The tensors of an `adapter_model.safetensors`; `scale` is `lora_alpha / r` of its `adapter_config.json`, or with
    /// `use_rslora` `lora_alpha / √r`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a tensor that is neither half of a low-rank update of a linear layer;
    /// [`Error::Tensors`] when one half is missing.
    pub fn new(weights: &Weights, scale: f64) -> Result<Self> {
        let (mut layers, mut halves) = (BTreeMap::new(), BTreeMap::<&str, [Option<Tensor>; 2]>::new());
        for view in weights.views() {
            let ends = [A, B].into_iter().enumerate();
            let half = ends.filter_map(|(half, end)| Some((half, view.name().strip_suffix(end)?))).next();
            let Some((half, layer)) = half else {
                return Err(Error::Unsupported(format!(
                    "the tensor `{}` of an adapter; low-rank updates of linear layers (lora_A and lora_B) are",
                    view.name()
                )));
            };
            halves.entry(layer).or_default()[half] = Some(view.tensor(&Device::Cpu, DType::F32)?);
        }
        let file = "the adapter".to_owned();
        for (layer, pair) in halves {
            let [Some(a), Some(b)] = pair else {
                return Err(Error::Tensors { file, message: format!("`{layer}` has one of lora_A and lora_B alone") });
            };
            layers.insert(canonical(layer), LowRank { a, b, scale });
        }
        Ok(Self { layers, file })
    }

    /// What it adds to a matrix of this shape; what was used is noted.
    fn update(&self, role: Role, shape: [usize; 2], used: &mut Vec<String>) -> Result<Vec<LowRank>> {
        let name = role.part.to_string();
        let mut updates = Vec::new();
        if let Some(update) = self.layers.get(&name) {
            used.push(name.clone());
            updates.push(update.clone());
        }
        if matches!(role.part, Part::Qkv(_)) {
            for (index, projection) in PROJECTIONS.iter().enumerate() {
                let name = name.replace("Wqkv", projection);
                if let Some(update) = self.layers.get(&name) {
                    updates.push(among_rows(update, index * shape[0] / PROJECTIONS.len(), shape[0])?);
                    used.push(name);
                }
            }
        }
        Ok(updates)
    }
}

/// The layer's name in the model without PEFT.
fn canonical(layer: &str) -> String {
    let bare = layer.strip_prefix(WRAPPER).unwrap_or(layer);
    match bare.starts_with("layers.") {
        true => format!("model.{bare}"),
        false => bare.to_owned(),
    }
}

/// An update of some rows from `first` on, as one of all `rows`.
fn among_rows(update: &LowRank, first: usize, rows: usize) -> Result<LowRank> {
    let (own, _) = update.b.dims2()?;
    let after = rows.saturating_sub(first + own);
    Ok(LowRank { b: update.b.pad_with_zeros(0, first, after)?, ..update.clone() })
}

/// Another source with an adapter on top: each matrix that it changes is `base + scale · B · A`. The CPU's kernels
/// pack the sum, computed row by row in f32; the reference path keeps the two apart.
#[derive(Debug)]
pub struct Adapted<'s, S> {
    base: S,
    adapter: &'s Adapter,
    used: Vec<String>,
}

impl<'s, S> Adapted<'s, S> {
    /// The tensors of `base` as `adapter` changes them.
    pub fn new(base: S, adapter: &'s Adapter) -> Self {
        Self { base, adapter, used: Vec::new() }
    }

    /// The source without the adapter, once all was read.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming layers of the adapter that the model does not have.
    pub fn finish(self) -> Result<S> {
        let unused: Vec<&str> =
            self.adapter.layers.keys().filter(|name| !self.used.contains(name)).map(String::as_str).collect();
        if unused.is_empty() {
            return Ok(self.base);
        }
        let message = format!("the model has no layers {}, which it changes", unused.join(", "));
        Err(Error::Tensors { file: self.adapter.file.clone(), message })
    }
}

impl<'a, S: Source<Matrix = Matrix<'a>, Error = Error>> Source for Adapted<'_, S> {
    type Matrix = Matrix<'a>;
    type Vector = S::Vector;
    type Error = Error;

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Matrix<'a>> {
        let base = self.base.matrix(role, shape)?;
        self.adapted(base, role, shape)
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<S::Vector> {
        self.base.vector(role, len)
    }

    fn tied_output(&mut self, role: Role, shape: [usize; 2]) -> Result<Option<Matrix<'a>>> {
        match self.base.tied_output(role, shape)? {
            Some(base) => self.adapted(base, role, shape).map(Some),
            None => Ok(None),
        }
    }
}

impl<S> Adapted<'_, S> {
    fn adapted<'a>(&mut self, base: Matrix<'a>, role: Role, shape: [usize; 2]) -> Result<Matrix<'a>> {
        debug_assert_eq!(role.kind, Kind::Weight);
        let updates = self.adapter.update(role, shape, &mut self.used)?;
        let add = |base: Matrix<'a>, update: LowRank| Matrix::Adapted { base: Box::new(base), update };
        Ok(updates.into_iter().fold(base, add))
    }
}
