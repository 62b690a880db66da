//! From vectors to integers.

use super::{Integers, Precision, Ranges, check_finite};
use crate::{Error, Result};

/// Quantises vectors of one model: all on the same scale, each by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantizer {
    precision: Precision,
    ranges: Option<Ranges>,
    /// Where each dimension begins, and how far a step goes.
    pub(super) steps: Vec<(f32, f32)>,
}

impl Quantizer {
    /// A quantiser of a precision, with ranges where it has them.
    ///
    /// # Errors
    /// [`Error::NoRanges`] where ranges are needed and missing; [`Error::Input`] for ranges where there is no use for them.
    pub fn new(precision: Precision, ranges: impl Into<Option<Ranges>>) -> Result<Self> {
        let ranges = ranges.into();
        match (precision.has_ranges(), &ranges) {
            (true, None) => return Err(Error::NoRanges { precision: precision.to_string() }),
            (false, Some(_)) => {
                return Err(Error::input(format!("{precision} keeps signs alone: there is no use for ranges")));
            }
            _ => {}
        }
        let steps = ranges.iter().flat_map(Ranges::steps).collect();
        Ok(Self { precision, ranges, steps })
    }

    /// What vectors become.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The ranges, where the precision has them.
    pub fn ranges(&self) -> Option<&Ranges> {
        self.ranges.as_ref()
    }

    /// One vector; [`Precision::width`] integers.
    ///
    /// # Errors
    /// [`Error::Input`] where the vector has no dimension, or others than the ranges, and where a value is not finite.
    pub fn quantize_one(&self, vector: &[f32]) -> Result<Integers> {
        let mut values = Integers::none(self.precision);
        self.quantize_to(vector, &mut values)?;
        Ok(values)
    }

    /// Vectors of one length.
    ///
    /// # Errors
    /// As [`quantize_one`](Self::quantize_one), for each; [`Error::Input`] where lengths differ.
    pub fn quantize<V: AsRef<[f32]>>(&self, vectors: &[V]) -> Result<QuantizedVectors> {
        let Some(first) = vectors.first() else {
            let dimensions = self.ranges.as_ref().map_or(0, Ranges::dimensions);
            return Ok(QuantizedVectors { dimensions, ..QuantizedVectors::none(self.precision) });
        };
        let dimensions = first.as_ref().len();
        let mut values = Integers::none(self.precision);
        for vector in vectors {
            if vector.as_ref().len() != dimensions {
                let other = vector.as_ref().len();
                return Err(Error::input(format!("a vector of {other} dimensions among vectors of {dimensions}")));
            }
            self.quantize_to(vector.as_ref(), &mut values)?;
        }
        Ok(QuantizedVectors { precision: self.precision, dimensions, rows: vectors.len(), values })
    }

    fn quantize_to(&self, vector: &[f32], out: &mut Integers) -> Result<()> {
        self.check(vector)?;
        if self.precision.has_ranges() {
            // In f32 and in this order, as numpy computes it.
            let byte = |(&value, &(low, step)): (&f32, &(f32, f32))| ((value - low) / step).floor().clamp(0.0, 255.0);
            vector.iter().zip(&self.steps).for_each(|pair| out.push(byte(pair) as u8));
        } else {
            let bit = |(at, &value): (usize, &f32)| u8::from(value > 0.0) << (7 - at);
            vector.chunks(8).for_each(|eight| out.push(eight.iter().enumerate().map(bit).sum()));
        }
        Ok(())
    }

    /// Refuses what cannot be quantised.
    pub(super) fn check(&self, vector: &[f32]) -> Result<()> {
        if vector.is_empty() {
            return Err(Error::input("a vector without dimensions cannot be quantised"));
        }
        if let Some(ranges) = self.ranges.as_ref().filter(|ranges| ranges.dimensions() != vector.len()) {
            let (known, new) = (ranges.dimensions(), vector.len());
            return Err(Error::input(format!("the ranges have {known} dimensions, the vectors {new}")));
        }
        check_finite(vector, "a vector")
    }
}

/// Quantised vectors of one length, one behind the other in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedVectors {
    precision: Precision,
    dimensions: usize,
    rows: usize,
    values: Integers,
}

impl QuantizedVectors {
    /// Vectors that were quantised before: `[rows, precision.width(dimensions)]` integers, row by row.
    ///
    /// # Errors
    /// [`Error::Input`] where `dimensions` is 0, where signs are not those of the precision, and where a row is cut off.
    pub fn new(precision: Precision, dimensions: usize, values: Integers) -> Result<Self> {
        let width = precision.width(dimensions);
        if width == 0 {
            return Err(Error::input("quantised vectors have at least one dimension"));
        }
        if matches!(values, Integers::Signed(_)) != precision.is_signed() {
            let kind = if precision.is_signed() { "signed" } else { "unsigned" };
            return Err(Error::input(format!("vectors in {precision} are made of {kind} integers")));
        }
        if !values.len().is_multiple_of(width) {
            let length = values.len();
            return Err(Error::input(format!("{length} integers are no whole number of rows of {width}")));
        }
        Ok(Self { precision, dimensions, rows: values.len() / width, values })
    }

    /// No vectors.
    pub(super) fn none(precision: Precision) -> Self {
        Self { precision, dimensions: 0, rows: 0, values: Integers::none(precision) }
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What the vectors are kept as.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Dimensions of the vectors before they were quantised; may be 0 where there are none.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Integers of a row.
    pub fn width(&self) -> usize {
        self.precision.width(self.dimensions)
    }

    /// All integers, row by row.
    pub fn values(&self) -> &Integers {
        &self.values
    }

    /// All integers, row by row, without a copy.
    pub fn into_values(self) -> Integers {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(precision: Precision) -> Quantizer {
        let ranges = precision.has_ranges().then(|| Ranges::new(vec![0.0, -1.0, 2.0], vec![255.0, 1.0, 2.0]).unwrap());
        Quantizer::new(precision, ranges).unwrap()
    }

    #[test]
    fn scalars_are_steps_of_a_range() {
        let quantized = |vector| unit(Precision::Uint8).quantize_one(vector).unwrap();
        assert_eq!(quantized(&[0.0, -1.0, 2.0]), Integers::Unsigned(vec![0, 0, 0]));
        // Rounding leaves the highest value of [-1, 1] a little short of 255 steps, in numpy too.
        assert_eq!(quantized(&[254.99, 1.0, 2.99]), Integers::Unsigned(vec![254, 254, 0]));
        // Beyond the range, and with steps of 1 where a dimension has no extent.
        assert_eq!(quantized(&[1e30, -7.0, 5.5]), Integers::Unsigned(vec![255, 0, 3]));
        assert_eq!(quantized(&[-1e30, -0.0, -5.5]), Integers::Unsigned(vec![0, 127, 0]));
        let signed = unit(Precision::Int8).quantize_one(&[254.99, 1.0, -9.0]).unwrap();
        assert_eq!(signed, Integers::Signed(vec![126, 126, -128]));
    }

    #[test]
    fn bits_are_signs_from_the_highest_down() {
        let vector = [1.0f32, -1.0, 0.0, -0.0, 1e-45, 2.0, -3.0, 4.0, 5.0];
        let unsigned = unit(Precision::Ubinary).quantize_one(&vector).unwrap();
        assert_eq!(unsigned, Integers::Unsigned(vec![0b1000_1101, 0b1000_0000]));
        let signed = unit(Precision::Binary).quantize_one(&vector).unwrap();
        assert_eq!(signed, Integers::Signed(vec![13, 0]));
    }

    #[test]
    fn what_cannot_be_quantised_is_refused() {
        let refused = |precision, vector: &[f32]| unit(precision).quantize_one(vector).unwrap_err().to_string();
        for (precision, _) in Precision::ALL {
            assert!(refused(precision, &[0.0, f32::NAN, 0.0]).contains("NaN in dimension 1"));
            assert!(refused(precision, &[f32::NEG_INFINITY, 0.0, 0.0]).contains("-inf in dimension 0"));
            assert!(refused(precision, &[]).contains("without dimensions"));
        }
        assert!(refused(Precision::Int8, &[0.0]).contains("ranges have 3 dimensions, the vectors 1"));
        assert!(matches!(Quantizer::new(Precision::Int8, None), Err(Error::NoRanges { .. })));
        let ranges = unit(Precision::Int8).ranges().cloned();
        assert!(Quantizer::new(Precision::Binary, ranges).unwrap_err().to_string().contains("signs alone"));
        let uneven = unit(Precision::Binary).quantize(&[vec![1.0f32], vec![1.0, 2.0]]);
        assert!(uneven.unwrap_err().to_string().contains("2 dimensions among vectors of 1"));
    }

    #[test]
    fn stored_vectors_must_be_whole_rows_of_their_kind() {
        let new = |precision, dimensions, values| QuantizedVectors::new(precision, dimensions, values);
        let stored = new(Precision::Binary, 28, Integers::Signed(vec![0; 8])).unwrap();
        assert_eq!((stored.len(), stored.width(), stored.dimensions()), (2, 4, 28));
        assert_eq!(stored.clone().into_values(), *stored.values());
        let refused = |precision, dimensions, values| new(precision, dimensions, values).unwrap_err().to_string();
        assert!(refused(Precision::Binary, 28, Integers::Signed(vec![0; 7])).contains("rows of 4"));
        assert!(refused(Precision::Binary, 28, Integers::Unsigned(vec![0; 8])).contains("signed integers"));
        assert!(refused(Precision::Uint8, 0, Integers::Unsigned(vec![])).contains("at least one"));
    }

    #[test]
    fn a_vector_is_quantised_the_same_alone_and_among_others() {
        let vectors: Vec<[f32; 3]> = (0..7).map(|i| [i as f32 * 30.3, i as f32 * 0.3 - 1.0, 2.0 + i as f32]).collect();
        for (precision, _) in Precision::ALL {
            let all = unit(precision).quantize(&vectors).unwrap();
            let alone = vectors.iter().map(|vector| unit(precision).quantize_one(vector).unwrap().to_bytes());
            assert_eq!(all.values().to_bytes(), alone.flatten().collect::<Vec<_>>());
            assert_eq!((all.len(), all.width()), (7, precision.width(3)));
        }
        assert!(unit(Precision::Int8).quantize::<[f32; 3]>(&[]).unwrap().is_empty());
    }
}
