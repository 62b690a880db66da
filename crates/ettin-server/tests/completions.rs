//! Generation over HTTP: what clients send, and that every number and token of an answer is the library's, bit for bit,
//! whoever comes and goes beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ettin::files::ModelFiles;
use ettin::generate::{GenerateRequest, Sampling, Shaping};
use ettin::tasks::{Generator, Options, ScoreInput, ScoreRequest, Scorer};
use ettin::tokenizer::Tokenizer;
use ettin_server::http::{Endpoint, ServerOptions, serve};
use ettin_server::models::{Ability, LoadedModel, ModelSettings, ModelSource};
use serde_json::{Value, json};

/// Longer than any request takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano-decoder")
}

fn files() -> ModelFiles {
    ModelFiles::folder(folder()).unwrap()
}

/// A server with the nano decoder, on a thread that ends with the process.
struct Server {
    address: SocketAddr,
    model: Arc<LoadedModel>,
}

impl Server {
    fn start() -> Self {
        let (told, heard) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let source = ModelSource::new("nano".to_owned(), || Ok(files()));
                let mut options = ServerOptions::default();
                options.address = "127.0.0.1:0".parse().unwrap();
                let bound = serve(vec![source], ModelSettings::default(), options).await.unwrap();
                let Endpoint::Tcp(address) = bound.endpoint.clone() else { panic!("no address") };
                told.send((address, bound.service.clone())).unwrap();
                bound.run(std::future::pending()).await
            });
        });
        let (address, service) = heard.recv().unwrap();
        let begun = Instant::now();
        while let Err(error) = service.health() {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            thread::sleep(Duration::from_millis(10));
        }
        Self { address, model: service.registry().choose(None, Ability::Generate).unwrap() }
    }

    /// Sends a request, and leaves the answer to be read.
    fn send(&self, path: &str, body: &Value) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.to_string();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        BufReader::new(stream)
    }

    /// Status and body of an answer.
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut answer = Vec::new();
        self.send(path, body).read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    fn complete(&self, body: Value) -> Value {
        let (status, answer) = self.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer} to {body}");
        answer
    }

    /// The events of a stream: what follows `data: `.
    fn events(&self, path: &str, body: &Value) -> impl Iterator<Item = String> + use<> {
        self.send(path, body).lines().filter_map(|line| Some(line.ok()?.strip_prefix("data: ")?.to_owned()))
    }

    /// The chunks of a completion, which must end as it should.
    fn chunks(&self, body: Value) -> Vec<Value> {
        let mut events: Vec<String> = self.events("/v1/completions", &body).collect();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{events:?}");
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// Waits until nothing runs any more.
    fn wait_for_rest(&self) {
        let begun = Instant::now();
        while self.model.decoder.as_ref().unwrap().held() > 0 || self.model.stream_admission.tokens() > 0 {
            assert!(begun.elapsed() < PATIENCE, "streams of clients that hung up still run");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The library, alone.
struct Alone {
    generator: Generator,
    scorer: Scorer,
    tokenizer: Tokenizer,
}

impl Alone {
    fn load() -> Self {
        Self {
            generator: Generator::load(&files(), &Options::default()).unwrap(),
            scorer: Scorer::load(&files(), &Options::default()).unwrap(),
            tokenizer: Tokenizer::load(&files()).unwrap(),
        }
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.ids(text).unwrap()
    }

    /// Texts and tokens, the samples of a prompt in a row.
    fn generate(&self, prompts: &[&str], request: &GenerateRequest) -> Vec<(String, Vec<u32>)> {
        let outputs = self.generator.generate(prompts, request).unwrap().outputs;
        outputs.into_iter().map(|output| output.unwrap().value).map(|one| (one.text, one.tokens)).collect()
    }

    /// The log-probabilities of a text's tokens, without a bos token.
    fn score(&self, text: &str) -> Vec<Option<f32>> {
        let request = ScoreRequest::default().with_bos(false);
        let scored = self.scorer.run(&[ScoreInput { text, context: None }], &request).unwrap().remove(0).unwrap();
        scored.value.tokens.iter().map(|token| token.logprob).collect()
    }
}

fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32)
}

fn numbers(list: &Value) -> Vec<Option<f32>> {
    list.as_array().unwrap().iter().map(number).collect()
}

fn ids_of(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Texts and ids of the choices of an answer with `return_token_ids`.
fn choices(answer: &Value) -> Vec<(String, Vec<u32>)> {
    let choices = answer["choices"].as_array().unwrap();
    choices.iter().map(|choice| (choice["text"].as_str().unwrap().to_owned(), ids_of(&choice["token_ids"]))).collect()
}

const STORY: &str = "Once upon a time there was a little girl who lived in a house near the woods.";

/// Bodies of many kinds with the library's request for the same.
fn requests() -> Vec<(Value, Vec<&'static str>, GenerateRequest)> {
    let greedy = GenerateRequest::default().with_max_new_tokens(16);
    let drawn = Sampling::default().with_temperature(0.8).with_seed(Some(7));
    let sampling = drawn.clone().with_top_k(Some(40)).with_top_p(Some(0.9)).with_min_p(Some(0.01));
    let shaping = Shaping::default()
        .with_presence_penalty(0.5)
        .with_frequency_penalty(0.25)
        .with_sequence_bias(vec![(vec![510], -5.0)])
        .with_min_new_tokens(4);
    vec![
        (json!({ "prompt": "The cat", "temperature": 0 }), vec!["The cat"], greedy.clone()),
        (
            json!({ "prompt": ["The cat", STORY], "n": 2, "temperature": 0.8, "seed": 7, "max_tokens": 9 }),
            vec!["The cat", STORY],
            greedy.clone().with_sampling(drawn).with_samples(2).with_max_new_tokens(9),
        ),
        (
            json!({ "prompt": STORY, "temperature": 0.8, "seed": 7, "top_k": 40, "top_p": 0.9, "min_p": 0.01,
                "repetition_penalty": 1.2, "stop": ["girl", "."], "max_tokens": 30 }),
            vec![STORY],
            greedy
                .clone()
                .with_sampling(sampling.with_repetition_penalty(1.2))
                .with_stop(vec!["girl".to_owned(), ".".to_owned()])
                .with_max_new_tokens(30),
        ),
        (
            json!({ "prompt": STORY, "temperature": 0, "presence_penalty": 0.5, "frequency_penalty": 0.25,
                "logit_bias": { "510": -5 }, "min_tokens": 4, "max_tokens": 24, "logprobs": null, "suffix": null }),
            vec![STORY],
            greedy.with_shaping(shaping).with_max_new_tokens(24),
        ),
    ]
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn answers_and_streams_are_those_of_the_library_while_others_run() {
    let (server, alone) = (Server::start(), Alone::load());
    let expected: Vec<_> =
        requests().into_iter().map(|(body, prompts, request)| (body, alone.generate(&prompts, &request))).collect();
    thread::scope(|threads| {
        for client in 0..32 {
            let (server, expected, alone) = (&server, &expected, &alone);
            threads.spawn(move || {
                let (body, outputs) = &expected[client % expected.len()];
                let body = with(body.clone(), json!({ "return_token_ids": true }));
                match client % 8 {
                    // Clients that hang up, after something or before anything.
                    3 => drop(server.events("/v1/completions", &with(body, json!({ "stream": true }))).next()),
                    6 => drop(server.send("/v1/completions", &with(body, json!({ "max_tokens": 4000 })))),
                    5 => {
                        let text = STORY.repeat(1 + client);
                        let echo = json!({ "prompt": text, "max_tokens": 0, "echo": true, "logprobs": 0 });
                        let answer = server.complete(echo);
                        assert_eq!(numbers(&answer["choices"][0]["logprobs"]["token_logprobs"]), alone.score(&text));
                    }
                    1 | 4 => {
                        let chunks = server.chunks(with(body, json!({ "stream": true })));
                        let mut streamed = vec![(String::new(), Vec::new()); outputs.len()];
                        for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
                            let (text, ids) = &mut streamed[choice["index"].as_u64().unwrap() as usize];
                            *text += choice["text"].as_str().unwrap();
                            if let Some(list) = choice.get("token_ids") {
                                ids.extend(ids_of(list));
                            }
                        }
                        assert_eq!(&streamed, outputs);
                    }
                    _ => assert_eq!(&choices(&server.complete(body)), outputs),
                }
            });
        }
    });
    server.wait_for_rest();
}

#[test]
fn the_harness_reads_prompts_as_it_sends_them() {
    let (server, alone) = (Server::start(), Alone::load());
    let special = alone.tokenizer.special();
    let (bos, eos) = (special.bos.unwrap(), special.eos[0]);
    // As recorded: loglikelihood of several lengths, special tokens included.
    let text = "The little girl went to the park and saw a big cat. ".repeat(20);
    let prompts = [[&[bos][..], &alone.ids(&text), &[eos], &alone.ids("The end.")].concat(), alone.ids("The cat")];
    let body = json!({ "model": "nano", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1,
        "seed": 1234, "echo": true });
    let answer = server.complete(body.clone());
    for (prompt, choice) in prompts.iter().zip(answer["choices"].as_array().unwrap()) {
        let logprobs = &choice["logprobs"];
        let own = numbers(&logprobs["token_logprobs"]);
        assert_eq!((own.len(), own[0]), (prompt.len() + 1, None));
        assert!(logprobs["top_logprobs"][0].is_null());
        for list in ["tokens", "top_logprobs", "text_offset"] {
            assert_eq!(logprobs[list].as_array().unwrap().len(), prompt.len() + 1, "{list}");
        }
        // As it is decided whether a token is the greedy one: the same float in both places. The last is.
        let greedy = |place: usize| {
            let top = logprobs["top_logprobs"][place].as_object().unwrap();
            let best = top.values().filter_map(number).max_by(f32::total_cmp);
            assert!(top.len() <= 2 && best >= own[place]);
            best == own[place]
        };
        assert!((1..prompt.len()).filter(|&place| !greedy(place)).count() > 0 && greedy(prompt.len()));
        let echoed = alone.tokenizer.decode(prompt, false).unwrap();
        assert!(choice["text"].as_str().unwrap().starts_with(&echoed));
    }
    assert_eq!(answer["usage"]["prompt_tokens"], prompts[0].len() + prompts[1].len());
    // An end-of-text token has its entry, too.
    let at_end = server.complete(with(body, json!({ "logit_bias": { eos.to_string(): 100 }, "logprobs": 0 })));
    let choice = &at_end["choices"][1];
    assert_eq!(numbers(&choice["logprobs"]["token_logprobs"]).len(), prompts[1].len() + 1);
    assert_eq!((choice["finish_reason"].as_str(), choice["text"].as_str()), (Some("stop"), Some("The cat")));
    // A prompt that is a text has the tokens of the text alone, and the scorer's numbers.
    let texts = [text.as_str(), "The cat", "Æther 🎉 naïve"];
    for prompt in [json!(texts), json!(texts[0])] {
        let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": true });
        for (text, choice) in texts.iter().zip(server.complete(body)["choices"].as_array().unwrap()) {
            let own = numbers(&choice["logprobs"]["token_logprobs"]);
            assert_eq!(own[..own.len() - 1], alone.score(text));
            assert!(choice["text"].as_str().unwrap().starts_with(text));
        }
    }
    // Unless it says otherwise.
    let body = json!({ "prompt": "The cat", "max_tokens": 0, "logprobs": 0, "echo": true, "add_special_tokens": true });
    let choice = &server.complete(body)["choices"][0];
    assert_eq!(choice["logprobs"]["tokens"][0], alone.tokenizer.decode(&[bos], false).unwrap());
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 0, 3]));
    assert_eq!(choice["text"], "The cat");
    // generate_until.
    let end = alone.tokenizer.decode(&[eos], false).unwrap();
    let ids = [&[bos][..], &alone.ids(STORY)].concat();
    let body = json!({ "prompt": [ids], "model": "nano", "max_tokens": 40, "temperature": 0,
        "stop": ["woods", ".", end], "seed": 1234, "do_sample": false });
    let request =
        GenerateRequest::default().with_max_new_tokens(40).with_stop(vec!["woods".to_owned(), ".".to_owned(), end]);
    assert_eq!(server.complete(body)["choices"][0]["text"], alone.generate(&[STORY], &request)[0].0);
}

#[test]
fn a_stream_adds_up_to_the_whole_answer() {
    let server = Server::start();
    let body = json!({ "prompt": [STORY, "The cat"], "n": 2, "temperature": 0.7, "seed": 3, "max_tokens": 8,
        "echo": true, "logprobs": 2 });
    let whole = server.complete(body.clone());
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let mut chunks = server.chunks(with(body.clone(), options));
    let last = chunks.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    let mut texts = vec![String::new(); 4];
    let mut lists = vec![json!({ "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [] }); 4];
    let mut reasons = vec![Value::Null; 4];
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["usage"]), (&chunks[0]["id"], &Value::Null));
        assert!(chunk.as_object().unwrap().contains_key("usage"));
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            assert!(reasons[index].is_null(), "a piece after the end");
            texts[index] += choice["text"].as_str().unwrap();
            reasons[index] = choice["finish_reason"].clone();
            for (name, list) in lists[index].as_object_mut().unwrap() {
                let more = choice["logprobs"][name].as_array().cloned().unwrap_or_default();
                list.as_array_mut().unwrap().extend(more);
            }
        }
    }
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(texts[index]), &reasons[index]));
        assert_eq!(choice["logprobs"], lists[index]);
        assert_eq!(choice["index"], index);
    }
    // Without log-probabilities an echo comes first, and without being asked for there is no usage.
    let quiet = json!({ "stream": true, "logprobs": null, "return_token_ids": true });
    let chunks = server.chunks(with(body, quiet));
    assert_eq!(chunks[0]["choices"][0]["text"], STORY);
    assert!(chunks[0]["choices"][0]["prompt_token_ids"].is_array() && chunks[0].get("usage").is_none());
}

#[test]
fn what_the_engine_can_do_for_a_request_it_does() {
    let (server, alone) = (Server::start(), Alone::load());
    let greedy = |more: Value| with(json!({ "prompt": STORY, "temperature": 0, "max_tokens": 12 }), more);
    let text = |more: Value| server.complete(greedy(more))["choices"][0].clone();
    let plain = text(json!({ "return_token_ids": true, "logprobs": 3 }));
    let (tokens, whole) = (ids_of(&plain["token_ids"]), plain["text"].as_str().unwrap());
    assert!(
        plain["logprobs"]["top_logprobs"].as_array().unwrap().iter().all(|top| top.as_object().unwrap().len() == 3)
    );
    assert_eq!(plain["logprobs"]["text_offset"][0], 0);
    // Stop tokens and stop strings, kept or not.
    let third = alone.tokenizer.decode(&tokens[2..3], false).unwrap();
    let first_two = alone.tokenizer.decode(&tokens[..2], false).unwrap();
    let stopped = text(json!({ "stop_token_ids": [tokens[2]] }));
    assert_eq!((stopped["text"].as_str(), &stopped["stop_reason"]), (Some(first_two.as_str()), &json!(tokens[2])));
    let stopped = text(json!({ "stop_token_ids": [tokens[2]], "include_stop_str_in_output": true }));
    assert_eq!(stopped["text"], format!("{first_two}{third}"));
    let word = third.trim();
    let stopped = text(json!({ "stop": word, "include_stop_str_in_output": true }));
    assert_eq!((&stopped["stop_reason"], &stopped["finish_reason"]), (&json!(word), &json!("stop")));
    assert!(stopped["text"].as_str().unwrap().ends_with(word) && whole.starts_with(stopped["text"].as_str().unwrap()));
    // Words and tokens that must not, or alone may, come.
    let without = text(json!({ "bad_words": [word], "return_token_ids": true }));
    assert!(!ids_of(&without["token_ids"]).contains(&tokens[2]));
    let allowed = text(json!({ "allowed_token_ids": &tokens[..3], "return_token_ids": true }));
    assert!(ids_of(&allowed["token_ids"]).iter().all(|id| tokens[..3].contains(id)));
    // Ends.
    let eos = alone.tokenizer.special().eos[0];
    let bias = json!({ eos.to_string(): 100 });
    let ended = |more: Value| {
        let choice = text(with(json!({ "logit_bias": bias, "return_token_ids": true }), more));
        (ids_of(&choice["token_ids"]).len(), choice["finish_reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(ended(json!({})), (1, "stop".to_owned()));
    assert_eq!(ended(json!({ "min_tokens": 5 })), (6, "stop".to_owned()));
    assert_eq!(ended(json!({ "ignore_eos": true })), (12, "length".to_owned()));
    let shown = text(json!({ "logit_bias": bias, "ignore_eos": true, "skip_special_tokens": false }));
    assert_eq!(shown["text"], alone.tokenizer.decode(&[eos; 12], false).unwrap());
    // Prompts cut from the left.
    let cut = text(json!({ "truncate_prompt_tokens": 5, "return_token_ids": true }));
    let ids = alone.ids(STORY);
    let kept = [&[alone.tokenizer.special().bos.unwrap()][..], &ids[ids.len() - 4..]].concat();
    assert_eq!(ids_of(&cut["prompt_token_ids"]), kept);
    // The best of several.
    let drawn = |more: Value| {
        let body = json!({ "temperature": 1.2, "seed": 5, "logprobs": 0, "return_token_ids": true });
        server.complete(greedy(with(body, more)))
    };
    let mean = |choice: &Value| {
        let own: Vec<f64> =
            numbers(&choice["logprobs"]["token_logprobs"]).into_iter().map(|p| p.unwrap().into()).collect();
        own.iter().sum::<f64>() / own.len() as f64
    };
    let mut all = drawn(json!({ "n": 4 }))["choices"].as_array().unwrap().clone();
    all.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = drawn(json!({ "n": 2, "best_of": 4 }));
    let ids = |choices: &[Value]| choices.iter().map(|choice| choice["token_ids"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(best["choices"].as_array().unwrap()), ids(&all[..2]));
    assert!(best["usage"]["completion_tokens"].as_u64() > Some(24));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let server = Server::start();
    let long = vec![510; 9000];
    for (body, status, says) in [
        (json!({ "prompt": [2, 9_999_999] }), 400, "token 9999999"),
        (json!({ "prompt": "a", "logit_bias": { "9999999": 1 } }), 400, "logit_bias"),
        (json!({ "prompt": "a", "stop_token_ids": [9_999_999] }), 400, "stop_token_ids"),
        (json!({ "prompt": "a", "max_tokens": 0 }), 400, "max_tokens"),
        (json!({ "prompt": "a", "stop": vec!["x"; 2000] }), 400, "stop"),
        (json!({ "prompt": "a", "prompt_logprobs": 1 }), 400, "prompt_logprobs"),
        (json!({ "prompt": "a", "best_of": 2, "stream": true }), 400, "best_of"),
        (json!({ "prompt": "a", "logprobs": 21 }), 400, "logprobs"),
        (json!({ "prompt": long }), 400, "9000 tokens"),
        (json!({ "prompt": "", "echo": true, "logprobs": 1 }), 400, "empty prompt"),
        (json!({ "prompt": [] }), 400, "prompt"),
        (json!({}), 400, "prompt"),
    ] {
        let (answered, error) = server.post("/v1/completions", &body);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(answered == status && message.contains(says), "{answered} {error} to {body}");
        // The next request has its answer.
        assert_eq!(server.complete(json!({ "prompt": "a", "max_tokens": 1 }))["object"], "text_completion");
    }
    // A failure within a stream is an event that clients raise, and no end follows it.
    let only = Alone::load().tokenizer.decode(&[510], false).unwrap();
    let body =
        json!({ "prompt": "a", "stream": true, "allowed_token_ids": [510], "bad_words": [only], "max_tokens": 2 });
    let events: Vec<String> = server.events("/v1/completions", &body).collect();
    assert!(events.len() == 1 && events[0].contains("no token is allowed"), "{events:?}");
    let (status, error) = server.post("/", &json!({ "inputs": "a", "parameters": { "grammar": { "type": "json" } } }));
    assert!(status == 422 && error["error_type"] == "Validation", "{status} {error}");
}

#[test]
fn who_hangs_up_is_no_longer_computed_for() {
    let server = Server::start();
    let endless = json!({ "prompt": STORY, "max_tokens": 4000, "ignore_eos": true, "temperature": 1, "n": 3 });
    let mut whole = server.send("/completions", &endless);
    let mut events = server.events("/v1/completions", &with(endless.clone(), json!({ "stream": true })));
    let mut steps = server.events(
        "/",
        &json!({ "inputs": STORY, "stream": true, "parameters": { "seed": 1,
        "max_new_tokens": 4000, "do_sample": true } }),
    );
    assert!(events.next().is_some() && steps.next().is_some());
    let begun = Instant::now();
    while server.model.decoder.as_ref().unwrap().held() < 6 {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(2));
    }
    drop((events, steps));
    whole.get_mut().shutdown(std::net::Shutdown::Both).unwrap();
    drop(whole);
    server.wait_for_rest();
    // They had not come to their ends.
    assert!(server.model.decoder.as_ref().unwrap().cancelled() > 0);
}

#[test]
fn text_generation_inference_is_answered_in_its_own_words() {
    let (server, alone) = (Server::start(), Alone::load());
    let request = GenerateRequest::default().with_max_new_tokens(8);
    let (text, tokens) = alone.generate(&[STORY], &request).remove(0);
    let (status, plain) = server.post("/", &json!({ "inputs": STORY, "parameters": { "max_new_tokens": 8 } }));
    assert_eq!((status, &plain), (200, &json!([{ "generated_text": text }])));
    let parameters = json!({ "max_new_tokens": 8, "details": true, "decoder_input_details": true, "top_n_tokens": 2,
        "return_full_text": true });
    let (_, detailed) = server.post("/", &json!({ "inputs": STORY, "parameters": parameters }));
    assert_eq!(detailed[0]["generated_text"], format!("{STORY}{text}"));
    let details = &detailed[0]["details"];
    let ids = |list: &Value| {
        list.as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap() as u32).collect::<Vec<_>>()
    };
    assert_eq!(ids(&details["tokens"]), tokens);
    let prompt = [&[alone.tokenizer.special().bos.unwrap()][..], &alone.ids(STORY)].concat();
    assert_eq!(ids(&details["prefill"]), prompt);
    assert!(details["prefill"][0]["logprob"].is_null() && details["prefill"][1]["logprob"].is_f64());
    assert_eq!(details["top_tokens"][7].as_array().unwrap().len(), 2);
    assert_eq!((&details["finish_reason"], &details["generated_tokens"]), (&json!("length"), &json!(8)));
    // Token by token; the stop text stays.
    let stop = alone.tokenizer.decode(&tokens[3..4], false).unwrap();
    let body = json!({ "inputs": STORY, "stream": true, "parameters": { "max_new_tokens": 8, "stop": [stop.trim()] } });
    let steps: Vec<Value> = server.events("/", &body).map(|event| serde_json::from_str(&event).unwrap()).collect();
    let last = steps.last().unwrap();
    assert!(last["generated_text"].as_str().unwrap().ends_with(stop.trim()));
    assert_eq!(last["details"]["finish_reason"], "stop_sequence");
    assert_eq!(last["details"]["input_length"], prompt.len());
    assert!(steps[..steps.len() - 1].iter().all(|step| step["generated_text"].is_null() && step["details"].is_null()));
    let streamed: Vec<u32> = steps.iter().map(|step| step["token"]["id"].as_u64().unwrap() as u32).collect();
    assert_eq!(streamed, tokens[..streamed.len()]);
}
