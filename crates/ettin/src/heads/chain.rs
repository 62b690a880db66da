//! Sentence-transformers module chains: what follows the trunk in a repository with `modules.json`.
//!
//! Modules read and write named values ([`Slot`]): token vectors, the vector of a text, a reranker's scores. Most
//! chains are Pooling → any of Dense, LayerNorm, Normalize, Dropout; some of these may work on token vectors before or
//! after.

use candle_core::Tensor;

use super::TorchActivation;
use crate::named::Named;
use crate::{
    Backend, Error, PackedBatch, Pooling, Result, finite,
    metadata::MODULES,
    ops::{self, Hidden, Linear, Norm, NormParams, Vector},
    params,
    pooling::normalize,
    sentence_transformers::{
        Class, DenseConfig, Module, NormalizeConfig, PoolingConfig, Repository, Settings, Slot, Task, Transformer,
        check_dropout, check_layer_norm,
    },
    weights::{FileSource, Subfolder, Weights},
};

/// `torch.nn.LayerNorm`'s default, which sentence-transformers' `LayerNorm` module leaves alone.
const LAYER_NORM_EPS: f32 = 1e-5;

/// The modules after the trunk.
#[derive(Debug)]
pub struct Chain {
    /// Each with its place in `modules.json`, where the transformer is number 0.
    steps: Vec<(usize, ChainStep)>,
    settings: Settings,
    transformer: Transformer,
    /// Values per vector in each slot behind the last module; none where no module fills it.
    widths: [Option<usize>; Slot::NAMES.len()],
}

/// A module, ready to run.
#[derive(Debug)]
enum ChainStep {
    Pooling {
        modes: Vec<Pooling>,
        include_prompt: bool,
    },
    Dense(Box<Dense>),
    /// On the sentence.
    LayerNorm(Norm),
    Normalize {
        input: Slot,
        output: Slot,
    },
}

/// A dense layer with its activation, of a module's folder.
#[derive(Debug)]
pub(super) struct Dense {
    linear: Linear,
    activation: TorchActivation,
    residual: Residual,
    input: Slot,
    output: Slot,
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

/// Sees what every module of a chain gives, by its place in the chain and its class.
pub(crate) type Look<'a> = dyn FnMut((usize, &'static str), &Hidden) -> Result<()> + 'a;

/// What can be asked of [`Chain::forward`] beyond what its files say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The value that is wanted.
    pub(crate) output: Slot,
    /// Instead of the modes that the chain has.
    pub(crate) pooling: Option<Pooling>,
    /// Whether vectors of texts are scaled to length 1 where the chain does so.
    pub(crate) keep_normalize: bool,
}

impl Chain {
    /// The chain that a repository describes, over a trunk with vectors of `hidden_size` values.
    pub(crate) fn load(
        files: &dyn FileSource,
        repository: Repository,
        hidden_size: usize,
        backend: &Backend,
    ) -> Result<Self> {
        let Repository { settings, transformer, modules } = repository;
        if transformer.task == Task::SequenceClassification {
            return Err(Error::Unsupported(
                "embeddings of a classifier (its transformer_task is \"sequence-classification\"), which fits rerank \
                 or classify"
                    .to_owned(),
            ));
        }
        let mut chain = Self { steps: Vec::new(), settings, transformer, widths: [Some(hidden_size), None, None] };
        for (number, module) in (1..).zip(&modules) {
            if let Some(step) = chain.step(files, module, backend)? {
                chain.steps.push((number, step));
            }
        }
        if chain.width(Slot::Sentence).or(chain.width(Slot::Scores)).is_none() {
            return Err(Error::Unsupported(
                "a chain without a Pooling module in modules.json (late interaction and SPLADE are not supported)"
                    .to_owned(),
            ));
        }
        Ok(chain)
    }

    /// A module; `None` for one that does nothing.
    fn step(&mut self, files: &dyn FileSource, module: &Module, backend: &Backend) -> Result<Option<ChainStep>> {
        let Module { class, folder } = module;
        match class {
            Class::Transformer => {
                Err(Error::Unsupported(format!("a second Transformer in modules.json (folder {folder:?})")))
            }
            Class::Pooling => {
                let width = self.input(Slot::Tokens, module)?;
                let PoolingConfig { modes, include_prompt } = PoolingConfig::load(files, folder, width)?;
                self.set(Slot::Sentence, width * modes.len());
                Ok(Some(ChainStep::Pooling { modes, include_prompt }))
            }
            Class::Dense => {
                let config = DenseConfig::load(files, folder)?;
                config.check(folder, self.input(config.input, module)?)?;
                let dense = Dense::load(files, folder, &config, backend)?;
                self.set(config.output, config.outputs);
                Ok(Some(ChainStep::Dense(Box::new(dense))))
            }
            Class::LayerNorm => {
                let width = self.input(Slot::Sentence, module)?;
                check_layer_norm(files, folder, width)?;
                let weights = Weights::open(&Subfolder { files, folder })?;
                let vector = |name: &str| {
                    let view = weights.require(name, &[width])?;
                    Ok::<_, Error>(Vector::Values(view.to_f32()))
                };
                Ok(Some(ChainStep::LayerNorm(backend.norm(NormParams {
                    weight: vector("norm.weight")?,
                    bias: Some(vector("norm.bias")?),
                    eps: LAYER_NORM_EPS,
                })?)))
            }
            Class::Normalize => {
                let NormalizeConfig { input, output } = NormalizeConfig::load(files, folder)?;
                // As in the library, nothing happens where nothing has filled the slot.
                let Some(width) = self.width(input) else {
                    return Ok(None);
                };
                self.set(output, width);
                Ok(Some(ChainStep::Normalize { input, output }))
            }
            Class::Dropout => {
                self.input(Slot::Sentence, module)?;
                check_dropout(files, folder)?;
                Ok(None)
            }
        }
    }

    fn width(&self, slot: Slot) -> Option<usize> {
        self.widths[slot as usize]
    }

    fn set(&mut self, slot: Slot, width: usize) {
        self.widths[slot as usize] = Some(width);
    }

    /// The width of what a module reads.
    fn input(&self, slot: Slot, module: &Module) -> Result<usize> {
        self.width(slot).ok_or_else(|| Error::Config {
            file: MODULES.to_owned(),
            message: format!(
                "the module {} in {:?} reads {}, which no module before it writes",
                module.class,
                module.folder,
                slot.name()
            ),
        })
    }

    /// Prompts and similarity.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How text becomes tokens.
    pub(crate) fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// Values per output vector: of a text's embedding, or of a reranker's scores.
    pub fn output_size(&self) -> usize {
        self.scores_size().or(self.width(Slot::Sentence)).unwrap_or(0)
    }

    /// Scores per sequence; none for a chain that makes embeddings alone.
    pub(crate) fn scores_size(&self) -> Option<usize> {
        self.width(Slot::Scores)
    }

    /// Whether its embeddings are scaled to length 1.
    pub fn normalizes(&self) -> bool {
        let last = self.steps.iter().rev().find(|(_, step)| step.output() == Slot::Sentence);
        matches!(last, Some((_, ChainStep::Normalize { .. })))
    }

    /// Whether leading tokens that hold the prompt take no part in the pooling.
    pub(crate) fn skips_prompt(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, ChainStep::Pooling { include_prompt: false, .. }))
    }

    /// Token vectors `[tokens, hidden]` as the chain leaves them.
    pub(crate) fn tokens(&self, mut tokens: Hidden) -> Result<Hidden> {
        for (_, step) in self.steps.iter().filter(|(_, step)| step.output() == Slot::Tokens) {
            tokens = step.forward(&tokens)?;
        }
        Ok(tokens)
    }

    /// `[tokens, hidden]` to `[sequences, size]` of the slot that is wanted.
    pub(crate) fn forward(
        &self,
        tokens: Hidden,
        batch: &PackedBatch,
        skip: Option<&[usize]>,
        wanted: Wanted,
        look: &mut Look<'_>,
    ) -> Result<Hidden> {
        let mut values = [Some(tokens), None, None];
        for (number, step) in &self.steps {
            if !wanted.keep_normalize && matches!(step, ChainStep::Normalize { input: Slot::Sentence, .. }) {
                continue;
            }
            let input = values[step.input() as usize].as_ref().ok_or_else(|| missing(step.input()))?;
            let output = match step {
                ChainStep::Pooling { modes, include_prompt } => {
                    let one = wanted.pooling.as_slice();
                    let modes = if one.is_empty() { modes.as_slice() } else { one };
                    pooled(input, batch, modes, skip.filter(|_| !include_prompt))?
                }
                step => step.forward(input)?,
            };
            look((*number, step.class()), &output)?;
            values[step.output() as usize] = Some(output);
        }
        values[wanted.output as usize].take().ok_or_else(|| missing(wanted.output))
    }
}

/// The vectors of several poolings side by side, `[sequences, size · modes]`.
fn pooled(tokens: &Hidden, batch: &PackedBatch, modes: &[Pooling], skip: Option<&[usize]>) -> Result<Hidden> {
    if let [mode] = modes {
        return mode.pool(tokens, batch, skip);
    }
    let pooled = modes.iter().map(|mode| mode.pool(tokens, batch, skip)?.to_tensor()).collect::<Result<Vec<_>>>()?;
    Ok(Hidden::new(Tensor::cat(&pooled, 1)?))
}

impl ChainStep {
    fn class(&self) -> &'static str {
        match self {
            ChainStep::Pooling { .. } => "Pooling",
            ChainStep::Dense(_) => "Dense",
            ChainStep::LayerNorm(_) => "LayerNorm",
            ChainStep::Normalize { .. } => "Normalize",
        }
    }

    fn input(&self) -> Slot {
        match self {
            ChainStep::Pooling { .. } => Slot::Tokens,
            ChainStep::Dense(dense) => dense.input,
            ChainStep::LayerNorm(_) => Slot::Sentence,
            ChainStep::Normalize { input, .. } => *input,
        }
    }

    fn output(&self) -> Slot {
        match self {
            ChainStep::Pooling { .. } | ChainStep::LayerNorm(_) => Slot::Sentence,
            ChainStep::Dense(dense) => dense.output,
            ChainStep::Normalize { output, .. } => *output,
        }
    }

    /// `[rows, size]` to `[rows, size]`. A pooling, which needs a batch, leaves them as they are.
    fn forward(&self, vectors: &Hidden) -> Result<Hidden> {
        match self {
            ChainStep::Pooling { .. } => Ok(Hidden::new(vectors.to_tensor()?)),
            ChainStep::Dense(dense) => dense.forward(vectors),
            ChainStep::LayerNorm(norm) => ops::norm(vectors, norm),
            ChainStep::Normalize { .. } => Ok(Hidden::new(normalize(&vectors.to_tensor()?)?)),
        }
    }
}

impl Dense {
    pub(super) fn load(files: &dyn FileSource, folder: &str, config: &DenseConfig, backend: &Backend) -> Result<Self> {
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

    /// `[rows, inputs]` to `[rows, outputs]`.
    pub(super) fn forward(&self, vectors: &Hidden) -> Result<Hidden> {
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

fn missing(slot: Slot) -> Error {
    Error::Unsupported(format!("a chain in modules.json that makes no {}", slot.name()))
}
