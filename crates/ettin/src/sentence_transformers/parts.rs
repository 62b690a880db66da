//! `config.json` of the modules after the trunk.

use serde_json::Value;

use super::keys::{count, join, object, only, required};
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::CONFIG as FILE;
use crate::named::Named;
use crate::{Error, Pooling, Result};

/// The largest feature count a module may declare: a bound on hostile configurations.
pub(super) const MAX_FEATURES: usize = 1 << 20;

/// What modules read and write, by the library's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// `token_embeddings`: a vector per token.
    Tokens,
    /// `sentence_embedding`: a vector per text.
    Sentence,
    /// `scores`: a reranker's result.
    Scores,
}

impl Named for Slot {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Slot::Tokens, "token_embeddings"), (Slot::Sentence, "sentence_embedding"), (Slot::Scores, "scores")];
}

impl Slot {
    /// The slot that a key names.
    fn read(keys: &Keys<'_>, key: &str) -> Result<Option<Self>> {
        let Some(name) = keys.text(key)? else {
            return Ok(None);
        };
        match Self::of_name(name) {
            Some(slot) => Ok(Some(slot)),
            None => Err(keys.refuse(key, "supported: \"token_embeddings\", \"sentence_embedding\", \"scores\"")),
        }
    }

    /// Where a module reads and where it writes: where nothing is said, `default`, and what it read.
    fn pair(keys: &Keys<'_>, default: Slot) -> Result<(Self, Self)> {
        let input = Self::read(keys, "module_input_name")?.unwrap_or(default);
        let output = Self::read(keys, "module_output_name")?.unwrap_or(input);
        if (input == Slot::Tokens) != (output == Slot::Tokens) {
            return Err(keys.refuse("module_output_name", format_args!("it reads `{}`", input.name())));
        }
        Ok((input, output))
    }
}

/// A `Pooling` module, in the older spelling (one boolean per mode) or the newer (`pooling_mode`).
#[derive(Debug)]
pub(crate) struct PoolingConfig {
    /// The modes in the order in which the library concatenates them; at least one.
    pub(crate) modes: Vec<Pooling>,
    /// Whether the prompt's tokens take part.
    pub(crate) include_prompt: bool,
}

/// Modes in the order of the older keys, under both names.
const MODES: [(&str, &str, Pooling); 6] = [
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::Last),
];

impl PoolingConfig {
    /// Reads the module in `folder`, which pools vectors of `width` values.
    pub(crate) fn load(files: &dyn FileSource, folder: &str, width: usize) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        let mut known = vec!["word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt"];
        known.extend(MODES.iter().map(|(key, _, _)| *key));
        only(&keys, &known)?;
        check_width(&keys, width)?;
        let include_prompt = keys.flag("include_prompt", true)?;
        let set = MODES.iter().filter_map(|(key, _, mode)| match keys.flag(key, false) {
            Ok(set) => set.then_some(Ok(*mode)),
            Err(error) => Some(Err(error)),
        });
        let mut modes = set.collect::<Result<Vec<_>>>()?;
        if let Some(stated) = keys.get("pooling_mode") {
            let names = match stated {
                Value::Array(names) => names.iter().collect(),
                name => vec![name],
            };
            let mode = |name: &Value| {
                let found = MODES.iter().find(|(_, known, _)| Some(*known) == name.as_str());
                found.map(|(_, _, mode)| *mode)
            };
            modes =
                names.into_iter().map(mode).collect::<Option<Vec<_>>>().filter(|modes| !modes.is_empty()).ok_or_else(
                    || {
                        let names: Vec<&str> = MODES.iter().map(|(_, name, _)| *name).collect();
                        keys.refuse("pooling_mode", format_args!("supported: {}", names.join(", ")))
                    },
                )?;
        }
        if modes.is_empty() {
            modes.push(Pooling::Mean);
        }
        Ok(Self { modes, include_prompt })
    }
}

/// Refuses a width of another size, under its older and its newer name.
pub(super) fn check_width(keys: &Keys<'_>, width: usize) -> Result<()> {
    for key in ["word_embedding_dimension", "embedding_dimension"] {
        if count(keys, key, MAX_FEATURES)?.is_some_and(|size| size != width) {
            return Err(keys.refuse(key, format_args!("vectors of {width} values come in")));
        }
    }
    Ok(())
}

/// A `Dense` module; the library's own defaults where keys are missing.
#[derive(Debug)]
pub(crate) struct DenseConfig {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    /// The Python class of its activation; tanh where there is none.
    pub(crate) activation: Option<String>,
    pub(crate) input: Slot,
    pub(crate) output: Slot,
    /// Whether its input is added to its output.
    pub(crate) residual: bool,
}

impl DenseConfig {
    /// Reads the module in `folder`, which reads the sentence where it does not say otherwise.
    pub(crate) fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        Self::load_on(files, folder, Slot::Sentence)
    }

    /// The same of a late-interaction model, where it reads the vectors of tokens.
    pub(crate) fn load_on_tokens(files: &dyn FileSource, folder: &str) -> Result<Self> {
        Self::load_on(files, folder, Slot::Tokens)
    }

    fn load_on(files: &dyn FileSource, folder: &str, default: Slot) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        only(
            &keys,
            &[
                "in_features",
                "out_features",
                "bias",
                "activation_function",
                "module_input_name",
                "module_output_name",
                "use_residual",
            ],
        )?;
        let features = |key: &str| {
            count(&keys, key, MAX_FEATURES)?.ok_or_else(|| keys.refuse(key, "a number of features is expected"))
        };
        let (input, output) = Slot::pair(&keys, default)?;
        Ok(Self {
            inputs: features("in_features")?,
            outputs: features("out_features")?,
            bias: keys.flag("bias", true)?,
            activation: keys.text("activation_function")?.map(str::to_owned),
            input,
            output,
            residual: keys.flag("use_residual", false)?,
        })
    }

    /// Refuses an input of another width.
    pub(crate) fn check(&self, folder: &str, width: usize) -> Result<()> {
        if self.inputs == width {
            return Ok(());
        }
        Err(Error::Config {
            file: join(folder, FILE),
            message: format!("maps {} to {} features, but {width} come in", self.inputs, self.outputs),
        })
    }
}

/// A `Normalize` module; before version 6 it had no file.
#[derive(Debug)]
pub(crate) struct NormalizeConfig {
    pub(crate) input: Slot,
    pub(crate) output: Slot,
}

impl NormalizeConfig {
    pub(crate) fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        let (file, map) = own(files, folder)?;
        let keys = Keys::new(&map, &file);
        only(&keys, &["module_input_name", "module_output_name"])?;
        let (input, output) = Slot::pair(&keys, Slot::Sentence)?;
        Ok(Self { input, output })
    }
}

/// Reads a `LayerNorm` module, which normalises vectors of `width` values.
pub(crate) fn check_layer_norm(files: &dyn FileSource, folder: &str, width: usize) -> Result<()> {
    let file = join(folder, FILE);
    let map = required(files, &file)?;
    let keys = Keys::new(&map, &file);
    only(&keys, &["dimension"])?;
    match count(&keys, "dimension", MAX_FEATURES)? {
        Some(size) if size == width => Ok(()),
        _ => Err(keys.refuse("dimension", format_args!("vectors of {width} values come in"))),
    }
}

/// Reads a `Dropout` module, which does nothing when nothing is trained.
pub(crate) fn check_dropout(files: &dyn FileSource, folder: &str) -> Result<()> {
    let (file, map) = own(files, folder)?;
    only(&Keys::new(&map, &file), &["dropout"])
}

/// The settings of a module that can do without; at the top, `config.json` is the trunk's.
fn own(files: &dyn FileSource, folder: &str) -> Result<(String, serde_json::Map<String, Value>)> {
    let file = join(folder, FILE);
    let map = if folder.is_empty() { serde_json::Map::new() } else { object(files, &file)? };
    Ok((file, map))
}
