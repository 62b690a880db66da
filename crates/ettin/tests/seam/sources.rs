//! Names of a model's tensors, adapters, and a source of the caller's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use candle_core::{DType, Device, Tensor};
use ettin::{
    Config, Parameters,
    files::{FileData, ModelFiles},
    heads::LanguageModel,
    ops::{Matrix, Vector},
    params::Adapter,
    tensors::{Leaf, Role, Source, walk},
    weights::{Head, Weights},
};

use super::common::{assert_close, assert_same, model, relative_error, values};
use super::{all_logits, fused, reference};

fn open(name: &str) -> (ModelFiles, Config, Weights) {
    let files = model(name);
    let (config, weights) = (Config::load(&files).unwrap(), Weights::open(&files).unwrap());
    (files, config, weights)
}

#[test]
fn names_are_those_of_the_checkpoint() {
    for (name, head) in [
        ("tiny-encoder-biases", Head::Language),
        ("tiny-encoder-untied", Head::Language),
        ("tiny-decoder-biases", Head::Language),
        ("tiny-decoder-untied", Head::Language),
        ("tiny-encoder-token", Head::Classifier { outputs: 0 }),
    ] {
        let (_, config, weights) = open(name);
        let head = match head {
            Head::Classifier { .. } => Head::Classifier { outputs: config.labels.len() },
            other => other,
        };
        let parameters = Parameters::from_weights(&weights, &config, head).unwrap();
        let named: Vec<String> = parameters.tensors.named().iter().map(|(role, _)| role.to_string()).collect();
        let ours: BTreeSet<String> = named.iter().cloned().collect();
        assert_eq!(ours.len(), named.len(), "{name}: a name twice");
        // Three projections are one matrix here.
        let joined =
            |stored: &str| stored.replace("q_proj", "Wqkv").replace("k_proj", "Wqkv").replace("v_proj", "Wqkv");
        let theirs: BTreeSet<String> = weights.names().map(joined).collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

/// A framework's state dict.
struct State(HashMap<String, Tensor>);

impl Source for State {
    type Matrix = Matrix<'static>;
    type Vector = Vector;
    type Error = String;

    fn matrix(&mut self, role: Role, _: [usize; 2]) -> Result<Matrix<'static>, String> {
        self.0.remove(&role.to_string()).map(Matrix::Tensor).ok_or_else(|| role.to_string())
    }

    fn vector(&mut self, role: Role, _: usize) -> Result<Vector, String> {
        self.0.remove(&role.to_string()).map(Vector::Tensor).ok_or_else(|| role.to_string())
    }
}

#[test]
fn a_source_of_ones_own_fills_a_model() {
    let (files, config, weights) = open("tiny-encoder-biases");
    let state: HashMap<String, Tensor> =
        weights.views().map(|view| (view.name().to_owned(), view.tensor(&Device::Cpu, DType::F32).unwrap())).collect();
    let tensors = walk(&config, Head::Language, &mut State(state.clone())).unwrap();
    let ours = LanguageModel::build(Parameters::from_tensors(tensors), &config, &fused()).unwrap();
    assert_same("a state dict", &all_logits(&ours), &all_logits(&LanguageModel::load(&files, &fused()).unwrap()));

    let without = state.into_iter().filter(|(name, _)| !name.contains("layers.1.mlp.Wo.bias")).collect();
    let missing = walk(&config, Head::Language, &mut State(without)).unwrap_err();
    assert_eq!(missing, "model.layers.1.mlp.Wo.bias");
}

/// An adapter of rank 3 as PEFT saves it, on the layers of these names with their outputs and inputs.
fn adapter(layers: &[(&str, usize, usize)]) -> BTreeMap<String, Tensor> {
    let numbers = |shape: (usize, usize), seed: usize| {
        let values = (0..shape.0 * shape.1).map(|index| ((index * 53 + seed * 29) % 83) as f32 / 83.0 - 0.5);
        (Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap() * 0.6).unwrap()
    };
    let halves = layers.iter().enumerate().flat_map(|(seed, &(name, outputs, inputs))| {
        let name = format!("base_model.model.{name}");
        [
            (format!("{name}.lora_A.weight"), numbers((3, inputs), seed)),
            (format!("{name}.lora_B.weight"), numbers((outputs, 3), seed + 7)),
        ]
    });
    halves.collect()
}

fn read(tensors: BTreeMap<String, Tensor>) -> Weights {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    Weights::from_file(FileData::open(&path).unwrap().unwrap()).unwrap()
}

#[test]
fn an_adapter_merged_by_the_kernels_equals_it_apart() {
    for name in ["tiny-encoder-biases", "tiny-decoder"] {
        let (files, config, weights) = open(name);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let layers = match name {
            "tiny-decoder" => vec![
                ("model.layers.0.attn.q_proj", hidden, hidden),
                ("model.layers.0.attn.v_proj", hidden, hidden),
                ("model.layers.1.attn.k_proj", hidden, hidden),
                ("lm_head.dense", hidden, hidden),
            ],
            _ => vec![
                ("layers.0.attn.Wqkv", 3 * hidden, hidden),
                ("model.layers.1.attn.Wo", hidden, hidden),
                ("model.layers.0.mlp.Wi", 2 * inner, hidden),
                ("model.layers.1.mlp.Wo", hidden, inner),
            ],
        };
        let tensors = adapter(&layers);
        let adapter = Adapter::new(&read(tensors.clone()), 2.0).unwrap();
        let with = |backend: &ettin::Backend| {
            let parameters = Parameters::from_adapted_weights(&weights, &adapter, &config, Head::Language).unwrap();
            all_logits(&LanguageModel::build(parameters, &config, backend).unwrap())
        };
        let apart = with(&reference());
        assert_close(&format!("{name}, merged"), &with(&fused()), &apart, 1e-5);
        let without = all_logits(&LanguageModel::load(&files, &reference()).unwrap());
        assert!(relative_error(&apart, &without) > 1e-2, "{name}: the adapter does something");

        // The same by hand: a checkpoint with the sum in it.
        let mut state: HashMap<String, Tensor> = weights
            .views()
            .map(|view| (view.name().to_owned(), view.tensor(&Device::Cpu, DType::F32).unwrap()))
            .collect();
        for (layer, _, _) in layers {
            let half = |end: &str| &tensors[&format!("base_model.model.{layer}.{end}.weight")];
            let update = (half("lora_B").matmul(half("lora_A")).unwrap() * 2.0).unwrap();
            let layer = if layer.starts_with("layers.") { format!("model.{layer}") } else { layer.to_owned() };
            let weight = state.get_mut(&format!("{layer}.weight")).unwrap();
            *weight = (&*weight + update).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), &*files.require("config.json").unwrap()).unwrap();
        candle_core::safetensors::save(&state, folder.path().join("model.safetensors")).unwrap();
        let by_hand = LanguageModel::load(&ModelFiles::folder(folder.path()).unwrap(), &reference()).unwrap();
        assert_close(&format!("{name}, by hand"), &apart, &all_logits(&by_hand), 1e-5);
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_name() {
    let (_, config, weights) = open("tiny-encoder");
    let hidden = config.hidden_size;
    let build = |tensors: BTreeMap<String, Tensor>| {
        let adapter = Adapter::new(&read(tensors), 1.0)?;
        let parameters = Parameters::from_adapted_weights(&weights, &adapter, &config, Head::Language)?;
        LanguageModel::build(parameters, &config, &fused())
    };
    let says = |tensors: BTreeMap<String, Tensor>, expected: &str| {
        let text = build(tensors).unwrap_err().to_string();
        assert!(text.contains(expected), "{text} should say {expected}");
    };
    says(adapter(&[("model.layers.7.attn.Wo", hidden, hidden)]), "model.layers.7.attn.Wo");
    says(adapter(&[("model.layers.0.attn.Wo", hidden + 1, hidden)]), "does not fit");
    let mut half = adapter(&[("model.layers.0.attn.Wo", hidden, hidden)]);
    let (name, tensor) = half.pop_first().unwrap();
    says(half, "one of lora_A and lora_B");
    says(BTreeMap::from([(name.replace("lora_A", "lora_magnitude_vector"), tensor)]), "lora_magnitude_vector");
}

#[test]
fn a_tree_can_be_taken_apart_and_is_complete() {
    let (_, config, weights) = open("tiny-encoder-biases");
    let parameters = Parameters::from_weights(&weights, &config, Head::Language).unwrap();
    for (role, tensor) in parameters.tensors.into_named() {
        let stored = weights.get(&role.to_string()).unwrap();
        let ours = match tensor {
            Leaf::Matrix(matrix) => values(&matrix.tensor(&Device::Cpu, DType::F32).unwrap()),
            Leaf::Vector(vector) => vector.values().unwrap(),
        };
        assert_same(&role.to_string(), &ours, &stored.to_f32());
    }
}
