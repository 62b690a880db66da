//! Embeddings kept as integers, bit for bit as sentence-transformers 6.2 does (`quantize_embeddings`,
//! `encode(precision=…)`), and search among them.
//!
//! | precision | a vector of `d` numbers becomes | by |
//! |---|---|---|
//! | [`Int8`](Precision::Int8), [`Uint8`](Precision::Uint8) | `d` integers | 256 steps between the [`Ranges`] |
//! | [`Binary`](Precision::Binary), [`Ubinary`](Precision::Ubinary) | `d / 8` integers, rounded up | the signs |
//!
//! [`quantize`] is for a finished set of vectors; a [`Quantizer`] holds what several sets have in common. Weights in few
//! bits are another matter: [`Dtype`](crate::Dtype).
//!
//! ```
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! use ettin::files::ModelFiles;
//! use ettin::quantization::{Precision, Quantizer, Ranges, SearchRequest};
//! use ettin::tasks::{Options, TextEmbedder};
//!
//! let embedder = TextEmbedder::load(&ModelFiles::open(folder)?, &Options::default())?;
//! let vectors = embedder.embed(&["A cat sleeps.", "A dog barks.", "Stocks fell.", "It rains."])?;
//! let rows: Vec<&[f32]> = vectors.rows().collect();
//! let quantizer = Quantizer::new(Precision::Int8, Ranges::of(&rows)?)?;
//! let corpus = quantizer.quantize(&rows)?; // a byte for each number
//!
//! let query = embedder.embed(&["A cat naps."])?;
//! let found = quantizer.search(&query[0], &corpus, &SearchRequest::default().with_top_k(2))?;
//! assert_eq!((found.len(), found[0].index), (2, 0));
//! # Ok(())
//! # }
//! ```

mod file;
mod npy;
mod quantizer;
mod ranges;
mod search;

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::{Error, Result, named::Named};

pub use quantizer::{QuantizedVectors, Quantizer};
pub use ranges::{Ranges, RunningRanges};
pub use search::SearchRequest;

/// What the numbers of a vector are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// One of 256 steps between a dimension's lowest and highest value, as −128 … 127.
    Int8,
    /// The same as 0 … 255.
    Uint8,
    /// The bits of [`Ubinary`](Self::Ubinary), minus 128.
    Binary,
    /// One bit a dimension, set where the value is above zero: eight to a byte, the first dimension in its highest
    /// bit, zeros behind the last.
    Ubinary,
}

impl Precision {
    /// Every precision with its name.
    pub const ALL: [(Precision, &'static str); 4] = [
        (Precision::Int8, "int8"),
        (Precision::Uint8, "uint8"),
        (Precision::Binary, "binary"),
        (Precision::Ubinary, "ubinary"),
    ];

    /// Whether it needs a lowest and a highest value of each dimension; the others need the signs alone.
    pub fn has_ranges(self) -> bool {
        matches!(self, Precision::Int8 | Precision::Uint8)
    }

    /// Whether its integers are signed.
    pub fn is_signed(self) -> bool {
        matches!(self, Precision::Int8 | Precision::Binary)
    }

    /// How many integers a vector of so many dimensions becomes.
    pub fn width(self, dimensions: usize) -> usize {
        if self.has_ranges() { dimensions } else { dimensions.div_ceil(8) }
    }
}

impl Named for Precision {
    const NAMES: &'static [(Self, &'static str)] = &Self::ALL;
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::of_name(name)
            .ok_or_else(|| Error::input(format!("unknown precision {name:?}; known are {}", Self::known())))
    }
}

/// What quantised vectors are made of. Serialises to a list of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Integers {
    /// Of [`Precision::Int8`] and [`Precision::Binary`].
    Signed(Vec<i8>),
    /// Of [`Precision::Uint8`] and [`Precision::Ubinary`].
    Unsigned(Vec<u8>),
}

impl Integers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Integers::Signed(values) => values.len(),
            Integers::Unsigned(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers in order.
    pub fn numbers(&self) -> Box<dyn ExactSizeIterator<Item = i16> + '_> {
        match self {
            Integers::Signed(values) => Box::new(values.iter().map(|&value| value.into())),
            Integers::Unsigned(values) => Box::new(values.iter().map(|&value| value.into())),
        }
    }

    /// The bytes that they are in memory and in files.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Integers::Signed(values) => values.iter().map(|value| value.cast_unsigned()).collect(),
            Integers::Unsigned(values) => values.clone(),
        }
    }

    /// None, of the kind that a precision has.
    fn none(precision: Precision) -> Self {
        if precision.is_signed() { Integers::Signed(Vec::new()) } else { Integers::Unsigned(Vec::new()) }
    }

    /// Adds the integer of a precision's byte: the byte as it is, or minus 128.
    fn push(&mut self, byte: u8) {
        match self {
            Integers::Signed(values) => values.push((byte ^ SIGN).cast_signed()),
            Integers::Unsigned(values) => values.push(byte),
        }
    }
}

/// Flipped, a byte's integer is 128 less as a signed one: 0 becomes −128, 255 becomes 127.
const SIGN: u8 = 0x80;

/// Quantises vectors. Without ranges those of the vectors themselves count, so that the result depends on all of them:
/// for vectors that come in several sets, a [`Quantizer`] has one scale for all.
///
/// # Errors
/// [`Error::NoRanges`] for a single vector without ranges, where they are needed; as [`Quantizer::new`] and
/// [`Quantizer::quantize`].
pub fn quantize<V: AsRef<[f32]>>(
    vectors: &[V],
    precision: Precision,
    ranges: impl Into<Option<Ranges>>,
) -> Result<QuantizedVectors> {
    let ranges = match ranges.into() {
        None if precision.has_ranges() && vectors.is_empty() => return Ok(QuantizedVectors::none(precision)),
        None if precision.has_ranges() => {
            let mut seen = RunningRanges::default();
            vectors.iter().try_for_each(|vector| seen.add(vector.as_ref()))?;
            Some(seen.own(precision)?)
        }
        ranges => ranges,
    };
    Quantizer::new(precision, ranges)?.quantize(vectors)
}

/// Refuses what no quantised vector could stand for.
fn check_finite(vector: &[f32], what: impl fmt::Display) -> Result<()> {
    match vector.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::input(format!("{what} has {} in dimension {at}, which has no integer", vector[at]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_widths() {
        for (precision, name) in Precision::ALL {
            assert_eq!((name.parse::<Precision>().unwrap(), precision.to_string()), (precision, name.to_owned()));
            assert_eq!(
                Integers::none(precision),
                if precision.is_signed() { Integers::Signed(vec![]) } else { Integers::Unsigned(vec![]) }
            );
        }
        let error = "float16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("float16") && error.contains("int8, uint8, binary, ubinary"), "{error}");
        let widths = [0, 1, 8, 9, 28].map(|dimensions| Precision::Binary.width(dimensions));
        assert_eq!((widths, Precision::Uint8.width(28)), ([0, 1, 1, 2, 4], 28));
    }

    #[test]
    fn integers_are_numbers_everywhere() {
        let mut signed = Integers::none(Precision::Binary);
        [0, 127, 128, 255].into_iter().for_each(|byte| signed.push(byte));
        assert_eq!(signed, Integers::Signed(vec![-128, -1, 0, 127]));
        assert_eq!(serde_json::to_string(&signed).unwrap(), "[-128,-1,0,127]");
        assert_eq!(signed.to_bytes(), [128, 255, 0, 127]);
        let unsigned = Integers::Unsigned(vec![0, 255]);
        assert_eq!(serde_json::to_string(&unsigned).unwrap(), "[0,255]");
        assert_eq!((unsigned.numbers().collect::<Vec<_>>(), unsigned.to_bytes()), (vec![0, 255], vec![0, 255]));
    }

    #[test]
    fn one_vector_has_no_ranges_of_its_own() {
        let one = [[0.5f32, -0.5]];
        assert!(matches!(quantize(&one, Precision::Int8, None), Err(Error::NoRanges { .. })));
        assert_eq!(quantize(&one, Precision::Ubinary, None).unwrap().values(), &Integers::Unsigned(vec![128]));
        let none: [[f32; 2]; 0] = [];
        assert!(quantize(&none, Precision::Uint8, None).unwrap().is_empty());
    }
}
