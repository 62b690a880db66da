//! Continues a text as it comes: `cargo run --example generate [MODEL] [PROMPT]`

use std::io::Write;

use ettin::files::ModelFiles;
use ettin::generate::GenerateRequest;
use ettin::tasks::{Generator, Options};

fn main() -> ettin::Result<()> {
    let mut words = std::env::args().skip(1);
    let nano = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
    let files = ModelFiles::open(&words.next().unwrap_or_else(|| nano.to_owned()))?;
    let prompt = words.next().unwrap_or_else(|| "Once upon a time".to_owned());

    let generator = Generator::load(&files, &Options::default())?;
    let request = GenerateRequest::default().with_max_new_tokens(32);
    print!("{prompt}");
    for piece in generator.stream(&prompt, &request)? {
        print!("{}", piece?.text);
        // A reader that has gone away ends the generation.
        if std::io::stdout().flush().is_err() {
            break;
        }
    }
    println!();
    Ok(())
}
