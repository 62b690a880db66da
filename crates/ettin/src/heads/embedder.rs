//! Embeddings: the trunk with pooling, or with the chain that its repository describes.

use candle_core::Tensor;

use super::chain::{Chain, Overrides, trunk_folder};
use crate::{
    Config, Error, PackedBatch, Pooling, Result, Trunk,
    config::Objective,
    files::ModelFiles,
    ops::Backend,
    params::Parameters,
    pooling::normalize,
    weights::{Head, Subfolder, Weights},
};

/// A trunk that gives one vector per sequence.
#[derive(Debug)]
pub struct Embedder {
    trunk: Trunk,
    chain: Option<Chain>,
}

/// What to do differently from what the model's files say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbedOptions {
    /// Another pooling than the chain's; without a chain, another than the objective's default.
    pub pooling: Option<Pooling>,
    /// Scale to length 1, or leave out a final scaling; without a choice, what the chain does.
    pub normalize: Option<bool>,
    /// Keep only the first values of each vector (Matryoshka), and scale again what was scaled.
    pub dimensions: Option<usize>,
    /// Pool another layer's output: 0 is the embedding, the number of layers the final hidden state.
    pub layer: Option<usize>,
    /// Leading tokens of each sequence left out of the pooling (a prompt with `include_prompt: false`).
    pub skip: Option<Vec<usize>>,
}

impl Embedder {
    /// Loads the model that `files` hold, with its chain if there is a `modules.json`.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        let folder = trunk_folder(files)?;
        let trunk = Subfolder { files, folder: &folder };
        let config = Config::load(&trunk)?;
        let weights = Weights::open(&trunk)?;
        let parameters = Parameters::from_weights(&weights, &config, Head::None)?;
        let backend = backend.for_stored(parameters.quantisation);
        Ok(Self {
            trunk: Trunk::build(parameters, &config, &backend)?,
            chain: Chain::load(files, config.hidden_size, &backend)?,
        })
    }

    /// The configuration of the trunk.
    pub fn config(&self) -> &Config {
        self.trunk.config()
    }

    /// The layers under the pooling.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// What the repository's `modules.json` describes.
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// The pooling used when neither a chain nor the caller says: mean for encoders, last token for decoders.
    pub fn default_pooling(&self) -> Pooling {
        match self.config().objective {
            Objective::Encoder => Pooling::Mean,
            Objective::Decoder => Pooling::Last,
        }
    }

    /// One vector per sequence, `[sequences, size]`.
    pub fn embed(&self, batch: &PackedBatch, options: &EmbedOptions) -> Result<Tensor> {
        let tokens = match options.layer {
            None => self.trunk.forward(batch)?,
            layer => self.trunk.backend().hidden(&self.token_embeddings(batch, layer)?)?,
        };
        let skip = options.skip.as_deref();
        let mut normalized = options.normalize == Some(true);
        let mut vectors = match &self.chain {
            Some(chain) => {
                let keep_normalize = options.normalize != Some(false);
                normalized |= keep_normalize && chain.normalizes();
                let overrides = Overrides { pooling: options.pooling, keep_normalize };
                chain.forward(&tokens, batch, skip, overrides, self.trunk.backend())?
            }
            None => {
                let pooling = options.pooling.unwrap_or_else(|| self.default_pooling());
                pooling.pool(&tokens, batch, skip)?
            }
        };
        if let Some(size) = options.dimensions {
            let full = vectors.dim(1)?;
            if !(1..=full).contains(&size) {
                return Err(Error::input(format!("{size} dimensions were asked of vectors that have {full}")));
            }
            vectors = vectors.narrow(1, 0, size)?;
        }
        if normalized { normalize(&vectors) } else { Ok(vectors.contiguous()?) }
    }

    /// The vector of every token, `[tokens, hidden]`: the final hidden states, or another layer's.
    pub fn token_embeddings(&self, batch: &PackedBatch, layer: Option<usize>) -> Result<Tensor> {
        let layers = self.config().layers.len();
        match layer {
            None => self.trunk.forward(batch)?.to_tensor(),
            Some(layer) if layer <= layers => Ok(self.trunk.hidden_states(batch)?.swap_remove(layer)),
            Some(layer) => {
                Err(Error::input(format!("layer {layer} was asked of a model with {layers}; 0 is the embedding")))
            }
        }
    }
}
