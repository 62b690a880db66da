//! Any bytes as `model.safetensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod load;

fuzz_target!(|data: &[u8]| load::everything("model.safetensors", data));
