use std::collections::BTreeMap;

use super::*;
use crate::tokenizer::Side;
use crate::weights::FileData;

/// Files in memory.
#[derive(Default)]
struct Files(BTreeMap<String, String>);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    fn with(mut self, name: &str, text: &str) -> Self {
        self.0.insert(name.to_owned(), text.to_owned());
        self
    }
}

impl FileSource for Files {
    fn get(&self, name: &str) -> Result<Option<FileData>> {
        Ok(self.0.get(name).map(|text| FileData::from_bytes(name, text.as_bytes().to_vec())))
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

const MODULES: &str = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling", "kwargs": []}]"#;

fn chain() -> Files {
    Files::new(&[("modules.json", MODULES)])
}

fn refused(files: &Files) -> String {
    Repository::load(files).unwrap_err().to_string()
}

#[test]
fn class_paths_of_every_generation_are_one_class_and_foreign_code_is_none() {
    let class = |path: &str| {
        let list = format!(
            r#"[{{"path": "", "type": "sentence_transformers.models.Transformer"}}, {{"path": "1", "type": "{path}"}}]"#
        );
        Repository::load(&Files::new(&[("modules.json", &list)])).map(|found| found.unwrap().modules[0].class)
    };
    for path in [
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Pooling.Pooling",
        "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    ] {
        assert_eq!(class(path).unwrap(), Class::Pooling, "{path}");
    }
    for path in ["custom_pooling.Pooling", "pylate.models.Dense.Dense", "Pooling"] {
        let message = class(path).unwrap_err().to_string();
        assert!(message.contains(path) && message.contains("outside"), "{message}");
    }
    for (path, reason) in [
        ("sentence_transformers.models.CNN", "CNN"),
        ("sentence_transformers.base.modules.router.Router", "router_config.json"),
        ("sentence_transformers.models.LSTM", "WordEmbeddings alone"),
        ("sentence_transformers.models.BoW", "BoW"),
    ] {
        let message = class(path).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn remote_code_is_not_the_library_s_transformer() {
    let list = r#"[{"path": "", "type": "custom_st.Transformer"}]"#;
    assert!(refused(&Files::new(&[("modules.json", list)])).contains("custom_st.Transformer"));
}

#[test]
fn module_folders_leave_out_the_root_and_stay_inside() {
    let list = |paths: &[&str]| {
        let entries: Vec<String> = paths
            .iter()
            .map(|path| format!(r#"{{"path": "{path}", "type": "sentence_transformers.models.Dense"}}"#))
            .collect();
        format!("[{}]", entries.join(","))
    };
    let modules = list(&["", "./", ".", "1_Pooling", "2.Dense/", "./3/", "a/./b", "c//d"]);
    let folders = ["1_Pooling", "2.Dense", "3", "a/b", "c/d"];
    assert_eq!(module_folders("modules.json", modules.as_bytes()).unwrap(), folders);
    let outside = ["../x", "a/../../x", "/x", "/", "./..", r"..\\x", "C:/x"].map(|path| list(&[path]));
    for bad in outside.iter().map(String::as_str).chain(["[{}]", "{}", "["]) {
        let error = module_folders("modules.json", bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("modules.json"), "{bad}: {error}");
    }
}

#[test]
fn unknown_keys_are_refused_by_name_in_every_file() {
    let modules = MODULES.replace("\"kwargs\"", "\"route\"");
    assert!(refused(&Files::new(&[("modules.json", &modules)])).contains("`route`"));
    for file in ["config_sentence_transformers.json", "sentence_bert_config.json"] {
        let message = refused(&chain().with(file, r#"{"novelty": 1}"#));
        assert!(message.contains("`novelty`") && message.contains(file), "{message}");
        assert!(Repository::load(&chain().with(file, r#"{"novelty": null}"#)).is_ok(), "null is absent");
        assert!(refused(&chain().with(file, r#"{"a": 1, "a": 2}"#)).contains("twice"), "the strict door");
    }
    let module = |text: &str| Files::new(&[("1/config.json", text)]);
    let unknown =
        module(r#"{"embedding_dimension": 8, "in_features": 8, "out_features": 8, "dimension": 8, "novelty": 1}"#);
    for message in [
        PoolingConfig::load(&unknown, "1", 8).unwrap_err().to_string(),
        DenseConfig::load(&unknown, "1").unwrap_err().to_string(),
        NormalizeConfig::load(&unknown, "1").unwrap_err().to_string(),
        check_layer_norm(&unknown, "1", 8).unwrap_err().to_string(),
        check_dropout(&unknown, "1").unwrap_err().to_string(),
    ] {
        assert!(message.contains("1/config.json"), "{message}");
    }
}

#[test]
fn arguments_of_processing_are_obeyed_or_refused_by_name() {
    let bert = |text: &str| chain().with("sentence_bert_config.json", text);
    let load = |text: &str| Repository::load(&bert(text)).unwrap().unwrap().transformer;
    let lengths = load(r#"{"query_length": 8, "document_length": 16, "max_seq_length": null}"#);
    assert_eq!((lengths.query_length, lengths.document_length, lengths.max_seq_length), (Some(8), Some(16), None));
    let kwargs = load(
        r#"{"processing_kwargs": {"text": {"max_length": 8, "add_special_tokens": false, "padding": true},
            "common": {"max_length": 4}, "image": {"size": 3}}}"#,
    );
    assert_eq!((kwargs.max_length, kwargs.special_tokens, kwargs.truncates), (Some(4), false, true));
    assert!(!load(r#"{"processing_kwargs": {"text": {"truncation": "do_not_truncate"}}}"#).truncates);
    let whole = load(r#"{"max_seq_length": 16, "processing_kwargs": {"text": {"truncation": false}}}"#);
    assert_eq!(whole.longest(), Some(1 << 16), "a limit counts only where something is cut");
    let arguments =
        load(r#"{"tokenizer_args": {"model_max_length": 32, "truncation_side": "left"}, "max_seq_length": 16}"#);
    assert_eq!((arguments.model_max_length, arguments.truncation_side), (Some(32), Some(Side::Left)));
    for (text, name) in [
        (r#"{"processing_kwargs": {"text": {"stride": 2}}}"#, "stride"),
        (r#"{"processing_kwargs": {"text": {"truncation": "only_first"}}}"#, "only_first"),
        (r#"{"processing_kwargs": {"sound": {}}}"#, "sound"),
        (r#"{"tokenizer_args": {"add_prefix_space": true}}"#, "add_prefix_space"),
        (r#"{"model_args": {"subfolder": "x"}}"#, "subfolder"),
        (r#"{"config_args": {"num_hidden_layers": 2}}"#, "num_hidden_layers"),
        (r#"{"query_expansion": {"strategy": "min", "length": 8}}"#, "query_expansion"),
        (r#"{"do_lower_case": 1}"#, "do_lower_case"),
        (r#"{"module_output_name": "elsewhere"}"#, "module_output_name"),
        (r#"{"transformer_task": "any-to-any"}"#, "any-to-any"),
        (r#"{"config_args": {"output_hidden_states": 1}}"#, "output_hidden_states"),
        (r#"{"transformer_task": "text-generation", "module_output_name": "scores"}"#, "module_output_name"),
        (r#"{"modality_config": {"message": {"method": "forward", "format": "flat"}}}"#, "message"),
        (r#"{"modality_config": {"text": {"method": "get_text_features"}}}"#, "get_text_features"),
        (
            r#"{"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}}"#,
            "hidden_states",
        ),
        (r#"{"query_length": 0}"#, "query_length"),
    ] {
        let message = refused(&bert(text));
        assert!(message.contains(name), "{text}: {message}");
    }
}

#[test]
fn settings_of_other_kinds_of_model_are_refused_by_their_name() {
    for kind in ["MultiVectorEncoder", "ColBERT", "Novelty"] {
        let text = format!(r#"{{"model_type": "{kind}", "query_prefix": "[Q] "}}"#);
        let message = refused(&chain().with("config_sentence_transformers.json", &text));
        assert!(message.contains(kind), "{message}");
    }
}

#[test]
fn a_default_prompt_must_exist_and_every_embedder_has_two() {
    let settings = |text: &str| {
        Repository::load(&chain().with("config_sentence_transformers.json", text)).map(|found| found.unwrap().settings)
    };
    assert!(settings(r#"{"default_prompt_name": "query", "prompts": {}}"#).is_ok());
    for text in [
        r#"{"default_prompt_name": "passage", "prompts": {"query": "q: "}}"#,
        r#"{"default_prompt_name": "query", "model_type": "CrossEncoder"}"#,
    ] {
        assert!(settings(text).unwrap_err().to_string().contains("default_prompt_name"), "{text}");
    }
    let nothing = settings(r#"{"prompts": {"passage": null}}"#).unwrap();
    assert_eq!(nothing.prompts["passage"], "");
}

#[test]
fn a_module_reads_and_writes_texts_or_tokens_but_does_not_change_between_them() {
    let slots = |text: &str| {
        let files = Files::new(&[("1/config.json", text)]);
        NormalizeConfig::load(&files, "1").map(|config| (config.input, config.output))
    };
    assert_eq!(slots("{}").unwrap(), (Slot::Sentence, Slot::Sentence));
    assert_eq!(slots(r#"{"module_input_name": "token_embeddings"}"#).unwrap(), (Slot::Tokens, Slot::Tokens));
    assert_eq!(slots(r#"{"module_output_name": "scores"}"#).unwrap(), (Slot::Sentence, Slot::Scores));
    for text in [
        r#"{"module_input_name": "all_layer_embeddings"}"#,
        r#"{"module_input_name": "token_embeddings", "module_output_name": "sentence_embedding"}"#,
    ] {
        assert!(slots(text).is_err(), "{text}");
    }
    assert_eq!(NormalizeConfig::load(&Files::default(), "1").unwrap().input, Slot::Sentence, "before 6 it had no file");
}

#[test]
fn keys_of_dense_and_of_sparse_vectors_are_told_apart() {
    let settings = |text: &str| {
        Repository::load(&chain().with("config_sentence_transformers.json", text)).map(|found| found.unwrap().settings)
    };
    let sparse = settings(r#"{"model_type": "SparseEncoder", "max_active_dims": 7}"#).unwrap();
    assert_eq!((sparse.max_active_dims, sparse.similarity().unwrap()), (Some(7), crate::heads::Similarity::Dot));
    for (text, key) in [
        (r#"{"model_type": "SparseEncoder", "truncate_dim": 7}"#, "truncate_dim"),
        (r#"{"model_type": "SentenceTransformer", "max_active_dims": 7}"#, "max_active_dims"),
        (r#"{"model_type": "SparseEncoder", "max_active_dims": 0}"#, "max_active_dims"),
    ] {
        assert!(settings(text).unwrap_err().to_string().contains(key), "{text}");
    }
}

#[test]
fn the_older_class_of_sparse_encoders_reads_scores_over_the_vocabulary() {
    let list = |class: &str| format!(r#"[{{"path": "", "type": "sentence_transformers.{class}"}}]"#);
    for class in ["sparse_encoder.models.MLMTransformer", "sparse_encoder.models.MLMTransformer.MLMTransformer"] {
        let repository = Repository::load(&Files::new(&[("modules.json", &list(class))])).unwrap().unwrap();
        assert_eq!(repository.transformer.task, Task::FillMask);
        assert_eq!(repository.settings.model_type, Some(ModelType::SparseEncoder));
    }
}

#[test]
fn settings_of_sparse_modules_are_bounded() {
    let module = |text: &str| Files::new(&[("1/config.json", text)]);
    let splade = SpladeConfig::load(&module("{}"), "1", 8).unwrap();
    assert_eq!(splade, SpladeConfig { sum: false, twice: false });
    for (text, key) in [
        (r#"{"pooling_strategy": "mean"}"#, "pooling_strategy"),
        (r#"{"activation_function": "gelu"}"#, "activation_function"),
        (r#"{"embedding_dimension": 9}"#, "embedding_dimension"),
        (r#"{"chunk_size": 9}"#, "chunk_size"),
    ] {
        assert!(SpladeConfig::load(&module(text), "1", 8).unwrap_err().to_string().contains(key), "{text}");
    }
    let encoder = AutoEncoderConfig::load(&module(r#"{"input_dim": 8, "hidden_dim": 16, "k": 4}"#), "1", 8).unwrap();
    assert_eq!((encoder.features, encoder.kept, encoder.standardizes), (16, 4, false));
    for (text, key) in [
        (r#"{"hidden_dim": 16}"#, "input_dim"),
        (r#"{"input_dim": 9}"#, "input_dim"),
        (r#"{"input_dim": 8, "hidden_dim": 16, "k": 17}"#, "`k`"),
        (r#"{"input_dim": 8, "hidden_dim": 4}"#, "hidden_dim"),
        (r#"{"input_dim": 8, "hidden_dim": 9007199254740993}"#, "hidden_dim"),
    ] {
        assert!(AutoEncoderConfig::load(&module(text), "1", 8).unwrap_err().to_string().contains(key), "{text}");
    }
    let score = LogitScoreConfig::load(&module(r#"{"true_token_id": 7, "false_token_id": null}"#), "1", 8).unwrap();
    assert_eq!((score.wanted, score.unwanted), (7, None));
    for (text, key) in [
        ("{}", "true_token_id"),
        (r#"{"true_token_id": -1}"#, "true_token_id"),
        (r#"{"true_token_id": 8}"#, "true_token_id"),
        (r#"{"true_token_id": 1, "false_token_id": 8}"#, "false_token_id"),
        (r#"{"true_token_id": 1, "module_input_name": "scores"}"#, "module_input_name"),
    ] {
        assert!(LogitScoreConfig::load(&module(text), "1", 8).unwrap_err().to_string().contains(key), "{text}");
    }
}

#[test]
fn settings_of_layers_and_words_are_bounded() {
    let module = |text: &str| Files::new(&[("1/config.json", text)]);
    let layers = WeightedLayersConfig::load(&module(r#"{"num_hidden_layers": 2, "layer_start": 0}"#), "1", 8).unwrap();
    assert_eq!((layers.start, layers.weights), (0, 3));
    assert!(layers.check("1", 2).is_ok() && layers.check("1", 3).unwrap_err().to_string().contains("3 layers"));
    for (text, key) in [
        (r#"{"num_hidden_layers": 2}"#, "layer_start"),
        (r#"{"num_hidden_layers": 2, "layer_start": -1}"#, "layer_start"),
        (r#"{"embedding_dimension": 9}"#, "embedding_dimension"),
        (r#"{"num_hidden_layers": 1e9}"#, "num_hidden_layers"),
    ] {
        assert!(WeightedLayersConfig::load(&module(text), "1", 8).unwrap_err().to_string().contains(key), "{text}");
    }
    let words = r#"{"vocab": ["A", "b", "C"], "word_weights": {"a": 2, "C": 3, "c": 4}, "unknown_word_weight": 0.5}"#;
    assert_eq!(WordWeightsConfig::load(&module(words), "1").unwrap().weights, [2.0, 0.5, 3.0]);
    for (text, key) in [
        (r#"{"vocab": ["a"]}"#, "word_weights"),
        (r#"{"vocab": [], "word_weights": {}}"#, "vocab"),
        (r#"{"vocab": ["a"], "word_weights": {"a": "b"}}"#, "word_weights"),
        (r#"{"vocab": ["a"], "word_weights": {"a": 1e60}}"#, "word_weights"),
        (r#"{"vocab": ["a"], "word_weights": {}, "unknown_word_weight": []}"#, "unknown_word_weight"),
    ] {
        assert!(WordWeightsConfig::load(&module(text), "1").unwrap_err().to_string().contains(key), "{text}");
    }
}
