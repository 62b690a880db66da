//! `config.json` at the door: both dialects become one validated [`Config`], everything else is refused by name.
//!
//! The older dialect (on the Hub today) says `global_attn_every_n_layers`, `global_rope_theta`, `local_rope_theta`; the
//! newer one (saved by transformers 5) says `layer_types` and `rope_parameters`. Absent keys take the defaults of
//! transformers 5.23's `ModernBertConfig` and `ModernBertDecoderConfig`; a key that is `null` is absent, but for a
//! token id, of which there is then none. A key that would change numbers and is not implemented is an error that names
//! it; a key that changes nothing at inference (dropout, initialisers, objects of other tools, …) is ignored. What only
//! a classifier reads is checked by what has one ([`Config::check_classifier`]). docs/KEYS.md is the table.

mod foreign;
mod keys;
mod labels;
mod layers;
mod write;

use serde_json::Value;

use crate::dtype::StoredDtype;
use crate::files::FileSource;
use crate::json::parse_object;
use crate::metadata::CONFIG;
use crate::{Error, Result};
pub(crate) use keys::Keys;

pub use ettin_kernels::{Activation, Span};

/// Upper bounds on dimensions: far above every model of this type, low enough that no product of two overflows.
const MAX_VOCAB: usize = 1 << 24;
const MAX_HIDDEN: usize = 1 << 16;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_POSITIONS: usize = 1 << 20;

/// What the model was trained to do, and so which way its attention looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Masked language modelling; `model_type` is `modernbert`.
    Encoder,
    /// Causal language modelling; `model_type` is `modernbert-decoder`.
    Decoder,
}

impl Objective {
    /// `"encoder"` or `"decoder"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Objective::Encoder => "encoder",
            Objective::Decoder => "decoder",
        }
    }

    /// The `model_type` that stands for it.
    pub fn model_type(self) -> &'static str {
        match self {
            Objective::Encoder => "modernbert",
            Objective::Decoder => "modernbert-decoder",
        }
    }
}

/// What one layer's attention sees, and the base of its rotary positions.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LayerSpec {
    /// Keys visible to a token, itself always included.
    pub span: Span,
    /// RoPE base θ.
    pub rope_theta: f32,
}

/// How an encoder's classifier turns a sequence into one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClassifierPooling {
    /// The first token's vector.
    Cls,
    /// The mean over all tokens.
    Mean,
}

/// What a classifier's outputs mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemType {
    /// Raw values.
    Regression,
    /// Exactly one label holds: softmax.
    SingleLabel,
    /// Labels hold independently: sigmoid.
    MultiLabel,
}

/// A model's architecture, validated: every dimension is in bounds and every option is one this engine computes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// What the model was trained to do.
    pub objective: Objective,
    /// Rows of the embedding and width of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of each of the two halves of the gated MLP.
    pub intermediate_size: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_heads: usize,
    /// The longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// One entry per layer, first to last; at least one.
    pub layers: Vec<LayerSpec>,
    /// ε of every layer norm.
    pub norm_eps: f32,
    /// Whether layer norms have a bias.
    pub norm_bias: bool,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// Whether the output projection onto the vocabulary has a bias.
    pub decoder_bias: bool,
    /// Whether the prediction head's dense layer has a bias (and, on decoders, the classifier).
    pub classifier_bias: bool,
    /// Gate activation of the MLP.
    pub hidden_activation: Activation,
    /// Activation of the prediction head.
    pub classifier_activation: Activation,
    /// Pooling of an encoder's sequence classifier; decoders always take the last token.
    pub classifier_pooling: ClassifierPooling,
    /// Whether the output projection shares the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation; may be several.
    pub eos_token_ids: Vec<u32>,
    /// Classification token.
    pub cls_token_id: Option<u32>,
    /// Separator token.
    pub sep_token_id: Option<u32>,
    /// Unknown token; transformers has no default for it.
    pub unk_token_id: Option<u32>,
    /// Mask token; transformers has no default for it.
    pub mask_token_id: Option<u32>,
    /// Class names of transformers that the weights were saved from.
    pub architectures: Vec<String>,
    /// Label names in the order of the classifier's outputs; `LABEL_0`, `LABEL_1` where the file names none.
    pub labels: Vec<String>,
    /// `label2id`, in the order of the file: names and numbers of outputs, where they are others than those of
    /// `labels`. Zero-shot classification reads it and nothing else; what is no whole number is none.
    pub label_ids: Option<Vec<(String, Option<i64>)>>,
    /// What the classifier's outputs mean, where the file says so.
    pub problem_type: Option<ProblemType>,
    /// The dtype the file claims for its weights: a hint, the weights file decides.
    pub stored_dtype: Option<StoredDtype>,
    /// A cross-encoder's output activation, as the Python class that sentence-transformers recorded.
    pub activation_fn: Option<String>,
    /// What is wrong with the keys that only a classifier reads.
    classifier_fault: Option<Fault>,
}

/// An [`Error::Config`] that is kept until it matters.
#[derive(Debug, Clone, PartialEq)]
struct Fault {
    file: String,
    message: String,
}

impl Config {
    /// Reads the `config.json` of a model.
    ///
    /// # Errors
    /// [`Error::MissingFile`] when there is none, and what [`from_json`](Self::from_json) refuses.
    pub fn load(source: &dyn FileSource) -> Result<Self> {
        let file = CONFIG;
        match source.get(file)? {
            Some(data) => Self::from_json(&data, file),
            None => Err(Error::MissingFile { place: source.place(), file: file.to_owned() }),
        }
    }

    /// Reads `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming key, value and what is supported.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        let map = parse_object(bytes, file)?;
        let keys = Keys::new(&map, file);
        let objective = objective(&keys)?;
        foreign::refuse(&keys, objective)?;

        let vocab_size = keys.size("vocab_size", 50_368, MAX_VOCAB)?;
        let num_layers = keys.size("num_hidden_layers", 22, MAX_LAYERS)?;
        let token = |key, default| token_id(&keys, key, default, vocab_size);
        let hidden_activation = activation(&keys, "hidden_activation")?;
        refuse_contradiction(&keys, hidden_activation)?;
        let mut fault = None;
        let labels = later(&mut fault, labels::labels(&keys))?;
        let config = Self {
            objective,
            vocab_size,
            hidden_size: keys.size("hidden_size", 768, MAX_HIDDEN)?,
            intermediate_size: keys.size("intermediate_size", 1152, MAX_INTERMEDIATE)?,
            num_heads: keys.size("num_attention_heads", 12, MAX_HIDDEN)?,
            max_position_embeddings: keys.size("max_position_embeddings", 8192, MAX_POSITIONS)?,
            layers: layers::layers(&keys, objective, num_layers)?,
            norm_eps: norm_eps(&keys)?,
            norm_bias: keys.flag("norm_bias", false)?,
            attention_bias: keys.flag("attention_bias", false)?,
            mlp_bias: keys.flag("mlp_bias", false)?,
            decoder_bias: keys.flag("decoder_bias", true)?,
            classifier_bias: keys.flag("classifier_bias", false)?,
            hidden_activation,
            classifier_activation: activation(&keys, "classifier_activation")?,
            classifier_pooling: later(&mut fault, classifier_pooling(&keys, objective))?
                .unwrap_or(ClassifierPooling::Cls),
            tie_word_embeddings: keys.flag("tie_word_embeddings", true)?,
            pad_token_id: token("pad_token_id", Some(50_283))?,
            bos_token_id: token("bos_token_id", Some(50_281))?,
            eos_token_ids: token_ids(&keys, "eos_token_id", 50_282, vocab_size)?,
            cls_token_id: token("cls_token_id", Some(50_281))?,
            sep_token_id: token("sep_token_id", Some(50_282))?,
            unk_token_id: token("unk_token_id", None)?,
            mask_token_id: token("mask_token_id", None)?,
            architectures: owned(keys.texts("architectures")?),
            problem_type: later(&mut fault, labels::problem_type(&keys, labels.as_ref().map(Vec::len)))?.flatten(),
            label_ids: labels.as_ref().and_then(|labels| labels::label_ids(&keys, labels)),
            labels: labels.unwrap_or_else(labels::unnamed),
            stored_dtype: stored_dtype(&keys),
            activation_fn: later(&mut fault, activation_fn(&keys))?.flatten(),
            classifier_fault: fault,
        };
        config.check_heads(&keys)?;
        Ok(config)
    }

    /// Accepts texts of `length` tokens where that is more than the file's own positions: they are rotary, so their
    /// number is a choice, and sentence-transformers' explicit limits are not bounded by it. No more than a file could
    /// have asked for.
    pub(crate) fn allow_length(&mut self, length: Option<usize>) {
        let length = length.unwrap_or(0).min(MAX_POSITIONS);
        self.max_position_embeddings = self.max_position_embeddings.max(length);
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Width of one attention head, `hidden_size / num_heads`; even.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Whether the label matrix has a bias: transformers gives an encoder's one always, a decoder's only under
    /// `classifier_bias`.
    pub fn classifier_has_bias(&self) -> bool {
        self.objective == Objective::Encoder || self.classifier_bias
    }

    /// Whether labels, problem type, pooling and activation of a classifier are ones that can be used.
    ///
    /// Reading a configuration does not ask: most models have no classifier, and what their files say of one is no
    /// reason not to load them. Where they are unusable, the fields hold what a file without those keys means.
    ///
    /// # Errors
    /// [`Error::Config`] naming key, value and what is supported.
    pub fn check_classifier(&self) -> Result<()> {
        match &self.classifier_fault {
            None => Ok(()),
            Some(Fault { file, message }) => Err(Error::Config { file: file.clone(), message: message.clone() }),
        }
    }

    /// The transformers class the weights were saved from, like `ModernBertForMaskedLM`.
    pub fn architecture(&self) -> Option<&str> {
        self.architectures.first().map(String::as_str)
    }

    /// The same weights read the other way: local layers keep their window, global ones see everything that
    /// `objective` allows. A cross-objective model seen as what it was converted *from*.
    pub fn with_objective(mut self, objective: Objective) -> Self {
        for layer in &mut self.layers {
            layer.span = match (layer.span.left, self.objective) {
                (None, _) => objective.global_span(),
                (Some(left), Objective::Encoder) => objective.local_span(left),
                (Some(left), Objective::Decoder) => objective.local_span(left + 1),
            };
        }
        self.objective = objective;
        self
    }

    /// The same model with `layer`'s span replaced.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such layer.
    pub fn with_span(mut self, layer: usize, span: Span) -> Result<Self> {
        let count = self.num_layers();
        match self.layers.get_mut(layer) {
            Some(spec) => spec.span = span,
            None => {
                return Err(Error::input(format!("there is no layer {layer} among {count}")));
            }
        }
        Ok(self)
    }

    fn check_heads(&self, keys: &Keys<'_>) -> Result<()> {
        let (hidden, heads) = (self.hidden_size, self.num_heads);
        if !hidden.is_multiple_of(heads) {
            return Err(keys.refuse("num_attention_heads", format_args!("it must divide `hidden_size` ({hidden})")));
        }
        if !self.head_dim().is_multiple_of(2) {
            let rule = format!("{hidden} / {heads} heads is an odd head size, which rotary positions cannot split");
            return Err(keys.refuse("num_attention_heads", rule));
        }
        for (key, expected) in [("head_dim", self.head_dim()), ("num_key_value_heads", heads)] {
            if keys.get(key).is_some_and(|value| value.as_u64() != Some(expected as u64)) {
                return Err(keys.refuse(key, format_args!("supported: {expected}, which the other keys imply")));
            }
        }
        Ok(())
    }
}

fn objective(keys: &Keys<'_>) -> Result<Objective> {
    let both = [Objective::Encoder, Objective::Decoder];
    let found = keys.text("model_type")?.and_then(|name| both.into_iter().find(|o| o.model_type() == name));
    found.ok_or_else(|| keys.refuse("model_type", "supported: \"modernbert\", \"modernbert-decoder\""))
}

/// The value, or none where it is wrong in a way that only matters to a classifier: the first such fault is kept.
fn later<T>(fault: &mut Option<Fault>, value: Result<T>) -> Result<Option<T>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Error::Config { file, message }) => {
            fault.get_or_insert(Fault { file, message });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A key of another model type that this one does not read, saying something else than the key it does read.
fn refuse_contradiction(keys: &Keys<'_>, hidden: Activation) -> Result<()> {
    match keys.text("hidden_act")? {
        Some(name) if activation_named(name) != Some(hidden) => {
            Err(keys.refuse("hidden_act", "this model type reads `hidden_activation`, which differs"))
        }
        _ => Ok(()),
    }
}

fn activation_named(name: &str) -> Option<Activation> {
    match name {
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Some(Activation::GeluTanh),
        "silu" | "swish" => Some(Activation::Silu),
        "relu" => Some(Activation::Relu),
        _ => None,
    }
}

fn activation(keys: &Keys<'_>, key: &str) -> Result<Activation> {
    let supported = "supported: \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\", \"silu\", \"swish\", \"relu\"";
    match keys.text(key)? {
        None => Ok(Activation::Gelu),
        Some(name) => activation_named(name).ok_or_else(|| keys.refuse(key, supported)),
    }
}

/// Only `norm_eps` counts; `layer_norm_eps` is what other model types call it, and transformers does not read it here.
fn norm_eps(keys: &Keys<'_>) -> Result<f32> {
    const DEFAULT: f32 = 1e-5;
    let eps = match (keys.positive("norm_eps")?, keys.positive("layer_norm_eps")?) {
        (None, Some(other)) if other != DEFAULT => {
            return Err(keys.refuse("layer_norm_eps", "this model type reads `norm_eps`; write that key"));
        }
        (eps, _) => eps.unwrap_or(DEFAULT),
    };
    if eps < 1.0 { Ok(eps) } else { Err(keys.refuse("norm_eps", "supported: numbers between 0 and 1")) }
}

fn classifier_pooling(keys: &Keys<'_>, objective: Objective) -> Result<ClassifierPooling> {
    match keys.text("classifier_pooling")? {
        None | Some("cls") => Ok(ClassifierPooling::Cls),
        Some("mean") => Ok(ClassifierPooling::Mean),
        Some(_) if objective == Objective::Decoder => Ok(ClassifierPooling::Cls),
        Some(_) => Err(keys.refuse("classifier_pooling", "supported: \"cls\", \"mean\"")),
    }
}

/// One token id, or none. An id that the vocabulary does not hold is no token: configurations of small vocabularies
/// keep the defaults of the large one, and transformers only warns.
fn token_id(keys: &Keys<'_>, key: &str, default: Option<u32>, vocab: usize) -> Result<Option<u32>> {
    if !keys.has(key) {
        return Ok(default.filter(|&id| (id as usize) < vocab));
    }
    match keys.get(key) {
        None => Ok(None),
        Some(value) => in_vocabulary(value, vocab).map_err(|()| keys.refuse(key, "supported: a token id")),
    }
}

/// One id or a list of ids.
fn token_ids(keys: &Keys<'_>, key: &str, default: u32, vocab: usize) -> Result<Vec<u32>> {
    let Some(list) = keys.get(key).and_then(Value::as_array) else {
        return Ok(token_id(keys, key, Some(default), vocab)?.into_iter().collect());
    };
    let ids = list.iter().filter_map(|value| in_vocabulary(value, vocab).transpose());
    ids.collect::<Result<_, ()>>().map_err(|()| keys.refuse(key, "supported: token ids"))
}

/// The id if the vocabulary holds it; an error for what is no whole number.
fn in_vocabulary(value: &Value, vocab: usize) -> Result<Option<u32>, ()> {
    match (value.as_u64(), value.as_i64()) {
        (None, None) => Err(()),
        (id, _) => Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab)),
    }
}

fn stored_dtype(keys: &Keys<'_>) -> Option<StoredDtype> {
    let name = ["dtype", "torch_dtype"].into_iter().find_map(|key| keys.get(key))?;
    StoredDtype::from_name(name.as_str()?)
}

/// Where sentence-transformers keeps a cross-encoder's activation: nested since version 4, a key of its own before. The
/// nested key decides where it is there, and null then means the default: version 6.2 asks for its presence, not for
/// its value (`CrossEncoder.get_default_activation_fn`).
fn activation_fn(keys: &Keys<'_>) -> Result<Option<String>> {
    let name = match keys.object("sentence_transformers")? {
        Some(nested) if nested.has("activation_fn") => nested.text("activation_fn")?,
        _ => keys.text("sbert_ce_default_activation_function")?,
    };
    Ok(name.map(str::to_owned))
}

fn owned(texts: Option<Vec<&str>>) -> Vec<String> {
    texts.unwrap_or_default().into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
