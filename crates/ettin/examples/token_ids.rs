//! Token ids in, tensors out, without any task: `cargo run --example token_ids [MODEL]`

use ettin::{Backend, PackedBatch, files::ModelFiles, heads::LanguageModel, tokenizer::Tokenizer};

fn main() -> ettin::Result<()> {
    let nano = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
    let files = ModelFiles::open(&std::env::args().nth(1).unwrap_or_else(|| nano.to_owned()))?;
    let model = LanguageModel::load(&files, &Backend::cpu()?)?;
    let tokenizer = Tokenizer::load(&files)?;

    let first = tokenizer.encode("The cat sat.", None, true)?.ids;
    let second = tokenizer.encode("Birds sing in the morning.", None, true)?.ids;
    let batch = PackedBatch::new(&[first, second])?;
    let hidden = model.trunk().forward(&batch)?;
    println!("hidden states {:?}", hidden.to_tensor()?.dims()); // [tokens, hidden]

    let rows = [batch.rows(0).start + 1, batch.rows(1).start + 1];
    println!("logits {:?}", model.project(&hidden, &rows)?.dims()); // [rows, vocabulary]
    Ok(())
}
