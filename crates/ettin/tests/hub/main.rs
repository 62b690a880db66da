//! Downloads from a local Hub: what arrives, what is asked for, and what a cache looks like after each accident.
#![cfg(feature = "hub")]

mod caches;
#[path = "../common/mod.rs"]
mod common;
mod connections;
mod server;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ettin::Error;
use ettin::files::ModelFiles;
use ettin::hub::{HubOptions, resolve};
use ettin::tasks::{Options, TextEmbedder};
use server::{COMMIT, Hub, Reply, Request, sha256, weights};

/// What a server says instead.
type Change = fn(Reply) -> Reply;

fn load(options: &HubOptions) -> ettin::Result<ModelFiles> {
    let files = resolve("org/model", None, options)?;
    files.require("config.json")?;
    files.get("modules.json")?;
    files.require("tokenizer.json")?;
    files.require("model.safetensors")?;
    Ok(files)
}

fn failure(options: &HubOptions) -> Error {
    load(options).map(|_| ()).unwrap_err()
}

fn repo(cache: &Path) -> PathBuf {
    cache.join("models--org--model")
}

fn snapshot(cache: &Path) -> PathBuf {
    repo(cache).join("snapshots").join(COMMIT)
}

fn partial(cache: &Path, contents: &[u8]) -> PathBuf {
    repo(cache).join("blobs").join(format!("{}.incomplete", sha256(contents)))
}

fn leave_partial(cache: &Path, contents: &[u8], bytes: &[u8]) {
    let path = partial(cache, contents);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn incomplete_files(cache: &Path) -> usize {
    let blobs = std::fs::read_dir(repo(cache).join("blobs"));
    let names = blobs.into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".incomplete")).count()
}

/// What the cache must satisfy at any moment: every file of the snapshot is whole.
fn assert_sound(cache: &Path, hub: &Hub) {
    let offline = {
        let mut options = hub.options(cache);
        options.offline = true;
        options
    };
    let files = resolve("org/model", Some(COMMIT), &offline).unwrap();
    if let Ok(Some(data)) = files.get("model.safetensors") {
        assert!(data[..] == weights()[..], "damaged weights in the cache");
    }
}

fn storage_gets(requests: &[Request]) -> Vec<&Request> {
    requests.iter().filter(|request| request.storage && request.method == "GET").collect()
}

/// A twist for the answers that carry weights, of which the first `times` are changed.
fn weights_twist(
    times: usize,
    mut change: impl FnMut(Reply) -> Reply + Send + 'static,
) -> impl FnMut(&Request, Reply) -> Reply + Send + 'static {
    let mut left = times;
    move |request, reply| {
        if request.storage && request.method == "GET" && left > 0 {
            left -= 1;
            change(reply)
        } else {
            reply
        }
    }
}

/// A twist for all requests to a path that contains `part`.
fn path_twist(
    part: &'static str,
    change: impl Fn(Reply) -> Reply + Send + 'static,
) -> impl FnMut(&Request, Reply) -> Reply + Send + 'static {
    move |request, reply| {
        if request.path.contains(part) { change(reply) } else { reply }
    }
}

#[test]
fn a_model_is_downloaded_once_and_then_makes_no_request() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let options = hub.options(cache.path());
    let files = load(&options).unwrap();
    assert_eq!(files.revision(), Some(COMMIT));
    assert!(files.require("model.safetensors").unwrap()[..] == weights()[..]);
    let requests = hub.requests();
    assert!(!requests.iter().any(|request| request.path.contains("README") || request.path.contains(".bin")));
    assert_eq!(storage_gets(&requests).len(), 1);

    let again = load(&options).unwrap();
    assert_eq!(again.revision(), Some(COMMIT));
    assert!(again.get("modules.json").unwrap().is_none());
    assert!(again.get("pytorch_model.bin").unwrap().is_none());
    assert!(again.get("some/other.json").unwrap().is_none());
    again.download().unwrap();
    assert_eq!(hub.requests().len(), 0);
}

/// Models of gliner and gliner2 have no `config.json` where others have it, and files in folders.
#[test]
fn models_of_gliner_are_downloaded_whole() {
    use ettin::tasks::{EntityExtractor, Options, SchemaClassifier};
    for name in ["tiny-gliner-bi", "tiny-gliner-uni", "tiny-gliner2"] {
        let model = common::root("models").join(name);
        let mut contents = Vec::new();
        for folder in ["", "labels_tokenizer", "encoder_config"] {
            for entry in std::fs::read_dir(model.join(folder)).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_file() {
                    let name = path.strip_prefix(&model).unwrap().to_str().unwrap().to_owned();
                    contents.push((name, std::fs::read(path).unwrap()));
                }
            }
        }
        let files: Vec<(&str, &[u8])> = contents.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
        let (hub, cache) = (Hub::with(&files), tempfile::tempdir().unwrap());
        let options = hub.options(cache.path());
        let load = |files: &ModelFiles| match name {
            "tiny-gliner2" => SchemaClassifier::load(files, &Options::default()).map(drop),
            _ => EntityExtractor::load(files, &Options::default()).map(drop),
        };
        resolve("org/model", None, &options).unwrap().download().unwrap();
        assert!(!hub.requests().is_empty());
        let mut offline = hub.options(cache.path());
        offline.offline = true;
        load(&resolve("org/model", None, &offline).unwrap()).unwrap();
        load(&resolve("org/model", None, &options).unwrap()).unwrap();
        assert_eq!(hub.requests().len(), 0, "{name}");
    }
}

#[test]
fn an_adapter_is_downloaded_once_and_loads_offline() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-adapters/bare");
    let file = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (config, weights) = (file("adapter_config.json"), file("adapter_model.safetensors"));
    let hub = Hub::with(&[
        ("adapter_config.json", &config),
        ("adapter_model.safetensors", &weights),
        ("README.md", b"never asked for"),
    ]);
    for listed in [true, false] {
        match listed {
            true => hub.behave(),
            // A plain mirror has no list of files.
            false => hub.twist(path_twist("/api/models", |_| Reply::new(404))),
        }
        let cache = tempfile::tempdir().unwrap();
        let options = hub.options(cache.path());
        let base = || ModelFiles::folder(folder.join("../../tiny-text-chain-mean")).unwrap();
        let vector = |options: &HubOptions| {
            let adapter = resolve("org/model", None, options)?;
            let embedder = TextEmbedder::load(&base().with_adapter("a", adapter)?, &Options::default())?;
            Ok::<_, Error>(embedder.embed(&["the cat sat"])?.values)
        };
        let downloaded = vector(&options).unwrap();
        assert!(!hub.requests().iter().any(|request| request.path.contains("README")));
        let mut offline = options.clone();
        offline.offline = true;
        assert_eq!(vector(&offline).unwrap(), downloaded);
        let local = base().with_adapter("a", ModelFiles::folder(&folder).unwrap()).unwrap();
        let local = TextEmbedder::load(&local, &Options::default()).unwrap().embed(&["the cat sat"]).unwrap();
        assert_eq!(local.values, downloaded);
        // `pull` finds nothing missing.
        resolve("org/model", None, &options).unwrap().download().unwrap();
        assert_eq!(hub.requests().len(), 0);
    }
}

#[test]
fn weights_are_fetched_when_asked_for_and_not_before() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let options = hub.options(cache.path());
    let files = resolve("org/model", None, &options).unwrap();
    assert_eq!(hub.requests().len(), 0);
    files.require("tokenizer.json").unwrap();
    assert!(storage_gets(&hub.requests()).is_empty());

    let again = resolve("org/model", None, &options).unwrap();
    again.require("tokenizer.json").unwrap();
    assert!(again.get("modules.json").unwrap().is_none());
    assert_eq!(hub.requests().len(), 0, "the tokenizer alone is cached, and what is absent is known");
    again.download().unwrap();
    assert_eq!(storage_gets(&hub.requests()).len(), 1);
}

#[test]
fn the_cache_is_laid_out_as_other_tools_expect() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    load(&hub.options(cache.path())).unwrap();
    let root = repo(cache.path());
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert!(root.join("blobs").join(sha256(&weights())).is_file());
    assert!(root.join(".no_exist").join(COMMIT).join("modules.json").is_file());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(snapshot(cache.path()).join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(sha256(&weights()))
    );
    let theirs = hf_hub::Cache::new(cache.path().to_owned()).model("org/model".to_owned());
    let path = theirs.get("model.safetensors").unwrap();
    assert!(std::fs::read(path).unwrap() == weights());
    assert_eq!(incomplete_files(cache.path()), 0);
}

#[test]
fn without_links_the_snapshot_holds_the_files() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    options.symlinks = false;
    load(&options).unwrap();
    let path = snapshot(cache.path()).join("model.safetensors");
    assert!(path.symlink_metadata().unwrap().is_file());
    hub.requests();
    load(&options).unwrap();
    assert_eq!(hub.requests().len(), 0);

    // A second commit with the same weights.
    let next = "2222222222222222222222222222222222222222";
    hub.push(next, "config.json", b"{}");
    options.refresh = true;
    let files = load(&options).unwrap();
    assert_eq!(files.revision(), Some(next));
    assert!(path.is_file());
}

#[test]
fn a_branch_stays_where_it_was_until_it_is_refreshed() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    load(&options).unwrap();
    let next = "2222222222222222222222222222222222222222";
    hub.push(next, "config.json", b"{\"new\": true}");
    hub.requests();
    assert_eq!(load(&options).unwrap().revision(), Some(COMMIT));
    assert_eq!(hub.requests().len(), 0);

    options.refresh = true;
    let files = load(&options).unwrap();
    assert_eq!(files.revision(), Some(next));
    assert_eq!(&*files.require("config.json").unwrap(), b"{\"new\": true}");
    assert!(storage_gets(&hub.requests()).is_empty(), "unchanged weights are linked, not sent again");
    options.refresh = false;
    assert_eq!(load(&options).unwrap().revision(), Some(next));
    // The old commit is still there, by its name.
    assert_eq!(resolve("org/model", Some(COMMIT), &options).unwrap().revision(), Some(COMMIT));
}

#[test]
fn a_tag_is_remembered_apart_from_main() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let options = hub.options(cache.path());
    let files = resolve("org/model@step5", None, &options).unwrap();
    files.download().unwrap();
    assert_eq!(std::fs::read_to_string(repo(cache.path()).join("refs/step5")).unwrap(), COMMIT);
    assert!(!repo(cache.path()).join("refs/main").exists());
}

#[test]
fn the_token_goes_to_the_endpoint_and_nowhere_else() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    options.token = Some("hf_secret".to_owned());
    load(&options).unwrap();
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.storage));
    for request in requests {
        let expected = (!request.storage).then_some("Bearer hf_secret");
        assert_eq!(request.header("authorization"), expected, "{} {}", request.method, request.path);
    }
}

#[test]
fn a_cut_connection_is_resumed_where_it_broke() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(weights_twist(2, |mut reply| {
        reply.cut_after = Some(100_000);
        reply
    }));
    load(&hub.options(cache.path())).unwrap();
    let requests = hub.requests();
    let ranges: Vec<_> = storage_gets(&requests).iter().map(|request| request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=200000-")]);
    assert_sound(cache.path(), &hub);
}

#[test]
fn a_small_file_is_resumed_on_condition_that_it_is_the_same() {
    let long = "x".repeat(100_000);
    let (hub, cache) = (Hub::with(&[("config.json", long.as_bytes())]), tempfile::tempdir().unwrap());
    let mut cuts = 1;
    hub.twist(move |request, mut reply| {
        if request.path.contains("resolve-cache/config.json") && request.method == "GET" && cuts > 0 {
            cuts -= 1;
            reply.cut_after = Some(50_000);
        }
        reply
    });
    let files = resolve("org/model", None, &hub.options(cache.path())).unwrap();
    assert_eq!(&*files.require("config.json").unwrap(), long.as_bytes());
    let requests = hub.requests();
    let resumed = requests.iter().rfind(|request| request.path.contains("resolve-cache/config.json")).unwrap();
    assert_eq!(resumed.header("range"), Some("bytes=50000-"));
    assert_eq!(resumed.header("if-range"), Some(format!("\"{}\"", &sha256(long.as_bytes())[..40]).as_str()));
}

#[test]
fn a_connection_that_always_breaks_is_given_up() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(weights_twist(usize::MAX, |mut reply| {
        reply.cut_after = Some(0);
        reply
    }));
    let error = failure(&hub.options(cache.path()));
    assert!(matches!(error, Error::Hub { .. }), "{error}");
    assert!(error.to_string().contains("of 700000 bytes"), "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");
    assert_eq!(storage_gets(&hub.requests()).len(), 6);
    assert_sound(cache.path(), &hub);
}

#[test]
fn what_an_earlier_process_left_is_resumed() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    leave_partial(cache.path(), &weights(), &weights()[..300_000]);
    load(&hub.options(cache.path())).unwrap();
    assert_eq!(storage_gets(&hub.requests())[0].header("range"), Some("bytes=300000-"));
    assert_sound(cache.path(), &hub);
}

#[test]
fn a_whole_file_that_was_not_renamed_is_not_sent_again() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    leave_partial(cache.path(), &weights(), &weights());
    load(&hub.options(cache.path())).unwrap();
    assert!(storage_gets(&hub.requests()).is_empty());
    assert_sound(cache.path(), &hub);
}

#[test]
fn damaged_leftovers_are_noticed_and_replaced() {
    let mut damaged = weights()[..300_000].to_vec();
    damaged[1234] ^= 1;
    for leftover in [damaged, vec![0; 700_000], vec![7; 800_000]] {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        leave_partial(cache.path(), &weights(), &leftover);
        let files = load(&hub.options(cache.path())).unwrap();
        assert!(files.require("model.safetensors").unwrap()[..] == weights()[..]);
        assert_eq!(incomplete_files(cache.path()), 0);
    }
}

#[test]
fn leftovers_of_a_file_without_a_hash_are_not_trusted() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let config = b"{\"model_type\": \"modernbert\"}";
    let path = repo(cache.path()).join("blobs").join(format!("{}.incomplete", &sha256(config)[..40]));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "garbage").unwrap();
    let files = load(&hub.options(cache.path())).unwrap();
    assert_eq!(&*files.require("config.json").unwrap(), config);
}

#[test]
fn a_server_that_ignores_ranges_sends_the_whole_file_again() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    leave_partial(cache.path(), &weights(), &weights()[..300_000]);
    hub.twist(weights_twist(usize::MAX, |_| Reply::new(200).body(weights())));
    load(&hub.options(cache.path())).unwrap();
    assert_sound(cache.path(), &hub);
}

#[test]
fn an_unsatisfiable_range_starts_over() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    leave_partial(cache.path(), &weights(), &weights()[..300_000]);
    hub.twist(weights_twist(1, |_| Reply::new(416)));
    load(&hub.options(cache.path())).unwrap();
    let requests = hub.requests();
    let ranges: Vec<_> = storage_gets(&requests).iter().map(|request| request.header("range")).collect();
    assert_eq!(ranges, [Some("bytes=300000-"), None]);
    assert_sound(cache.path(), &hub);
}

#[test]
fn a_part_from_another_place_is_refused() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    leave_partial(cache.path(), &weights(), &weights()[..300_000]);
    hub.twist(weights_twist(usize::MAX, |_| {
        Reply::new(206).with("Content-Range", "bytes 5-699999/700000").body(&weights()[5..])
    }));
    let error = failure(&hub.options(cache.path())).to_string();
    assert!(error.contains("from byte 5"), "{error}");
    assert_sound(cache.path(), &hub);
}

#[test]
fn a_wrong_length_is_an_error_and_leaves_nothing_behind() {
    for sent in [0, 699_999, 700_001] {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        hub.twist(weights_twist(usize::MAX, move |_| Reply::new(200).body(vec![1; sent])));
        let error = failure(&hub.options(cache.path())).to_string();
        assert!(error.contains(&format!("{sent} bytes of a file of 700000")), "{error}");
        assert!(!snapshot(cache.path()).join("model.safetensors").exists());
        hub.behave();
        load(&hub.options(cache.path())).unwrap();
        assert_sound(cache.path(), &hub);
    }
}

#[test]
fn contents_that_do_not_match_their_hash_are_refused() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(weights_twist(usize::MAX, |_| Reply::new(200).body(vec![1; 700_000])));
    let error = failure(&hub.options(cache.path())).to_string();
    assert!(error.contains("SHA-256"), "{error}");
    assert!(!snapshot(cache.path()).join("model.safetensors").exists());
    assert_eq!(incomplete_files(cache.path()), 0);
}

#[test]
fn a_file_that_changes_between_two_requests_is_started_over() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    // A mirror whose file is replaced after the first question about it.
    let mut heads = 0;
    hub.twist(move |request, reply| {
        if !request.path.ends_with("config.json") || !request.path.contains("/resolve/") {
            return reply;
        }
        heads += usize::from(request.method == "HEAD");
        let (etag, body) = if heads == 1 && request.method == "HEAD" { ("old", "{}") } else { ("new", "[1]") };
        Reply::new(200).with("ETag", format!("\"{etag}\"")).with("X-Repo-Commit", COMMIT).body(body)
    });
    let files = load(&hub.options(cache.path())).unwrap();
    assert_eq!(&*files.require("config.json").unwrap(), b"[1]");
    assert!(repo(cache.path()).join("blobs/new").is_file());
    assert!(!repo(cache.path()).join("blobs/old").exists());
    assert_eq!(incomplete_files(cache.path()), 0);
}

#[test]
fn refusals_say_what_to_do() {
    let cases: [(u16, Option<&str>, &str); 6] = [
        (401, None, "set HF_TOKEN"),
        (403, Some("GatedRepo"), "accept its conditions"),
        (404, Some("RepoNotFound"), "check the name"),
        (404, Some("RevisionNotFound"), "revision main of org/model"),
        (400, None, "HTTP 400"),
        (418, None, "HTTP 418"),
    ];
    for (status, code, advice) in cases {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        hub.twist(move |_, _| {
            let reply = Reply::new(status);
            code.iter().fold(reply, |reply, code| reply.with("X-Error-Code", code))
        });
        let error = failure(&hub.options(cache.path()));
        assert!(error.to_string().contains(advice), "{status}: {error}");
        match status {
            401 | 403 => assert!(matches!(error, Error::Unauthorized { .. }), "{error}"),
            404 => assert!(matches!(error, Error::NotFound { .. }), "{error}"),
            _ => assert!(matches!(error, Error::Hub { .. }), "{error}"),
        }
        assert_eq!(hub.requests().len(), 1, "{status}: asking again would not help");
    }
}

#[test]
fn a_token_that_is_refused_is_named_as_the_problem() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(|_, _| Reply::new(401));
    let mut options = hub.options(cache.path());
    options.token = Some("hf_expired".to_owned());
    let error = failure(&options).to_string();
    assert!(error.contains("the token is not valid") && !error.contains("hf_expired"), "{error}");
}

#[test]
fn a_token_that_cannot_be_a_header_is_an_error() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    options.token = Some("hf\nsecret".to_owned());
    let error = failure(&options).to_string();
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again() {
    for status in [429, 500, 502, 503, 504] {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        let mut busy = 3;
        hub.twist(move |_, reply| {
            if busy == 0 {
                return reply;
            }
            busy -= 1;
            Reply::new(status).with("Retry-After", 0)
        });
        load(&hub.options(cache.path())).unwrap();
    }
}

#[test]
fn a_server_that_stays_busy_is_given_up_after_five_repetitions() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(|_, _| Reply::new(503));
    let error = failure(&hub.options(cache.path())).to_string();
    assert!(error.contains("HTTP 503"), "{error}");
    assert_eq!(hub.requests().len(), 6);
}

#[test]
fn a_pause_of_an_hour_is_not_waited_for() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(|_, _| Reply::new(429).with("Retry-After", 3600));
    let error = failure(&hub.options(cache.path())).to_string();
    assert!(error.contains("too many requests"), "{error}");
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn no_server_at_all_is_an_error() {
    let cache = tempfile::tempdir().unwrap();
    let mut options = HubOptions::new(cache.path());
    options.backoff = Duration::from_millis(1);
    for endpoint in ["http://127.0.0.1:1", "not an address", "ftp://127.0.0.1", "https://", ""] {
        options.endpoint = endpoint.to_owned();
        assert!(matches!(failure(&options), Error::Hub { .. }), "{endpoint}");
    }
}

#[test]
fn answers_that_no_hub_gives_are_refused() {
    let html = |_: Reply| Reply::new(200).body("<html>log in to the hotel</html>");
    let lists: [(&str, Change); 4] = [
        ("not a list", html),
        ("the commit", |_| Reply::new(200).body(r#"{"sha": "../../x", "siblings": []}"#)),
        ("redirects", |_| Reply::new(302).with("Location", "/api/models/org/model/revision/main")),
        ("redirects to", |_| Reply::new(302)),
    ];
    for (message, twist) in lists {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        hub.twist(path_twist("/api/models/", twist));
        let error = failure(&hub.options(cache.path())).to_string();
        assert!(error.contains(message), "{error}");
    }
    let files: [(&str, Change); 4] = [
        ("no ETag", |_| Reply::new(200).with("X-Repo-Commit", COMMIT).body("{}")),
        ("no ETag", |_| Reply::new(200).with("ETag", "\"..\"").body("{}")),
        ("sends the commit", |_| {
            let other = "2222222222222222222222222222222222222222";
            Reply::new(200).with("ETag", "\"x\"").with("X-Repo-Commit", other).body("{}")
        }),
        ("encoding gzip", |_| Reply::new(200).with("ETag", "\"x\"").with("Content-Encoding", "gzip").body("{}")),
    ];
    for (message, twist) in files {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        hub.twist(path_twist("/resolve/", twist));
        let error = failure(&hub.options(cache.path())).to_string();
        assert!(error.contains(message), "{error}");
        assert!(!snapshot(cache.path()).exists());
    }
}

#[test]
fn hostile_names_never_leave_the_cache() {
    let index = br#"{"weight_map": {"a": "../../../../escaped.bin"}}"#;
    for files in [
        &[("config.json", &b"{}"[..]), ("../../escaped.bin", b"x"), ("/escaped.bin", b"x")][..],
        &[("config.json", b"{}"), ("modules.json", br#"[{"path": "../../../../escaped"}]"#)],
        &[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("pytorch_model.bin.index.json", index)],
    ] {
        let (hub, folder) = (Hub::with(files), tempfile::tempdir().unwrap());
        let cache = folder.path().join("a/b/cache");
        let files = resolve("org/model", None, &hub.options(&cache)).unwrap();
        assert!(files.download().is_err());
        assert!(matches!(files.get("../../escaped.bin"), Err(Error::Input(_))));
        assert!(!hub.requests().iter().any(|request| request.path.contains("escaped")));
    }
}

#[test]
fn routes_are_fetched_with_their_folders() {
    let class = |name: &str| format!("sentence_transformers.models.{name}");
    let modules = format!(r#"[{{"path": "", "type": "{}"}}]"#, class("Router"));
    let router = format!(
        r#"{{"types": {{"query": "{}", "document": "{}", "pooling": "{}"}}, "parameters": {{}},
            "structure": {{"query": ["query"], "document": ["document", "pooling"]}}}}"#,
        class("StaticEmbedding"),
        class("Transformer"),
        class("Pooling")
    );
    // Neither configuration nor weights are at the top.
    let (hub, cache) = (
        Hub::with(&[
            ("modules.json", modules.as_bytes()),
            ("router_config.json", router.as_bytes()),
            ("query/model.safetensors", b"table"),
            ("query/tokenizer.json", b"{}"),
            ("document/config.json", b"{}"),
            ("document/model.safetensors", &weights()),
            ("document/tokenizer.json", b"{}"),
            ("pooling/config.json", b"{}"),
        ]),
        tempfile::tempdir().unwrap(),
    );
    let options = hub.options(cache.path());
    resolve("org/model", None, &options).unwrap().download().unwrap();
    hub.requests();
    let files = resolve("org/model", None, &options).unwrap();
    assert_eq!(&*files.require("query/model.safetensors").unwrap(), b"table");
    for file in ["router_config.json", "document/tokenizer.json", "pooling/config.json"] {
        assert!(files.get(file).unwrap().is_some(), "{file}");
    }
    for file in ["config.json", "model.safetensors", "query/config.json", "pooling/model.safetensors"] {
        assert!(files.get(file).unwrap().is_none(), "{file}");
    }
    assert_eq!(hub.requests().len(), 0);
    // A route whose weights are gone is not complete.
    drop(files);
    let snapshots = std::fs::read_dir(cache.path().join("models--org--model/snapshots")).unwrap();
    let snapshot = snapshots.flatten().next().unwrap().path();
    std::fs::remove_file(snapshot.join("query/model.safetensors")).unwrap();
    resolve("org/model", None, &options).unwrap().download().unwrap();
    assert!(!hub.requests().is_empty());
}

#[test]
fn a_chain_is_fetched_with_its_folders() {
    let modules = br#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}]"#;
    let (hub, cache) = (
        Hub::with(&[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
            ("modules.json", modules),
            ("1_Pooling/config.json", b"{\"pooling\": 1}"),
            ("2_Dense/config.json", b"{}"),
            ("2_Dense/model.safetensors", b"dense"),
            ("2_Dense/pytorch_model.bin", b"the same"),
            ("model.safetensors", &weights()),
        ]),
        tempfile::tempdir().unwrap(),
    );
    let options = hub.options(cache.path());
    resolve("org/model", None, &options).unwrap().download().unwrap();
    hub.requests();
    let files = resolve("org/model", None, &options).unwrap();
    assert_eq!(&*files.require("1_Pooling/config.json").unwrap(), b"{\"pooling\": 1}");
    assert_eq!(&*files.require("2_Dense/model.safetensors").unwrap(), b"dense");
    assert!(files.get("3_Normalize/config.json").unwrap().is_none());
    assert!(files.get("2_Dense/pytorch_model.bin").unwrap().is_none());
    assert_eq!(hub.requests().len(), 0);
}

#[test]
fn an_interrupted_completion_does_not_hide_a_chain() {
    let modules = br#"[{"path": ""}, {"path": "1_Pooling"}]"#;
    let (hub, cache) = (
        Hub::with(&[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
            ("modules.json", modules),
            ("1_Pooling/config.json", b"{}"),
            ("model.safetensors", &weights()),
        ]),
        tempfile::tempdir().unwrap(),
    );
    let options = hub.options(cache.path());
    // Python cached the configuration and the weights, which is all that `AutoModel` asks for.
    let folder = snapshot(cache.path());
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    std::fs::write(folder.join("model.safetensors"), weights()).unwrap();
    // We begin to fetch the rest, and fail at each of the files in turn.
    for file in ["modules.json", "1_Pooling/config.json"] {
        hub.twist(path_twist(file, |_| Reply::new(400)));
        let files = resolve("org/model", Some(COMMIT), &options).unwrap();
        assert!(files.require("tokenizer.json").is_err(), "{file}");
        let mut offline = options.clone();
        offline.offline = true;
        let files = resolve("org/model", Some(COMMIT), &offline).unwrap();
        assert!(files.require("tokenizer.json").is_err(), "{file}");
        assert!(!matches!(files.get(file), Ok(None)), "{file} is taken for absent");
    }
    hub.behave();
    let files = resolve("org/model", Some(COMMIT), &options).unwrap();
    files.require("tokenizer.json").unwrap();
    assert_eq!(&*files.get("modules.json").unwrap().unwrap(), modules);
}

#[test]
fn shards_are_fetched_with_their_index() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let (hub, cache) = (
        Hub::with(&[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
            ("model.safetensors.index.json", index),
            ("model-1.safetensors", b"one"),
            ("model-2.safetensors", b"two"),
        ]),
        tempfile::tempdir().unwrap(),
    );
    let options = hub.options(cache.path());
    let files = resolve("org/model", None, &options).unwrap();
    files.require("model.safetensors.index.json").unwrap();
    files.require("model-1.safetensors").unwrap();
    // One shard is missing: the snapshot is not complete, and the next use goes on.
    let files = resolve("org/model", None, &options).unwrap();
    assert_eq!(&*files.require("model-2.safetensors").unwrap(), b"two");
    hub.requests();
    resolve("org/model", None, &options).unwrap().download().unwrap();
    assert_eq!(hub.requests().len(), 0);
}

#[test]
fn a_mirror_that_lists_nothing_is_asked_file_by_file() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    hub.twist(path_twist("/api/models/", |_| Reply::new(404)));
    let options = hub.options(cache.path());
    let files = load(&options).unwrap();
    assert_eq!(files.revision(), Some(COMMIT));
    hub.requests();
    load(&options).unwrap();
    assert_eq!(hub.requests().len(), 0);
}

#[test]
fn a_link_whose_blob_was_deleted_is_fetched_again() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let options = hub.options(cache.path());
    load(&options).unwrap();
    std::fs::remove_file(repo(cache.path()).join("blobs").join(sha256(&weights()))).unwrap();
    load(&options).unwrap();
    assert_sound(cache.path(), &hub);
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    std::fs::create_dir_all(repo(cache.path())).unwrap();
    std::fs::write(repo(cache.path()).join("blobs"), "a file in the way").unwrap();
    assert!(matches!(failure(&hub.options(cache.path())), Error::Io { .. }));
}

#[test]
fn progress_covers_the_file_from_where_it_was_resumed() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    leave_partial(cache.path(), &weights(), &weights()[..300_000]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut options = hub.options(cache.path());
    options.progress = Some(Arc::new({
        let seen = seen.clone();
        move |step| {
            if step.file == "model.safetensors" {
                assert_eq!((step.model, step.total), ("org/model", 700_000));
                seen.lock().unwrap().push(step.done);
            }
        }
    }));
    load(&options).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!((seen.first(), seen.last()), (Some(&300_000), Some(&700_000)));
    assert!(seen.is_sorted());
}

#[test]
fn threads_that_ask_at_once_download_once() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let options = hub.options(cache.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load(&options).unwrap());
        }
    });
    assert_eq!(storage_gets(&hub.requests()).len(), 1);
    assert_sound(cache.path(), &hub);
}

/// Not a test of its own: what the tests below run in another process, which sets these variables.
#[test]
fn in_another_process() {
    let variable = |name| std::env::var(name).ok();
    if let (Some(endpoint), Some(cache)) = (variable("ETTIN_TEST_ENDPOINT"), variable("ETTIN_TEST_CACHE")) {
        let mut options = HubOptions::new(cache);
        options.endpoint = endpoint;
        load(&options).unwrap();
    }
}

fn spawn(hub: &Hub, cache: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_another_process"])
        .env("ETTIN_TEST_ENDPOINT", &hub.url)
        .env("ETTIN_TEST_CACHE", cache)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_that_ask_at_once_download_once() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut processes = [spawn(&hub, cache.path()), spawn(&hub, cache.path())];
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(storage_gets(&hub.requests()).len(), 1);
    assert_sound(cache.path(), &hub);
}

#[test]
fn a_killed_process_leaves_a_sound_cache_that_the_next_one_completes() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    hub.twist(weights_twist(1, {
        let sent = sent.clone();
        move |mut reply| {
            reply.cut_after = Some(400_000);
            reply.stall = true;
            sent.fetch_add(1, Ordering::SeqCst);
            reply
        }
    }));
    let mut process = spawn(&hub, cache.path());
    let path = partial(cache.path(), &weights());
    let arrived = || path.metadata().map_or(0, |metadata| metadata.len());
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while arrived() < 400_000 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!((sent.load(Ordering::SeqCst), arrived()), (1, 400_000));
    assert_sound(cache.path(), &hub);
    assert!(!snapshot(cache.path()).join("model.safetensors").exists());

    hub.requests();
    load(&hub.options(cache.path())).unwrap();
    assert_eq!(storage_gets(&hub.requests())[0].header("range"), Some("bytes=400000-"));
    assert_sound(cache.path(), &hub);
}
