//! Models of other kinds, and names under a prefix, as a user meets them.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{repository, run};

/// A copy of a tiny model with changes to its configuration.
fn model(name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(repository().join("models").join(name).join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

/// Puts a prefix before the name of every tensor.
fn prefix(folder: &Path, prefix: &str) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let named: Vec<_> = tensors.tensors().into_iter().map(|(name, view)| (format!("{prefix}{name}"), view)).collect();
    let written = safetensors::serialize(named, None).unwrap();
    std::fs::write(path, written).unwrap();
}

#[test]
fn info_says_what_a_model_is_that_is_not_run() {
    let folder = model("tiny-text-classify-single", |config| config["architectures"] = json!(["HF_ColBERT"]));
    let name = folder.path().to_str().unwrap();
    let refused = run(&["embed", "-m", name, "x"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("Stanford ColBERT") && refused.out.is_empty(), "{}", refused.err);
    let described = run(&["info", "-m", name, "--format", "json"]);
    let described: Value = serde_json::from_str(described.text(0)).unwrap();
    assert_eq!(described["model"]["supported"], json!(false));
    assert!(described["model"]["kind"].as_str().unwrap().contains("Stanford ColBERT"));
    let table = run(&["info", "-m", name, "--format", "table"]);
    assert!(table.text(0).contains("Stanford ColBERT"), "{}", table.text(0));
}

/// The limit that counts, who sets it, and what else the files of a chain say; its trunk may lie in a folder of its
/// own.
#[test]
fn info_describes_a_chain_wherever_its_trunk_is() {
    let plain = model("tiny-text-chain-mean", |_| {});
    let folder = tempfile::tempdir().unwrap();
    let trunk = folder.path().join("0_Transformer");
    std::fs::rename(plain.path(), &trunk).unwrap();
    let put = |file: &str, content: Value| {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.to_string()).unwrap();
    };
    put(
        "modules.json",
        json!([
            {"path": "./0_Transformer/", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]),
    );
    put("1_Pooling/config.json", json!({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}));
    put("0_Transformer/sentence_bert_config.json", json!({"max_seq_length": 8}));
    let settings = json!({
        "prompts": {"query": "Q: "}, "default_prompt_name": "query", "truncate_dim": 12, "similarity_fn_name": "dot",
    });
    put("config_sentence_transformers.json", settings);
    let name = folder.path().to_str().unwrap();
    let described = run(&["info", "-m", name, "--format", "json"]);
    let described: Value = serde_json::from_str(described.text(0)).unwrap();
    let model = &described["model"];
    let limit = json!({"tokens": 8, "from": "max_seq_length of sentence_bert_config.json"});
    assert_eq!((&model["length_limit"], &model["max_length"]), (&limit, &json!(512)));
    assert_eq!(model["folder"], json!("0_Transformer"));
    let chain = json!({
        "modules": ["Transformer", "Pooling"],
        "details": ["Transformer (feature-extraction)", "Pooling (mean)"], "prompts": {"query": "Q: "}, "default_prompt": "query",
        "truncate_dim": 12, "similarity": "dot",
    });
    assert_eq!(model["chain"], chain);
    let table = run(&["info", "-m", name, "--format", "table"]);
    for part in ["up to 8 tokens: max_seq_length", "query (the default): \"Q: \"", "0_Transformer", "dot"] {
        assert!(table.text(0).contains(part), "{part}: {}", table.text(0));
    }
    let refused = run(&["classify", "-m", name, "x"]);
    assert!(refused.status == Some(1) && refused.err.contains("fits embed"), "{}", refused.err);
}

/// A copy is of the kind of its original, and says so; one that would lose parts is not made.
#[test]
fn models_of_other_kinds_are_converted_whole_or_not_at_all() {
    let out = tempfile::tempdir().unwrap();
    let convert = |folder: &Path, to: &str| {
        run(&["convert", folder.to_str().unwrap(), "-o", out.path().join(to).to_str().unwrap()])
    };
    let put = |folder: &tempfile::TempDir, file: &str, content: &str| {
        std::fs::write(folder.path().join(file), content).unwrap();
    };
    let colbert = model("tiny-text-classify-single", |config| config["architectures"] = json!(["HF_ColBERT"]));
    let gliner = model("tiny-text-classify-single", |_| {});
    put(&gliner, "gliner_config.json", "{}");
    for (folder, kind) in [(&colbert, "Stanford ColBERT"), (&gliner, "GLiNER")] {
        let converted = convert(folder.path(), &kind.replace(' ', "-"));
        converted.text(0);
        assert!(converted.err.contains(kind) && converted.err.contains("the same kind"), "{}", converted.err);
        let copy = run(&["embed", "-m", out.path().join(kind.replace(' ', "-")).to_str().unwrap(), "x"]);
        assert!(copy.status == Some(1) && copy.err.contains(kind), "{}", copy.err);
    }
    let alone = tempfile::tempdir().unwrap();
    put(&alone, "adapter_config.json", r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base"}"#);
    let gguf = model("tiny-text-classify-single", |_| {});
    std::fs::rename(gguf.path().join("model.safetensors"), gguf.path().join("model.gguf")).unwrap();
    let routed = model("tiny-text-classify-single", |_| {});
    put(&routed, "modules.json", r#"[{"path": "", "type": "sentence_transformers.models.Router"}]"#);
    let code = model("tiny-text-classify-single", |_| {});
    put(&code, "modules.json", r#"[{"path": "", "type": "custom_st.Transformer"}]"#);
    for (folder, kind) in [
        (&alone, "LORA adapter of acme/base"),
        (&gguf, "GGUF"),
        (&routed, "router_config.json"),
        (&code, "code of its own"),
    ] {
        let refused = convert(folder.path(), &kind.replace('/', "-"));
        assert_eq!(refused.status, Some(1), "{kind}");
        assert!(refused.err.contains(kind), "{}", refused.err);
        assert!(!out.path().join(kind.replace('/', "-")).join("model.safetensors").exists(), "{kind}");
    }
}

#[test]
fn the_command_in_the_error_mends_a_prefix() {
    let folder = model("tiny-text-classify-single", |_| {});
    let plain = run(&["classify", "-m", folder.path().to_str().unwrap(), "a cat"]);
    prefix(folder.path(), "_orig_mod.");
    let refused = run(&["classify", "-m", folder.path().to_str().unwrap(), "a cat"]);
    assert_eq!(refused.status, Some(1));
    let (_, command) = refused.err.split_once("`ettin-run ").expect(&refused.err);
    let (command, _) = command.split_once('`').unwrap();
    let out = tempfile::tempdir().unwrap();
    let mended = out.path().join("mended");
    let words: Vec<&str> = command.split(' ').collect();
    let words: Vec<&str> =
        words.into_iter().map(|word| if word == "NEW_FOLDER" { mended.to_str().unwrap() } else { word }).collect();
    run(&words).text(0);
    let again = run(&["classify", "-m", mended.to_str().unwrap(), "a cat"]);
    assert_eq!(again.text(0), plain.text(0));

    let wrong = run(&[
        "convert",
        "-o",
        out.path().join("x").to_str().unwrap(),
        "--strip-prefix",
        "module.",
        folder.path().to_str().unwrap(),
    ]);
    assert_eq!(wrong.status, Some(1));
    assert!(wrong.err.contains("`module.`"), "{}", wrong.err);
}

#[test]
fn tensors_that_are_not_used_are_a_note() {
    let folder = model("tiny-text-classify-single", |config| config["num_hidden_layers"] = json!(1));
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    if let Some(types) = config.get_mut("layer_types").and_then(Value::as_array_mut) {
        types.truncate(1);
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let name = folder.path().to_str().unwrap();
    let noted = run(&["embed", "-m", name, "x"]);
    noted.text(0);
    assert_eq!(noted.err.matches("tensors that are not used: model.layers.1.").count(), 1, "{}", noted.err);
    assert!(!run(&["embed", "-q", "-m", name, "x"]).err.contains("not used"));
}
