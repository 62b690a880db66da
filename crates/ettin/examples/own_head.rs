//! A head of your own on the CPU kernels, over texts in packed batches: `cargo run --example own_head [MODEL]`

use ettin::ops::{self, LinearParams, Matrix, Vector};
use ettin::tasks::{Options, Preprocessor};
use ettin::{Backend, files::ModelFiles, heads::Embedder};

fn main() -> ettin::Result<()> {
    let nano = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
    let files = ModelFiles::open(&std::env::args().nth(1).unwrap_or_else(|| nano.to_owned()))?;
    let backend = Backend::cpu()?;
    let model = Embedder::load(&files, &backend)?;
    let preprocessor = Preprocessor::load(&files, model.config(), &Options::default())?;

    // Two outputs; a real head would read its rows from a file.
    let (outputs, inputs) = (2, model.config().hidden_size);
    let fill = |output: usize, row: &mut [f32]| row.fill(if output == 0 { 0.01 } else { -0.01 });
    let weight = Matrix::Rows { outputs, inputs, fill: Box::new(fill) };
    let head = backend.linear(LinearParams { weight, bias: Some(Vector::Values(vec![0.5, -0.5])) })?;

    let texts = ["The cat sat.", "Birds sing in the morning.", "No."];
    let encode = |text: &&str| preprocessor.encode((*text).into());
    let scored = preprocessor.run(&texts, encode, |batch, _| {
        let firsts = model.trunk().forward(batch)?.select(&batch.offsets()[..batch.sequences()])?;
        let scores = ops::linear(&firsts, &head)?.to_tensor()?.to_vec2::<f32>()?; // [sequences, 2]
        Ok(scores.into_iter().map(Ok).collect())
    })?;
    for (text, outcome) in texts.iter().zip(scored) {
        println!("{:?}  {text}", outcome?.value);
    }
    Ok(())
}
