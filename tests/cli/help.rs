//! Help, manual pages, completions, `info`, `models` and `convert`.

use serde_json::{Value, json};

use crate::support::{repository, run};

const COMMANDS: [&str; 20] = [
    "fill-mask",
    "generate",
    "embed",
    "similarity",
    "classify",
    "tag",
    "extract",
    "answer",
    "choose",
    "rerank",
    "score",
    "serve",
    "tokenize",
    "bench",
    "info",
    "models",
    "pull",
    "convert",
    "completions",
    "man",
];

#[test]
fn every_command_teaches_itself() {
    let help = run(&["--help"]);
    for command in COMMANDS {
        assert!(help.text(0).contains(&format!("\n  {command} ")), "{command} is not listed");
        let help = run(&[command, "--help"]);
        let text = help.text(0);
        assert!(text.contains("Examples:") && text.contains(&format!("ettin-run {command}")), "{text}");
    }
    for word in ["Exit status", "Environment", "Examples"] {
        assert!(help.text(0).contains(word), "{word}");
    }
    for later in ["train", "eval"] {
        assert!(!help.text(0).contains(&format!("\n  {later} ")), "{later} is listed");
    }
    assert!(run(&["--version"]).text(0).starts_with("ettin-run "));
}

#[test]
fn the_example_of_joined_text_is_true() {
    let help = run(&["score", "--help"]);
    let (context, text) = ("The ca", "t sat");
    assert!(help.text(0).contains(&format!("\"{context}\" and \"{text}\"")), "{}", help.text(0));
    let tokens = |flags: &[&str]| {
        let lines = run(&[&["score", "-q", "--context", context, text], flags].concat()).lines(0);
        let tokens = lines[0]["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token["token_str"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tokens(&[]).concat(), text);
    assert_ne!(tokens(&["--join"]), tokens(&[]));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]);
        assert!(script.text(0).contains("fill-mask") && script.text(0).contains("pooling"), "{shell}");
    }
}

#[test]
fn manual_pages() {
    let all = run(&["man"]);
    assert!(all.text(0).contains(".TH ettin-run 1"));
    for command in COMMANDS {
        assert!(all.text(0).contains(&format!(".TH ettin-run-{command} 1")), "{command}");
    }
    let folder = tempfile::tempdir().unwrap();
    run(&["man", "--output", folder.path().to_str().unwrap()]).text(0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1 + COMMANDS.len());
    let page = std::fs::read_to_string(folder.path().join("ettin-run-embed.1")).unwrap();
    assert!(page.contains(".SH \"EXAMPLES\"") && page.contains("\\-\\-pooling"), "{page}");
}

#[test]
fn info_is_a_doctor() {
    let info: Value = serde_json::from_str(run(&["info", "--format", "json"]).text(0)).unwrap();
    for key in ["version", "cpu", "threads", "devices", "hub"] {
        assert!(!info[key].is_null(), "{key}: {info}");
    }
    assert_eq!(info["devices"]["present"][0], json!("cpu"));
    assert_eq!(info["hub"]["offline"], json!(true));
    assert_eq!(info["hub"]["cache"], json!("no-such-cache"));
    assert!(info.get("model").is_none());

    let info: Value =
        serde_json::from_str(run(&["info", "--model", "nano-decoder", "--format", "json"]).text(0)).unwrap();
    let model = &info["model"];
    assert_eq!(model["objective"], json!("decoder"));
    assert_eq!(model["layers"].as_array().unwrap().len(), 6);
    assert_eq!(model["layers"][0], json!({"left": null, "right": 0, "rope_theta": 160000.0}));
    assert_eq!(model["layers"][1]["left"], json!(63));
    assert_eq!(model["bytes"]["f32"].as_u64(), model["parameters"].as_u64().map(|count| 4 * count));
    let table = run(&["info", "--model", "nano-encoder", "--format", "table"]);
    assert!(table.text(0).contains("64 to the left, 64 to the right"), "{}", table.text(0));
}

#[test]
fn models_lists_the_suite() {
    let models: Value = serde_json::from_str(run(&["models", "--format", "json"]).text(0)).unwrap();
    let models = models.as_array().unwrap();
    assert_eq!(models.len(), 24);
    assert_eq!(models[0]["hub_id"], json!("jhu-clsp/ettin-encoder-17m"));
    assert_eq!(models[0]["parameters"], json!(16_797_440));
    assert!(models.iter().all(|model| model["cached"].is_null()));
    assert_eq!(run(&["models", "--format", "table"]).text(0).lines().count(), 25);
}

#[test]
fn converted_models_answer_alike() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("copy");
    let out = out.to_str().unwrap();
    run(&["convert", "models/nano-encoder", "--output", out, "--dtype", "f32", "-q"]).text(0);
    let text = "The capital of France is [MASK].";
    // bf16 weights are exact in f32.
    assert_eq!(run(&["fill-mask", "--model", out, text]).text(0), run(&["fill-mask", "-q", text]).text(0));
    for dtype in ["w8", "w4"] {
        let out = folder.path().join(dtype);
        let out = out.to_str().unwrap();
        run(&["convert", "models/nano-encoder", "--output", out, "--dtype", dtype, "-q"]).text(0);
        let quantized = run(&["fill-mask", "-q", "--dtype", dtype, text]).text(0).to_owned();
        assert_eq!(run(&["fill-mask", "--model", out, text]).text(0), quantized, "{dtype}");
        assert_ne!(run(&["fill-mask", "--model", out, "--dtype", "f32", text]).text(0), quantized, "{dtype}");
        let info: Value = serde_json::from_str(run(&["info", "--model", out, "--format", "json"]).text(0)).unwrap();
        assert_eq!(info["model"]["stored_dtypes"], json!(["float32", dtype]));
        assert!(info["devices"]["selected"].as_str().unwrap().starts_with(&format!("cpu, {dtype}, ")), "{info}");
    }
    let weights = format!("{out}/model.safetensors");
    assert_eq!(run(&["fill-mask", "--model", &weights, text]).text(0), run(&["fill-mask", "-q", text]).text(0));
    assert!(repository().join("models/nano-encoder/model.safetensors").exists());
}
