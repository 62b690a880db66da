//! The checks notice wrong kernels: each of these edits of the sources must make one fail.

use candle_core::DType;
use ettin_gpu::emulator::{self, Dialect};

use crate::{Check, attention, cache, rows};

/// What is replaced by what, the check that must fail, and whether on tensor cores.
type Mutation = (&'static str, &'static str, fn(&ettin_gpu::Kernels, DType) -> Check, bool);

const MASK: [Mutation; 6] = [
    ("q - k <= left", "q - k <= left + 1u", attention::packed, false),
    ("q - k <= left", "q - k < left", attention::packed, false),
    ("k - q <= right", "k - q <= right + 1u", attention::packed, false),
    ("k - q <= right", "k - q < right", attention::packed, false),
    ("q - k <= left", "q - k <= left + 1u", attention::packed, true),
    ("k - q <= right", "k - q < right", attention::packed, true),
];

const OTHERS: [Mutation; 22] = [
    ("q - k <= left", "q - k < left", attention::packed, true),
    // Blocks of keys that need no mask.
    ("first + BLOCK > high ||", "", attention::packed, true),
    ("sees(position, first + BLOCK", "sees(position + count - 1u, first + BLOCK", attention::packed, true),
    ("sees(position + count - 1u, first,", "sees(position, first,", attention::packed, true),
    // Bounds of the keys that are visited.
    ("q - left : 0u", "q - left + 1u : 0u", attention::packed, false),
    ("len : q + right + 1u", "len : q + right", attention::packed, false),
    ("len : q + right + 1u", "len : q + right", attention::packed, true),
    ("span_end(position + count - 1u", "span_end(position + count - 2u", attention::packed, true),
    ("first = low / BLOCK * BLOCK", "first = low / BLOCK * BLOCK + BLOCK", attention::packed, true),
    // Where keys lie.
    ("kv + key_row(0u, start + at.x", "kv + key_row(0u, start + at.x + 1u", cache::stepwise, false),
    ("to[i] = from[i]", "to[i] = from[i + 1u]", cache::stepwise, false),
    ("u32 position = start + row", "u32 position = start + row + 1u", cache::stepwise, false),
    ("exponential(mine[i * width] - top)", "1.0f", cache::stepwise, false),
    // The online softmax.
    ("sums[i][j] *= keep;", ";", attention::packed, false),
    ("total[half] *= keep;", ";", attention::packed, true),
    // Barriers: the order of threads must not matter.
    (
        "        BARRIER();\n        for (u32 key = 0u; key < KEYS",
        "        for (u32 key = 0u; key < KEYS",
        attention::packed,
        false,
    ),
    ("= sum[j];\n    BARRIER();", "= sum[j];", cache::stepwise, false),
    // Rows.
    ("variance + eps", "variance", rows::norms, false),
    ("b * cos[angle] + a * sin[angle]", "b * cos[angle] - a * sin[angle]", rows::rotations, false),
    ("0.70710678f", "0.7071f", rows::gated_activations, false),
    ("(float)(weight + i)", "(float)(weight + i + 1u)", rows::pooling, false),
    ("i < size) narrow(activation", "i <= size) narrow(activation", rows::gated_activations, false),
];

fn notice(mutations: &[Mutation]) {
    for (index, &(from, to, check, mma)) in mutations.iter().enumerate() {
        let dialect = match (mma, index % 2) {
            (true, _) => Dialect::Cuda,
            (false, 0) => Dialect::CudaWithoutTensorCores,
            (false, _) => Dialect::Metal,
        };
        let edit = |source: String| {
            assert!(source.contains(from), "{from:?} is not in the sources");
            source.replace(from, to)
        };
        let Some(kernels) = emulator::kernels(dialect, edit).unwrap() else {
            eprintln!("skipped: there is no C++ compiler here to run the kernels with");
            return;
        };
        let dtype = if mma { DType::BF16 } else { DType::F32 };
        assert!(check(&kernels, dtype).is_err(), "{dialect:?}: {to:?} for {from:?} went unnoticed");
    }
}

#[test]
fn a_mask_off_by_one_is_noticed() {
    notice(&MASK);
}

/// `scripts/gpu/mutate.sh` runs it: every mutation is compiled, which takes a minute.
#[test]
#[ignore = "slow"]
fn every_other_mutation_is_noticed() {
    notice(&OTHERS);
}
