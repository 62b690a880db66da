//! Under any concurrency, an answer is the one that the library gives for its input alone, bit for bit; and what is
//! broken breaks alone.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ettin::files::ModelFiles;
use ettin::generate::{GenerateRequest, Sampling};
use ettin::tasks::{
    AnswerRequest, Answerer, Classifier, ClassifyRequest, EmbedRequest, FillMask, Generator, MultiVectorEncoder,
    MultiVectorRequest, Options, Outcome, Outcomes, Prepared, PreparedSequence, Question, RerankInput, RerankRequest,
    Reranker, Staged, TagRequest, Tagger, TextEmbedder,
};
use ettin::{Error, PackedBatch};
use ettin_server::error::{ErrorKind, ServeError};
use ettin_server::models::{ModelSettings, ModelSource, Registry};
use ettin_server::scheduler::{Admission, Caller, EncoderQueue, EncoderSettings, GenerationEvent, Turn};
use ettin_server::service::{
    AnswerCall, ClassifyCall, EmbedCall, FillMaskCall, GenerateCall, Generation, InputText, MultiVectorCall, PairText,
    RerankCall, Service, TagCall,
};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn files(name: &str) -> ModelFiles {
    ModelFiles::folder(root("models").join(name)).unwrap()
}

/// A folder of late interaction: the first case of the fixtures of sentence-transformers.
fn late_interaction() -> &'static str {
    static FOLDER: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = root("models/tiny-text-late-interaction");
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(base.join(name), folder.path().join(name)).unwrap();
        }
        let fixture = std::fs::read(root("tests/fixtures/pipelines/multi_vector.json")).unwrap();
        let fixture: serde_json::Value = serde_json::from_slice(&fixture).unwrap();
        for (name, content) in fixture["cases"][0]["files"].as_object().unwrap() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            let content = match content["hex"].as_str() {
                Some(hex) => hex.as_bytes().chunks(2).map(byte).collect(),
                None => content.to_string().into_bytes(),
            };
            std::fs::write(path, content).unwrap();
        }
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, path)
    });
    path
}

async fn service(names: &[&str], settings: ModelSettings) -> Service {
    let source = |name: &&str| {
        let name = (*name).to_owned();
        ModelSource::new(name.clone(), move || Ok(ModelFiles::folder(root("models").join(&name))?))
    };
    let registry = Registry::new(names.iter().map(source).collect(), settings).unwrap();
    assert_eq!(registry.health().unwrap_err().kind, ErrorKind::Unhealthy);
    registry.load_all().unwrap();
    let service = Service::new(registry, 2).unwrap();
    let begun = Instant::now();
    while let Err(error) = service.health() {
        assert!(error.message.starts_with("loading"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(120), "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service
}

/// Small, and the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn text(&mut self, most: usize) -> String {
        const WORDS: [&str; 12] =
            ["the", "cat", "sat", "on", "a", "mat", "and", "Paris", "is", "not", "far", "from here,"];
        let words: Vec<&str> = (0..1 + self.below(most)).map(|_| WORDS[self.below(WORDS.len())]).collect();
        words.join(" ")
    }
}

fn values<T>(outcomes: Outcomes<T>) -> Vec<T> {
    outcomes.into_iter().map(|outcome| outcome.unwrap().value).collect()
}

fn caller(client: usize) -> Caller {
    Caller { client: client as u64, ..Caller::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn answers_do_not_depend_on_what_runs_beside_them() {
    let options = Options::default();
    let names = [
        "nano-encoder",
        "tiny-text-rerank-sigmoid",
        "tiny-text-classify-single",
        "tiny-text-tag",
        "tiny-text-answer",
        late_interaction(),
    ];
    let mut settings = ModelSettings::default();
    settings.encoder.batch_tokens = 600;
    let service = service(&names, settings).await;
    let embedder = Arc::new(TextEmbedder::load(&files("nano-encoder"), &options).unwrap());
    let fill = Arc::new(FillMask::load(&files("nano-encoder"), &options).unwrap());
    let reranker = Arc::new(Reranker::load(&files("tiny-text-rerank-sigmoid"), &options).unwrap());
    let classifier = Arc::new(Classifier::load(&files("tiny-text-classify-single"), &options).unwrap());
    let tagger = Arc::new(Tagger::load(&files("tiny-text-tag"), &options).unwrap());
    let answerer = Arc::new(Answerer::load(&files("tiny-text-answer"), &options).unwrap());
    let multi = Arc::new(MultiVectorEncoder::load(&files(late_interaction()), &options).unwrap());
    let mut calls = tokio::task::JoinSet::new();
    for client in 0..96 {
        let service = service.clone();
        let (embedder, fill, reranker) = (embedder.clone(), fill.clone(), reranker.clone());
        let (classifier, tagger, answerer, multi) =
            (classifier.clone(), tagger.clone(), answerer.clone(), multi.clone());
        calls.spawn(async move {
            let mut numbers = Numbers(client as u64);
            let texts: Vec<String> = (0..1 + numbers.below(6)).map(|_| numbers.text(60)).collect();
            let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
            let caller = caller(client / 2);
            match client % 8 {
                0 | 1 => {
                    let dimensions = [None, Some(64)][numbers.below(2)];
                    let request = EmbedRequest::default().with_normalize(true).with_dimensions(dimensions);
                    let inputs = texts.iter().cloned().map(InputText::from).collect();
                    let call = EmbedCall { inputs, request: request.clone(), model: None };
                    let answer = service.embed(call, caller).await.unwrap().value;
                    let alone = |text| values(embedder.run(&[text], &request).unwrap()).remove(0).embedding;
                    assert_eq!(answer, borrowed.iter().map(|text| alone(text)).collect::<Vec<_>>());
                }
                2 => {
                    let masked: Vec<String> = texts.iter().map(|text| format!("{text} [MASK].")).collect();
                    let call = FillMaskCall { texts: masked.clone(), top_k: 3, model: None };
                    let answer = service.fill_mask(call, caller).await.unwrap().value;
                    let alone = |text: &String| values(fill.run(&[text], 3).unwrap()).remove(0);
                    assert_eq!(answer, masked.iter().map(alone).collect::<Vec<_>>());
                }
                3 => {
                    let query = numbers.text(8);
                    let call = RerankCall { query: query.clone(), documents: texts.clone(), ..RerankCall::default() };
                    let call = RerankCall { model: Some("tiny-text-rerank-sigmoid".to_owned()), ..call };
                    let answer = service.rerank(call, caller).await.unwrap().value;
                    let input = RerankInput { query: &query, documents: borrowed };
                    assert_eq!(answer, values(reranker.run(&[input], &RerankRequest::default()).unwrap()).remove(0));
                }
                4 => {
                    let request = ClassifyRequest::default().with_top_k(None).with_raw(client % 16 == 4);
                    let inputs = texts.iter().map(|text| PairText { text: text.clone(), pair: None }).collect();
                    let model = Some("tiny-text-classify-single".to_owned());
                    let call = ClassifyCall { inputs, request: request.clone(), model };
                    let answer = service.classify(call, caller).await.unwrap().value;
                    let alone = |text: &&str| values(classifier.run(&[(*text).into()], &request).unwrap()).remove(0);
                    assert_eq!(answer, borrowed.iter().map(alone).collect::<Vec<_>>());
                }
                5 => {
                    let request = TagRequest::default().with_all(true);
                    let call = TagCall { texts: texts.clone(), request, model: None };
                    let answer = service.tag(call, caller).await.unwrap().value;
                    let alone = |text: &&str| values(tagger.run(&[text], &request).unwrap()).remove(0);
                    assert_eq!(answer, borrowed.iter().map(alone).collect::<Vec<_>>());
                }
                6 => {
                    let (question, context) = (numbers.text(6), numbers.text(500));
                    let call =
                        AnswerCall { question: question.clone(), context: context.clone(), ..Default::default() };
                    let answer = service.answer(call, caller).await.unwrap().value;
                    let asked = Question { question: &question, context: &context };
                    assert_eq!(answer, values(answerer.run(&[asked], &AnswerRequest::default()).unwrap()).remove(0));
                }
                _ => {
                    let request = MultiVectorRequest::default();
                    let call = MultiVectorCall { texts: texts.clone(), request: request.clone(), model: None };
                    let answer = service.embed_multi(call, caller).await.unwrap().value;
                    let alone = |text: &&str| values(multi.run(&[text], &request).unwrap()).remove(0).vectors;
                    assert_eq!(answer, borrowed.iter().map(alone).collect::<Vec<_>>());
                }
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    for status in service.registry().status() {
        if let ettin_server::models::ModelState::Ready(model) = status.state {
            assert_eq!(model.admission.tokens(), 0);
            assert_eq!(model.encoder.waiting(), 0);
        }
    }
    // By late interaction, and an unknown name.
    let model = Some(late_interaction().to_owned());
    let documents: Vec<String> = ["a cat", "a mat on the cat", "Paris"].map(str::to_owned).into();
    let call = RerankCall { model, query: "the cat".to_owned(), documents, ..RerankCall::default() };
    let ranked = service.rerank(call.clone(), caller(1)).await.unwrap().value;
    let input = RerankInput { query: &call.query, documents: call.documents.iter().map(String::as_str).collect() };
    assert_eq!(ranked, values(multi.rerank(&[input], &Default::default()).unwrap()).remove(0));
    let call = EmbedCall { model: Some("gpt-9".to_owned()), inputs: vec!["a".into()], ..EmbedCall::default() };
    assert_eq!(&*service.embed(call, caller(1)).await.unwrap().model.name, "nano-encoder");
    let call = EmbedCall { model: Some("tiny-text-tag".to_owned()), inputs: vec!["a".into()], ..EmbedCall::default() };
    assert_eq!(service.embed(call, caller(1)).await.unwrap_err().kind, ErrorKind::WrongModel);
    let call = EmbedCall { inputs: vec![InputText::Ids(vec![2, 4_000_000, 3])], ..EmbedCall::default() };
    let error = service.embed(call, caller(1)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Validation && error.message.contains("4000000"), "{error}");
}

/// All text, or the failure, of every output.
async fn collected(mut generation: Generation) -> Vec<Result<(String, Vec<u32>), ServeError>> {
    let mut texts = vec![String::new(); generation.outputs];
    let mut ends: Vec<Option<Result<Vec<u32>, ServeError>>> = vec![None; generation.outputs];
    while let Some(event) = generation.next().await {
        match event {
            GenerationEvent::Prompt(_) => {}
            GenerationEvent::Token(piece) => texts[piece.output] += &piece.text,
            GenerationEvent::End(end) => ends[end.output] = Some(Ok(end.tokens)),
            GenerationEvent::Failed { output, error } => ends[output] = Some(Err(error)),
        }
    }
    let together = |(end, text): (Option<Result<_, _>>, String)| end.unwrap().map(|tokens| (text, tokens));
    ends.into_iter().zip(texts).map(together).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn streams_are_those_of_the_generator_whoever_comes_and_goes() {
    let service = service(&["nano-decoder"], ModelSettings::default()).await;
    let generator = Arc::new(Generator::load(&files("nano-decoder"), &Options::default()).unwrap());
    let mut calls = tokio::task::JoinSet::new();
    for client in 0..24 {
        let (service, generator) = (service.clone(), generator.clone());
        calls.spawn(async move {
            let mut numbers = Numbers(client as u64);
            tokio::time::sleep(Duration::from_millis(numbers.below(100) as u64)).await;
            let beginning = "Once upon a time there was a little girl who lived in a house near the woods. ";
            let prompts: Vec<String> =
                (0..1 + numbers.below(3)).map(|_| beginning.repeat(numbers.below(3)) + &numbers.text(8)).collect();
            let mut sampling = Sampling::default();
            if client % 2 == 1 {
                sampling = sampling.with_temperature(0.8).with_seed(Some(client as u64));
            }
            let request = GenerateRequest::default()
                .with_max_new_tokens(4 + numbers.below(24))
                .with_sampling(sampling)
                .with_samples(1 + numbers.below(2))
                .with_stop(vec!["girl".to_owned(), ".".to_owned()]);
            let inputs = prompts.iter().cloned().map(InputText::from).collect();
            let call = GenerateCall {
                prompts: inputs,
                request: request.clone(),
                logprobs: Some(2),
                ..GenerateCall::default()
            };
            let mut generation = service.generate(call, caller(client)).await.unwrap();
            if client % 6 == 5 {
                // A client that hangs up.
                generation.next().await.unwrap();
                return;
            }
            let answer: Vec<_> = collected(generation).await.into_iter().map(Result::unwrap).collect();
            let borrowed: Vec<&str> = prompts.iter().map(String::as_str).collect();
            let alone = values(generator.generate(&borrowed, &request).unwrap().outputs);
            let alone: Vec<_> = alone.into_iter().map(|one| (one.text, one.tokens)).collect();
            assert_eq!(answer, alone);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    // What was held is free, also of those who hung up.
    let model = service.registry().choose(None, ettin_server::models::Ability::Generate).unwrap();
    assert_eq!(model.stream_admission.tokens(), 0);
    let call = GenerateCall { prompts: vec![InputText::Ids(vec![2, 9_999_999])], ..GenerateCall::default() };
    assert_eq!(service.generate(call, caller(0)).await.unwrap_err().kind, ErrorKind::Validation);
}

/// A task that computes its tokens' sum, and does not take kindly to some tokens.
#[derive(Default)]
struct Sums {
    batches: AtomicUsize,
    over: AtomicBool,
}

const PANIC: u32 = 666;
const FAIL: u32 = 667;
const SLOW: u32 = 668;
const NEVER: u32 = 669;

impl Staged for Sums {
    type Reading = ();
    type Row = u32;
    type Plan = ();
    type Answer = u32;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        (): &(),
    ) -> Result<Vec<Result<u32, Error>>, Error> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        assert!(!batch.ids().contains(&PANIC), "such a token");
        if batch.ids().contains(&FAIL) {
            return Err(Error::input("no such token"));
        }
        if batch.ids().contains(&NEVER) {
            while !self.over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if batch.ids().contains(&SLOW) {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(sequences.iter().map(|sequence| Ok(sequence.ids().iter().sum())).collect())
    }

    fn assemble(&self, _: &Prepared<Self>, rows: Vec<Result<u32, Error>>) -> Outcomes<u32> {
        rows.into_iter().map(|row| Ok(Outcome { value: row?, truncated: false })).collect()
    }
}

fn sums(tokens: &[u32]) -> Prepared<Sums> {
    Prepared::new(tokens.iter().map(|&token| PreparedSequence::new(vec![token, 1])).collect(), (), ())
}

fn queue() -> Arc<EncoderQueue> {
    let admission = Admission::new(1 << 20);
    Arc::new(EncoderQueue::start("sums", EncoderSettings::default(), Arc::new(Turn::default()), admission).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guilty_one_fails_alone_and_the_thread_goes_on() {
    let (queue, task) = (queue(), Arc::new(Sums::default()));
    let begin = queue.compute(&task, sums(&[SLOW]), caller(0));
    let (bad, good) = (sums(&[1, PANIC, 2, FAIL, 3]), sums(&[10, 20]));
    let (_, bad, good) =
        tokio::join!(begin, queue.compute(&task, bad, caller(1)), queue.compute(&task, good, caller(2)));
    let bad: Vec<_> = bad.unwrap().assemble().into_iter().map(|sum| sum.map(|sum| sum.value)).collect();
    assert!(bad[1].as_ref().unwrap_err().to_string().contains("panicked: such a token"));
    assert!(bad[3].as_ref().unwrap_err().to_string().contains("no such token"));
    assert_eq!([0, 2, 4].map(|index: usize| *bad[index].as_ref().unwrap()), [2, 3, 4]);
    assert_eq!(values(good.unwrap().assemble()), [11, 21]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_share_batches_and_the_gone_and_late_are_not_computed() {
    let (queue, task) = (queue(), Arc::new(Sums::default()));
    let slow = tokio::spawn({
        let (queue, task) = (queue.clone(), task.clone());
        async move { values(queue.compute(&task, sums(&[SLOW]), caller(0)).await.unwrap().assemble()) }
    });
    while task.batches.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // These come while the thread is busy.
    let gone = queue.compute(&task, sums(&[PANIC; 100]), caller(1));
    assert!(tokio::time::timeout(Duration::from_millis(20), gone).await.is_err());
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let late = queue.compute(&task, sums(&[PANIC; 100]), Caller { client: 2, deadline }).await;
    assert_eq!(late.err().unwrap().kind, ErrorKind::Deadline);
    let calls: Vec<_> = (0..50)
        .map(|client| {
            let (queue, task) = (queue.clone(), task.clone());
            tokio::spawn(
                async move { values(queue.compute(&task, sums(&[client]), caller(3)).await.unwrap().assemble()) },
            )
        })
        .collect();
    assert_eq!(slow.await.unwrap(), [SLOW + 1]);
    for (client, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), [client as u32 + 1]);
    }
    let batches = task.batches.load(Ordering::Relaxed);
    assert!((2..10).contains(&batches), "{batches}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_text_holds_nobody_up() {
    let (queue, task) = (queue(), Arc::new(Sums::default()));
    let long = |client| {
        let (queue, task) = (queue.clone(), task.clone());
        let prepared = Prepared::new(vec![PreparedSequence::new([vec![NEVER], vec![0; 9999]].concat())], (), ());
        tokio::spawn(async move { values(queue.compute(&task, prepared, caller(client)).await.unwrap().assemble()) })
    };
    // The second waits for the first, and neither for the short ones, nor they for it.
    let (first, second) = (long(1), long(2));
    while task.batches.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    for client in 3..20 {
        let short = queue.compute(&task, sums(&[client as u32]), caller(client)).await.unwrap();
        assert_eq!(values(short.assemble()), [client as u32 + 1]);
    }
    assert_eq!(queue.waiting(), 1);
    task.over.store(true, Ordering::Relaxed);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (vec![NEVER], vec![NEVER]));
}
