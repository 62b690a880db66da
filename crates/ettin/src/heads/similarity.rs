//! How two embeddings of a model are compared.

use std::str::FromStr;

use crate::{Error, Result, named::Named};

/// How two embeddings of a model are compared (`similarity_fn_name`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Similarity {
    /// The cosine of their angle.
    #[default]
    Cosine,
    /// Their dot product.
    Dot,
    /// Minus their Euclidean distance.
    Euclidean,
    /// Minus their Manhattan distance.
    Manhattan,
}

impl Named for Similarity {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Similarity::Cosine, "cosine"),
        (Similarity::Dot, "dot"),
        (Similarity::Euclidean, "euclidean"),
        (Similarity::Manhattan, "manhattan"),
    ];
}

impl FromStr for Similarity {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::of_name(name)
            .ok_or_else(|| Error::Unsupported(format!("similarity {name:?}; known are {}", Self::known())))
    }
}

impl Similarity {
    /// Compares two vectors of one length; larger is more alike. Sums run in f64.
    pub fn score(self, a: &[f32], b: &[f32]) -> f32 {
        let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let dot = || pairs().map(|(a, b)| a * b).sum::<f64>();
        let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        let score = match self {
            Similarity::Cosine => dot() / (norm(a) * norm(b)),
            Similarity::Dot => dot(),
            Similarity::Euclidean => -pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
            Similarity::Manhattan => -pairs().map(|(a, b)| (a - b).abs()).sum::<f64>(),
        };
        score as f32
    }
}
