//! A bidirectional LSTM over the rows of one sequence, as torch's `nn.LSTM` computes it.

use candle_core::Tensor;

use super::spans::{linear, values};
use crate::{
    Backend, Error, Result,
    ops::{self, Hidden, Linear},
    weights::Weights,
};

/// Layers, each of which reads its input in both directions.
#[derive(Debug)]
pub(super) struct BiLstm(Vec<[Direction; 2]>);

/// One direction of a layer.
#[derive(Debug)]
struct Direction {
    /// `[4 · size, inputs]`: input, forget, cell and output gates.
    input: Linear,
    /// `[4 · size, size]`.
    recurrent: Linear,
    size: usize,
    backward: bool,
}

impl BiLstm {
    /// `layers` layers from `size` values to as many, half of them of each direction.
    pub(super) fn load(weights: &Weights, layers: usize, size: usize, backend: &Backend) -> Result<Self> {
        let layer = |layer: usize| {
            let direction = |backward: bool| {
                let end = format!("l{layer}{}", if backward { "_reverse" } else { "" });
                let size = size / 2;
                let part = |name: &str, inputs: usize| {
                    let [weight, bias] = ["weight", "bias"].map(|kind| format!("rnn.lstm.{kind}_{name}_{end}"));
                    linear(weights, [&weight, &bias], [4 * size, inputs], backend)
                };
                Ok::<_, Error>(Direction { input: part("ih", 2 * size)?, recurrent: part("hh", size)?, size, backward })
            };
            Ok([direction(false)?, direction(true)?])
        };
        (0..layers).map(layer).collect::<Result<_>>().map(Self)
    }

    /// `[rows, size]` of one sequence to `[rows, size]`.
    pub(super) fn forward(&self, mut rows: Hidden) -> Result<Hidden> {
        let device = rows.to_tensor()?.device().clone();
        for [forward, backward] in &self.0 {
            let (forward, backward) = (forward.run(&rows)?, backward.run(&rows)?);
            rows = Hidden::new(Tensor::cat(&[forward, backward], 1)?.to_device(&device)?);
        }
        Ok(rows)
    }
}

impl Direction {
    /// `[rows, size]`.
    fn run(&self, rows: &Hidden) -> Result<Tensor> {
        let (count, size) = (rows.rows(), self.size);
        let from_input = values(&ops::linear(rows, &self.input)?)?;
        let device = rows.to_tensor()?.device().clone();
        let mut output = vec![0.0; count * size];
        let (mut state, mut cell) = (vec![0.0; size], vec![0.0; size]);
        for step in 0..count {
            let row = if self.backward { count - 1 - step } else { step };
            let own = Hidden::new(Tensor::from_slice(&state, (1, size), &device)?);
            let mut gates = values(&ops::linear(&own, &self.recurrent)?)?;
            gates.iter_mut().zip(&from_input[row * 4 * size..]).for_each(|(gate, input)| *gate += input);
            let gate = |kind: usize, index: usize| gates[kind * size + index];
            for index in 0..size {
                let new = sigmoid(gate(0, index)) * gate(2, index).tanh();
                cell[index] = sigmoid(gate(1, index)) * cell[index] + new;
                state[index] = sigmoid(gate(3, index)) * cell[index].tanh();
            }
            output[row * size..][..size].copy_from_slice(&state);
        }
        Ok(Tensor::from_vec(output, (count, size), &device)?)
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
