//! `gliner_config.json`: what a GLiNER model says of itself, and which of its kinds are run.
//!
//! Which class a file stands for is decided as the library (0.2.29) does it, by keys that are there or not. Run are
//! span models (`markerV0`) on a ModernBERT trunk, with labels encoded apart or put before the text. Everything else is
//! refused by its name.
//!
//! GLiNER2 (2.1.0) says what it is in `config.json`: `model_type` is `extractor`. Its span models are run as classifiers.

use serde_json::Value;

use crate::config::{Keys, Objective};
use crate::files::ModelFiles;
use crate::json::read_object;
use crate::metadata::{CONFIG, config_as_python_reads_it};
use crate::named::Named;
use crate::{Config, Error, Result};

/// The file's name.
pub(crate) const GLINER_CONFIG: &str = "gliner_config.json";
/// Where the tokenizer of labels is.
pub(crate) const LABELS_TOKENIZER: &str = "labels_tokenizer";

/// Bounds on hostile files; the library's defaults are 12, 384, 512 and 1.
const MAX_WIDTH: usize = 128;
const MAX_WORDS: usize = 1 << 16;
const MAX_SIZE: usize = 1 << 14;
const MAX_RNN_LAYERS: usize = 16;

/// A span model.
#[derive(Debug, Clone)]
pub(crate) struct GlinerConfig {
    /// The trunk that reads texts.
    pub(crate) encoder: Config,
    pub(crate) labels: LabelSide,
    /// Values of a vector of a word, a span, or a label.
    pub(crate) size: usize,
    /// The most words of a span.
    pub(crate) max_width: usize,
    /// The most words of a text.
    pub(crate) max_words: usize,
    pub(crate) pooling: SubtokenPooling,
}

/// How labels become vectors.
#[derive(Debug, Clone)]
pub(crate) enum LabelSide {
    /// By a trunk of their own, of this architecture.
    Encoder(Box<Config>),
    /// By a model of another kind.
    Foreign(String),
    /// With the text, which they stand before.
    Prompt(LabelPrompt),
}

/// Labels before a text: `marker label marker label … separator`.
#[derive(Debug, Clone)]
pub(crate) struct LabelPrompt {
    pub(crate) marker: String,
    pub(crate) marker_id: u32,
    pub(crate) separator: String,
    /// Whether a label's vector is that of its marker; else of the token behind it.
    pub(crate) by_marker: bool,
    /// Layers of the LSTM over the words.
    pub(crate) rnn_layers: usize,
}

/// How the tokens of a word become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubtokenPooling {
    First,
    Last,
    Mean,
    Max,
}

impl Named for SubtokenPooling {
    const NAMES: &'static [(Self, &'static str)] = &[
        (SubtokenPooling::First, "first"),
        (SubtokenPooling::Last, "last"),
        (SubtokenPooling::Mean, "mean"),
        (SubtokenPooling::Max, "max"),
    ];
}

impl GlinerConfig {
    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a kind of GLiNER that is not run; [`Error::Config`] for what cannot be.
    pub(crate) fn load(files: &ModelFiles) -> Result<Option<Self>> {
        let Some(map) = read_object(files, GLINER_CONFIG)? else {
            return Ok(None);
        };
        let keys = Keys::new(&map, GLINER_CONFIG);
        check_kind(&keys)?;
        let Some(encoder) = trunk(&keys, "encoder_config")? else {
            return Err(keys.refuse("encoder_config", "the configuration of the trunk is expected in the file"));
        };
        let encoder = encoder.map_err(|kind| {
            Error::Unsupported(format!("a GLiNER model on {kind}: its trunk must be a ModernBERT ({GLINER_CONFIG})"))
        })?;
        let labels = match keys.text("labels_encoder")? {
            None => LabelSide::Prompt(LabelPrompt::read(&keys)?),
            Some(name) => match trunk(&keys, "labels_encoder_config")? {
                Some(Ok(config)) => LabelSide::Encoder(Box::new(config)),
                Some(Err(kind)) => LabelSide::Foreign(format!("{kind} ({name})")),
                None => LabelSide::Foreign(format!("{name}, whose configuration is not in the file")),
            },
        };
        let pooling = keys.text("subtoken_pooling")?.unwrap_or("first");
        let pooling = SubtokenPooling::of_name(pooling)
            .ok_or_else(|| keys.refuse("subtoken_pooling", "supported: \"first\", \"last\", \"mean\", \"max\""))?;
        Ok(Some(Self {
            encoder,
            labels,
            size: keys.size("hidden_size", 512, MAX_SIZE)?,
            max_width: keys.size("max_width", 12, MAX_WIDTH)?,
            max_words: keys.size("max_len", 384, MAX_WORDS)?,
            pooling,
        }))
    }
}

impl LabelPrompt {
    fn read(keys: &Keys<'_>) -> Result<Self> {
        let token = |key: &str, default: &str| Ok::<_, Error>(keys.text(key)?.unwrap_or(default).to_owned());
        let id = keys.get("class_token_index").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let rnn_layers = match keys.get("num_rnn_layers").and_then(Value::as_i64) {
            Some(..=0) => 0,
            _ => keys.size("num_rnn_layers", 1, MAX_RNN_LAYERS)?,
        };
        Ok(Self {
            marker: token("ent_token", "<<ENT>>")?,
            marker_id: id.ok_or_else(|| {
                keys.refuse("class_token_index", "the id of ent_token is expected, which gliner writes when it saves")
            })?,
            separator: token("sep_token", "<<SEP>>")?,
            by_marker: keys.flag("embed_ent_token", true)?,
            rnn_layers,
        })
    }
}

/// The configuration of a trunk inside the file, or the kind of another architecture; `None` where the key is absent.
fn trunk(keys: &Keys<'_>, key: &str) -> Result<Option<Result<Config, String>>> {
    // Also refuses what is no object.
    let Some(inner) = keys.object(key)? else {
        return Ok(None);
    };
    let kind = inner.text("model_type")?.unwrap_or("deberta-v2");
    if kind != Objective::Encoder.model_type() {
        return Ok(Some(Err(kind.to_owned())));
    }
    let json = keys.get(key).map(Value::to_string).unwrap_or_default();
    Config::from_json(json.as_bytes(), &format!("{GLINER_CONFIG} ({key})")).map(|config| Some(Ok(config)))
}

/// Where a GLiNER2 model keeps the configuration of its trunk.
pub(crate) const GLINER2_ENCODER: &str = "encoder_config/config.json";
/// What `model_type` of its `config.json` says.
pub(crate) const GLINER2_TYPE: &str = "extractor";

/// The trunk of the GLiNER2 model in `files`; `None` for a model of another kind.
///
/// # Errors
/// [`Error::Unsupported`] for an architecture, or a trunk, that is not run; [`Error::Config`] for what cannot be.
pub(crate) fn schema_trunk(files: &ModelFiles) -> Result<Option<Config>> {
    let Some(map) = config_as_python_reads_it(files)? else {
        return Ok(None);
    };
    let keys = Keys::new(&map, CONFIG);
    if keys.get("model_type").and_then(Value::as_str) != Some(GLINER2_TYPE) {
        return Ok(None);
    }
    match keys.text("architecture")?.unwrap_or("span") {
        "span" => {}
        other => return Err(Error::Unsupported(format!("a GLiNER2 model of the architecture {other:?} ({CONFIG})"))),
    }
    let config = Config::from_json(&files.require(GLINER2_ENCODER)?, GLINER2_ENCODER)?;
    match config.objective {
        Objective::Encoder => Ok(Some(config)),
        Objective::Decoder => Err(Error::Unsupported("a GLiNER2 model on a decoder".to_owned())),
    }
}

/// Refuses everything but span models without extras.
fn check_kind(keys: &Keys<'_>) -> Result<()> {
    let refused = |kind: &str| Err(Error::Unsupported(format!("{kind} ({GLINER_CONFIG}): run it with `gliner`")));
    if keys.text("model_type")? == Some("gliner_streaming_span") {
        return refused("a streaming GLiNER model (model_type gliner_streaming_span)");
    }
    if let Some(name) = keys.text("labels_decoder")? {
        return refused(&format!("a GLiNER model with a decoder of labels (labels_decoder {name:?})"));
    }
    if let Some(name) = keys.text("relations_layer")? {
        return refused(&format!("a GLiNER model for relations (relations_layer {name:?})"));
    }
    match keys.text("span_mode")?.unwrap_or("markerV0") {
        "markerV0" => {}
        "token_level" | "token-level" => return refused("a token-level GLiNER model (span_mode token_level)"),
        _ => return Err(keys.refuse("span_mode", "supported: \"markerV0\"")),
    }
    if keys.text("post_fusion_schema")?.is_some_and(|schema| !schema.is_empty()) {
        return Err(keys.refuse("post_fusion_schema", "attention between texts and labels is not supported"));
    }
    if keys.flag("fuse_layers", false)? {
        return Err(keys.refuse("fuse_layers", "the fusion of all layers is not supported"));
    }
    if keys.get("span_encoder_config").is_some() {
        return Err(keys.refuse("span_encoder_config", "an encoder over words is not supported"));
    }
    if keys.flag("precomputed_prompts_mode", false)? {
        return Err(keys.refuse("precomputed_prompts_mode", "labels that are fixed in the weights are not supported"));
    }
    match keys.text("words_splitter_type")?.unwrap_or("whitespace") {
        "whitespace" => Ok(()),
        _ => Err(keys.refuse("words_splitter_type", "supported: \"whitespace\"")),
    }
}
