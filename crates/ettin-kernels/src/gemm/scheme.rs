//! The number formats of a product, by name.

use std::{fmt, str::FromStr};

use super::formats::Form;
use crate::isa::Isa;

/// How a weight is stored and its product computed. Sums are f32 everywhere but in [`Scheme::Int8`], whose sums are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// IEEE single precision, multiplied and added as f32.
    F32,
    /// Both factors rounded to bf16.
    Bf16,
    /// Both factors as two bf16 parts, three products: errors of about 2⁻¹⁶.
    Bf16x3,
    /// Both factors as three bf16 parts, six products: as exact as f32.
    Bf16x6,
    /// Weights in signed bytes with a factor per output, activations in bytes with a factor per row, summed exactly.
    Int8,
    /// Weights in signed bytes with a factor per output; activations and sums in f32 (with VNNI, activations in 23 bits beside the largest of 64).
    W8,
    /// Weights in four bits with a bf16 factor for every 32 inputs of an output; activations and sums as in `W8`.
    W4,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 7] =
        [Scheme::F32, Scheme::Bf16, Scheme::Bf16x3, Scheme::Bf16x6, Scheme::Int8, Scheme::W8, Scheme::W4];

    /// Its name: `f32`, `bf16`, `bf16x3`, `bf16x6`, `int8`, `w8` or `w4`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::F32 => "f32",
            Scheme::Bf16 => "bf16",
            Scheme::Bf16x3 => "bf16x3",
            Scheme::Bf16x6 => "bf16x6",
            Scheme::Int8 => "int8",
            Scheme::W8 => "w8",
            Scheme::W4 => "w4",
        }
    }

    /// Whether activations lose accuracy on their way into a product.
    pub fn rounds_activations(self) -> bool {
        matches!(self, Scheme::Bf16 | Scheme::Int8)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Scheme::ALL.into_iter().find(|scheme| scheme.name() == name).ok_or_else(|| format!("unknown scheme `{name}`"))
    }
}

/// A computation written once for all schemes.
pub(crate) trait WithForm {
    type Output;

    /// Implementations are `#[inline(always)]`.
    fn run<F: Form>(self) -> Self::Output;
}

/// Evaluates an expression with the form of a scheme on an instruction set as a type: `with_form!(scheme, isa, F => F::steps(k))`.
/// This is the one place that says which form computes what.
macro_rules! with_form {
    ($scheme:expr, $isa:expr, $form:ident => $do:expr) => {{
        use $crate::gemm::{Scheme, formats};
        match $scheme {
            Scheme::F32 => $crate::gemm::with_form!(@ $form = formats::f32::Full => $do),
            Scheme::Bf16 if $isa.has_fast_dot_bf16() => {
                $crate::gemm::with_form!(@ $form = formats::bf16::Split<1> => $do)
            }
            Scheme::Bf16 => $crate::gemm::with_form!(@ $form = formats::bf16_widened::Halves => $do),
            Scheme::Bf16x3 => $crate::gemm::with_form!(@ $form = formats::bf16::Split<2> => $do),
            Scheme::Bf16x6 => $crate::gemm::with_form!(@ $form = formats::bf16::Split<3> => $do),
            Scheme::Int8 => $crate::gemm::with_form!(@ $form = formats::int8::Bytes => $do),
            Scheme::W8 if $isa.has_dot_i8() => {
                $crate::gemm::with_form!(@ $form = formats::integer_activations::Fixed<formats::w8::Wide> => $do)
            }
            Scheme::W4 if $isa.has_dot_i8() => {
                $crate::gemm::with_form!(@ $form = formats::integer_activations::Fixed<formats::w4::Nibbles> => $do)
            }
            Scheme::W8 => $crate::gemm::with_form!(@ $form = formats::w8::Wide => $do),
            Scheme::W4 => $crate::gemm::with_form!(@ $form = formats::w4::Nibbles => $do),
        }
    }};
    (@ $form:ident = $type:ty => $do:expr) => {{
        type $form = $type;
        $do
    }};
}
pub(crate) use with_form;

impl Scheme {
    /// Runs `task` with the scheme, on an instruction set, as a type.
    #[inline(always)]
    pub(crate) fn with<T: WithForm>(self, isa: Isa, task: T) -> T::Output {
        with_form!(self, isa, F => task.run::<F>())
    }
}
