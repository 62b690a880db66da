//! A server with one model of each kind, and how it is asked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use ettin::files::ModelFiles;
use ettin_server::http::{AppState, ServerOptions, router};
use ettin_server::models::{ModelSettings, ModelSource, Registry};
use ettin_server::service::Service;
use serde_json::{Value, json};
use tower::ServiceExt;

pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Folders that are made of others; they stay until the test program ends.
fn made(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let path = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().join(name);
    std::fs::create_dir_all(&path).unwrap();
    make(&path);
    path
}

fn copy_model(from: &str, to: &Path) {
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(root("models").join(from).join(name), to.join(name)).unwrap();
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A classifier whose labels are those of natural language inference.
fn entailment() -> PathBuf {
    made("nli", |folder| {
        copy_model("tiny-text-classify-single", folder);
        let path = folder.join("config.json");
        let mut config = read_json(&path);
        config["id2label"] = json!({"0": "contradiction", "1": "neutral", "2": "entailment"});
        config["label2id"] = json!({"contradiction": 0, "neutral": 1, "entailment": 2});
        std::fs::write(path, config.to_string()).unwrap();
    })
}

/// A folder that sentence-transformers 6.2 saved.
fn saved(kind: &str) -> PathBuf {
    made(kind, |folder| {
        let listing = read_json(&root("tests/fixtures/versions/st6.json"));
        let found =
            listing["folders"].as_array().unwrap().iter().find(|folder| folder["kind"] == kind).unwrap().clone();
        for (path, pooled) in found["files"].as_object().unwrap() {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::copy(root("models/tiny-versions").join(pooled.as_str().unwrap()), path).unwrap();
        }
    })
}

/// Late interaction: the first case of the fixtures of sentence-transformers.
fn late_interaction() -> PathBuf {
    made("colbert", |folder| {
        copy_model("tiny-text-late-interaction", folder);
        let fixture = read_json(&root("tests/fixtures/pipelines/multi_vector.json"));
        for (name, content) in fixture["cases"][0]["files"].as_object().unwrap() {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            let content = match content["hex"].as_str() {
                Some(hex) => hex.as_bytes().chunks(2).map(byte).collect(),
                None => content.to_string().into_bytes(),
            };
            std::fs::write(path, content).unwrap();
        }
    })
}

/// Where the model of a name is.
pub fn folder(name: &str) -> PathBuf {
    static FOLDERS: OnceLock<[(&str, PathBuf); 11]> = OnceLock::new();
    let folders = FOLDERS.get_or_init(|| {
        [
            ("encoder", root("models/nano-encoder")),
            ("decoder", root("models/nano-decoder")),
            ("rerank", root("models/tiny-text-rerank-sigmoid")),
            ("classify", root("models/tiny-text-classify-single")),
            ("multi-label", root("models/tiny-text-classify-multi")),
            ("tag", root("models/tiny-text-tag")),
            ("answer", root("models/tiny-text-answer")),
            ("chain", root("models/tiny-text-chain-mean")),
            ("nli", entailment()),
            ("sparse", saved("sparse-splade")),
            ("colbert", late_interaction()),
        ]
    });
    let found = folders.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no model {name}")).1.clone()
}

pub fn files(name: &str) -> ModelFiles {
    ModelFiles::folder(folder(name)).unwrap()
}

const NAMES: [&str; 11] =
    ["encoder", "decoder", "rerank", "classify", "multi-label", "tag", "answer", "chain", "nli", "sparse", "colbert"];

/// The service of all models, and when they are all ready.
pub async fn service(names: &[&str], settings: ModelSettings) -> Service {
    let source = |name: &&str| {
        let folder = folder(name);
        ModelSource::new(*name, move || Ok(ModelFiles::folder(&folder)?))
    };
    let registry = Registry::new(names.iter().map(source).collect(), settings).unwrap();
    registry.load_all().unwrap();
    let service = Service::new(registry, 2).unwrap();
    let begun = Instant::now();
    while let Err(error) = service.health() {
        assert!(error.message.starts_with("loading"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(120), "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service
}

pub fn router_of(service: Service, options: ServerOptions) -> Router {
    router(AppState { service, options: Arc::new(options), metrics: None })
}

/// One server for all tests of this program.
pub async fn app() -> Router {
    static APP: tokio::sync::OnceCell<Router> = tokio::sync::OnceCell::const_new();
    let start = || async { router_of(service(&NAMES, ModelSettings::default()).await, ServerOptions::default()) };
    APP.get_or_init(start).await.clone()
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} {}", self.status, self.text))
    }

    /// The body of a request that was answered.
    pub fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The message of an error, whose form is checked: OpenAI's or TEI's.
    pub fn message(&self, open_ai: bool) -> String {
        let body = self.json();
        let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
        match open_ai {
            true => {
                assert_eq!(keys, ["error"], "{body}");
                let error = body["error"].as_object().unwrap();
                let keys: Vec<&String> = error.keys().collect();
                assert_eq!(keys, ["message", "type", "param", "code"], "{body}");
                error["message"].as_str().unwrap().to_owned()
            }
            false => {
                assert_eq!(keys, ["error", "error_type"], "{body}");
                body["error"].as_str().unwrap().to_owned()
            }
        }
    }
}

pub async fn send(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text }
}

pub fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json; charset=utf-8")
        .body(body.into())
        .unwrap()
}

pub async fn post(path: &str, body: &Value) -> Answer {
    send(app().await, request("POST", path, body.to_string())).await
}

pub async fn get(path: &str) -> Answer {
    send(app().await, request("GET", path, Body::empty())).await
}

/// A request that is answered by an error, after which all is well.
pub async fn refused(path: &str, body: impl Into<Body>) -> Answer {
    let answer = send(app().await, request("POST", path, body)).await;
    assert!(answer.status >= 400, "{path}: {} {}", answer.status, answer.text);
    assert_well().await;
    answer
}

pub async fn assert_well() {
    let health = get("/health").await;
    assert_eq!((health.status, health.text.as_str()), (200, ""));
}

/// Numbers as they were computed: the shortest digits of a 32-bit float lead back to it.
pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(float).collect()
}

pub fn float(value: &Value) -> f32 {
    value.as_f64().unwrap_or_else(|| panic!("{value}")) as f32
}

pub fn rows(value: &Value) -> Vec<Vec<f32>> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(floats).collect()
}

/// Numbers of base64.
pub fn decoded(value: &Value) -> Vec<f32> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub fn values<T>(outcomes: ettin::tasks::Outcomes<T>) -> Vec<T> {
    outcomes.into_iter().map(|outcome| outcome.unwrap().value).collect()
}
