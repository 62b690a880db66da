//! The number formats of a product, by name.

use std::{fmt, str::FromStr};

/// How a weight is stored and its product computed. Sums are f32 everywhere but in [`Scheme::Int8`], whose sums are
/// exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// IEEE single precision, multiplied and added as f32.
    F32,
    /// Both operands rounded to bf16.
    Bf16,
    /// Both operands as two bf16 parts, three products: errors of about 2⁻¹⁶.
    Bf16x3,
    /// Both operands as three bf16 parts, six products: as exact as f32.
    Bf16x6,
    /// Weights in signed bytes with a scale per output, activations in bytes with a scale per row, summed exactly.
    Int8,
    /// Weights in signed bytes with a scale per output; activations and sums in f32 (with VNNI, activations in 23 bits
    /// beside the largest of 64).
    W8,
    /// Weights in four bits with a bf16 scale for every 32 inputs of an output; activations and sums as in `W8`.
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

/// Evaluates an expression with the microkernel of a scheme on an instruction set as a type: `with_microkernel!(scheme,
/// isa, F => F::steps(k))`. With a token's type before it (`with_microkernel!(scheme, isa, S, F => …)`), the expression
/// is not compiled for tokens that the microkernel never runs on. This is the one place that says which microkernel
/// computes what.
macro_rules! with_microkernel {
    ($scheme:expr, $isa:expr, $form:ident => $do:expr) => {{
        use $crate::gemm::{Scheme, formats};
        match $scheme {
            Scheme::F32 => $crate::gemm::with_microkernel!(@ $form = formats::f32::F32 => $do),
            Scheme::Bf16 if $isa.has_fast_dot_bf16() => {
                $crate::gemm::with_microkernel!(@ $form = formats::bf16::Bf16Parts<1> => $do)
            }
            Scheme::Bf16 => $crate::gemm::with_microkernel!(@ $form = formats::bf16_widened::Bf16Widened => $do),
            Scheme::Bf16x3 => $crate::gemm::with_microkernel!(@ $form = formats::bf16::Bf16Parts<2> => $do),
            Scheme::Bf16x6 => $crate::gemm::with_microkernel!(@ $form = formats::bf16::Bf16Parts<3> => $do),
            Scheme::Int8 => $crate::gemm::with_microkernel!(@ $form = formats::int8::W8A8 => $do),
            Scheme::W8 if $isa.has_dot_i8() => {
                $crate::gemm::with_microkernel!(@ $form = formats::integer_activations::IntegerActivations<formats::w8::W8A32> => $do)
            }
            Scheme::W4 if $isa.has_dot_i8() => {
                $crate::gemm::with_microkernel!(@ $form = formats::integer_activations::IntegerActivations<formats::w4::W4A32> => $do)
            }
            Scheme::W8 => $crate::gemm::with_microkernel!(@ $form = formats::w8::W8A32 => $do),
            Scheme::W4 => $crate::gemm::with_microkernel!(@ $form = formats::w4::W4A32 => $do),
        }
    }};
    ($scheme:expr, $isa:expr, $token:ty, $form:ident => $do:expr) => {
        $crate::gemm::with_microkernel!($scheme, $isa, $form => {
            // A constant, so that what is never run is not compiled either.
            if const {
                use $crate::gemm::formats::Microkernel as _;
                if <$token>::HAS_DOT_I8 { <$form>::RUNS_WITH_DOT } else { <$form>::RUNS_WITHOUT_DOT }
            } {
                $do
            } else {
                unreachable!("a format for another instruction set")
            }
        })
    };
    (@ $form:ident = $type:ty => $do:expr) => {{
        type $form = $type;
        $do
    }};
}
pub(crate) use with_microkernel;
