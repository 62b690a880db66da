//! Throughput of the kernels: products and attention in flops, the rest in elements per second.
//!
//! `cargo bench -p ettin-kernels --bench kernels -- gemm/avx512` runs a part; `layers/amx/bf16` are the halves of a
//! layer.

use std::{cell::LazyCell, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ettin_kernels::{
    Activation, Aligned, Attention, DocumentVectors, Isa, KvBlocks, KvFormat, KvRows, KvWrite, MaxSimQueries, Norm,
    PackedActivations, PackedWeight, Precision, RopeRows, RopeTable, Scheme, Sequence, Span, Store, Team, attention,
    attention::store,
    block::{AttentionPlan, Linear, Mlp, PackedSequences, SelfAttention, Workspace, mlp},
    gemm, layer_norm, max_sim, rope, vocabulary,
};

fn data(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 % 1009) as f32 / 504.5) - 1.0).collect()
}

fn teams() -> Vec<Team> {
    let most = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut teams = vec![Team::single()];
    if let (true, Ok(team)) = (most > 1, Team::with_threads(most)) {
        teams.push(team);
    }
    teams
}

/// rows × inputs × outputs
const PRODUCTS: [(usize, usize, usize); 10] = [
    (512, 768, 2304),
    (512, 256, 768),
    (512, 1152, 768),
    (128, 768, 2304),
    (16, 768, 2304),
    (4, 768, 2304),
    (1, 768, 2304),
    (1, 768, 50_368),
    (1, 256, 50_368),
    (256, 3840, 1792),
];

fn products(c: &mut Criterion) {
    for team in teams() {
        for isa in Isa::available() {
            for scheme in Scheme::ALL {
                let mut group = c.benchmark_group(format!("gemm/{isa}/{scheme}/{}t", team.threads()));
                for (m, k, n) in PRODUCTS {
                    let w = data(k);
                    let w = PackedWeight::pack(isa, scheme, &team, n, k, &|_, out| out.copy_from_slice(&w));
                    let x = data(m * k);
                    let mut operand = PackedActivations::new();
                    let mut out = vec![0.0; m * n];
                    group.throughput(Throughput::Elements((2 * m * k * n) as u64));
                    group.bench_function(format!("{m}x{k}x{n}"), |b| {
                        b.iter(|| {
                            operand.encode(&team, &w, black_box(&x));
                            gemm(&team, &operand, &w, None, Store::Write, &mut out);
                        });
                    });
                }
            }
        }
    }
}

/// How keys and values are kept, how they are multiplied, and what that is called.
const NUMBERS: [(&str, KvFormat, Precision); 4] = [
    ("f32", KvFormat::F32, Precision::F32),
    ("kv-bf16", KvFormat::Bf16, Precision::F32),
    ("kv-int8", KvFormat::Int8, Precision::F32),
    ("bf16", KvFormat::Bf16, Precision::Bf16),
];

/// Name, span, queries (the last of the sequence), keys.
const ATTENTIONS: [(&str, Span, usize, usize); 8] = [
    ("global-128", Span::FULL, 128, 128),
    ("global-512", Span::FULL, 512, 512),
    ("global-4096", Span::FULL, 256, 4096),
    ("causal-512", Span::CAUSAL, 512, 512),
    ("local-128", Span { left: Some(64), right: Some(64) }, 128, 128),
    ("local-1024", Span { left: Some(64), right: Some(64) }, 1024, 1024),
    ("decode-4096", Span::CAUSAL, 1, 4096),
    ("decode-local", Span { left: Some(63), right: Some(0) }, 1, 4096),
];

fn attentions(c: &mut Criterion) {
    let (heads, dim) = (12, 64);
    let width = heads * dim;
    let qkv = data(4096 * 3 * width);
    let source = KvRows { k: &qkv[width..], v: &qkv[2 * width..], stride: 3 * width };
    for team in teams() {
        for (isa, (numbers, format, precision)) in
            Isa::available().into_iter().flat_map(|isa| NUMBERS.map(|n| (isa, n)))
        {
            let mut group = c.benchmark_group(format!("attention/{isa}/{numbers}/{}t", team.threads()));
            for (name, span, rows, len) in ATTENTIONS {
                let mut kv = KvBlocks::new(heads, dim, len, format);
                store(isa, &team, source, &mut [KvWrite { kv: &mut kv, position: 0, rows: 0..len }]);
                let sequences = [Sequence { rows: 0..rows, start: len - rows, len, kv: kv.view() }];
                let args = Attention {
                    q: &qkv,
                    q_stride: 3 * width,
                    heads,
                    head_dim: dim,
                    span,
                    scale: 0.125,
                    precision,
                    sequences: &sequences,
                };
                let keys: usize = (len - rows..len).map(|query| span.keys(query, len).len()).sum();
                let mut out = vec![0.0; rows * width];
                group.throughput(Throughput::Elements((4 * width * keys) as u64));
                group.bench_function(name, |b| b.iter(|| attention(isa, &team, black_box(args), &mut out)));
            }
            let mut kv = KvBlocks::new(heads, dim, 1024, format);
            group.throughput(Throughput::Elements(2 * 1024 * width as u64));
            group.bench_function("store-1024", |b| {
                b.iter(|| store(isa, &team, source, &mut [KvWrite { kv: &mut kv, position: 0, rows: 0..1024 }]));
            });
        }
    }
}

/// Dimensions of 17m and 150m: hidden, inner, layers.
const LAYERS: [(&str, usize, usize, usize); 2] = [("17m", 256, 384, 7), ("150m", 768, 1152, 22)];

/// Rows of a task, of sequences of 128.
const TASK: usize = 256;

/// The weights of a layer: `qkv`, `out`, `wi`, `wo`.
type LayerWeights = [PackedWeight; 4];

/// All layers of a model, so that weights come from where they do in a forward pass: the halves of a layer, and its
/// projection alone. Flops are those of products of weights.
fn layers(c: &mut Criterion) {
    let team = Team::single();
    for (isa, scheme) in Isa::available().into_iter().flat_map(|isa| Scheme::ALL.map(|scheme| (isa, scheme))) {
        let mut group = c.benchmark_group(format!("layers/{isa}/{scheme}"));
        for (size, hidden, inner, count) in LAYERS {
            let weights = LazyCell::new(|| -> Vec<LayerWeights> {
                let row = data(inner.max(hidden));
                let pack = |n: usize, k: usize| {
                    let fill = |_: usize, out: &mut [f32]| out.iter_mut().zip(&row).for_each(|(o, x)| *o = 0.05 * x);
                    PackedWeight::pack(isa, scheme, &team, n, k, &fill)
                };
                let layer =
                    || [pack(3 * hidden, hidden), pack(hidden, hidden), pack(2 * inner, hidden), pack(hidden, inner)];
                (0..count).map(|_| layer()).collect()
            });
            let norm_weight = vec![1.0; hidden];
            let norm = Norm { weight: &norm_weight, bias: None, eps: 1e-5 };
            let linear = |weight| Linear { weight, bias: None };
            let x = data(TASK * hidden);
            let rounds = scheme.rounds_activations();
            let table = RopeTable::new(160_000.0, 64, 128);
            let positions: Vec<u32> = (0..TASK as u32).map(|row| row % 128).collect();
            let offsets = [0, TASK / 2, TASK];
            let elements = |per_row: usize| Throughput::Elements((2 * TASK * count * per_row) as u64);

            group.throughput(elements(3 * hidden * hidden));
            group.bench_function(format!("projection-{size}"), |b| {
                let (mut operand, mut out) = (PackedActivations::new(), Aligned::default());
                out.resize(TASK * 3 * hidden);
                operand.encode(&team, &weights[0][0], &x);
                b.iter(|| {
                    for [qkv, ..] in &*weights {
                        gemm(&team, &operand, qkv, None, Store::Write, &mut out);
                    }
                });
            });
            group.throughput(elements(4 * hidden * hidden));
            group.bench_function(format!("attention-half-{size}"), |b| {
                let (mut hidden_states, mut memory) = (Aligned::from(&x[..]), Workspace::new());
                b.iter(|| {
                    hidden_states.copy_from_slice(&x);
                    for (i, [qkv, out, ..]) in weights.iter().enumerate() {
                        let near = (i % 3 > 0).then_some(64);
                        let block = SelfAttention {
                            norm: Some(norm),
                            qkv: linear(qkv),
                            out: linear(out),
                            rope: &table,
                            heads: hidden / 64,
                            head_dim: 64,
                            span: Span { left: near, right: near },
                            precision: if rounds { Precision::Bf16 } else { Precision::F32 },
                            kv: if rounds { KvFormat::Bf16 } else { KvFormat::F32 },
                        };
                        let sequences =
                            PackedSequences { offsets: &offsets, positions: &positions, caches: None, unseen: &[] };
                        AttentionPlan::Heads.run(&team, &mut hidden_states, block, sequences, &mut memory);
                    }
                });
            });
            group.throughput(elements(3 * hidden * inner));
            group.bench_function(format!("mlp-{size}"), |b| {
                let (mut hidden_states, mut workspace) = (Aligned::from(&x[..]), Workspace::new());
                b.iter(|| {
                    hidden_states.copy_from_slice(&x);
                    for [.., wi, wo] in &*weights {
                        let half = Mlp { norm, wi: linear(wi), activation: Activation::Gelu, wo: linear(wo) };
                        mlp(&team, &mut hidden_states, half, &mut workspace);
                    }
                });
            });
        }
    }
}

/// One query against 1,000 documents of 128 vectors of 128 elements.
fn late_interaction(c: &mut Criterion) {
    let (documents, length, size) = (1000, 128, 128);
    let offsets: Vec<usize> = (0..=documents).map(|document| document * length).collect();
    let vectors = data(documents * length * size);
    let halves: Vec<u16> = vectors.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
    let codes: Vec<i8> = vectors.iter().map(|x| (x * 127.0) as i8).collect();
    let scales = vec![1.0 / 127.0; documents * length];
    let kept = [
        ("f32", DocumentVectors::F32(&vectors)),
        ("bf16", DocumentVectors::Bf16(&halves)),
        ("int8", DocumentVectors::Int8 { codes: &codes, scales: &scales }),
    ];
    let mut scores = vec![0.0; documents];
    for team in teams() {
        for isa in Isa::available() {
            for scheme in [Scheme::F32, Scheme::Bf16] {
                let mut group = c.benchmark_group(format!("maxsim/{isa}/{scheme}/{}t", team.threads()));
                for queries in [10, 32] {
                    let query = MaxSimQueries::pack(isa, scheme, &team, &data(queries * size), size, &[0, queries]);
                    group.throughput(Throughput::Elements((2 * queries * documents * length * size) as u64));
                    for (name, kept) in kept {
                        group.bench_function(format!("{queries}-{name}"), |b| {
                            b.iter(|| max_sim(&team, &query, black_box(kept), &offsets, &mut scores));
                        });
                    }
                }
            }
        }
    }
}

fn elementwise(c: &mut Criterion) {
    let team = Team::single();
    let (rows, hidden) = (512, 768);
    let (x, weight) = (data(rows * hidden), data(hidden));
    let table = RopeTable::new(160_000.0, 64, rows);
    let positions: Vec<u32> = (0..rows as u32).collect();
    for isa in Isa::available() {
        let mut group = c.benchmark_group(format!("elementwise/{isa}"));
        let mut out = vec![0.0; rows * hidden];
        group.throughput(Throughput::Elements((rows * hidden) as u64));
        group.bench_function("layer_norm", |b| {
            let norm = Norm { weight: &weight, bias: None, eps: 1e-5 };
            b.iter(|| layer_norm(isa, &team, black_box(&x), norm, &mut out));
        });
        let mut qkv = data(rows * 3 * hidden);
        group.throughput(Throughput::Elements((rows * 2 * hidden) as u64));
        group.bench_function("rope", |b| {
            b.iter(|| {
                let target = RopeRows { rows: &mut qkv, stride: 3 * hidden, offset: 0, heads: 24 };
                rope(isa, &team, &table, &positions, target);
            });
        });
        let logits = data(50_368);
        group.throughput(Throughput::Elements(50_368));
        group.bench_function("log-sum-exp", |b| b.iter(|| vocabulary::log_sum_exp(isa, black_box(&logits))));
    }
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800))
        .sample_size(20)
        .without_plots()
}

criterion_group! { name = benches; config = quick(); targets = products, attentions, layers, late_interaction, elementwise }
criterion_main!(benches);
