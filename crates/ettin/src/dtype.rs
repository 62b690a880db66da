//! Number formats that weights are stored in.

use ettin_kernels::Quantization;

/// Number formats a weight may be stored in, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoredDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Rows of eight-bit codes with a scale each; matrices only.
    W8,
    /// Rows of four-bit codes with a scale for every 32; matrices only.
    W4,
}

impl StoredDtype {
    /// Bytes of a row of so many elements, scales not counted.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            StoredDtype::F32 => 4 * columns,
            StoredDtype::F16 | StoredDtype::BF16 => 2 * columns,
            StoredDtype::W8 => Quantization::W8.code_bytes(columns),
            StoredDtype::W4 => Quantization::W4.code_bytes(columns),
        }
    }

    /// How rows are quantised, where they are.
    pub fn quantization(self) -> Option<Quantization> {
        match self {
            StoredDtype::F32 | StoredDtype::F16 | StoredDtype::BF16 => None,
            StoredDtype::W8 => Some(Quantization::W8),
            StoredDtype::W4 => Some(Quantization::W4),
        }
    }

    /// torch's name: `float32`, `float16`, `bfloat16`; `w8` and `w4`, which torch does not know.
    pub fn name(self) -> &'static str {
        match self {
            StoredDtype::F32 => "float32",
            StoredDtype::F16 => "float16",
            StoredDtype::BF16 => "bfloat16",
            StoredDtype::W8 => "w8",
            StoredDtype::W4 => "w4",
        }
    }

    /// From torch's name (`float32`), or the short one (`f32`); one that a configuration may claim.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "float32" | "float" | "f32" => Some(StoredDtype::F32),
            "float16" | "half" | "f16" => Some(StoredDtype::F16),
            "bfloat16" | "bf16" => Some(StoredDtype::BF16),
            _ => None,
        }
    }

    /// safetensors' name of the elements (`F32`, `F16`, `BF16`) or codes (`I8`, `U8`).
    pub(crate) fn tag(self) -> &'static str {
        match self {
            StoredDtype::F32 => "F32",
            StoredDtype::F16 => "F16",
            StoredDtype::BF16 => "BF16",
            StoredDtype::W8 => "I8",
            StoredDtype::W4 => "U8",
        }
    }
}
