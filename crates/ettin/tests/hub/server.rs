//! A small Hub on a local port: it lists files, redirects as the real one does, and misbehaves on request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ettin::hub::HubOptions;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether it came to the storage host that large files are redirected to.
    pub(crate) storage: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after that many bytes of the body.
    pub(crate) cut_after: Option<usize>,
    /// After a cut, keep the connection open in silence instead of closing it.
    pub(crate) stall: bool,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Reply { status, ..Reply::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// Changes an answer, or replaces it; is given what the Hub would have said.
type Twist = Box<dyn FnMut(&Request, Reply) -> Reply + Send>;

struct State {
    id: String,
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    twist: Option<Twist>,
    log: Vec<Request>,
    storage: String,
}

/// The server; it lives as long as the test process.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// A repository `org/model` with these files. Those of weights are in large-file storage, on another host.
    pub(crate) fn with(files: &[(&str, &[u8])]) -> Self {
        let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
        let storage = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            id: "org/model".to_owned(),
            commit: COMMIT.to_owned(),
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect(),
            twist: None,
            log: Vec::new(),
            storage: format!("http://{}", storage.local_addr().unwrap()),
        };
        let hub = Hub { url: format!("http://{}", endpoint.local_addr().unwrap()), state: Arc::new(Mutex::new(state)) };
        for (listener, is_storage) in [(endpoint, false), (storage, true)] {
            let hub = hub.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let hub = hub.clone();
                    std::thread::spawn(move || hub.serve(stream, is_storage));
                }
            });
        }
        hub
    }

    /// A model of every kind of file that is fetched with its metadata, and `model.safetensors`.
    pub(crate) fn with_model() -> Self {
        Self::with(&[
            ("config.json", b"{\"model_type\": \"modernbert\"}"),
            ("tokenizer.json", b"{}"),
            ("README.md", b"never asked for"),
            ("model.safetensors", &weights()),
            ("pytorch_model.bin", b"the same, and never asked for"),
        ])
    }

    /// From now on, answers go through `twist`.
    pub(crate) fn twist(&self, twist: impl FnMut(&Request, Reply) -> Reply + Send + 'static) {
        self.state.lock().unwrap().twist = Some(Box::new(twist));
    }

    pub(crate) fn behave(&self) {
        self.state.lock().unwrap().twist = None;
    }

    pub(crate) fn push(&self, commit: &str, file: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.commit = commit.to_owned();
        state.files.insert(file.to_owned(), bytes.to_vec());
    }

    /// Requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// Options for this Hub and a cache folder, with pauses short enough for tests.
    pub(crate) fn options(&self, cache: &std::path::Path) -> HubOptions {
        let mut options = HubOptions::new(cache);
        options.endpoint = self.url.clone();
        options.backoff = std::time::Duration::from_millis(1);
        options.timeout = std::time::Duration::from_secs(5);
        options
    }

    fn serve(&self, mut stream: TcpStream, storage: bool) {
        let Some(request) = read_request(&stream, storage) else {
            return;
        };
        let reply = {
            let mut state = self.state.lock().unwrap();
            state.log.push(request.clone());
            let reply = state.answer(&request);
            match state.twist.take() {
                Some(mut twist) => {
                    let reply = twist(&request, reply);
                    state.twist = Some(twist);
                    reply
                }
                None => reply,
            }
        };
        send(&mut stream, &request, &reply);
        if reply.stall {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }
}

impl State {
    fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if request.storage {
            let file = path.strip_prefix("/large/").unwrap();
            // A storage host has ETags of its own.
            return self.file(request, file).with("ETag", "\"storage-etag\"");
        }
        let not_found = |code: &str| Reply::new(404).with("X-Error-Code", code);
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{}/revision/", self.id)) {
            if !self.knows(revision) {
                return not_found("RevisionNotFound");
            }
            let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
            let info = serde_json::json!({"sha": self.commit, "siblings": siblings});
            return Reply::new(200).body(info.to_string());
        }
        if let Some(file) = path.strip_prefix("/api/resolve-cache/") {
            return self
                .file(request, file)
                .with("ETag", format!("\"{}\"", self.etag(file)))
                .with("X-Repo-Commit", &self.commit);
        }
        let Some(rest) = path.strip_prefix(&format!("/{}/resolve/", self.id)) else {
            return not_found("RepoNotFound");
        };
        let (revision, file) = rest.split_once('/').unwrap();
        if !self.knows(revision) {
            return not_found("RevisionNotFound");
        }
        let Some(bytes) = self.files.get(file) else {
            return not_found("EntryNotFound").with("X-Repo-Commit", &self.commit);
        };
        if !is_large(file) {
            return Reply::new(307)
                .with("Location", format!("/api/resolve-cache/{file}?etag=x"))
                .with("X-Repo-Commit", &self.commit);
        }
        Reply::new(302)
            .with("Location", format!("{}/large/{file}?signature=secret", self.storage))
            .with("X-Repo-Commit", &self.commit)
            .with("X-Linked-Size", bytes.len())
            .with("X-Linked-ETag", format!("\"{}\"", self.etag(file)))
    }

    fn knows(&self, revision: &str) -> bool {
        revision == "main" || revision == "step5" || revision == self.commit
    }

    fn etag(&self, file: &str) -> String {
        let sha = sha256(&self.files[file]);
        if is_large(file) { sha } else { sha[..40].to_owned() }
    }

    fn file(&self, request: &Request, file: &str) -> Reply {
        let Some(bytes) = self.files.get(file) else {
            return Reply::new(404).with("X-Error-Code", "EntryNotFound");
        };
        let own = if request.storage { "\"storage-etag\"".to_owned() } else { format!("\"{}\"", self.etag(file)) };
        let changed = request.header("if-range").is_some_and(|etag| etag != own);
        let start = request
            .header("range")
            .filter(|_| !changed)
            .map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap());
        match start {
            None => Reply::new(200).body(bytes.clone()),
            Some(start) if start >= bytes.len() => {
                Reply::new(416).with("Content-Range", format!("bytes */{}", bytes.len()))
            }
            Some(start) => Reply::new(206)
                .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
                .body(&bytes[start..]),
        }
    }
}

/// Contents large enough to arrive in several pieces.
pub(crate) fn weights() -> Vec<u8> {
    (0..700_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".bin")
}

fn read_request(stream: &TcpStream, storage: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers, storage })
}

/// Sends an answer; a client that has gone away is its own affair.
fn send(stream: &mut TcpStream, request: &Request, reply: &Reply) {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    head += "\r\n";
    let _ = stream.write_all(head.as_bytes());
    if request.method != "HEAD" {
        let end = reply.cut_after.unwrap_or(reply.body.len()).min(reply.body.len());
        let _ = stream.write_all(&reply.body[..end]);
    }
    let _ = stream.flush();
}
