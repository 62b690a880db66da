//! Low-rank adapters (LoRA) as PEFT saves them, on top of any other source.

mod config;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    files::{FileData, FileSource},
    metadata::{ADAPTER_CONFIG, ADAPTER_WEIGHTS},
    ops::{LowRank, Matrix},
    tensors::{Kind, Role, Source},
    weights::{Weights, canonical},
};

use config::LoraConfig;

/// What PEFT puts before the names of the model that it wraps.
const WRAPPER: &str = "base_model.model.";

/// What stands in names of a layer that has an adapter and is saved all the same.
const WRAPPED: &str = ".base_layer.";

/// Ends of the names of the two matrices, of a linear layer and of an embedding.
const ENDS: [(&str, Half); 4] = [
    (".lora_A.weight", Half::A),
    (".lora_B.weight", Half::B),
    (".lora_embedding_A", Half::EmbeddingA),
    (".lora_embedding_B", Half::EmbeddingB),
];

/// The projections that a checkpoint may hold apart, in the order in which one matrix holds them.
const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// What the matrix of the three projections is called.
const FUSED: &str = "Wqkv";

/// The layers that share a matrix where a model ties them.
pub(crate) const TIED: [&str; 2] = ["model.embeddings.tok_embeddings", "decoder"];

/// One of the two matrices of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// `[rank, inputs]`.
    A,
    /// `[outputs, rank]`.
    B,
    /// `[rank, vocabulary]`.
    EmbeddingA,
    /// `[hidden, rank]`.
    EmbeddingB,
}

/// An adapter: low-rank updates of layers, and tensors that it replaces as a whole.
#[derive(Clone)]
pub struct Adapter {
    /// By the name of the layer in the model.
    layers: BTreeMap<String, LowRank>,
    /// The name that a tensor has in the model, and the one that it has here.
    replaced: BTreeMap<String, String>,
    /// Where the replaced ones are.
    tensors: Option<Arc<Weights>>,
    file: String,
    base: Option<String>,
    task: Option<String>,
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapter({}, {} layers, {} tensors)", self.file, self.layers.len(), self.replaced.len())
    }
}

impl Adapter {
    /// The tensors of an `adapter_model.safetensors`; `scale` is `lora_alpha / r` of its `adapter_config.json`, or with
    /// `use_rslora` `lora_alpha / √r`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a tensor that is neither half of a low-rank update of a linear layer;
    /// [`Error::Tensors`] when one half is missing.
    pub fn new(weights: &Weights, scale: f64) -> Result<Self> {
        let mut read = Halves::new("the adapter");
        for name in weights.names() {
            match half_of(name) {
                Some((layer, half)) => read.half(weights, name, layer, half)?,
                None => {
                    return Err(Error::Unsupported(format!(
                        "the tensor `{name}` of an adapter; low-rank updates of linear layers (lora_A and lora_B) are"
                    )));
                }
            }
        }
        Ok(Self {
            layers: read.finish(|_, _| Ok(scale))?,
            replaced: BTreeMap::new(),
            tensors: None,
            file: read.file,
            base: None,
            task: None,
        })
    }

    /// The adapter in a folder that PEFT, transformers or sentence-transformers saved: `adapter_config.json` with
    /// `adapter_model.safetensors` or `adapter_model.bin` beside it.
    ///
    /// # Errors
    /// [`Error::MissingFile`]; [`Error::Unsupported`] and [`Error::Config`] for an adapter of another type than LoRA
    /// and for settings that change what it computes and are not implemented, by their names; [`Error::Tensors`] for
    /// tensors that are not what the configuration says.
    pub fn load(files: &dyn FileSource) -> Result<Self> {
        let config = files.require(ADAPTER_CONFIG)?;
        let config = LoraConfig::parse(&config, &format!("{}: {ADAPTER_CONFIG}", files.place()))?;
        let [first, second] = ADAPTER_WEIGHTS;
        let file = match files.get(first)? {
            Some(file) => file,
            None => match files.get(second)? {
                Some(file) => file,
                None => files.require(first)?,
            },
        };
        Self::read(file, config)
    }

    fn read(file: FileData, config: LoraConfig) -> Result<Self> {
        let mut read = Halves::new(file.name());
        let weights = Weights::from_file(file)?;
        let mut replaced = BTreeMap::new();
        for name in weights.names() {
            if let Some((module, half)) = half_of(name) {
                if !config.modules.adapt(module) {
                    return Err(read.error(format!(
                        "`{name}` belongs to no module that {ADAPTER_CONFIG} names in target_modules; PEFT would \
                         leave it out"
                    )));
                }
                read.half(&weights, name, module, half)?;
                continue;
            }
            let own = unwrapped(name).replacen(WRAPPED, ".", 1);
            let (module, kind) = own.rsplit_once('.').unwrap_or((&own, ""));
            let bias = config.biases && kind == "bias";
            let beside = name.contains(WRAPPED) && config.modules.adapt(module);
            if own.contains("lora_") || !(bias || beside || config.modules.replace(module)) {
                return Err(Error::Unsupported(format!(
                    "the tensor `{name}` of {}; low-rank updates (lora_A and lora_B, lora_embedding_A and \
                     lora_embedding_B), biases that `bias` asks for and modules of modules_to_save are",
                    read.file
                )));
            }
            replaced.insert(canonical(&own).into_owned(), name.to_owned());
        }
        let fit = |module: &str, rank: usize| match config.rank(module) {
            expected if expected == rank => Ok(config.scale(module)),
            expected => Err(format!("`{module}` has rank {rank}, and {ADAPTER_CONFIG} gives it {expected}")),
        };
        let layers = read.finish(fit)?;
        let adapter = Self {
            layers,
            replaced,
            tensors: Some(Arc::new(weights)),
            file: read.file,
            base: config.base,
            task: config.task,
        };
        if config.ties && TIED.iter().any(|layer| adapter.changes(layer)) {
            return Err(Error::Unsupported(format!(
                "`ensure_weight_tying` of {ADAPTER_CONFIG} beside {}, which changes the embedding or the output matrix",
                adapter.file
            )));
        }
        match adapter.layers.is_empty() && adapter.replaced.is_empty() {
            true => Err(adapter.error("it holds no tensors".to_owned())),
            false => Ok(adapter),
        }
    }

    /// Names of the layers that get a low-rank update, sorted.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// Names of the tensors that are replaced as a whole, sorted.
    pub fn replaced(&self) -> impl Iterator<Item = &str> {
        self.replaced.keys().map(String::as_str)
    }

    /// The model that it was trained on, as its configuration calls it.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// PEFT's name of the task that it was trained for: `SEQ_CLS`, `TOKEN_CLS`, `CAUSAL_LM` and so on.
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// Where it was read from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether it changes or replaces a layer's matrix.
    pub(crate) fn changes(&self, layer: &str) -> bool {
        self.layers.contains_key(layer) || self.replaced.contains_key(&format!("{layer}.weight"))
    }

    /// The replaced tensors: their names in the model, with where they are and what they are called there.
    pub(crate) fn replacements(&self) -> impl Iterator<Item = (&str, &Weights, &str)> {
        let tensors = self.tensors.as_deref();
        self.replaced.iter().filter_map(move |(name, own)| Some((name.as_str(), tensors?, own.as_str())))
    }

    /// What it adds to the matrix `[outputs, inputs]` of a layer; which of its layers that were is noted. Query, key
    /// and value may be one layer here and three there, or the other way round.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming an update that does not fit the matrix.
    pub(crate) fn updates(&self, layer: &str, shape: [usize; 2], used: &mut BTreeSet<String>) -> Result<Vec<LowRank>> {
        let mut updates = Vec::new();
        let mut add = |name: &str, change: &dyn Fn(&LowRank) -> Result<LowRank>, shape: [usize; 2]| {
            let Some(update) = self.layers.get(name) else {
                return Ok(());
            };
            if !update.fits(shape) {
                return Err(self.unfitting(name, update, shape));
            }
            used.insert(name.to_owned());
            updates.push(change(update)?);
            Ok(())
        };
        add(layer, &|update| Ok(update.clone()), shape)?;
        let [rows, inputs] = shape;
        if let Some(attention) = layer.strip_suffix(FUSED) {
            let own = rows / PROJECTIONS.len();
            for (index, projection) in PROJECTIONS.iter().enumerate() {
                let change = |update: &LowRank| among_rows(update, index * own, rows);
                add(&format!("{attention}{projection}"), &change, [own, inputs])?;
            }
        }
        for (index, projection) in PROJECTIONS.iter().enumerate() {
            if let Some(attention) = layer.strip_suffix(projection) {
                let change = |update: &LowRank| {
                    Ok(LowRank { b: update.b.narrow(0, index * rows, rows)?.contiguous()?, ..update.clone() })
                };
                add(&format!("{attention}{FUSED}"), &change, [PROJECTIONS.len() * rows, inputs])?;
            }
        }
        Ok(updates)
    }

    /// Fails where layers were not used, but for those that `spare` lets pass.
    pub(crate) fn check_used(&self, used: &BTreeSet<String>, spare: impl Fn(&str) -> bool) -> Result<()> {
        let unused: Vec<&str> = self.layers().filter(|name| !used.contains(*name) && !spare(name)).collect();
        match unused.as_slice() {
            [] => Ok(()),
            names => Err(self.error(format!(
                "the model has no layers {}, which it changes{}",
                names.join(", "),
                self.trained_on()
            ))),
        }
    }

    fn unfitting(&self, name: &str, update: &LowRank, [outputs, inputs]: [usize; 2]) -> Error {
        let (a, b) = (update.a.dims(), update.b.dims());
        self.error(format!(
            "`{name}`, A {a:?} and B {b:?}, does not fit the model's matrix of [{outputs}, {inputs}]{}",
            self.trained_on()
        ))
    }

    /// What the adapter was made for, for whoever gave it to another model.
    pub(crate) fn trained_on(&self) -> String {
        match self.base() {
            Some(base) => format!("; it was trained on {base}"),
            None => String::new(),
        }
    }

    pub(crate) fn error(&self, message: String) -> Error {
        Error::Tensors { file: self.file.clone(), message }
    }
}

/// Collects updates.
struct Halves {
    file: String,
    /// By the module's name in the adapter's own words.
    halves: BTreeMap<String, BTreeMap<&'static str, Tensor>>,
}

impl Halves {
    fn new(file: &str) -> Self {
        Self { file: file.to_owned(), halves: BTreeMap::new() }
    }

    fn error(&self, message: String) -> Error {
        Error::Tensors { file: self.file.clone(), message }
    }

    /// One half, turned to what is multiplied with a matrix `[outputs, inputs]` of its layer: token vectors are rows,
    /// which PEFT keeps as columns.
    fn half(&mut self, weights: &Weights, name: &str, module: &str, half: Half) -> Result<()> {
        let Some(view) = weights.get(name) else {
            return Err(self.error(format!("`{name}` is of a dtype that is not supported; F32, F16 and BF16 are")));
        };
        let &[rows, columns] = view.shape() else {
            return Err(self.error(format!("`{name}` is {:?}, expected a matrix", view.shape())));
        };
        if rows == 0 || columns == 0 {
            return Err(self.error(format!("`{name}` is {:?}, which is empty", view.shape())));
        }
        let tensor = view.tensor(&Device::Cpu, DType::F32)?;
        let (side, tensor) = match half {
            Half::A => ("lora_A", tensor),
            Half::B => ("lora_B", tensor),
            Half::EmbeddingA => ("lora_B", tensor.t()?.contiguous()?),
            Half::EmbeddingB => ("lora_A", tensor.t()?.contiguous()?),
        };
        if self.halves.entry(module.to_owned()).or_default().insert(side, tensor).is_some() {
            return Err(self.error(format!("`{module}` has the matrices of two updates")));
        }
        Ok(())
    }

    /// The updates by canonical names of layers; `scale` gives a module of that rank its factor.
    fn finish(&mut self, scale: impl Fn(&str, usize) -> Result<f64, String>) -> Result<BTreeMap<String, LowRank>> {
        let mut layers = BTreeMap::new();
        for (module, mut halves) in std::mem::take(&mut self.halves) {
            let (Some(a), Some(b)) = (halves.remove("lora_A"), halves.remove("lora_B")) else {
                return Err(self.error(format!("`{module}` has one of lora_A and lora_B alone")));
            };
            let (rank, same) = (a.dim(0)?, b.dim(1)?);
            if rank != same {
                let shapes = format!("`{module}` has A {:?} and B {:?}, which are of two ranks", a.dims(), b.dims());
                return Err(self.error(shapes));
            }
            let scale = scale(&module, rank).map_err(|message| self.error(message))?;
            let layer = canonical(&module).into_owned();
            if layers.insert(layer, LowRank { a, b, scale }).is_some() {
                return Err(self.error(format!("`{module}` is there under two names")));
            }
        }
        Ok(layers)
    }
}

/// A tensor's name in the model that PEFT wraps.
fn unwrapped(name: &str) -> &str {
    name.strip_prefix(WRAPPER).unwrap_or(name)
}

/// The module, in the adapter's own words, and the half of its update that a tensor is.
fn half_of(name: &str) -> Option<(&str, Half)> {
    let bare = unwrapped(name);
    ENDS.iter().find_map(|&(end, half)| Some((bare.strip_suffix(end)?, half)))
}

/// An update of some rows from `first` on, as one of all `rows`.
fn among_rows(update: &LowRank, first: usize, rows: usize) -> Result<LowRank> {
    let (own, _) = update.b.dims2()?;
    let after = rows.saturating_sub(first + own);
    Ok(LowRank { b: update.b.pad_with_zeros(0, first, after)?, ..update.clone() })
}

/// Another source with an adapter on top: each matrix that it changes is `base + scale · B · A`. The CPU's kernels
/// pack the sum, computed row by row in f32; the reference path keeps the two apart. Tensors that the adapter replaces
/// as a whole are the source's affair.
#[derive(Debug)]
pub struct Adapted<'s, S> {
    base: S,
    adapter: &'s Adapter,
    used: BTreeSet<String>,
}

impl<'s, S> Adapted<'s, S> {
    /// The tensors of `base` as `adapter` changes them.
    pub fn new(base: S, adapter: &'s Adapter) -> Self {
        Self { base, adapter, used: BTreeSet::new() }
    }

    /// The source without the adapter, once all was read.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming layers of the adapter that the model does not have.
    pub fn finish(self) -> Result<S> {
        self.adapter.check_used(&self.used, |_| false)?;
        Ok(self.base)
    }
}

impl<'a, S: Source<Matrix = Matrix<'a>, Error = Error>> Source for Adapted<'_, S> {
    type Matrix = Matrix<'a>;
    type Vector = S::Vector;
    type Error = Error;

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Matrix<'a>> {
        let base = self.base.matrix(role, shape)?;
        adapted(base, self.adapter, role, shape, &mut self.used)
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<S::Vector> {
        self.base.vector(role, len)
    }

    fn tied_output(&mut self, role: Role, shape: [usize; 2]) -> Result<Option<Matrix<'a>>> {
        match self.base.tied_output(role, shape)? {
            Some(base) => adapted(base, self.adapter, role, shape, &mut self.used).map(Some),
            None => Ok(None),
        }
    }
}

/// A matrix with what an adapter adds to it.
pub(super) fn adapted<'a>(
    base: Matrix<'a>,
    adapter: &Adapter,
    role: Role,
    shape: [usize; 2],
    used: &mut BTreeSet<String>,
) -> Result<Matrix<'a>> {
    debug_assert_eq!(role.kind, Kind::Weight);
    let updates = adapter.updates(&role.part.to_string(), shape, used)?;
    let add = |base: Matrix<'a>, update: LowRank| Matrix::Adapted { base: Box::new(base), update };
    Ok(updates.into_iter().fold(base, add))
}
