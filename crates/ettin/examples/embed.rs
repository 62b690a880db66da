//! Embeds texts and compares them: `cargo run --example embed [MODEL] [TEXT]...`

use ettin::files::ModelFiles;
use ettin::heads::Similarity;
use ettin::tasks::{EmbedRequest, Options, TextEmbedder};

fn main() -> ettin::Result<()> {
    let mut words = std::env::args().skip(1);
    let nano = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
    let files = ModelFiles::open(&words.next().unwrap_or_else(|| nano.to_owned()))?;
    let mut texts: Vec<String> = words.collect();
    if texts.is_empty() {
        texts = ["The cat sat on the mat.", "A kitten lay on the rug.", "Shares fell."].map(str::to_owned).to_vec();
    }

    let embedder = TextEmbedder::load(&files, &Options::default())?;
    let vectors = embedder.embed_with(&texts, &EmbedRequest::default().with_normalize(true))?;
    println!("{:?}", vectors.shape);
    for (text, vector) in texts.iter().zip(vectors.rows()) {
        println!("{:.3}  {text}", Similarity::Cosine.score(&vectors[0], vector));
    }
    Ok(())
}
