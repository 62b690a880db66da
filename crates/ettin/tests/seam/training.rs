//! Training on the reference path, and what refuses it.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, SGD, VarBuilder, VarMap};
use ettin::{
    Backend, Config, Dtype, PackedBatch, Parameters,
    files::ModelFiles,
    heads::LanguageModel,
    ops::{self, LinearParams, Matrix},
    params::save_variables,
    weights::{Head, Weights},
};
use ettin_gpu::emulator::{self, Dialect};

use super::common::{assert_same, model, values};
use super::{all_logits, batch, fused, reference};

/// The variables of a checkpoint.
fn variables(name: &str) -> (VarMap, Config) {
    let files = model(name);
    let (config, weights) = (Config::load(&files).unwrap(), Weights::open(&files).unwrap());
    let parameters = Parameters::from_weights(&weights, &config, Head::Language).unwrap();
    (parameters.into_variables(&Device::Cpu, DType::F32).unwrap(), config)
}

fn build(map: &VarMap, config: &Config, backend: &Backend) -> ettin::Result<LanguageModel> {
    let variables = VarBuilder::from_varmap(map, DType::F32, &Device::Cpu);
    LanguageModel::build(Parameters::from_variables(variables, config, Head::Language)?, config, backend)
}

/// How badly every token predicts the one that stands there.
fn loss(model: &LanguageModel, batch: &PackedBatch) -> Tensor {
    let logits = model.logits(batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap();
    let targets = Tensor::new(batch.ids(), logits.device()).unwrap();
    candle_nn::loss::cross_entropy(&logits, &targets).unwrap()
}

fn number(tensor: &Tensor) -> f32 {
    tensor.to_scalar().unwrap()
}

#[test]
fn a_step_reaches_every_variable_and_lowers_the_loss() {
    for name in ["tiny-encoder-biases", "tiny-decoder-biases"] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (map, config) = variables(name);
            let backend = Backend::training(&Device::Cpu, dtype).unwrap();
            assert_eq!(backend.dtype(), dtype);
            let language = build(&map, &config, &backend).unwrap();
            let before = loss(&language, &batch());
            let gradients = before.backward().unwrap();
            for (name, variable) in map.data().lock().unwrap().iter() {
                let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient in {dtype}"));
                let largest = values(gradient).iter().fold(0f32, |max, x| max.max(x.abs()));
                assert!(largest.is_finite() && largest > 0.0, "{name} in {dtype}: largest gradient {largest}");
            }
            // The same model afterwards: it holds the variables, not copies of them.
            let mut optimiser = SGD::new(map.all_vars(), 1e-2).unwrap();
            optimiser.step(&gradients).unwrap();
            let (before, after) = (number(&before), number(&loss(&language, &batch())));
            assert!(after < before, "{name} in {dtype}: {before} → {after}");
            let anew = number(&loss(&build(&map, &config, &backend).unwrap(), &batch()));
            assert_eq!(after, anew, "{name} in {dtype}");
        }
    }
}

#[test]
fn half_precision_products_are_what_they_say() {
    let (map, config) = variables("tiny-encoder");
    let half = Backend::training(&Device::Cpu, Dtype::Bf16).unwrap();
    let error = super::common::relative_error(
        &all_logits(&build(&map, &config, &half).unwrap()),
        &all_logits(&build(&map, &config, &reference()).unwrap()),
    );
    assert!(error > 1e-4 && error < 0.2, "{error}");
}

#[test]
fn what_cannot_train_refuses_variables_by_its_name() {
    let (map, config) = variables("tiny-encoder");
    let refused = |error: ettin::Error, backend: &Backend| {
        let text = error.to_string();
        assert!(text.contains(&backend.describe()) && text.contains("Backend::reference"), "{text}");
    };
    let device = emulator::kernels(Dialect::Cuda, |source| source).unwrap();
    let device = device.map(|kernels| Backend::with_kernels(kernels, Dtype::F32).unwrap());
    for backend in [fused()].into_iter().chain(device) {
        refused(build(&map, &config, &backend).unwrap_err(), &backend);
        let weight = Var::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let single = LinearParams { weight: Matrix::Tensor(weight.as_tensor().clone()), bias: None };
        refused(backend.linear(single).unwrap_err(), &backend);
    }
    // Detached tensors are numbers like others.
    let tensors =
        map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let variables = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let parameters = Parameters::from_variables(variables, &config, Head::Language).unwrap();
    let ours = LanguageModel::build(parameters, &config, &fused()).unwrap();
    let loaded = LanguageModel::load(&model("tiny-encoder"), &fused()).unwrap();
    assert_same("detached", &all_logits(&ours), &all_logits(&loaded));
}

#[test]
fn trained_variables_are_saved_and_read_again() {
    for name in ["tiny-encoder-biases", "tiny-decoder-untied"] {
        let (map, config) = variables(name);
        let language = build(&map, &config, &reference()).unwrap();
        let gradients = loss(&language, &batch()).backward().unwrap();
        SGD::new(map.all_vars(), 1e-2).unwrap().step(&gradients).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("config.json"), &*model(name).require("config.json").unwrap()).unwrap();
        save_variables(&file("model.safetensors"), &map).unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        let loaded = LanguageModel::load(&files, &reference()).unwrap();
        assert_same(name, &all_logits(&loaded), &all_logits(&language));
        assert!(loaded.trunk().report().unused.is_empty(), "{:?}", loaded.trunk().report());
        // And the other way, on the CPU's kernels.
        super::common::assert_close(
            name,
            &all_logits(&LanguageModel::load(&files, &fused()).unwrap()),
            &all_logits(&language),
            super::common::F32,
        );
    }
}

#[test]
fn an_adapter_alone_can_be_trained() {
    let device = Device::Cpu;
    let variable = |shape: (usize, usize)| Var::randn(0f32, 0.1, shape, &device).unwrap();
    let (a, b) = (variable((2, 8)), variable((4, 2)));
    let params = || LinearParams {
        weight: Matrix::Adapted {
            base: Box::new(Matrix::Tensor(Tensor::ones((4, 8), DType::F32, &device).unwrap())),
            update: ops::LowRank { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 0.5 },
        },
        bias: None,
    };
    assert!(fused().linear(params()).is_err());
    let linear = reference().linear(params()).unwrap();
    let x = Tensor::randn(0f32, 1.0, (3, 8), &device).unwrap();
    let output = ops::linear(&reference().hidden(&x).unwrap(), &linear).unwrap().to_tensor().unwrap();
    let gradients = output.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for half in [&a, &b] {
        assert!(values(gradients.get(half).unwrap()).iter().any(|x| *x != 0.0));
    }
}
