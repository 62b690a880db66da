//! Random weights of exact dimensions: what a benchmark needs when the trained ones are not at hand.
//!
//! Every number is a function of the seed, its matrix and its place, so that threads write any part in any order, and two
//! runs compute with the same weights. Nothing is stored before it is packed.

use super::Parameters;
use crate::{
    Config,
    ops::{AttentionParams, HeadParams, LinearParams, Matrix, MlpParams, NormParams, TableParams, Vector},
    weights::{Head, Report},
};

/// Standard deviation of matrices, as transformers initialises them.
const SPREAD: f32 = 0.02;

impl Parameters<'static> {
    /// Weights that no training produced, with the shapes that `config` and `head` ask for: matrices uniform with
    /// standard deviation 0.02, norms 1, biases 0.
    pub fn random(config: &Config, head: Head, seed: u64) -> Self {
        let mut matrices = 0;
        let mut matrix = |outputs: usize, inputs: usize| {
            matrices += 1;
            random_matrix(outputs, inputs, mix(seed ^ mix(matrices)))
        };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = || NormParams {
            weight: Vector::Values(vec![1.0; hidden]),
            bias: config.norm_bias.then(|| zeros(hidden)),
            eps: config.norm_eps,
        };
        let linear = |weight: Matrix<'static>, outputs: usize, bias: bool| LinearParams {
            weight,
            bias: bias.then(|| zeros(outputs)),
        };
        let layers = config.layers.iter().enumerate().map(|(index, spec)| {
            let attention = AttentionParams {
                norm: (index > 0).then(norm),
                qkv: linear(matrix(3 * hidden, hidden), 3 * hidden, config.attention_bias),
                out: linear(matrix(hidden, hidden), hidden, config.attention_bias),
                heads: config.num_heads,
                head_dim: config.head_dim(),
                span: spec.span,
                rope_theta: spec.rope_theta,
                max_positions: config.max_position_embeddings,
            };
            let mlp = MlpParams {
                norm: norm(),
                wi: linear(matrix(2 * inner, hidden), 2 * inner, config.mlp_bias),
                wo: linear(matrix(hidden, inner), hidden, config.mlp_bias),
                activation: config.hidden_activation,
            };
            (attention, mlp)
        });
        let layers = layers.collect();
        let language = head == Head::Language;
        Self {
            layers,
            embeddings: TableParams::Matrix(matrix(config.vocab_size, hidden)),
            embedding_norm: norm(),
            final_norm: norm(),
            head: (head != Head::None).then(|| HeadParams {
                dense: linear(matrix(hidden, hidden), hidden, config.classifier_bias),
                activation: config.classifier_activation,
                norm: norm(),
            }),
            output: (language && !config.tie_word_embeddings).then(|| matrix(config.vocab_size, hidden)),
            output_bias: (language && config.decoder_bias).then(|| zeros(config.vocab_size)),
            classifier: match head {
                Head::Classifier { outputs } => {
                    let bias = config.classifier_has_bias();
                    Some(linear(matrix(outputs, hidden), outputs, bias))
                }
                _ => None,
            },
            quantisation: None,
            report: Report::default(),
        }
    }
}

fn zeros(len: usize) -> Vector {
    Vector::Values(vec![0.0; len])
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
