//! The reference path: the oracle of the fused kernels, differentiable, buildable from candle's variables.

mod common;

use candle_core::{DType, Device};
use candle_nn::{VarBuilder, VarMap};
use common::{F32, Fixture, assert_close, model, values};
use ettin::{
    Backend, Config, Dtype, Isa, KvCache, PackedBatch, Parameters, Scheme, Team,
    heads::LanguageModel,
    weights::{Head, Weights},
};

fn reference() -> Backend {
    Backend::reference(&Device::Cpu, Dtype::F32).unwrap()
}

fn all_logits(model: &LanguageModel, batch: &PackedBatch) -> Vec<f32> {
    values(&model.logits(batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap())
}

#[test]
fn every_instruction_set_agrees_with_it() {
    for name in ["tiny-encoder-biases", "tiny-decoder-biases", "tiny-encoder-older", "tiny-activation-silu"] {
        let batch = PackedBatch::new(&Fixture::load(name).sequences()).unwrap();
        let oracle = LanguageModel::load(&model(name), &reference()).unwrap();
        let oracle = all_logits(&oracle, &batch);
        for isa in Isa::available() {
            let fused = Backend::fused(isa, Scheme::F32, Team::global());
            let fused = LanguageModel::load(&model(name), &fused).unwrap();
            assert_close(&format!("{name} on {isa}"), &all_logits(&fused, &batch), &oracle, F32);
        }
    }
}

#[test]
fn its_cache_agrees_with_the_whole() {
    let language = LanguageModel::load(&model("tiny-decoder"), &reference()).unwrap();
    let ids: Vec<u32> = (0..90).map(|index| 5 + index * 37 % 120).collect();
    let whole = all_logits(&language, &PackedBatch::new(&[&ids[..]]).unwrap());
    for chunk in [1, 7, 64] {
        let mut cache: KvCache = language.cache(chunk + 2).unwrap();
        for (index, rows) in ids.chunks(chunk).enumerate() {
            // Two wrong tokens follow each chunk and are taken back.
            let drafted = [rows, &[3, 4]].concat();
            let batch = PackedBatch::continuing(&[drafted], &[cache.len()]).unwrap();
            let kept: Vec<usize> = (0..rows.len()).collect();
            let logits = values(&language.step(&batch, &mut [&mut cache], &kept).unwrap());
            cache.truncate(index * chunk + rows.len()).unwrap();
            let vocabulary = language.config().vocab_size;
            let expected = &whole[index * chunk * vocabulary..][..logits.len()];
            assert_close(&format!("chunks of {chunk}"), &logits, expected, F32);
        }
    }
}

/// The variables of a decoder: those of the checkpoint, query, key and value joined.
fn variables(name: &str) -> (VarMap, Config) {
    let files = model(name);
    let config = Config::load(&files).unwrap();
    let weights = Weights::open(&files).unwrap();
    let map = VarMap::new();
    for view in weights.views() {
        let tensor = view.tensor(&Device::Cpu, DType::F32).unwrap();
        let var = candle_core::Var::from_tensor(&tensor).unwrap();
        map.data().lock().unwrap().insert(view.name().to_owned(), var);
    }
    (map, config)
}

#[test]
fn gradients_reach_every_variable() {
    let (map, config) = variables("tiny-encoder-biases");
    let vars = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let parameters = Parameters::from_variables(vars, &config, Head::Language).unwrap();
    let language = LanguageModel::build(parameters, &config, &reference()).unwrap();
    let batch = PackedBatch::new(&Fixture::load("tiny-encoder-biases").sequences()).unwrap();
    let rows: Vec<usize> = (0..batch.tokens()).collect();
    let logits = language.logits(&batch, &rows).unwrap();

    let loaded = LanguageModel::load(&model("tiny-encoder-biases"), &reference()).unwrap();
    assert_close("variables", &values(&logits), &all_logits(&loaded, &batch), 1e-6);

    let gradients = logits.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for (name, var) in map.data().lock().unwrap().iter() {
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let largest = values(gradient).iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!(largest.is_finite() && largest > 0.0, "{name}: largest gradient {largest}");
    }
}

#[test]
fn a_missing_variable_is_named() {
    let (map, config) = variables("tiny-encoder");
    map.data().lock().unwrap().remove("model.layers.1.mlp.Wi.weight");
    // A builder over fixed tensors; one over a VarMap would create what is missing.
    let tensors =
        map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let vars = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let error = Parameters::from_variables(vars, &config, Head::Language).err().unwrap();
    assert!(error.to_string().contains("model.layers.1.mlp.Wi"), "{error}");
}

#[test]
fn formats_that_a_path_does_not_compute_are_refused_by_name() {
    let cpu = Device::Cpu;
    let refused = |backend: ettin::Result<Backend>, dtype: Dtype| {
        let error = backend.unwrap_err().to_string();
        assert!(error.contains(&dtype.to_string()), "{error}");
    };
    refused(Backend::new(&cpu, Dtype::F16), Dtype::F16);
    for (dtype, _) in Dtype::ALL.into_iter().filter(|(dtype, _)| !matches!(dtype, Dtype::Auto | Dtype::F32)) {
        refused(Backend::reference(&cpu, dtype), dtype);
    }
}
