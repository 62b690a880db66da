//! How two embeddings of a model are compared.

use std::fmt;
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

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Similarity {
    /// Compares two vectors of one length; larger is more alike. Sums run in f64.
    pub fn score(self, a: &[f32], b: &[f32]) -> f32 {
        self.of_pairs(|| a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b))))
    }

    /// The same of the values of two vectors, side by side; those that are 0 in both may be left out.
    pub(crate) fn of_pairs<I: Iterator<Item = (f64, f64)>>(self, pairs: impl Fn() -> I) -> f32 {
        let dot = || pairs().map(|(a, b)| a * b).sum::<f64>();
        let norm = |square: f64| square.sqrt().max(1e-12);
        let score = match self {
            Similarity::Cosine => {
                let norms = pairs().fold((0.0, 0.0), |(a, b), (x, y)| (a + x * x, b + y * y));
                dot() / (norm(norms.0) * norm(norms.1))
            }
            Similarity::Dot => dot(),
            Similarity::Euclidean => -pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
            Similarity::Manhattan => -pairs().map(|(a, b)| (a - b).abs()).sum::<f64>(),
        };
        score as f32
    }
}
