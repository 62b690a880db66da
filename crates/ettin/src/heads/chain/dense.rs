//! A dense layer of a chain.

use crate::{
    Backend, Error, Result, finite,
    heads::TorchActivation,
    ops::{self, Hidden, Linear},
    params,
    sentence_transformers::{DenseConfig, Slot},
    weights::{FileSource, Subfolder, Weights},
};

/// An affine map with an activation, and what is added to the result.
#[derive(Debug)]
pub(in crate::heads) struct Dense {
    linear: Linear,
    activation: TorchActivation,
    residual: Residual,
    pub(super) input: Slot,
    pub(super) output: Slot,
}

/// What a dense layer adds to its output.
#[derive(Debug)]
enum Residual {
    None,
    /// Its input.
    Input,
    /// Its input, brought to the output's width.
    Projected(Box<Linear>),
}

impl Dense {
    pub(in crate::heads) fn load(
        files: &dyn FileSource,
        folder: &str,
        config: &DenseConfig,
        backend: &Backend,
    ) -> Result<Self> {
        let activation = match config.activation.as_deref() {
            None => TorchActivation::Tanh,
            Some(path) => TorchActivation::from_class(path)
                .ok_or_else(|| Error::Unsupported(format!("the activation {path:?} of the Dense module {folder:?}")))?,
        };
        let weights = Weights::open(&Subfolder { files, folder })?;
        let projects = config.residual && config.inputs != config.outputs;
        let used = |name: &str| {
            name == "linear.weight" || (name == "linear.bias" && config.bias) || (name == "residual.weight" && projects)
        };
        if let Some(view) = weights.views().find(|view| !used(view.name())) {
            return Err(Error::Tensors {
                file: format!("{folder}/config.json"),
                message: format!("no setting of the module uses its tensor {}", view.name()),
            });
        }
        let shape = [config.outputs, config.inputs];
        let weight = weights.require("linear.weight", &shape)?;
        let bias = config.bias.then(|| weights.require("linear.bias", &shape[..1])).transpose()?;
        let residual = match (config.residual, projects) {
            (false, _) => Residual::None,
            (true, false) => Residual::Input,
            (true, true) => {
                let weight = weights.require("residual.weight", &shape)?;
                Residual::Projected(Box::new(backend.linear(params::dense(&weights, weight, None))?))
            }
        };
        let linear = backend.linear(params::dense(&weights, weight, bias))?;
        Ok(Self { linear, activation, residual, input: config.input, output: config.output })
    }

    /// `linear.weight` of a model's own weights alone, over vectors of `inputs` values: no module of a chain. With the number
    /// of its outputs, which may be stated.
    pub(in crate::heads) fn of_trunk(
        weights: &Weights,
        inputs: usize,
        outputs: Option<usize>,
        backend: &Backend,
    ) -> Result<(Self, usize)> {
        let stored = weights.get("linear.weight").map(|weight| weight.rows());
        let outputs = outputs.or(stored).unwrap_or(1);
        let weight = weights.require("linear.weight", &[outputs, inputs])?;
        let linear = backend.linear(params::dense(weights, weight, None))?;
        let (activation, residual) = (TorchActivation::Identity, Residual::None);
        Ok((Self { linear, activation, residual, input: Slot::Tokens, output: Slot::Tokens }, outputs))
    }

    pub(in crate::heads) fn forward(&self, vectors: &Hidden) -> Result<Hidden> {
        let mut output = ops::linear(vectors, &self.linear)?;
        if self.activation != TorchActivation::Identity {
            let dense = output.to_tensor()?;
            output = Hidden::new(finite::passed_on(&dense, &self.activation.apply(&dense)?)?);
        }
        Ok(match &self.residual {
            Residual::None => output,
            Residual::Input => sum(&output, vectors)?,
            Residual::Projected(linear) => sum(&output, &ops::linear(vectors, linear)?)?,
        })
    }
}

fn sum(a: &Hidden, b: &Hidden) -> Result<Hidden> {
    Ok(Hidden::new((a.to_tensor()? + b.to_tensor()?)?))
}
