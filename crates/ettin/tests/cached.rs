//! Models that are in the cache already, as Python or another tool left them: no network, in any build.

use std::path::Path;

use ettin::Error;
use ettin::hub::{HubOptions, cached, resolve};
use ettin::suite::Suite;

const COMMIT: &str = "1111111111111111111111111111111111111111";

/// Options under which a request would fail at once: nothing listens on that port.
fn options(cache: &Path) -> HubOptions {
    let mut options = HubOptions::new(cache);
    options.endpoint = "http://127.0.0.1:1".to_owned();
    options.retries = 0;
    options
}

fn put(cache: &Path, path: &str, contents: &str) {
    let path = cache.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap();
}

/// A snapshot without links, with `config.json` and these files.
fn snapshot(cache: &Path, id: &str, commit: &str, files: &[&str]) {
    for file in files.iter().chain(&["config.json"]) {
        put(cache, &format!("models--{}/snapshots/{commit}/{file}", id.replace('/', "--")), file);
    }
}

const WHOLE: &[&str] = &["tokenizer.json", "model.safetensors"];

#[test]
fn a_branch_leads_to_its_commit() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "org/model", COMMIT, WHOLE);
    put(cache.path(), "models--org--model/refs/main", COMMIT);
    put(cache.path(), "models--org--model/refs/refs/pr/1", &format!("{COMMIT}\n"));
    for revision in [None, Some("main"), Some("refs/pr/1"), Some(COMMIT)] {
        let files = resolve("org/model", revision, &options(cache.path())).unwrap();
        assert_eq!(files.revision(), Some(COMMIT), "{revision:?}");
        assert_eq!(&*files.require("config.json").unwrap(), b"config.json");
        assert!(files.get("modules.json").unwrap().is_none());
        files.download().unwrap();
    }
    let other = resolve("org/model", Some("step5"), &options(cache.path())).unwrap();
    assert_eq!(other.revision(), None);
}

#[cfg(unix)]
#[test]
fn links_to_blobs_are_followed() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "org/model", COMMIT, &["tokenizer.json"]);
    put(cache.path(), "models--org--model/refs/main", COMMIT);
    put(cache.path(), "models--org--model/blobs/abc", "weights");
    let link = cache.path().join(format!("models--org--model/snapshots/{COMMIT}/pytorch_model.bin"));
    std::os::unix::fs::symlink("../../blobs/abc", link).unwrap();
    let files = resolve("org/model", None, &options(cache.path())).unwrap();
    assert_eq!(&*files.require("pytorch_model.bin").unwrap(), b"weights");
    assert!(files.get("model.safetensors").unwrap().is_none());
}

#[test]
fn offline_without_a_cached_model_is_its_own_error() {
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(cache.path());
    options.offline = true;
    let files = resolve("org/model", None, &options).unwrap();
    for error in [files.get("config.json").unwrap_err(), files.download().unwrap_err()] {
        assert!(matches!(error, Error::NotCached { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("org/model (main)") && message.contains("HF_HUB_OFFLINE"), "{message}");
    }
}

#[test]
fn offline_a_file_that_may_exist_is_not_taken_for_absent() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "org/model", COMMIT, &["tokenizer.json"]);
    put(cache.path(), "models--org--model/refs/main", COMMIT);
    put(cache.path(), &format!("models--org--model/.no_exist/{COMMIT}/modules.json"), "");
    let mut options = options(cache.path());
    options.offline = true;
    let files = resolve("org/model", None, &options).unwrap();
    assert!(files.get("modules.json").unwrap().is_none());
    let error = files.get("model.safetensors").unwrap_err();
    assert!(matches!(error, Error::NotCached { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn offline_a_complete_model_loads() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "org/model", COMMIT, WHOLE);
    put(cache.path(), "models--org--model/refs/main", COMMIT);
    let mut options = options(cache.path());
    options.offline = true;
    let files = resolve("org/model", None, &options).unwrap();
    files.require("model.safetensors").unwrap();
    assert!(files.get("generation_config.json").unwrap().is_none());
    files.download().unwrap();
}

#[test]
fn a_snapshot_with_half_of_its_shards_is_not_complete() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "org/model", COMMIT, &["tokenizer.json", "a.safetensors"]);
    put(cache.path(), "models--org--model/refs/main", COMMIT);
    let folder = format!("models--org--model/snapshots/{COMMIT}");
    let index = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    put(cache.path(), &format!("{folder}/model.safetensors.index.json"), index);
    let files = resolve("org/model", None, &options(cache.path())).unwrap();
    assert!(files.get("modules.json").is_err());
    put(cache.path(), &format!("{folder}/b.safetensors"), "b");
    assert!(files.get("modules.json").unwrap().is_none());
}

#[test]
fn the_listing_that_python_keeps_says_what_does_not_exist() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "org/model", COMMIT, &["tokenizer.json"]);
    put(cache.path(), "models--org--model/refs/main", COMMIT);
    let tree = r#"{"format_version": 1, "files": {"config.json": {}, "tokenizer.json": {}, "model.safetensors": {}}}"#;
    put(cache.path(), &format!("models--org--model/trees/{COMMIT}.json"), tree);
    let files = resolve("org/model", None, &options(cache.path())).unwrap();
    assert!(files.get("modules.json").unwrap().is_none());
    assert!(files.get("model.safetensors").is_err());
}

#[test]
fn a_suite_model_stands_for_its_known_commit() {
    let cache = tempfile::tempdir().unwrap();
    let entry = Suite::get().find("encoder-17m").unwrap();
    assert_eq!(cached(entry, None, &options(cache.path())), None);
    let conversion = entry.safetensors_commit().unwrap();
    snapshot(cache.path(), entry.hub_id(), conversion, WHOLE);
    for revision in [None, Some("main")] {
        let files = resolve("encoder-17m", revision, &options(cache.path())).unwrap();
        assert_eq!(files.revision(), Some(conversion));
    }
    snapshot(cache.path(), entry.hub_id(), entry.commit().unwrap(), &["tokenizer.json", "pytorch_model.bin"]);
    let files = resolve("encoder-17m", None, &options(cache.path())).unwrap();
    assert_eq!(files.revision(), entry.commit());
    let found = cached(entry, None, &options(cache.path())).unwrap();
    assert!(found.complete);
    assert_eq!(found.bytes, ["config.json", "tokenizer.json", "pytorch_model.bin"].concat().len() as u64);
}

#[test]
fn what_is_cached_as_main_will_do_for_a_suite_model() {
    let cache = tempfile::tempdir().unwrap();
    snapshot(cache.path(), "jhu-clsp/ettin-encoder-17m", COMMIT, WHOLE);
    put(cache.path(), "models--jhu-clsp--ettin-encoder-17m/refs/main", COMMIT);
    let files = resolve("ettin-encoder-17m", None, &options(cache.path())).unwrap();
    assert_eq!(files.revision(), Some(COMMIT));
    // But not for a checkpoint of the training.
    let files = resolve("ettin-encoder-17m", Some("step599525"), &options(cache.path())).unwrap();
    assert_eq!(files.revision(), None);
}

#[test]
fn a_damaged_ref_is_not_followed() {
    for damage in ["", "main", "../../x", "1111"] {
        let cache = tempfile::tempdir().unwrap();
        snapshot(cache.path(), "org/model", COMMIT, WHOLE);
        put(cache.path(), "models--org--model/refs/main", damage);
        let files = resolve("org/model", None, &options(cache.path())).unwrap();
        assert_eq!(files.revision(), None, "{damage:?}");
    }
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_build_that_cannot_download_says_so() {
    let cache = tempfile::tempdir().unwrap();
    let error = resolve("org/model", None, &options(cache.path())).unwrap().get("config.json").unwrap_err();
    assert!(matches!(error, Error::NotCached { .. }), "{error}");
    assert!(error.to_string().contains("feature `hub`"), "{error}");
}
