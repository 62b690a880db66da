//! Adapters (LoRA) as PEFT saves them: what PEFT computes with them (`scripts/make_adapter_fixtures.py`), merged here
//! while weights are packed, or written by a conversion.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{Fixture, assert_close, assert_same, backend, copy, model, relative_error, root, values};
use ettin::files::ModelFiles;
use ettin::heads::{Embedder, LanguageModel, QuestionAnswering, SequenceClassifier};
use ettin::params::Adapter;
use ettin::tasks::{Classifier, Notices, Options};
use ettin::weights::{ConvertOptions, StoredDtype, convert};
use ettin::{Backend, Config, Dtype, PackedBatch, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// max|Δ| / max|reference|: a merged matrix is rounded once more than PEFT's two products.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Listing {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    base: String,
    class: String,
    adapters: Vec<String>,
}

fn cases() -> Vec<Case> {
    let listing = fs::read(root("tests/fixtures/adapters.json")).unwrap();
    serde_json::from_slice::<Listing>(&listing).unwrap().cases
}

fn adapter(name: &str) -> ModelFiles {
    model(&format!("tiny-adapters/{name}"))
}

impl Case {
    fn files(&self) -> ModelFiles {
        let with = |files: ModelFiles, name: &String| files.with_adapter(name, adapter(name)).unwrap();
        self.adapters.iter().fold(model(&self.base), with)
    }

    /// What the model of the case's class computes for a batch, by sequence.
    fn computed(&self, files: &ModelFiles, backend: &Backend, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let batch = PackedBatch::new(sequences).unwrap();
        let all: Vec<usize> = (0..batch.rows(sequences.len() - 1).end).collect();
        let (tensor, by_token) = match &self.class[..] {
            "ModernBertForMaskedLM" | "ModernBertDecoderForCausalLM" => {
                (LanguageModel::load(files, backend)?.logits(&batch, &all)?, true)
            }
            "ModernBertModel" => (Embedder::load(files, backend)?.trunk().forward(&batch)?.to_tensor()?, true),
            "ModernBertForQuestionAnswering" => (QuestionAnswering::load(files, backend)?.logits(&batch)?, true),
            _ => (SequenceClassifier::load(files, backend)?.logits(&batch)?, false),
        };
        let rows = |index: usize| match by_token {
            true => common::rows(&tensor, &batch, index),
            false => values(&tensor.get(index).unwrap()),
        };
        Ok((0..sequences.len()).map(rows).collect())
    }
}

/// Of a decoder without its head no number means anything: see below.
fn is_whole(case: &Case) -> bool {
    case.name != "decoder-headless"
}

#[test]
fn adapted_models_compute_what_peft_computes() {
    let fixture = Fixture::load("adapters");
    let sequences = fixture.sequences();
    let reference = Backend::reference(&Device::Cpu, Dtype::F32).unwrap();
    for case in cases().iter().filter(|case| is_whole(case)) {
        let files = case.files();
        let together = case.computed(&files, &backend(), &sequences).unwrap();
        let by_reference = case.computed(&files, &reference, &sequences).unwrap();
        let out = tempfile::tempdir().unwrap();
        convert(&files, out.path(), None, &mut |_| {}).unwrap();
        let merged = ModelFiles::folder(out.path()).unwrap();
        assert!(merged.get("adapter_config.json").unwrap().is_none());
        let converted = case.computed(&merged, &backend(), &sequences).unwrap();
        let by_sequence = (0..sequences.len()).map(|index| values(fixture.get(&format!("{}.{index}", case.name))));
        let peft: Vec<f32> = by_sequence.flatten().collect();
        assert_close(&case.name, &together.concat(), &peft, TOLERANCE);
        assert_close(&format!("{}, reference", case.name), &by_reference.concat(), &peft, TOLERANCE);
        assert_close(&format!("{}, converted", case.name), &converted.concat(), &peft, TOLERANCE);
        if std::env::var_os("ETTIN_REFERENCE").is_none() {
            for (ids, together) in sequences.iter().zip(&together) {
                let alone = case.computed(&files, &backend(), std::slice::from_ref(ids)).unwrap();
                assert_same(&format!("{}, alone", case.name), &alone[0], together);
            }
        }
    }
}

#[test]
fn what_a_conversion_writes_says_what_it_is() {
    for case in cases().iter().filter(|case| is_whole(case)) {
        let out = tempfile::tempdir().unwrap();
        convert(&case.files(), out.path(), ConvertOptions::default().with_dtype(StoredDtype::F32), &mut |_| {})
            .unwrap();
        let config = Config::load(&ModelFiles::folder(out.path()).unwrap()).unwrap();
        assert_eq!(config.architecture(), Some(&*case.class), "{}", case.name);
        assert_eq!(
            config.tie_word_embeddings,
            !case.name.starts_with("tied") && !case.base.contains("untied"),
            "{}",
            case.name
        );
        let labels = match &case.name[..] {
            "classifier" | "decoder-classifier" => 3,
            "one-label" => 1,
            _ => 2,
        };
        assert_eq!(config.labels.len(), labels, "{}", case.name);
    }
}

#[test]
fn adapters_are_chosen_by_name() {
    let all = cases();
    let case = |name: &str| all.iter().find(|case| case.name == name).unwrap();
    let (together, sequences) = (case("together"), Fixture::load("adapters").sequences());
    let compute = |files: &ModelFiles| together.computed(files, &backend(), &sequences).unwrap().concat();
    let files = together.files();
    assert_eq!(files.adapter_names().collect::<Vec<_>>(), ["list", "regex"]);
    for name in ["list", "regex"] {
        assert_same(name, &compute(&files.choose_adapters(&[name]).unwrap()), &compute(&case(name).files()));
    }
    assert_same("none", &compute(&files.choose_adapters(&[]).unwrap()), &compute(&model("tiny-encoder")));
    let unknown = files.choose_adapters(&["list", "legal"]).unwrap_err().to_string();
    assert!(unknown.contains("legal") && unknown.contains("regex"), "{unknown}");
    assert!(files.choose_adapters(&["list", "list"]).is_err());
    assert!(files.with_adapter("list", adapter("regex")).is_err());
}

/// transformers applies it where PEFT is installed.
#[test]
fn an_adapter_beside_the_weights_is_applied_unless_the_weights_are_named() {
    let case = cases().into_iter().find(|case| case.name == "list").unwrap();
    let sequences = Fixture::load("adapters").sequences();
    let compute = |files: &ModelFiles| case.computed(files, &backend(), &sequences).unwrap().concat();
    let folder = tempfile::tempdir().unwrap();
    copy(&root("models/tiny-encoder"), folder.path());
    copy(&root("models/tiny-adapters/list"), folder.path());
    let files = ModelFiles::folder(folder.path()).unwrap();
    assert_same("beside", &compute(&files), &compute(&case.files()));
    let told = LanguageModel::load(&files, &backend()).unwrap().trunk().report().sentences().join("\n");
    assert!(told.contains("adapter_config.json") && told.contains("is applied"), "{told}");
    let named = ModelFiles::folder(folder.path().join("model.safetensors")).unwrap();
    assert_same("named", &compute(&named), &compute(&model("tiny-encoder")));
}

#[test]
fn a_decoders_classifier_without_its_head_is_told() {
    let told = |name: &str| {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let model = SequenceClassifier::load(&case.files(), &backend()).unwrap();
        model.trunk().report().sentences().join("\n")
    };
    let headless = told("decoder-headless");
    assert!(headless.contains("head") && headless.contains("modules_to_save"), "{headless}");
    assert_eq!(told("decoder-classifier"), "");
    assert_eq!(told("classifier"), "", "an encoder's head is that of its language model");
}

/// A model with a tokenizer and three labels of its own.
#[test]
fn a_task_takes_the_adapter_with_the_files() {
    let base = model("tiny-text-classify-single");
    let names = ["layers.0.attn.Wqkv", "head.dense"];
    let made = Made::of(&names.map(|name| (name, 0)), &base);
    let files = base.clone().with_adapter("made", made.files()).unwrap();
    let options = Options::default().with_notices(Notices::to(|sentence| panic!("{sentence}")));
    let best = |files: &ModelFiles| Classifier::load(files, &options).unwrap().classify(&["A cat."]).unwrap();
    assert_ne!(best(&base)[0].score, best(&files)[0].score);
}

/// An adapter of rank 2 that is made up.
struct Made {
    folder: tempfile::TempDir,
    config: Value,
    tensors: HashMap<String, Tensor>,
}

impl Made {
    /// Changes layers of a model; of a fused matrix one third, counted from 1, or with 0 all of it.
    fn of(layers: &[(&str, usize)], base: &ModelFiles) -> Self {
        let config = Config::load(base).unwrap();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut tensors = HashMap::new();
        for (seed, &(name, third)) in layers.iter().enumerate() {
            let (outputs, inputs) = match name.rsplit('.').next().unwrap() {
                "Wqkv" => (3 * hidden, hidden),
                "Wi" => (2 * inner, hidden),
                "Wo" if name.contains("mlp") => (hidden, inner),
                _ => (hidden, hidden),
            };
            let numbers = |shape: (usize, usize), seed: usize| {
                let values = (0..shape.0 * shape.1).map(|index| ((index * 53 + seed * 29) % 83) as f32 / 83.0 - 0.5);
                Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
            };
            let mut b = numbers((outputs, 2), seed + 7);
            if third > 0 {
                let own = b.narrow(0, (third - 1) * hidden, hidden).unwrap();
                b = own.pad_with_zeros(0, (third - 1) * hidden, (3 - third) * hidden).unwrap();
            }
            tensors.insert(format!("base_model.model.{name}.lora_A.weight"), numbers((2, inputs), seed));
            tensors.insert(format!("base_model.model.{name}.lora_B.weight"), b);
        }
        let names: Vec<&str> = layers.iter().map(|(name, _)| *name).collect();
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": names});
        Self { folder: tempfile::tempdir().unwrap(), config, tensors }
    }

    /// One of `models/tiny-adapters`.
    fn copied(name: &str) -> Self {
        let source = root("models/tiny-adapters").join(name);
        let config = serde_json::from_slice(&fs::read(source.join("adapter_config.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(source.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), config, tensors }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn files(&self) -> ModelFiles {
        fs::write(self.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        candle_core::safetensors::save(&self.tensors, self.path().join("adapter_model.safetensors")).unwrap();
        ModelFiles::folder(self.path()).unwrap()
    }
}

/// The same update, of one fused matrix and of three projections, on a base that keeps them fused and one that keeps
/// them apart; loaded and converted.
#[test]
fn query_key_and_value_may_be_apart_on_either_side() {
    let layouts = [("decoder", "decoder-fused-qkv", "model."), ("safetensors", "encoder-separate-qkv", "model.")];
    for (one, other, prefix) in layouts {
        let bases = [one, other].map(|name| model(&format!("tiny-layouts/{name}")));
        let fused = Made::of(&[("model.layers.0.attn.Wqkv", 2), ("model.layers.1.attn.Wqkv", 0)], &bases[0]);
        let mut apart = Made::of(&[], &bases[0]);
        let hidden = Config::load(&bases[0]).unwrap().hidden_size;
        for (name, tensor) in &fused.tensors {
            for (index, part) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
                let own = match name.contains("lora_B") {
                    true => tensor.narrow(0, index * hidden, hidden).unwrap().contiguous().unwrap(),
                    false => tensor.clone(),
                };
                apart.tensors.insert(name.replace("Wqkv", part), own);
            }
        }
        apart.config["target_modules"] = json!(["q_proj", "k_proj", "v_proj"]);
        let ids = vec![vec![2, 9, 11, 30, 7, 3]];
        let batch = PackedBatch::new(&ids).unwrap();
        let logits = |files: &ModelFiles| {
            values(&LanguageModel::load(files, &backend()).unwrap().logits(&batch, &[0, 1, 2, 3, 4, 5]).unwrap())
        };
        let plain = logits(&bases[0]);
        let all: Vec<Vec<f32>> = bases
            .iter()
            .flat_map(|base| [&fused, &apart].map(|made| base.clone().with_adapter("made", made.files()).unwrap()))
            .flat_map(|files| {
                let out = tempfile::tempdir().unwrap();
                convert(&files, out.path(), None, &mut |_| {}).unwrap();
                [logits(&files), logits(&ModelFiles::folder(out.path()).unwrap())]
            })
            .collect();
        assert!(relative_error(&all[0], &plain) > 1e-2, "{prefix}{one}: the adapter does something");
        all[1..].iter().for_each(|other| assert_close(one, other, &all[0], 1e-6));
    }
}

/// Bases stored in few bits: the sum is quantised anew, so that it is only near.
#[test]
fn a_quantized_base_takes_an_adapter() {
    let base = model("tiny-encoder");
    let out = tempfile::tempdir().unwrap();
    convert(&base, out.path(), Some(StoredDtype::W8), &mut |_| {}).unwrap();
    let files = |base: ModelFiles| base.with_adapter("list", adapter("list")).unwrap();
    let batch = PackedBatch::new(&[vec![2, 9, 11, 30, 7, 3]]).unwrap();
    let logits = |files: &ModelFiles, dtype: Dtype| {
        let backend = Backend::new(&Device::Cpu, dtype).unwrap();
        values(&LanguageModel::load(files, &backend).unwrap().logits(&batch, &[0, 3, 5]).unwrap())
    };
    let exact = logits(&files(base.clone()), Dtype::F32);
    let near = logits(&files(ModelFiles::folder(out.path()).unwrap()), Dtype::Auto);
    let (off, without) = (relative_error(&near, &exact), relative_error(&logits(&base, Dtype::F32), &exact));
    assert!(off < 0.1 && off < without / 3.0, "{off} with the adapter, {without} without");
}

#[test]
fn adapters_that_do_not_fit_or_lie_are_errors_that_name_the_place() {
    let base = model("tiny-encoder");
    let says = |made: &Made, words: &[&str]| {
        let files = base.clone().with_adapter("hostile", made.files()).unwrap();
        let error = LanguageModel::load(&files, &backend()).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{error} should say {word}"));
        let out = tempfile::tempdir().unwrap();
        assert!(convert(&files, out.path(), None, &mut |_| {}).is_err(), "{words:?}");
    };
    let changed = |name: &str, change: &dyn Fn(&mut Made)| {
        let mut made = Made::copied(name);
        change(&mut made);
        made
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let a = "base_model.model.model.layers.0.attn.Wqkv.lora_A.weight";
    let b = a.replace("lora_A", "lora_B");
    let put = |name: &str, shape: &[usize]| {
        let (name, tensor) = (name.to_owned(), zeros(shape));
        changed("list", &move |made| drop(made.tensors.insert(name.clone(), tensor.clone())))
    };
    // Another model's.
    says(&Made::copied("bare"), &["layers.0", "does not fit", "models/tiny-text-chain-mean"]);
    says(&put(&b, &[193, 3]), &["Wqkv", "[193, 3]", "does not fit"]);
    says(&put(a, &[3, 65]), &["Wqkv", "[3, 65]", "does not fit"]);
    says(&put(a, &[5, 64]), &["Wqkv", "two ranks"]);
    says(&put(a, &[0, 64]), &["Wqkv", "empty"]);
    says(&put(a, &[3, 8, 8]), &["Wqkv", "matrix"]);
    says(&put(&a.replace("layers.0", "layers.77"), &[3, 64]), &["layers.77", "alone"]);
    says(&put(&a.replace("Wqkv", "Wnew"), &[3, 64]), &["Wnew", "target_modules"]);
    says(&put("base_model.model.classifier.weight", &[3, 64]), &["classifier.weight", "modules_to_save"]);
    says(&put("base_model.model.decoder.bias", &[256]), &["decoder.bias", "bias"]);
    says(&put(&a.replace("lora_A.weight", "lora_magnitude_vector"), &[192]), &["lora_magnitude_vector"]);
    says(&changed("list", &|made| drop(made.tensors.remove(a))), &["Wqkv", "alone"]);
    says(&changed("list", &|made| made.tensors.clear()), &["no tensors"]);
    let half = Tensor::zeros((3, 64), DType::U8, &Device::Cpu).unwrap();
    says(&changed("list", &|made| drop(made.tensors.insert(a.to_owned(), half.clone()))), &["Wqkv", "dtype"]);
    says(&changed("list", &|made| made.config["r"] = json!(4)), &["rank 3", "gives it 4"]);
    says(&changed("list", &|made| made.config["r"] = json!(0)), &["hostile", "`r` is 0"]);
    says(&changed("list", &|made| made.config["use_dora"] = json!(true)), &["use_dora"]);
    says(&changed("list", &|made| made.config["peft_type"] = json!("IA3")), &["peft_type", "IA3"]);
    says(&changed("list", &|made| made.config["target_modules"] = json!("(?=x)")), &["target_modules"]);
    says(&changed("tied-output", &|made| made.config["ensure_weight_tying"] = json!(true)), &["ensure_weight_tying"]);
    let saved = "base_model.model.decoder.weight";
    let wide = changed("tied-output-saved", &|made| drop(made.tensors.insert(saved.to_owned(), zeros(&[300, 64]))));
    says(&wide, &["decoder.weight", "300"]);
    let q = changed("tied-output-saved", &|made| {
        made.config["modules_to_save"] = json!(["q_proj"]);
        made.tensors.retain(|name, _| !name.contains("decoder"));
        made.tensors.insert("base_model.model.model.layers.0.attn.q_proj.weight".to_owned(), zeros(&[64, 64]));
    });
    says(&q, &["q_proj.weight", "no tensor"]);
}

#[test]
fn files_of_an_adapter_may_be_missing_or_broken() {
    let base = model("tiny-encoder");
    let error = |files: ModelFiles| {
        let files = base.clone().with_adapter("hostile", files).unwrap();
        LanguageModel::load(&files, &backend()).unwrap_err().to_string()
    };
    let empty = tempfile::tempdir().unwrap();
    assert!(error(ModelFiles::folder(empty.path()).unwrap()).contains("has no adapter_config.json"));
    let made = Made::copied("list");
    let files = made.files();
    let weights = made.path().join("adapter_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    for cut in [0, 7, 100, bytes.len() - 1] {
        fs::write(&weights, &bytes[..cut]).unwrap();
        assert!(error(files.clone()).contains("adapter_model.safetensors"), "{cut} bytes");
    }
    fs::remove_file(&weights).unwrap();
    assert!(error(files.clone()).contains("has no adapter_model.safetensors"));
    fs::write(made.path().join("adapter_config.json"), "{\"r\": NaN}").unwrap();
    assert!(error(files).contains("NaN"));
}

#[test]
fn two_adapters_replace_no_tensor_twice() {
    let files = model("tiny-encoder").with_adapter("a", adapter("classifier")).unwrap();
    let files = files.with_adapter("b", adapter("one-label")).unwrap();
    let error = SequenceClassifier::load(&files, &backend()).unwrap_err().to_string();
    assert!(error.contains("classifier.") && error.contains("another adapter"), "{error}");
}

#[test]
fn an_adapter_says_what_it_changes() {
    let adapter = Adapter::load(&adapter("classifier")).unwrap();
    assert_eq!(adapter.replaced().collect::<Vec<_>>(), ["classifier.bias", "classifier.weight"]);
    assert_eq!(adapter.layers().count(), 5);
    assert!(adapter.layers().any(|name| name == "model.layers.3.attn.Wqkv"));
    assert_eq!((adapter.base(), adapter.task()), (Some("models/tiny-encoder"), Some("SEQ_CLS")));
}
