//! Fills the masks of a text: `cargo run --example fill_mask [MODEL] [TEXT]`

use ettin::files::ModelFiles;
use ettin::tasks::{FillMask, Options};

fn main() -> ettin::Result<()> {
    let mut words = std::env::args().skip(1);
    let nano = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
    let files = ModelFiles::open(&words.next().unwrap_or_else(|| nano.to_owned()))?;
    let text = words.next().unwrap_or_else(|| "The capital of France is [MASK].".to_owned());

    let fill_mask = FillMask::load(&files, &Options::default())?;
    for (mask, candidates) in fill_mask.fill(&text, 3)?.into_iter().enumerate() {
        for candidate in candidates {
            println!("mask {mask}: {:.3} {:?}  {}", candidate.score, candidate.token_str, candidate.sequence);
        }
    }
    Ok(())
}
