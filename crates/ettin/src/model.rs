//! The architecture: one network for encoders and decoders.
//!
//! Ettin's paired models (arXiv 2507.11412) are ModernBERT (arXiv 2412.13663) trained twice; an encoder and a decoder
//! differ only in the [`Span`](crate::Span) of each layer, which is data in the [`Config`]. Read top to bottom: the
//! embedding, the layer, the head, the network. What a block computes is said in plain tensor code by
//! `ops/reference.rs`; every other [`Compute`] gives the same numbers another way.

mod erased;
mod fit;

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Config, Error, PackedBatch, Result,
    config::LayerSpec,
    ops::{
        AttentionParams, Caches, Compute, HeadParams, LayerKv, Matrix, MlpParams, NormParams, States, Vector,
        Vocabulary, check_rows, refuse_training,
    },
    readout::TopTokens,
    tensors::{HeadTensors, LayerTensors, Leaf, ModelTensors, NormTensors},
};

pub(crate) use erased::ErasedModel;
use fit::fits;

/// Token vectors, normalised; there are no position embeddings.
#[derive(Debug)]
struct TokenEmbeddings<C: Compute> {
    tokens: C::Embedding,
    norm: C::Norm,
}

/// One prenorm transformer layer.
#[derive(Debug)]
struct Layer<C: Compute> {
    attention: C::Attention,
    mlp: C::Mlp,
}

impl<C: Compute> Layer<C> {
    fn forward(
        &self,
        compute: &C,
        hidden: &mut C::Hidden,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, C::Kv>>,
    ) -> Result<()> {
        compute.attention_block(hidden, &self.attention, batch, cache)?;
        compute.mlp_block(hidden, &self.mlp)
    }
}

/// What stands on the trunk: a prediction head with an output matrix over the vocabulary (a language model) or over
/// labels (a classifier), or nothing.
#[derive(Debug)]
struct NetworkHead<C: Compute> {
    prediction: Option<C::PredictionHead>,
    /// `None` when the output matrix is the embedding.
    output: Option<C::Embedding>,
    bias: Option<C::Bias>,
    classifier: Option<C::Linear>,
}

/// Embedding, layers, final norm and head: token ids to hidden states, and to scores.
#[derive(Debug)]
pub(crate) struct Network<C: Compute> {
    compute: Arc<C>,
    embeddings: TokenEmbeddings<C>,
    layers: Vec<Layer<C>>,
    final_norm: C::Norm,
    head: NetworkHead<C>,
    /// Weights of a layer, and of the output matrix over the vocabulary.
    layer_weights: usize,
    output_weights: usize,
    vocabulary: usize,
}

impl<C: Compute> Network<C> {
    /// Final hidden states of whole sequences, `[tokens, hidden]`; of fewer `layers` than there are, the residual
    /// stream behind the last of them.
    pub(crate) fn forward(&self, batch: &PackedBatch, layers: usize) -> Result<C::Hidden> {
        let count = layers.min(self.layers.len());
        self.compute.enter(batch.tokens(), count * self.layer_weights, || {
            let mut hidden = self.embed(batch)?;
            for layer in &self.layers[..count] {
                layer.forward(&self.compute, &mut hidden, batch, None)?;
            }
            if count < self.layers.len() { Ok(hidden) } else { self.normalize(&hidden) }
        })
    }

    /// Final hidden states of the next tokens of sequences that `caches` hold the beginnings of, `[tokens, hidden]`.
    pub(crate) fn step(&self, batch: &PackedBatch, caches: &mut dyn Caches<C::Kv>) -> Result<C::Hidden> {
        self.compute.enter(batch.tokens(), self.layers.len() * self.layer_weights, || {
            let mut hidden = self.embed(batch)?;
            for (index, layer) in self.layers.iter().enumerate() {
                layer.forward(&self.compute, &mut hidden, batch, Some(LayerKv::new(caches, index)))?;
            }
            self.normalize(&hidden)
        })
    }

    /// Scores over the vocabulary of some rows of what a step gives; `out` is replaced.
    pub(crate) fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut dyn Caches<C::Kv>,
        rows: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let output = if rows.is_empty() { 0 } else { self.output_weights };
        self.compute.enter(batch.tokens(), self.layers.len() * self.layer_weights + output, || {
            let hidden = self.step(batch, caches)?;
            if rows.is_empty() {
                out.clear();
                return Ok(());
            }
            let predicted = self.predict_rows(&hidden, rows)?;
            self.compute.logits_into(&predicted, self.output(), self.head.bias.as_ref(), out)
        })
    }

    /// Shows the residual stream after the embedding, which is number 0, and after every layer.
    pub(crate) fn walk(
        &self,
        batch: &PackedBatch,
        show: &mut dyn FnMut(usize, &dyn States) -> Result<()>,
    ) -> Result<C::Hidden> {
        let mut hidden = self.embed(batch)?;
        show(0, &hidden)?;
        for (number, layer) in (1..).zip(&self.layers) {
            layer.forward(&self.compute, &mut hidden, batch, None)?;
            show(number, &hidden)?;
        }
        Ok(hidden)
    }

    /// One layer alone, on a residual stream of whole sequences, `[tokens, hidden]`.
    pub(crate) fn layer(&self, index: usize, residual: &C::Hidden, batch: &PackedBatch) -> Result<C::Hidden> {
        let count = self.layers.len();
        let layer = self.layers.get(index);
        let layer = layer.ok_or_else(|| Error::input(format!("layer {index} was asked of a model with {count}")))?;
        self.check_unseen(batch)?;
        self.compute.enter(batch.tokens(), self.layer_weights, || {
            let mut hidden = residual.select(&(0..residual.rows()).collect::<Vec<_>>())?;
            layer.forward(&self.compute, &mut hidden, batch, None)?;
            Ok(hidden)
        })
    }

    /// Starts the residual stream, `[tokens, hidden]`.
    fn embed(&self, batch: &PackedBatch) -> Result<C::Hidden> {
        self.check_unseen(batch)?;
        self.compute.embed(&self.embeddings.tokens, &self.embeddings.norm, batch)
    }

    /// Refuses rows that are no keys where attention would see them.
    fn check_unseen(&self, batch: &PackedBatch) -> Result<()> {
        if batch.unseen().is_empty() || self.compute.hides_keys() {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "rows that no other row sees (the expansion of queries) on {}; compute on the cpu",
            self.compute.describe()
        )))
    }

    /// Ends it.
    pub(crate) fn normalize(&self, hidden: &C::Hidden) -> Result<C::Hidden> {
        self.compute.apply_norm(hidden, &self.final_norm)
    }

    /// The prediction head on final hidden states.
    pub(crate) fn predict(&self, hidden: &C::Hidden) -> Result<C::Hidden> {
        let head = self.head.prediction.as_ref().ok_or_else(|| missing("prediction head"))?;
        self.compute.apply_head(hidden, head)
    }

    /// The same on some rows.
    pub(crate) fn predict_rows(&self, hidden: &C::Hidden, rows: &[usize]) -> Result<C::Hidden> {
        check_rows(rows, hidden.rows())?;
        self.predict(&hidden.select(rows)?)
    }

    /// Scores over the vocabulary, `[rows, vocabulary]`.
    pub(crate) fn logits(&self, hidden: &C::Hidden, rows: &[usize]) -> Result<Tensor> {
        let predicted = self.predict_rows(hidden, rows)?;
        self.compute.logits(&predicted, self.output(), self.head.bias.as_ref())
    }

    /// The best tokens at some rows of final hidden states.
    pub(crate) fn top_k(&self, hidden: &C::Hidden, rows: &[usize], k: usize) -> Result<Vec<TopTokens>> {
        check_rows(rows, hidden.rows())?;
        let vocabulary = self.vocabulary()?;
        self.compute.enter(rows.len(), self.output_weights, || self.compute.top_k(hidden, &vocabulary, rows, k))
    }

    /// Log-probabilities of tokens at rows of final hidden states.
    pub(crate) fn log_probs(&self, hidden: &C::Hidden, targets: &[(usize, u32)]) -> Result<Vec<f32>> {
        let vocabulary = self.vocabulary()?;
        vocabulary.check(targets, hidden.rows())?;
        let work = || self.compute.log_probs(hidden, &vocabulary, targets);
        self.compute.enter(targets.len(), self.output_weights, work)
    }

    /// The weights of learned sparse retrieval, `[sequences, vocabulary]`.
    pub(crate) fn splade(&self, hidden: &C::Hidden, batch: &PackedBatch) -> Result<Tensor> {
        let vocabulary = self.vocabulary()?;
        let work = || self.compute.splade(hidden, &vocabulary, batch);
        self.compute.enter(batch.tokens(), self.output_weights, work)
    }

    /// The same with sums in the place of maxima.
    pub(crate) fn splade_sum(&self, hidden: &C::Hidden, batch: &PackedBatch, twice: bool) -> Result<Tensor> {
        let vocabulary = self.vocabulary()?;
        let work = || self.compute.splade_sum(hidden, &vocabulary, batch, twice);
        self.compute.enter(batch.tokens(), self.output_weights, work)
    }

    /// What turns final hidden states into scores over the vocabulary.
    fn vocabulary(&self) -> Result<Vocabulary<'_, C>> {
        Ok(Vocabulary {
            head: self.head.prediction.as_ref().ok_or_else(|| missing("prediction head"))?,
            output: self.output(),
            bias: self.head.bias.as_ref(),
            size: self.vocabulary,
        })
    }

    /// Scores of labels, `[rows, labels]`.
    pub(crate) fn classify(&self, hidden: &C::Hidden) -> Result<Tensor> {
        let classifier = self.head.classifier.as_ref().ok_or_else(|| missing("classifier"))?;
        self.compute.apply_linear(&self.predict(hidden)?, classifier)?.to_tensor()
    }

    /// The output matrix over the vocabulary.
    fn output(&self) -> &C::Embedding {
        self.head.output.as_ref().unwrap_or(&self.embeddings.tokens)
    }
}

fn missing(part: &str) -> Error {
    Error::input(format!("these parameters have no {part}"))
}

impl<C: Compute> Network<C> {
    /// Builds every block, in the order that a forward reads weights in (from the head on, round and round).
    ///
    /// # Errors
    /// When a tensor is missing or mis-shaped, when a block cannot be built, or is to be trained where it cannot be.
    pub(crate) fn build(tensors: ModelTensors<Matrix<'_>, Vector>, config: &Config, compute: Arc<C>) -> Result<Self> {
        fits(&tensors, config)?;
        refuse_training(&*compute, is_trainable(&tensors))?;
        let norm = |norm: NormTensors<Vector>| norm_params(norm, config);
        let head = NetworkHead {
            prediction: tensors.head.map(|head| compute.prediction_head(head_params(head, config))).transpose()?,
            output: tensors.output.map(|matrix| compute.embedding(matrix)).transpose()?,
            bias: tensors.output_bias.map(|bias| compute.bias(bias)).transpose()?,
            classifier: tensors.classifier.map(|linear| compute.linear(linear)).transpose()?,
        };
        let embeddings = TokenEmbeddings {
            tokens: compute.embedding(tensors.embedding)?,
            norm: compute.norm(norm(tensors.embedding_norm))?,
        };
        let layers = tensors.layers.into_iter().zip(&config.layers).map(|(layer, spec)| {
            let (attention, mlp) = layer_params(layer, spec, config);
            Ok(Layer { attention: compute.attention(attention)?, mlp: compute.mlp(mlp)? })
        });
        let Config { hidden_size: hidden, intermediate_size: inner, vocab_size: vocabulary, .. } = *config;
        Ok(Self {
            embeddings,
            layers: layers.collect::<Result<_>>()?,
            final_norm: compute.norm(norm(tensors.final_norm))?,
            head,
            layer_weights: hidden * (4 * hidden + 3 * inner),
            output_weights: vocabulary * hidden,
            vocabulary,
            compute,
        })
    }
}

/// Whether an optimiser means to change any of them.
fn is_trainable(tensors: &ModelTensors<Matrix<'_>, Vector>) -> bool {
    tensors.named().iter().any(|(_, tensor)| match tensor {
        Leaf::Matrix(matrix) => matrix.is_trainable(),
        Leaf::Vector(vector) => vector.is_trainable(),
    })
}

fn norm_params(norm: NormTensors<Vector>, config: &Config) -> NormParams {
    NormParams { weight: norm.weight, bias: norm.bias, eps: config.norm_eps }
}

fn head_params<'a>(head: HeadTensors<Matrix<'a>, Vector>, config: &Config) -> HeadParams<'a> {
    HeadParams { dense: head.dense, activation: config.classifier_activation, norm: norm_params(head.norm, config) }
}

fn layer_params<'a>(
    layer: LayerTensors<Matrix<'a>, Vector>,
    spec: &LayerSpec,
    config: &Config,
) -> (AttentionParams<'a>, MlpParams<'a>) {
    let attention = AttentionParams {
        norm: layer.attention_norm.map(|norm| norm_params(norm, config)),
        qkv: layer.qkv,
        out: layer.attention_output,
        heads: config.num_heads,
        head_dim: config.head_dim(),
        span: spec.span,
        rope_theta: spec.rope_theta,
        max_positions: config.max_position_embeddings,
    };
    let mlp = MlpParams {
        norm: norm_params(layer.mlp_norm, config),
        wi: layer.wi,
        wo: layer.wo,
        activation: config.hidden_activation,
    };
    (attention, mlp)
}
