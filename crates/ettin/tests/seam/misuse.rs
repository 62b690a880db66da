//! What does not fit together is an error with a name, on every backend; nothing panics and nothing is computed.

use candle_core::{DType, Device, Tensor};
use ettin::{
    Backend, Config, Error, PackedBatch, Parameters,
    generate::{Draft, DraftRequest, Engine, EngineSettings, Event, Request, Shaping},
    heads::LanguageModel,
    ops::{self, LinearParams, Matrix, NormParams, Vector},
    readout::{Readout, Splade},
    weights::{Head, Weights},
};

use super::common::model;
use super::{fused, reference};

fn backends() -> [Backend; 2] {
    [fused(), reference()]
}

fn ones(len: usize) -> Vector {
    Vector::Values(vec![1.0; len])
}

fn matrix<'a>(outputs: usize, inputs: usize) -> Matrix<'a> {
    Matrix::Tensor(Tensor::ones((outputs, inputs), DType::F32, &Device::Cpu).unwrap())
}

#[test]
fn a_tree_that_is_not_the_configuration_s_is_refused_by_role() {
    let files = model("tiny-encoder-biases");
    let (config, weights) = (Config::load(&files).unwrap(), Weights::open(&files).unwrap());
    for backend in backends() {
        for wrong in [
            "final_norm.weight",
            "head.norm.weight",
            "layers.1.mlp.Wi.weight",
            "attn.Wo.bias",
            "is missing",
            "has no place",
        ] {
            let mut parameters = Parameters::from_weights(&weights, &config, Head::Language).unwrap();
            let tensors = &mut parameters.tensors;
            match wrong {
                "final_norm.weight" => tensors.final_norm.weight = ones(1),
                "head.norm.weight" => tensors.head.as_mut().unwrap().norm.weight = ones(1),
                "layers.1.mlp.Wi.weight" => tensors.layers[1].wi.weight = matrix(2 * config.intermediate_size, 1),
                "attn.Wo.bias" => tensors.layers[0].attention_output.bias = Some(ones(3)),
                "is missing" => drop(tensors.layers.pop()),
                _ => {
                    let weight = matrix(2, config.hidden_size);
                    tensors.classifier = Some(LinearParams { weight, bias: None });
                }
            }
            let error = LanguageModel::build(parameters, &config, &backend).unwrap_err();
            assert!(matches!(error, Error::Tensors { .. }), "{error}");
            assert!(error.to_string().contains(wrong), "{wrong}: {error}");
        }
    }
}

#[test]
fn layers_of_ones_own_have_a_size() {
    for backend in backends() {
        let linear = |weight, bias| backend.linear(LinearParams { weight, bias });
        assert!(linear(matrix(0, 4), None).is_err(), "no outputs");
        assert!(linear(matrix(3, 4), Some(ones(1))).is_err(), "a bias that would be broadcast");
        assert!(backend.norm(NormParams { weight: ones(4), bias: Some(ones(1)), eps: 1e-5 }).is_err());
        assert!(backend.norm(NormParams { weight: ones(0), bias: None, eps: 1e-5 }).is_err());

        let hidden = backend.hidden(&Tensor::ones((2, 5), DType::F32, &Device::Cpu).unwrap()).unwrap();
        let linear = linear(matrix(3, 4), Some(ones(3))).unwrap();
        let norm = backend.norm(NormParams { weight: ones(4), bias: None, eps: 1e-5 }).unwrap();
        for error in [ops::linear(&hidden, &linear).unwrap_err(), ops::norm(&hidden, &norm).unwrap_err()] {
            assert!(error.to_string().contains("of size 5 where 4 belongs"), "{error}");
        }
    }
}

#[test]
fn batches_ids_and_states_that_do_not_fit_are_refused() {
    for backend in backends() {
        let model = LanguageModel::load(&model("tiny-encoder"), &backend).unwrap();
        let trunk = model.trunk();
        let error = trunk.forward(&PackedBatch::default()).unwrap_err();
        assert!(error.to_string().contains("at least one sequence"), "{error}");
        assert!(trunk.embedding(&[u32::MAX]).is_err());

        let narrow = || backend.hidden(&Tensor::ones((3, 5), DType::F32, &Device::Cpu).unwrap()).unwrap();
        let batch = PackedBatch::new(&[vec![1, 2, 3]]).unwrap();
        assert!(model.project(&narrow(), &[0]).is_err());
        assert!(trunk.embedding_logits(&narrow()).is_err());
        assert!(Splade.read(&model, narrow(), &batch).is_err());
        let other = PackedBatch::new(&[vec![1, 2]]).unwrap();
        assert!(Splade.read(&model, trunk.forward(&batch).unwrap(), &other).is_err());
    }
    assert!(PackedBatch::continuing(&[[1, 2]], &[usize::MAX]).is_err());
}

#[test]
fn a_step_that_fails_leaves_caches_as_they_were() {
    let model = LanguageModel::load(&model("tiny-decoder"), &fused()).unwrap();
    // No step adds more rows than there are positions, whatever is asked for.
    let mut cache = model.cache(usize::MAX).unwrap();
    assert!(cache.max_step() <= model.config().max_position_embeddings);
    let batch = PackedBatch::new(&[vec![1, 2]]).unwrap();
    assert!(model.step(&batch, &mut [&mut cache], &[2]).is_err());
    assert_eq!(cache.len(), 0);
    model.step(&batch, &mut [&mut cache], &[1]).unwrap();
    assert_eq!(cache.len(), 2);
}

/// Proposes tokens that no model has.
struct Beyond;

impl Draft for Beyond {
    type State = ();

    fn state(&self) -> ettin::Result<()> {
        Ok(())
    }

    fn fork(&self, (): &()) {}

    fn propose(&mut self, requests: &mut [DraftRequest<'_, ()>]) -> ettin::Result<()> {
        for request in requests {
            request.propose(u32::MAX);
            request.propose(1);
        }
        Ok(())
    }
}

#[test]
fn an_engine_bears_any_draft_and_any_number() {
    let load = |name| LanguageModel::load(&model(name), &fused()).unwrap();
    let settings = || EngineSettings::default().with_step_rows(usize::MAX).with_max_drafted(usize::MAX);
    let tokens = |events: Vec<Event>| -> Vec<u32> {
        let finished = events.into_iter().filter_map(|event| match event {
            Event::Finished(finished) => Some(finished.tokens),
            _ => None,
        });
        finished.flatten().collect()
    };
    let request = || Request::new([1, 2, 3]).with_max_new_tokens(6).with_draft_tokens(usize::MAX);
    let mut plain = Engine::new(load("tiny-decoder"), settings()).unwrap();
    let mut drafted = Engine::with_draft(load("tiny-decoder"), Beyond, settings()).unwrap();
    plain.submit(request()).unwrap();
    drafted.submit(request()).unwrap();
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    while !plain.is_idle() {
        expected.extend(tokens(plain.step().unwrap()));
    }
    while !drafted.is_idle() {
        found.extend(tokens(drafted.step().unwrap()));
    }
    assert_eq!((found, expected.len()), (expected, 6));

    assert!(plain.submit(request().with_samples(usize::MAX)).is_err());
    assert!(Engine::new(load("tiny-decoder"), settings().with_max_context(0)).is_err());
    let Err(error) = Engine::new(load("tiny-encoder"), EngineSettings::default()) else {
        panic!("an encoder has no cache");
    };
    assert!(error.to_string().contains("encoder"), "{error}");
}

#[test]
fn greedy_decoding_gives_no_token_that_is_forbidden() {
    let model = LanguageModel::load(&model("tiny-decoder"), &fused()).unwrap();
    let every: Vec<u32> = (0..model.config().vocab_size as u32).collect();
    let mut engine = Engine::new(model, EngineSettings::default()).unwrap();
    engine.submit(Request::new([1]).with_shaping(Shaping::default().with_suppress(every))).unwrap();
    let events = engine.step().unwrap();
    assert!(matches!(&events[..], [Event::Failed(failed)] if failed.error.to_string().contains("no token is allowed")));
}

#[test]
#[should_panic = "this CPU does not support"]
fn an_instruction_set_that_the_cpu_lacks_is_told_when_it_is_chosen() {
    let lacking = ettin::Isa::ALL.into_iter().find(|isa| !isa.supported()).expect("no CPU has NEON and AVX2");
    Backend::fused(lacking, ettin::Scheme::F32, ettin::Team::single());
}
