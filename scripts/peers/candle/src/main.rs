//! candle-transformers' ModernBERT as a peer: trunk to mean-pooled vectors, in f32 on the CPU.
//!
//! Speaks the protocol of `scripts/peers/README.md` on standard input and output.
//!
//! ```sh
//! peer-candle --model DIR
//! ```

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::modernbert::{Config, ModernBert};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// One piece of work; fields that belong to other kinds are ignored.
#[derive(Deserialize)]
struct Work {
    kind: String,
    #[serde(default)]
    sequences: Vec<Vec<u32>>,
    #[serde(default)]
    texts: Vec<String>,
    /// Sequences per padded batch; all at once when missing.
    batch: Option<usize>,
    #[serde(default = "once")]
    repeat: usize,
    #[serde(default)]
    vectors: bool,
}

fn once() -> usize {
    1
}

#[derive(Deserialize)]
struct Request {
    work: Work,
}

struct Peer {
    model: ModernBert,
    tokenizer: Option<Tokenizer>,
    pad: u32,
}

impl Peer {
    fn load(folder: &Path) -> Result<Self> {
        let config = config(folder)?;
        // SAFETY: nothing writes to the checkpoint while the harness runs.
        let weights = unsafe {
            VarBuilder::from_mmaped_safetensors(&[folder.join("model.safetensors")], DType::F32, &Device::Cpu)?
        };
        Ok(Self {
            model: ModernBert::load(weights, &config)?,
            tokenizer: Tokenizer::from_file(folder.join("tokenizer.json")).ok(),
            pad: config.pad_token_id,
        })
    }

    /// Mean-pooled vectors of sequences padded to the longest of them, `[sequences, hidden]`.
    fn embed(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let longest = sequences.iter().map(|sequence| sequence.len()).max().context("no sequences")?;
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for sequence in sequences {
            let padding = longest - sequence.len();
            ids.extend(sequence.iter().copied().chain(std::iter::repeat_n(self.pad, padding)));
            mask.extend((0..longest).map(|i| if i < sequence.len() { 1f32 } else { 0.0 }));
        }
        let shape = (sequences.len(), longest);
        let (ids, mask) = (Tensor::from_vec(ids, shape, &Device::Cpu)?, Tensor::from_vec(mask, shape, &Device::Cpu)?);
        let hidden = self.model.forward(&ids, &mask)?;
        let sums = hidden.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
        Ok(sums.broadcast_div(&mask.sum_keepdim(1)?)?.to_vec2()?)
    }

    /// The same for any number of sequences: longest first, `batch` of them at a time; vectors in the order given.
    fn embed_all(&self, sequences: &[Vec<u32>], batch: Option<usize>) -> Result<Vec<Vec<f32>>> {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(sequences[index].len()));
        let mut vectors = vec![Vec::new(); sequences.len()];
        for group in order.chunks(batch.unwrap_or(sequences.len()).max(1)) {
            let rows: Vec<&[u32]> = group.iter().map(|&index| &sequences[index][..]).collect();
            for (&index, vector) in group.iter().zip(self.embed(&rows)?) {
                vectors[index] = vector;
            }
        }
        Ok(vectors)
    }

    fn encode(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let tokenizer = self.tokenizer.as_ref().context("the model's folder has no tokenizer.json")?;
        let texts = texts.iter().map(String::as_str).collect();
        let encodings = tokenizer.encode_batch_fast(texts, true).map_err(anyhow::Error::msg)?;
        Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }

    fn answer(&self, work: &Work) -> Result<Value> {
        let (mut seconds, mut vectors, mut tokens) = (Vec::new(), Vec::new(), 0);
        for _ in 0..work.repeat {
            let started = Instant::now();
            let encoded;
            let sequences = match work.kind.as_str() {
                "embed" => &work.sequences,
                "text" => {
                    encoded = self.encode(&work.texts)?;
                    &encoded
                }
                kind => return Ok(json!({"unsupported": format!("candle-transformers has no {kind} here")})),
            };
            vectors = self.embed_all(sequences, work.batch)?;
            seconds.push(started.elapsed().as_secs_f64());
            tokens = sequences.iter().map(Vec::len).sum();
        }
        let mut answer = json!({"seconds": seconds, "tokens": tokens, "peak_rss": peak_rss()});
        if work.vectors {
            answer["vectors"] = json!(vectors);
        }
        Ok(answer)
    }
}

/// candle knows the older dialect of `config.json` alone; the harness writes the newer.
fn config(folder: &Path) -> Result<Config> {
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let number = |key: &str| json[key].as_u64().with_context(|| format!("config.json has no {key}"));
    let theta = |kind: &str| {
        json["rope_parameters"][kind]["rope_theta"]
            .as_f64()
            .with_context(|| format!("config.json has no theta for {kind}"))
    };
    Ok(Config {
        vocab_size: number("vocab_size")? as usize,
        hidden_size: number("hidden_size")? as usize,
        num_hidden_layers: number("num_hidden_layers")? as usize,
        num_attention_heads: number("num_attention_heads")? as usize,
        intermediate_size: number("intermediate_size")? as usize,
        max_position_embeddings: number("max_position_embeddings")? as usize,
        layer_norm_eps: json["norm_eps"].as_f64().context("config.json has no norm_eps")?,
        pad_token_id: number("pad_token_id")? as u32,
        global_attn_every_n_layers: every_n_layers(&json)?,
        global_rope_theta: theta("full_attention")?,
        local_attention: number("local_attention")? as usize,
        local_rope_theta: theta("sliding_attention")?,
        classifier_config: None,
    })
}

/// The period of global layers, of which layer 0 is one.
fn every_n_layers(json: &Value) -> Result<usize> {
    let kinds = json["layer_types"].as_array().context("config.json has no layer_types")?;
    let global: Vec<bool> = kinds.iter().map(|kind| kind == "full_attention").collect();
    let period = global.iter().skip(1).position(|&is| is).map_or(global.len(), |at| at + 1);
    if global.iter().enumerate().any(|(layer, &is)| is != (layer % period == 0)) {
        bail!("candle-transformers cannot have these layer_types");
    }
    Ok(period)
}

/// Peak resident memory of this process in bytes, where Linux tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [flag, folder] = &words[..] else { bail!("usage: peer-candle --model DIR") };
    if flag != "--model" {
        bail!("unknown flag {flag}; usage: peer-candle --model DIR");
    }
    let peer = Peer::load(Path::new(folder))?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", json!({"ready": "candle-transformers 0.11.1"}))?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = peer.answer(&request.work).unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}
