//! More clients than the server may let wait: each gets its answer, whole and right, or is told when to try again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ettin::files::ModelFiles;
use ettin::tasks::{EmbedRequest, Options, TextEmbedder, TextVectors, Truncate};
use ettin_server::http::{Bound, Endpoint, ServerOptions, serve};
use ettin_server::models::{Ability, LoadedModel, ModelSettings, ModelSource};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Clients at once; what they have in mind is several times [`MOST_TOKENS`].
const CLIENTS: usize = 64;
const MOST_TOKENS: usize = 500;

/// Those of one client that must be answered by 200.
const ANSWERED: usize = 2;

/// A server that gets nowhere fails the test rather than hold it up.
const LIMIT: Duration = Duration::from_secs(60);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano-encoder")
}

async fn bound() -> Bound {
    let mut settings = ModelSettings::default();
    settings.max_queue_tokens = MOST_TOKENS;
    let mut options = ServerOptions::default();
    options.address = SocketAddr::from(([127, 0, 0, 1], 0));
    options.drain_timeout = Duration::from_secs(10);
    let source = ModelSource::new("nano-encoder", || Ok(ModelFiles::folder(folder())?));
    serve(vec![source], settings, options).await.unwrap()
}

/// A text of about so many tokens, another one for another number.
fn text(number: usize, words: usize) -> String {
    const WORDS: [&str; 8] = ["the", "cat", "sat", "on", "a", "mat", "far", "away"];
    let word = |index: usize| WORDS[(number / 8usize.pow(index as u32 % 8) + 3 * index) % WORDS.len()];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

fn words(number: usize) -> usize {
    // Some are longer than all that may wait, and only come in when nothing does.
    if number % 61 == 7 { 2 * MOST_TOKENS } else { 1 + number * 37 % 80 }
}

struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Value,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, inputs: &[String]) {
        let body = json!({ "inputs": inputs, "normalize": true }).to_string();
        let head = format!(
            "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        self.0.get_mut().write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let line = self.line();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HashMap::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_owned(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Answer { status, headers, body: serde_json::from_slice(&body).unwrap() }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the server closed the connection");
        line.trim_end().to_owned()
    }
}

/// What the library gives for a text.
fn alone(embedder: &TextEmbedder, text: &str) -> Vec<f32> {
    let request = EmbedRequest::default().with_normalize(true).with_truncate(Some(Truncate::Model));
    match embedder.run(&[text], &request).unwrap().remove(0).unwrap().value.embedding {
        TextVectors::Pooled(vector) => vector,
        other => panic!("{other:?}"),
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The server on a task of its own, with what ends it.
async fn started() -> (SocketAddr, Arc<LoadedModel>, oneshot::Sender<()>, tokio::task::JoinHandle<bool>) {
    let bound = bound().await;
    let Endpoint::Tcp(address) = bound.endpoint.clone() else { panic!("no address") };
    let service = bound.service.clone();
    let (end, ended) = oneshot::channel();
    let server = tokio::spawn(bound.run(async move {
        let _ = ended.await;
    }));
    until("loading", || service.health().is_ok()).await;
    let model = service.registry().choose(None, Ability::Embed).unwrap();
    (address, model, end, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn every_request_is_answered_rightly_or_told_to_come_again() {
    let (address, model, end, server) = started().await;
    let embedder = Arc::new(TextEmbedder::load(&ModelFiles::folder(folder()).unwrap(), &Options::default()).unwrap());
    let (refused, texts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (embedder, refused, texts) = (embedder.clone(), refused.clone(), texts.clone());
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut answered = 0;
                while answered < ANSWERED {
                    let first = (number * ANSWERED + answered) * 4;
                    let numbers = first..=first + (number + answered) % 4;
                    let inputs: Vec<String> = numbers.map(|number| text(number, words(number))).collect();
                    client.send(&inputs);
                    let answer = client.answer();
                    if answer.status != 200 {
                        assert!(matches!(answer.status, 429 | 503), "{}: {}", answer.status, answer.body);
                        assert_eq!(answer.body["error_type"], "Overloaded");
                        assert!(answer.headers["retry-after"].parse::<u64>().unwrap() > 0);
                        refused.fetch_add(1, Ordering::Relaxed);
                        // Sooner than it was told: that is what an overload is.
                        thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    answered += 1;
                    let vectors: Vec<Vec<f32>> = serde_json::from_value(answer.body).unwrap();
                    let expected: Vec<Vec<f32>> = inputs.iter().map(|text| alone(&embedder, text)).collect();
                    assert_eq!(vectors, expected, "other numbers than the library's, or in another order");
                    texts.fetch_add(inputs.len(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        tokio::task::spawn_blocking(|| client.join()).await.unwrap().unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "there was no overload");
    assert!(texts.load(Ordering::Relaxed) >= CLIENTS * ANSWERED);
    until("reservations", || model.admission.tokens() == 0).await;
    assert_eq!(model.encoder.waiting(), 0);
    drop(model);
    end.send(()).unwrap();
    assert!(server.await.unwrap(), "something was in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn clients_that_hang_up_leave_nothing_behind() {
    let (address, model, end, server) = started().await;
    for round in 0..4 {
        let mut clients = Vec::new();
        for number in 0..16 {
            let mut client = Client::connect(address);
            client.send(&[text(round * 16 + number, 80), text(number, 40)]);
            clients.push(client);
        }
        until("a reservation", || model.admission.tokens() > 0 || model.encoder.waiting() > 0).await;
        // Half a request of one more.
        let mut client = Client::connect(address);
        let half = b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{\"inputs\"";
        client.0.get_mut().write_all(half).unwrap();
        drop((clients, client));
        until("reservations", || model.admission.tokens() == 0).await;
    }
    // And the next one is answered.
    let mut client = Client::connect(address);
    client.send(&[text(1, 10)]);
    let answer = tokio::task::spawn_blocking(move || client.answer()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((model.admission.tokens(), model.encoder.waiting()), (0, 0));
    drop(model);
    end.send(()).unwrap();
    assert!(server.await.unwrap(), "something was in flight");
}
