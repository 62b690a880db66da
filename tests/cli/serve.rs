//! The server: started as a user starts it, asked over plain sockets, and told to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ettin::files::ModelFiles;
use ettin::tasks::{EmbedRequest, Options, RerankInput, RerankRequest, Reranker, TextEmbedder};
use serde_json::{Value, json};

use crate::support::{command, finish, repository};

const PATIENCE: Duration = Duration::from_secs(120);

/// A server that ends with the test.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    /// Its lines on stderr.
    said: Arc<Mutex<Vec<String>>>,
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
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let address = ["serve", "--hostname", "127.0.0.1", "--port", "0"];
        let mut command = command(&address);
        command.args(arguments).env("RUST_LOG", "warn").envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// Starts it and reads where it listens.
    fn spawn(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let place = line.strip_prefix("listening on ")?;
                Some(place.trim_start_matches("http://").trim_start_matches("unix:").to_owned())
            })
            .expect("the address");
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = said.clone();
        // A pipe that nobody reads would fill.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("server: {line}");
                kept.lock().unwrap().push(line);
            }
        });
        Self { process, address, said }
    }

    /// Waits for a line on stderr.
    fn line(&self, wanted: impl Fn(&str) -> bool) -> String {
        until(|| self.said.lock().unwrap().iter().find(|line| wanted(line)).cloned())
    }

    fn ended(&mut self) -> ExitStatus {
        until(|| self.process.try_wait().unwrap())
    }

    fn metrics(&self) -> String {
        String::from_utf8(self.ask("GET", "/metrics", b"").body).unwrap()
    }

    fn with_headers(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
        let mut stream = self.connect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body);
        receive(&mut stream)
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

    /// The status, where the server answers at all.
    fn ask_if_let(&self, path: &str) -> Option<u16> {
        let mut stream = self.connect();
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut all = String::new();
        stream.read_to_string(&mut all).ok()?;
        all.split(' ').nth(1)?.parse().ok()
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
    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits for something.
fn until<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(it) = there() {
            return it;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not come");
        thread::sleep(Duration::from_millis(20));
    }
}

fn send(stream: &mut impl Write, method: &str, path: &str, body: &[u8]) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has refused the head does not read the rest.
    let _ = stream.write_all(body);
}

fn receive(stream: &mut impl Read) -> Response {
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
    for name in [
        "te_request_count{model=\"nano-encoder\",method=\"batch\"} 1",
        "te_batch_next_tokens_bucket",
        "ettin_tokens_per_second",
    ] {
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
fn what_cannot_be_loaded_ends_the_server_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    copy(&repository().join("models/nano-encoder"), folder.path());
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let truncated = format!("half={}", folder.path().display());
    for (model, name) in [("gone=/no/such/folder", "gone"), (&truncated, "half")] {
        let run = finish(command(&["serve", "--hostname", "127.0.0.1", "--port", "0", "-m", model]), b"");
        assert_eq!(run.status, Some(1), "{}", run.err);
        assert!(run.err.contains(&format!("model {name} could not be loaded")), "{}", run.err);
    }
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
    server.signal("TERM");
    let answer = receive(&mut stream);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().as_array().unwrap().len(), 400);
    let status = server.ended();
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&server.address).is_err());
}

#[test]
fn an_occupied_port_is_told_with_what_to_do() {
    let server = Server::start(&["-m", "nano-encoder"]);
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let run = finish(command(&["serve", "--hostname", "127.0.0.1", "--port", &port]), b"");
    assert_eq!(run.status, Some(1), "{}", run.err);
    assert!(run.err.contains("cannot listen on 127.0.0.1") && run.err.contains("choose another port"), "{}", run.err);
}

#[test]
fn keys_are_asked_for_where_there_is_something_to_get() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "from-file\n\n  another\n").unwrap();
    let server = Server::start_with(
        &["-m", "nano-encoder", "--api-key-file", file.to_str().unwrap()],
        &[("API_KEY", "of-tei"), ("HOSTNAME", "no-address")],
    );
    server.wait();
    let body = br#"{"inputs": "a", "input": "a"}"#;
    for headers in ["authorization: Bearer from-file\r\n", "authorization: bearer another\r\n", "x-api-key: of-tei\r\n"]
    {
        assert_eq!(server.with_headers("POST", "/embed", headers, body).status, 200, "{headers}");
    }
    for headers in ["", "authorization: Bearer from-fil\r\n", "x-api-key: \r\n", "authorization: from-file\r\n"] {
        let answer = server.with_headers("POST", "/embed", headers, body);
        assert_eq!((answer.status, answer.json()["error_type"].clone()), (401, json!("Validation")), "{headers}");
        let answer = server.with_headers("POST", "/v1/embeddings", headers, body);
        assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (401, json!("invalid_api_key")));
        assert_eq!(server.with_headers("GET", "/info", headers, b"").status, 401);
        for open in ["/health", "/ready", "/ping", "/metrics"] {
            assert_eq!(server.with_headers("GET", open, headers, b"").status, 200, "{open}");
        }
    }
    let preflight = "origin: https://example.org\r\naccess-control-request-method: POST\r\n\
                     access-control-request-headers: authorization,content-type\r\n";
    let answer = server.with_headers("OPTIONS", "/embed", preflight, b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
}

#[test]
fn origins_that_are_not_named_are_not_allowed() {
    let server = Server::start(&["-m", "nano-encoder", "--cors-allow-origin", "https://example.org"]);
    let ask = |origin: &str| server.with_headers("GET", "/ping", &format!("origin: {origin}\r\n"), b"");
    assert_eq!(ask("https://example.org").header("access-control-allow-origin"), Some("https://example.org"));
    assert_eq!(ask("https://example.com").header("access-control-allow-origin"), None);
}

#[test]
fn limits_of_an_operator_hold() {
    let server = Server::start_with(&["-m", "nano-encoder"], &[("MAX_CLIENT_BATCH_SIZE", "2")]);
    server.wait();
    assert_eq!(server.post("/embed", json!({"inputs": ["a", "b"]})).status, 200);
    let answer = server.post("/embed", json!({"inputs": ["a", "b", "c"]}));
    assert_eq!(answer.status, 422);
    assert!(answer.json()["error"].as_str().unwrap().contains("max_client_batch_size"));
}

#[test]
fn slow_clients_hold_no_place() {
    let server = Server::start(&[
        "-m",
        "nano-encoder",
        "--head-timeout",
        "1",
        "--body-timeout",
        "1",
        "--idle-timeout",
        "1",
        "--max-connections",
        "4",
    ]);
    server.wait();
    let drip = |first: &[u8], pause: Duration| {
        let mut stream = server.connect();
        stream.write_all(first).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let drip = thread::spawn(move || {
            // Until the server has enough of it.
            for _ in 0..200 {
                thread::sleep(pause);
                if writer.write_all(b"x").is_err() {
                    break;
                }
            }
        });
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        drip.join().unwrap();
        String::from_utf8(all).unwrap()
    };
    let pause = Duration::from_millis(100);
    // A head that does not end is closed; a body that does not is told.
    assert_eq!(drip(b"POST /embed HTTP/1.1\r\nhost: localhost\r\nx-slow: ", pause), "");
    let head = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 content-length: 1000\r\n\r\n";
    let answer = drip(head, pause);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("too slowly"), "{answer}");
    // One that says nothing, and one that says nothing more.
    assert_eq!(drip(b"", Duration::from_secs(2)), "");
    let answer = drip(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n", Duration::from_secs(2));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.post("/embed", json!({"inputs": "a"})).status, 200);
}

#[test]
fn one_connection_too_many_is_told() {
    let server = Server::start(&["-m", "nano-encoder", "--max-connections", "2"]);
    server.wait();
    let alive = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut held: Vec<TcpStream> = until(|| {
        // Those of `wait` may not be closed yet.
        let mut held = [server.connect(), server.connect()];
        let mut status = [0; 12];
        let good = held.iter_mut().all(|stream| {
            stream.write_all(alive).is_ok() && stream.read_exact(&mut status).is_ok() && status.ends_with(b"200")
        });
        good.then(|| held.into())
    });
    let mut refused = server.connect();
    let _ = refused.write_all(alive);
    let answer = receive(&mut refused);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.json()["error"].as_str().unwrap().contains("2 connections"));
    held.pop();
    until(|| (server.ask_if_let("/ping") == Some(200)).then_some(()));
}

#[test]
#[cfg(unix)]
fn a_socket_that_was_left_behind_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ettin.sock");
    let start = || {
        let mut command = command(&["serve", "-m", "nano-encoder", "--uds-path", path.to_str().unwrap()]);
        command.env("RUST_LOG", "warn");
        Server::spawn(command)
    };
    let ping = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        send(&mut stream, "GET", "/info", b"");
        receive(&mut stream).status
    };
    let mut server = start();
    assert_eq!(server.address, path.to_str().unwrap());
    until(|| (ping() == 200).then_some(()));
    let occupied = finish(command(&["serve", "--uds-path", path.to_str().unwrap()]), b"");
    assert_eq!(occupied.status, Some(1));
    assert!(occupied.err.contains("another program listens there"), "{}", occupied.err);
    server.signal("KILL");
    server.ended();
    assert!(path.exists());
    let mut server = start();
    until(|| (ping() == 200).then_some(()));
    server.signal("TERM");
    assert!(server.ended().success());
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let refused = finish(command(&["serve", "--uds-path", path.to_str().unwrap()]), b"");
    assert_eq!((refused.status, std::fs::read_to_string(&path).unwrap()), (Some(1), "precious".to_owned()));
}

#[test]
#[cfg(unix)]
fn models_are_loaded_again_and_an_old_one_outlives_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    copy(&repository().join("models/nano-encoder"), folder.path());
    let model = format!("m={}", folder.path().display());
    let server = Server::start_with(&["-m", &model], &[("RUST_LOG", "info")]);
    server.wait();
    let vector = || server.post("/embed", json!({"inputs": "a cat"})).json();
    let before = vector();
    let config = folder.path().join("config.json");
    let good = std::fs::read(&config).unwrap();
    std::fs::write(&config, "{").unwrap();
    server.signal("HUP");
    server.line(|line| line.contains("cannot be loaded"));
    // What could not be loaded is told, and nothing else has changed.
    until(|| server.ask("GET", "/info", b"").json().to_string().contains("config.json").then_some(()));
    assert_eq!(server.ask("GET", "/health", b"").status, 200);
    assert_eq!(vector(), before);
    std::fs::write(&config, good).unwrap();
    let readies = || server.said.lock().unwrap().iter().filter(|line| line.contains("is ready")).count();
    let loaded = readies();
    server.signal("HUP");
    until(|| (readies() > loaded).then_some(()));
    until(|| (!server.ask("GET", "/info", b"").json().to_string().contains("config.json")).then_some(()));
    assert_eq!(vector(), before);
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_it_at_once_and_the_drain_has_a_limit() {
    for (limit, signals) in [("600", 2), ("1", 1)] {
        let mut server = Server::start(&["-m", "nano-encoder", "--drain-timeout", limit]);
        server.wait();
        // A request whose body does not come is in flight.
        let mut stream = server.connect();
        let head = "POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{";
        stream.write_all(head.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(200));
        for _ in 0..signals {
            server.signal("TERM");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(server.ended().success());
        server.line(|line| line.contains("still in flight"));
    }
}

#[test]
fn a_request_is_one_line_without_its_text() {
    let server = Server::start_with(&["-m", "nano-encoder", "--json-output"], &[("RUST_LOG", "info")]);
    server.wait();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\nx-request-id: mine\r\n");
    let answer = server.with_headers("POST", "/embed", &headers, br#"{"inputs": ["a secret", "b"]}"#);
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("mine")));
    assert!(answer.header("traceparent").unwrap().contains(trace));
    let line = server.line(|line| line.contains("\"mine\""));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["method"], &line["path"], &line["status"]), (&json!("POST"), &json!("/embed"), &json!(200)));
    assert_eq!((&line["model"], &line["inputs"]), (&json!("nano-encoder"), &json!(2)));
    assert!(line["tokens"].as_u64().unwrap() > 2 && line["total_ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&line["trace_id"], &line["parent_id"]), (&json!(trace), &json!("00f067aa0ba902b7")));
    let said = server.said.lock().unwrap().join("\n");
    assert!(!said.contains("secret") && !said.contains("GET"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn threads_bounds_those_that_compute() {
    let server = Server::start(&["-m", "nano-encoder", "-m", "nano-decoder", "--threads", "3"]);
    server.wait();
    assert_eq!(server.post("/embed", json!({"inputs": vec!["a b c"; 50]})).status, 200);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap();
    let names: Vec<String> = tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect();
    let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((count("ettin-compute"), count("ettin-http"), count("ettin-text")), (3, 2, 2), "{names:?}");
}

/// A family of `/metrics`: its type, and its samples.
type Family = (String, Vec<(String, f64)>);

/// Parses the text format; panics where it is not well formed.
fn families(text: &str) -> std::collections::BTreeMap<String, Family> {
    let mut families = std::collections::BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            let before = families.insert(current.clone(), (kind.to_owned(), Vec::new()));
            assert!(before.is_none(), "{name} has two types");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&current), "{series} is not of {current}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            families.get_mut(&current).unwrap().1.push((series.to_owned(), value));
        }
    }
    families
}

#[test]
fn metrics_have_names_and_types_and_only_grow() {
    let server = Server::start(&["-m", "nano-encoder"]);
    server.wait();
    let ask = || {
        assert_eq!(server.post("/embed", json!({"inputs": "a"})).status, 200);
        assert_eq!(server.post("/embed", json!({"inputs": ["a", "b c d"]})).status, 200);
        assert_eq!(server.post("/embed", json!({"inputs": [[4000000000u32]]})).status, 422);
        until(|| server.metrics().contains("ettin_queue_age_seconds").then_some(()));
        families(&server.metrics())
    };
    let (first, second) = (ask(), ask());
    for (name, kind) in [
        ("te_request_count", "counter"),
        ("te_request_success", "counter"),
        ("te_request_failure", "counter"),
        ("te_embed_count", "counter"),
        ("te_embed_success", "counter"),
        ("te_request_duration", "histogram"),
        ("te_embed_duration", "histogram"),
        ("te_embed_queue_duration", "histogram"),
        ("te_request_tokenization_duration", "histogram"),
        ("te_request_queue_duration", "histogram"),
        ("te_request_inference_duration", "histogram"),
        ("te_request_input_length", "histogram"),
        ("te_batch_next_size", "histogram"),
        ("te_batch_next_tokens", "histogram"),
        ("te_queue_size", "gauge"),
        ("ettin_tokens_per_second", "gauge"),
        ("ettin_queue_age_seconds", "gauge"),
        ("ettin_admitted_tokens", "gauge"),
        ("ettin_model_ready", "gauge"),
        ("ettin_connections", "gauge"),
    ] {
        let (found, samples) = second.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(found, kind, "{name}");
        assert!(samples.iter().all(|(_, value)| value.is_finite()), "{name}");
    }
    for (name, (kind, before)) in &first {
        let after = &second[name].1;
        for (series, value) in before.iter().filter(|_| kind != "gauge") {
            let (_, later) = after.iter().find(|(other, _)| other == series).unwrap_or_else(|| panic!("{series}"));
            assert!(later >= value, "{series}: {value}, then {later}");
        }
    }
    for (name, (_, samples)) in second.iter().filter(|(_, (kind, _))| kind == "histogram") {
        // Of one series, buckets never fall, and the last holds all.
        let labels = |series: &str| series.split("le=").next().unwrap().replace("_bucket", "");
        let mut last: Option<(String, f64)> = None;
        for (series, value) in samples.iter().filter(|(series, _)| series.contains("_bucket{")) {
            if let Some((before, count)) = last.filter(|(before, _)| *before == labels(series)) {
                assert!(*value >= count, "{name}: {series} after {before}");
            }
            last = Some((labels(series), *value));
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
