//! Large requests, slow ones, and many at once.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ettin::tasks::{EmbedRequest, Options, TextEmbedder};
use ettin_server::http::{Endpoint, ServerOptions, serve};
use ettin_server::models::{ModelSettings, ModelSource};
use serde_json::json;

use crate::support::{app, assert_well, files, post, refused, request, rows, send};

#[tokio::test]
async fn ten_thousand_texts_in_one_request() {
    let texts: Vec<String> = (0..10_000).map(|number| format!("a {}", number % 7)).collect();
    let answer = post("/embed", &json!({"inputs": texts, "model": "chain"})).await;
    let vectors = rows(&answer.good());
    assert_eq!(vectors.len(), texts.len());
    let embedder = TextEmbedder::load(&files("chain"), &Options::default()).unwrap();
    let expected = embedder.embed_with(&texts[..7], &EmbedRequest::default().with_normalize(true)).unwrap();
    for (index, vector) in vectors.iter().enumerate() {
        assert_eq!(vector, &expected[index % 7], "{index}");
    }
}

#[tokio::test]
async fn twenty_megabytes() {
    let large = format!("{{\"inputs\": \"{}\"}}", "a".repeat(20 << 20));
    let answer = refused("/embed", large.clone()).await;
    assert_eq!(answer.status, 413);
    assert!(answer.message(false).contains("16000000"), "{}", answer.text);
    let answer = refused("/v1/embeddings", large).await;
    assert_eq!(answer.status, 413);
    answer.message(true);
    // A body within the limit with one text is cut to what the model reads.
    let fits = json!({"inputs": "a b c d ".repeat(20_000), "model": "chain"});
    let answer = post("/embed", &fits).await;
    assert_eq!((answer.status, answer.header("x-truncated")), (200, Some("1")));
    let many = format!("{{\"inputs\": \"a\", \"x\": [{}1]}}", "1,".repeat(5_000_000));
    let answer = refused("/embed", many).await;
    assert!(answer.status == 400 && answer.message(false).contains("values"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_lengths_at_once_are_as_alone() {
    let embedder = TextEmbedder::load(&files("encoder"), &Options::default()).unwrap();
    let request_of = EmbedRequest::default().with_normalize(true);
    let text = |client: usize| "a cat sat on the mat ".repeat(1 + (client * 7) % 23) + &client.to_string();
    let mut running = tokio::task::JoinSet::new();
    for client in 0..24 {
        let body = match client % 2 {
            0 => ("/embed", json!({"inputs": [text(client), text(client + 1)]})),
            _ => ("/v1/embeddings", json!({"input": [text(client), text(client + 1)]})),
        };
        let router = app().await;
        running.spawn(async move {
            let answer = send(router, request("POST", body.0, body.1.to_string())).await.good();
            let vectors = match client % 2 {
                0 => rows(&answer),
                _ => answer["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| crate::support::floats(&one["embedding"]))
                    .collect(),
            };
            (client, vectors)
        });
    }
    while let Some(done) = running.join_next().await {
        let (client, vectors) = done.unwrap();
        for (vector, client) in vectors.iter().zip([client, client + 1]) {
            assert_eq!(vector, &embedder.embed_with(&[text(client)], &request_of).unwrap()[0]);
        }
    }
}

/// Over a socket: what a client that goes away in the middle leaves behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_bodies() {
    let mut options = ServerOptions::default();
    options.address = ([127, 0, 0, 1], 0).into();
    let source = ModelSource::new("chain", || Ok(files("chain")));
    let bound = serve(vec![source], ModelSettings::default(), options).await.unwrap();
    let Endpoint::Tcp(address) = bound.endpoint.clone() else { panic!("no address") };
    let server = tokio::spawn(bound.run(std::future::pending()));
    tokio::task::spawn_blocking(move || leave_and_ask(address)).await.unwrap();
    server.abort();
    assert_well().await;
}

fn leave_and_ask(address: SocketAddr) {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let half = format!("{head}content-length: 100\r\n\r\n{{\"inputs\"");
    for _ in 0..20 {
        connect().write_all(half.as_bytes()).unwrap();
    }
    // One that hears what becomes of it.
    let mut stream = connect();
    stream.write_all(half.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");

    let body = "{\"inputs\": \"a\"}";
    let begun = Instant::now();
    loop {
        let mut stream = connect();
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 503") && begun.elapsed() < Duration::from_secs(60), "{answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
