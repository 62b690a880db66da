//! Any bytes as a file of ranges: an error or ranges that quantise.
#![no_main]

use ettin::files::FileData;
use ettin::quantization::{Precision, Quantizer, Ranges};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(ranges) = Ranges::from_file(&FileData::from_bytes("ranges", data)) {
        let vector = ranges.high().to_vec();
        let quantizer = Quantizer::new(Precision::Uint8, ranges).expect("ranges were given");
        quantizer.quantize_one(&vector).expect("ends of ranges are finite");
    }
});
