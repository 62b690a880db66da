//! Whether a tree of tensors is that of a configuration.

use std::collections::HashMap;
use std::convert::Infallible;

use crate::{
    Config, Error, Result,
    ops::{Matrix, Vector},
    tensors::{Head, Leaf, ModelTensors, Part, Role, Source, walk},
};

/// A source of shapes.
struct Shapes;

impl Source for Shapes {
    type Matrix = Vec<usize>;
    type Vector = Vec<usize>;
    type Error = Infallible;

    fn matrix(&mut self, _: Role, shape: [usize; 2]) -> Result<Vec<usize>, Infallible> {
        Ok(shape.to_vec())
    }

    fn vector(&mut self, _: Role, len: usize) -> Result<Vec<usize>, Infallible> {
        Ok(vec![len])
    }
}

/// Holds a tree to what a configuration asks for: blocks are built from shapes that nobody looks at again.
///
/// # Errors
/// [`Error::Tensors`] naming every tensor that is missing, has no place in the model or has another shape.
pub(super) fn fits(tensors: &ModelTensors<Matrix<'_>, Vector>, config: &Config) -> Result<()> {
    let head = match (&tensors.classifier, &tensors.head) {
        (Some(classifier), _) => Head::Classifier { outputs: classifier.weight.shape().first().copied().unwrap_or(0) },
        (None, Some(_)) => Head::Language,
        (None, None) => Head::None,
    };
    let Ok(expected) = walk(config, head, &mut Shapes);
    let mut expected: HashMap<Role, Vec<usize>> = expected
        .into_named()
        .into_iter()
        .map(|(role, leaf)| match leaf {
            Leaf::Matrix(shape) | Leaf::Vector(shape) => (role, shape),
        })
        .collect();
    // A tied model may still bring an output matrix of its own.
    if head == Head::Language && tensors.output.is_some() {
        expected.insert(Part::Output.weight(), vec![config.vocab_size, config.hidden_size]);
    }
    let mut faults = Vec::new();
    for (role, leaf) in tensors.named() {
        let shape = match leaf {
            Leaf::Matrix(matrix) => matrix.shape(),
            Leaf::Vector(vector) => vector.shape(),
        };
        match expected.remove(&role) {
            None => faults.push(format!("`{role}` has no place in this model")),
            Some(expected) if expected != shape => {
                faults.push(format!("`{role}` has the shape {shape:?}, not {expected:?}"));
            }
            Some(_) => {}
        }
    }
    faults.extend(expected.keys().map(|role| format!("`{role}` is missing")));
    faults.sort();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Error::Tensors { file: "the parameters".to_owned(), message: faults.join("; ") }),
    }
}
