//! Any bytes as the files that lie around a trunk in a repository of sentence-transformers or PyLate (`modules.json`,
//! settings, configurations and weights of modules): an error, or a model that answers.
#![no_main]

use std::path::Path;

use ettin::files::ModelFiles;
use ettin::identity;
use ettin::tasks::{
    EmbedRequest, MultiVectorEncoder, MultiVectorRequest, Options, RerankInput, RerankRequest, Reranker, SearchSide,
    TextEmbedder, Truncate,
};
use libfuzzer_sys::fuzz_target;

mod sections;

const TRUNK: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
const TEXTS: [&str; 3] = ["The cat sat on the mat.", "", "A kitten, on the rug!"];

fuzz_target!(|data: &[u8]| {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-text-late-interaction");
    let folder = tempfile::tempdir().expect("a folder for the input");
    for name in TRUNK {
        std::os::unix::fs::symlink(base.join(name), folder.path().join(name)).expect("a link to the trunk");
    }
    sections::write(&sections::sections(data), folder.path());
    let files = ModelFiles::folder(folder.path()).expect("the folder was made");
    let options = Options::default().with_truncate(Truncate::Model);
    let _ = identity::describe(&files);
    if let Ok(embedder) = TextEmbedder::load(&files, &options) {
        let _ = embedder.run(&TEXTS, &EmbedRequest::default().with_decode(embedder.is_sparse()));
        let _ = embedder.run(&TEXTS, &EmbedRequest::default().with_side(SearchSide::Query));
    }
    if let Ok(encoder) = MultiVectorEncoder::load(&files, &options) {
        for side in [SearchSide::Query, SearchSide::Document] {
            let _ = encoder.run(&TEXTS, &MultiVectorRequest::default().with_side(side).with_pool_factor(2.0));
        }
    }
    if let Ok(reranker) = Reranker::load(&files, &options) {
        let input = RerankInput { query: TEXTS[0], documents: TEXTS.to_vec() };
        let _ = reranker.run(&[input], &RerankRequest::default());
    }
});
