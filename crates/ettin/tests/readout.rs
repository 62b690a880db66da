//! Readouts: what is asked at the end of a forward equals what full hidden states and full logits give, for any
//! neighbours, threads and chunks.

mod common;

use candle_core::{Device, Tensor};
use common::{
    F32, Fixture, assert_close, assert_same, model,
    random::{Random, Shape, save, tensors},
    values,
};
use ettin::{
    Backend, Config, Dtype, Isa, PackedBatch, Parameters, Pooling, Scheme, Team, Trunk,
    heads::{EmbedOptions, Embedder, LanguageModel},
    ops::{LinearParams, Matrix, Vector},
    readout::{LogProbs, Logits, Pooled, Projected, Rows, Splade, SpladeSum, Tokens, TopK, TopTokens},
    weights::{Head, Weights},
};
use ettin_kernels::vocabulary::log_sum_exp;

/// Scores of 64 rows are held at once: the batch below has chunks that begin and end inside sequences.
const SHAPE: Shape = Shape {
    decoder: false,
    heads: 2,
    head_dim: 16,
    intermediate: 48,
    vocabulary: 70_001,
    layers: 2,
    window: 8,
    labels: 3,
    biases: true,
    tied: true,
    activation: "gelu",
};

const LENGTHS: [usize; 6] = [1, 40, 64, 1, 33, 9];

fn sequences() -> Vec<Vec<u32>> {
    let mut random = Random::new(5);
    LENGTHS.map(|len| random.ids(len, SHAPE.vocabulary)).to_vec()
}

fn reference() -> Backend {
    Backend::reference(&Device::Cpu, Dtype::F32).unwrap()
}

fn all(batch: &PackedBatch) -> Vec<usize> {
    (0..batch.tokens()).collect()
}

/// Two tokens of every row, and a third one of some.
fn targets(batch: &PackedBatch, vocabulary: usize) -> Vec<(usize, u32)> {
    let mut random = Random::new(6);
    let tokens = |row: usize| std::iter::repeat_n(row, 2 + row % 2);
    all(batch).into_iter().flat_map(tokens).map(|row| (row, random.below(vocabulary) as u32)).collect()
}

/// Ids and bits of the logits.
fn ranked(top: &TopTokens) -> Vec<(u32, u32)> {
    top.tokens.iter().map(|&(id, logit)| (id, logit.to_bits())).collect()
}

fn sorted(row: &[f32], k: usize) -> Vec<(u32, u32)> {
    let mut all: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.into_iter().take(k).map(|(id, logit)| (id as u32, logit.to_bits())).collect()
}

#[test]
fn what_is_streamed_equals_full_logits_reduced() {
    let (_folder, files) = save(&SHAPE, &tensors(&SHAPE, 1));
    let batch = PackedBatch::new(&sequences()).unwrap();
    let (rows, targets) = (all(&batch), targets(&batch, SHAPE.vocabulary));
    let team = Team::with_threads(2).unwrap();
    let best = Isa::select().unwrap();
    for isa in Isa::available() {
        // The kernels' own tests take every format through every instruction set.
        for scheme in Scheme::ALL.into_iter().filter(|&scheme| isa == best || scheme == Scheme::F32) {
            let what = format!("{isa}, {scheme}");
            let language = LanguageModel::load(&files, &Backend::fused(isa, scheme, team.clone())).unwrap();
            let logits: Vec<Vec<f32>> = language.read(&batch, &Logits { rows: &rows }).unwrap().to_vec2().unwrap();
            let sums: Vec<f64> = logits.iter().map(|row| log_sum_exp(isa, row)).collect();

            let best = language.read(&batch, &TopK { rows: &rows, k: 3 }).unwrap();
            assert_eq!(best.len(), rows.len());
            for (row, best) in rows.iter().zip(&best) {
                assert_eq!(best.log_sum_exp.to_bits(), sums[*row].to_bits(), "{what}, row {row}");
                if row % 8 == 0 {
                    assert_eq!(ranked(best), sorted(&logits[*row], 3), "{what}, row {row}");
                }
            }
            let chosen = language.read(&batch, &LogProbs { targets: &targets }).unwrap();
            let expected = targets.iter().map(|&(row, id)| (f64::from(logits[row][id as usize]) - sums[row]) as f32);
            assert_same(&what, &chosen, &expected.collect::<Vec<_>>());

            let weights = language.read(&batch, &Splade).unwrap();
            assert_eq!(weights.dims(), [LENGTHS.len(), SHAPE.vocabulary]);
            let mut expected = Vec::new();
            for sequence in 0..batch.sequences() {
                let mut most = vec![0f32; SHAPE.vocabulary];
                for row in batch.rows(sequence) {
                    most.iter_mut().zip(&logits[row]).for_each(|(most, &logit)| *most = most.max(logit));
                }
                expected.extend(most.into_iter().map(f32::ln_1p));
            }
            assert_same(&what, &values(&weights), &expected);

            // Sums are the same code for every scheme.
            for twice in [false, true].into_iter().filter(|_| scheme == Scheme::F32) {
                let weights = language.read(&batch, &SpladeSum { twice }).unwrap();
                let mut expected = vec![0f32; LENGTHS.len() * SHAPE.vocabulary];
                for (sequence, sums) in expected.chunks_exact_mut(SHAPE.vocabulary).enumerate() {
                    for row in batch.rows(sequence) {
                        for (sum, &logit) in sums.iter_mut().zip(&logits[row]) {
                            let once = logit.max(0.0).ln_1p();
                            *sum += if twice { once.ln_1p() } else { once };
                        }
                    }
                }
                assert_same(&what, &values(&weights), &expected);
            }
        }
    }
}

#[test]
fn more_tokens_than_there_are_is_all_of_them() {
    let language = LanguageModel::load(&model("tiny-encoder"), &common::backend()).unwrap();
    let batch = PackedBatch::new(&[[2u32, 7, 9, 3]]).unwrap();
    let logits = language.logits(&batch, &[1]).unwrap().to_vec2::<f32>().unwrap().remove(0);
    for k in [0, 1, 255, 256, 1000] {
        let best = language.read(&batch, &TopK { rows: &[1], k }).unwrap().remove(0);
        assert_eq!(ranked(&best), sorted(&logits, k), "{k}");
        assert_eq!(best.probabilities().count(), k.min(256));
    }
    let all = language.read(&batch, &TopK { rows: &[1], k: 256 }).unwrap().remove(0);
    let total: f64 = all.probabilities().map(|(_, probability)| f64::from(probability)).sum();
    assert!((total - 1.0).abs() < 1e-6, "{total}");
}

/// Every readout of a batch as numbers, one list a sequence.
fn everything(language: &LanguageModel, backend: &Backend, batch: &PackedBatch) -> Vec<Vec<f32>> {
    let (trunk, hidden) = (language.trunk(), language.config().hidden_size);
    let linear = projection(backend, hidden);
    let rows = all(batch);
    // The second row of each sequence, or its only one.
    let some: Vec<usize> = (0..batch.sequences()).map(|index| batch.rows(index).take(2).next_back().unwrap()).collect();
    let skip = vec![1; batch.sequences()];
    let tokens = trunk.read(batch, &Tokens).unwrap().to_tensor().unwrap();
    let projected = trunk.read(batch, &Projected { linear: &linear, normalize: true }).unwrap();
    let chosen = trunk.read(batch, &Rows(&some)).unwrap().to_tensor().unwrap();
    let best = language.read(batch, &TopK { rows: &rows, k: 4 }).unwrap();
    let targets: Vec<(usize, u32)> =
        rows.iter().map(|&row| (row, batch.ids()[row] % language.config().vocab_size as u32)).collect();
    let log_probs = language.read(batch, &LogProbs { targets: &targets }).unwrap();
    let weights = language.read(batch, &Splade).unwrap();
    let sums = language.read(batch, &SpladeSum { twice: true }).unwrap();
    let pooled = Pooling::ALL.map(|(pooling, _)| {
        let readout = Pooled { pooling, skip: Some(&skip) };
        trunk.read(batch, &readout).unwrap().to_tensor().unwrap()
    });
    let row = |tensor: &Tensor, index: usize| values(&tensor.get(index).unwrap());
    let of_sequence = |index: usize| {
        let mut all = [common::rows(&tokens, batch, index), common::rows(&projected, batch, index)].concat();
        all.extend([row(&chosen, index), row(&weights, index), row(&sums, index)].concat());
        all.extend(&log_probs[batch.rows(index)]);
        for best in &best[batch.rows(index)] {
            all.push(best.log_sum_exp as f32);
            all.extend(best.tokens.iter().flat_map(|&(id, logit)| [id as f32, logit]));
        }
        all.extend(pooled.iter().flat_map(|pooled| row(pooled, index)));
        all
    };
    (0..batch.sequences()).map(of_sequence).collect()
}

fn projection(backend: &Backend, hidden: usize) -> ettin::ops::Linear {
    let weight: Vec<f32> = (0..5 * hidden).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.2).collect();
    let weight = Matrix::Tensor(Tensor::from_vec(weight, (5, hidden), &Device::Cpu).unwrap());
    backend.linear(LinearParams { weight, bias: Some(Vector::Values(vec![0.1; 5])) }).unwrap()
}

#[test]
fn sequences_beside_others_give_what_each_gives_alone() {
    for scheme in Scheme::ALL {
        for name in ["tiny-encoder", "tiny-decoder-biases"] {
            let sequences = Fixture::load(name).sequences();
            let load = |threads| {
                let backend = Backend::fused(Isa::select().unwrap(), scheme, Team::with_threads(threads).unwrap());
                (LanguageModel::load(&model(name), &backend).unwrap(), backend)
            };
            let (two, backend) = load(2);
            let together = everything(&two, &backend, &PackedBatch::new(&sequences).unwrap());
            let (one, backend) = load(1);
            for (index, sequence) in sequences.iter().enumerate() {
                let alone = PackedBatch::new(std::slice::from_ref(sequence)).unwrap();
                let alone = everything(&one, &backend, &alone).remove(0);
                assert_same(&format!("{name}, {scheme}, sequence {index}"), &together[index], &alone);
            }
        }
    }
}

#[test]
fn the_kernels_agree_with_the_reference() {
    for name in ["tiny-encoder", "tiny-decoder-biases", "tiny-encoder-untied"] {
        let batch = PackedBatch::new(&Fixture::load(name).sequences()).unwrap();
        let (oracle, fused) = (reference(), Backend::cpu().unwrap());
        let load = |backend: &Backend| LanguageModel::load(&model(name), backend).unwrap();
        let expected = everything(&load(&oracle), &oracle, &batch);
        let ours = everything(&load(&fused), &fused, &batch);
        for (ours, expected) in ours.iter().zip(&expected) {
            assert_close(name, ours, expected, F32);
        }
    }
}

#[test]
fn the_reference_streams_too() {
    let (_folder, files) = save(&SHAPE, &tensors(&SHAPE, 1));
    let sequences = [Random::new(9).ids(70, SHAPE.vocabulary), Random::new(10).ids(3, SHAPE.vocabulary)];
    let batch = PackedBatch::new(&sequences).unwrap();
    let read = |backend: &Backend| {
        let language = LanguageModel::load(&files, backend).unwrap();
        let weights = |twice| values(&language.read(&batch, &SpladeSum { twice }).unwrap());
        let weights = [values(&language.read(&batch, &Splade).unwrap()), weights(false), weights(true)].concat();
        let targets = targets(&batch, SHAPE.vocabulary);
        (weights, language.read(&batch, &LogProbs { targets: &targets }).unwrap())
    };
    let (ours, expected) = (read(&Backend::cpu().unwrap()), read(&reference()));
    assert_close("weights", &ours.0, &expected.0, F32);
    assert_close("log-probabilities", &ours.1, &expected.1, F32);
}

#[test]
fn logits_that_are_no_numbers_stay_in_sight() {
    let mut weights = tensors(&SHAPE, 1);
    let mut bias = vec![0f32; SHAPE.vocabulary];
    (bias[3], bias[4], bias[5]) = (f32::NEG_INFINITY, 100.0, 50.0);
    let run = |bias: &[f32], weights: &mut std::collections::BTreeMap<String, Tensor>, backend: &Backend| {
        weights.insert("decoder.bias".to_owned(), Tensor::new(bias, &Device::Cpu).unwrap());
        let (_folder, files) = save(&SHAPE, weights);
        let language = LanguageModel::load(&files, backend).unwrap();
        let batch = PackedBatch::new(&[[1u32, 2, 3]]).unwrap();
        let best = language.read(&batch, &TopK { rows: &[1], k: 2 }).unwrap().remove(0);
        let log_probs = language.read(&batch, &LogProbs { targets: &[(0, 3), (0, 4)] }).unwrap();
        let splade = values(&language.read(&batch, &Splade).unwrap());
        let sums = values(&language.read(&batch, &SpladeSum { twice: false }).unwrap());
        for (largest, sum) in splade.iter().zip(&sums) {
            assert_eq!(largest.is_finite(), sum.is_finite(), "{sums:?}");
        }
        (best, log_probs, splade)
    };
    for backend in [Backend::cpu().unwrap(), reference()] {
        // A token that the model excludes is no fault.
        let (best, log_probs, splade) = run(&bias, &mut weights, &backend);
        assert!(best.log_sum_exp.is_finite() && best.tokens[0].0 == 4 && best.tokens[1].0 == 5);
        assert!(log_probs[0] == f32::NEG_INFINITY && log_probs[1].abs() < 1e-3);
        assert!(splade[3] == 0.0 && splade.iter().all(|weight| weight.is_finite()));
        for broken in [f32::NAN, f32::INFINITY] {
            let mut bias = bias.clone();
            bias[7] = broken;
            let (best, log_probs, splade) = run(&bias, &mut weights, &backend);
            assert!(!best.log_sum_exp.is_finite() && log_probs.iter().all(|x| x.is_nan()), "{broken}");
            assert!(!splade[7].is_finite() && splade[4].is_finite(), "{broken}: {}", splade[7]);
        }
    }
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for backend in [Backend::cpu().unwrap(), reference()] {
        let language = LanguageModel::load(&model("tiny-encoder"), &backend).unwrap();
        let batch = PackedBatch::new(&[[2u32, 7, 3]]).unwrap();
        let errors = [
            language.trunk().read(&batch, &Rows(&[3])).unwrap_err(),
            language.read(&batch, &Logits { rows: &[0, 3] }).unwrap_err(),
            language.read(&batch, &TopK { rows: &[3], k: 1 }).unwrap_err(),
            language.read(&batch, &LogProbs { targets: &[(3, 0)] }).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), "row 3 was asked of 3 rows");
        }
        let error = language.read(&batch, &LogProbs { targets: &[(0, 256)] }).unwrap_err().to_string();
        assert!(error.contains("token id 256") && error.contains("256"), "{error}");
        assert!(language.read(&batch, &TopK { rows: &[], k: 1 }).unwrap().is_empty());
        assert!(language.read(&batch, &LogProbs { targets: &[] }).unwrap().is_empty());
    }
}

#[test]
fn layers_behind_the_one_asked_for_are_not_computed() {
    let files = model("tiny-encoder");
    let config = Config::load(&files).unwrap();
    let weights = Weights::open(&files).unwrap();
    let mut parameters = Parameters::from_weights(&weights, &config, Head::None).unwrap();
    // Whoever multiplies by it gets no number.
    let shape = (config.hidden_size, config.intermediate_size);
    let unknown = Tensor::full(f32::NAN, shape, &Device::Cpu).unwrap();
    parameters.tensors.layers[2].wo.weight = Matrix::Tensor(unknown);
    let broken = Trunk::build(parameters, &config, &reference()).unwrap();
    let whole = Embedder::load(&files, &reference()).unwrap();
    let batch = PackedBatch::new(&[[2u32, 7, 9, 11, 3]]).unwrap();
    let states = whole.trunk().hidden_states(&batch).unwrap();
    for (layer, state) in states.iter().enumerate().take(3) {
        let ours = broken.forward_to(&batch, layer).unwrap().to_tensor().unwrap();
        assert_same("a layer's output", &values(&ours), &values(state));
        assert_same("token vectors", &values(&whole.token_embeddings(&batch, Some(layer)).unwrap()), &values(state));
    }
    for computed in [broken.forward_to(&batch, 3).unwrap(), broken.forward(&batch).unwrap()] {
        assert!(values(&computed.to_tensor().unwrap()).iter().all(|value| value.is_nan()));
    }
    let error = whole.token_embeddings(&batch, Some(5)).unwrap_err().to_string();
    assert!(error.contains("layer 5") && error.contains("4"), "{error}");
}

#[test]
fn vectors_of_texts_and_of_tokens_are_scaled_alike() {
    let embedder = Embedder::load(&model("tiny-encoder"), &common::backend()).unwrap();
    let batch = PackedBatch::new(&[[2u32, 7, 9, 11, 3]]).unwrap();
    let options = EmbedOptions::default().with_normalize(true).with_dimensions(48);
    let tokens = embedder.token_vectors(&batch, &options).unwrap();
    let text = embedder.embed(&batch, &options.with_pooling(Pooling::Cls)).unwrap();
    assert_same("the first token", &values(&text), &values(&tokens.get(0).unwrap()));
}
