//! Settings of the modules that change token vectors before they are pooled: `WeightedLayerPooling`, `WordWeights`.

use std::collections::HashMap;

use serde_json::Value;

use super::keys::{count, join, only, required};
use super::parts::{MAX_FEATURES, check_width};
use crate::Result;
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::CONFIG as FILE;

/// More layers than any model has: a bound on hostile configurations.
const MAX_LAYERS: usize = 1 << 12;

/// A `WeightedLayerPooling` module.
#[derive(Debug)]
pub(crate) struct WeightedLayersConfig {
    /// The first hidden state that counts; 0 is the embedding.
    pub(crate) start: usize,
    /// How many count.
    pub(crate) weights: usize,
}

impl WeightedLayersConfig {
    /// Reads the module in `folder`, over vectors of `width` values.
    pub(crate) fn load(files: &dyn FileSource, folder: &str, width: usize) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        only(&keys, &["word_embedding_dimension", "embedding_dimension", "layer_start", "num_hidden_layers"])?;
        check_width(&keys, width)?;
        let layers = count(&keys, "num_hidden_layers", MAX_LAYERS)?.unwrap_or(12);
        let start = keys.get("layer_start").map_or(Some(4), Value::as_u64);
        // There is one hidden state more than layers: the embedding.
        let start = start.filter(|&start| start <= layers as u64).ok_or_else(|| {
            keys.refuse(
                "layer_start",
                format_args!("supported: whole numbers from 0 to {layers}, 4 where it is absent"),
            )
        })? as usize;
        Ok(Self { start, weights: layers + 1 - start })
    }

    /// Refuses a trunk of another depth.
    pub(crate) fn check(&self, folder: &str, layers: usize) -> Result<()> {
        if self.start + self.weights == layers + 1 {
            return Ok(());
        }
        Err(crate::Error::Config {
            file: join(folder, FILE),
            message: format!(
                "weighs {} hidden states from {} on, of a model with {layers} layers",
                self.weights, self.start
            ),
        })
    }
}

/// A `WordWeights` module: what the vector of each token is multiplied by, by its id.
#[derive(Debug)]
pub(crate) struct WordWeightsConfig {
    pub(crate) weights: Vec<f32>,
}

impl WordWeightsConfig {
    /// Reads the module in `folder`. Its weights are those of its settings: the library never reads the tensor beside
    /// them.
    pub(crate) fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        let file = join(folder, FILE);
        let map = required(files, &file)?;
        let keys = Keys::new(&map, &file);
        only(&keys, &["vocab", "word_weights", "unknown_word_weight"])?;
        let number = |keys: &Keys<'_>, key: &str| {
            let number = keys.get(key).and_then(Value::as_f64).map(|number| number as f32);
            number.filter(|number| number.is_finite()).ok_or_else(|| keys.refuse(key, "expected a finite number"))
        };
        let unknown = match keys.get("unknown_word_weight") {
            None => 1.0,
            Some(_) => number(&keys, "unknown_word_weight")?,
        };
        let known = keys.object("word_weights")?.ok_or_else(|| keys.refuse("word_weights", "expected an object"))?;
        let known = known.names().map(|word| Ok((word, number(&known, word)?))).collect::<Result<HashMap<_, _>>>()?;
        let words = keys.texts("vocab")?.filter(|words| (1..=MAX_FEATURES).contains(&words.len()));
        let words = words.ok_or_else(|| keys.refuse("vocab", "expected a list of tokens"))?;
        let weight =
            |word: &&str| *known.get(word).or_else(|| known.get(word.to_lowercase().as_str())).unwrap_or(&unknown);
        Ok(Self { weights: words.iter().map(weight).collect() })
    }
}
