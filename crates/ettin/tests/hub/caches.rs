//! Caches that other tools or people laid out: what loads offline here is what loads offline in Python.
//!
//! What Python does was observed with huggingface_hub 2.4.0, transformers 5.23.0 and sentence-transformers 6.2.0 under
//! `HF_HUB_OFFLINE=1`; transformers looks for more than `snapshot_download` does, and it is what users load with.

use std::path::Path;

use ettin::Error;
use ettin::files::ModelFiles;
use ettin::hub::{HubOptions, resolve};
use ettin::tasks::{EmbedRequest, Options, TextEmbedder, TextVectors};

use crate::common::copy;

const HASH: &str = "0123456789abcdef0123456789abcdef01234567";
const CHAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-text-chain-mean");

/// A model with its files in `snapshots/<snapshot>`, and perhaps a ref.
fn laid_out(repo: &str, snapshot: &str, reference: Option<(&str, &str)>) -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let root = cache.path().join(repo);
    copy(Path::new(CHAIN), &root.join("snapshots").join(snapshot));
    if let Some((name, contents)) = reference {
        std::fs::create_dir_all(root.join("refs")).unwrap();
        std::fs::write(root.join("refs").join(name), contents).unwrap();
    }
    cache
}

fn offline(cache: &Path) -> HubOptions {
    let mut options = HubOptions::new(cache);
    options.offline = true;
    options
}

fn vector(files: &ModelFiles) -> ettin::Result<Vec<f32>> {
    let embedder = TextEmbedder::load(files, &Options::default())?;
    let outcome = embedder.run(&["the cat sat"], &EmbedRequest::default())?.remove(0)?;
    match outcome.value.embedding {
        TextVectors::Pooled(vector) => Ok(vector),
        _ => unreachable!("one vector per text was asked for"),
    }
}

#[test]
fn snapshots_of_any_name_load_as_in_python() {
    let whole = vector(&ModelFiles::folder(CHAIN).unwrap()).unwrap();
    let main = |contents| Some(("main", contents));
    let with_line_end = format!("{HASH}\n");
    for (snapshot, reference, revision, loads) in [
        ("v1", main("v1"), None, true),
        ("v1", main("v1\n"), None, true),
        ("my.snap-1", main("my.snap-1"), None, true),
        ("abc1234", main("abc1234"), None, true),
        ("abc1234", main("abc1234"), Some("abc1234"), true),
        (HASH, main(&with_line_end), None, true),
        ("main", None, None, true),
        ("v1", None, Some("v1"), true),
        ("v1", None, None, false),
        (HASH, None, None, false),
        (HASH, None, Some(HASH), true),
        ("v1", main("../v1"), None, false),
        ("v1", main("gone"), None, false),
    ] {
        let case = format!("{snapshot} with the ref {reference:?} at {revision:?}");
        let cache = laid_out("models--org--model", snapshot, reference);
        let files = resolve("org/model", revision, &offline(cache.path())).unwrap();
        match vector(&files) {
            Ok(found) => assert!(loads && found == whole, "{case}"),
            Err(error) => assert!(!loads && matches!(error, Error::NotCached { .. }), "{case}: {error}"),
        }
    }
}

#[test]
fn snapshots_that_nothing_leads_to_are_named() {
    let cache = laid_out("models--org--model", "v1", None);
    let files = resolve("org/model", None, &offline(cache.path())).unwrap();
    let error = vector(&files).unwrap_err().to_string();
    assert!(error.contains("main; there are v1, each of which would do as the revision"), "{error}");
}

#[test]
fn a_model_without_an_organisation_loads_where_a_cache_has_it() {
    let cache = laid_out("models--model", "v1", Some(("main", "v1")));
    let files = resolve("model", None, &offline(cache.path())).unwrap();
    assert_eq!(files.revision(), Some("v1"));
    vector(&files).unwrap();
    assert!(matches!(resolve("other", None, &offline(cache.path())), Err(Error::UnknownModel { .. })));
}

#[test]
fn what_a_snapshot_laid_out_by_hand_lacks_is_missing_and_not_uncached() {
    let cache = laid_out("models--org--model", "v1", Some(("main", "v1")));
    let snapshot = cache.path().join("models--org--model/snapshots/v1");
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let files = resolve("org/model", None, &offline(cache.path())).unwrap();
    let error = vector(&files).unwrap_err();
    assert!(matches!(&error, Error::MissingFile { file, .. } if file.contains("model.safetensors")), "{error}");
}

#[test]
fn the_cache_of_another_tool_is_read_where_ours_lacks_the_model() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), laid_out("models--org--model", HASH, Some(("main", HASH))));
    let mut options = offline(ours.path());
    options.other_caches.push(theirs.path().to_owned());
    let files = resolve("org/model", None, &options).unwrap();
    assert_eq!(files.revision(), Some(HASH));
    vector(&files).unwrap();
    assert_eq!(std::fs::read_dir(ours.path()).unwrap().count(), 0);
    // Ours comes first.
    copy(Path::new(CHAIN), &ours.path().join("models--org--model/snapshots/main"));
    assert_eq!(resolve("org/model", None, &options).unwrap().revision(), Some("main"));
}

#[test]
fn a_download_into_a_folder_of_its_own_loads() {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(CHAIN), folder.path());
    let notes = folder.path().join(".cache/huggingface/download");
    std::fs::create_dir_all(&notes).unwrap();
    std::fs::write(notes.join("config.json.metadata"), format!("{HASH}\nabc\n0.0\n")).unwrap();
    vector(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
}
