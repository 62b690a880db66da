//! The device form of the trunk, with the GPU kernels run on the CPU by their emulator, against the reference path.
//!
//! `ETTIN_TEST_DEVICE=cuda` (or `metal`), in a build with that feature, tests the device itself.

mod common;

use candle_core::Device;
use common::{F32, Fixture, assert_close, assert_same, model, values};
use ettin::{Backend, DeviceChoice, Dtype, PackedBatch, Trunk, heads::LanguageModel};
use ettin_gpu::emulator::{self, Dialect};

/// The device form in some dialects; nothing where no C++ compiler can build the emulator.
fn backends(dialects: &[Dialect], dtype: Dtype) -> Vec<(String, Backend)> {
    if let Ok(name) = std::env::var("ETTIN_TEST_DEVICE") {
        let device = name.parse::<DeviceChoice>().and_then(DeviceChoice::open).unwrap();
        return vec![(name, Backend::new(&device, dtype).unwrap())];
    }
    let backend = |&dialect| {
        let kernels = emulator::kernels(dialect, |source| source).unwrap();
        if kernels.is_none() {
            eprintln!("skipped: there is no C++ compiler here to run the kernels with");
        }
        kernels.map(|kernels| (format!("{dialect:?}"), Backend::with_kernels(kernels, dtype).unwrap()))
    };
    dialects.iter().filter_map(backend).collect()
}

fn reference() -> Backend {
    Backend::reference(&Device::Cpu, Dtype::F32).unwrap()
}

/// Every layer's hidden states.
fn states(trunk: &Trunk, batch: &PackedBatch) -> Vec<Vec<f32>> {
    trunk.hidden_states(batch).unwrap().iter().map(values).collect()
}

/// Ids that every vocabulary of `models/` has.
fn ids(len: u32, seed: u32) -> Vec<u32> {
    (0..len).map(|index| 5 + (index * 37 + seed) % 90).collect()
}

#[test]
fn it_agrees_with_the_reference_path() {
    for name in ["tiny-encoder", "tiny-encoder-biases", "tiny-decoder-biases", "tiny-activation-silu"] {
        let batch = PackedBatch::new(&Fixture::load(name).sequences()).unwrap();
        let oracle = LanguageModel::load(&model(name), &reference()).unwrap();
        for (dialect, backend) in backends(&Dialect::ALL, Dtype::F32) {
            let ours = LanguageModel::load(&model(name), &backend).unwrap();
            let what = format!("{name} as {dialect}");
            let expected = states(oracle.trunk(), &batch);
            for (layer, (ours, expected)) in states(ours.trunk(), &batch).iter().zip(&expected).enumerate() {
                assert_close(&format!("{what}, layer {layer}"), ours, expected, F32);
            }
            let rows = [0, batch.tokens() - 1];
            let expected = values(&oracle.logits(&batch, &rows).unwrap());
            assert_close(&format!("{what}, logits"), &values(&ours.logits(&batch, &rows).unwrap()), &expected, F32);
        }
    }
}

/// Heads of 64, which tensor cores take, in the formats that they take, up to the last residual. transformers itself,
/// made to round what goes into and comes out of products, differs from f32 by 5.3e-3 (f16) and 6.1e-2 (bf16) on this
/// input; how exact the kernels are is for their own tests to say.
#[test]
fn it_agrees_in_short_formats() {
    let batch = PackedBatch::new(&[ids(70, 1), ids(1, 2), ids(17, 3)]).unwrap();
    let residuals = |backend: &Backend| -> Vec<Vec<f32>> {
        let language = LanguageModel::load(&model("nano-encoder"), backend).unwrap();
        language.trunk().residuals(&batch).unwrap().iter().map(values).collect()
    };
    let expected = residuals(&reference());
    for (dtype, tolerance) in [(Dtype::F16, 2e-2), (Dtype::Bf16, 1.6e-1)] {
        for (dialect, backend) in backends(&[Dialect::Cuda], dtype) {
            for (layer, (ours, expected)) in residuals(&backend).iter().zip(&expected).enumerate() {
                assert_close(&format!("{dtype} as {dialect}, layer {layer}"), ours, expected, tolerance);
            }
        }
    }
}

#[test]
fn one_thread_may_load_what_others_compute_with() {
    let batch = PackedBatch::new(&Fixture::load("tiny-encoder").sequences()).unwrap();
    for (_, backend) in backends(&[Dialect::Cuda], Dtype::F32) {
        let load = || LanguageModel::load(&model("tiny-encoder"), &backend).unwrap();
        let (batch, expected) = (&batch, &states(load().trunk(), &batch));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let ours = load();
                scope.spawn(move || assert!(states(ours.trunk(), batch) == *expected));
            }
        });
    }
}

#[test]
fn its_cache_agrees_with_the_whole() {
    let whole = LanguageModel::load(&model("tiny-decoder"), &reference()).unwrap();
    let long = ids(90, 0);
    let expected =
        values(&whole.trunk().forward(&PackedBatch::new(&[&long[..]]).unwrap()).unwrap().to_tensor().unwrap());
    for (_, backend) in backends(&Dialect::ALL, Dtype::F32) {
        let trunk = LanguageModel::load(&model("tiny-decoder"), &backend).unwrap();
        let trunk = trunk.trunk();
        for chunk in [1, 7, 40] {
            let mut cache = trunk.cache(chunk + 2).unwrap();
            for (index, rows) in long.chunks(chunk).enumerate() {
                // Two wrong tokens follow each chunk and are taken back.
                let drafted = [rows, &[3, 4]].concat();
                let batch = PackedBatch::continuing(&[drafted], &[cache.len()]).unwrap();
                let hidden = trunk.step(&batch, &mut [&mut cache]).unwrap().to_tensor().unwrap();
                cache.truncate(index * chunk + rows.len()).unwrap();
                let ours = values(&hidden.narrow(0, 0, rows.len()).unwrap());
                let size = ours.len() / rows.len();
                let expected = &expected[index * chunk * size..][..ours.len()];
                assert_close(&format!("chunks of {chunk} from {}", index * chunk), &ours, expected, F32);
            }
        }
    }
}

#[test]
fn forks_go_their_own_ways() {
    for (_, backend) in backends(&[Dialect::Cuda], Dtype::F32) {
        let language = LanguageModel::load(&model("tiny-decoder"), &backend).unwrap();
        let trunk = language.trunk();
        let step = |tokens: &[u32], cache: &mut ettin::KvCache| {
            let batch = PackedBatch::continuing(&[tokens], &[cache.len()]).unwrap();
            values(&trunk.step(&batch, &mut [cache]).unwrap().to_tensor().unwrap())
        };
        let begun = || {
            let mut cache = trunk.cache(30).unwrap();
            step(&ids(30, 0), &mut cache);
            cache
        };
        let mut alone = begun();
        let expected = [step(&[7], &mut alone), step(&[8], &mut alone)].concat();
        let mut cache = begun();
        let mut fork = cache.fork();
        let first = step(&[7], &mut cache);
        step(&[9], &mut fork); // at the same position
        assert_same("beside a fork", &[first, step(&[8], &mut cache)].concat(), &expected);

        // Two sequences in one step, each as it would be alone.
        let (mut one, mut two) = (cache.fork(), fork.fork());
        let expected = [step(&[11], &mut one.fork()), step(&[12, 13], &mut two.fork())].concat();
        let batch = PackedBatch::continuing(&[&[11][..], &[12, 13]], &[one.len(), two.len()]).unwrap();
        let both = trunk.step(&batch, &mut [&mut one, &mut two]).unwrap().to_tensor().unwrap();
        assert_close("two sequences in a step", &values(&both), &expected, F32);
    }
}
