//! A backend and a cache that this crate does not know.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use candle_core::{Device, Tensor};
use ettin::{
    Backend, Config, Dtype, PackedBatch, Parameters, Trunk,
    heads::LanguageModel,
    ops::{
        AttentionParams, Caches, Compute, Fused, HeadParams, KvShape, KvStore, LayerKv, LinearParams, Matrix,
        MlpParams, NormParams, Reference, Vector,
    },
    weights::{Head, Weights},
};

use super::common::{assert_same, model, values};
use super::{all_logits, batch, reference};

/// The reference path, which counts its layers.
#[derive(Debug, Clone)]
struct Counting {
    inner: Reference,
    attention: Arc<AtomicUsize>,
    mlp: Arc<AtomicUsize>,
}

impl Counting {
    fn new() -> Self {
        let inner = Reference::new(&Device::Cpu, Dtype::F32).unwrap();
        Self { inner, attention: Arc::default(), mlp: Arc::default() }
    }

    /// Calls of attention and MLP blocks since the last look.
    fn counted(&self) -> (usize, usize) {
        (self.attention.swap(0, Ordering::Relaxed), self.mlp.swap(0, Ordering::Relaxed))
    }
}

type Of<C> = <C as Compute>::Hidden;

impl Compute for Counting {
    type Hidden = Of<Reference>;
    type Embedding = <Reference as Compute>::Embedding;
    type Bias = <Reference as Compute>::Bias;
    type Norm = <Reference as Compute>::Norm;
    type Linear = <Reference as Compute>::Linear;
    type Attention = <Reference as Compute>::Attention;
    type Mlp = <Reference as Compute>::Mlp;
    type PredictionHead = <Reference as Compute>::PredictionHead;
    type Kv = <Reference as Compute>::Kv;

    fn device(&self) -> Device {
        self.inner.device()
    }

    fn dtype(&self) -> Dtype {
        self.inner.dtype()
    }

    fn describe(&self) -> String {
        "a counting backend".to_owned()
    }

    fn hidden(&self, vectors: &Tensor) -> ettin::Result<Self::Hidden> {
        self.inner.hidden(vectors)
    }

    fn embedding(&self, matrix: Matrix<'_>) -> ettin::Result<Self::Embedding> {
        self.inner.embedding(matrix)
    }

    fn bias(&self, vector: Vector) -> ettin::Result<Self::Bias> {
        self.inner.bias(vector)
    }

    fn norm(&self, params: NormParams) -> ettin::Result<Self::Norm> {
        self.inner.norm(params)
    }

    fn linear(&self, params: LinearParams<'_>) -> ettin::Result<Self::Linear> {
        self.inner.linear(params)
    }

    fn attention(&self, params: AttentionParams<'_>) -> ettin::Result<Self::Attention> {
        self.inner.attention(params)
    }

    fn mlp(&self, params: MlpParams<'_>) -> ettin::Result<Self::Mlp> {
        self.inner.mlp(params)
    }

    fn prediction_head(&self, params: HeadParams<'_>) -> ettin::Result<Self::PredictionHead> {
        self.inner.prediction_head(params)
    }

    fn kv_store(&self, shape: KvShape) -> Self::Kv {
        self.inner.kv_store(shape)
    }

    fn look_up(&self, embedding: &Self::Embedding, ids: &[u32]) -> ettin::Result<Self::Hidden> {
        self.inner.look_up(embedding, ids)
    }

    fn embed(
        &self,
        embedding: &Self::Embedding,
        norm: &Self::Norm,
        batch: &PackedBatch,
    ) -> ettin::Result<Self::Hidden> {
        self.inner.embed(embedding, norm, batch)
    }

    fn attention_block(
        &self,
        hidden: &mut Self::Hidden,
        attention: &Self::Attention,
        batch: &PackedBatch,
        cache: Option<LayerKv<'_, Self::Kv>>,
    ) -> ettin::Result<()> {
        self.attention.fetch_add(1, Ordering::Relaxed);
        self.inner.attention_block(hidden, attention, batch, cache)
    }

    fn mlp_block(&self, hidden: &mut Self::Hidden, mlp: &Self::Mlp) -> ettin::Result<()> {
        self.mlp.fetch_add(1, Ordering::Relaxed);
        self.inner.mlp_block(hidden, mlp)
    }

    fn apply_norm(&self, hidden: &Self::Hidden, norm: &Self::Norm) -> ettin::Result<Self::Hidden> {
        self.inner.apply_norm(hidden, norm)
    }

    fn apply_linear(&self, hidden: &Self::Hidden, linear: &Self::Linear) -> ettin::Result<Self::Hidden> {
        self.inner.apply_linear(hidden, linear)
    }

    fn apply_head(&self, hidden: &Self::Hidden, head: &Self::PredictionHead) -> ettin::Result<Self::Hidden> {
        self.inner.apply_head(hidden, head)
    }

    fn logits(
        &self,
        hidden: &Self::Hidden,
        output: &Self::Embedding,
        bias: Option<&Self::Bias>,
    ) -> ettin::Result<Tensor> {
        self.inner.logits(hidden, output, bias)
    }
}

#[test]
fn a_backend_of_ones_own_runs_language_models() {
    for name in ["tiny-encoder-biases", "tiny-encoder-untied", "tiny-decoder-untied"] {
        let counting = Counting::new();
        let ours = LanguageModel::load(&model(name), &Backend::custom(counting.clone())).unwrap();
        let theirs = LanguageModel::load(&model(name), &reference()).unwrap();
        assert_same(name, &all_logits(&ours), &all_logits(&theirs));
        let layers = ours.config().num_layers();
        assert_eq!(counting.counted(), (layers, layers), "{name}");
        assert_eq!(ours.trunk().backend().describe(), "a counting backend");
    }
}

#[test]
fn a_backend_of_ones_own_decodes() {
    let counting = Counting::new();
    let ours = LanguageModel::load(&model("tiny-decoder"), &Backend::custom(counting.clone())).unwrap();
    let theirs = LanguageModel::load(&model("tiny-decoder"), &reference()).unwrap();
    let decoded = |model: &LanguageModel| {
        let (mut cache, mut logits, mut all) = (model.cache(8).unwrap(), Vec::new(), Vec::new());
        for part in [&[5u32, 6, 7, 8][..], &[9], &[10, 11]] {
            let batch = PackedBatch::continuing(&[part], &[cache.len()]).unwrap();
            model.step_into(&batch, &mut [&mut cache], &[part.len() - 1], &mut logits).unwrap();
            all.extend_from_slice(&logits);
        }
        all
    };
    assert_same("decoding", &decoded(&ours), &decoded(&theirs));
    assert_eq!(counting.counted().0, 3 * ours.config().num_layers());
}

#[test]
fn fewer_layers_are_computed_and_no_more() {
    let files = model("tiny-encoder");
    let (config, weights) = (Config::load(&files).unwrap(), Weights::open(&files).unwrap());
    let counting = Counting::new();
    for backend in [Backend::custom(counting.clone()), super::fused()] {
        let parameters = Parameters::from_weights(&weights, &config, Head::None).unwrap();
        let trunk = Trunk::build(parameters, &config, &backend).unwrap();
        let states = trunk.hidden_states(&batch()).unwrap();
        counting.counted();
        for (layers, expected) in states.iter().enumerate() {
            let hidden = trunk.forward_to(&batch(), layers).unwrap().to_tensor().unwrap();
            assert_same(&format!("{layers} layers on {}", backend.describe()), &values(&hidden), &values(expected));
            if backend.describe().contains("counting") {
                assert_eq!(counting.counted(), (layers, layers));
            }
        }
        let error = trunk.forward_to(&batch(), states.len()).unwrap_err().to_string();
        assert!(error.contains(&format!("layer {}", states.len())), "{error}");
    }
}

#[test]
fn caches_of_another_model_are_refused_and_stay_as_they_are() {
    let load = |name: &str, backend: &Backend| LanguageModel::load(&model(name), backend).unwrap();
    let ours = load("tiny-decoder", &super::fused());
    let batch = PackedBatch::new(&[[5, 6, 7]]).unwrap();
    // Another model, the same one once more, and one of another backend.
    for other in [
        load("nano-decoder", &super::fused()),
        load("tiny-decoder", &super::fused()),
        load("tiny-decoder", &reference()),
    ] {
        let (mut own, mut foreign) = (ours.cache(4).unwrap(), other.cache(4).unwrap());
        let both = PackedBatch::new(&[[5, 6, 7], [5, 6, 7]]).unwrap();
        let error = ours.trunk().step(&both, &mut [&mut own, &mut foreign]).unwrap_err().to_string();
        assert!(error.contains("sequence 1") && error.contains("another model"), "{error}");
        assert!(own.is_empty() && foreign.is_empty());
        other.trunk().step(&batch, &mut [&mut foreign]).unwrap();
        assert!(ours.trunk().step(&batch, &mut [&mut own]).is_ok());
    }
}

/// Stores in one pool, found through a table: what a shared or paged cache does.
struct Pool<S> {
    stores: Vec<S>,
    /// For every layer, the store of every sequence.
    table: Vec<Vec<usize>>,
}

impl<S> Caches<S> for Pool<S> {
    fn store_mut(&mut self, layer: usize, sequence: usize) -> &mut S {
        &mut self.stores[self.table[layer][sequence]]
    }

    fn stores_mut<'s>(&'s mut self, layer: usize, show: &mut dyn FnMut(&'s mut S)) {
        let mut stores: Vec<Option<&mut S>> = self.stores.iter_mut().map(Some).collect();
        for &index in &self.table[layer] {
            show(stores[index].take().expect("every sequence has its own"));
        }
    }
}

/// The first layer's attention over a cache of one's own, in two steps, as tensors.
fn attended<C: Compute>(compute: &C) -> [Vec<f32>; 2] {
    let files = model("tiny-decoder");
    let (config, weights) = (Config::load(&files).unwrap(), Weights::open(&files).unwrap());
    let mut tensors = Parameters::from_weights(&weights, &config, Head::None).unwrap().tensors;
    let layer = tensors.layers.remove(0);
    let attention = compute
        .attention(AttentionParams {
            norm: None,
            qkv: layer.qkv,
            out: layer.attention_output,
            heads: config.num_heads,
            head_dim: config.head_dim(),
            span: config.layers[0].span,
            rope_theta: config.layers[0].rope_theta,
            max_positions: config.max_position_embeddings,
        })
        .unwrap();
    let eps = config.norm_eps;
    let norm = compute
        .norm(NormParams { weight: tensors.embedding_norm.weight, bias: tensors.embedding_norm.bias, eps })
        .unwrap();
    let embedding = compute.embedding(tensors.embedding).unwrap();
    let run = |batch: &PackedBatch, cache: Option<&mut Pool<C::Kv>>| {
        let mut hidden = compute.embed(&embedding, &norm, batch).unwrap();
        let cache = cache.map(|cache| LayerKv::new(cache, 0));
        compute.attention_block(&mut hidden, &attention, batch, cache).unwrap();
        values(&ettin::ops::States::to_tensor(&hidden).unwrap())
    };
    let sequences: [&[u32]; 2] = [&[5, 6, 7, 8], &[9, 10, 11, 12]];
    let whole = run(&PackedBatch::new(&sequences).unwrap(), None);

    let shape = KvShape { heads: config.num_heads, head_dim: config.head_dim(), ring: None };
    let mut pool = Pool {
        stores: (0..3).map(|_| compute.kv_store(shape)).collect(),
        // The second sequence's store lies before the first's.
        table: vec![vec![2, 0]],
    };
    pool.stores.iter_mut().for_each(|store| store.reserve(4, 64));
    let mut parts = [Vec::new(), Vec::new()];
    for range in [0..3, 3..4] {
        let rows = sequences.map(|sequence| &sequence[range.clone()]);
        let batch = PackedBatch::continuing(&rows, &[range.start; 2]).unwrap();
        let out = run(&batch, Some(&mut pool));
        let half = out.len() / 2;
        parts[0].extend_from_slice(&out[..half]);
        parts[1].extend_from_slice(&out[half..]);
    }
    [whole, parts.concat()]
}

#[test]
fn a_cache_of_ones_own_serves_every_backend() {
    let fused = Fused::new(ettin::Isa::best(), ettin::Scheme::F32, ettin::Team::single());
    let [whole, parts] = attended(&fused);
    assert_same("the fused kernels", &parts, &whole);
    let [whole, parts] = attended(&Reference::new(&Device::Cpu, Dtype::F32).unwrap());
    super::common::assert_close("the reference path", &parts, &whole, 1e-6);
}
