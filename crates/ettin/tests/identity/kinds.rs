//! Models of other kinds, told by their own files: refused by what they are, never run as a trunk.

use std::path::Path;
use std::sync::{Arc, Mutex};

use ettin::files::ModelFiles;
use ettin::tasks::{Classifier, FillMask, Notices, Options, Reranker, Tagger, TextEmbedder};
use ettin::weights::convert;
use ettin::{Error, Result, identity};
use serde_json::json;

use crate::{change_json, copied, rename_tensors};

fn embed(files: &ModelFiles) -> Result<()> {
    TextEmbedder::load(files, &Options::default()).map(drop)
}

fn refusal(result: Result<()>) -> String {
    match result.unwrap_err() {
        Error::Unsupported(message) => message,
        other => panic!("refused for another reason: {other}"),
    }
}

/// What each task says; that of the description, too.
fn refusals(folder: &Path) -> Vec<String> {
    let files = ModelFiles::folder(folder).unwrap();
    let options = Options::default();
    vec![
        refusal(embed(&files)),
        refusal(Reranker::load(&files, &options).map(drop)),
        refusal(Classifier::load(&files, &options).map(drop)),
        refusal(FillMask::load(&files, &options).map(drop)),
        refusal(Tagger::load(&files, &options).map(drop)),
        identity::describe(&files).unwrap().unwrap().to_string(),
    ]
}

fn assert_all(folder: &Path, parts: &[&str]) {
    for refusal in refusals(folder) {
        for part in parts {
            assert!(refusal.contains(part), "{refusal:?} should say {part:?}");
        }
    }
}

#[test]
fn a_class_of_another_kind_is_refused_by_every_task() {
    let folder = copied("tiny-text-classify-single");
    let class =
        |name: &str| change_json(folder.path(), "config.json", |config| config["architectures"] = json!([name]));
    class("HF_ColBERT");
    assert_all(folder.path(), &["Stanford ColBERT", "HF_ColBERT", "architectures", "config.json"]);
    for name in ["CustomModel", "ModernBertForSpladeMaskedLM", "GLiNERModel"] {
        class(name);
        assert_all(folder.path(), &[&format!("a {name}"), "architectures"]);
    }
    class("FSDPModernBertForSequenceClassification");
    let files = ModelFiles::folder(folder.path()).unwrap();
    embed(&files).unwrap();
    Classifier::load(&files, &Options::default()).unwrap();
}

#[test]
fn files_that_only_one_library_writes_are_refused_by_its_name() {
    for (file, contents, kind) in
        [("artifact.metadata", "{\"dim\": 32}", "Stanford ColBERT"), ("gliner_config.json", "{}", "GLiNER")]
    {
        let folder = copied("tiny-text-classify-single");
        std::fs::write(folder.path().join(file), contents).unwrap();
        assert_all(folder.path(), &[kind, file]);
        // Without a configuration of its own it is told all the same.
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        assert_all(folder.path(), &[kind, file]);
    }
    let folder = copied("tiny-text-classify-single");
    std::fs::write(folder.path().join("router_config.json"), "{}").unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    assert!(refusal(embed(&files)).contains("no modules.json"));
    // What a route's own weights are good for is another matter.
    Classifier::load(&files, &Options::default()).unwrap();

    change_json(folder.path(), "config.json", |config| config["model_type"] = json!("extractor"));
    std::fs::remove_file(folder.path().join("router_config.json")).unwrap();
    assert_all(folder.path(), &["GLiNER2", "extractor"]);
}

#[test]
fn code_of_the_repository_is_not_taken_for_the_librarys() {
    let folder = copied("tiny-text-chain-mean");
    for class in ["custom.Transformer", "modeling_st.Transformer", "transformers_modules.x.Transformer", "Transformer"]
    {
        change_json(folder.path(), "modules.json", |modules| modules[0]["type"] = json!(class));
        let refusal = refusal(embed(&ModelFiles::folder(folder.path()).unwrap()));
        assert!(refusal.contains("code of its own") && refusal.contains(class), "{refusal}");
    }
}

/// transformers 5.23 computes its own class as long as it is not told to trust the repository's code.
#[test]
fn code_offered_beside_a_class_of_the_library_is_left_out_with_a_word() {
    let folder = copied("tiny-text-classify-single");
    let told = |auto_map: serde_json::Value| {
        change_json(folder.path(), "config.json", |config| config["auto_map"] = auto_map);
        let sentences = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&sentences);
        let notices = Notices::to(move |sentence| listener.lock().unwrap().push(sentence.to_owned()));
        let options = Options::default().with_notices(notices);
        let files = ModelFiles::folder(folder.path()).unwrap();
        Classifier::load(&files, &options).unwrap();
        std::mem::take(&mut *sentences.lock().unwrap())
    };
    let sentences = told(json!({"AutoConfig": "c.C", "AutoModel": "modeling_mine.MyModel"}));
    assert!(
        matches!(&sentences[..], [one] if one.contains("modeling_mine.MyModel") && one.contains("auto_map")),
        "{sentences:?}"
    );
    assert!(told(json!({"AutoTokenizer": ["t.T", null]})).is_empty());
}

#[test]
fn chains_of_other_libraries_are_refused_by_their_kind() {
    let folder = copied("tiny-text-chain-mean");
    let says = |index: usize, class: &str, kind: &str| {
        change_json(folder.path(), "modules.json", |modules| {
            modules[0]["type"] = json!("sentence_transformers.models.Transformer");
            modules[1]["type"] = json!("sentence_transformers.models.Pooling");
            modules[index]["type"] = json!(class);
        });
        let files = ModelFiles::folder(folder.path()).unwrap();
        let refusal = refusal(embed(&files));
        assert!(refusal.contains(kind) && refusal.contains(class), "{class}: {refusal}");
        assert!(identity::describe(&files).unwrap().unwrap().kind.contains(kind));
    };
    says(1, "pylate.models.Dense.Dense", "late-interaction");
    says(1, "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", "late-interaction");

    let folder = copied("tiny-text-chain-mean");
    for (kind, said) in [("MultiVectorEncoder", "late-interaction"), ("ColBERT", "late-interaction")] {
        change_json(folder.path(), "config_sentence_transformers.json", |config| config["model_type"] = json!(kind));
        let refusal = refusal(embed(&ModelFiles::folder(folder.path()).unwrap()));
        assert!(refusal.contains(said) && refusal.contains(kind), "{refusal}");
    }
}

/// The chain takes the trunk, whatever class it was saved from, as sentence-transformers does.
#[test]
fn a_chain_of_the_library_counts_for_more_than_the_class_of_its_trunk() {
    let folder = copied("tiny-text-chain-mean");
    change_json(folder.path(), "config.json", |config| config["architectures"] = json!(["MyPretrainedModel"]));
    embed(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
}

#[test]
fn an_adapter_is_not_passed_over() {
    let folder = copied("tiny-text-classify-single");
    let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "org/base"}).to_string();
    std::fs::write(folder.path().join("adapter_config.json"), &adapter).unwrap();
    // It would be applied, as transformers does, if it were a whole one: `tests/adapters.rs`.
    let files = ModelFiles::folder(folder.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let converted = convert(&files, out.path(), None, &mut |_| {}).unwrap_err();
    for error in [embed(&files).unwrap_err(), converted] {
        assert!(error.to_string().contains("target_modules"), "{error}");
    }
    // Who names the weights wants the base.
    embed(&ModelFiles::folder(folder.path().join("model.safetensors")).unwrap()).unwrap();

    let alone = tempfile::tempdir().unwrap();
    std::fs::write(alone.path().join("adapter_config.json"), &adapter).unwrap();
    std::fs::write(alone.path().join("adapter_model.safetensors"), "x").unwrap();
    assert_all(alone.path(), &["a LORA adapter of org/base", "name org/base as the model"]);
}

#[test]
fn folders_without_weights_say_what_they_hold() {
    for (files, kind) in [
        (&["model-q8_0.gguf"][..], "GGUF"),
        (&["onnx/model.onnx", "onnx/model_quantized.onnx"], "ONNX"),
        (&["openvino_model.xml", "openvino_model.bin"], "OpenVINO"),
        (&["tf_model.h5"], "TensorFlow"),
        (&["flax_model.msgpack"], "Flax"),
        (&["pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata"], "FSDP"),
        (&["global_step12/mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest"], "DeepSpeed"),
        (&["coreml/x.mlpackage/Manifest.json", "coreml/x.mlpackage/Data/weights.bin"], "Core ML"),
        (&["model.engine"], "TensorRT"),
        (&["model.pte"], "ExecuTorch"),
        (&["model.torchscript"], "TorchScript"),
        (&["weights.npz"], "MLX"),
        (&["last.ckpt"], "Lightning"),
        (&["model.pth"], "torch.save"),
        (&["model.pt"], "torch.save"),
        (&["model.bin", "vocabulary.json"], "CTranslate2"),
        (&["model.bin"], "name that file itself"),
        (&["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"], "optimiser"),
        (&["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"], "training run"),
        (&["refs/main", "snapshots/abc"], "Hugging Face cache"),
        (&["model-00001-of-00002.safetensors"], "index of all shards"),
        (&["model.fp16.safetensors"], "name that file itself"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let say = || assert_all(folder.path(), &[kind]);
        say();
        let config = std::fs::read(crate::common::root("models/tiny-encoder/config.json")).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        say();
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(embed(&ModelFiles::folder(empty.path()).unwrap()), Err(Error::MissingFile { .. })));
}

/// Exports lie beside the weights of many models.
#[test]
fn exports_beside_weights_do_not_matter() {
    let folder = copied("tiny-text-chain-mean");
    for file in ["onnx/model.onnx", "openvino/openvino_model.xml", "model.gguf", "optimizer.pt", "checkpoint-1/x"] {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let files = ModelFiles::folder(folder.path()).unwrap();
    embed(&files).unwrap();
    assert!(identity::describe(&files).unwrap().is_none());
}

#[test]
fn a_file_of_another_form_is_named_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for (file, kind) in [("m.gguf", "GGUF"), ("model.onnx", "ONNX"), ("tf_model.h5", "TensorFlow")] {
        let path = folder.path().join(file);
        std::fs::write(&path, "x").unwrap();
        let error = ModelFiles::folder(path).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(message) if message.contains(kind)), "{error}");
    }
}

#[test]
fn tensors_that_are_not_used_are_named_once_and_heads_of_other_tasks_are_not() {
    let notices = |folder: &Path| {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = heard.clone();
        let notices = Notices::to(move |sentence| told.lock().unwrap().push(sentence.to_owned()));
        let options = Options::default().with_notices(notices);
        TextEmbedder::load(&ModelFiles::folder(folder).unwrap(), &options).unwrap();
        heard.lock().unwrap().clone()
    };
    let folder = copied("tiny-text-classify-single");
    assert_eq!(notices(folder.path()), Vec::<String>::new());
    rename_tensors(folder.path(), |name| match name {
        "classifier.weight" => Some("linear.weight".to_owned()),
        name => Some(name.to_owned()),
    });
    let [notice] = &notices(folder.path())[..] else {
        panic!("one sentence is expected");
    };
    assert!(notice.ends_with("its weights hold tensors that are not used: linear.weight"), "{notice}");
    rename_tensors(folder.path(), |name| match name.strip_prefix("head.").or(name.strip_prefix("classifier.")) {
        Some(rest) => Some(format!("bottom.{rest}")),
        None => Some(name.to_owned()),
    });
    let [notice] = &notices(folder.path())[..] else {
        panic!("one sentence is expected");
    };
    assert!(notice.contains("bottom.") && notice.ends_with(" more"), "{notice}");
}

#[test]
fn weights_that_another_library_quantized_are_named() {
    for (end, library) in [(".SCB", "bitsandbytes"), ("._weight_qdata", "torchao"), (".qweight", "GPTQ")] {
        let folder = copied("tiny-encoder");
        rename_tensors(folder.path(), |name| match name.strip_suffix(".Wqkv.weight") {
            Some(layer) => Some(format!("{layer}.Wqkv{end}")),
            None => Some(name.to_owned()),
        });
        let error = ettin::heads::LanguageModel::load(
            &ModelFiles::folder(folder.path()).unwrap(),
            &ettin::Backend::cpu().unwrap(),
        );
        let text = error.map(drop).unwrap_err().to_string();
        assert!(text.contains(library) && text.contains(end) && !text.contains("is missing"), "{text}");
    }
}

/// Their heads have tensors of the same names and may have the same shapes.
#[test]
fn a_head_is_not_taken_for_another_with_labels() {
    let files = |model: &str| ModelFiles::folder(crate::common::root("models").join(model)).unwrap();
    let options = Options::default();
    let classify = |model: &str| Classifier::load(&files(model), &options).map(drop);
    let tag = |model: &str| Tagger::load(&files(model), &options).map(drop);
    for (refused, class, fits) in [
        (tag("tiny-text-classify-single"), "ForSequenceClassification", "classify"),
        (classify("tiny-text-tag"), "ForTokenClassification", "tag"),
        (classify("tiny-text-answer"), "ForQuestionAnswering", "answer"),
        (tag("tiny-text-answer"), "ForQuestionAnswering", "answer"),
    ] {
        let refusal = refusal(refused);
        assert!(refusal.contains(class) && refusal.contains(fits), "{refusal}");
    }
    embed(&files("tiny-text-tag")).unwrap();
}
