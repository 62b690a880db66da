//! Any bytes as `tokenizer.json`; whatever loads must encode and decode.
#![no_main]

use ettin::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_bytes(data)
        && let Ok(encoding) = tokenizer.encode("The capital of France is [MASK].", Some("Paris"), true)
    {
        let _ = tokenizer.decode(&encoding.ids, true);
    }
});
