//! Any bytes as `pytorch_model.bin`.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod load;

fuzz_target!(|data: &[u8]| load::everything("pytorch_model.bin", data));
