//! Little-endian bytes, aligned or not, to rows of f32.

use half::{bf16, f16, slice::HalfFloatSliceExt};

/// How a file stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Not halved: f32 as it is.
    F32,
}

impl Half {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Half::F16 | Half::Bf16 => 2,
            Half::F32 => 4,
        }
    }
}

/// Reads `out.len()` little-endian numbers, exactly.
///
/// # Panics
/// If `bytes` is not `out.len()` numbers long.
pub fn widen(bytes: &[u8], half: Half, out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * half.size(), "{} numbers of {half:?}", out.len());
    match half {
        Half::F32 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(bytes);
            }
        }
        Half::Bf16 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(bytes).to_f32();
            }
        }
        Half::F16 => {
            // The conversion instruction works on aligned slices: through a block on the stack.
            let mut block = [f16::ZERO; 64];
            for (out, bytes) in out.chunks_mut(block.len()).zip(bytes.chunks(2 * block.len())) {
                let block = &mut block[..out.len()];
                for (half, &bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
                    *half = f16::from_le_bytes(bytes);
                }
                block.convert_to_f32_slice(out);
            }
        }
    }
}
