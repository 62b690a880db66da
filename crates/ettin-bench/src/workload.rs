//! What is timed: the workloads, their names and what they cost.

use std::fmt;

use crate::ranges::numbers;
use ettin::generate::STEP_ROWS;
use ettin::tokenizer::{LimitOrigin, Side};
use ettin::{Config, Error, Objective, Result, Span};

/// One piece of work, in tokens: tokenisation and sampling are no part of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// `enc B×L`: `batch` texts of `length` tokens to mean-pooled vectors, in one packed batch.
    Encode {
        /// Texts.
        batch: usize,
        /// Tokens of each.
        length: usize,
    },
    /// `mixed N`: texts of [mixed lengths](mixed_lengths) to mean-pooled vectors, sorted, in packed batches.
    Mixed {
        /// How many.
        texts: usize,
    },
    /// `ppN`: reading prompts, up to the scores of the first new token.
    Prefill {
        /// Tokens of each prompt.
        tokens: usize,
        /// Prompts read at once.
        batch: usize,
        /// Tokens that each cache holds before.
        depth: usize,
    },
    /// `tgN`: generating token by token.
    Decode {
        /// Tokens added to each sequence.
        tokens: usize,
        /// Sequences that grow at once.
        batch: usize,
        /// Tokens that each cache holds before.
        depth: usize,
    },
}

/// The names follow llama-bench: `pp512`, `tg128 @ d1024`.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, tokens, batch, depth) = match *self {
            Workload::Encode { batch, length } => return write!(f, "enc {batch}×{length}"),
            Workload::Mixed { texts } => return write!(f, "mixed {texts}"),
            Workload::Prefill { tokens, batch, depth } => ("pp", tokens, batch, depth),
            Workload::Decode { tokens, batch, depth } => ("tg", tokens, batch, depth),
        };
        write!(f, "{name}{tokens}")?;
        if batch > 1 {
            write!(f, " ×{batch}")?;
        }
        if depth > 0 { write!(f, " @ d{depth}") } else { Ok(()) }
    }
}

/// Workloads of encoders from shapes such as `1x128`, `8x16-64*2` or `1,8x128,512`: every batch with every length.
///
/// # Errors
/// [`Error::Input`] for other words.
pub fn shapes(text: &str) -> Result<Vec<Workload>> {
    let Some((batches, lengths)) = text.split_once(['x', '×']) else {
        return Err(Error::input(format!("{text:?} is no shape: write texts x tokens, such as 8x128 or 1,8x16-512*2")));
    };
    let (batches, lengths) = (numbers(batches)?, numbers(lengths)?);
    let each = |&batch| lengths.iter().map(move |&length| Workload::Encode { batch, length });
    Ok(batches.iter().flat_map(each).collect())
}

/// Lengths of `texts` texts as they come in practice, the shortest first: the quantiles `81 · √(u / (1 − u))` of a
/// log-logistic distribution at `u = (i + ½) / texts`, rounded, between 8 and 512 tokens. Half of them are below 81.
pub fn mixed_lengths(texts: usize) -> Vec<usize> {
    let length = |index| {
        let u = (index as f64 + 0.5) / texts as f64;
        (81.0 * (u / (1.0 - u)).sqrt()).round().clamp(8.0, 512.0) as usize
    };
    (0..texts).map(length).collect()
}

/// What a workload costs on a model, by counting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Tokens read or generated, without padding: there is none.
    pub tokens: usize,
    /// Tokens that an engine would compute that pads each batch to its longest sequence.
    pub padded_tokens: usize,
    /// Floating-point operations, two per multiply-add: projections, attention to the keys that each token's span
    /// shows, and, where scores are asked for, the language head. Element-wise work is not counted.
    pub flops: f64,
    /// Matrix elements that have to be read, each once per pass over the model.
    pub weights: f64,
    /// Elements of keys and values that steps read from caches.
    pub cached: f64,
}

impl Workload {
    /// Whether the model must be a decoder.
    pub fn needs_decoder(self) -> bool {
        matches!(self, Workload::Prefill { .. } | Workload::Decode { .. })
    }

    /// Sequences side by side.
    pub fn batch(self) -> usize {
        match self {
            Workload::Encode { batch, .. } | Workload::Prefill { batch, .. } | Workload::Decode { batch, .. } => batch,
            Workload::Mixed { texts } => texts,
        }
    }

    /// Tokens of the longest sequence at the end.
    pub fn length(self) -> usize {
        match self {
            Workload::Encode { length, .. } => length,
            Workload::Mixed { texts } => mixed_lengths(texts).last().copied().unwrap_or(0),
            Workload::Prefill { tokens, depth, .. } | Workload::Decode { tokens, depth, .. } => depth + tokens,
        }
    }

    /// Tokens in the caches before the clock starts.
    pub fn depth(self) -> usize {
        match self {
            Workload::Prefill { depth, .. } | Workload::Decode { depth, .. } => depth,
            Workload::Encode { .. } | Workload::Mixed { .. } => 0,
        }
    }

    /// Refuses what a model cannot do.
    ///
    /// # Errors
    /// [`Error::Input`] for generation with an encoder, [`Error::TooLong`] beyond the model's positions.
    pub fn check(self, config: &Config) -> Result<()> {
        let tokens = self.length() - self.depth();
        if self.batch() == 0 || tokens == 0 {
            return Err(Error::input(format!("{self} is no work")));
        }
        if self.needs_decoder() && config.objective == Objective::Encoder {
            return Err(Error::input(format!(
                "{self} needs a decoder: an encoder reads whole texts and generates none"
            )));
        }
        if self.needs_decoder() && self.batch() > STEP_ROWS {
            return Err(Error::input(format!("{self}: at most {STEP_ROWS} sequences generate at once")));
        }
        let (tokens, limit) = (self.length(), config.max_position_embeddings);
        if tokens > limit {
            return Err(Error::TooLong { tokens, limit, origin: LimitOrigin::Positions, side: Side::Right });
        }
        Ok(())
    }

    /// The batches of an encoder's workload, as lengths of sequences; each of at most `batch_tokens` where texts are
    /// mixed.
    pub(crate) fn batches(self, batch_tokens: usize) -> Vec<Vec<usize>> {
        match self {
            Workload::Encode { batch, length } => vec![vec![length; batch]],
            Workload::Mixed { texts } => {
                let mut batches: Vec<Vec<usize>> = Vec::new();
                for length in mixed_lengths(texts) {
                    match batches.last_mut() {
                        Some(batch) if batch.iter().sum::<usize>() + length <= batch_tokens => batch.push(length),
                        _ => batches.push(vec![length]),
                    }
                }
                batches
            }
            Workload::Prefill { .. } | Workload::Decode { .. } => Vec::new(),
        }
    }

    /// What it costs on a model of `config`, with mixed texts packed into batches of at most `batch_tokens`.
    pub fn cost(self, config: &Config, batch_tokens: usize) -> Cost {
        let size = Size::of(config);
        match self {
            Workload::Encode { .. } | Workload::Mixed { .. } => {
                let batches = self.batches(batch_tokens);
                let tokens = batches.iter().flatten().sum();
                let keys: f64 = batches.iter().flatten().map(|&length| keys(config, 0, length)).sum();
                let longest = |batch: &Vec<usize>| batch.len() * batch.iter().max().copied().unwrap_or(0);
                Cost {
                    tokens,
                    padded_tokens: batches.iter().map(longest).sum(),
                    flops: 2.0 * tokens as f64 * size.layers + 4.0 * size.hidden * keys,
                    weights: batches.len() as f64 * size.layers,
                    cached: 0.0,
                }
            }
            Workload::Prefill { tokens, batch, depth } => {
                let rows = batch as f64;
                let keys = rows * keys(config, depth, tokens);
                let chunks = tokens.div_ceil(chunk(batch)) as f64;
                Cost {
                    tokens: batch * tokens,
                    padded_tokens: batch * tokens,
                    flops: 2.0 * rows * (tokens as f64 * size.layers + size.head) + 4.0 * size.hidden * keys,
                    weights: chunks * size.layers + size.head,
                    cached: 0.0,
                }
            }
            Workload::Decode { tokens, batch, depth } => {
                let (rows, steps) = (batch as f64, tokens as f64);
                let keys = rows * keys(config, depth, tokens);
                Cost {
                    tokens: batch * tokens,
                    padded_tokens: batch * tokens,
                    flops: 2.0 * rows * steps * (size.layers + size.head) + 4.0 * size.hidden * keys,
                    weights: steps * (size.layers + size.head),
                    cached: 2.0 * size.hidden * keys,
                }
            }
        }
    }
}

/// Matrix elements that one pass over a model reads: the buffer on which its read rate is
/// [measured](super::Calibration).
pub fn pass_weights(config: &Config) -> f64 {
    let size = Size::of(config);
    match config.objective {
        Objective::Encoder => size.layers,
        Objective::Decoder => size.layers + size.head,
    }
}

/// Tokens of each prompt that a step reads when several are read at once.
pub(crate) fn chunk(batch: usize) -> usize {
    (STEP_ROWS / batch).max(1)
}

/// Matrix elements of a model.
struct Size {
    hidden: f64,
    /// Of all layers: `Wqkv` 3h², `Wo` h², `Wi` 2ih, `Wo` ih.
    layers: f64,
    /// Of the prediction head (h²) and the output matrix (vocabulary × h).
    head: f64,
}

impl Size {
    fn of(config: &Config) -> Self {
        let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
        Self {
            hidden,
            layers: config.num_layers() as f64 * (4.0 * hidden * hidden + 3.0 * hidden * inner),
            head: hidden * hidden + hidden * config.vocab_size as f64,
        }
    }
}

/// Keys seen in all layers by the tokens at positions `start..start + count` of one sequence that ends there.
fn keys(config: &Config, start: usize, count: usize) -> f64 {
    let len = start + count;
    let in_span = |span: Span| (start..len).map(|query| span.keys(query, len).len()).sum::<usize>() as f64;
    config.layers.iter().map(|layer| in_span(layer.span)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ettin::suite::Suite;

    fn config(name: &str) -> Config {
        Suite::get().find(name).unwrap().config().unwrap()
    }

    #[test]
    fn names_are_those_of_the_field() {
        for (workload, name) in [
            (Workload::Encode { batch: 32, length: 128 }, "enc 32×128"),
            (Workload::Mixed { texts: 256 }, "mixed 256"),
            (Workload::Prefill { tokens: 512, batch: 1, depth: 0 }, "pp512"),
            (Workload::Decode { tokens: 128, batch: 8, depth: 1024 }, "tg128 ×8 @ d1024"),
        ] {
            assert_eq!(workload.to_string(), name);
        }
    }

    #[test]
    fn shapes_are_products() {
        let names = |text| shapes(text).unwrap().iter().map(Workload::to_string).collect::<Vec<_>>();
        assert_eq!(names("8x128"), ["enc 8×128"]);
        assert_eq!(names("1,2×16-64*2"), ["enc 1×16", "enc 1×32", "enc 1×64", "enc 2×16", "enc 2×32", "enc 2×64"]);
        for bad in ["8", "8x", "x8", "axb", "8x128x2", ""] {
            assert!(shapes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mixed_lengths_have_the_median_and_the_bounds() {
        let lengths = mixed_lengths(256);
        assert_eq!((lengths[0], lengths[255]), (8, 512));
        assert!(lengths.is_sorted());
        assert_eq!((lengths[127], lengths[128]), (81, 81));
        assert_eq!(mixed_lengths(1), [81]);
    }

    #[test]
    fn flops_of_the_150m_encoder_by_hand() {
        // h 768, i 1152, 22 layers of which 8 are global. Projections per token and layer:
        // 4·768² + 3·1152·768 = 5,013,504 elements, two operations each.
        // Keys of 128 tokens: global 128·128; local 65 + 66 + … + 128 for the first 64, and again for the last.
        let local = 2 * (65..=128).sum::<usize>();
        let expected = 2 * 128 * 22 * 5_013_504 + 4 * 768 * (8 * 128 * 128 + 14 * local);
        let cost = Workload::Encode { batch: 1, length: 128 }.cost(&config("encoder-150m"), 4096);
        assert_eq!(cost.flops, expected as f64);
        assert!((cost.flops / 128.0 / 1e9 - 0.228).abs() < 1e-3);
        assert_eq!((cost.tokens, cost.padded_tokens, cost.weights), (128, 128, (22 * 5_013_504) as f64));
        assert_eq!(pass_weights(&config("encoder-150m")), cost.weights);
        let eight = Workload::Encode { batch: 8, length: 128 }.cost(&config("encoder-150m"), 4096);
        assert_eq!((eight.flops, eight.weights), (8.0 * cost.flops, cost.weights));
    }

    #[test]
    fn cost_of_decoding_by_hand() {
        let config = config("decoder-17m"); // h 256, i 384, 7 layers, 3 of them global
        let layers = 7 * (4 * 256 * 256 + 3 * 256 * 384);
        let head = 256 * 256 + 256 * 50_368;
        // Two steps on 100 tokens: global layers see 101 and 102 keys, local ones 64 each.
        let keys = 3 * (101 + 102) + 4 * (64 + 64);
        let one = Workload::Decode { tokens: 2, batch: 1, depth: 100 }.cost(&config, 4096);
        assert_eq!(one.flops, (2 * 2 * (layers + head) + 4 * 256 * keys) as f64);
        assert_eq!((one.weights, one.cached), ((2 * (layers + head)) as f64, (2 * 256 * keys) as f64));
        let four = Workload::Decode { tokens: 2, batch: 4, depth: 100 }.cost(&config, 4096);
        assert_eq!((four.tokens, four.weights, four.cached), (8, one.weights, 4.0 * one.cached));
        assert_eq!(pass_weights(&config), (layers + head) as f64);
        // A prompt of the same two tokens asks for scores once, and reads the weights once.
        let prompt = Workload::Prefill { tokens: 2, batch: 1, depth: 100 }.cost(&config, 4096);
        assert_eq!(prompt.flops, one.flops - (2 * head) as f64);
        assert_eq!(prompt.weights, (layers + head) as f64);
        // Beyond a step's rows the weights are read again.
        let long = Workload::Prefill { tokens: STEP_ROWS + 1, batch: 1, depth: 0 }.cost(&config, 4096);
        assert_eq!(long.weights, (2 * layers + head) as f64);
    }

    #[test]
    fn mixed_texts_are_packed_without_padding() {
        let workload = Workload::Mixed { texts: 64 };
        let batches = workload.batches(1000);
        assert!(batches.len() > 3 && batches.iter().all(|batch| batch.iter().sum::<usize>() <= 1000));
        assert_eq!(batches.concat(), mixed_lengths(64));
        let cost = workload.cost(&config("encoder-17m"), 1000);
        assert_eq!(cost.tokens, mixed_lengths(64).iter().sum::<usize>());
        assert!(cost.padded_tokens > cost.tokens);
        assert_eq!(cost.weights, batches.len() as f64 * (7 * (4 * 256 * 256 + 3 * 256 * 384)) as f64);
    }

    #[test]
    fn what_a_model_cannot_do_is_refused() {
        let (encoder, decoder) = (config("encoder-17m"), config("decoder-17m"));
        let prompt = Workload::Prefill { tokens: 512, batch: 1, depth: 0 };
        assert!(prompt.check(&encoder).unwrap_err().to_string().contains("decoder"));
        assert!(prompt.check(&decoder).is_ok());
        let long = Workload::Decode { tokens: 1, batch: 1, depth: 7999 };
        assert!(matches!(long.check(&decoder), Err(Error::TooLong { tokens: 8000, limit: 7999, .. })));
        assert!(Workload::Decode { tokens: 1, batch: STEP_ROWS + 1, depth: 0 }.check(&decoder).is_err());
        assert!(Workload::Encode { batch: 1, length: 7999 }.check(&encoder).is_ok());
        for (batch, tokens) in [(0, 8), (8, 0)] {
            assert!(Workload::Encode { batch, length: tokens }.check(&encoder).is_err());
            assert!(Workload::Decode { tokens, batch, depth: 5 }.check(&decoder).is_err());
        }
        assert!(Workload::Mixed { texts: 0 }.check(&encoder).is_err());
    }
}
