//! Generation on a trained model: speculative = plain, batched = alone, with `==`, in every number format.

mod common;

use std::fs;
use std::ops::ControlFlow;

use common::{dtypes, model, root};
use ettin::files::ModelFiles;
use ettin::generate::{GenerateRequest, Sampling};
use ettin::tasks::{Generator, Options};
use ettin::{Dtype, Error, Isa};
use serde_json::Value;

fn options(dtype: Dtype) -> Options {
    Options::default().with_dtype(dtype)
}

fn plain(dtype: Dtype) -> Generator {
    Generator::load(&model("nano-decoder"), &options(dtype)).unwrap()
}

/// A folder like the nano decoder's, with one of its JSON files changed.
fn changed(file: &str, change: impl Fn(&mut Value)) -> (tempfile::TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let bytes = fs::read(root("models/nano-decoder").join(name)).unwrap();
        if name == file {
            let mut value = serde_json::from_slice(&bytes).unwrap();
            change(&mut value);
            fs::write(folder.path().join(name), value.to_string()).unwrap();
        } else {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
    let files = ModelFiles::folder(folder.path()).unwrap();
    (folder, files)
}

/// The nano decoder with a window of eight tokens: often of the same mind.
fn near_sighted() -> (tempfile::TempDir, ModelFiles) {
    changed("config.json", |config| {
        config["local_attention"] = 16.into();
        config["sliding_window"] = 8.into();
    })
}

/// Texts that tell a story up to the limit of the local layers' rings and beyond.
fn prompts() -> Vec<String> {
    let story = fs::read_to_string(root("tests/fixtures/valid_sample.jsonl")).unwrap();
    let texts =
        story.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned());
    let long = texts.take(12).collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = long.split(' ').collect();
    [1, 40, 420].map(|count| words[..count].join(" ")).to_vec()
}

fn greedy() -> GenerateRequest {
    GenerateRequest::default().with_max_new_tokens(60).with_ignore_eos(true)
}

fn sampled() -> GenerateRequest {
    let sampling = Sampling::default()
        .with_temperature(0.8)
        .with_top_p(Some(0.95))
        .with_repetition_penalty(1.1)
        .with_seed(Some(5));
    greedy().with_sampling(sampling)
}

/// Tokens of every output, with how many were drafted and accepted in all.
fn run(generator: &Generator, prompts: &[String], request: &GenerateRequest) -> (Vec<Vec<u32>>, usize, usize) {
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let mut streamed = vec![String::new(); prompts.len() * request.samples];
    let generations = generator.run(&prompts, request, &mut |piece| {
        streamed[piece.index] += piece.text;
        ControlFlow::Continue(())
    });
    let (mut tokens, mut drafted, mut accepted) = (Vec::new(), 0, 0);
    for (outcome, streamed) in generations.unwrap().outputs.into_iter().zip(streamed) {
        let generated = outcome.unwrap().value;
        assert_eq!(generated.text, streamed);
        tokens.push(generated.tokens);
        drafted += generated.timings.draft.map_or(0, |draft| draft.drafted_tokens);
        accepted += generated.timings.draft.map_or(0, |draft| draft.accepted_tokens);
    }
    (tokens, drafted, accepted)
}

/// Every number format on the best instruction set; two on the others, where all would take minutes.
fn formats() -> Vec<Dtype> {
    if Isa::select().unwrap() == Isa::best() { dtypes() } else { vec![Dtype::F32, Dtype::Int8] }
}

#[test]
fn speculative_equals_plain() {
    let (_folder, near) = near_sighted();
    let prompts = prompts();
    for dtype in formats() {
        let requests = [greedy(), sampled()];
        let expected = requests.clone().map(|request| run(&plain(dtype), &prompts, &request).0);
        let drafts = [
            ("lookup", plain(dtype).with_lookup()),
            ("a near model", plain(dtype).with_draft_model(&near, &options(dtype)).unwrap()),
            ("itself in f32", plain(dtype).with_draft_model(&model("nano-decoder"), &options(Dtype::F32)).unwrap()),
        ];
        for (name, generator) in &drafts {
            let mut totals = (0, 0);
            for (request, expected) in requests.iter().zip(&expected) {
                // The long prompt once: reading it takes most of the time.
                for (draft_tokens, count) in [(1, 2), (4, prompts.len()), (15, 2)] {
                    let request = request.clone().with_draft_tokens(draft_tokens);
                    let (tokens, drafted, accepted) = run(generator, &prompts[..count], &request);
                    let what = format!("{dtype}, {name}, {draft_tokens} drafted: {accepted} of {drafted} accepted");
                    println!("{what}");
                    assert_eq!(tokens, expected[..count], "{what}");
                    totals = (totals.0 + drafted, totals.1 + accepted);
                }
            }
            let what = format!("{dtype}, {name}: {totals:?}");
            assert!(totals.1 > 0, "{what}");
            match *name {
                "itself in f32" if dtype == Dtype::F32 => assert_eq!(totals.0, totals.1, "{what}"),
                "itself in f32" => {}
                _ => assert!(totals.1 < totals.0, "{what}"),
            }
        }
    }
}

#[test]
fn batched_equals_alone() {
    let (_folder, near) = near_sighted();
    let mut prompts = prompts();
    // Beginnings that are shared: by all samples of a prompt, and by several prompts.
    prompts.extend(["The dog", "The cat", "The end"].map(|end| format!("{} {end}", prompts[1])));
    for dtype in formats() {
        let generator = plain(dtype).with_draft_model(&near, &options(dtype)).unwrap();
        for request in [greedy(), sampled()] {
            let request = request.with_max_new_tokens(20).with_samples(2);
            let together = run(&generator, &prompts, &request).0;
            let alone = prompts.iter().enumerate().flat_map(|(index, prompt)| {
                let request = request.clone().with_first_index(2 * index);
                run(&plain(dtype), std::slice::from_ref(prompt), &request).0
            });
            assert_eq!(together, alone.collect::<Vec<_>>(), "{dtype}");
        }
    }
}

#[test]
fn drafts_that_cannot_serve_are_refused_by_name() {
    let generator = || plain(Dtype::F32);
    let refused = |files: &ModelFiles| match generator().with_draft_model(files, &Options::default()) {
        Err(error @ Error::Unsupported(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let (_folder, swapped) = changed("tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let ids = ["Ġcat", "Ġdog"].map(|token| vocabulary[token].clone());
        vocabulary["Ġdog"] = ids[0].clone();
        vocabulary["Ġcat"] = ids[1].clone();
    });
    let message = refused(&swapped);
    for word in [swapped.name(), "nano-decoder", "Ġdog", "Ġcat"] {
        assert!(message.contains(word), "{message}");
    }
    let message = refused(&model("nano-encoder"));
    assert!(message.contains("nano-encoder is an encoder"), "{message}");
}
