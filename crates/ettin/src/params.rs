//! A model's parameters by role, on their way into blocks: from a checkpoint, or from candle's variables for training.

mod random;

use candle_nn::VarBuilder;
use ettin_kernels::{Quantisation, QuantisedRow};

use crate::{
    Config, Error, Result,
    config::Objective,
    ops::{AttentionParams, HeadParams, LinearParams, Matrix, MlpParams, NormParams, StoredRows, TableParams, Vector},
    weights::{self, Head, Report, Stack, View, Weights},
};

/// Everything that a model is built from.
///
/// From a checkpoint, matrices are read row by row straight out of its bytes when their block is built. From a
/// [`VarBuilder`] they are its variables, for the differentiable reference path. Without either they can be
/// [random](Parameters::random).
pub struct Parameters<'a> {
    /// `[vocabulary, hidden]`.
    pub(crate) embeddings: TableParams<'a>,
    pub(crate) embedding_norm: NormParams,
    pub(crate) layers: Vec<(AttentionParams<'a>, MlpParams<'a>)>,
    pub(crate) final_norm: NormParams,
    pub(crate) head: Option<HeadParams<'a>>,
    /// `[vocabulary, hidden]`; absent when it is the embedding's matrix.
    pub(crate) output: Option<Matrix<'a>>,
    /// `[vocabulary]`.
    pub(crate) output_bias: Option<Vector>,
    pub(crate) classifier: Option<LinearParams<'a>>,
    /// How matrices are quantised, where they are stored in few bits.
    pub(crate) quantisation: Option<Quantisation>,
    pub(crate) report: Report,
}

impl<'a> Parameters<'a> {
    /// The tensors of a checkpoint, checked against `config`; those of `head` besides the trunk's.
    ///
    /// # Errors
    /// [`Error::Tensors`] naming every tensor that is missing, mis-shaped or of an unsupported dtype.
    pub fn from_weights(weights: &'a Weights, config: &Config, head: Head) -> Result<Self> {
        let checkpoint = weights.checkpoint(config, head)?;
        let matrix = |weight| matrix(Source { weights, weight });
        let linear = |linear| linear_from(weights, linear);
        let norm = |norm: weights::Norm<'_>| NormParams {
            weight: Vector::Values(norm.weight.to_f32()),
            bias: norm.bias.map(|bias| Vector::Values(bias.to_f32())),
            eps: config.norm_eps,
        };
        let layers = checkpoint.layers.into_iter().zip(&config.layers).map(|(layer, spec)| {
            let attention = AttentionParams {
                norm: layer.attention_norm.map(norm),
                qkv: linear(layer.qkv),
                out: linear(layer.attention_output),
                heads: config.num_heads,
                head_dim: config.head_dim(),
                span: spec.span,
                rope_theta: spec.rope_theta,
                max_positions: config.max_position_embeddings,
            };
            let mlp = MlpParams {
                norm: norm(layer.mlp_norm),
                wi: linear(layer.mlp_input),
                wo: linear(layer.mlp_output),
                activation: config.hidden_activation,
            };
            (attention, mlp)
        });
        let output = checkpoint.head.as_ref().and_then(|head| head.output.as_ref());
        let tied = output.is_some_and(|output| output.weight.is_none());
        let mut parameters = Self {
            embeddings: table(weights, checkpoint.embeddings, tied),
            embedding_norm: norm(checkpoint.embedding_norm),
            layers: layers.collect(),
            final_norm: norm(checkpoint.final_norm),
            head: None,
            output: None,
            output_bias: None,
            classifier: None,
            quantisation: weights.quantisation(),
            report: checkpoint.report,
        };
        if let Some(head) = checkpoint.head {
            parameters.head = Some(HeadParams {
                dense: linear(head.dense),
                activation: config.classifier_activation,
                norm: norm(head.norm),
            });
            parameters.classifier = head.classifier.map(linear);
            if let Some(output) = head.output {
                if let (None, Some(tied)) = (&output.weight, weights.get("decoder.weight")) {
                    // Read only to be compared with the embedding.
                    weights.release(&tied);
                }
                parameters.output = output.weight.map(|weight| matrix(weight.into()));
                parameters.output_bias = output.bias.map(|bias| Vector::Values(bias.to_f32()));
            }
        }
        Ok(parameters)
    }

    /// Variables under the names that transformers gives an encoder or a decoder, with query, key and value always in one
    /// `attn.Wqkv`; they must live on the device of a [reference](crate::Backend::reference) backend.
    ///
    /// # Errors
    /// When a variable is missing or has another shape than `config` says.
    pub fn from_variables(variables: VarBuilder<'a>, config: &Config, head: Head) -> Result<Self> {
        let reader = Variables { variables, config };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let layers = config.layers.iter().enumerate().map(|(index, spec)| {
            let layer = reader.at(&format!("model.layers.{index}"));
            let attention = AttentionParams {
                norm: (index > 0).then(|| layer.norm("attn_norm")).transpose()?,
                qkv: layer.linear("attn.Wqkv", 3 * hidden, hidden, config.attention_bias)?,
                out: layer.linear("attn.Wo", hidden, hidden, config.attention_bias)?,
                heads: config.num_heads,
                head_dim: config.head_dim(),
                span: spec.span,
                rope_theta: spec.rope_theta,
                max_positions: config.max_position_embeddings,
            };
            let mlp = MlpParams {
                norm: layer.norm("mlp_norm")?,
                wi: layer.linear("mlp.Wi", 2 * inner, hidden, config.mlp_bias)?,
                wo: layer.linear("mlp.Wo", hidden, inner, config.mlp_bias)?,
                activation: config.hidden_activation,
            };
            Ok((attention, mlp))
        });
        let mut parameters = Self {
            embeddings: TableParams::Matrix(
                reader.matrix("model.embeddings.tok_embeddings.weight", config.vocab_size)?,
            ),
            embedding_norm: reader.norm("model.embeddings.norm")?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: reader.norm("model.final_norm")?,
            head: None,
            output: None,
            output_bias: None,
            classifier: None,
            quantisation: None,
            report: Report::default(),
        };
        let language = head == Head::Language;
        if head != Head::None {
            let decoder = config.objective == Objective::Decoder;
            let head = reader.at(if language && decoder { "lm_head" } else { "head" });
            parameters.head = Some(HeadParams {
                dense: head.linear("dense", hidden, hidden, config.classifier_bias)?,
                activation: config.classifier_activation,
                norm: head.norm("norm")?,
            });
        }
        if language && !config.tie_word_embeddings {
            parameters.output = Some(reader.matrix("decoder.weight", config.vocab_size)?);
        }
        if language && config.decoder_bias {
            parameters.output_bias = Some(reader.vector("decoder.bias", config.vocab_size)?);
        }
        if let Head::Classifier { outputs } = head {
            let bias = config.classifier_has_bias();
            parameters.classifier = Some(reader.linear("classifier", outputs, hidden, bias)?);
        }
        Ok(parameters)
    }

    /// What the loading noticed and did not refuse.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// A stored matrix that is read once: when it is dropped, the pages of the file that held it are given back.
struct Source<'a> {
    weights: &'a Weights,
    weight: Stack<'a>,
}

impl<'a> Source<'a> {
    fn row(&self, row: usize, out: &mut [f32]) {
        self.weight.row(row, out);
    }

    fn quantised_row(&self, quantisation: Quantisation, row: usize) -> QuantisedRow<'a> {
        self.weight.quantised_row(quantisation, row)
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        for part in self.weight.parts() {
            self.weights.release(part);
        }
    }
}

fn matrix(source: Source<'_>) -> Matrix<'_> {
    let (outputs, inputs) = (source.weight.rows(), source.weight.columns());
    match source.weight.quantisation() {
        Some(quantisation) => {
            let row = move |row: usize| source.quantised_row(quantisation, row);
            Matrix::Quantised { quantisation, outputs, inputs, row: Box::new(row) }
        }
        None => Matrix::Rows { outputs, inputs, fill: Box::new(move |row, out| source.row(row, out)) },
    }
}

/// The embedding, which stays in its file unless it is `multiplied` by.
fn table<'a>(weights: &'a Weights, embeddings: View<'a>, multiplied: bool) -> TableParams<'a> {
    match weights.keep(&embeddings) {
        Some(kept) if !multiplied => TableParams::Stored(StoredRows {
            quantisation: embeddings.dtype().quantisation(),
            outputs: embeddings.rows(),
            inputs: embeddings.columns(),
            fill: Box::new(move |row, out| kept.view().row(row, out)),
        }),
        _ => TableParams::Matrix(matrix(Source { weights, weight: embeddings.into() })),
    }
}

fn linear_from<'a>(weights: &'a Weights, linear: weights::Linear<'a>) -> LinearParams<'a> {
    LinearParams {
        bias: linear.bias.map(|bias| Vector::Values(bias.to_f32())),
        weight: matrix(Source { weights, weight: linear.weight }),
    }
}

/// A dense layer from two stored tensors of `weights`.
pub(crate) fn dense<'a>(weights: &'a Weights, weight: View<'a>, bias: Option<View<'a>>) -> LinearParams<'a> {
    linear_from(weights, weights::Linear { weight: weight.into(), bias: bias.map(Into::into) })
}

/// Variables below a prefix.
struct Variables<'a, 'c> {
    variables: VarBuilder<'a>,
    config: &'c Config,
}

impl<'a> Variables<'a, '_> {
    fn at(&self, prefix: &str) -> Self {
        Self { variables: self.variables.pp(prefix), config: self.config }
    }

    fn tensor(&self, shape: impl Into<candle_core::Shape>, name: &str) -> Result<candle_core::Tensor> {
        self.variables.get(shape.into(), name).map_err(Error::from)
    }

    fn matrix(&self, name: &str, outputs: usize) -> Result<Matrix<'a>> {
        Ok(Matrix::Tensor(self.tensor((outputs, self.config.hidden_size), name)?))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vector> {
        Ok(Vector::Tensor(self.tensor(len, name)?))
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<LinearParams<'a>> {
        Ok(LinearParams {
            weight: Matrix::Tensor(self.tensor((outputs, inputs), &format!("{name}.weight"))?),
            bias: bias.then(|| self.vector(&format!("{name}.bias"), outputs)).transpose()?,
        })
    }

    fn norm(&self, name: &str) -> Result<NormParams> {
        let vector = |kind: &str| self.vector(&format!("{name}.{kind}"), self.config.hidden_size);
        Ok(NormParams {
            weight: vector("weight")?,
            bias: self.config.norm_bias.then(|| vector("bias")).transpose()?,
            eps: self.config.norm_eps,
        })
    }
}
