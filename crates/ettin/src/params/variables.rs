//! Parameters that are trained: candle's variables in, candle's variables out, and a file of them.

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};

use super::Parameters;
use crate::{
    Error, Result,
    ops::{Matrix, Vector},
    tensors::{Leaf, Role, Source},
    weights,
};

/// candle's variables under transformers' names, with query, key and value in one `attn.Wqkv`.
pub struct Variables<'a>(VarBuilder<'a>);

impl<'a> Variables<'a> {
    /// Variables below the builder's prefix.
    pub fn new(variables: VarBuilder<'a>) -> Self {
        Self(variables)
    }
}

impl<'a> Source for Variables<'a> {
    type Matrix = Matrix<'a>;
    type Vector = Vector;
    type Error = Error;

    fn matrix(&mut self, role: Role, [outputs, inputs]: [usize; 2]) -> Result<Matrix<'a>> {
        Ok(Matrix::Tensor(self.0.get((outputs, inputs), &role.to_string())?))
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<Vector> {
        Ok(Vector::Tensor(self.0.get(len, &role.to_string())?))
    }
}

impl Parameters<'_> {
    /// The parameters as variables on `device` to be trained, under transformers' names: f32 is what an optimiser
    /// wants, whatever the number format of products.
    ///
    /// A tied output matrix is the embedding's variable. [`from_variables`](Parameters::from_variables) builds a
    /// model from them, [`save_variables`] writes them.
    pub fn into_variables(self, device: &Device, dtype: DType) -> Result<VarMap> {
        let map = VarMap::new();
        for (role, tensor) in self.tensors.into_named() {
            let tensor = match tensor {
                Leaf::Matrix(matrix) => matrix.tensor(device, dtype)?,
                Leaf::Vector(vector) => vector.tensor(device)?.to_dtype(dtype)?,
            };
            let variable = Var::from_tensor(&tensor.detach())?;
            let mut variables = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            variables.insert(role.to_string(), variable);
        }
        Ok(map)
    }
}

/// Writes variables to a safetensors file under their names, in their dtypes: what [`Weights`](weights::Weights) reads.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// [`Error::Io`] when it cannot be written; [`Error::Unsupported`] for dtypes other than f32, bf16 and f16.
pub fn save_variables(path: &Path, variables: &VarMap) -> Result<()> {
    let variables = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tensors: BTreeMap<&str, &Tensor> =
        variables.iter().map(|(name, variable)| (name.as_str(), variable.as_tensor())).collect();
    weights::save_tensors(path, &tensors)
}
