//! The texts of a check: fixed, and as long as kernels tell lengths apart.

use crate::files::ModelFiles;
use crate::tokenizer::Tokenizer;
use crate::{Config, Error, Result};

/// Plain English prose, repeated where a text must be longer.
const PASSAGE: &str = "\
    The harbour was quiet at that hour. Two boats lay at the quay, their ropes slack, and a gull walked along the \
    edge of the water as if it had been asked to count the stones. In 1894 the same place had held forty ships; the \
    old clerk, Mr. Harlan, kept their names in a book that nobody opened now. \"You see,\" he said, \"a list is a \
    kind of memory: it holds what it was given, no more and no less.\" He turned a page. The price of salt had been \
    3.75 a barrel, rope cost twice that, and the pilots were paid by the tide. Outside, rain began, first on the \
    roofs and then on the sea, until both had the same grey colour and one could not say where the town ended. ";

/// Tokens of a short text.
const SHORT: usize = 9;

/// A window of layers where all of them see everything.
const USUAL_WINDOW: usize = 128;

/// Token ids of every text: one token, a few, as many as a local layer's window, and several windows.
pub(super) fn token_ids(files: &ModelFiles, config: &Config) -> Result<Vec<Vec<u32>>> {
    let lengths = lengths(config);
    let longest = lengths.iter().copied().max().unwrap_or(1);
    let source = source(files, config, longest)?;
    Ok(lengths
        .iter()
        .enumerate()
        // Each text begins elsewhere, so that no two are prefixes of each other.
        .map(|(index, &length)| source.iter().cycle().skip(7 * index).take(length).copied().collect())
        .collect())
}

/// Lengths of texts, each once, none longer than the model reads.
fn lengths(config: &Config) -> Vec<usize> {
    let windows = config.layers.iter().filter_map(|layer| {
        // A side without a bound sees everything.
        let sides = [layer.span.left, layer.span.right];
        let bounded = sides.iter().flatten().any(|&side| side > 0);
        bounded.then(|| sides.into_iter().flatten().sum::<usize>() + 1)
    });
    let window = windows.max().unwrap_or(USUAL_WINDOW);
    let mut lengths: Vec<usize> = [1, SHORT, window, window + 1, 3 * window + SHORT]
        .into_iter()
        .map(|length| length.clamp(1, config.max_position_embeddings))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Ids of the passage, or ids spread over the vocabulary for a model without a tokenizer.
fn source(files: &ModelFiles, config: &Config, longest: usize) -> Result<Vec<u32>> {
    let vocabulary = config.vocab_size as u64;
    let ids = match Tokenizer::load(files) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode(PASSAGE, None, false)?.ids;
            let special = tokenizer.special();
            special.cls.or(special.bos).into_iter().chain(ids).collect()
        }
        Err(Error::MissingFile { .. }) => Vec::new(),
        Err(other) => return Err(other),
    };
    if !ids.is_empty() {
        return Ok(ids);
    }
    // A prime larger than any vocabulary: all ids of one are met before the first comes again.
    Ok((1..=longest as u64).map(|index| (index.wrapping_mul(2_654_435_761) % vocabulary) as u32).collect())
}
