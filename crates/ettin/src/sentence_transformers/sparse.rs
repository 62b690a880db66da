//! Settings of the modules that make sparse vectors, and of the one that reads the logits of two tokens:
//! `SpladePooling`, `SparseAutoEncoder`, `LogitScore`.

use serde_json::Value;

use super::keys::{count, join, only, required};
use super::parts::{MAX_FEATURES, check_width};
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::CONFIG as FILE;
use crate::{Error, Result};

/// A `SpladePooling` module: scores over the vocabulary at every token become one weight per entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpladeConfig {
    /// Whether tokens add up; otherwise the largest counts.
    pub(crate) sum: bool,
    /// Whether the logarithm is taken twice (`log1p_relu`).
    pub(crate) twice: bool,
}

impl SpladeConfig {
    /// Reads the module in `folder`, over a vocabulary of `width` entries.
    pub(crate) fn load(files: &dyn FileSource, folder: &str, width: usize) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        only(&keys, &["pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension"])?;
        check_width(&keys, width)?;
        let sum = match keys.text("pooling_strategy")? {
            None | Some("max") => false,
            Some("sum") => true,
            Some(_) => return Err(keys.refuse("pooling_strategy", "supported: \"max\", \"sum\"")),
        };
        let twice = match keys.text("activation_function")? {
            None | Some("relu") => false,
            Some("log1p_relu") => true,
            Some(_) => return Err(keys.refuse("activation_function", "supported: \"relu\", \"log1p_relu\"")),
        };
        Ok(Self { sum, twice })
    }
}

/// A `SparseAutoEncoder` module (CSR): the largest features of a dense vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AutoEncoderConfig {
    pub(crate) inputs: usize,
    pub(crate) features: usize,
    /// How many features are kept.
    pub(crate) kept: usize,
    /// Whether each vector is brought to mean 0 and deviation 1 first.
    pub(crate) standardizes: bool,
}

impl AutoEncoderConfig {
    /// Reads the module in `folder`, over vectors of `width` values.
    pub(crate) fn load(files: &dyn FileSource, folder: &str, width: usize) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        // The last two matter in training alone.
        only(&keys, &["input_dim", "hidden_dim", "k", "normalize", "k_aux", "dead_threshold"])?;
        let inputs = count(&keys, "input_dim", MAX_FEATURES)?;
        let inputs = inputs.ok_or_else(|| keys.refuse("input_dim", "a number of features is expected"))?;
        if inputs != width {
            return Err(keys.refuse("input_dim", format_args!("vectors of {width} values come in")));
        }
        let features = count(&keys, "hidden_dim", MAX_FEATURES)?.unwrap_or(512);
        let kept = count(&keys, "k", features)?.unwrap_or(8);
        if kept > features {
            return Err(keys.refuse("hidden_dim", format_args!("{kept} of its features are to be kept")));
        }
        Ok(Self { inputs, features, kept, standardizes: keys.flag("normalize", false)? })
    }
}

/// A `LogitScore` module: the score of a pair of texts is what a causal language model makes of one token, or of one
/// against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogitScoreConfig {
    pub(crate) wanted: usize,
    /// Subtracted from the score of `wanted`.
    pub(crate) unwanted: Option<usize>,
}

impl LogitScoreConfig {
    /// Reads the module in `folder`, over a vocabulary of `size` entries.
    pub(crate) fn load(files: &dyn FileSource, folder: &str, size: usize) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        only(&keys, &["true_token_id", "false_token_id", "module_input_name"])?;
        if keys.text("module_input_name")?.is_some_and(|name| name != "causal_logits") {
            return Err(keys.refuse("module_input_name", "supported: \"causal_logits\""));
        }
        let token = |key: &str| match keys.get(key).map(Value::as_u64) {
            None => Ok::<_, Error>(None),
            Some(Some(id)) if id < size as u64 => Ok(Some(id as usize)),
            Some(_) => Err(keys.refuse(key, format_args!("supported: token ids below {size}"))),
        };
        let wanted = token("true_token_id")?.ok_or_else(|| keys.refuse("true_token_id", "expected a token id"))?;
        Ok(Self { wanted, unwanted: token("false_token_id")? })
    }
}
