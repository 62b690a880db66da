//! Loading holds no tensor twice: the peak stays near the size of the packed weights.
#![cfg(target_os = "linux")]

mod common;

use std::io::Write;

use common::backend;
use ettin::{files::ModelFiles, heads::LanguageModel};

const VOCABULARY: usize = 50_368;
const HIDDEN: usize = 512;
const INNER: usize = 768;
const LAYERS: usize = 12;

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// An encoder of medium size in f32; returns its number of parameters.
fn write_model(folder: &std::path::Path) -> usize {
    let config = serde_json::json!({
        "model_type": "modernbert", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_attention_heads": HIDDEN / 64,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "decoder_bias": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![
        ("model.embeddings.tok_embeddings.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.embeddings.norm.weight".to_owned(), vec![HIDDEN]),
        ("model.final_norm.weight".to_owned(), vec![HIDDEN]),
        ("head.dense.weight".to_owned(), vec![HIDDEN, HIDDEN]),
        ("head.norm.weight".to_owned(), vec![HIDDEN]),
        // The tied matrix stored a second time, as old files do: it is compared, not kept.
        ("decoder.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        if layer > 0 {
            tensors.push((name("attn_norm"), vec![HIDDEN]));
        }
        tensors.push((name("attn.Wqkv"), vec![3 * HIDDEN, HIDDEN]));
        tensors.push((name("attn.Wo"), vec![HIDDEN, HIDDEN]));
        tensors.push((name("mlp_norm"), vec![HIDDEN]));
        tensors.push((name("mlp.Wi"), vec![2 * INNER, HIDDEN]));
        tensors.push((name("mlp.Wo"), vec![HIDDEN, INNER]));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in &tensors {
        let size = 4 * shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}),
        );
        end += size;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    let mut file = std::io::BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    let chunk = 0.01f32.to_le_bytes().repeat(1 << 16);
    let mut left = end;
    while left > 0 {
        let size = left.min(chunk.len());
        file.write_all(&chunk[..size]).unwrap();
        left -= size;
    }
    file.flush().unwrap();
    end / 4 - VOCABULARY * HIDDEN
}

#[test]
fn loading_peaks_near_the_packed_size() {
    let folder = tempfile::tempdir().unwrap();
    let packed = 4 * write_model(folder.path());
    let backend = backend();
    // 5 resets the peak to what is resident now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let model = LanguageModel::load(&ModelFiles::folder(folder.path()).unwrap(), &backend).unwrap();
    let (peak, after) = (status("VmHWM") - before, status("VmRSS") - before);
    println!("packed {} MiB, peak {} MiB, after {} MiB", packed >> 20, peak >> 20, after >> 20);
    let bound = packed + packed * 15 / 100 + (64 << 20);
    assert!(peak <= bound, "peak {peak}, allowed {bound} for {packed} packed");
    assert!(after >= packed, "the weights are in memory, not in the file: {after} of {packed}");
    drop(model);
}
