//! Any bytes as `adapter_config.json` and `adapter_model.safetensors` on top of a small encoder: an error, or a model
//! that computes.
#![no_main]

use std::path::Path;

use ettin::files::ModelFiles;
use ettin::heads::LanguageModel;
use ettin::params::Adapter;
use ettin::{Backend, PackedBatch};
use libfuzzer_sys::fuzz_target;

mod sections;

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder for the input");
    sections::write(&sections::sections(data), folder.path());
    let files = ModelFiles::folder(folder.path()).expect("the folder was made");
    if let Ok(adapter) = Adapter::load(&files) {
        assert!(adapter.layers().count() + adapter.replaced().count() > 0);
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-encoder");
        let base = ModelFiles::folder(base).and_then(|base| base.with_adapter("fuzzed", files));
        let backend = Backend::cpu().expect("the CPU computes in f32");
        if let Ok(model) = LanguageModel::load(&base.expect("one adapter"), &backend) {
            let batch = PackedBatch::new(&[[2, 5, 3]]).expect("three tokens");
            let _ = model.logits(&batch, &[0, 2]);
        }
    }
});
