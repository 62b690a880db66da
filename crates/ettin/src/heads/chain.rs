//! Sentence-transformers module chains: what follows the trunk in a repository with `modules.json`.
//!
//! Modules read and write named values ([`Slot`]): token vectors, the vector of a text, a reranker's scores. Most
//! chains are Pooling → any of Dense, LayerNorm, Normalize, Dropout; some of these may work on token vectors before or
//! after. Over a language model, the token vectors of the library are scores over the vocabulary; here they stay hidden
//! states, and the module that reads them (SpladePooling, LogitScore) makes no more scores than it needs at a time.

mod dense;
mod sparse;
mod tokens;

use candle_core::Tensor;

use crate::named::Named;
use crate::{
    Backend, Config, Error, Objective, PackedBatch, Pooling, Result, Trunk,
    metadata::MODULES,
    ops::{self, Hidden, Norm, NormParams, Vector},
    pooling::normalize,
    sentence_transformers::{
        Class, DenseConfig, LogitScoreConfig, LookupChain, ModelType, Module, NormalizeConfig, PoolingConfig,
        Repository, Settings, Slot, SpladeConfig, Task, Transformer, check_dropout, check_layer_norm,
    },
    weights::{FileSource, Subfolder, Weights},
};

pub(super) use dense::Dense;
use sparse::AutoEncoder;
use tokens::{LayerMean, TokenWeights};

/// `torch.nn.LayerNorm`'s default, which sentence-transformers' `LayerNorm` module leaves alone.
const LAYER_NORM_EPS: f32 = 1e-5;

/// The modules after the trunk.
#[derive(Debug)]
pub struct Chain {
    /// Each with its place in `modules.json`, where the transformer is number 0.
    steps: Vec<(usize, ChainStep)>,
    settings: Settings,
    /// None of a chain without a trunk.
    transformer: Option<Transformer>,
    /// Whether it begins with weights of tokens.
    weighs: bool,
    /// Values per vector in each slot behind the last module; none where no module fills it.
    widths: [Option<usize>; Slot::NAMES.len()],
    /// Layers of the trunk.
    layers: usize,
}

/// What a chain begins with.
#[derive(Debug)]
pub(crate) enum Start<'a> {
    Trunk(FromTrunk<'a>),
    /// Vectors of texts, `[texts, size]`, of a chain without a trunk.
    Vectors(Hidden),
}

/// What a chain reads of the trunk.
#[derive(Debug)]
pub(crate) struct FromTrunk<'a> {
    pub(crate) trunk: &'a Trunk,
    pub(crate) batch: &'a PackedBatch,
    /// Token vectors, `[tokens, hidden]`.
    pub(crate) tokens: Hidden,
    /// The hidden states behind every layer, `[tokens, hidden]` each, of a chain that
    /// [reads them](Chain::reads_layers).
    pub(crate) layers: Vec<Tensor>,
}

/// A module, ready to run.
#[derive(Debug)]
enum ChainStep {
    Pooling {
        modes: Vec<Pooling>,
        include_prompt: bool,
    },
    Dense(Box<Dense>),
    /// Token vectors from those of all layers.
    Layers(LayerMean),
    /// Token vectors times a number for each token.
    Weights(TokenWeights),
    /// Scores over the vocabulary become the weights of a sparse vector.
    Splade(SpladeConfig),
    /// Scores of one token, or of one less another, at the last place.
    LogitScore(LogitScoreConfig),
    AutoEncoder(Box<AutoEncoder>),
    /// On the sentence.
    LayerNorm(Norm),
    Normalize {
        input: Slot,
        output: Slot,
    },
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
    /// How many features an autoencoder keeps instead of what its files say.
    pub(crate) active: Option<usize>,
}

impl Chain {
    /// The chain that a repository describes, over a trunk of this configuration.
    pub(crate) fn load(
        files: &dyn FileSource,
        repository: Repository,
        config: &Config,
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
        let task = transformer.task;
        check_objective(task, config)?;
        // What the first module calls a token's vector.
        let width = if task.scores_vocabulary() { config.vocab_size } else { config.hidden_size };
        let widths = [Some(width), None, None];
        let (transformer, layers) = (Some(transformer), config.num_layers());
        let chain = Self { steps: Vec::new(), settings, transformer, weighs: false, widths, layers };
        chain.with_modules(files, &modules, backend)
    }

    /// The chain behind a table of vectors or weights, `size` values per text.
    pub(super) fn of_vectors(
        files: &dyn FileSource,
        chain: LookupChain,
        size: usize,
        backend: &Backend,
    ) -> Result<Self> {
        let LookupChain { settings, lookup, modules } = chain;
        let (steps, widths) = (Vec::new(), [None, Some(size), None]);
        let weighs = lookup.class == Class::SparseStaticEmbedding;
        let chain = Self { steps, settings, transformer: None, weighs, widths, layers: 0 };
        chain.with_modules(files, &modules, backend)
    }

    fn with_modules(mut self, files: &dyn FileSource, modules: &[Module], backend: &Backend) -> Result<Self> {
        for (number, module) in (1..).zip(modules) {
            if let Some(step) = self.step(files, module, backend)? {
                self.steps.push((number, step));
            }
        }
        if self.width(Slot::Sentence).or(self.width(Slot::Scores)).is_none() {
            return Err(Error::Unsupported(
                "a chain without a Pooling module in modules.json (late interaction is not supported)".to_owned(),
            ));
        }
        Ok(self)
    }

    /// SPLADE over a masked language model without a chain of its own.
    pub(crate) fn bare_splade(config: &Config) -> Result<Self> {
        if config.objective == Objective::Decoder {
            return Err(Error::Unsupported(
                "SPLADE with a decoder: it needs the scores of a masked language model".to_owned(),
            ));
        }
        let Repository { settings, transformer, .. } = Repository::bare_splade();
        let step = ChainStep::Splade(SpladeConfig { sum: false, twice: false });
        let widths = [Some(config.vocab_size), None, None];
        let mut chain = Self {
            steps: vec![(1, step)],
            settings,
            transformer: Some(transformer),
            weighs: false,
            widths,
            layers: config.num_layers(),
        };
        chain.set(Slot::Sentence, config.vocab_size);
        Ok(chain)
    }

    /// A module; `None` for one that does nothing.
    fn step(&mut self, files: &dyn FileSource, module: &Module, backend: &Backend) -> Result<Option<ChainStep>> {
        let Module { class, folder } = module;
        self.check_place(module)?;
        match class {
            Class::Transformer | Class::MlmTransformer => {
                Err(Error::Unsupported(format!("a second Transformer in modules.json (folder {folder:?})")))
            }
            Class::Router => Err(Error::Unsupported(format!("a Router inside a Router (folder {folder:?})"))),
            Class::StaticEmbedding | Class::SparseStaticEmbedding => Err(Error::Unsupported(format!(
                "the module {class} ({folder:?}) behind another one: here it is the first of its chain"
            ))),
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
            Class::WeightedLayerPooling => {
                // As in the library, nothing happens where the trunk does not show its layers.
                let Some(transformer) = &self.transformer else {
                    return Ok(None);
                };
                if !transformer.shows_layers(files)? {
                    return Ok(None);
                }
                let width = self.input(Slot::Tokens, module)?;
                Ok(Some(ChainStep::Layers(LayerMean::load(files, folder, width, self.layers)?)))
            }
            Class::WordWeights => {
                self.input(Slot::Tokens, module)?;
                Ok(Some(ChainStep::Weights(TokenWeights::load(files, folder)?)))
            }
            Class::SpladePooling => {
                let width = self.input(Slot::Tokens, module)?;
                self.set(Slot::Sentence, width);
                Ok(Some(ChainStep::Splade(SpladeConfig::load(files, folder, width)?)))
            }
            Class::LogitScore => {
                let size = self.input(Slot::Tokens, module)?;
                self.set(Slot::Scores, 1);
                Ok(Some(ChainStep::LogitScore(LogitScoreConfig::load(files, folder, size)?)))
            }
            Class::SparseAutoEncoder => {
                let width = self.input(Slot::Sentence, module)?;
                let encoder = AutoEncoder::load(files, folder, width, backend)?;
                self.set(Slot::Sentence, encoder.features());
                Ok(Some(ChainStep::AutoEncoder(Box::new(encoder))))
            }
        }
    }

    /// Refuses a module that would read scores over the vocabulary as vectors, or vectors as scores.
    fn check_place(&self, Module { class, folder }: &Module) -> Result<()> {
        let reads = match class {
            Class::SpladePooling => Some(Task::FillMask),
            Class::LogitScore => Some(Task::TextGeneration),
            _ => None,
        };
        // Without a trunk, a module that reads one finds that out by what no module writes.
        let task = self.transformer.as_ref().map_or(Task::FeatureExtraction, |transformer| transformer.task);
        let scores = task.scores_vocabulary();
        // Only the first behind the trunk finds what the trunk leaves.
        let fits = match reads {
            Some(wanted) => wanted == task && self.steps.is_empty(),
            None => !scores || self.width(Slot::Sentence).or(self.width(Slot::Scores)).is_some(),
        };
        if fits {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "the module {class} ({folder:?}) behind a Transformer with the task {:?}{}",
            task.name(),
            match reads {
                Some(wanted) => format!(": it reads what one with {:?} leaves", wanted.name()),
                None => ", whose scores over the vocabulary it would take for vectors".to_owned(),
            }
        )))
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

    /// How text becomes tokens; none of a chain without a trunk.
    pub(crate) fn transformer(&self) -> Option<&Transformer> {
        self.transformer.as_ref()
    }

    /// Values per output vector: of a text's embedding, or of a reranker's scores.
    pub fn output_size(&self) -> usize {
        self.scores_size().or(self.width(Slot::Sentence)).unwrap_or(0)
    }

    /// Scores per sequence; none for a chain that makes embeddings alone.
    pub(crate) fn scores_size(&self) -> Option<usize> {
        self.width(Slot::Scores)
    }

    /// Whether its embeddings are learned sparse vectors.
    pub fn is_sparse(&self) -> bool {
        self.settings.model_type == Some(ModelType::SparseEncoder)
    }

    /// Whether its sparse vectors have an entry for each token of the vocabulary, and not for features of its own.
    pub(crate) fn weighs_tokens(&self) -> bool {
        let splade = self.steps.iter().any(|(_, step)| matches!(step, ChainStep::Splade(_)));
        (splade || self.weighs)
            && !self.steps.iter().any(|(_, step)| matches!(step, ChainStep::Dense(_) | ChainStep::AutoEncoder(_)))
    }

    /// How many values of a sparse vector are kept, the largest by magnitude; all where none says.
    pub(crate) fn max_active_dims(&self) -> Option<usize> {
        let kept = |(_, step): &(usize, ChainStep)| match step {
            ChainStep::AutoEncoder(encoder) => Some(encoder.kept()),
            _ => None,
        };
        self.settings.max_active_dims.or_else(|| self.steps.iter().find_map(kept))
    }

    /// Whether a pooling can be asked for instead of its own.
    pub(crate) fn pools(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, ChainStep::Pooling { .. }))
    }

    /// Whether it reads the hidden states behind every layer.
    pub(crate) fn reads_layers(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, ChainStep::Layers(_)))
    }

    /// Whether it needs the head of a language model.
    pub(crate) fn scores_vocabulary(&self) -> bool {
        self.transformer.as_ref().is_some_and(|transformer| transformer.task.scores_vocabulary())
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
    pub(crate) fn tokens(&self, start: FromTrunk<'_>) -> Result<Hidden> {
        if self.scores_vocabulary() {
            let message = "one vector per token of a chain that reads scores over the vocabulary";
            return Err(Error::Unsupported(message.to_owned()));
        }
        let FromTrunk { batch, mut tokens, layers, .. } = start;
        for (_, step) in self.steps.iter().filter(|(_, step)| step.output() == Slot::Tokens) {
            tokens = match step {
                ChainStep::Layers(mean) => mean.of(&layers)?,
                ChainStep::Weights(weights) => weights.apply(&tokens, batch)?,
                step => step.forward(&tokens)?,
            };
        }
        Ok(tokens)
    }

    /// From token vectors to `[sequences, size]` of the slot that is wanted.
    pub(crate) fn forward(
        &self,
        start: Start<'_>,
        skip: Option<&[usize]>,
        wanted: Wanted,
        look: &mut Look<'_>,
    ) -> Result<Hidden> {
        let (source, layers, mut values) = match start {
            Start::Trunk(FromTrunk { trunk, batch, tokens, layers }) => {
                (Some((trunk, batch)), layers, [Some(tokens), None, None])
            }
            Start::Vectors(vectors) => (None, Vec::new(), [None, Some(vectors), None]),
        };
        // A module that reads tokens was refused where there are none.
        let source = || source.ok_or_else(|| Error::internal("a module reads tokens in a chain without a trunk"));
        // Of each sequence, once tokens are weighed.
        let mut sums: Option<Vec<f32>> = None;
        for (number, step) in &self.steps {
            if !wanted.keep_normalize && matches!(step, ChainStep::Normalize { input: Slot::Sentence, .. }) {
                continue;
            }
            let input = values[step.input() as usize].as_ref().ok_or_else(|| missing(step.input()))?;
            let output = match step {
                ChainStep::Pooling { modes, include_prompt } => {
                    let one = wanted.pooling.as_slice();
                    let modes = if one.is_empty() { modes.as_slice() } else { one };
                    pooled(input, source()?.1, modes, skip.filter(|_| !include_prompt), sums.as_deref())?
                }
                ChainStep::Layers(mean) => mean.of(&layers)?,
                ChainStep::Weights(weights) => {
                    let (_, batch) = source()?;
                    sums = Some(weights.sums(batch));
                    weights.apply(input, batch)?
                }
                ChainStep::Splade(config) => {
                    let (trunk, batch) = source()?;
                    sparse::splade(*config, trunk, input, batch)?
                }
                ChainStep::LogitScore(config) => {
                    let (trunk, batch) = source()?;
                    sparse::logit_score(*config, trunk, input, batch)?
                }
                ChainStep::AutoEncoder(encoder) => encoder.forward(input, wanted.active.or(self.max_active_dims()))?,
                step => step.forward(input)?,
            };
            look((*number, step.class()), &output)?;
            values[step.output() as usize] = Some(output);
        }
        values[wanted.output as usize].take().ok_or_else(|| missing(wanted.output))
    }
}

/// Refuses a task that transformers has no class for.
fn check_objective(task: Task, config: &Config) -> Result<()> {
    match (task, config.objective) {
        (Task::FillMask, Objective::Decoder) | (Task::TextGeneration, Objective::Encoder) => {
            Err(Error::Unsupported(format!(
                "the transformer_task {:?} of {}: transformers has no such class of it",
                task.name(),
                match config.objective {
                    Objective::Encoder => "an encoder",
                    Objective::Decoder => "a decoder",
                }
            )))
        }
        _ => Ok(()),
    }
}

/// The vectors of several poolings side by side, `[sequences, size · modes]`; with the sums of the tokens' weights,
/// where they are weighed.
fn pooled(
    tokens: &Hidden,
    batch: &PackedBatch,
    modes: &[Pooling],
    skip: Option<&[usize]>,
    sums: Option<&[f32]>,
) -> Result<Hidden> {
    let pool = |mode: &Pooling| match sums {
        Some(sums) => tokens::pooled(*mode, tokens, batch, skip, sums),
        None => mode.pool(tokens, batch, skip),
    };
    if let [mode] = modes {
        return pool(mode);
    }
    let pooled = modes.iter().map(|mode| pool(mode)?.to_tensor()).collect::<Result<Vec<_>>>()?;
    Ok(Hidden::new(Tensor::cat(&pooled, 1)?))
}

impl ChainStep {
    fn class(&self) -> &'static str {
        match self {
            ChainStep::Pooling { .. } => "Pooling",
            ChainStep::Dense(_) => "Dense",
            ChainStep::Layers(_) => "WeightedLayerPooling",
            ChainStep::Weights(_) => "WordWeights",
            ChainStep::Splade(_) => "SpladePooling",
            ChainStep::LogitScore(_) => "LogitScore",
            ChainStep::AutoEncoder(_) => "SparseAutoEncoder",
            ChainStep::LayerNorm(_) => "LayerNorm",
            ChainStep::Normalize { .. } => "Normalize",
        }
    }

    fn input(&self) -> Slot {
        match self {
            ChainStep::Pooling { .. }
            | ChainStep::Layers(_)
            | ChainStep::Weights(_)
            | ChainStep::Splade(_)
            | ChainStep::LogitScore(_) => Slot::Tokens,
            ChainStep::Dense(dense) => dense.input,
            ChainStep::LayerNorm(_) | ChainStep::AutoEncoder(_) => Slot::Sentence,
            ChainStep::Normalize { input, .. } => *input,
        }
    }

    fn output(&self) -> Slot {
        match self {
            ChainStep::Layers(_) | ChainStep::Weights(_) => Slot::Tokens,
            ChainStep::Pooling { .. } | ChainStep::LayerNorm(_) | ChainStep::Splade(_) | ChainStep::AutoEncoder(_) => {
                Slot::Sentence
            }
            ChainStep::LogitScore(_) => Slot::Scores,
            ChainStep::Dense(dense) => dense.output,
            ChainStep::Normalize { output, .. } => *output,
        }
    }

    /// `[rows, size]` to `[rows, size]`, of the modules that need no more than that.
    fn forward(&self, vectors: &Hidden) -> Result<Hidden> {
        match self {
            ChainStep::Dense(dense) => dense.forward(vectors),
            ChainStep::LayerNorm(norm) => ops::norm(vectors, norm),
            ChainStep::Normalize { .. } => Ok(Hidden::new(normalize(&vectors.to_tensor()?)?)),
            step => Err(Error::internal(format!("the module {} was run on vectors alone", step.class()))),
        }
    }
}

fn missing(slot: Slot) -> Error {
    Error::Unsupported(format!("a chain in modules.json that makes no {}", slot.name()))
}
