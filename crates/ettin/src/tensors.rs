//! A model's tensors as one tree of roles, generic in what a matrix and a vector are.
//!
//! [`walk`] is the one place that knows which tensors a configuration asks for, and of which shapes. It fills the
//! tree from a [`Source`]: a checkpoint's views, candle's variables, random numbers, another source with an adapter
//! on top. Every tensor has a [`Role`] that spells its name, so that a tree can be listed
//! ([`ModelTensors::named`]), saved and trained.

mod role;

pub use role::{HeadName, Kind, Part, Role};

use crate::config::{Config, Objective};

/// Which tensors a model has besides the trunk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The trunk alone.
    None,
    /// The prediction head and the output projection: masked LM on encoders, causal LM on decoders.
    Language,
    /// The prediction head and a classifier with this many outputs: sequence, token, or question answering (2).
    Classifier {
        /// Rows of the classifier.
        outputs: usize,
    },
}

impl Head {
    /// What transformers calls its prediction head.
    pub fn name(self, objective: Objective) -> HeadName {
        match (self, objective) {
            (Head::Language, Objective::Decoder) => HeadName::LmHead,
            _ => HeadName::Head,
        }
    }
}

/// Where tensors come from.
///
/// [`walk`] asks for every tensor that a model needs, once, trunk first. A source that has no such tensor fails, or
/// notes it and gives something in its place.
pub trait Source {
    /// A matrix `[outputs, inputs]`.
    type Matrix;
    /// A bias, or the scale of a norm.
    type Vector;
    /// Why a tensor cannot be had.
    type Error;

    /// The matrix of this role and shape `[outputs, inputs]`.
    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Self::Matrix, Self::Error>;

    /// The vector of this role and length.
    fn vector(&mut self, role: Role, len: usize) -> Result<Self::Vector, Self::Error>;

    /// The output matrix of a model whose configuration ties it to the embedding: only a source that holds another
    /// one all the same gives it.
    fn tied_output(&mut self, _role: Role, _shape: [usize; 2]) -> Result<Option<Self::Matrix>, Self::Error> {
        Ok(None)
    }
}

/// Every tensor of a model by role.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelTensors<M, V> {
    /// Token vectors, `[vocabulary, hidden]`.
    pub embedding: M,
    /// Norm of token vectors.
    pub embedding_norm: NormTensors<V>,
    /// First layer to last.
    pub layers: Vec<LayerTensors<M, V>>,
    /// Norm after the last layer.
    pub final_norm: NormTensors<V>,
    /// The prediction head.
    pub head: Option<HeadTensors<M, V>>,
    /// Output matrix `[vocabulary, hidden]`; absent where it is the embedding, and in models without one.
    pub output: Option<M>,
    /// `[vocabulary]`.
    pub output_bias: Option<V>,
    /// Label matrix, `[outputs, hidden]`.
    pub classifier: Option<LinearTensors<M, V>>,
}

/// The tensors of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTensors<M, V> {
    /// Norm before attention; the first layer has none.
    pub attention_norm: Option<NormTensors<V>>,
    /// `[q | k | v]`, `[3 · hidden, hidden]`.
    pub qkv: LinearTensors<M, V>,
    /// `[hidden, hidden]`.
    pub attention_output: LinearTensors<M, V>,
    /// Norm before the feed-forward half.
    pub mlp_norm: NormTensors<V>,
    /// `[2 · intermediate, hidden]`: activated half first, gate second.
    pub wi: LinearTensors<M, V>,
    /// `[hidden, intermediate]`.
    pub wo: LinearTensors<M, V>,
}

/// The tensors of a prediction head.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadTensors<M, V> {
    /// What transformers calls it.
    pub name: HeadName,
    /// `[hidden, hidden]`.
    pub dense: LinearTensors<M, V>,
    /// Norm after the activation.
    pub norm: NormTensors<V>,
}

/// A linear layer `y = W x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearTensors<M, V> {
    /// `[outputs, inputs]`.
    pub weight: M,
    /// `[outputs]`.
    pub bias: Option<V>,
}

/// A layer norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormTensors<V> {
    /// Scale, `[hidden]`.
    pub weight: V,
    /// Shift, `[hidden]`.
    pub bias: Option<V>,
}

/// One tensor of a tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Leaf<M, V> {
    /// `[outputs, inputs]`.
    Matrix(M),
    /// `[len]`.
    Vector(V),
}

/// The tensors that `config` and `head` ask for, out of `source`.
///
/// # Errors
/// Those of the source.
pub fn walk<S: Source>(
    config: &Config,
    head: Head,
    source: &mut S,
) -> Result<ModelTensors<S::Matrix, S::Vector>, S::Error> {
    let Config { hidden_size: hidden, vocab_size: vocabulary, .. } = *config;
    let mut walk = Walk { config, source };
    let embedding = walk.source.matrix(Part::Embedding.weight(), [vocabulary, hidden])?;
    let embedding_norm = walk.norm(Part::EmbeddingNorm)?;
    let layers = (0..config.num_layers()).map(|index| walk.layer(index)).collect::<Result<_, _>>()?;
    let final_norm = walk.norm(Part::FinalNorm)?;
    let (mut output, mut output_bias, mut classifier) = (None, None, None);
    let head_tensors = match head {
        Head::None => None,
        Head::Language | Head::Classifier { .. } => Some(walk.head(head.name(config.objective))?),
    };
    match head {
        Head::None => {}
        Head::Language => {
            let (role, shape) = (Part::Output.weight(), [vocabulary, hidden]);
            output = match config.tie_word_embeddings {
                true => walk.source.tied_output(role, shape)?,
                false => Some(walk.source.matrix(role, shape)?),
            };
            if config.decoder_bias {
                output_bias = Some(walk.source.vector(Part::Output.bias(), vocabulary)?);
            }
        }
        Head::Classifier { outputs } => {
            classifier = Some(walk.linear(Part::Classifier, [outputs, hidden], config.classifier_has_bias())?);
        }
    }
    Ok(ModelTensors {
        embedding,
        embedding_norm,
        layers,
        final_norm,
        head: head_tensors,
        output,
        output_bias,
        classifier,
    })
}

/// A configuration on its way through a source.
struct Walk<'c, 's, S> {
    config: &'c Config,
    source: &'s mut S,
}

impl<S: Source> Walk<'_, '_, S> {
    fn layer(&mut self, index: usize) -> Result<LayerTensors<S::Matrix, S::Vector>, S::Error> {
        let Config { hidden_size: hidden, intermediate_size: inner, attention_bias, mlp_bias, .. } = *self.config;
        Ok(LayerTensors {
            attention_norm: (index > 0).then(|| self.norm(Part::AttentionNorm(index))).transpose()?,
            qkv: self.linear(Part::Qkv(index), [3 * hidden, hidden], attention_bias)?,
            attention_output: self.linear(Part::AttentionOutput(index), [hidden, hidden], attention_bias)?,
            mlp_norm: self.norm(Part::MlpNorm(index))?,
            wi: self.linear(Part::Wi(index), [2 * inner, hidden], mlp_bias)?,
            wo: self.linear(Part::Wo(index), [hidden, inner], mlp_bias)?,
        })
    }

    fn head(&mut self, name: HeadName) -> Result<HeadTensors<S::Matrix, S::Vector>, S::Error> {
        let (hidden, bias) = (self.config.hidden_size, self.config.classifier_bias);
        Ok(HeadTensors {
            name,
            dense: self.linear(Part::HeadDense(name), [hidden, hidden], bias)?,
            norm: self.norm(Part::HeadNorm(name))?,
        })
    }

    fn linear(
        &mut self,
        part: Part,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<LinearTensors<S::Matrix, S::Vector>, S::Error> {
        Ok(LinearTensors {
            weight: self.source.matrix(part.weight(), shape)?,
            bias: bias.then(|| self.source.vector(part.bias(), shape[0])).transpose()?,
        })
    }

    fn norm(&mut self, part: Part) -> Result<NormTensors<S::Vector>, S::Error> {
        let hidden = self.config.hidden_size;
        Ok(NormTensors {
            weight: self.source.vector(part.weight(), hidden)?,
            bias: self.config.norm_bias.then(|| self.source.vector(part.bias(), hidden)).transpose()?,
        })
    }
}

impl<M, V> ModelTensors<M, V> {
    /// Every tensor with its role, in the order of [`walk`].
    pub fn named(&self) -> Vec<(Role, Leaf<&M, &V>)> {
        self.as_ref().into_named()
    }

    /// The same, taken out.
    pub fn into_named(self) -> Vec<(Role, Leaf<M, V>)> {
        let mut list = List(Vec::new());
        list.0.push((Part::Embedding.weight(), Leaf::Matrix(self.embedding)));
        list.norm(Part::EmbeddingNorm, self.embedding_norm);
        for (index, layer) in self.layers.into_iter().enumerate() {
            if let Some(norm) = layer.attention_norm {
                list.norm(Part::AttentionNorm(index), norm);
            }
            list.linear(Part::Qkv(index), layer.qkv);
            list.linear(Part::AttentionOutput(index), layer.attention_output);
            list.norm(Part::MlpNorm(index), layer.mlp_norm);
            list.linear(Part::Wi(index), layer.wi);
            list.linear(Part::Wo(index), layer.wo);
        }
        list.norm(Part::FinalNorm, self.final_norm);
        if let Some(head) = self.head {
            list.linear(Part::HeadDense(head.name), head.dense);
            list.norm(Part::HeadNorm(head.name), head.norm);
        }
        list.0.extend(self.output.map(|matrix| (Part::Output.weight(), Leaf::Matrix(matrix))));
        list.0.extend(self.output_bias.map(|bias| (Part::Output.bias(), Leaf::Vector(bias))));
        if let Some(classifier) = self.classifier {
            list.linear(Part::Classifier, classifier);
        }
        list.0
    }

    /// The same tree, borrowed.
    pub fn as_ref(&self) -> ModelTensors<&M, &V> {
        let layers = self.layers.iter().map(|layer| LayerTensors {
            attention_norm: layer.attention_norm.as_ref().map(NormTensors::as_ref),
            qkv: layer.qkv.as_ref(),
            attention_output: layer.attention_output.as_ref(),
            mlp_norm: layer.mlp_norm.as_ref(),
            wi: layer.wi.as_ref(),
            wo: layer.wo.as_ref(),
        });
        ModelTensors {
            embedding: &self.embedding,
            embedding_norm: self.embedding_norm.as_ref(),
            layers: layers.collect(),
            final_norm: self.final_norm.as_ref(),
            head: self.head.as_ref().map(|head| HeadTensors {
                name: head.name,
                dense: head.dense.as_ref(),
                norm: head.norm.as_ref(),
            }),
            output: self.output.as_ref(),
            output_bias: self.output_bias.as_ref(),
            classifier: self.classifier.as_ref().map(LinearTensors::as_ref),
        }
    }

    /// The trunk alone.
    #[must_use]
    pub fn without_head(self) -> Self {
        Self { head: None, output: None, output_bias: None, classifier: None, ..self }
    }
}

impl<M, V> LinearTensors<M, V> {
    /// The same, borrowed.
    pub fn as_ref(&self) -> LinearTensors<&M, &V> {
        LinearTensors { weight: &self.weight, bias: self.bias.as_ref() }
    }
}

impl<V> NormTensors<V> {
    /// The same, borrowed.
    pub fn as_ref(&self) -> NormTensors<&V> {
        NormTensors { weight: &self.weight, bias: self.bias.as_ref() }
    }
}

/// Tensors with their roles.
struct List<M, V>(Vec<(Role, Leaf<M, V>)>);

impl<M, V> List<M, V> {
    fn linear(&mut self, part: Part, linear: LinearTensors<M, V>) {
        self.0.push((part.weight(), Leaf::Matrix(linear.weight)));
        self.0.extend(linear.bias.map(|bias| (part.bias(), Leaf::Vector(bias))));
    }

    fn norm(&mut self, part: Part, norm: NormTensors<V>) {
        self.0.push((part.weight(), Leaf::Vector(norm.weight)));
        self.0.extend(norm.bias.map(|bias| (part.bias(), Leaf::Vector(bias))));
    }
}
