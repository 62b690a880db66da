//! Weights stored in few bits compute what weights quantised at load compute, bit for bit.

mod common;

use candle_core::Device;
use common::{assert_close, assert_same, model, root, values};
use ettin::weights::{StoredDtype, Weights, convert};
use ettin::{Backend, Config, Dtype, PackedBatch, Scheme, Team, files::ModelFiles, heads::LanguageModel};
use ettin_kernels::testing::each_isa;
use tempfile::TempDir;

const FORMATS: [(StoredDtype, Scheme, Dtype); 2] =
    [(StoredDtype::W8, Scheme::W8, Dtype::W8), (StoredDtype::W4, Scheme::W4, Dtype::W4)];

/// Tied and untied, with biases and without, query, key and value in one matrix and apart.
const MODELS: [&str; 6] = [
    "nano-encoder",
    "nano-decoder",
    "tiny-encoder-untied",
    "tiny-decoder-untied",
    "tiny-encoder-biases",
    "tiny-layouts/decoder",
];

fn converted(files: &ModelFiles, dtype: StoredDtype) -> (TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    convert(files, folder.path(), Some(dtype), &mut |_| {}).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    (folder, files)
}

fn batch(files: &ModelFiles) -> PackedBatch {
    let vocabulary = Config::load(files).unwrap().vocab_size as u32;
    let sequence = |len: u32, step: u32| -> Vec<u32> { (0..len).map(|i| (7 + i * step) % vocabulary).collect() };
    PackedBatch::new(&[sequence(9, 5), sequence(1, 1), sequence(21, 11)]).unwrap()
}

/// Scores of all rows of the batch.
fn logits(files: &ModelFiles, backend: &Backend) -> (Vec<f32>, LanguageModel) {
    let (model, batch) = (LanguageModel::load(files, backend).unwrap(), batch(files));
    let rows: Vec<usize> = (0..batch.tokens()).collect();
    (values(&model.logits(&batch, &rows).unwrap()), model)
}

#[test]
fn what_is_stored_equals_what_is_quantized_at_load() {
    for name in MODELS {
        let original = model(name);
        for (stored, scheme, dtype) in FORMATS {
            let (_folder, files) = converted(&original, stored);
            each_isa(|isa| {
                let backend = Backend::fused(isa, scheme, Team::global());
                let (ours, loaded) = logits(&files, &backend);
                assert!(loaded.trunk().report().warnings.is_empty(), "{:?}", loaded.trunk().report());
                assert_same(&format!("{name}, {scheme}, {isa}"), &ours, &logits(&original, &backend).0);
            });
            // What `--dtype auto` comes to, and with it everything that names the format.
            let (ours, loaded) = logits(&files, &Backend::new(&Device::Cpu, Dtype::Auto).unwrap());
            let reference = std::env::var_os("ETTIN_REFERENCE").is_some_and(|value| value == "1");
            if !reference {
                assert_eq!(loaded.trunk().backend().dtype(), dtype, "{name}");
                assert_same(name, &ours, &logits(&original, &Backend::new(&Device::Cpu, dtype).unwrap()).0);
            }
            // What was said of keys and values holds, whatever the number format's own.
            for kv in [ettin::KvFormat::F32, ettin::KvFormat::Int8].into_iter().filter(|_| !reference) {
                let of = |dtype| Backend::new(&Device::Cpu, dtype).unwrap().with_kv(kv).unwrap();
                let (ours, loaded) = logits(&files, &of(Dtype::Auto));
                assert_eq!(loaded.trunk().backend().dtype(), dtype, "{name}, keys in {kv}");
                assert_same(&format!("{name}, keys in {kv}"), &ours, &logits(&original, &of(dtype)).0);
            }
        }
    }
}

#[test]
fn other_dtypes_and_candle_compute_with_the_dequantized_weights() {
    for name in MODELS {
        for (stored, _, dtype) in FORMATS {
            let (_folder, files) = converted(&model(name), stored);
            let (_wide_folder, wide) = converted(&files, StoredDtype::F32);
            assert!(Weights::open(&wide).unwrap().quantization().is_none());
            for other in [Scheme::F32, Scheme::Bf16] {
                let backend = Backend::fused(ettin::Isa::best(), other, Team::global());
                let (ours, loaded) = logits(&files, &backend);
                let warnings = &loaded.trunk().report().warnings;
                let expected = format!("stored in {dtype} and computed in {other}");
                assert!(warnings.len() == 1 && warnings[0].contains(&expected), "{warnings:?}");
                let (theirs, loaded) = logits(&wide, &backend);
                assert_same(&format!("{name}, {dtype} as {other}"), &ours, &theirs);
                assert!(loaded.trunk().report().warnings.is_empty());
            }
            let reference = Backend::reference(&Device::Cpu, Dtype::Auto).unwrap();
            let f32 = Backend::fused(ettin::Isa::best(), Scheme::F32, Team::global());
            assert_close(name, &logits(&files, &reference).0, &logits(&wide, &f32).0, common::F32);
        }
    }
}

#[test]
fn converting_once_more_changes_nothing() {
    for (stored, _, _) in FORMATS {
        let (_folder, once) = converted(&model("nano-decoder"), stored);
        let bytes = |files: &ModelFiles| files.require("model.safetensors").unwrap().to_vec();
        let (_again_folder, again) = converted(&once, stored);
        assert!(bytes(&again) == bytes(&once), "{stored:?} to itself");
        let folder = tempfile::tempdir().unwrap();
        convert(&once, folder.path(), None, &mut |_| {}).unwrap();
        assert!(bytes(&ModelFiles::folder(folder.path()).unwrap()) == bytes(&once), "{stored:?} as it is");
    }
}

/// `tests/fixtures/stored` holds what version 1 of the format was.
#[test]
fn files_of_version_1_load_and_become_version_2() {
    let original = model("tiny-layouts/safetensors");
    for (stored, scheme, _) in FORMATS {
        let (_new_folder, new) = converted(&original, stored);
        let old = tempfile::tempdir().unwrap();
        let weights = root(&format!("tests/fixtures/stored/version-1-{}.safetensors", stored.name()));
        std::fs::copy(weights, old.path().join("model.safetensors")).unwrap();
        std::fs::write(old.path().join("config.json"), original.require("config.json").unwrap().to_vec()).unwrap();
        let old = ModelFiles::folder(old.path()).unwrap();
        let header = |files: &ModelFiles, name: &[u8]| {
            let file = files.require("model.safetensors").unwrap();
            file.windows(name.len()).any(|window| window == name)
        };
        assert!(header(&old, br#"weight.factors""#) && !header(&old, br#"weight.scales""#));
        assert!(header(&new, br#"weight.scales""#) && !header(&new, br#"weight.factors""#));
        let backend = Backend::fused(ettin::Isa::best(), scheme, Team::global());
        let (ours, loaded) = logits(&old, &backend);
        assert!(loaded.trunk().report().warnings.is_empty(), "{:?}", loaded.trunk().report());
        assert_same(&format!("{scheme}"), &ours, &logits(&new, &backend).0);
        let folder = tempfile::tempdir().unwrap();
        convert(&old, folder.path(), None, &mut |_| {}).unwrap();
        let again = ModelFiles::folder(folder.path()).unwrap();
        let bytes = |files: &ModelFiles| files.require("model.safetensors").unwrap().to_vec();
        assert!(bytes(&again) == bytes(&new), "{stored:?} of version 1, converted");
    }
}

#[test]
fn only_large_matrices_are_quantized() {
    let original = model("tiny-encoder-sequence-mean");
    for (stored, _, _) in FORMATS {
        let (_folder, files) = converted(&original, stored);
        let (weights, before) = (Weights::open(&files).unwrap(), Weights::open(&original).unwrap());
        let mut quantized = 0;
        for view in weights.views() {
            let matrix = view.shape().len() == 2 && !view.name().starts_with("classifier");
            assert_eq!(view.dtype(), if matrix { stored } else { StoredDtype::F32 }, "{}", view.name());
            assert_eq!(view.shape(), before.get(view.name()).unwrap().shape(), "{}", view.name());
            quantized += usize::from(matrix);
        }
        assert!(quantized > 8, "{quantized}");
        let ours = ettin::heads::SequenceClassifier::load(&files, &Backend::new(&Device::Cpu, Dtype::Auto).unwrap());
        assert!(ours.is_ok(), "{ours:?}");
    }
}

#[test]
fn an_embedder_takes_what_is_stored_for_its_trunk() {
    let original = ModelFiles::folder(root("models/tiny-text-chain-max-dense")).unwrap();
    let embed = |files: &ModelFiles, dtype: Dtype| {
        let model = ettin::heads::Embedder::load(files, &Backend::new(&Device::Cpu, dtype).unwrap()).unwrap();
        (values(&model.embed(&batch(&original), &Default::default()).unwrap()), model.trunk().backend().dtype())
    };
    for (stored, _, dtype) in FORMATS {
        let (_folder, files) = converted(&original, stored);
        let (ours, computed) = embed(&files, Dtype::Auto);
        if computed == dtype {
            assert_same("embedding", &ours, &embed(&original, dtype).0);
        } else {
            assert_eq!(computed, Dtype::F32, "only the reference path computes in another format");
        }
    }
}
