//! Embeddings: the trunk with pooling, or with the chain that its repository describes.

use std::sync::Arc;

use candle_core::Tensor;

use super::chain::{Chain, FromTrunk, Look, Start, Wanted};
use super::open;
use crate::{
    Backend, Config, Error, PackedBatch, Pooling, Result, Trunk,
    config::Objective,
    files::ModelFiles,
    finite::{self, Traced},
    identity,
    metadata::MODULES,
    ops::Hidden,
    params::Parameters,
    pooling::normalize,
    sentence_transformers::{Repository, Slot},
    setters::setters,
    weights::{Head, Subfolder, Weights},
};

/// A trunk that gives one vector per sequence.
#[derive(Debug)]
pub struct Embedder {
    /// Shared where several routes of a repository stand on it.
    trunk: Arc<Trunk>,
    chain: Option<Chain>,
}

/// What to do differently from what the model's files say.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct EmbedOptions {
    /// Another pooling than the chain's; without a chain, another than the objective's default.
    pub pooling: Option<Pooling>,
    /// Scale to length 1, or leave out a final scaling; without a choice, what the chain does.
    pub normalize: Option<bool>,
    /// Keep only the first values of each vector (Matryoshka), and scale again what was scaled.
    pub dimensions: Option<usize>,
    /// Pool another layer's output: 0 is the embedding, the number of layers the final hidden state.
    pub layer: Option<usize>,
    /// How many values of a sparse vector an autoencoder keeps, instead of what its files say.
    pub max_active_dims: Option<usize>,
    /// Leading tokens of each sequence left out of the pooling (a prompt with `include_prompt: false`).
    pub skip: Option<Vec<usize>>,
}

setters!(EmbedOptions {
    /// With another pooling.
    with_pooling(pooling: impl Into<Option<Pooling>>);
    /// With vectors scaled to length 1, or not.
    with_normalize(normalize: impl Into<Option<bool>>);
    /// With the first values alone.
    with_dimensions(dimensions: impl Into<Option<usize>>);
    /// With another layer's output.
    with_layer(layer: impl Into<Option<usize>>);
    /// With so many values of an autoencoder's vector.
    with_max_active_dims(max_active_dims: impl Into<Option<usize>>);
    /// Without so many leading tokens of each sequence.
    with_skip(skip: impl Into<Option<Vec<usize>>>);
});

impl Embedder {
    /// Loads the model that `files` hold, with its chain if there is a `modules.json`: that of the default route of a
    /// model that has several.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        identity::check(files, identity::Use::Vectors)?;
        Self::of_repository(files, Repository::load(files)?, backend)
    }

    /// Loads a chain with its trunk, or a trunk without one.
    pub(super) fn of_repository(files: &ModelFiles, repository: Option<Repository>, backend: &Backend) -> Result<Self> {
        let folder = repository.as_ref().map_or("", |repository| &repository.transformer.folder);
        let trunk = Subfolder { files, folder };
        let mut config = Config::load(&trunk).map_err(|error| identity::explained(files, error))?;
        config.allow_length(repository.as_ref().and_then(|repository| repository.transformer.longest()));
        let weights = Weights::open(&trunk).map_err(|error| identity::explained(files, error))?;
        let scores = repository.as_ref().is_some_and(|repository| repository.transformer.task.scores_vocabulary());
        let head = if scores { Head::Language } else { Head::None };
        let parameters = Parameters::from_weights(&weights, &config, head)?;
        let backend = backend.for_stored(parameters.quantization);
        let chain = repository.map(|repository| Chain::load(files, repository, &config, &backend));
        Self::build(parameters, &config, &backend, chain.transpose()?)
    }

    /// Loads a masked language model as an encoder of sparse vectors, SPLADE by the largest: what `SparseEncoder` of
    /// sentence-transformers makes of one without a `modules.json`. A repository that describes SPLADE itself is loaded
    /// as it says.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a decoder, and for a chain of another kind; what loading the model's files can meet.
    pub fn load_splade(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        if files.get(MODULES)?.is_none() {
            identity::check(files, identity::Use::Head)?;
            let config = Config::load(files).map_err(|error| identity::explained(files, error))?;
            if let Some(class) = config.architecture().filter(|class| !class.ends_with("ForMaskedLM")) {
                return Err(Error::Unsupported(format!(
                    "SPLADE with {}: it needs a masked language model (ModernBertForMaskedLM), and this is a {class}",
                    files.name()
                )));
            }
            let chain = |parameters: Parameters<'_>, config: &Config, backend: &Backend| {
                Self::build(parameters, config, backend, Some(Chain::bare_splade(config)?))
            };
            return open(files, backend, |_| Head::Language, chain);
        }
        let model = Self::load(files, backend)?;
        check_splade(files, model.chain())?;
        Ok(model)
    }

    /// Builds the model from parameters, with the chain behind its trunk.
    pub(crate) fn build(
        parameters: Parameters<'_>,
        config: &Config,
        backend: &Backend,
        chain: Option<Chain>,
    ) -> Result<Self> {
        let trunk = match chain.as_ref().is_some_and(Chain::scores_vocabulary) {
            true => Trunk::with_head(parameters, config, backend)?,
            false => Trunk::build(parameters, config, backend)?,
        };
        Ok(Self { trunk: trunk.into(), chain })
    }

    /// Loads a chain behind a trunk that another one stands on, too.
    pub(super) fn behind(files: &ModelFiles, repository: Repository, trunk: Arc<Trunk>) -> Result<Self> {
        let chain = Chain::load(files, repository, trunk.config(), trunk.backend())?;
        Ok(Self { trunk, chain: Some(chain) })
    }

    pub(super) fn shared_trunk(&self) -> &Arc<Trunk> {
        &self.trunk
    }

    /// An embedder over the trunk of another model, whose weights they share: one without a chain.
    pub fn of_trunk(trunk: impl Into<Arc<Trunk>>) -> Self {
        Self { trunk: trunk.into(), chain: None }
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
        self.vectors(batch, options, &mut |_, _| Ok(()))
    }

    /// The same with a look at what the pooling and the modules behind it give.
    fn vectors(&self, batch: &PackedBatch, options: &EmbedOptions, look: &mut Look<'_>) -> Result<Tensor> {
        self.pooled(self.start(batch, options.layer)?, options, look)
    }

    /// One vector per sequence from final hidden states, `[sequences, size]`.
    pub(crate) fn pool(&self, tokens: Hidden, batch: &PackedBatch, options: &EmbedOptions) -> Result<Tensor> {
        let layers = match self.reads_layers() {
            true => self.trunk.hidden_states(batch)?,
            false => Vec::new(),
        };
        let start = FromTrunk { trunk: &self.trunk, batch, tokens, layers };
        self.pooled(start, options, &mut |_, _| Ok(()))
    }

    fn pooled(&self, start: FromTrunk<'_>, options: &EmbedOptions, look: &mut Look<'_>) -> Result<Tensor> {
        if let Some(chain) = &self.chain {
            return chained(chain, Start::Trunk(start), options, look);
        }
        let pooling = options.pooling.unwrap_or_else(|| self.default_pooling());
        let pooled = pooling.pool(&start.tokens, start.batch, options.skip.as_deref())?;
        look((1, "Pooling"), &pooled)?;
        finished(pooled, options.dimensions, options.normalize == Some(true))
    }

    /// The scores of a reranker's chain, `[sequences, scores]`; `skip` as in [`EmbedOptions`].
    pub(crate) fn scores(&self, batch: &PackedBatch, skip: Option<&[usize]>) -> Result<Tensor> {
        self.scored(batch, skip, &mut |_, _| Ok(()))?.to_tensor()
    }

    /// The same with a look at what the modules give.
    fn scored(&self, batch: &PackedBatch, skip: Option<&[usize]>, look: &mut Look<'_>) -> Result<Hidden> {
        let Some(chain) = &self.chain else {
            return Err(Error::input("an embedder without a chain has no scores"));
        };
        let wanted = Wanted { output: Slot::Scores, pooling: None, keep_normalize: true, active: None };
        chain.forward(Start::Trunk(self.start(batch, None)?), skip, wanted, look)
    }

    /// The vector of every token, `[tokens, size]`: the final hidden states, or another layer's, and what the modules
    /// of a chain make of them; cut and scaled as `options` say.
    pub fn token_vectors(&self, batch: &PackedBatch, options: &EmbedOptions) -> Result<Tensor> {
        let start = self.start(batch, options.layer)?;
        let vectors = match &self.chain {
            Some(chain) => chain.tokens(start)?,
            None => start.tokens,
        };
        finished(vectors, options.dimensions, options.normalize == Some(true))
    }

    /// [`token_vectors`](Self::token_vectors), neither cut nor scaled.
    pub fn token_embeddings(&self, batch: &PackedBatch, layer: Option<usize>) -> Result<Tensor> {
        self.token_vectors(batch, &EmbedOptions::default().with_layer(layer))
    }

    /// What the modules begin with: the final hidden states, or another layer's.
    fn start<'a>(&'a self, batch: &'a PackedBatch, layer: Option<usize>) -> Result<FromTrunk<'a>> {
        let (trunk, reads) = (&*self.trunk, self.reads_layers());
        let (tokens, layers) = match layer {
            Some(_) if reads => {
                return Err(Error::input("one layer was asked of a model that takes a mean of several"));
            }
            None if reads => {
                let layers = trunk.hidden_states(batch)?;
                let last = layers.last().cloned().ok_or_else(|| Error::internal("a model without layers"))?;
                (Hidden::new(last), layers)
            }
            None => (trunk.forward(batch)?, Vec::new()),
            Some(layer) => (trunk.forward_to(batch, layer)?, Vec::new()),
        };
        Ok(FromTrunk { trunk, batch, tokens, layers })
    }

    fn reads_layers(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::reads_layers)
    }
}

/// What a chain makes of its input, as it is handed out: `[texts, size]`.
pub(super) fn chained(chain: &Chain, start: Start<'_>, options: &EmbedOptions, look: &mut Look<'_>) -> Result<Tensor> {
    let keep_normalize = options.normalize != Some(false);
    let mut normalized = options.normalize == Some(true) || (keep_normalize && chain.normalizes());
    let (pooling, active) = (options.pooling, options.max_active_dims);
    let wanted = Wanted { output: Slot::Sentence, pooling, keep_normalize, active };
    let vectors = chain.forward(start, options.skip.as_deref(), wanted, look)?;
    let mut size = options.dimensions;
    if size.is_none()
        && let Some(truncated) = chain.settings().truncate_dim
        && truncated < vectors.size()
    {
        // Behind every module, so that what they normalised stays as it was cut.
        size = Some(truncated);
        normalized = options.normalize == Some(true);
    }
    finished(vectors, size, normalized)
}

/// Vectors `[rows, size]` as they are handed out: of the first dimensions alone, scaled to length 1.
fn finished(vectors: Hidden, dimensions: Option<usize>, normalized: bool) -> Result<Tensor> {
    let full = vectors.size();
    let mut vectors = vectors.to_tensor()?;
    if let Some(size) = dimensions {
        if !(1..=full).contains(&size) {
            return Err(Error::input(format!("{size} dimensions were asked of vectors that have {full}")));
        }
        vectors = vectors.narrow(1, 0, size)?;
    }
    if normalized { normalize(&vectors) } else { Ok(vectors.contiguous()?) }
}

/// An embedder with what is asked of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TracedEmbedder<'a> {
    pub(crate) model: &'a Embedder,
    pub(crate) options: &'a EmbedOptions,
    pub(crate) result: Asked,
}

/// What an embedder is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// One vector per text.
    Pooled,
    /// One vector per token.
    Tokens,
    /// The scores of a reranker's chain.
    Scores,
}

impl Traced for TracedEmbedder<'_> {
    const RESULT: &'static str = "the vectors";

    fn trunk(&self) -> &Trunk {
        &self.model.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        let (trunk, last) = (&self.model.trunk, self.model.config().layers.len());
        match self.options.layer {
            Some(layer) if layer < last => trunk.trace_layers(batch, layer)?,
            _ => trunk.trace(batch)?,
        };
        let dtype = trunk.backend().dtype();
        let mut look = |(number, class): (usize, &str), vectors: &Hidden| {
            let place = || match self.model.chain {
                Some(_) => format!("module {number} of the chain ({class})"),
                None => "the pooling".to_owned(),
            };
            finite::check(place, vectors.states(), dtype)
        };
        match self.result {
            Asked::Pooled => self.model.vectors(batch, self.options, &mut look).map(drop),
            Asked::Tokens => Ok(()),
            Asked::Scores => self.model.scored(batch, self.options.skip.as_deref(), &mut look).map(drop),
        }
    }
}

/// Refuses a chain that is no SPLADE.
pub(super) fn check_splade(files: &ModelFiles, chain: Option<&Chain>) -> Result<()> {
    match chain.is_some_and(|chain| chain.is_sparse() && chain.scores_vocabulary()) {
        true => Ok(()),
        false => Err(Error::Unsupported(format!(
            "SPLADE with {}: its {MODULES} describes another kind of model",
            files.name()
        ))),
    }
}
