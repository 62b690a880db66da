//! Models of any shape compute right: in every number format, on every instruction set of this CPU, whole, packed and
//! from a cache.
//!
//! Kernels work in panels of outputs, groups of inputs and vectors of lanes, and a model's dimensions need not be
//! multiples of any. Results are compared with plain candle operations, within what the number format costs, and with
//! one another bit for bit.

mod common;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use common::{
    assert_same,
    random::{Random, Shape, save, tensors},
    relative_error, rows, values,
};
use ettin::{
    Backend, Dtype, Isa, KvCache, KvFormat, PackedBatch, Pooling, Quantization, Scheme, Team,
    files::ModelFiles,
    heads::{EmbedOptions, Embedder, LanguageModel, SequenceClassifier, TokenClassifier},
};
use ettin_kernels::{QuantizedRow, testing::each_isa};

const BASE: Shape = Shape {
    decoder: false,
    heads: 3,
    head_dim: 24,
    intermediate: 100,
    vocabulary: 201,
    layers: 3,
    window: 16,
    labels: 3,
    biases: false,
    tied: true,
    activation: "gelu",
};

/// max|Δ| / max|reference| that a number format may show; of weights in few bits, beside the same weights in f32. Of a
/// few numbers, norms amplify what rounding costs: at a hidden size of 6, bf16 is off by 7 %.
fn tolerance(scheme: Scheme) -> f64 {
    match scheme {
        Scheme::F32 | Scheme::Bf16x6 => 1e-4,
        Scheme::Bf16x3 | Scheme::W8 | Scheme::W4 => 2e-3,
        Scheme::Bf16 => 0.15,
        Scheme::Int8 => 0.4,
    }
}

/// Shapes that were wrong once, and those at some edge: of a vector, of a panel, of what tiles of attention take.
fn edges() -> Vec<Shape> {
    let of = |heads, head_dim, intermediate, vocabulary| Shape { heads, head_dim, intermediate, vocabulary, ..BASE };
    vec![
        BASE,
        Shape { decoder: true, ..BASE },
        // TinyBERT's 312 in 12 heads of 26.
        Shape { decoder: true, ..of(12, 26, 129, 77) },
        Shape { biases: true, ..of(1, 2, 1, 3) },
        Shape { decoder: true, biases: true, tied: false, ..of(3, 2, 7, 33) },
        Shape { decoder: true, ..of(5, 6, 31, 65) },
        // Half of the heads are whole panels, all of them not.
        Shape { decoder: true, ..of(5, 16, 48, 64) },
        Shape { biases: true, activation: "silu", ..of(2, 66, 65, 31) },
        Shape { decoder: true, activation: "relu", ..of(2, 78, 191, 97) },
        Shape { decoder: true, ..of(1, 250, 250, 50) },
        // Wider than tiles of attention take.
        Shape { decoder: true, layers: 2, ..of(1, 514, 96, 40) },
    ]
}

fn drawn(random: &mut Random) -> Shape {
    let head_dim = 2 * (1 + random.below(40));
    let heads = 1 + random.below((240 / head_dim).clamp(1, 6));
    Shape {
        decoder: random.below(2) == 0,
        heads,
        head_dim,
        intermediate: 1 + random.below(200),
        vocabulary: 3 + random.below(150),
        layers: 1 + random.below(3),
        window: 2 * (1 + random.below(40)),
        labels: 1 + random.below(40),
        biases: random.below(2) == 0,
        tied: random.below(3) > 0,
        activation: random.of(&["gelu", "gelu_new", "silu", "relu"]),
    }
}

/// The model as it is, and with what W8 and W4 leave of its weights.
struct Files {
    own: ModelFiles,
    in_bytes: ModelFiles,
    in_nibbles: ModelFiles,
    _folders: Vec<tempfile::TempDir>,
}

impl Files {
    fn new(shape: &Shape, seed: u64) -> Self {
        let own = tensors(shape, seed);
        let [own, in_bytes, in_nibbles] = [
            save(shape, &own),
            save(shape, &quantized(&own, Quantization::W8)),
            save(shape, &quantized(&own, Quantization::W4)),
        ];
        let _folders = vec![own.0, in_bytes.0, in_nibbles.0];
        Self { own: own.1, in_bytes: in_bytes.1, in_nibbles: in_nibbles.1, _folders }
    }

    /// What a scheme computes with.
    fn of(&self, scheme: Scheme) -> &ModelFiles {
        match scheme {
            Scheme::W8 => &self.in_bytes,
            Scheme::W4 => &self.in_nibbles,
            _ => &self.own,
        }
    }
}

/// Matrices with the weights that are left of them; the one that ends a classifier is kept exact.
fn quantized(tensors: &BTreeMap<String, Tensor>, quantization: Quantization) -> BTreeMap<String, Tensor> {
    let quantize = |(name, tensor): (&String, &Tensor)| {
        let Ok((_, k)) = tensor.dims2() else { return (name.clone(), tensor.clone()) };
        if name == "classifier.weight" {
            return (name.clone(), tensor.clone());
        }
        let mut numbers = values(tensor);
        let (mut codes, mut factors) = (vec![0; quantization.code_bytes(k)], vec![0; quantization.scale_bytes(k)]);
        for row in numbers.chunks_exact_mut(k) {
            quantization.quantize(row, &mut codes, &mut factors);
            quantization.dequantize(QuantizedRow { codes: &codes, scales: &factors }, row);
        }
        (name.clone(), Tensor::from_vec(numbers, tensor.shape(), &Device::Cpu).unwrap())
    };
    tensors.iter().map(quantize).collect()
}

fn reference() -> Backend {
    Backend::reference(&Device::Cpu, Dtype::F32).unwrap()
}

fn all_logits(model: &LanguageModel, batch: &PackedBatch) -> Tensor {
    model.logits(batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn assert_near(what: &str, ours: &[f32], reference: &[f32], scheme: Scheme) {
    assert_eq!(ours.len(), reference.len(), "{what}: sizes differ");
    let error = relative_error(ours, reference);
    assert!(error <= tolerance(scheme), "{what}: {error:.2e} off, allowed {:.0e}", tolerance(scheme));
}

/// What plain operations make of a model: scores of each batch, and what heads give of the first.
struct Expected {
    logits: Vec<Vec<f32>>,
    heads: Vec<(String, Vec<f32>)>,
}

/// Everything that a shape is asked.
fn check(shape: &Shape, seed: u64, many: bool) {
    let mut random = Random::new(seed + 1000);
    let files = Files::new(shape, seed);
    let mut batch = |lengths: &[usize]| -> PackedBatch {
        let sequences = lengths.iter().map(|&len| random.ids(len, shape.vocabulary));
        PackedBatch::new(&sequences.collect::<Vec<_>>()).unwrap()
    };
    // Few rows, whose threads share heads; more, step by step; many sequences, of which tasks take some.
    let mut batches = vec![(batch(&[5, 1, 9]), 2), (batch(&[70, 33, 2, 65]), 2)];
    if many {
        batches.push((batch(&[64; 9]), 1));
    }
    let expected = [Scheme::F32, Scheme::W8, Scheme::W4].map(|scheme| {
        let model = LanguageModel::load(files.of(scheme), &reference()).unwrap();
        let logits = batches.iter().map(|(batch, _)| values(&all_logits(&model, batch))).collect();
        Expected { logits, heads: heads(files.of(scheme), &reference(), &batches[0].0) }
    });
    let teams = [Team::single(), Team::with_threads(2).unwrap()];
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let backend =
                |threads: usize, kv| Backend::fused(isa, scheme, teams[threads - 1].clone()).with_kv(kv).unwrap();
            let expected = match scheme {
                Scheme::W8 => &expected[1],
                Scheme::W4 => &expected[2],
                _ => &expected[0],
            };
            // Plain Rust is slow, and cuts nothing otherwise.
            let most = if isa == Isa::Portable { 1 } else { batches.len() };
            for ((batch, threads), expected) in batches.iter().zip(&expected.logits).take(most) {
                let what = format!("{shape:?}, {isa}, {scheme}, {} sequences", batch.sequences());
                let model = LanguageModel::load(&files.own, &backend(*threads, KvFormat::F32)).unwrap();
                let ours = all_logits(&model, batch);
                assert_near(&what, &values(&ours), expected, scheme);
                for index in 0..2 {
                    let alone = PackedBatch::new(&[&batch.ids()[batch.rows(index)]]).unwrap();
                    let alone = values(&all_logits(&model, &alone));
                    assert_same(&format!("{what}: alone"), &rows(&ours, batch, index), &alone);
                }
            }
            let what = format!("{shape:?}, {isa}, {scheme}");
            for kv in KvFormat::ALL.into_iter().filter(|_| shape.decoder && isa != Isa::Portable) {
                let model = LanguageModel::load(&files.own, &backend(2, kv)).unwrap();
                from_a_cache(&format!("{what}, keys in {kv}"), &model, &batches[1].0.ids()[..70]);
            }
            let ours = heads(&files.own, &backend(1, KvFormat::F32), &batches[0].0);
            for ((name, ours), (_, expected)) in ours.iter().zip(&expected.heads) {
                assert_near(&format!("{what}: {name}"), ours, expected, scheme);
            }
        }
    });
}

/// Parts of a sequence behind each other, guesses among them that are taken back, equal the whole.
fn from_a_cache(what: &str, model: &LanguageModel, ids: &[u32]) {
    let whole = values(&all_logits(model, &PackedBatch::new(&[ids]).unwrap()));
    let vocabulary = model.config().vocab_size;
    let mut cache = model.cache(40).unwrap();
    let feed = |cache: &mut KvCache, ids: &[u32]| {
        let batch = PackedBatch::continuing(&[ids], &[cache.len()]).unwrap();
        values(&model.step(&batch, &mut [cache], &(0..ids.len()).collect::<Vec<_>>()).unwrap())
    };
    for step in [40, 1, 1, 3, 17, 1, 2] {
        let start = cache.len();
        let ours = feed(&mut cache, &ids[start..start + step]);
        assert_same(&format!("{what}: {step} from {start}"), &ours, &whole[start * vocabulary..][..ours.len()]);
        let guesses: Vec<u32> = ids[..3].iter().map(|&id| 1 + id % (vocabulary as u32 - 1)).collect();
        feed(&mut cache, &guesses);
        cache.truncate(start + step).unwrap();
    }
}

/// What heads of every kind give of a batch. Token vectors stay in their file here.
fn heads(files: &ModelFiles, backend: &Backend, batch: &PackedBatch) -> Vec<(String, Vec<f32>)> {
    let of_texts = SequenceClassifier::load(files, backend).unwrap().logits(batch).unwrap();
    let of_tokens = TokenClassifier::load(files, backend).unwrap().logits(batch).unwrap();
    let embedder = Embedder::load(files, backend).unwrap();
    let vectors = Pooling::ALL.map(|(pooling, name)| {
        let options = EmbedOptions::default().with_pooling(pooling);
        (format!("{name} vectors"), values(&embedder.embed(batch, &options).unwrap()))
    });
    let labels = [("labels of texts", of_texts), ("labels of tokens", of_tokens)];
    labels.map(|(name, logits)| (name.to_owned(), values(&logits))).into_iter().chain(vectors).collect()
}

#[test]
fn shapes_at_edges_compute_right() {
    for (seed, shape) in (1..).zip(edges()) {
        check(&shape, seed, seed == 1);
    }
}

#[test]
fn random_shapes_compute_right() {
    let mut random = Random::new(20_261_130);
    for seed in 0..5 {
        check(&drawn(&mut random), 100 + seed, false);
    }
}

#[test]
fn a_matrix_too_wide_for_sums_of_bytes_is_refused_by_name() {
    let shape = Shape { heads: 1, head_dim: 2, intermediate: (1 << 16) + 1, layers: 1, ..BASE };
    let (_folder, files) = save(&shape, &tensors(&shape, 1));
    let load = |scheme| LanguageModel::load(&files, &Backend::fused(Isa::best(), scheme, Team::single()));
    let error = load(Scheme::Int8).unwrap_err().to_string();
    assert!(error.contains("int8") && error.contains("65537 inputs"), "{error}");
    assert!(load(Scheme::W8).is_ok());
}
