//! Parameters out of a checkpoint: read row by row straight from its bytes when their block is built.

use std::collections::{BTreeSet, HashMap};

use ettin_kernels::{Quantization, QuantizedRow};

use super::adapter::adapted;
use crate::{
    Config, Error, Result,
    ops::{LinearParams, Matrix, StoredRows, Vector},
    tensors::{Head, Leaf, Part, Role, Source},
    weights::{LoadReport, Stack, View, Weights, is_head},
};

/// A checkpoint's tensors, all of them there and of their shapes, with what adapters on it add.
pub struct Stored<'a> {
    weights: &'a Weights,
    tensors: HashMap<Role, Stack<'a>>,
    /// Whether the embedding is the output matrix, too.
    multiplied: bool,
    report: LoadReport,
    /// Layers of each adapter that were used.
    used: Vec<BTreeSet<String>>,
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
        let mut tensors: HashMap<_, _> = tensors.collect();
        let output = Part::Output.weight();
        let tied = head == Head::Language && !tensors.contains_key(&output);
        if tied
            && weights.unties()
            && let Some(embedding) = tensors.get(&Part::Embedding.weight()).cloned()
        {
            // Adding to the one matrix what is meant for the other would change both.
            tensors.insert(output, embedding);
        }
        let multiplied = tied && !tensors.contains_key(&output);
        if let (true, Some(tied)) = (multiplied, weights.get(&output.to_string())) {
            // Read only to be compared with the embedding.
            weights.release(&tied);
        }
        let used = weights.adapters().map(|_| BTreeSet::new()).collect();
        Ok(Self { weights, tensors, multiplied, report: checkpoint.report, used })
    }

    /// What was noticed and not refused.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Once all was read: whether adapters had a layer for all that they add. Other heads' layers may stay unused.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming layers that the model does not have.
    pub fn finish(&self) -> Result<()> {
        let of_a_head = |layer: &str| is_head(&format!("{layer}.weight"));
        self.weights.adapters().zip(&self.used).try_for_each(|(adapter, used)| adapter.check_used(used, of_a_head))
    }

    /// A matrix with what adapters add to it, summed where it is read.
    fn adapted(&mut self, mut matrix: Matrix<'a>, role: Role, shape: [usize; 2]) -> Result<Matrix<'a>> {
        for (adapter, used) in self.weights.adapters().zip(&mut self.used) {
            matrix = adapted(matrix, adapter, role, shape, used)?;
        }
        matrix.merged()
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

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Matrix<'a>> {
        let stack = self.take(role)?;
        let matrix = match (role.part, stack.parts()) {
            (Part::Embedding, &[view]) if !self.multiplied => embedding(self.weights, view),
            _ => matrix(self.weights, stack),
        };
        self.adapted(matrix, role, shape)
    }

    fn vector(&mut self, role: Role, _: usize) -> Result<Vector> {
        Ok(Vector::Values(self.take(role)?.to_f32()))
    }

    fn tied_output(&mut self, role: Role, shape: [usize; 2]) -> Result<Option<Matrix<'a>>> {
        match self.tensors.remove(&role) {
            Some(stack) => self.adapted(matrix(self.weights, stack), role, shape).map(Some),
            None => Ok(None),
        }
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
