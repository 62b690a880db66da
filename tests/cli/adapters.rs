//! `--adapter`: an adapter (LoRA) on top of a model, in every command, and merged by `convert`.

use serde_json::Value;

use crate::support::{repository, run};

const BASE: &str = "models/tiny-text-chain-mean";
const ADAPTER: &str = "models/tiny-adapters/bare";

fn embedded(flags: &[&str]) -> Vec<f64> {
    let lines = run(&[&["embed", "-q", "A cat sat."], flags].concat()).lines(0);
    lines[0]["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn an_adapter_is_applied_by_commands_and_merged_by_convert() {
    let out = tempfile::tempdir().unwrap();
    let merged = out.path().join("merged");
    let converted = run(&["convert", BASE, "--adapter", ADAPTER, "-o", merged.to_str().unwrap()]);
    converted.text(0);
    assert!(!merged.join("adapter_config.json").exists() && merged.join("1_Pooling/config.json").exists());

    let adapted = embedded(&["-m", BASE, "--adapter", ADAPTER]);
    let (of_merged, plain) = (embedded(&["-m", merged.to_str().unwrap()]), embedded(&["-m", BASE]));
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(distance(&adapted, &of_merged) < 1e-5, "{adapted:?} {of_merged:?}");
    assert!(distance(&adapted, &plain) > 1e-2);
}

#[test]
fn an_adapter_is_named_by_its_hub_id() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--org--lora/snapshots/main");
    std::fs::create_dir_all(&snapshot).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(repository().join(ADAPTER).join(file), snapshot.join(file)).unwrap();
    }
    let place = cache.path().to_str().unwrap();
    let named = |name| embedded(&["-m", BASE, "--adapter", name, "--cache-dir", place, "--offline"]);
    assert_eq!(named("org/lora"), embedded(&["-m", BASE, "--adapter", ADAPTER]));
    assert_eq!(named("org/lora@main"), named("org/lora"));
    for (adapter, status) in [("org/other", 3), ("org/lora@v2", 3)] {
        let refused = run(&["embed", "-m", BASE, "--adapter", adapter, "--cache-dir", place, "--offline", "x"]);
        assert_eq!(refused.status, Some(status), "{}", refused.err);
        assert!(refused.err.contains(adapter.split('@').next().unwrap()), "{}", refused.err);
    }
}

#[test]
fn info_describes_what_is_on_top() {
    let record: Value =
        serde_json::from_str(run(&["info", "-m", BASE, "--adapter", ADAPTER, "--check", "--format", "json"]).text(0))
            .unwrap();
    let adapter = &record["model"]["adapters"][0];
    assert_eq!(adapter["base"], BASE);
    assert_eq!(adapter["layers"][0], "model.layers.0.attn.Wqkv");
    assert_eq!(record["check"]["passed"], true);
    let table = run(&["info", "-m", BASE, "--adapter", ADAPTER, "--format", "table"]);
    assert!(table.text(0).contains("layers changed"), "{}", table.text(0));
}

#[test]
fn what_is_no_adapter_for_the_model_is_told() {
    for (adapter, words) in [
        ("no-such-folder", &["--adapter", "no-such-folder"][..]),
        ("models/tiny-encoder", &["models/tiny-encoder has no adapter_config.json"]),
        ("models/tiny-adapters/list", &["does not fit", "models/tiny-encoder"]),
    ] {
        let refused = run(&["embed", "-m", BASE, "--adapter", adapter, "x"]);
        assert_eq!(refused.status, Some(1), "{}", refused.err);
        words.iter().for_each(|word| assert!(refused.err.contains(word), "{} should say {word}", refused.err));
    }
    let file = run(&["embed", "-m", BASE, "--adapter", "README.md", "x"]);
    assert!(file.status == Some(2) && file.err.contains("--adapter README.md: it is no folder"), "{}", file.err);
    // Given as the model itself.
    let alone = run(&["embed", "-m", ADAPTER, "x"]);
    assert!(alone.status == Some(1) && alone.err.contains(BASE) && alone.err.contains("--adapter"), "{}", alone.err);
    let twice = run(&["embed", "-m", BASE, "--adapter", ADAPTER, "--adapter", ADAPTER, "x"]);
    assert!(twice.status == Some(1) && twice.err.contains("two adapters"), "{}", twice.err);
}
