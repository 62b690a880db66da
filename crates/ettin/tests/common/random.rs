//! Small models of any shape with random weights, as files: what fixtures of a few shapes cannot cover.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use ettin::files::ModelFiles;
use serde_json::json;
use tempfile::TempDir;

/// What a model is like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub decoder: bool,
    pub heads: usize,
    pub head_dim: usize,
    pub intermediate: usize,
    pub vocabulary: usize,
    pub layers: usize,
    /// Tokens that a local layer sees.
    pub window: usize,
    pub labels: usize,
    pub biases: bool,
    pub tied: bool,
    pub activation: &'static str,
}

impl Shape {
    pub fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Numbers that look random and are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 33);
        x.wrapping_mul(0xFF51_AFD7_ED55_8CCD) >> 16
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Uniform in ±1.
    fn unit(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Token ids; 0 is the padding of these models.
    pub fn ids(&mut self, len: usize, vocabulary: usize) -> Vec<u32> {
        (0..len).map(|_| 1 + self.below(vocabulary - 1) as u32).collect()
    }
}

/// The tensors of a model under the names of transformers, those of every head included. Outputs are about as large as
/// inputs, norms are not 1 and biases not 0, so that a fault anywhere shows.
pub fn tensors(shape: &Shape, seed: u64) -> BTreeMap<String, Tensor> {
    let (hidden, inner) = (shape.hidden(), shape.intermediate);
    let mut random = Random::new(seed);
    let mut tensors = BTreeMap::new();
    let mut put = |name: String, shape: &[usize], value: &mut dyn FnMut(&mut Random) -> f32| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value(&mut random)).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    let mut linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
        let scale = (3.0 / inputs as f32).sqrt();
        put(format!("{name}.weight"), &[outputs, inputs], &mut |random| scale * random.unit());
        if bias {
            put(format!("{name}.bias"), &[outputs], &mut |random| 0.3 * random.unit());
        }
    };
    let head = if shape.decoder { "lm_head" } else { "head" };
    for layer in 0..shape.layers {
        linear(&format!("model.layers.{layer}.attn.Wqkv"), 3 * hidden, hidden, shape.biases);
        linear(&format!("model.layers.{layer}.attn.Wo"), hidden, hidden, shape.biases);
        linear(&format!("model.layers.{layer}.mlp.Wi"), 2 * inner, hidden, shape.biases);
        linear(&format!("model.layers.{layer}.mlp.Wo"), hidden, inner, shape.biases);
    }
    linear("head.dense", hidden, hidden, shape.biases);
    linear(&format!("{head}.dense"), hidden, hidden, shape.biases);
    linear("classifier", shape.labels, hidden, shape.biases || !shape.decoder);
    if !shape.tied {
        linear("decoder", shape.vocabulary, hidden, false);
    }
    put("decoder.bias".to_owned(), &[shape.vocabulary], &mut |random| 0.3 * random.unit());
    let table = "model.embeddings.tok_embeddings.weight".to_owned();
    put(table, &[shape.vocabulary, hidden], &mut |random| 1.7 / (hidden as f32).sqrt() * random.unit());
    let norms = (0..shape.layers).flat_map(|layer| {
        let attention = (layer > 0).then(|| format!("model.layers.{layer}.attn_norm"));
        attention.into_iter().chain([format!("model.layers.{layer}.mlp_norm")])
    });
    let others = ["model.embeddings.norm", "model.final_norm", "head.norm", "lm_head.norm"];
    let others = others.into_iter().filter(|name| shape.decoder || !name.starts_with("lm_head")).map(str::to_owned);
    for norm in norms.chain(others) {
        put(format!("{norm}.weight"), &[hidden], &mut |random| 1.0 + 0.4 * random.unit());
        if shape.biases {
            put(format!("{norm}.bias"), &[hidden], &mut |random| 0.2 * random.unit());
        }
    }
    tensors
}

/// A model's folder, which is gone with the first of the two.
pub fn save(shape: &Shape, tensors: &BTreeMap<String, Tensor>) -> (TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    let labels: BTreeMap<String, String> = (0..shape.labels).map(|i| (i.to_string(), format!("L{i}"))).collect();
    let ids = |label: &str| label.trim_start_matches('L').parse::<usize>().unwrap();
    let label2id: BTreeMap<&String, usize> = labels.values().map(|label| (label, ids(label))).collect();
    let config = json!({
        "model_type": if shape.decoder { "modernbert-decoder" } else { "modernbert" },
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden(),
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": 256,
        "global_attn_every_n_layers": 2,
        "local_attention": shape.window,
        "norm_bias": shape.biases,
        "attention_bias": shape.biases,
        "mlp_bias": shape.biases,
        "classifier_bias": shape.biases,
        "decoder_bias": true,
        "hidden_activation": shape.activation,
        "classifier_activation": shape.activation,
        "tie_word_embeddings": shape.tied,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0,
        "id2label": labels, "label2id": label2id,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    (folder, files)
}
