//! Span models (GLiNER): every span of a text's words is scored against every label.
//!
//! A span's vector is an MLP of its first and its last word, a label's is an MLP of the label; the logit is their
//! product. Three things are rearranged. The span's MLP begins with a matrix on both words side by side, which is two
//! matrices on one word each, so that it runs once per word instead of once per span. It ends with a matrix of which
//! only products with labels are wanted, so that it is multiplied into the labels once instead of with every span. And
//! only spans that lie inside their text are computed.

use std::ops::Range;

use candle_core::Tensor;

use super::lstm::BiLstm;
use crate::{
    Backend, Config, Error, PackedBatch, Pooling, Result, Trunk,
    files::ModelFiles,
    finite::Traced,
    gliner::{GlinerConfig, LabelPrompt, LabelSide, SubtokenPooling},
    metadata::ADAPTER_CONFIG,
    ops::{self, Hidden, Linear, LinearParams, Matrix, Vector},
    params::{self, Parameters},
    weights::{Head, Weights},
};

/// Spans that are multiplied with the labels at a time: their rows stay in the cache.
const SPANS_AT_A_TIME: usize = 256;

/// A trunk with a head that scores spans of words against labels.
#[derive(Debug)]
pub struct SpanModel {
    trunk: Trunk,
    config: GlinerConfig,
    projection: Option<Linear>,
    rnn: Option<BiLstm>,
    start: Mlp,
    end: Mlp,
    span: SpanLayer,
    label: Mlp,
    label_encoder: Option<LabelEncoder>,
}

/// `W₂ · relu(W₁ x + b₁) + b₂`.
#[derive(Debug)]
struct Mlp {
    first: Linear,
    second: Linear,
}

/// The MLP of spans, taken apart.
#[derive(Debug)]
struct SpanLayer {
    /// The first matrix's part for the first word, `[inner, size]`, without the bias.
    of_start: Linear,
    /// Its part for the last word, with the bias.
    of_end: Linear,
    /// The second matrix turned round, `[inner, size]`: what labels are multiplied with.
    of_label: Linear,
    /// The second bias, `[size]`.
    bias: Vec<f32>,
    inner: usize,
}

/// What encodes labels.
#[derive(Debug)]
struct LabelEncoder {
    trunk: Trunk,
    projection: Option<Linear>,
}

/// Labels as spans are multiplied with them.
#[derive(Debug)]
pub(crate) struct LabelMatrix {
    /// `[labels, inner]`.
    linear: Linear,
    /// `[labels]`.
    bias: Vec<f32>,
}

/// A text in a batch; rows count from the first of its sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpanText<'a> {
    /// The tokens of each word.
    pub(crate) words: &'a [Range<usize>],
    /// The row of each label that stands before the text; none where labels are encoded apart.
    pub(crate) labels: &'a [usize],
}

impl SpanModel {
    /// Loads the span model that `files` hold, as gliner saves it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models and kinds of GLiNER that are not run; [`Error::Config`] for a configuration
    /// that cannot be; [`Error::Tensors`] for tensors that are missing or of another shape.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        let Some(config) = GlinerConfig::load(files)? else {
            return Err(no_spans(files));
        };
        if files.adapter_names().next().is_some() || files.peek(ADAPTER_CONFIG)?.is_some() {
            let message = format!("an adapter on the GLiNER model {}: merge it with PEFT first", files.name());
            return Err(Error::Unsupported(message));
        }
        let weights = Weights::open(files)?;
        let trunk = trunk(&weights, "token_rep_layer.bert_layer.model.", &config.encoder, backend)?;
        let size = config.size;
        let project = |name: &str, from: usize| -> Result<Option<Linear>> {
            (from != size).then(|| layer(&weights, name, [size, from], backend)).transpose()
        };
        let projection = project("token_rep_layer.projection", config.encoder.hidden_size)?;
        let label_encoder = match &config.labels {
            LabelSide::Encoder(own) => Some(LabelEncoder {
                trunk: self::trunk(&weights, "token_rep_layer.labels_encoder.model.", own, backend)?,
                projection: project("token_rep_layer.labels_projection", own.hidden_size)?,
            }),
            _ => None,
        };
        let rnn = match &config.labels {
            // A bidirectional layer gives half of its values in each direction.
            LabelSide::Prompt(LabelPrompt { rnn_layers: 1.., .. }) if !size.is_multiple_of(2) => {
                let message = format!("`hidden_size` is {size}; a model with an LSTM needs an even number");
                return Err(Error::Config { file: crate::gliner::GLINER_CONFIG.to_owned(), message });
            }
            LabelSide::Prompt(LabelPrompt { rnn_layers: layers @ 1.., .. }) => {
                Some(BiLstm::load(&weights, *layers, size, backend)?)
            }
            _ => None,
        };
        let mlp = |name: &str| Mlp::load(&weights, name, size, backend);
        Ok(Self {
            trunk,
            projection,
            rnn,
            start: mlp("span_rep_layer.span_rep_layer.project_start")?,
            end: mlp("span_rep_layer.span_rep_layer.project_end")?,
            span: SpanLayer::load(&weights, "span_rep_layer.span_rep_layer.out_project", size, backend)?,
            label: mlp("prompt_rep_layer")?,
            label_encoder,
            config,
        })
    }

    /// The layers that read texts.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// Their configuration.
    pub fn config(&self) -> &Config {
        self.trunk.config()
    }

    /// The most words of a span.
    pub fn max_width(&self) -> usize {
        self.config.max_width
    }

    /// The most words of a text.
    pub fn max_words(&self) -> usize {
        self.config.max_words
    }

    /// Values of a label's vector.
    pub fn label_size(&self) -> usize {
        self.config.size
    }

    /// How labels become vectors.
    pub(crate) fn labels(&self) -> &LabelSide {
        &self.config.labels
    }

    /// The trunk that encodes labels, where the model has one of this architecture.
    pub fn label_trunk(&self) -> Option<&Trunk> {
        self.label_encoder.as_ref().map(|encoder| &encoder.trunk)
    }

    /// The vectors of encoded labels, `[sequences, label size]`, as gliner's `encode_labels` gives them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without an encoder of labels that is run; failures of the engine.
    pub fn label_vectors(&self, batch: &PackedBatch) -> Result<Tensor> {
        let Some(LabelEncoder { trunk, projection }) = &self.label_encoder else {
            return Err(Error::Unsupported("encoded labels of a model that has no encoder of labels".to_owned()));
        };
        let pooled = Pooling::Mean.pool(&trunk.forward(batch)?, batch, None)?;
        project(pooled, projection.as_ref())?.to_tensor()
    }

    /// Labels, by vectors of [`label_size`](Self::label_size) values each, as spans are multiplied with them.
    pub(crate) fn label_matrix(&self, vectors: &Hidden) -> Result<LabelMatrix> {
        let labels = self.label.forward(vectors)?;
        let size = self.config.size;
        let bias = values(&labels)?.chunks_exact(size).map(|label| dot(label, &self.span.bias)).collect();
        let inner = ops::linear(&labels, &self.span.of_label)?.to_tensor()?;
        let params = LinearParams { weight: Matrix::Tensor(inner), bias: None };
        Ok(LabelMatrix { linear: self.trunk.backend().linear(params)?, bias })
    }

    /// The logits of a batch's spans: of each text by first word, then by width, then by label. Labels that stand
    /// before the texts have no matrix of their own.
    pub(crate) fn logits(
        &self,
        batch: &PackedBatch,
        texts: &[SpanText<'_>],
        labels: Option<&LabelMatrix>,
    ) -> Result<Vec<Vec<f32>>> {
        let tokens = self.trunk.forward(batch)?;
        let mut logits = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let first = batch.rows(index).start;
            let mut words = self.words(&tokens, first, text.words)?;
            if let Some(rnn) = &self.rnn {
                words = rnn.forward(words)?;
            }
            logits.push(match labels {
                Some(labels) => self.spans(&words, labels)?,
                None => {
                    let rows: Vec<usize> = text.labels.iter().map(|row| first + row).collect();
                    let vectors = project(tokens.select(&rows)?, self.projection.as_ref())?;
                    self.spans(&words, &self.label_matrix(&vectors)?)?
                }
            });
        }
        Ok(logits)
    }

    /// One vector per word, `[words, size]`.
    fn words(&self, tokens: &Hidden, first: usize, words: &[Range<usize>]) -> Result<Hidden> {
        let rows: Vec<usize> = match self.config.pooling {
            SubtokenPooling::First => words.iter().map(|word| first + word.start).collect(),
            SubtokenPooling::Last => words.iter().map(|word| first + word.end - 1).collect(),
            SubtokenPooling::Mean | SubtokenPooling::Max => {
                words.iter().flat_map(|word| first + word.start..first + word.end).collect()
            }
        };
        let vectors = project(tokens.select(&rows)?, self.projection.as_ref())?;
        let size = self.config.size;
        let reduce = match self.config.pooling {
            SubtokenPooling::First | SubtokenPooling::Last => return Ok(vectors),
            SubtokenPooling::Mean => mean,
            SubtokenPooling::Max => largest,
        };
        let device = vectors.to_tensor()?.device().clone();
        let vectors = values(&vectors)?;
        let mut rest = &vectors[..];
        let mut pooled = Vec::with_capacity(words.len() * size);
        for word in words {
            let (own, others) = rest.split_at(word.len() * size);
            pooled.extend(reduce(own, size));
            rest = others;
        }
        Ok(Hidden::new(Tensor::from_vec(pooled, (words.len(), size), &device)?))
    }

    /// The logits of one text's spans.
    fn spans(&self, words: &Hidden, labels: &LabelMatrix) -> Result<Vec<f32>> {
        let device = words.to_tensor()?.device().clone();
        let (count, inner) = (words.rows(), self.span.inner);
        let of = |mlp: &Mlp, part: &Linear| values(&ops::linear(&relu(&mlp.forward(words)?)?, part)?);
        let (starts, ends) = (of(&self.start, &self.span.of_start)?, of(&self.end, &self.span.of_end)?);
        let spans: Vec<(usize, usize)> = spans(count, self.config.max_width).collect();
        let mut logits = Vec::with_capacity(spans.len() * labels.bias.len());
        for spans in spans.chunks(SPANS_AT_A_TIME) {
            let mut rows = Vec::with_capacity(spans.len() * inner);
            for &(start, end) in spans {
                let both = starts[start * inner..][..inner].iter().zip(&ends[end * inner..][..inner]);
                rows.extend(both.map(|(start, end)| above_zero(start + end)));
            }
            let rows = Hidden::new(Tensor::from_vec(rows, (spans.len(), inner), &device)?);
            let products = values(&ops::linear(&rows, &labels.linear)?)?;
            for row in products.chunks_exact(labels.bias.len()) {
                logits.extend(row.iter().zip(&labels.bias).map(|(product, bias)| product + bias));
            }
        }
        Ok(logits)
    }
}

/// First and last words of the spans of a text, in the order of their logits.
pub(crate) fn spans(words: usize, max_width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..words).flat_map(move |start| (start..words.min(start + max_width)).map(move |end| (start, end)))
}

/// The refusal of a model of another kind.
fn no_spans(files: &ModelFiles) -> Error {
    Error::Unsupported(format!(
        "extract needs a GLiNER model, and {} is none: it has no {}",
        files.name(),
        crate::gliner::GLINER_CONFIG
    ))
}

/// One of the trunks in a file.
pub(super) fn trunk(weights: &Weights, prefix: &str, config: &Config, backend: &Backend) -> Result<Trunk> {
    let part = weights.part(prefix);
    let parameters = Parameters::from_weights(&part, config, Head::None).map_err(|error| match error {
        Error::Tensors { file, message } => Error::Tensors { file, message: format!("behind `{prefix}`: {message}") },
        error => error,
    })?;
    let backend = backend.for_stored(parameters.quantization);
    Trunk::build(parameters, config, &backend)
}

/// A dense layer of a file, by the names of its two tensors.
pub(super) fn linear(weights: &Weights, names: [&str; 2], shape: [usize; 2], backend: &Backend) -> Result<Linear> {
    let weight = weights.require(names[0], &shape)?;
    let bias = weights.require(names[1], &shape[..1])?;
    backend.linear(params::dense(weights, weight, Some(bias)))
}

pub(super) fn layer(weights: &Weights, name: &str, shape: [usize; 2], backend: &Backend) -> Result<Linear> {
    linear(weights, [&format!("{name}.weight"), &format!("{name}.bias")], shape, backend)
}

impl Mlp {
    /// From `size` values to as many, over four times as many.
    fn load(weights: &Weights, name: &str, size: usize, backend: &Backend) -> Result<Self> {
        Ok(Self {
            first: layer(weights, &format!("{name}.0"), [4 * size, size], backend)?,
            second: layer(weights, &format!("{name}.3"), [size, 4 * size], backend)?,
        })
    }

    fn forward(&self, rows: &Hidden) -> Result<Hidden> {
        ops::linear(&relu(&ops::linear(rows, &self.first)?)?, &self.second)
    }
}

impl SpanLayer {
    fn load(weights: &Weights, name: &str, size: usize, backend: &Backend) -> Result<Self> {
        let inner = 4 * size;
        let first = weights.require(&format!("{name}.0.weight"), &[inner, 2 * size])?.to_f32();
        let first_bias = weights.require(&format!("{name}.0.bias"), &[inner])?.to_f32();
        let second = weights.require(&format!("{name}.3.weight"), &[size, inner])?.to_f32();
        let half = |from: usize, bias: Option<Vec<f32>>| {
            let first = &first;
            let fill = move |row: usize, out: &mut [f32]| out.copy_from_slice(&first[row * 2 * size + from..][..size]);
            let weight = Matrix::Rows { outputs: inner, inputs: size, fill: Box::new(fill) };
            backend.linear(LinearParams { weight, bias: bias.map(Vector::Values) })
        };
        let turned = |row: usize, out: &mut [f32]| {
            out.iter_mut().zip(second.iter().skip(row).step_by(inner)).for_each(|(out, value)| *out = *value);
        };
        let turned = Matrix::Rows { outputs: inner, inputs: size, fill: Box::new(turned) };
        Ok(Self {
            of_start: half(0, None)?,
            of_end: half(size, Some(first_bias))?,
            of_label: backend.linear(LinearParams { weight: turned, bias: None })?,
            bias: weights.require(&format!("{name}.3.bias"), &[size])?.to_f32(),
            inner,
        })
    }
}

fn project(rows: Hidden, projection: Option<&Linear>) -> Result<Hidden> {
    match projection {
        Some(projection) => ops::linear(&rows, projection),
        None => Ok(rows),
    }
}

/// All values, row by row.
pub(super) fn values(rows: &Hidden) -> Result<Vec<f32>> {
    Ok(rows.to_tensor()?.flatten_all()?.to_vec1::<f32>()?)
}

/// What is above zero; what is no number stays so.
pub(super) fn relu(rows: &Hidden) -> Result<Hidden> {
    let tensor = rows.to_tensor()?;
    let values: Vec<f32> = values(rows)?.into_iter().map(above_zero).collect();
    Ok(Hidden::new(Tensor::from_vec(values, tensor.dims2()?, tensor.device())?))
}

/// The value, or 0 where it is less; what is no number stays so.
fn above_zero(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

fn mean(rows: &[f32], size: usize) -> Vec<f32> {
    let mut sum = vec![0.0; size];
    for row in rows.chunks_exact(size) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let count = (rows.len() / size) as f32;
    sum.iter_mut().for_each(|sum| *sum /= count);
    sum
}

fn largest(rows: &[f32], size: usize) -> Vec<f32> {
    let mut largest = rows[..size].to_vec();
    for row in rows[size..].chunks_exact(size) {
        let larger = |best: &mut f32, value: f32| {
            if value > *best || value.is_nan() {
                *best = value;
            }
        };
        largest.iter_mut().zip(row).for_each(|(best, value)| larger(best, *value));
    }
    largest
}

impl Traced for SpanModel {
    const RESULT: &'static str = "the scores of spans";

    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trace(&self, batch: &PackedBatch) -> Result<()> {
        self.trunk.trace(batch).map(drop)
    }
}
