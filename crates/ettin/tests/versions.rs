//! What three generations of transformers and sentence-transformers save (`scripts/make_version_fixtures.py`): each
//! kind of folder loads with the newest generation's numbers, or is refused by name.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

use common::{F32, root};
use ettin::Pooling;
use ettin::files::ModelFiles;
use ettin::generate::GenerationDefaults;
use ettin::tasks::*;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Listing {
    folders: Vec<Folder>,
}

#[derive(Deserialize)]
struct Folder {
    kind: String,
    /// `numbers`, `refused`, or `either` of them.
    expected: String,
    /// Path in the folder, and the file of the pool that is there.
    files: BTreeMap<String, String>,
    #[serde(default)]
    cases: Vec<Case>,
    /// The task that must refuse the folder.
    task: Option<String>,
    /// One of them names the folder's kind in a refusal.
    #[serde(default)]
    words: Vec<String>,
}

#[derive(Deserialize)]
struct Case {
    task: String,
    options: Value,
    inputs: Vec<Value>,
    /// Answers of the version that saved the folder.
    output: Vec<Value>,
    /// Answers of the newest version, where it reads the folder otherwise.
    newest: Option<Vec<Value>>,
}

fn listing(generation: &str) -> Listing {
    let text = fs::read(root("tests/fixtures/versions").join(format!("{generation}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

impl Folder {
    fn lay_out(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, pooled) in &self.files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(root("models/tiny-versions").join(pooled), path).unwrap();
        }
        folder
    }

    /// What is wrong with the folder, by task and options.
    fn faults(&self) -> Vec<(String, String)> {
        let folder = self.lay_out();
        let files = ModelFiles::folder(folder.path()).unwrap();
        match (&self.expected[..], &self.task) {
            ("refused", Some(task)) => {
                let fault = refused(&files, task, &self.words).map(|fault| (task.clone(), fault));
                fault.into_iter().collect()
            }
            ("numbers" | "either", None) => self
                .cases
                .iter()
                .filter_map(|case| Some((format!("{} {}", case.task, case.options), case.fault(&files, self)?)))
                .collect(),
            other => panic!("{}: {other:?} is nothing to expect", self.kind),
        }
    }
}

impl Case {
    /// `folder` is the one of the case; its words allow for a refusal.
    fn fault(&self, files: &ModelFiles, folder: &Folder) -> Option<String> {
        let theirs = self.newest.as_ref().unwrap_or(&self.output);
        let ours = match answers(files, &self.task, &self.options, &self.inputs) {
            Ok(ours) => ours,
            Err(error) => return unnamed(&error.to_string(), &folder.words),
        };
        if ours.len() != theirs.len() {
            return Some(format!("{} answers instead of {}", ours.len(), theirs.len()));
        }
        ours.iter().zip(theirs).zip(&self.inputs).find_map(|((ours, theirs), input)| {
            let fault = match ours {
                Ok((value, truncated)) => difference(value, theirs, 1.0).or_else(|| {
                    // Folders with a limit of their own cut short texts too, or none; these tasks have other limits.
                    let limited = !["-limit", "-static"].iter().any(|part| folder.kind.contains(part));
                    let cuts = limited && !["answer", "generate", "score"].contains(&&self.task[..]);
                    let long = input.to_string().len() > 100;
                    (cuts && *truncated != long).then(|| format!("truncated is {truncated}"))
                }),
                Err(error) => Some(error.to_string()),
            };
            fault.map(|fault| format!("{:.40}: {fault}", input.to_string()))
        })
    }
}

/// An answer as JSON, and whether its input was cut.
type Answers = ettin::Result<Vec<ettin::Result<(Value, bool)>>>;

fn values<T: serde::Serialize>(outcomes: Outcomes<T>) -> Vec<ettin::Result<(Value, bool)>> {
    let value = |outcome: ettin::Result<Outcome<T>>| {
        let Outcome { value, truncated } = outcome?;
        Ok((serde_json::to_value(value).unwrap(), truncated))
    };
    outcomes.into_iter().map(value).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(values: &[Value]) -> Vec<&str> {
    values.iter().map(text).collect()
}

/// The sides of a search by their own name, other tasks by theirs.
fn on_route(given: &Value) -> EmbedRequest {
    let request = EmbedRequest::default();
    match given["route"].as_str() {
        None => request,
        Some("query") => request.with_side(SearchSide::Query),
        Some("document") => request.with_side(SearchSide::Document),
        Some(task) => request.with_task(task.to_owned()),
    }
}

/// The engine's answers to inputs in the fixtures' form.
fn answers(files: &ModelFiles, task: &str, given: &Value, inputs: &[Value]) -> Answers {
    let options = Options::default().with_truncate(Truncate::Right);
    Ok(match task {
        "embed" => {
            let embedder = TextEmbedder::load(files, &options)?;
            let mut request = on_route(given);
            if let Some(name) = given["prompt_name"].as_str() {
                request.prompt = PromptChoice::Named(name.to_owned());
            }
            // A plain decoder is pooled by its last token here, by the mean there; the documents say so.
            request.pooling = embedder.unconfigured_pooling().map(|_| Pooling::Mean);
            let vectors = embedder.run(&texts(inputs), &request)?;
            let vectors = vectors.into_iter().map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                Ok((serde_json::to_value(value.embedding).unwrap(), truncated))
            });
            vectors.collect()
        }
        "embed-sparse" => {
            let embedder = TextEmbedder::load(files, &options)?;
            let dims = given["max_active_dims"].as_u64().map(|dims| dims as usize);
            let mut request = on_route(given).with_max_active_dims(dims);
            if let Some(name) = given["prompt_name"].as_str() {
                request.prompt = PromptChoice::Named(name.to_owned());
            }
            let vectors = embedder.run(&texts(inputs), &request)?;
            let vectors = vectors.into_iter().map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                Ok((serde_json::to_value(value.embedding).unwrap(), truncated))
            });
            vectors.collect()
        }
        "similarity" | "similarity-sparse" => {
            let embedder = TextEmbedder::load(files, &options)?;
            let inputs: Vec<Vec<&str>> = inputs.iter().map(|input| texts(input.as_array().unwrap())).collect();
            let compared: Vec<SimilarityInput<'_>> =
                inputs.iter().map(|texts| SimilarityInput { a: texts[0], b: texts[1..].to_vec() }).collect();
            let outcomes = embedder.similarity(&compared, &EmbedRequest::default())?.into_iter().map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                Ok((value.iter().map(|scored| json!(scored.score)).collect(), truncated))
            });
            outcomes.collect()
        }
        "rerank" | "rerank-sparse" => {
            let reranker = Reranker::load(files, &options)?;
            let inputs: Vec<RerankInput<'_>> = inputs
                .iter()
                .map(|pair| RerankInput { query: text(&pair[0]), documents: vec![text(&pair[1])] })
                .collect();
            let mut request = RerankRequest::default();
            if let Some(name) = given["prompt_name"].as_str() {
                request.prompt = PromptChoice::Named(name.to_owned());
            }
            let outcomes = reranker.run(&inputs, &request)?.into_iter().map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                Ok((json!(value[0].score), truncated))
            });
            outcomes.collect()
        }
        // A cross-encoder of several labels: their logits in the order of the outputs.
        "rerank-labels" => {
            let classifier = Classifier::load(files, &options)?;
            let inputs: Vec<TextInput<'_>> =
                inputs.iter().map(|pair| (text(&pair[0]), text(&pair[1])).into()).collect();
            let outcomes =
                classifier.run(&inputs, &ClassifyRequest::default().with_top_k(None).with_raw(true))?.into_iter();
            let outcomes = outcomes.map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                let score = |name: &String| value.iter().find(|label| label.label == *name).map(|label| label.score);
                Ok((classifier.labels().iter().map(|name| json!(score(name))).collect(), truncated))
            });
            outcomes.collect()
        }
        "classify" => {
            let inputs: Vec<TextInput<'_>> = texts(inputs).into_iter().map(TextInput::from).collect();
            values(Classifier::load(files, &options)?.run(&inputs, &ClassifyRequest::default().with_top_k(None))?)
        }
        "tag" => {
            let aggregation = match text(&given["aggregation_strategy"]) {
                "none" => Aggregation::None,
                "simple" => Aggregation::Simple,
                other => panic!("{other}"),
            };
            values(
                Tagger::load(files, &options)?
                    .run(&texts(inputs), &TagRequest::default().with_aggregation(aggregation).with_all(false))?,
            )
        }
        "fill-mask" => {
            let top_k = given["top_k"].as_u64().map_or(3, |top_k| top_k as usize);
            values(FillMask::load(files, &options)?.run(&texts(inputs), top_k)?)
        }
        "answer" => {
            fn question(input: &Value) -> Question<'_> {
                Question { question: text(&input["question"]), context: text(&input["context"]) }
            }
            let questions: Vec<Question<'_>> = inputs.iter().map(question).collect();
            values(Answerer::load(files, &options)?.run(&questions, &AnswerRequest::default())?)
        }
        "choose" => {
            fn given(input: &Value) -> ChoiceInput<'_> {
                ChoiceInput { context: text(&input["context"]), choices: texts(input["choices"].as_array().unwrap()) }
            }
            let inputs: Vec<ChoiceInput<'_>> = inputs.iter().map(given).collect();
            let outcomes = MultipleChoice::load(files, &options)?.run(&inputs)?.into_iter().map(|outcome| {
                let Outcome { mut value, truncated } = outcome?;
                value.sort_by_key(|choice| choice.index);
                Ok((value.iter().map(|choice| json!(choice.logit)).collect(), truncated))
            });
            outcomes.collect()
        }
        "generate" => {
            let mut request = GenerationDefaults::load(files)?.request()?;
            if let Some(most) = given["max_new_tokens"].as_u64() {
                request.max_new_tokens = most as usize;
            }
            let generator = Generator::load(files, &options)?;
            let generations = generator.run(&texts(inputs), &request, &mut |_| ControlFlow::Continue(()))?;
            let outcomes = generations.outputs.into_iter().map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                Ok((json!({ "tokens": value.tokens }), truncated))
            });
            outcomes.collect()
        }
        "score" => {
            let inputs: Vec<ScoreInput<'_>> =
                texts(inputs).into_iter().map(|text| ScoreInput { text, context: None }).collect();
            let outcomes = Scorer::load(files, &options)?.run(&inputs, &ScoreRequest::default())?.into_iter();
            let outcomes = outcomes.map(|outcome| {
                let Outcome { value, truncated } = outcome?;
                Ok((json!({ "sum": value.sum }), truncated))
            });
            outcomes.collect()
        }
        other => panic!("no task {other}"),
    })
}

/// The first difference beyond the contract's bound, a share of the largest value of an array or of 1.
fn difference(ours: &Value, theirs: &Value, scale: f64) -> Option<String> {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            let near = (a - b).abs() <= F32 * scale.max(b.abs());
            (!near).then(|| format!("{a} is not {b}"))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let largest = b.iter().filter_map(Value::as_f64).fold(0.0, |largest: f64, value| largest.max(value.abs()));
            let scale = if largest == 0.0 { scale } else { largest };
            a.iter().zip(b).find_map(|(a, b)| difference(a, b, scale))
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() && a.keys().all(|key| b.contains_key(key)) => {
            a.iter().find_map(|(key, a)| Some(format!("{key}: {}", difference(a, &b[key], 1.0)?)))
        }
        _ => (ours != theirs).then(|| format!("{ours:.200} is not {theirs:.200}")),
    }
}

fn refused(files: &ModelFiles, task: &str, words: &[String]) -> Option<String> {
    let inputs = match task {
        "rerank" => json!([["a", "b"]]),
        "fill-mask" => json!(["[MASK]"]),
        _ => json!(["a"]),
    };
    match answers(files, task, &json!({}), inputs.as_array().unwrap()) {
        Ok(answers) => Some(format!("not refused: {answers:?}")),
        Err(error) => unnamed(&error.to_string(), words),
    }
}

/// The fault of a refusal that names none of the words.
fn unnamed(message: &str, words: &[String]) -> Option<String> {
    if words.is_empty() {
        return Some(format!("refused: {message}"));
    }
    let named = words.iter().any(|word| message.to_lowercase().contains(&word.to_lowercase()));
    (!named).then(|| format!("refused, but not by the name of {}: {message}", words.join(" or ")))
}

/// Every folder of a generation, all faults at once.
fn check(generation: &str) {
    let mut wrong = Vec::new();
    for folder in listing(generation).folders {
        let faults = folder.faults();
        wrong.extend(faults.into_iter().map(|(case, fault)| format!("{generation}/{} {case}: {fault}", folder.kind)));
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn sentence_transformers_3_and_transformers_4() {
    check("st3");
}

#[test]
fn sentence_transformers_5_and_transformers_5_0() {
    check("st5");
}

#[test]
fn sentence_transformers_6_and_transformers_5_23() {
    check("st6");
}

/// A saved folder of the newest generation.
fn saved(kind: &str) -> tempfile::TempDir {
    let folders = listing("st6").folders;
    folders.iter().find(|folder| folder.kind == kind).unwrap_or_else(|| panic!("no {kind}")).lay_out()
}

/// By the invariance rule, to the bit.
#[test]
fn a_text_has_one_result_whatever_is_beside_it() {
    let texts = ["The cat sat.", "x", "", "Where was it? In the park."];
    for kind in [
        "sparse-splade",
        "sparse-splade-sum",
        "sparse-splade-normalized",
        "sparse-csr-normalized",
        "chain-weighted-layers-all",
        "chain-word-weights-weighted",
    ] {
        let folder = saved(kind);
        let files = ModelFiles::folder(folder.path()).unwrap();
        let embedder = TextEmbedder::load(&files, &Options::default().with_batch_tokens(64)).unwrap();
        let run = |texts: &[&str]| -> Vec<TextVectors> {
            let outcomes = embedder.run(texts, &EmbedRequest::default()).unwrap();
            outcomes.into_iter().map(|outcome| outcome.unwrap().value.embedding).collect()
        };
        let alone: Vec<TextVectors> = texts.iter().flat_map(|text| run(&[text])).collect();
        assert_eq!(run(&texts), alone, "{kind}");
    }
    let folder = saved("rerank-logit-score");
    let reranker = Reranker::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
    for scored in reranker.rerank("Who sat?", &texts).unwrap() {
        assert_eq!(reranker.rerank("Who sat?", &texts[scored.index..=scored.index]).unwrap()[0].score, scored.score);
    }
}

/// Files that lie about their modules give errors that name the place.
#[test]
fn modules_that_do_not_fit_are_refused_by_what_does_not() {
    let changed = |kind: &str, file: &str, change: &dyn Fn(&mut Value)| {
        let folder = saved(kind);
        let path = folder.path().join(file);
        let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut settings);
        fs::write(&path, settings.to_string()).unwrap();
        folder
    };
    let (csr, layers) = ("2_SparseAutoEncoder/config.json", "1_WeightedLayerPooling/config.json");
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change, &str, &str); 8] = [
        ("sparse-csr", csr, |settings| settings["hidden_dim"] = json!(65), "embed", "decoder.linear.weight"),
        ("sparse-csr", csr, |settings| settings["input_dim"] = json!(31), "embed", "input_dim"),
        ("sparse-csr", csr, |settings| settings["k"] = json!(1u64 << 60), "embed", "`k`"),
        (
            "sparse-splade",
            "1_SpladePooling/config.json",
            |settings| settings["embedding_dimension"] = json!(7),
            "embed",
            "embedding_dimension",
        ),
        (
            "sparse-splade",
            "modules.json",
            |modules| modules[1]["path"] = json!("../1_SpladePooling"),
            "embed",
            "inside the repository",
        ),
        ("chain-weighted-layers-all", layers, |settings| settings["num_hidden_layers"] = json!(3), "embed", "2 layers"),
        ("chain-weighted-layers-all", layers, |settings| settings["layer_start"] = json!(1), "embed", "layer_weights"),
        (
            "rerank-logit-score",
            "1_LogitScore/config.json",
            |settings| settings["false_token_id"] = json!(264),
            "rerank",
            "false_token_id",
        ),
    ];
    for (kind, file, change, task, word) in cases {
        let folder = changed(kind, file, &change);
        let fault = refused(&ModelFiles::folder(folder.path()).unwrap(), task, &[word.to_owned()]);
        assert_eq!(fault, None, "{kind} {file}");
    }
    // A token without a weight fails its text alone.
    let folder = changed("chain-word-weights", "1_WordWeights/config.json", &|settings| {
        settings["vocab"].as_array_mut().unwrap().truncate(100);
    });
    let embedder = TextEmbedder::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
    let outcomes = embedder.run(&["x", "The cat sat. A much longer text."], &EmbedRequest::default()).unwrap();
    let errors: Vec<String> = outcomes.into_iter().filter_map(|outcome| outcome.err().map(|e| e.to_string())).collect();
    assert!(!errors.is_empty() && errors.iter().all(|error| error.contains("WordWeights")), "{errors:?}");
}

/// The table of docs/LAYOUTS.md has a row for every kind.
#[test]
fn the_document_names_every_kind() {
    let document = fs::read_to_string(root("docs/LAYOUTS.md")).unwrap();
    for generation in ["st3", "st5", "st6"] {
        for folder in listing(generation).folders {
            assert!(document.contains(&format!("`{}`", folder.kind)), "docs/LAYOUTS.md: no {}", folder.kind);
        }
    }
}
