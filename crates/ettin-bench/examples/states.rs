//! Writes the hidden states of every layer and the logits of a language model for given token ids.
//!
//! Our half of `scripts/parity.py`. The ids file holds a JSON list of lists of token ids; the output holds, for
//! sequence `i`, `hidden.{i}.{l}` (`[tokens, hidden]`: the embedding, then the residual stream after each layer),
//! `final.{i}` (after the final norm) and `logits.{i}` (`[tokens, vocabulary]`, or only the last rows under
//! `--logit-rows`). Computed in `--dtype`, f32 unless told otherwise.
//!
//! ```sh
//! cargo run --release -p ettin-bench --example states -- --model DIR --ids ids.json --output states.safetensors
//! ```

use std::{collections::HashMap, error::Error, path::PathBuf};

use candle_core::Device;
use ettin::{Backend, Dtype, PackedBatch, files::ModelFiles, heads::LanguageModel};

/// What was asked for on the command line.
struct Arguments {
    model: PathBuf,
    ids: PathBuf,
    output: PathBuf,
    logit_rows: usize,
    dtype: Dtype,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let (mut model, mut ids, mut output, mut logit_rows, mut dtype) = (None, None, None, usize::MAX, Dtype::F32);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--model" => model = Some(value.into()),
            "--ids" => ids = Some(value.into()),
            "--output" => output = Some(value.into()),
            "--logit-rows" => logit_rows = value.parse()?,
            "--dtype" => dtype = value.parse()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    Ok(Arguments {
        model: model.ok_or("--model DIR is missing")?,
        ids: ids.ok_or("--ids FILE is missing")?,
        output: output.ok_or("--output FILE is missing")?,
        logit_rows,
        dtype,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let sequences: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(&arguments.ids)?)?;
    let backend = Backend::new(&Device::Cpu, arguments.dtype)?;
    eprintln!("{}", backend.describe());
    let model = LanguageModel::load(&ModelFiles::folder(&arguments.model)?, &backend)?;
    let mut tensors = HashMap::new();
    for (index, ids) in sequences.iter().enumerate() {
        let batch = PackedBatch::new(&[ids])?;
        for (layer, states) in model.trunk().residuals(&batch)?.into_iter().enumerate() {
            tensors.insert(format!("hidden.{index}.{layer}"), states);
        }
        let hidden = model.trunk().forward(&batch)?;
        tensors.insert(format!("final.{index}"), hidden.to_tensor()?);
        let rows: Vec<usize> = (ids.len().saturating_sub(arguments.logit_rows)..ids.len()).collect();
        tensors.insert(format!("logits.{index}"), model.project(&hidden, &rows)?);
    }
    candle_core::safetensors::save(&tensors, &arguments.output)?;
    Ok(())
}
