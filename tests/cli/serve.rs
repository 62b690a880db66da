//! The server: started as a user starts it, asked over plain sockets, and told to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::process::Command;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ettin::files::ModelFiles;
use ettin::tasks::{EmbedRequest, Options, RerankInput, RerankRequest, Reranker, TextEmbedder};
use serde_json::{Value, json};

use crate::support::{command, repository};

const PATIENCE: Duration = Duration::from_secs(120);

/// A server that ends with the test.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
}

/// What came back.
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.to_lowercase().starts_with(&format!("{name}:"));
        self.head.lines().find(named).map(|line| line[name.len() + 1..].trim())
    }
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut process = command(&["serve", "--hostname", "127.0.0.1", "--port", "0"])
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned))
            .expect("the address");
        // A pipe that nobody reads would fill.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        Self { process, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Response {
        let mut stream = self.connect();
        send(&mut stream, method, path, body);
        receive(&mut stream)
    }

    fn post(&self, path: &str, body: Value) -> Response {
        self.ask("POST", path, body.to_string().as_bytes())
    }

    pub(crate) fn wait(&self) {
        let begun = Instant::now();
        loop {
            let health = self.ask("GET", "/health", b"");
            if health.status == 200 {
                return;
            }
            assert_eq!(health.status, 503);
            assert_eq!(health.json()["error_type"], "Unhealthy");
            assert!(health.header("retry-after").is_some());
            assert!(begun.elapsed() < PATIENCE, "{}", health.json());
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[cfg(unix)]
    fn terminate(&self) {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send(stream: &mut TcpStream, method: &str, path: &str, body: &[u8]) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has refused the head does not read the rest.
    let _ = stream.write_all(body);
}

fn receive(stream: &mut TcpStream) -> Response {
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {read:?}"));
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, body: all[end + 4..].to_vec() }
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn the_embedded_pair_answers_as_the_library_does() {
    let server = Server::start(&[]);
    server.wait();
    let files = ModelFiles::folder(repository().join("models/nano-encoder")).unwrap();
    let embedder = TextEmbedder::load(&files, &Options::default()).unwrap();
    let texts = ["A cat.", "A much longer text about a dog that ran away."];
    let expected = embedder.embed_with(&texts, &EmbedRequest::default().with_normalize(true)).unwrap();
    let answer = server.post("/embed", json!({"inputs": texts, "truncate": null, "unknown": 1}));
    assert_eq!(answer.status, 200);
    assert!(answer.header("x-compute-tokens").is_some() && answer.header("x-truncated").is_none());
    let vectors = answer.json();
    assert_eq!([floats(&vectors[0]), floats(&vectors[1])], [expected[0].to_vec(), expected[1].to_vec()]);

    let answer = server.post("/v1/embeddings", json!({"model": "any", "input": texts[0], "encoding_format": "base64"}));
    let answer = answer.json();
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), (256 * 4_usize).div_ceil(3) * 4);

    let long = "word ".repeat(20_000);
    let answer = server.post("/embed", json!({"inputs": long}));
    assert_eq!((answer.status, answer.header("x-truncated")), (200, Some("1")));
    let answer = server.post("/embed", json!({"inputs": long, "truncate": false}));
    assert_eq!((answer.status, answer.json()["error_type"].clone()), (422, json!("Validation")));
    let answer = server.post("/rerank", json!({"query": "a", "texts": ["b"]}));
    assert_eq!((answer.status, answer.json()["error_type"].clone()), (424, json!("Backend")));
    for (body, status) in [(&b"{"[..], 400), (br#"{"inputs": []}"#, 400), (br#"{"inputs": [[4000000000]]}"#, 422)] {
        let answer = server.ask("POST", "/embed", body);
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        assert!(answer.json()["error"].is_string());
    }
    assert_eq!(server.ask("GET", "/nowhere", b"").status, 404);
    assert_eq!(server.ask("GET", "/embed", b"").status, 405);

    let info = server.ask("GET", "/info", b"").json();
    assert_eq!(info["model_id"], "nano-encoder");
    assert_eq!(info["models"][1]["tasks"][0], "generate");
    let metrics = String::from_utf8(server.ask("GET", "/metrics", b"").body).unwrap();
    for name in ["te_request_count{method=\"batch\"} 1", "te_batch_next_tokens_bucket", "ettin_tokens_per_second"] {
        assert!(metrics.contains(name), "{metrics}");
    }
}

#[test]
fn named_models_are_chosen_by_what_is_asked_of_them() {
    let folder = repository().join("models/tiny-text-rerank-sigmoid");
    let ranker = format!("ranker={}", folder.display());
    let server = Server::start(&["-m", "nano-encoder", "-m", &ranker]);
    server.wait();
    let reranker = Reranker::load(&ModelFiles::folder(folder).unwrap(), &Options::default()).unwrap();
    let input = RerankInput { query: "a cat", documents: vec!["a dog", "a cat", "Paris is a town"] };
    let expected = reranker.run(std::slice::from_ref(&input), &RerankRequest::default()).unwrap().remove(0).unwrap();
    let answer = server.post("/rerank", json!({"query": "a cat", "texts": input.documents, "return_text": true}));
    for (ranked, expected) in answer.json().as_array().unwrap().iter().zip(expected.value) {
        assert_eq!(ranked["index"], expected.index);
        assert_eq!(ranked["score"].as_f64().unwrap() as f32, expected.score);
        assert_eq!(ranked["text"], input.documents[expected.index]);
    }
    assert_eq!(server.post("/embed", json!({"inputs": "a"})).status, 200);
}

#[test]
fn what_cannot_be_loaded_is_told_by_health() {
    let server = Server::start(&["-m", "gone=/no/such/folder"]);
    let begun = Instant::now();
    loop {
        let health = server.ask("GET", "/health", b"");
        assert_eq!(health.status, 503);
        let reason = health.json()["error"].as_str().unwrap().to_owned();
        if reason.contains("could not be loaded") {
            assert!(reason.contains("gone"), "{reason}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{reason}");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.post("/embed", json!({"inputs": "a"})).status, 503);
}

#[test]
fn bodies_over_the_limit_are_refused_and_the_next_one_answered() {
    let server = Server::start(&["-m", "nano-encoder", "--payload-limit", "1000"]);
    server.wait();
    let large = json!({"inputs": "a".repeat(2000)}).to_string();
    assert!((400..500).contains(&server.ask("POST", "/embed", large.as_bytes()).status));
    assert_eq!(server.post("/embed", json!({"inputs": "a"})).status, 200);
}

#[test]
#[cfg(unix)]
fn what_is_in_flight_is_answered_before_the_end() {
    let mut server = Server::start(&["-m", "nano-encoder"]);
    server.wait();
    let texts: Vec<String> = (0..400).map(|index| format!("{index} {}", "words and more words ".repeat(40))).collect();
    let mut stream = server.connect();
    send(&mut stream, "POST", "/embed", json!({"inputs": texts}).to_string().as_bytes());
    // It must have been read: a connection without a request is closed at once.
    let begun = Instant::now();
    while !String::from_utf8_lossy(&server.ask("GET", "/metrics", b"").body).contains("te_request_count") {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    server.terminate();
    let answer = receive(&mut stream);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().as_array().unwrap().len(), 400);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = server.process.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&server.address).is_err());
}
