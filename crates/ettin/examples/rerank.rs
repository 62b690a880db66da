//! Ranks documents by how well they answer a query: `cargo run --example rerank [MODEL]`
//!
//! Without a model it takes a tiny one with random weights, whose ranks mean nothing.

use ettin::files::ModelFiles;
use ettin::tasks::{Options, Reranker};

fn main() -> ettin::Result<()> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-text-rerank-chain");
    let files = ModelFiles::open(&std::env::args().nth(1).unwrap_or_else(|| tiny.to_owned()))?;
    let documents = ["Pears are green.", "Apple was founded in Los Altos.", "The sea is deep."];

    let reranker = Reranker::load(&files, &Options::default())?;
    for ranked in reranker.rerank("Where was Apple founded?", &documents)? {
        println!("{:.3}  {}", ranked.score, documents[ranked.index]);
    }
    Ok(())
}
