use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::Config;

/// Files in memory.
#[derive(Default)]
struct MemoryFiles(HashMap<String, Vec<u8>>);

impl MemoryFiles {
    fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.insert(name.to_owned(), bytes.into());
        self
    }
}

impl FileSource for MemoryFiles {
    fn get(&self, name: &str) -> Result<Option<FileData>> {
        Ok(self.0.get(name).map(|bytes| FileData::from_bytes(name, bytes.clone())))
    }

    fn place(&self) -> String {
        "a test".to_owned()
    }
}

fn layout(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-layouts");
    fs::read(folder.join(name)).unwrap()
}

fn config() -> Config {
    Config::from_json(&layout("safetensors/config.json"), "config.json").unwrap()
}

fn open(name: &str, bytes: impl Into<Vec<u8>>) -> Result<Weights> {
    Weights::from_file(FileData::from_bytes(name, bytes.into()))
}

fn refusal(bytes: impl Into<Vec<u8>>) -> String {
    open("model.safetensors", bytes).unwrap_err().to_string()
}

/// A safetensors file of this header and so many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; data]].concat()
}

fn tensor(dtype: &str, shape: Value, from: usize, to: usize) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]})
}

/// The header of the encoder's safetensors as JSON, and its data.
fn parts() -> (serde_json::Map<String, Value>, Vec<u8>) {
    let file = layout("safetensors/model.safetensors");
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
}

fn rebuild(header: &serde_json::Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let mut file = safetensors(&Value::Object(header.clone()).to_string(), 0);
    file.extend_from_slice(data);
    file
}

#[test]
fn missing_and_misshaped_tensors_are_named_all_at_once() {
    let (mut header, data) = parts();
    let renamed = header.remove("model.final_norm.weight").unwrap();
    header.insert("model.final_norm.scale".to_owned(), renamed);
    let entry = &mut header["model.layers.1.mlp.Wi.weight"];
    let shape = entry["shape"].as_array().unwrap().clone();
    entry["shape"] = json!([shape[1], shape[0]]);
    let weights = open("w.safetensors", rebuild(&header, &data)).unwrap();
    let text = weights.checkpoint(&config(), Head::Classifier { outputs: 3 }).unwrap_err().to_string();
    for expected in [
        "w.safetensors",
        "`model.final_norm.weight` [32] is missing",
        "`model.layers.1.mlp.Wi.weight` in w.safetensors is [32, 96], expected [96, 32]",
        "`classifier.weight` [3, 32] is missing",
        "`classifier.bias` [3] is missing",
    ] {
        assert!(text.contains(expected), "{text} should say {expected}");
    }
    assert_eq!(text.matches("missing").count(), 3, "{text}");
}

#[test]
fn unused_tensors_are_listed_and_other_heads_apart() {
    let (mut header, data) = parts();
    let end = data.len();
    header.insert("model.layers.9.attn.Wqkv.weight".to_owned(), tensor("F32", json!([1]), end, end + 4));
    header.insert("model.layers.0.attn.rotary_emb.inv_freq".to_owned(), tensor("F32", json!([1]), end + 4, end + 8));
    header.insert("model.embeddings.position_ids".to_owned(), tensor("I64", json!([1]), end + 8, end + 16));
    let file = rebuild(&header, &[data, vec![0; 16]].concat());
    let weights = open("w.safetensors", file).unwrap();
    let report = weights.checkpoint(&config(), Head::Language).unwrap().report;
    assert_eq!(report.unused, ["model.layers.9.attn.Wqkv.weight"]);
    assert!(report.other_heads.is_empty() && report.warnings.is_empty());
    let trunk = weights.checkpoint(&config(), Head::None).unwrap();
    assert!(trunk.tensors.head.is_none());
    assert_eq!(trunk.report.other_heads, ["decoder.bias", "head.dense.weight", "head.norm.weight"]);
}

#[test]
fn biases_are_required_where_the_configuration_says_so() {
    let weights = open("w.safetensors", layout("safetensors/model.safetensors")).unwrap();
    let mut config = config();
    (config.norm_bias, config.attention_bias, config.mlp_bias) = (true, true, true);
    (config.classifier_bias, config.tie_word_embeddings) = (true, false);
    let text = weights.checkpoint(&config, Head::Language).unwrap_err().to_string();
    for name in [
        "model.embeddings.norm.bias",
        "model.layers.0.attn.Wqkv.bias",
        "model.layers.0.attn.Wo.bias",
        "model.layers.0.mlp.Wi.bias",
        "model.layers.0.mlp.Wo.bias",
        "model.layers.0.mlp_norm.bias",
        "model.layers.1.attn_norm.bias",
        "model.final_norm.bias",
        "head.dense.bias",
        "head.norm.bias",
        "decoder.weight",
    ] {
        assert!(text.contains(&format!("`{name}`")), "{name} in {text}");
    }
    assert!(!text.contains("layers.0.attn_norm"));
}

#[test]
fn an_untied_model_does_not_borrow_its_embedding_from_the_output() {
    let weights = open("w.safetensors", layout("only-decoder-weight/model.safetensors")).unwrap();
    let mut config = config();
    assert!(weights.checkpoint(&config, Head::None).is_ok());
    config.tie_word_embeddings = false;
    let text = weights.checkpoint(&config, Head::None).unwrap_err().to_string();
    assert!(text.contains("`model.embeddings.tok_embeddings.weight`"), "{text}");
}

#[test]
fn query_key_and_value_are_one_matrix_however_they_are_stored() {
    for (fused, separate, decoder) in
        [("safetensors", "encoder-separate-qkv", false), ("decoder-fused-qkv", "decoder", true)]
    {
        let read = |name: &str| open("w.safetensors", layout(&format!("{name}/model.safetensors"))).unwrap();
        let (fused, separate) = (read(fused), read(separate));
        let folder = if decoder { "decoder" } else { "safetensors" };
        let config = Config::from_json(&layout(&format!("{folder}/config.json")), "config.json").unwrap();
        let (fused, separate) =
            (fused.checkpoint(&config, Head::None).unwrap(), separate.checkpoint(&config, Head::None).unwrap());
        for (one, three) in fused.tensors.layers.iter().zip(&separate.tensors.layers) {
            let (one, three) = (&one.qkv.weight, &three.qkv.weight);
            assert_eq!((one.parts().len(), three.parts().len()), (1, 3));
            assert_eq!((one.shape(), one.rows()), (three.shape(), 3 * 32));
            assert_eq!(one.to_f32(), three.to_f32());
            let (mut a, mut b) = (vec![0.0; 32], vec![0.0; 32]);
            for row in [0, 31, 32, 63, 64, 95] {
                one.row(row, &mut a);
                three.row(row, &mut b);
                assert_eq!(a, b, "row {row}");
            }
            let tensor = three.tensor(&candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
            assert_eq!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), one.to_f32());
        }
    }
}

#[test]
fn a_missing_projection_of_three_is_an_error() {
    let file = layout("encoder-separate-qkv/model.safetensors");
    let name = b"layers.1.attn.k_proj";
    let at = file.windows(name.len()).position(|window| window == name).unwrap();
    let mut renamed = file;
    renamed[at + name.len() - 6] = b'x';
    let weights = open("w", renamed).unwrap();
    let text = weights.checkpoint(&config(), Head::None).unwrap_err().to_string();
    assert!(text.contains("`model.layers.1.attn.k_proj.weight` [32, 32] is missing"), "{text}");
    assert_eq!(text.matches("missing").count(), 1, "{text}");
}

#[test]
fn views_widen_every_dtype_at_any_alignment() {
    let values = [1.5_f32, -2.0, 0.25, 3.0];
    for dtype in [StoredDtype::F32, StoredDtype::F16, StoredDtype::BF16] {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|v| match dtype {
                StoredDtype::F32 => v.to_le_bytes().to_vec(),
                StoredDtype::F16 => half::f16::from_f32(*v).to_le_bytes().to_vec(),
                StoredDtype::BF16 => half::bf16::from_f32(*v).to_le_bytes().to_vec(),
                StoredDtype::W8 | StoredDtype::W4 => unreachable!("floats only"),
            })
            .collect();
        for shift in 0..4 {
            let moved = [&vec![0; shift][..], &bytes].concat();
            let view = View { name: "v", dtype, shape: &[2, 2], bytes: &moved[shift..], scales: &[] };
            assert_eq!(view.to_f32(), values);
            let mut row = [0.0; 2];
            view.row(1, &mut row);
            assert_eq!(row, values[2..]);
            let tensor = view.tensor(&candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
            assert_eq!(tensor.to_vec2::<f32>().unwrap(), [&values[..2], &values[2..]]);
        }
    }
}

#[test]
fn lying_safetensors_headers_are_told_apart() {
    let header = |entries: Value| entries.to_string();
    let one = |entry: Value, data: usize| refusal(safetensors(&header(json!({ "a": entry })), data));
    assert!(refusal([]).contains("no safetensors file"));
    assert!(refusal([1, 2, 3]).contains("no safetensors file"));
    assert!(refusal(100_u64.to_le_bytes()).contains("claims 100 bytes"));
    assert!(refusal(u64::MAX.to_le_bytes()).contains("corrupt"));
    assert!(refusal(safetensors("{", 0)).contains("header is invalid"));
    assert!(refusal(safetensors("[]", 0)).contains("header is invalid"));
    assert!(refusal(*b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS"));
    assert!(one(tensor("F32", json!([2]), 0, 8), 4).contains("truncated"));
    assert!(one(tensor("F32", json!([2]), 0, 8), 12).contains("appended"));
    assert!(one(tensor("F32", json!([3]), 0, 8), 8).contains("do not fit"));
    assert!(one(tensor("F32", json!([2]), 8, 0), 8).contains("overlaps"));
    assert!(one(tensor("F32", json!([1_u64 << 40, 1_u64 << 40]), 0, 8), 8).contains("overflow"));
    assert!(one(tensor("F32", json!([-1]), 0, 8), 8).contains("header is invalid"));
    assert!(one(tensor("F128", json!([2]), 0, 8), 8).contains("header is invalid"));
    let overlapping = json!({"a": tensor("F32", json!([2]), 0, 8), "b": tensor("F32", json!([2]), 4, 12)});
    assert!(refusal(safetensors(&header(overlapping), 12)).contains("`b` overlaps"));
    let entry = tensor("F32", json!([0]), 0, 0);
    let twice = format!("{{\"a\": {}, \"a\": {entry}}}", tensor("F32", json!([0, 1]), 0, 0));
    assert!(refusal(safetensors(&twice, 0)).contains("`a` appears twice"));
    let both = json!({"layers.0.x": entry, "model.layers.0.x": entry});
    assert!(refusal(safetensors(&header(both), 0)).contains("stored twice"));
}

#[test]
fn a_tensor_beside_its_own_codes_is_refused_as_that() {
    let header = |plain: &str| {
        let metadata = json!({"format": "ettin-w8", "version": "2"});
        let plain = (plain.to_owned(), tensor("F32", json!([1, 2]), 4, 12));
        let mut header = json!({
            "__metadata__": metadata,
            "layers.0.x.scales": tensor("F32", json!([1]), 0, 4),
            "layers.0.x.codes": tensor("I8", json!([1, 2]), 12, 14),
        });
        header.as_object_mut().unwrap().extend([plain]);
        safetensors(&header.to_string(), 14)
    };
    assert!(open("w", header("b")).is_ok());
    for plain in ["layers.0.x", "model.layers.0.x"] {
        let told = refusal(header(plain));
        let expected = format!("`{plain}` is stored in full, and in few bits as `layers.0.x.codes`");
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn other_dtypes_are_refused_where_they_are_asked_for() {
    let header = json!({"a": tensor("F64", json!([1]), 0, 8), "b": tensor("F32", json!([1]), 8, 12)});
    let weights = open("w", safetensors(&header.to_string(), 12)).unwrap();
    assert!(weights.get("a").is_none());
    let text = weights.require("a", &[1]).unwrap_err().to_string();
    assert!(text.contains("`a` is stored as F64; supported: F32, F16, BF16"), "{text}");
    assert!(weights.optional("a", &[1]).is_err());
    assert!(weights.optional("c", &[1]).unwrap().is_none());
    let text = weights.require("b", &[2]).unwrap_err().to_string();
    assert!(text.contains("`b` in w is [1], expected [2]"), "{text}");
    assert!(weights.require("c", &[2]).unwrap_err().to_string().contains("`c` [2] is missing"));
}

#[test]
fn forms_are_preferred_in_order() {
    let whole = layout("safetensors/model.safetensors");
    let source = MemoryFiles::default().with("pytorch_model.bin", *b"never read").with("model.safetensors", whole);
    assert!(Weights::open(&source).is_ok());
    let error = Weights::open(&MemoryFiles::default()).unwrap_err();
    assert!(matches!(error, Error::MissingFile { .. }));
    assert!(
        error.to_string().contains("looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin")
    );
}

#[test]
fn a_bad_index_is_refused() {
    let index = |places: Value| {
        let text = json!({ "weight_map": places }).to_string();
        let part = layout("safetensors-sharded/model-00001-of-00002.safetensors");
        let source = MemoryFiles::default().with("model.safetensors.index.json", text).with("part.safetensors", part);
        Weights::open(&source).unwrap_err().to_string()
    };
    assert!(index(json!([])).contains("no `weight_map`"));
    assert!(index(json!({})).contains("names 0 files"));
    for name in ["../part.safetensors", "/etc/passwd", "a/b", "", "..", "a\\b", "c:d"] {
        assert!(index(json!({"a": name})).contains("no plain file name"), "{name}");
    }
    assert!(index(json!({"a": 3})).contains("no plain file name"));
    assert!(index(json!({"a": "gone.safetensors"})).contains("has no gone.safetensors"));
}

/// The two shards of a layout under an index that `change` changed; a shard that is not `there` is missing.
fn sharded(change: impl FnOnce(&mut Value), there: impl Fn(&str) -> bool) -> MemoryFiles {
    let mut source = MemoryFiles::default();
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        if there(name) {
            source = source.with(name, layout(&format!("safetensors-sharded/{name}")));
        }
    }
    let index = layout("safetensors-sharded/model.safetensors.index.json");
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    change(&mut index["weight_map"]);
    source.with("model.safetensors.index.json", index.to_string())
}

#[test]
fn an_index_may_name_what_the_model_does_without() {
    let place = json!("model-00001-of-00002.safetensors");
    // A tied output, a head that is not there, and a tensor that lies in the other shard.
    let change = |map: &mut Value| {
        map["decoder.weight"] = place.clone();
        map["classifier.weight"] = place.clone();
        map["pooler.weight"] = json!("model-00003-of-00003.safetensors");
        map["model.layers.1.mlp_norm.weight"] = place.clone();
    };
    let weights = Weights::open(&sharded(change, |_| true)).unwrap();
    assert!(weights.checkpoint(&config(), Head::Language).is_ok());
    let text = weights.checkpoint(&config(), Head::Classifier { outputs: 2 }).unwrap_err().to_string();
    assert!(
        text.contains("`classifier.weight` [2, ") && text.contains("index.json puts it into model-00001"),
        "{text}"
    );
}

#[test]
fn a_missing_shard_stops_what_needs_its_tensors() {
    let source = sharded(|_| {}, |name| name.starts_with("model-00001"));
    let weights = Weights::open(&source).unwrap();
    let text = weights.checkpoint(&config(), Head::None).unwrap_err().to_string();
    assert!(text.contains("puts it into model-00002-of-00002.safetensors, which is not there"), "{text}");
    // A tied output in a shard that nobody can read might have been another one.
    let change = |map: &mut Value| map["decoder.weight"] = json!("model-00003-of-00003.safetensors");
    let weights = Weights::open(&sharded(change, |_| true)).unwrap();
    assert!(weights.checkpoint(&config(), Head::None).is_ok());
    let text = weights.checkpoint(&config(), Head::Language).unwrap_err().to_string();
    assert!(text.contains("`decoder.weight`") && text.contains("model-00003-of-00003"), "{text}");
    let out = tempfile::tempdir().unwrap();
    let text = convert(&source, out.path(), None, &mut |_| {}).unwrap_err().to_string();
    assert!(text.contains("which is not there"), "{text}");
}

#[test]
fn the_weights_file_that_config_json_names_is_loaded() {
    let whole = layout("safetensors/model.safetensors");
    let source = |name: &str| {
        let config = json!({ "transformers_weights": name }).to_string();
        let source = MemoryFiles::default().with("model.safetensors", *b"never read").with("config.json", config);
        source.with("ema.safetensors", whole.clone())
    };
    assert!(Weights::open(&source("ema.safetensors")).is_ok());
    assert!(Weights::open(&source("gone.safetensors")).unwrap_err().to_string().contains("has no gone.safetensors"));
    for name in ["../ema.safetensors", "notes.txt", ""] {
        assert!(Weights::open(&source(name)).unwrap_err().to_string().contains("transformers_weights"), "{name}");
    }
}

/// Flips bytes and cuts the file; loading and reading everything may fail but never panic.
fn torment(name: &str, file: &[u8], flips: usize, cuts: usize) {
    let config = config();
    let attempt = |bytes: Vec<u8>| -> bool {
        let Ok(weights) = open(name, bytes) else {
            return false;
        };
        let sum: f32 = weights.views().map(|view| view.to_f32().iter().sum::<f32>()).sum();
        let _ = (sum, weights.checkpoint(&config, Head::Language));
        true
    };
    let step = (file.len() / cuts).max(1);
    for end in (0..file.len()).step_by(step).chain(0..200).chain(file.len() - 200..file.len()) {
        assert!(!attempt(file[..end].to_vec()), "{name} cut at {end}");
    }
    let mut state = 7_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for round in 0..flips {
        let mut bytes = file.to_vec();
        for _ in 0..=round % 4 {
            // Headers and directories are where it hurts: half of the flips go to the first and last 4 KiB.
            let at = match random() % 4 {
                0 => random() % 4096,
                1 => bytes.len() - 1 - random() % 4096,
                _ => random() % bytes.len(),
            };
            bytes[at] = random() as u8;
        }
        attempt(bytes);
    }
}

#[test]
fn a_damaged_safetensors_file_is_an_error_never_a_panic() {
    torment("model.safetensors", &layout("safetensors/model.safetensors"), 10_000, 500);
}

#[test]
fn a_damaged_torch_file_is_an_error_never_a_panic() {
    torment("pytorch_model.bin", &layout("bin-views/pytorch_model.bin"), 10_000, 500);
}

#[test]
fn what_is_saved_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weights = open("w", layout("safetensors/model.safetensors")).unwrap();
    let tensors: Vec<_> = weights.views().map(|view| (view.name(), view)).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save(&path, &tensors, None, &metadata).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header % 8, 0);
    let again = open("again", bytes).unwrap();
    assert_eq!(again.views().collect::<Vec<_>>(), weights.views().collect::<Vec<_>>());
    // Nothing else is left in the folder.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_value_beyond_f16_stops_the_conversion_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "what was there before").unwrap();
    let write = |value: f32, dtype| {
        let bytes = value.to_le_bytes();
        let view = View { name: "w", dtype: StoredDtype::F32, shape: &[1], bytes: &bytes, scales: &[] };
        save(&path, &[("w", view)], Some(dtype), &BTreeMap::new())
    };
    let text = write(65_520.0, StoredDtype::F16).unwrap_err().to_string();
    assert!(text.contains("`w` holds 65520") && text.contains("bfloat16"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"what was there before");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(write(65_504.0, StoredDtype::F16).is_ok());
    assert!(write(f32::INFINITY, StoredDtype::F16).is_ok());
    assert!(write(1e38, StoredDtype::BF16).is_ok());
}

/// The encoder's weights in few bits: header and data.
fn quantized(dtype: StoredDtype) -> (serde_json::Map<String, Value>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weights = open("w", layout("safetensors/model.safetensors")).unwrap();
    let tensors: Vec<_> = weights.views().map(|view| (view.name(), view)).collect();
    save(&path, &tensors, Some(dtype), &BTreeMap::from([("format".to_owned(), "pt".to_owned())])).unwrap();
    let file = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
}

#[test]
fn few_bits_are_stored_as_documented() {
    let (header, _) = quantized(StoredDtype::W8);
    assert_eq!(header["__metadata__"], json!({"format": "ettin-w8", "version": "2"}));
    let entry = |header: &serde_json::Map<String, Value>, name: &str| {
        let entry = header.get(name).unwrap_or_else(|| panic!("{name}"));
        (entry["dtype"].clone(), entry["shape"].clone())
    };
    assert_eq!(entry(&header, "model.layers.0.mlp.Wo.weight.codes"), (json!("I8"), json!([32, 48])));
    assert_eq!(entry(&header, "model.layers.0.mlp.Wo.weight.scales"), (json!("F32"), json!([32])));
    assert_eq!(entry(&header, "model.final_norm.weight"), (json!("F32"), json!([32])));
    assert!(!header.contains_key("model.layers.0.mlp.Wo.weight"));
    let (header, data) = quantized(StoredDtype::W4);
    assert_eq!(header["__metadata__"], json!({"format": "ettin-w4", "version": "2", "group_size": "32"}));
    // The last of two groups holds 16.
    assert_eq!(entry(&header, "model.layers.0.mlp.Wo.weight.codes"), (json!("U8"), json!([32, 24])));
    assert_eq!(entry(&header, "model.layers.0.mlp.Wo.weight.scales"), (json!("BF16"), json!([32, 2])));
    // A weight by hand, out of the bytes: row 3, input 37, the upper half of byte 18, in the second group.
    let at = |name: &str| header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let code = data[at("model.layers.0.mlp.Wo.weight.codes") + 3 * 24 + 18] >> 4;
    let scale = &data[at("model.layers.0.mlp.Wo.weight.scales") + 2 * (3 * 2 + 1)..][..2];
    let scale = half::bf16::from_le_bytes([scale[0], scale[1]]).to_f32();
    let weights = open("w", rebuild(&header, &data)).unwrap();
    let mut row = [0.0; 48];
    weights.get("model.layers.0.mlp.Wo.weight").unwrap().row(3, &mut row);
    assert_eq!(row[37], (f32::from(code) - 8.0) * scale);
    let original = open("w", layout("safetensors/model.safetensors")).unwrap();
    let mut exact = [0.0; 48];
    original.get("model.layers.0.mlp.Wo.weight").unwrap().row(3, &mut exact);
    assert!((row[37] - exact[37]).abs() <= scale.abs(), "{} for {}", row[37], exact[37]);
}

#[test]
fn damage_to_quantized_tensors_is_named() {
    const MATRIX: &str = "model.layers.1.attn.Wo.weight";
    let (codes, scales) = (format!("{MATRIX}.codes"), format!("{MATRIX}.scales"));
    for (dtype, tag) in [(StoredDtype::W8, "F32"), (StoredDtype::W4, "BF16")] {
        let (header, data) = quantized(dtype);
        type Header = serde_json::Map<String, Value>;
        let damaged = |damage: &dyn Fn(&mut Header, &mut Vec<u8>)| {
            let (mut header, mut data) = (header.clone(), data.clone());
            damage(&mut header, &mut data);
            match open("w.safetensors", rebuild(&header, &data)).and_then(|weights| {
                weights.checkpoint(&config(), Head::Language)?;
                Ok(())
            }) {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            }
        };
        let refused = |damage: &dyn Fn(&mut Header, &mut Vec<u8>), expected: &[&str]| {
            let text = damaged(damage);
            for expected in expected.iter().chain(&["w.safetensors"]) {
                assert!(text.contains(expected), "{dtype:?}: {text:?} should say {expected}");
            }
        };
        let rename = |header: &mut Header, from: &str, to: &str| {
            let entry = header.remove(from).unwrap();
            header.insert(to.to_owned(), entry);
        };
        let metadata = |key: &'static str, value: Option<&'static str>| {
            move |header: &mut Header, _: &mut Vec<u8>| {
                let metadata = header["__metadata__"].as_object_mut().unwrap();
                match value {
                    Some(value) => metadata.insert(key.to_owned(), json!(value)),
                    None => metadata.remove(key),
                };
            }
        };
        assert_eq!(damaged(&|_, _| ()), "");
        refused(&|header, _| rename(header, &scales, "x"), &[&codes, &scales, "is missing"]);
        refused(&|header, _| rename(header, &codes, "x"), &[&codes, &scales, "is missing"]);
        refused(&metadata("version", Some("3")), &["version 3", "reads 1 and 2"]);
        refused(&metadata("version", None), &["lacks the version"]);
        // Version 1 calls the scales otherwise.
        refused(&metadata("version", Some("1")), &[".codes` is there but", ".factors` is missing"]);
        refused(&metadata("format", Some("ettin-w3")), &["`ettin-w3`", "known are ettin-w8 and ettin-w4"]);
        // Without it the file has no such tensors, and the matrices are missed by name.
        refused(&metadata("format", None), &[&format!("`{MATRIX}` [32, 32] is missing")]);
        if dtype == StoredDtype::W4 {
            refused(&metadata("group_size", Some("64")), &["group_size 64", "reads 32"]);
            refused(&metadata("group_size", None), &["lacks the group_size"]);
        }
        let other = if dtype == StoredDtype::W4 { "ettin-w8" } else { "ettin-w4" };
        let other_format = |header: &mut Header, _: &mut Vec<u8>| {
            header["__metadata__"] = json!({"format": other, "version": "2", "group_size": "32"});
        };
        refused(&other_format, &["is stored as"]);
        let reshape = |name: &str, shape: Value| {
            let name = name.to_owned();
            move |header: &mut Header, _: &mut Vec<u8>| header[&name]["shape"] = shape.clone()
        };
        let size = |name: &str| {
            let shape = header[name]["shape"].as_array().unwrap().iter();
            shape.map(|dim| dim.as_u64().unwrap()).product::<u64>()
        };
        refused(&reshape(&scales, json!([1, size(&scales)])), &[&scales, "expected"]);
        refused(&reshape(&scales, json!([size(&scales) / 2, 2])), &[&scales, "expected"]);
        refused(&reshape(&codes, json!([size(&codes)])), &[&codes, "not a matrix"]);
        refused(&reshape(&codes, json!([32, 2, size(&codes) / 64])), &[&codes, "not a matrix"]);
        // Codes of half the inputs: bytes cut out, all that follows moved.
        let shorten = |header: &mut Header, data: &mut Vec<u8>| {
            let offsets: Vec<u64> = serde_json::from_value(header[&codes]["data_offsets"].clone()).unwrap();
            let gone = (offsets[1] - offsets[0]) / 2;
            data.drain((offsets[1] - gone) as usize..offsets[1] as usize);
            for (name, entry) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
                let mut ends: Vec<u64> = serde_json::from_value(entry["data_offsets"].clone()).unwrap();
                ends.iter_mut().filter(|end| **end >= offsets[1]).for_each(|end| *end -= gone);
                entry["data_offsets"] = json!(ends);
                if *name == codes {
                    let columns = entry["shape"][1].as_u64().unwrap() / 2;
                    entry["shape"] = json!([32, columns]);
                }
            }
        };
        refused(&shorten, &[MATRIX, "expected"]);
        let start = header[&scales]["data_offsets"][0].as_u64().unwrap() as usize;
        let width = if tag == "F32" { 4 } else { 2 };
        for bad in [[0x80, 0x7f], [0xc0, 0xff]] {
            let poison = |_: &mut Header, data: &mut Vec<u8>| {
                // The upper half of the sixth scale: infinity, NaN.
                data[start + 6 * width - 2..][..2].copy_from_slice(&bad);
            };
            refused(&poison, &[&scales, "not finite"]);
        }
        assert_eq!(header[&scales]["dtype"], tag);
        let retype = |header: &mut Header, _: &mut Vec<u8>| {
            header[&codes]["dtype"] = json!(if tag == "F32" { "U8" } else { "I8" });
        };
        refused(&retype, &[&codes, "is stored as"]);
    }
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let write = |columns: usize, values: &[f32], dtype| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = [values.len() / columns, columns];
        let view =
            View { name: "head.dense.weight", dtype: StoredDtype::F32, shape: &shape, bytes: &bytes, scales: &[] };
        save(&path, &[("dense", view)], Some(dtype), &BTreeMap::new())
    };
    let text = write(3, &[0.5; 6], StoredDtype::W4).unwrap_err().to_string();
    assert!(text.contains("`dense` has 3 inputs") && text.contains("convert to w8"), "{text}");
    assert!(write(3, &[0.5; 6], StoredDtype::W8).is_ok());
    assert!(write(2, &[0.5; 6], StoredDtype::W4).is_ok());
    for dtype in [StoredDtype::W8, StoredDtype::W4] {
        let text = write(2, &[0.5, f32::NAN], dtype).unwrap_err().to_string();
        assert!(text.contains("`dense` holds values that are not finite"), "{text}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_quantized_file_is_an_error_never_a_panic() {
    for dtype in [StoredDtype::W8, StoredDtype::W4] {
        let (header, data) = quantized(dtype);
        torment("model.safetensors", &rebuild(&header, &data), 5_000, 300);
    }
}

#[test]
fn an_unwritable_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent/model.safetensors");
    let error = save(&path, &[], None, &BTreeMap::new()).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.to_string_lossy().contains("absent")), "{error}");
}
