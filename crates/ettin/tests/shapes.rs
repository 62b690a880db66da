//! Models of any shape compute right: in every number format, on every instruction set of this CPU, whole, packed and
//! from a cache.
//!
//! Kernels work in panels of outputs, groups of inputs and vectors of lanes, and a model's dimensions need not be multiples
//! of any. Results are compared with plain candle operations, within what the number format costs, and with one
//! another bit for bit.

mod common;

use candle_core::Device;
use common::{
    assert_same,
    random::{Random, Shape, save, tensors},
    relative_error, rows, values,
};
use ettin::{
    Backend, Dtype, Isa, KvCache, KvFormat, PackedBatch, Pooling, Scheme, Team,
    files::ModelFiles,
    heads::{EmbedOptions, Embedder, LanguageModel, SequenceClassifier, TokenClassifier},
    weights::{StoredDtype, convert},
};
use ettin_kernels::testing::each_isa;

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

/// max|Δ| / max|reference| that a number format may show; of weights in few bits, beside the same weights in f32.
fn tolerance(scheme: Scheme) -> f64 {
    match scheme {
        Scheme::F32 | Scheme::Bf16x6 => 1e-4,
        Scheme::Bf16x3 | Scheme::W8 | Scheme::W4 => 2e-3,
        Scheme::Bf16 => 0.05,
        Scheme::Int8 => 0.1,
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
        Shape { activation: "gelu_new", ..of(1, 156, 33, 111) },
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

/// The model as it is, and with weights that W8 and W4 leave of it.
struct Files {
    own: ModelFiles,
    in_bytes: ModelFiles,
    in_nibbles: ModelFiles,
    _folders: Vec<tempfile::TempDir>,
}

impl Files {
    fn new(shape: &Shape, seed: u64) -> Self {
        let (folder, own) = save(shape, &tensors(shape, seed));
        let converted = |dtype| {
            let folder = tempfile::tempdir().unwrap();
            convert(&own, folder.path(), Some(dtype), &mut |_| {}).unwrap();
            (ModelFiles::folder(folder.path()).unwrap(), folder)
        };
        let ((in_bytes, bytes), (in_nibbles, nibbles)) = (converted(StoredDtype::W8), converted(StoredDtype::W4));
        Self { in_bytes, in_nibbles, own, _folders: vec![folder, bytes, nibbles] }
    }

    /// What the scheme computes with, for the reference.
    fn of(&self, scheme: Scheme) -> &ModelFiles {
        match scheme {
            Scheme::W8 => &self.in_bytes,
            Scheme::W4 => &self.in_nibbles,
            _ => &self.own,
        }
    }
}

fn reference() -> Backend {
    Backend::reference(&Device::Cpu, Dtype::F32).unwrap()
}

fn all_logits(model: &LanguageModel, batch: &PackedBatch) -> candle_core::Tensor {
    model.logits(batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn assert_near(what: &str, ours: &[f32], reference: &[f32], scheme: Scheme) {
    assert_eq!(ours.len(), reference.len(), "{what}: sizes differ");
    let error = relative_error(ours, reference);
    assert!(error <= tolerance(scheme), "{what}: {error:.2e} off, allowed {:.0e}", tolerance(scheme));
}

/// Everything that a shape is asked.
fn check(shape: &Shape, seed: u64, many: bool) {
    let mut random = Random::new(seed + 1000);
    let files = Files::new(shape, seed);
    let mut sequences =
        |lengths: &[usize]| -> Vec<Vec<u32>> { lengths.iter().map(|&len| random.ids(len, shape.vocabulary)).collect() };
    // Few rows, whose threads share heads; more, step by step; many sequences, of which tasks take some.
    let mut batches = vec![(sequences(&[5, 1, 9]), 2), (sequences(&[70, 33, 2, 65]), 2)];
    if many {
        batches.push((sequences(&[64; 9]), 1));
    }
    let expected: Vec<Vec<Vec<f32>>> = [Scheme::F32, Scheme::W8, Scheme::W4]
        .map(|scheme| {
            let model = LanguageModel::load(files.of(scheme), &reference()).unwrap();
            let of = |(sequences, _): &(Vec<Vec<u32>>, usize)| {
                values(&all_logits(&model, &PackedBatch::new(sequences).unwrap()))
            };
            batches.iter().map(of).collect()
        })
        .into();
    let teams = [Team::single(), Team::with_threads(2).unwrap()];
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let expected =
                &expected[[Scheme::F32, Scheme::W8, Scheme::W4].iter().position(|&s| s == scheme).unwrap_or(0)];
            for ((sequences, threads), expected) in batches.iter().zip(expected) {
                let what = format!("{shape:?}, {isa}, {scheme}, {} sequences", sequences.len());
                let backend = Backend::fused(isa, scheme, teams[threads - 1].clone()).with_kv(KvFormat::F32).unwrap();
                let model = LanguageModel::load(&files.own, &backend).unwrap();
                let batch = PackedBatch::new(sequences).unwrap();
                let ours = all_logits(&model, &batch);
                assert_near(&what, &values(&ours), expected, scheme);
                for (index, sequence) in sequences.iter().enumerate().take(3) {
                    let alone = values(&all_logits(&model, &PackedBatch::new(&[sequence]).unwrap()));
                    assert_same(&format!("{what}: alone"), &rows(&ours, &batch, index), &alone);
                }
            }
            for kv in KvFormat::ALL {
                let backend = Backend::fused(isa, scheme, teams[1].clone()).with_kv(kv).unwrap();
                let what = format!("{shape:?}, {isa}, {scheme}, keys in {kv}");
                let model = LanguageModel::load(&files.own, &backend).unwrap();
                if shape.decoder {
                    from_a_cache(&what, &model, &batches[1].0[0]);
                }
            }
            heads(shape, &files, isa, scheme, &batches[0].0);
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

/// Heads of every kind beside those of plain operations.
fn heads(shape: &Shape, files: &Files, isa: Isa, scheme: Scheme, sequences: &[Vec<u32>]) {
    let what = format!("{shape:?}, {isa}, {scheme}");
    let backend = Backend::fused(isa, scheme, Team::single()).with_kv(KvFormat::F32).unwrap();
    let (batch, theirs) = (PackedBatch::new(sequences).unwrap(), files.of(scheme));
    let ours = SequenceClassifier::load(&files.own, &backend).unwrap().logits(&batch).unwrap();
    let expected = SequenceClassifier::load(theirs, &reference()).unwrap().logits(&batch).unwrap();
    assert_near(&format!("{what}: labels of texts"), &values(&ours), &values(&expected), scheme);
    let ours = TokenClassifier::load(&files.own, &backend).unwrap().logits(&batch).unwrap();
    let expected = TokenClassifier::load(theirs, &reference()).unwrap().logits(&batch).unwrap();
    assert_near(&format!("{what}: labels of tokens"), &values(&ours), &values(&expected), scheme);
    // Token vectors stay in their file here.
    let (ours, expected) =
        (Embedder::load(&files.own, &backend).unwrap(), Embedder::load(theirs, &reference()).unwrap());
    for (pooling, name) in Pooling::ALL {
        let options = EmbedOptions { pooling: Some(pooling), ..EmbedOptions::default() };
        let [ours, expected] = [&ours, &expected].map(|model| values(&model.embed(&batch, &options).unwrap()));
        assert_near(&format!("{what}: {name} vectors"), &ours, &expected, scheme);
    }
}

#[test]
fn shapes_at_edges_compute_right() {
    for (seed, shape) in (1..).zip(edges()) {
        check(&shape, seed, seed <= 2);
    }
}

#[test]
fn random_shapes_compute_right() {
    let mut random = Random::new(20_261_130);
    for seed in 0..10 {
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
