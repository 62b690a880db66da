//! A token's result depends, bit for bit, on its own sequence alone: not on neighbours, order, chunks or threads.

mod common;

use candle_core::Tensor;
use common::{Fixture, assert_same, forward, model, rows, values};
use ettin::{Backend, Isa, KvFormat, PackedBatch, Scheme, Span, Team, heads::LanguageModel};

const MODELS: [&str; 4] = ["tiny-encoder", "tiny-decoder", "tiny-encoder-biases", "tiny-decoder-biases"];

fn isa() -> Isa {
    Isa::select().unwrap()
}

fn backend(scheme: Scheme, threads: usize) -> Backend {
    Backend::fused(isa(), scheme, Team::with_threads(threads).unwrap())
}

/// Every number format with every way to keep keys and values.
fn formats() -> impl Iterator<Item = (Scheme, KvFormat)> {
    Scheme::ALL.into_iter().flat_map(|scheme| KvFormat::ALL.into_iter().map(move |kv| (scheme, kv)))
}

/// Pseudo-random token ids of a tiny model.
fn ids(seed: u32, len: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            5 + (state >> 16) % 120
        })
        .collect()
}

fn all_logits(model: &LanguageModel, batch: &PackedBatch) -> Tensor {
    model.logits(batch, &(0..batch.tokens()).collect::<Vec<_>>()).unwrap()
}

#[test]
fn packed_equals_alone_in_any_order() {
    for (name, (scheme, kv)) in MODELS.into_iter().flat_map(|name| formats().map(move |format| (name, format))) {
        let language = LanguageModel::load(&model(name), &backend(scheme, 2).with_kv(kv).unwrap()).unwrap();
        let sequences = Fixture::load(name).sequences();
        let reversed: Vec<_> = sequences.iter().rev().cloned().collect();
        let packed = PackedBatch::new(&sequences).unwrap();
        let other = PackedBatch::new(&reversed).unwrap();
        let (in_order, in_reverse) = (all_logits(&language, &packed), all_logits(&language, &other));
        for (index, sequence) in sequences.iter().enumerate() {
            let alone = PackedBatch::new(std::slice::from_ref(sequence)).unwrap();
            let alone = values(&all_logits(&language, &alone));
            let what = format!("{name}, {scheme}, keys in {kv}, sequence {index}");
            assert_same(&what, &rows(&in_order, &packed, index), &alone);
            assert_same(&what, &rows(&in_reverse, &other, sequences.len() - 1 - index), &alone);
        }
    }
}

/// So many that tasks take whole sequences through a block.
#[test]
fn many_sequences_equal_each_alone() {
    let sequences: Vec<_> = (0..40).map(|index| ids(index, 1 + (index as usize * 37) % 70)).collect();
    let packed = PackedBatch::new(&sequences).unwrap();
    assert!(packed.tokens() >= 1024, "{} rows are too few", packed.tokens());
    for (name, (scheme, kv)) in MODELS.into_iter().flat_map(|name| formats().map(move |format| (name, format))) {
        let language = LanguageModel::load(&model(name), &backend(scheme, 2).with_kv(kv).unwrap()).unwrap();
        let together = all_logits(&language, &packed);
        for (index, sequence) in sequences.iter().enumerate().step_by(3) {
            let alone = values(&all_logits(&language, &PackedBatch::new(std::slice::from_ref(sequence)).unwrap()));
            let what = format!("{name}, {scheme}, keys in {kv}, sequence {index}");
            assert_same(&what, &rows(&together, &packed, index), &alone);
        }
    }
}

#[test]
fn asking_for_some_rows_changes_none() {
    let language = LanguageModel::load(&model("tiny-encoder"), &backend(Scheme::F32, 2)).unwrap();
    let batch = PackedBatch::new(&[ids(1, 50), ids(2, 33)]).unwrap();
    let all = all_logits(&language, &batch);
    for row in [0, 7, 49, 50, 82] {
        let one = values(&language.logits(&batch, &[row]).unwrap());
        assert_same("one row", &one, &values(&all.narrow(0, row, 1).unwrap()));
    }
}

#[test]
fn threads_change_nothing() {
    for (name, scheme) in MODELS.into_iter().flat_map(|name| Scheme::ALL.map(|scheme| (name, scheme))) {
        let batch = PackedBatch::new(&[ids(3, 200), ids(4, 31), ids(5, 1)]).unwrap();
        let logits = |threads| {
            let language = LanguageModel::load(&model(name), &backend(scheme, threads)).unwrap();
            values(&all_logits(&language, &batch))
        };
        let one = logits(1);
        for threads in [2, 3, 5] {
            assert_same(&format!("{name}, {scheme}, {threads} threads"), &logits(threads), &one);
        }
    }
}

#[test]
fn window_edges_are_where_the_span_says() {
    // Changing the token at distance d from a query changes the query's first local layer exactly when the span covers
    // d. Layer 0 of the tiny models is global, layer 1 local; so look at what layer 1 adds for swapped neighbours in a
    // model whose every layer is local.
    for (name, left, right) in [("tiny-encoder", 8usize, 8usize), ("tiny-decoder", 7, 0)] {
        let files = model(name);
        let mut config = ettin::Config::load(&files).unwrap();
        let local = config.layers[1].span;
        assert_eq!(local, Span { left: Some(left), right: Some(right) }, "{name}");
        config.layers.truncate(1);
        config.layers[0].span = local;
        let weights = ettin::weights::Weights::open(&files).unwrap();
        let head = ettin::weights::Head::None;
        let parameters = ettin::Parameters::from_weights(&weights, &config, head).unwrap();
        let trunk = ettin::Trunk::build(parameters, &config, &backend(Scheme::F32, 1)).unwrap();

        let base = ids(9, 64);
        let query = 32;
        let state = |ids: Vec<u32>| {
            let batch = PackedBatch::new(&[ids]).unwrap();
            values(&forward(&trunk, &batch).narrow(0, query, 1).unwrap())
        };
        let reference = state(base.clone());
        for key in 0..base.len() {
            let mut changed = base.clone();
            changed[key] = if changed[key] == 20 { 21 } else { 20 };
            let seen = state(changed) != reference;
            let inside = key + left >= query && key <= query + right;
            assert_eq!(seen, inside, "{name}: key {key} for query {query}");
        }
    }
}
