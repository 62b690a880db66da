//! What every task owes its caller beyond its numbers: results in input order whatever else is in the batch, one bad
//! input losing no other, cut inputs reported, unfitting models named.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ettin::Error;
use ettin::files::ModelFiles;
use ettin::generate::{FinishReason, GenerateRequest, Sampling};
use ettin::tasks::*;

fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn files(model: &str) -> ModelFiles {
    ModelFiles::folder(repository(&format!("models/{model}"))).unwrap()
}

fn copy(model: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(repository(&format!("models/{model}"))).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn limited(max_length: usize, truncate: Truncate) -> Options {
    Options::default().with_max_length(max_length).with_truncate(truncate)
}

fn small_batches() -> Options {
    Options::default().with_batch_tokens(24)
}

fn values<T>(outcomes: Outcomes<T>) -> Vec<T> {
    outcomes.into_iter().map(|outcome| outcome.unwrap().value).collect()
}

const TEXTS: [&str; 5] = [
    "A dog.",
    "The cat sat on the mat, and the dog sat beside it until the evening came.",
    "",
    "Two birds sang in a tree.",
    "日本語 🙂",
];

#[test]
fn batches_change_no_bit_of_any_result() {
    let (alone, batched) = (Options::default().with_batch_tokens(1), Options::default());
    for model in ["nano-encoder", "nano-decoder"] {
        let request = EmbedRequest::default().with_normalize(true);
        let embed = |options| TextEmbedder::load(&files(model), options).unwrap().run(&TEXTS, &request).unwrap();
        assert_eq!(values(embed(&alone)), values(embed(&batched)), "{model}");
        assert_eq!(values(embed(&alone)), values(embed(&small_batches())), "{model}");

        let inputs = TEXTS.map(|text| ScoreInput { text, context: Some("Once upon a time") });
        let score = |options| {
            let scorer = Scorer::load(&files(model), options).unwrap();
            let outcomes = scorer.run(&inputs, &ScoreRequest::default()).unwrap();
            outcomes.into_iter().map(|outcome| outcome.ok().map(|outcome| outcome.value)).collect::<Vec<_>>()
        };
        assert_eq!(score(&alone), score(&batched), "{model}");
    }
    let masked = TEXTS.map(|text| format!("{text} It was a [MASK] day."));
    let masked: Vec<&str> = masked.iter().map(String::as_str).collect();
    let fill = |options| values(FillMask::load(&files("nano-encoder"), options).unwrap().run(&masked, 3).unwrap());
    assert_eq!(fill(&alone), fill(&batched));
}

#[test]
fn sampling_in_a_batch_equals_sampling_alone() {
    let generator = Generator::load(&files("nano-decoder"), &Options::default()).unwrap();
    let sampling =
        Sampling::default().with_temperature(0.9).with_top_k(Some(50)).with_top_p(Some(0.95)).with_seed(Some(3));
    let tokens = |first_index, prompts: &[&str]| {
        let sampling = sampling.clone();
        let request = GenerateRequest::default().with_max_new_tokens(12).with_sampling(sampling);
        let request = request.with_samples(2).with_first_index(first_index);
        let generations = generator.run(prompts, &request, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(generations.seed, Some(3));
        values(generations.outputs).into_iter().map(|generated| generated.tokens).collect::<Vec<_>>()
    };
    let together = tokens(0, &TEXTS);
    let apart: Vec<Vec<u32>> = TEXTS.iter().enumerate().flat_map(|(index, text)| tokens(2 * index, &[text])).collect();
    assert_eq!(together, apart);
    assert_ne!(together[0], together[1]);
}

#[test]
fn an_unset_seed_is_drawn_and_repeats() {
    let generator = Generator::load(&files("nano-decoder"), &Options::default()).unwrap();
    let run = |seed| {
        let sampling = Sampling::default().with_temperature(1.0).with_seed(seed);
        let request = GenerateRequest::default().with_max_new_tokens(10).with_sampling(sampling);
        generator.run(&["Once"], &request, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let drawn = run(None);
    assert!(drawn.seed.is_some());
    let again = run(drawn.seed);
    assert_eq!(values(drawn.outputs)[0].tokens, values(again.outputs)[0].tokens);
}

#[test]
fn text_that_is_streamed_is_the_text() {
    let generator = Generator::load(&files("nano-decoder"), &Options::default()).unwrap().with_lookup();
    let sampling = Sampling::default().with_temperature(0.9).with_seed(Some(3));
    let request = GenerateRequest::default().with_max_new_tokens(12).with_sampling(sampling).with_samples(2);
    let whole = values(generator.generate(&["Once upon a time"], &request).unwrap().outputs);
    let mut streamed = [(String::new(), None), (String::new(), None)];
    let mut stream = generator.stream("Once upon a time", &request).unwrap();
    assert_eq!(stream.seed(), Some(3));
    for piece in &mut stream {
        let StreamPiece { sample, text, finish, .. } = piece.unwrap();
        assert_eq!(streamed[sample].1, None, "a piece after the last");
        streamed[sample].0 += &text;
        streamed[sample].1 = finish;
    }
    assert!(stream.next().is_none());
    let whole = whole.into_iter().map(|generated| (generated.text, Some(generated.finish_reason)));
    assert_eq!(whole.collect::<Vec<_>>(), streamed);
    // One that is dropped ends; the generator goes on.
    assert!(generator.stream("Once", &request).unwrap().next().is_some());
    assert!(generator.stream("", &request.clone().with_bos(false)).is_err());
    assert!(generator.stream("Once", &request.with_samples(0)).is_err());
}

#[test]
fn a_bad_input_loses_no_other() {
    let fill_mask = FillMask::load(&files("nano-encoder"), &limited(16, Truncate::Error)).unwrap();
    let long = "word ".repeat(40) + "[MASK]";
    let outcomes = fill_mask.run(&["A [MASK].", "no mask", &long, "The [MASK] and the [MASK]."], 2).unwrap();
    assert!(matches!(&outcomes[0], Ok(Outcome { value: Fills::One(list), .. }) if list.len() == 2));
    assert!(matches!(&outcomes[1], Err(Error::Input(message)) if message.contains("[MASK]")));
    assert!(matches!(&outcomes[2], Err(Error::TooLong { limit: 16, .. })));
    assert!(matches!(&outcomes[3], Ok(Outcome { value: Fills::Many(lists), .. }) if lists.len() == 2));

    let answerer = Answerer::load(&files("tiny-text-answer"), &Options::default()).unwrap();
    let question = |question, context| Question { question, context };
    let questions = [question("Who?", ""), question("Who?", "A dog."), question("", "A dog.")];
    let outcomes = answerer.run(&questions, &AnswerRequest::default()).unwrap();
    assert!(outcomes[0].is_err() && outcomes[1].is_ok() && outcomes[2].is_err());

    let generator = Generator::load(&files("nano-decoder"), &limited(16, Truncate::Error)).unwrap();
    let request = GenerateRequest::default().with_max_new_tokens(2).with_samples(2);
    let prompts = ["Once", &long, "A dog"];
    let outputs = generator.run(&prompts, &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs;
    let failed: Vec<bool> = outputs.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, true, true, false, false]);

    let scorer = Scorer::load(&files("nano-decoder"), &Options::default()).unwrap();
    let inputs = ["", "A dog."].map(|text| ScoreInput { text, context: None });
    let outcomes = scorer.run(&inputs, &ScoreRequest::default()).unwrap();
    assert!(outcomes[0].is_err() && outcomes[1].is_ok());
}

#[test]
fn no_inputs_have_no_results() {
    assert!(FillMask::load(&files("nano-encoder"), &Options::default()).unwrap().run(&[], 5).unwrap().is_empty());
    let generator = Generator::load(&files("nano-decoder"), &Options::default()).unwrap();
    let none = generator.run(&[], &GenerateRequest::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(none.outputs.is_empty());
    let reranker = Reranker::load(&files("tiny-text-rerank-chain"), &Options::default()).unwrap();
    let nothing = RerankInput { query: "Who?", documents: Vec::new() };
    assert!(values(reranker.run(&[nothing], &RerankRequest::default()).unwrap())[0].is_empty());
}

#[test]
fn cut_inputs_are_reported() {
    let long = "The cat sat on the mat. ".repeat(8);
    let texts = ["A dog.", long.as_str()];
    for truncate in [Truncate::Left, Truncate::Right] {
        let options = limited(20, truncate);
        let cut = |flags: Vec<bool>| assert_eq!(flags, [false, true], "{truncate:?}");

        let embedder = TextEmbedder::load(&files("nano-encoder"), &options).unwrap();
        let per_token = EmbedRequest::default().with_per_token(true);
        let outcomes = embedder.run(&texts, &per_token).unwrap();
        cut(outcomes.iter().map(|outcome| outcome.as_ref().unwrap().truncated).collect());
        let lens: Vec<usize> = values(outcomes)
            .into_iter()
            .map(|embedding| match embedding.embedding {
                TextVectors::Tokens(rows) => rows.len(),
                _ => panic!("one vector per token was asked for"),
            })
            .collect();
        assert_eq!(lens, [5, 20]);

        let scorer = Scorer::load(&files("nano-encoder"), &options).unwrap();
        for method in [ScoreMethod::Pll, ScoreMethod::LeftToRight] {
            let request = ScoreRequest::default().with_method(method);
            let inputs = texts.map(|text| ScoreInput { text, context: None });
            let outcomes = scorer.run(&inputs, &request).unwrap();
            cut(outcomes.iter().map(|outcome| outcome.as_ref().unwrap().truncated).collect());
        }

        let generator = Generator::load(&files("nano-decoder"), &options).unwrap();
        let request = GenerateRequest::default().with_max_new_tokens(4);
        let outcomes = generator.run(&texts, &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs;
        cut(outcomes.iter().map(|outcome| outcome.as_ref().unwrap().truncated).collect());
        let generated = &values(outcomes)[1];
        assert_eq!((generated.timings.prompt_tokens, generated.tokens.len()), (16, 4));
    }
}

#[test]
fn a_text_that_the_context_swallows_is_an_error_in_its_place() {
    let scorer = Scorer::load(&files("nano-decoder"), &Options::default()).unwrap();
    let request = ScoreRequest::default().with_join(true);
    // " playground" is one token, " playgro" alone is several.
    let input = |context, text| ScoreInput { text, context: Some(context) };
    let inputs = [input("The cat", " sat."), input(" playgro", "und"), input("The", "")];
    let outcomes = scorer.run(&inputs, &request).unwrap();
    assert!(outcomes[0].is_ok());
    assert!(
        matches!(&outcomes[1], Err(Error::Input(message)) if message.contains("nothing left to score")),
        "{:?}",
        outcomes[1]
    );
    assert!(matches!(&outcomes[2], Err(Error::Input(message)) if message.contains("empty")));
    let apart = scorer.run(&inputs[1..2], &ScoreRequest::default()).unwrap();
    assert!(apart[0].is_ok());
}

#[test]
fn a_full_context_ends_a_generation() {
    let generator = Generator::load(&files("nano-decoder"), &limited(12, Truncate::Error)).unwrap();
    let request = GenerateRequest::default().with_max_new_tokens(100).with_ignore_eos(true);
    let outputs = generator.run(&["Once upon a time"], &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs;
    let generated = &values(outputs)[0];
    assert_eq!((generated.finish_reason, generated.tokens.len()), (FinishReason::Context, 7));
}

#[test]
fn no_bos_needs_a_prompt() {
    let generator = Generator::load(&files("nano-decoder"), &Options::default()).unwrap();
    let request = GenerateRequest::default().with_max_new_tokens(1).with_bos(false);
    let outputs = generator.run(&["", "A"], &request, &mut |_| ControlFlow::Continue(())).unwrap().outputs;
    assert!(outputs[0].is_err() && outputs[1].is_ok());
}

#[test]
fn unfitting_models_are_named_with_what_fits() {
    let options = Options::default();
    let says = |error: Error, parts: &[&str]| {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let decoder = FillMask::load(&files("nano-decoder"), &options).unwrap_err();
    says(decoder, &["fill-mask", "nano-decoder", "is a decoder", "generate"]);
    let encoder = Generator::load(&files("nano-encoder"), &options).unwrap_err();
    says(encoder, &["generate", "nano-encoder", "is an encoder", "fill-mask"]);
    let base = Classifier::load(&files("nano-encoder"), &options).unwrap_err();
    says(base, &["classifier.weight", "ModernBertForMaskedLM", "fill-mask"]);
    let tagger = Tagger::load(&files("nano-encoder"), &options).unwrap_err();
    says(tagger, &["classifier.weight", "not tag"]);
    let three_labels = Reranker::load(&files("tiny-text-classify-single"), &options).unwrap_err();
    says(three_labels, &["one output", "3", "classify"]);

    let folder = tempfile::tempdir().unwrap();
    copy("tiny-text-classify-one", folder.path());
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("ForSequenceClassification", "ForMultipleChoice");
    fs::write(&config, text).unwrap();
    let choice = Classifier::load(&ModelFiles::folder(folder.path()).unwrap(), &options).unwrap_err();
    says(choice, &["not supported", "ModernBertForMultipleChoice", "fits choose"]);
}

#[test]
fn scoring_methods_that_do_not_fit_are_refused() {
    let input = [ScoreInput { text: "A dog.", context: None }];
    for (model, method) in [
        ("nano-encoder", ScoreMethod::Causal),
        ("nano-decoder", ScoreMethod::Pll),
        ("nano-decoder", ScoreMethod::LeftToRight),
    ] {
        let scorer = Scorer::load(&files(model), &Options::default()).unwrap();
        let request = ScoreRequest::default().with_method(method);
        assert!(matches!(scorer.run(&input, &request), Err(Error::Unsupported(_))), "{model} {method:?}");
    }
}

#[test]
fn encoders_that_were_decoders_are_read_one_position_earlier() {
    let folder = tempfile::tempdir().unwrap();
    let converted = folder.path().join("ettin-enc-from-dec-17m");
    copy("nano-encoder", &converted);
    let input = [ScoreInput { text: " Paris.", context: Some("The capital of France is") }];
    let score = |files: &ModelFiles, read_earlier| {
        let request = ScoreRequest::default().with_method(ScoreMethod::LeftToRight).with_read_earlier(read_earlier);
        values(Scorer::load(files, &Options::default()).unwrap().run(&input, &request).unwrap()).remove(0)
    };
    let converted = ModelFiles::folder(converted).unwrap();
    assert_eq!(score(&converted, None), score(&files("nano-encoder"), Some(true)));
    assert_eq!(score(&converted, Some(false)), score(&files("nano-encoder"), None));
    assert_ne!(score(&converted, None), score(&converted, Some(false)));
}

#[test]
fn prompts_are_known_by_name() {
    let plain = TextEmbedder::load(&files("nano-encoder"), &Options::default()).unwrap();
    let named = |name: &str| EmbedRequest::default().with_prompt(PromptChoice::Named(name.into()));
    assert!(matches!(plain.run(&["A dog."], &named("passage")), Err(Error::Input(_))));
    assert_eq!(
        values(plain.run(&["A dog."], &named("query")).unwrap()),
        values(plain.run(&["A dog."], &EmbedRequest::default()).unwrap()),
    );
    assert_eq!(plain.unconfigured_pooling(), Some(ettin::Pooling::Mean));
}

#[test]
fn requests_no_text_can_fulfil_are_refused_before_computing() {
    let embedder = TextEmbedder::load(&files("nano-encoder"), &Options::default()).unwrap();
    let base = EmbedRequest::default;
    for request in [
        base().with_layer(7),
        base().with_dimensions(0),
        base().with_dimensions(257),
        base().with_per_token(true).with_pooling(ettin::Pooling::Cls),
    ] {
        assert!(matches!(embedder.run(&["A dog."], &request), Err(Error::Input(_))), "{request:?}");
    }
    assert!(embedder.run(&["A dog."], &base().with_layer(6).with_dimensions(256)).is_ok());
}
