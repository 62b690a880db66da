//! Random weights of exact dimensions: what a benchmark needs when the trained ones are not at hand.
//!
//! Every number is a function of the seed, its matrix and its place, so that threads write any part in any order,
//! and two runs compute with the same weights. Nothing is stored before it is packed.

use std::convert::Infallible;

use super::Parameters;
use crate::{
    Config,
    ops::{Matrix, Vector},
    tensors::{Head, Kind, Part, Role, Source, walk},
};

/// Standard deviation of matrices, as transformers initialises them.
const SPREAD: f32 = 0.02;

/// Matrices of a layer.
const MATRICES: u64 = 4;

/// Weights that no training produced: matrices uniform with standard deviation 0.02, norms 1, biases 0.
#[derive(Debug, Clone, Copy)]
pub struct Random {
    seed: u64,
    layers: u64,
}

impl Random {
    /// Weights of a model of this configuration; another seed gives others.
    pub fn new(config: &Config, seed: u64) -> Self {
        Self { seed, layers: config.num_layers() as u64 }
    }

    /// The number of a matrix, from 1: those of the layers, then the rest.
    fn number(&self, part: Part) -> u64 {
        let layers = MATRICES * self.layers;
        match part {
            Part::Qkv(layer) => MATRICES * layer as u64 + 1,
            Part::AttentionOutput(layer) => MATRICES * layer as u64 + 2,
            Part::Wi(layer) => MATRICES * layer as u64 + 3,
            Part::Wo(layer) => MATRICES * layer as u64 + 4,
            Part::HeadDense(_) => layers + 2,
            Part::Output | Part::Classifier => layers + 3,
            Part::Embedding
            | Part::EmbeddingNorm
            | Part::AttentionNorm(_)
            | Part::MlpNorm(_)
            | Part::FinalNorm
            | Part::HeadNorm(_) => layers + 1,
        }
    }
}

impl Source for Random {
    type Matrix = Matrix<'static>;
    type Vector = Vector;
    type Error = Infallible;

    fn matrix(&mut self, role: Role, [outputs, inputs]: [usize; 2]) -> Result<Matrix<'static>, Infallible> {
        Ok(random_matrix(outputs, inputs, mix(self.seed ^ mix(self.number(role.part)))))
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<Vector, Infallible> {
        let norm = matches!(
            role.part,
            Part::EmbeddingNorm | Part::AttentionNorm(_) | Part::MlpNorm(_) | Part::FinalNorm | Part::HeadNorm(_)
        );
        let value = if norm && role.kind == Kind::Weight { 1.0 } else { 0.0 };
        Ok(Vector::Values(vec![value; len]))
    }
}

impl Parameters<'static> {
    /// [`Random`] weights of the shapes that `config` and `head` ask for.
    pub fn random(config: &Config, head: Head, seed: u64) -> Self {
        let Ok(tensors) = walk(config, head, &mut Random::new(config, seed));
        Self::from_tensors(tensors)
    }
}

fn random_matrix(outputs: usize, inputs: usize, seed: u64) -> Matrix<'static> {
    Matrix::Rows {
        outputs,
        inputs,
        fill: Box::new(move |row, out| {
            let start = mix(seed ^ row as u64) as u32;
            // A uniform number in ±√3 has standard deviation 1.
            let scale = SPREAD * 3f32.sqrt() / (1u32 << 31) as f32;
            for (column, out) in out.iter_mut().enumerate() {
                *out = scramble(start.wrapping_add(column as u32)) as i32 as f32 * scale;
            }
        }),
    }
}

/// Thirty-two bits that look unrelated to those of the next number: the finaliser of `MurmurHash3`. Plain 32-bit
/// arithmetic, which compilers turn into vector code.
fn scramble(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 16)
}

/// The same for 64 bits: the finaliser of `SplitMix64`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(matrix: &Matrix<'_>) -> Vec<Vec<f32>> {
        let Matrix::Rows { outputs, inputs, fill } = matrix else { panic!("rows") };
        let row = |row| {
            let mut out = vec![f32::NAN; *inputs];
            fill(row, &mut out);
            out
        };
        (0..*outputs).map(row).collect()
    }

    #[test]
    fn numbers_follow_the_seed_and_nothing_else() {
        let values = rows(&random_matrix(300, 500, 1));
        assert_eq!(values, rows(&random_matrix(300, 500, 1)));
        assert_ne!(values, rows(&random_matrix(300, 500, 2)));
        assert_ne!(values[0], values[1]);
    }

    #[test]
    fn matrices_keep_their_numbers() {
        // Recorded runs compute with these weights: the numbers choose them.
        let text = include_bytes!("../../../../models/tiny-decoder-untied/config.json");
        let config = Config::from_json(text, "config.json").unwrap();
        let random = Random::new(&config, 7);
        let layers = (0..config.num_layers())
            .flat_map(|layer| [Part::Qkv(layer), Part::AttentionOutput(layer), Part::Wi(layer), Part::Wo(layer)]);
        let head = Head::Language.name(config.objective);
        let parts = layers.chain([Part::Embedding, Part::HeadDense(head), Part::Output]);
        assert!(parts.map(|part| random.number(part)).eq(1..=4 * config.num_layers() as u64 + 3));
        assert_eq!(random.number(Part::Classifier), random.number(Part::Output));
        let Matrix::Rows { fill, .. } = Parameters::random(&config, Head::Language, 7).tensors.embedding else {
            panic!("rows")
        };
        let (mut ours, mut expected) = (vec![0.0; config.hidden_size], vec![0.0; config.hidden_size]);
        fill(3, &mut ours);
        let seed = mix(7 ^ mix(4 * config.num_layers() as u64 + 1));
        let Matrix::Rows { fill, .. } = random_matrix(config.vocab_size, config.hidden_size, seed) else {
            panic!("rows")
        };
        fill(3, &mut expected);
        assert_eq!(ours, expected);
    }

    #[test]
    fn spread_is_that_of_an_initialised_model() {
        let values: Vec<f64> = rows(&random_matrix(300, 500, 1)).concat().into_iter().map(f64::from).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let spread = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 3e-4 && (spread - 0.02).abs() < 2e-4, "{mean} ± {spread}");
        // Neighbours in a row and in a column are unrelated.
        for shift in [1, 500] {
            let pairs = values.iter().zip(&values[shift..]).map(|(a, b)| a * b).sum::<f64>();
            assert!((pairs / count / (spread * spread)).abs() < 0.02, "{shift}");
        }
    }
}
