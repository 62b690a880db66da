//! What a tensor is to a model, and what transformers calls it.

use std::fmt;

/// A tensor's place in a model. [`Display`](fmt::Display) spells transformers' name of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Role {
    /// What it belongs to.
    pub part: Part,
    /// Which tensor of that.
    pub kind: Kind,
}

/// The tensors of a linear layer or a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The matrix of a linear layer, the scale of a norm.
    Weight,
    /// What is added.
    Bias,
}

/// A part of a model; parts of a layer carry its number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Token vectors.
    Embedding,
    /// Norm of token vectors.
    EmbeddingNorm,
    /// Norm before attention.
    AttentionNorm(usize),
    /// Query, key and value projections, one above the other.
    Qkv(usize),
    /// Output projection of attention.
    AttentionOutput(usize),
    /// Norm before the feed-forward half.
    MlpNorm(usize),
    /// Input of the feed-forward half: activated half first, gate second.
    Wi(usize),
    /// Output of the feed-forward half.
    Wo(usize),
    /// Norm after the last layer.
    FinalNorm,
    /// Dense layer of the prediction head.
    HeadDense(HeadName),
    /// Norm of the prediction head.
    HeadNorm(HeadName),
    /// Output projection onto the vocabulary.
    Output,
    /// Label matrix.
    Classifier,
}

/// What transformers calls a prediction head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadName {
    /// `head`: of encoders, and before a classifier.
    Head,
    /// `lm_head`: of causal language models.
    LmHead,
}

impl HeadName {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            HeadName::Head => "head",
            HeadName::LmHead => "lm_head",
        }
    }
}

impl Part {
    /// Its matrix or scale.
    pub fn weight(self) -> Role {
        Role { part: self, kind: Kind::Weight }
    }

    /// Its bias.
    pub fn bias(self) -> Role {
        Role { part: self, kind: Kind::Bias }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (layer, part) = match *self {
            Part::Embedding => return f.write_str("model.embeddings.tok_embeddings"),
            Part::EmbeddingNorm => return f.write_str("model.embeddings.norm"),
            Part::FinalNorm => return f.write_str("model.final_norm"),
            Part::HeadDense(head) => return write!(f, "{}.dense", head.name()),
            Part::HeadNorm(head) => return write!(f, "{}.norm", head.name()),
            Part::Output => return f.write_str("decoder"),
            Part::Classifier => return f.write_str("classifier"),
            Part::AttentionNorm(layer) => (layer, "attn_norm"),
            Part::Qkv(layer) => (layer, "attn.Wqkv"),
            Part::AttentionOutput(layer) => (layer, "attn.Wo"),
            Part::MlpNorm(layer) => (layer, "mlp_norm"),
            Part::Wi(layer) => (layer, "mlp.Wi"),
            Part::Wo(layer) => (layer, "mlp.Wo"),
        };
        write!(f, "model.layers.{layer}.{part}")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Weight => "weight",
            Kind::Bias => "bias",
        };
        write!(f, "{}.{kind}", self.part)
    }
}
