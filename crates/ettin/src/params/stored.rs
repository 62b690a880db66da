//! Parameters out of a checkpoint: read row by row straight from its bytes when their block is built.

use std::collections::HashMap;

use ettin_kernels::{Quantization, QuantizedRow};

use crate::{
    Config, Error, Result,
    ops::{LinearParams, Matrix, StoredRows, Vector},
    tensors::{Head, Leaf, Part, Role, Source},
    weights::{LoadReport, Stack, View, Weights},
};

/// A checkpoint's tensors, all of them there and of their shapes.
pub struct Stored<'a> {
    weights: &'a Weights,
    tensors: HashMap<Role, Stack<'a>>,
    /// Whether the embedding is the output matrix, too.
    multiplied: bool,
    report: LoadReport,
}

impl<'a> Stored<'a> {
    /// Finds every tensor that `config` and `head` ask for.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming every tensor that is missing, mis-shaped or of an unsupported dtype.
    pub fn new(weights: &'a Weights, config: &Config, head: Head) -> Result<Self> {
        let checkpoint = weights.checkpoint(config, head)?;
        let tensors = checkpoint.tensors.into_named().into_iter().map(|(role, tensor)| match tensor {
            Leaf::Matrix(stack) | Leaf::Vector(stack) => (role, stack),
        });
        let tensors: HashMap<_, _> = tensors.collect();
        let output = Part::Output.weight();
        let multiplied = head == Head::Language && !tensors.contains_key(&output);
        if let (true, Some(tied)) = (multiplied, weights.get(&output.to_string())) {
            // Read only to be compared with the embedding.
            weights.release(&tied);
        }
        Ok(Self { weights, tensors, multiplied, report: checkpoint.report })
    }

    /// What was noticed and not refused.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    fn take(&mut self, role: Role) -> Result<Stack<'a>> {
        let stack = self.tensors.remove(&role);
        stack.ok_or_else(|| Error::internal(format!("`{role}` was not asked of this checkpoint, or twice")))
    }
}

impl<'a> Source for Stored<'a> {
    type Matrix = Matrix<'a>;
    type Vector = Vector;
    type Error = Error;

    fn matrix(&mut self, role: Role, _: [usize; 2]) -> Result<Matrix<'a>> {
        let stack = self.take(role)?;
        match (role.part, stack.parts()) {
            (Part::Embedding, &[view]) if !self.multiplied => Ok(embedding(self.weights, view)),
            _ => Ok(matrix(self.weights, stack)),
        }
    }

    fn vector(&mut self, role: Role, _: usize) -> Result<Vector> {
        Ok(Vector::Values(self.take(role)?.to_f32()))
    }

    fn tied_output(&mut self, role: Role, _: [usize; 2]) -> Result<Option<Matrix<'a>>> {
        Ok(self.tensors.remove(&role).map(|stack| matrix(self.weights, stack)))
    }
}

/// A dense layer from two stored tensors of `weights`.
pub(crate) fn dense<'a>(weights: &'a Weights, weight: View<'a>, bias: Option<View<'a>>) -> LinearParams<'a> {
    LinearParams { weight: matrix(weights, weight.into()), bias: bias.map(|bias| Vector::Values(bias.to_f32())) }
}

/// The embedding of a model that only looks vectors up in it: where it can, it stays in its file.
fn embedding<'a>(weights: &'a Weights, view: View<'a>) -> Matrix<'a> {
    match weights.keep(&view) {
        Some(kept) => Matrix::Stored(StoredRows {
            quantization: view.dtype().quantization(),
            outputs: view.rows(),
            inputs: view.columns(),
            fill: Box::new(move |row, out| kept.view().row(row, out)),
        }),
        None => matrix(weights, view.into()),
    }
}

fn matrix<'a>(weights: &'a Weights, stack: Stack<'a>) -> Matrix<'a> {
    let (outputs, inputs) = (stack.rows(), stack.columns());
    let quantization = stack.quantization();
    let once = ReadOnce { weights, stack };
    match quantization {
        Some(quantization) => {
            let row = move |row: usize| once.quantized_row(quantization, row);
            Matrix::Quantized { quantization, outputs, inputs, row: Box::new(row) }
        }
        None => Matrix::Rows { outputs, inputs, fill: Box::new(move |row, out| once.row(row, out)) },
    }
}

/// A stored matrix that is read once: when it is dropped, the pages of the file that held it are given back.
struct ReadOnce<'a> {
    weights: &'a Weights,
    stack: Stack<'a>,
}

impl<'a> ReadOnce<'a> {
    fn row(&self, row: usize, out: &mut [f32]) {
        self.stack.row(row, out);
    }

    fn quantized_row(&self, quantization: Quantization, row: usize) -> QuantizedRow<'a> {
        self.stack.quantized_row(quantization, row)
    }
}

impl Drop for ReadOnce<'_> {
    fn drop(&mut self) {
        for part in self.stack.parts() {
            self.weights.release(part);
        }
    }
}
