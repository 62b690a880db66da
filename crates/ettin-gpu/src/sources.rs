//! The kernels' sources, put together as compilers get them.

/// Kernels that every device runs, without the words that CUDA or Metal have for things.
const COMMON: &str = concat!(
    include_str!("../kernels/common.h"),
    include_str!("../kernels/norm.h"),
    include_str!("../kernels/elementwise.h"),
    include_str!("../kernels/attention.h"),
    include_str!("../kernels/decode.h"),
    include_str!("../kernels/pool.h"),
    include_str!("../kernels/entries.h"),
);

/// The file of the tensor core kernels.
const MMA: &str = include_str!("../kernels/attention_mma.cu");

/// Names of the kernels that exist for f32, f16 and bf16, without the suffix.
pub const NAMES: [&str; 11] = [
    "norm",
    "add_norm",
    "rope",
    "geglu",
    "append",
    "attention_64",
    "attention_128",
    "attend_split",
    "merge_splits",
    "pool",
    MMA_NAME,
];

/// The one kernel for tensor cores, in f16 and bf16 only.
pub const MMA_NAME: &str = "attention_mma";

/// The CUDA source of every kernel but those for tensor cores; compute capability 5.3 or later.
pub fn cuda() -> String {
    format!("{}{COMMON}", include_str!("../kernels/prelude.cu"))
}

/// The CUDA source of every kernel; compute capability 8.0 or later.
pub fn cuda_with_tensor_cores() -> String {
    format!("{}{MMA}", cuda())
}

/// The Metal source of every kernel but those for tensor cores.
pub fn metal() -> String {
    format!("{}{COMMON}", include_str!("../kernels/prelude.metal"))
}
