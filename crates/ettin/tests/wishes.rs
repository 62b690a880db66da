//! What users of the library wish for, each in at most ten lines through the public API.

use std::borrow::Cow;
use std::sync::Arc;

use ettin::candle::{DType, Device, Tensor};
use ettin::files::ModelFiles;
use ettin::generate::{Engine, EngineSettings, Event, GenerateRequest, Request};
use ettin::heads::{Embedder, LanguageModel, QuestionAnswering, SequenceClassifier, TokenClassifier};
use ettin::hub::{HubOptions, resolve};
use ettin::ops::{self, LinearParams, Matrix};
use ettin::tasks::*;
use ettin::tokenizer::{LimitOrigin, Tokenizer};
use ettin::{Backend, Error, PackedBatch, Pooling, Result, Team, batching};

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

const TEXTS: [&str; 4] = ["The cat sat on the mat.", "Birds.", "A dog ran over the hill and far away.", "No."];

fn values<T>(outcomes: Outcomes<T>) -> Vec<T> {
    outcomes.into_iter().map(|outcome| outcome.unwrap().value).collect()
}

#[test]
fn embed_texts_into_one_array() -> Result<()> {
    let embedder = TextEmbedder::load(&model("nano-encoder"), &Options::default())?;
    let vectors = embedder.embed(&TEXTS)?;
    let array = Tensor::from_slice(&vectors.values, &vectors.shape, &Device::Cpu)?;
    assert_eq!((array.dims(), array.dtype()), (&[4, 256][..], DType::F32));

    for (row, text) in vectors.rows().zip(TEXTS) {
        assert_eq!(row, &embedder.embed(&[text.to_owned()])?[0], "{text}");
    }
    let tokens = embedder.embed_tokens(&TEXTS)?;
    for (vectors, text) in tokens.iter().zip(TEXTS) {
        let encoding = embedder.preprocessor().encode(text.into())?;
        assert_eq!((vectors.shape, vectors.values.len()), ([encoding.ids.len(), 256], encoding.ids.len() * 256));
    }
    assert_eq!(embedder.embed(&[""; 0])?.shape, [0, 0]);
    let per_token = EmbedRequest::default().with_per_token(true);
    assert!(matches!(embedder.embed_with(&TEXTS, &per_token), Err(Error::Input(_))));
    Ok(())
}

#[test]
fn plain_results_are_those_of_runs() -> Result<()> {
    let options = Options::default();
    let fill_mask = FillMask::load(&model("nano-encoder"), &options)?;
    let lists = fill_mask.fill("The [MASK] sat on the [MASK].", 3)?;
    assert_eq!(values(fill_mask.run(&["The [MASK] sat on the [MASK]."], 3)?), [Fills::Many(lists.clone())]);
    assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    assert!(matches!(fill_mask.fill("No mask.", 3), Err(Error::Input(_))));

    let classifier = Classifier::load(&model("tiny-text-classify-single"), &options)?;
    let inputs = TEXTS.map(TextInput::from);
    let all = values(classifier.run(&inputs, &ClassifyRequest::default())?);
    assert_eq!(classifier.classify(&TEXTS)?, all.concat());

    let tagger = Tagger::load(&model("tiny-text-tag"), &options)?;
    assert_eq!(tagger.tag(&TEXTS)?, values(tagger.run(&TEXTS, &TagRequest::default())?));

    let answerer = Answerer::load(&model("tiny-text-answer"), &options)?;
    let question = Question { question: "Where did the dog run?", context: TEXTS[2] };
    let run = values(answerer.run(&[question], &AnswerRequest::default())?);
    assert_eq!(vec![answerer.answer(question.question, question.context)?], run);

    let reranker = Reranker::load(&model("tiny-text-rerank-chain"), &options)?;
    let ranked = reranker.rerank("A dog?", &TEXTS)?;
    let input = RerankInput { query: "A dog?", documents: TEXTS.to_vec() };
    assert_eq!(vec![ranked], values(reranker.run(&[input], &RerankRequest::default())?));

    let scorer = Scorer::load(&model("nano-decoder"), &options)?;
    let inputs = TEXTS.map(|text| ScoreInput { text, context: None });
    assert_eq!(scorer.score(&TEXTS)?, values(scorer.run(&inputs, &ScoreRequest::default())?));
    Ok(())
}

#[test]
fn a_model_by_its_name() -> Result<()> {
    assert_eq!(ModelFiles::open("encoder-150m")?.name(), "jhu-clsp/ettin-encoder-150m");
    assert_eq!(ModelFiles::open("jhu-clsp/ettin-decoder-1b@main")?.name(), "jhu-clsp/ettin-decoder-1b");
    let typo = ModelFiles::open("ettin-encodr-150m").unwrap_err().to_string();
    assert!(typo.contains("did you mean ettin-encoder-150m?"), "{typo}");
    assert!(matches!(ModelFiles::open("./no/such/folder"), Err(Error::Io { .. })));

    // What is not cached is an error that names the cache and the way out, and no command line.
    let hub = HubOptions::new("no-such-cache").with_offline(true);
    let error = TextEmbedder::load(&resolve("encoder-17m", None, &hub)?, &Options::default()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::NotCached { .. }) && message.contains("no-such-cache"), "{message}");
    assert!(message.contains("offline") && !message.contains("--") && !message.contains("ettin-run"), "{message}");
    Ok(())
}

#[test]
fn a_tokenizer_and_limits_of_ones_own() -> Result<()> {
    let files = model("nano-encoder");
    let tokenizer = Tokenizer::from_bytes(&files.require("tokenizer.json")?)?;
    let model = Embedder::load(&files, &Backend::cpu()?)?;
    let preprocessor = Preprocessor::new(tokenizer, model.config()).with_max_length(5).with_batch_tokens(8);
    let strict = TextEmbedder::new(model, preprocessor.clone());
    let cutting = TextEmbedder::new(strict.model().unwrap().clone(), preprocessor.with_truncate(Truncate::Right));

    let error = strict.embed(&TEXTS).unwrap_err();
    assert!(matches!(error, Error::TooLong { limit: 5, origin: LimitOrigin::Asked, .. }), "{error}");
    let loaded = TextEmbedder::load(&files, &Options::default().with_max_length(5).with_truncate(Truncate::Right))?;
    assert_eq!(cutting.embed(&TEXTS)?, loaded.embed(&TEXTS)?);
    Ok(())
}

#[test]
fn every_task_of_parts_is_the_task_of_files() -> Result<()> {
    let (backend, options) = (Backend::cpu()?, Options::default());
    let parts = |name: &str, config: &ettin::Config| Preprocessor::load(&model(name), config, &options);

    // One model in memory for two tasks.
    let language = Arc::new(LanguageModel::load(&model("nano-encoder"), &backend)?);
    let preprocessor = parts("nano-encoder", language.config())?;
    let fill_mask = FillMask::new(language.clone(), preprocessor.clone())?;
    let scorer = Scorer::new(language.clone(), preprocessor.clone());
    let text = "The cat [MASK] on the mat.";
    assert_eq!(fill_mask.fill(text, 4)?, FillMask::load(&model("nano-encoder"), &options)?.fill(text, 4)?);
    assert_eq!(scorer.score(&TEXTS)?, Scorer::load(&model("nano-encoder"), &options)?.score(&TEXTS)?);
    assert!(matches!(Generator::new(language, preprocessor), Err(Error::Unsupported(_))));

    let embedder = Embedder::load(&model("tiny-text-chain-mean"), &backend)?;
    let preprocessor = parts("tiny-text-chain-mean", embedder.config())?;
    let embedder = TextEmbedder::new(embedder, preprocessor);
    assert_eq!(embedder.embed(&TEXTS)?, TextEmbedder::load(&model("tiny-text-chain-mean"), &options)?.embed(&TEXTS)?);

    let classifier = SequenceClassifier::load(&model("tiny-text-classify-multi"), &backend)?;
    let preprocessor = parts("tiny-text-classify-multi", classifier.config())?;
    let loaded = Classifier::load(&model("tiny-text-classify-multi"), &options)?;
    assert_eq!(Classifier::new(classifier, preprocessor).classify(&TEXTS)?, loaded.classify(&TEXTS)?);

    let tagger = TokenClassifier::load(&model("tiny-text-tag"), &backend)?;
    let preprocessor = parts("tiny-text-tag", tagger.config())?;
    let loaded = Tagger::load(&model("tiny-text-tag"), &options)?;
    assert_eq!(Tagger::new(tagger, preprocessor).tag(&TEXTS)?, loaded.tag(&TEXTS)?);

    let answerer = QuestionAnswering::load(&model("tiny-text-answer"), &backend)?;
    let preprocessor = parts("tiny-text-answer", answerer.config())?;
    let loaded = Answerer::load(&model("tiny-text-answer"), &options)?;
    let answerer = Answerer::new(answerer, preprocessor);
    assert_eq!(answerer.answer("Where?", TEXTS[2])?, loaded.answer("Where?", TEXTS[2])?);

    let chain = Embedder::load(&model("tiny-text-rerank-chain"), &backend)?;
    let preprocessor = parts("tiny-text-rerank-chain", chain.config())?;
    let loaded = Reranker::load(&model("tiny-text-rerank-chain"), &options)?;
    assert_eq!(Reranker::of_embedder(chain, preprocessor)?.rerank("A dog?", &TEXTS)?, loaded.rerank("A dog?", &TEXTS)?);

    let classifier = SequenceClassifier::load(&model("tiny-text-classify-one"), &backend)?;
    let preprocessor = parts("tiny-text-classify-one", classifier.config())?;
    let loaded = Reranker::load(&model("tiny-text-classify-one"), &options)?;
    assert_eq!(Reranker::new(classifier, preprocessor)?.rerank("A dog?", &TEXTS)?, loaded.rerank("A dog?", &TEXTS)?);

    let decoder = LanguageModel::load(&model("nano-decoder"), &backend)?;
    let preprocessor = parts("nano-decoder", decoder.config())?;
    assert!(matches!(FillMask::new(Arc::new(decoder), preprocessor), Err(Error::Unsupported(_))));
    Ok(())
}

#[test]
fn batches_of_ones_own_inputs() -> Result<()> {
    let model = Embedder::load(&model("nano-encoder"), &Backend::cpu()?)?;
    let sequences: Vec<Vec<u32>> = (1..30).map(|length| (0..length).map(|i| 300 + i).collect()).collect();
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let ids = |row: usize| Cow::Borrowed(&sequences[row][..]);
    let sums = |budget| {
        batching::run_rows(&lengths, budget, ids, |batch, rows| {
            let firsts = model.trunk().forward(batch)?.select(&batch.offsets()[..rows.len()])?;
            Ok(firsts.to_tensor()?.to_vec2::<f32>()?)
        })
    };
    assert_eq!(sums(64)?, sums(1)?);
    let groups = batching::groups(&lengths, 64);
    assert!(groups.iter().all(|group| group.len() == 1 || group.iter().map(|&row| lengths[row]).sum::<usize>() <= 64));
    let lost = batching::run_rows(&lengths, 64, ids, |_, _| Ok(vec![0.0]));
    assert!(matches!(lost, Err(Error::Internal(_))), "{lost:?}");
    Ok(())
}

/// `x · Wᵀ` on the kernels of the trunk, of the first token of every text.
#[test]
fn a_head_of_ones_own() -> Result<()> {
    let (files, backend) = (model("nano-encoder"), Backend::cpu()?);
    let model = Embedder::load(&files, &backend)?;
    let preprocessor = Preprocessor::load(&files, model.config(), &Options::default().with_batch_tokens(16))?;
    let fill = |output: usize, row: &mut [f32]| row.fill(output as f32 - 0.5);
    let weight = Matrix::Rows { outputs: 2, inputs: 256, fill: Box::new(fill) };
    let head = backend.linear(LinearParams { weight, bias: None })?;
    let outcomes = preprocessor.run(
        &TEXTS,
        |text| preprocessor.encode((*text).into()),
        |batch, _| {
            let firsts = model.trunk().forward(batch)?.select(&batch.offsets()[..batch.sequences()])?;
            Ok(ops::linear(&firsts, &head)?.to_tensor()?.to_vec2::<f32>()?.into_iter().map(Ok).collect())
        },
    )?;

    let request = EmbedRequest::default().with_pooling(Pooling::Cls);
    let firsts = TextEmbedder::load(&files, &Options::default())?.embed_with(&TEXTS, &request)?;
    for (scores, first) in values(outcomes).iter().zip(firsts.rows()) {
        let sum: f32 = first.iter().sum();
        assert!((scores[0] + 0.5 * sum).abs() < 1e-3 && (scores[1] - 0.5 * sum).abs() < 1e-3, "{scores:?} {sum}");
    }
    Ok(())
}

/// The same on pooled vectors: a tensor goes back to the kernels.
#[test]
fn a_head_on_pooled_vectors() -> Result<()> {
    let backend = Backend::cpu()?;
    let model = Embedder::load(&model("nano-encoder"), &backend)?;
    let fill = |output: usize, row: &mut [f32]| row.fill(output as f32 - 0.5);
    let weight = Matrix::Rows { outputs: 2, inputs: 256, fill: Box::new(fill) };
    let head = backend.linear(LinearParams { weight, bias: None })?;
    let batch = PackedBatch::new(&[vec![2, 300, 301, 3], vec![2, 302, 3]])?;
    let pooled = Pooling::Mean.pool(&model.trunk().forward(&batch)?, &batch, None)?.to_tensor()?;
    let scores = ops::linear(&backend.hidden(&pooled)?, &head)?.to_tensor()?.to_vec2::<f32>()?;

    for (scores, pooled) in scores.iter().zip(pooled.to_vec2::<f32>()?) {
        let sum: f32 = pooled.iter().sum();
        assert!((scores[0] + 0.5 * sum).abs() < 1e-3 && (scores[1] - 0.5 * sum).abs() < 1e-3, "{scores:?} {sum}");
    }
    Ok(())
}

#[test]
fn texts_continued_plainly_and_as_they_come() -> Result<()> {
    let generator = Generator::load(&model("nano-decoder"), &Options::default())?;
    let request = GenerateRequest::default().with_max_new_tokens(12);
    let texts = values(generator.generate(&["Once upon a time", "The cat"], &request)?.outputs);
    let streamed = generator.stream("The cat", &request)?.map(|piece| piece.map(|piece| piece.text));
    assert_eq!(texts[1].text, streamed.collect::<Result<String>>()?);
    assert_eq!(texts[0].tokens.len(), 12);
    Ok(())
}

#[test]
fn token_ids_continued_without_a_tokenizer() -> Result<()> {
    let model = Arc::new(LanguageModel::load(&model("nano-decoder"), &Backend::cpu()?)?);
    let mut engine = Engine::new(&*model, EngineSettings::default())?;
    let handles =
        [engine.submit(Request::new([2, 300, 301]))?, engine.submit(Request::new([2, 302]).with_max_new_tokens(5))?];
    let mut continued = [Vec::new(), Vec::new()];
    while !engine.is_idle() {
        for event in engine.step()? {
            let of = usize::from(event.handle() == handles[1]);
            if let Event::Token(token) = event {
                continued[of].push(token.id);
            }
        }
    }
    assert!(!continued[0].is_empty() && (1..=5).contains(&continued[1].len()), "{continued:?}");
    Ok(())
}

#[test]
fn threads_of_ones_own() -> Result<()> {
    let files = model("nano-encoder");
    let plain = TextEmbedder::load(&files, &Options::default())?.embed(&TEXTS)?;
    for threads in [1, 3] {
        let team = Team::with_threads(threads)?;
        let embedder = TextEmbedder::load(&files, &Options::default().with_team(team))?;
        assert_eq!(embedder.model().unwrap().trunk().backend().team().threads(), threads);
        assert_eq!(embedder.embed(&TEXTS)?, plain);
    }
    Ok(())
}

#[test]
fn one_failure_told_to_several() {
    let error = ModelFiles::open("./gone").unwrap_err();
    let told = [error.clone(), error];
    assert_eq!(told[0].to_string(), told[1].to_string());
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<Error>();
    is_shared::<Preprocessor>();
    is_shared::<Options>();
}
