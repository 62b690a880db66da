//! Sentence-transformers module chains: what follows the trunk in a repository with `modules.json`.
//!
//! Transformer → Pooling → any of Dense, LayerNorm, Normalize. Class paths were moved twice by their library
//! (`sentence_transformers.models.Pooling`, `….sentence_transformer.modules.Pooling`, …); only the last component counts.

use std::{collections::BTreeMap, str::FromStr};

use candle_core::Tensor;
use serde::Deserialize;

use crate::{
    Error, PackedBatch, Pooling, Result, finite,
    ops::{self, Backend, Hidden, Linear, Norm, NormParams, Vector},
    params,
    pooling::normalize,
    weights::{FileSource, Subfolder, Weights},
};

/// File that lists the modules of a chain.
const MODULES: &str = "modules.json";

/// `torch.nn.LayerNorm`'s default, which sentence-transformers' `LayerNorm` module leaves alone.
const LAYER_NORM_EPS: f32 = 1e-5;

/// The largest feature count a module may declare: a bound on hostile configurations.
const MAX_FEATURES: usize = 1 << 20;

/// How two embeddings of a model are compared (`similarity_fn_name`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Similarity {
    /// The cosine of their angle.
    #[default]
    Cosine,
    /// Their dot product.
    Dot,
    /// Minus their Euclidean distance.
    Euclidean,
    /// Minus their Manhattan distance.
    Manhattan,
}

impl FromStr for Similarity {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cosine" => Ok(Similarity::Cosine),
            "dot" => Ok(Similarity::Dot),
            "euclidean" => Ok(Similarity::Euclidean),
            "manhattan" => Ok(Similarity::Manhattan),
            _ => Err(Error::Unsupported(format!("similarity {name:?}; known are cosine, dot, euclidean, manhattan"))),
        }
    }
}

impl Similarity {
    /// Compares two vectors of one length; larger is more alike. Sums run in f64.
    pub fn score(self, a: &[f32], b: &[f32]) -> f32 {
        let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let dot = || pairs().map(|(a, b)| a * b).sum::<f64>();
        let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        let score = match self {
            Similarity::Cosine => dot() / (norm(a) * norm(b)),
            Similarity::Dot => dot(),
            Similarity::Euclidean => -pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
            Similarity::Manhattan => -pairs().map(|(a, b)| (a - b).abs()).sum::<f64>(),
        };
        score as f32
    }
}

/// The settings of a chain that concern its input and the comparison of its output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The most tokens of an input (`max_seq_length` of `sentence_bert_config.json`).
    pub max_seq_length: Option<usize>,
    /// Texts put before an input, by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt used when none is named.
    pub default_prompt_name: Option<String>,
    /// Whether the prompt's tokens take part in the pooling.
    pub include_prompt: bool,
    /// How embeddings are compared.
    pub similarity: Similarity,
}

/// The modules after the trunk.
#[derive(Debug)]
pub struct Chain {
    pooling: Vec<Pooling>,
    modules: Vec<Module>,
    settings: Settings,
    output_size: usize,
}

#[derive(Debug)]
enum Module {
    Dense { linear: Linear, activation: Activation },
    LayerNorm(Norm),
    Normalize,
}

/// Activations that `Dense` modules of published models name, by torch's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activation {
    Identity,
    Tanh,
    Relu,
    Gelu,
    Silu,
    Sigmoid,
}

impl Module {
    fn class(&self) -> &'static str {
        match self {
            Module::Dense { .. } => "Dense",
            Module::LayerNorm(_) => "LayerNorm",
            Module::Normalize => "Normalize",
        }
    }
}

/// Sees what every module of a chain gives, by its place in the chain and its class.
pub(crate) type Look<'a> = dyn FnMut((usize, &'static str), &Tensor) -> Result<()> + 'a;

/// What can be asked of [`Chain::forward`] beyond what its files say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overrides {
    pub(crate) pooling: Option<Pooling>,
    pub(crate) keep_normalize: bool,
}

#[derive(Deserialize)]
struct ModuleEntry {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    class: String,
}

impl Chain {
    /// The chain of a repository, or `None` where it has no `modules.json`; with it, the folder of its trunk.
    pub(crate) fn load(files: &dyn FileSource, hidden_size: usize, backend: &Backend) -> Result<Option<Self>> {
        let Some(entries) = entries(files)? else {
            return Ok(None);
        };
        let [first, second, rest @ ..] = entries.as_slice() else {
            return Err(refuse("a chain of fewer than two modules"));
        };
        expect(first, "Transformer", "the first module")?;
        expect(second, "Pooling", "the second module (late interaction and SPLADE are not supported)")?;
        let mut chain =
            Self { pooling: Vec::new(), modules: Vec::new(), settings: settings(files, &first.path)?, output_size: 0 };
        let pooling = PoolingConfig::load(files, &second.path)?;
        chain.pooling = pooling.modes(&second.path, hidden_size)?;
        chain.settings.include_prompt = pooling.include_prompt.unwrap_or(true);
        chain.output_size = hidden_size * chain.pooling.len();
        for entry in rest {
            let module = chain.module(files, entry, backend)?;
            chain.modules.push(module);
        }
        Ok(Some(chain))
    }

    fn module(&mut self, files: &dyn FileSource, entry: &ModuleEntry, backend: &Backend) -> Result<Module> {
        match class(entry) {
            "Dense" => {
                let config: DenseConfig = read_json(files, &join(&entry.path, "config.json"))?;
                let (inputs, outputs) = config.check(&entry.path, self.output_size)?;
                let weights = Weights::open(&Subfolder { files, folder: &entry.path })?;
                let weight = weights.require("linear.weight", &[outputs, inputs])?;
                let bias = config.bias.then(|| weights.require("linear.bias", &[outputs])).transpose()?;
                let linear = backend.linear(params::dense(&weights, weight, bias))?;
                self.output_size = outputs;
                Ok(Module::Dense { linear, activation: config.activation()? })
            }
            "LayerNorm" => {
                let weights = Weights::open(&Subfolder { files, folder: &entry.path })?;
                let vector = |name: &str| {
                    let view = weights.require(name, &[self.output_size])?;
                    Ok::<_, Error>(Vector::Values(view.to_f32()))
                };
                Ok(Module::LayerNorm(backend.norm(NormParams {
                    weight: vector("norm.weight")?,
                    bias: Some(vector("norm.bias")?),
                    eps: LAYER_NORM_EPS,
                })?))
            }
            "Normalize" => Ok(Module::Normalize),
            other => Err(refuse(&format!("the module {other} in {MODULES}"))),
        }
    }

    /// Prompts, length limit and similarity.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Values per output vector; one for a reranker.
    pub fn output_size(&self) -> usize {
        self.output_size
    }

    /// Whether its output is scaled to length 1.
    pub fn normalizes(&self) -> bool {
        matches!(self.modules.last(), Some(Module::Normalize))
    }

    /// `[tokens, hidden]` to `[sequences, output]`.
    pub(crate) fn forward(
        &self,
        tokens: &Hidden,
        batch: &PackedBatch,
        skip: Option<&[usize]>,
        overrides: Overrides,
        backend: &Backend,
        look: &mut Look<'_>,
    ) -> Result<Tensor> {
        let one = overrides.pooling.as_slice();
        let pooling = if one.is_empty() { self.pooling.as_slice() } else { one };
        let pooled = pooling.iter().map(|pooling| pooling.pool(tokens, batch, skip)).collect::<Result<Vec<_>>>()?;
        let mut vectors = Tensor::cat(&pooled, 1)?;
        look((1, "Pooling"), &vectors)?;
        for (number, module) in (2..).zip(&self.modules) {
            vectors = match module {
                Module::Dense { linear, activation } => {
                    let dense = ops::linear(&backend.hidden(&vectors)?, linear)?.to_tensor()?;
                    finite::passed_on(&dense, &activation.apply(&dense)?)?
                }
                Module::LayerNorm(norm) => ops::norm(&backend.hidden(&vectors)?, norm)?.to_tensor()?,
                Module::Normalize if overrides.keep_normalize => normalize(&vectors)?,
                Module::Normalize => vectors,
            };
            look((number, module.class()), &vectors)?;
        }
        Ok(vectors)
    }
}

/// The folder in which a repository keeps its trunk: not empty only in old sentence-transformers saves.
pub(crate) fn trunk_folder(files: &dyn FileSource) -> Result<String> {
    Ok(match entries(files)? {
        Some(entries) => entries.into_iter().next().map(|entry| entry.path).unwrap_or_default(),
        None => String::new(),
    })
}

fn entries(files: &dyn FileSource) -> Result<Option<Vec<ModuleEntry>>> {
    files.get(MODULES)?.map(|data| parse(&data, MODULES)).transpose()
}

fn settings(files: &dyn FileSource, trunk: &str) -> Result<Settings> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Bert {
        max_seq_length: Option<usize>,
        do_lower_case: bool,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Sentence {
        model_type: Option<String>,
        prompts: BTreeMap<String, Option<String>>,
        default_prompt_name: Option<String>,
        similarity_fn_name: Option<String>,
    }
    let bert: Bert = read_optional(files, &join(trunk, "sentence_bert_config.json"))?;
    if bert.do_lower_case {
        return Err(refuse("do_lower_case in sentence_bert_config.json"));
    }
    let sentence: Sentence = read_optional(files, "config_sentence_transformers.json")?;
    if let Some(kind @ ("SparseEncoder" | "MultiVectorEncoder")) = sentence.model_type.as_deref() {
        return Err(refuse(&format!("the sentence-transformers model type {kind}")));
    }
    let prompts: BTreeMap<String, String> =
        sentence.prompts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect();
    if let Some(name) = &sentence.default_prompt_name
        && !prompts.contains_key(name)
    {
        return Err(Error::Config {
            file: "config_sentence_transformers.json".into(),
            message: format!("default_prompt_name {name:?} is not among its prompts"),
        });
    }
    Ok(Settings {
        max_seq_length: bert.max_seq_length,
        prompts,
        default_prompt_name: sentence.default_prompt_name,
        include_prompt: true,
        similarity: sentence.similarity_fn_name.as_deref().map_or(Ok(Similarity::Cosine), str::parse)?,
    })
}

/// `1_Pooling/config.json`, in the older spelling (one boolean per mode) or the newer (`pooling_mode`).
#[derive(Default, Deserialize)]
#[serde(default)]
struct PoolingConfig {
    #[serde(alias = "embedding_dimension")]
    word_embedding_dimension: Option<usize>,
    pooling_mode: Option<OneOrMany>,
    pooling_mode_cls_token: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
    include_prompt: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl PoolingConfig {
    fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        read_json(files, &join(folder, "config.json"))
    }

    /// The modes in the order in which sentence-transformers concatenates them; mean where none is set.
    fn modes(&self, folder: &str, hidden_size: usize) -> Result<Vec<Pooling>> {
        let file = join(folder, "config.json");
        if let Some(size) = self.word_embedding_dimension
            && size != hidden_size
        {
            return Err(Error::Config {
                file,
                message: format!("pools vectors of {size} values, the model's have {hidden_size}"),
            });
        }
        let named = |name: &str| match name {
            "cls" => Ok(Pooling::Cls),
            "max" => Ok(Pooling::Max),
            "mean" => Ok(Pooling::Mean),
            "mean_sqrt_len_tokens" => Ok(Pooling::MeanSqrtLen),
            "weightedmean" => Ok(Pooling::WeightedMean),
            "lasttoken" => Ok(Pooling::Last),
            _ => Err(refuse(&format!("pooling_mode {name:?} in {file}"))),
        };
        let modes = match &self.pooling_mode {
            Some(OneOrMany::One(name)) => vec![named(name)?],
            Some(OneOrMany::Many(names)) => names.iter().map(|name| named(name)).collect::<Result<_>>()?,
            None => [
                (self.pooling_mode_cls_token, Pooling::Cls),
                (self.pooling_mode_max_tokens, Pooling::Max),
                (self.pooling_mode_mean_tokens, Pooling::Mean),
                (self.pooling_mode_mean_sqrt_len_tokens, Pooling::MeanSqrtLen),
                (self.pooling_mode_weightedmean_tokens, Pooling::WeightedMean),
                (self.pooling_mode_lasttoken, Pooling::Last),
            ]
            .into_iter()
            .filter_map(|(set, mode)| set.then_some(mode))
            .collect(),
        };
        Ok(if modes.is_empty() { vec![Pooling::Mean] } else { modes })
    }
}

/// `N_Dense/config.json`; sentence-transformers' own defaults where keys are missing.
#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    activation_function: Option<String>,
    #[serde(default = "sentence_embedding")]
    module_input_name: String,
    module_output_name: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

fn yes() -> bool {
    true
}

fn sentence_embedding() -> String {
    "sentence_embedding".into()
}

impl DenseConfig {
    fn check(&self, folder: &str, input_size: usize) -> Result<(usize, usize)> {
        let outer =
            self.module_output_name.as_ref().is_some_and(|name| *name != "sentence_embedding" && *name != "scores");
        if self.module_input_name != "sentence_embedding" || outer {
            return Err(refuse(&format!(
                "a Dense module on {:?} (late interaction works on token_embeddings)",
                self.module_input_name
            )));
        }
        if self.use_residual {
            return Err(refuse("use_residual of a Dense module"));
        }
        if self.in_features != input_size || !(1..=MAX_FEATURES).contains(&self.out_features) {
            return Err(Error::Config {
                file: join(folder, "config.json"),
                message: format!(
                    "maps {} to {} features, but {input_size} come in",
                    self.in_features, self.out_features
                ),
            });
        }
        Ok((self.in_features, self.out_features))
    }

    fn activation(&self) -> Result<Activation> {
        let Some(path) = self.activation_function.as_deref() else {
            return Ok(Activation::Tanh);
        };
        let class = path.rsplit('.').next().unwrap_or(path);
        match class {
            _ if !path.starts_with("torch.") => Err(refuse(&format!("the activation {path:?} of a Dense module"))),
            "Identity" => Ok(Activation::Identity),
            "Tanh" => Ok(Activation::Tanh),
            "ReLU" => Ok(Activation::Relu),
            "GELU" => Ok(Activation::Gelu),
            "SiLU" => Ok(Activation::Silu),
            "Sigmoid" => Ok(Activation::Sigmoid),
            _ => Err(refuse(&format!("the activation {path:?} of a Dense module"))),
        }
    }
}

impl Activation {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Identity => x.clone(),
            Activation::Tanh => x.tanh()?,
            Activation::Relu => x.relu()?,
            Activation::Gelu => x.gelu_erf()?,
            Activation::Silu => x.silu()?,
            Activation::Sigmoid => candle_nn::ops::sigmoid(x)?,
        })
    }
}

fn class(entry: &ModuleEntry) -> &str {
    entry.class.rsplit('.').next().unwrap_or(&entry.class)
}

fn expect(entry: &ModuleEntry, name: &str, place: &str) -> Result<()> {
    if class(entry) == name {
        return Ok(());
    }
    Err(refuse(&format!("{place} of {MODULES} being {} instead of {name}", class(entry))))
}

fn refuse(what: &str) -> Error {
    Error::Unsupported(what.to_owned())
}

fn join(folder: &str, file: &str) -> String {
    let folder = folder.trim_end_matches('/');
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

fn parse<T: serde::de::DeserializeOwned>(data: &[u8], file: &str) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| Error::Config { file: file.to_owned(), message: error.to_string() })
}

fn read_json<T: serde::de::DeserializeOwned>(files: &dyn FileSource, file: &str) -> Result<T> {
    match files.get(file)? {
        Some(data) => parse(&data, file),
        None => Err(Error::MissingFile { place: files.place(), file: file.to_owned() }),
    }
}

fn read_optional<T: serde::de::DeserializeOwned + Default>(files: &dyn FileSource, file: &str) -> Result<T> {
    files.get(file)?.map_or_else(|| Ok(T::default()), |data| parse(&data, file))
}
