//! Models with routes, and models that look vectors up instead of running a trunk: the numbers of sentence-transformers
//! (`scripts/make_route_fixtures.py`, versions in the fixture), and what hostile folders meet.

mod common;

use std::path::Path;

use common::{assert_close, assert_same, root};
use ettin::files::ModelFiles;
use ettin::heads::{Embedder, StaticEmbedder};
use ettin::tasks::{
    EmbedRequest, Embedding, FillMask, Options, Outcome, Profile, RerankInput, RerankRequest, Reranker, SearchSide,
    SimilarityInput, TextEmbedder, TextVectors, Truncate,
};
use ettin::weights::convert;
use ettin::{Backend, Error, Result};
use serde_json::{Value, json};

/// Dense vectors, of the largest value.
const F32: f64 = 1e-5;

fn fixture() -> Value {
    serde_json::from_slice(&std::fs::read(root("tests/fixtures/pipelines/routes.json")).unwrap()).unwrap()
}

fn case<'a>(fixture: &'a Value, name: &str) -> &'a Value {
    let mut cases = fixture["cases"].as_array().unwrap().iter();
    cases.find(|case| case["name"] == name).unwrap_or_else(|| panic!("no case {name:?}"))
}

/// The folder of a case.
fn lay_out(fixture: &Value, case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, entry) in case["files"].as_object().unwrap() {
        let entry = entry.get("pool").map_or(entry, |key| &fixture["pool"][key.as_str().unwrap()]);
        put(folder.path(), name, entry);
    }
    folder
}

fn put(folder: &Path, name: &str, entry: &Value) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match (entry.get("of"), entry.get("hex")) {
        (Some(source), _) => drop(std::fs::copy(root("models").join(source.as_str().unwrap()), path).unwrap()),
        (_, Some(hex)) => std::fs::write(path, bytes(hex.as_str().unwrap())).unwrap(),
        _ => std::fs::write(path, entry.to_string()).unwrap(),
    }
}

fn saved(name: &str) -> tempfile::TempDir {
    let fixture = fixture();
    lay_out(&fixture, case(&fixture, name))
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

fn floats(hex: &Value) -> Vec<f32> {
    let bytes = bytes(hex.as_str().unwrap());
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn load(folder: &Path) -> Result<TextEmbedder> {
    // The library cuts without a word.
    TextEmbedder::load(&ModelFiles::folder(folder)?, &Options::default().with_truncate(Truncate::Model))
}

/// As a user asks for a task: the sides of a search by their own name.
fn request(task: &Value) -> EmbedRequest {
    match task.as_str() {
        None => EmbedRequest::default(),
        Some("query") => EmbedRequest::default().with_side(SearchSide::Query),
        Some("document") => EmbedRequest::default().with_side(SearchSide::Document),
        Some(task) => EmbedRequest::default().with_task(task.to_owned()),
    }
}

fn vectors(embedder: &TextEmbedder, texts: &[&str], request: &EmbedRequest) -> Vec<TextVectors> {
    let outcomes = embedder.run(texts, request).unwrap();
    outcomes.into_iter().map(|outcome| outcome.unwrap().value.embedding).collect()
}

fn texts(fixture: &Value) -> Vec<&str> {
    fixture["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The vectors of a route that looks them up are the library's to the bit where they are no means.
fn check(name: &str, task: &Value, ours: &TextVectors, theirs: &Value, looked_up: bool) {
    let place = format!("{name}, {task}");
    let expected = floats(&theirs["hex"]);
    match ours {
        TextVectors::Pooled(ours) => {
            if expected.iter().all(|&value| value == 0.0) {
                assert_eq!(ours, &expected, "{place}");
            } else {
                assert_close(&place, ours, &expected, F32);
            }
        }
        TextVectors::Sparse(ours) => {
            assert_eq!(json!(ours.indices), theirs["indices"], "{place}");
            match looked_up {
                true => assert_same(&place, &ours.values, &expected),
                false if expected.is_empty() => assert!(ours.is_empty(), "{place}"),
                false => assert_close(&place, &ours.values, &expected, F32),
            }
        }
        other => panic!("{place}: {other:?}"),
    }
}

#[test]
fn every_route_gives_the_library_s_vectors() {
    let fixture = fixture();
    let texts = texts(&fixture);
    for entry in fixture["cases"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let folder = lay_out(&fixture, entry);
        let embedder = load(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let answers = entry.get("same").map_or(entry, |same| case(&fixture, same.as_str().unwrap()));
        for run in answers["runs"].as_array().unwrap() {
            let request = request(&run["task"]);
            let looked_up = name == "sparse static alone" || run["task"] == "query";
            for (ours, theirs) in vectors(&embedder, &texts, &request).iter().zip(run["vectors"].as_array().unwrap()) {
                check(name, &run["task"], ours, theirs, looked_up);
            }
        }
        let input = SimilarityInput { a: texts[0], b: texts.clone() };
        let scored = embedder.similarity(&[input], &EmbedRequest::default()).unwrap().remove(0).unwrap().value;
        let expected: Vec<f32> = floats_of(&answers["similarity"]);
        if name != "splade inference-free by token" {
            let ours: Vec<f32> = scored.iter().map(|scored| scored.score).collect();
            assert_close(name, &ours, &expected, F32);
        }
    }
}

fn floats_of(numbers: &Value) -> Vec<f32> {
    numbers.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// By the invariance rule, to the bit.
#[test]
fn a_text_has_one_result_whatever_is_beside_it() {
    let fixture = fixture();
    let texts = texts(&fixture);
    let many: Vec<&str> = texts.iter().copied().cycle().take(150).collect();
    for name in ["router static query", "static with modules", "splade inference-free", "router shared backbone"] {
        let folder = lay_out(&fixture, case(&fixture, name));
        let embedder = load(folder.path()).unwrap();
        for task in [json!(null), json!("query")].iter().take(1 + usize::from(!embedder.routes().is_empty())) {
            let together = vectors(&embedder, &many, &request(task));
            let alone: Vec<TextVectors> =
                texts.iter().flat_map(|text| vectors(&embedder, &[text], &request(task))).collect();
            for (index, vector) in together.iter().enumerate() {
                assert_eq!(*vector, alone[index % texts.len()], "{name} {task}");
            }
        }
    }
}

#[test]
fn reranking_compares_the_query_s_route_with_the_documents_() {
    let fixture = fixture();
    let texts = texts(&fixture);
    for name in ["router static query with prompts", "splade inference-free"] {
        let folder = lay_out(&fixture, case(&fixture, name));
        let reranker = Reranker::load(&ModelFiles::folder(folder.path()).unwrap(), &Options::default()).unwrap();
        let input = RerankInput { query: texts[0], documents: texts.clone() };
        let ranked = reranker.run(&[input], &RerankRequest::default()).unwrap().remove(0).unwrap().value;
        let expected = floats_of(&case(&fixture, name)["similarity"]);
        let mut ours = vec![0.0; expected.len()];
        ranked.iter().for_each(|scored| ours[scored.index] = scored.score);
        assert_close(name, &ours, &expected, F32);
        assert!(ranked.is_sorted_by(|a, b| a.score >= b.score), "{name}");
    }
    // Whose sides go one way has no score of its own.
    for name in ["static alone", "router of heads"] {
        let folder = saved(name);
        let files = ModelFiles::folder(folder.path()).unwrap();
        let error = Reranker::load(&files, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("embed"), "{name}: {error}");
    }
}

#[test]
fn wishes_go_to_the_route_that_is_taken() {
    let folder = saved("splade inference-free");
    let embedder = load(folder.path()).unwrap();
    let query = request(&json!("query")).with_decode(true).with_max_active_dims(2);
    let TextVectors::Sparse(vector) = vectors(&embedder, &["The cat sat on the mat."], &query).remove(0) else {
        panic!("a dense vector")
    };
    assert_eq!((vector.len(), vector.tokens.unwrap().len()), (2, 2));
    assert_eq!(embedder.routes(), ["query", "document"]);

    let folder = saved("router static query");
    let embedder = load(folder.path()).unwrap();
    let short = |task: &str| vectors(&embedder, &["The cat sat."], &request(&json!(task)).with_dimensions(3)).remove(0);
    assert!(matches!(&short("query"), TextVectors::Pooled(vector) if vector.len() == 3));
    assert!(matches!(&short("document"), TextVectors::Pooled(vector) if vector.len() == 3));
    // The default route has layers and tokens, the other one has not.
    for wish in [EmbedRequest::default().with_layer(0), EmbedRequest::default().with_per_token(true)] {
        embedder.run(&["x"], &wish).unwrap().remove(0).unwrap();
        let error = embedder.run(&["x"], &wish.with_side(SearchSide::Query)).unwrap_err();
        assert!(matches!(&error, Error::Input(text) if text.contains("without a trunk")), "{error}");
    }
    let error = embedder.run(&["x"], &request(&json!("clustering"))).unwrap_err().to_string();
    assert!(error.contains("\"clustering\"") && error.contains("query, document"), "{error}");
    let one = saved("static alone");
    let error = load(one.path()).unwrap().run(&["x"], &request(&json!("clustering"))).unwrap_err().to_string();
    assert!(error.contains("one route"), "{error}");
}

#[test]
fn limits_are_those_of_each_route() {
    let long = "the cat sat on the mat and the cat sat on the mat";
    for (name, task, word) in [
        ("static that cuts", json!(null), "truncation of tokenizer.json"),
        ("splade inference-free that cuts", json!("query"), "model_max_length"),
    ] {
        let folder = saved(name);
        let files = ModelFiles::folder(folder.path()).unwrap();
        let strict = TextEmbedder::load(&files, &Options::default()).unwrap();
        let error = strict.run(&[long], &request(&task)).unwrap().remove(0).unwrap_err().to_string();
        assert!(error.contains(word), "{name}: {error}");
        let Outcome { truncated, .. }: Outcome<Embedding> =
            load(folder.path()).unwrap().run(&[long], &request(&task)).unwrap().remove(0).unwrap();
        assert!(truncated, "{name}");
    }
    // No limit: any length is taken.
    let folder = saved("static alone");
    let files = ModelFiles::folder(folder.path()).unwrap();
    let strict = TextEmbedder::load(&files, &Options::default()).unwrap();
    strict.run(&[&long.repeat(500)], &EmbedRequest::default()).unwrap().remove(0).unwrap();
}

#[test]
fn heads_load_the_default_route() {
    let (routed, looked_up) = (saved("router static query"), saved("static alone"));
    let (routed, looked_up) =
        (ModelFiles::folder(routed.path()).unwrap(), ModelFiles::folder(looked_up.path()).unwrap());
    let backend = Backend::cpu().unwrap();
    assert_eq!(Embedder::load(&routed, &backend).unwrap().chain().unwrap().output_size(), 16);
    let table = StaticEmbedder::load(&looked_up, &backend).unwrap();
    let vectors = table.embed(&[&[5, 6], &[]], &Default::default()).unwrap().to_vec2::<f32>().unwrap();
    assert!(vectors[0].iter().any(|&value| value != 0.0) && vectors[1].iter().all(|&value| value == 0.0));
    for error in
        [Embedder::load(&looked_up, &backend).unwrap_err(), StaticEmbedder::load(&routed, &backend).unwrap_err()]
    {
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
    // Other tasks say what the folder is.
    for files in [&routed, &looked_up] {
        let error = FillMask::load(files, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("embed"), "{error}");
    }
}

#[test]
fn descriptions_name_routes_and_their_modules() {
    let folder = saved("router static query");
    let profile = Profile::read(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
    assert_eq!((profile.folder.as_str(), profile.refused), ("document_0_Transformer", None));
    let chain = profile.chain.unwrap();
    let routes: Vec<_> =
        chain.routes.iter().map(|route| (route.name.as_str(), route.is_default, &route.modules[..])).collect();
    assert_eq!(routes[0], ("query", false, &["StaticEmbedding".to_owned()][..]));
    assert_eq!((routes[1].0, routes[1].1, routes[1].2.len()), ("document", true, 3));
    assert!(chain.routes[1].details[2].contains("Dense (32 → 16"), "{:?}", chain.routes[1].details);
    let folder = saved("model2vec");
    let profile = Profile::read(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
    assert!(profile.config.is_none() && profile.refused.is_none(), "{:?}", profile.refused);
}

#[test]
fn conversions_take_all_routes_along() {
    let fixture = fixture();
    let texts = texts(&fixture);
    for name in ["router static query", "asym legacy", "splade inference-free at root", "static with modules"] {
        let folder = lay_out(&fixture, case(&fixture, name));
        let out = tempfile::tempdir().unwrap();
        convert(&ModelFiles::folder(folder.path()).unwrap(), out.path(), None, &mut |_| {}).unwrap();
        let of = |folder: &Path| {
            let embedder = load(folder).unwrap();
            let mut tasks: Vec<EmbedRequest> = embedder.routes().iter().map(|name| request(&json!(name))).collect();
            tasks.push(EmbedRequest::default());
            tasks.iter().flat_map(|request| vectors(&embedder, &texts, request)).collect::<Vec<_>>()
        };
        assert_eq!(of(folder.path()), of(out.path()), "{name}");
    }
}

fn changed(name: &str, file: &str, change: &dyn Fn(&mut Value)) -> tempfile::TempDir {
    let folder = saved(name);
    let path = folder.path().join(file);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
    folder
}

/// Files that lie about routes give errors that name the place.
#[test]
fn routes_that_do_not_fit_are_refused_by_what_does_not() {
    const ROUTER: &str = "router_config.json";
    type Change = fn(&mut Value);
    let class = |name: &str| format!("sentence_transformers.models.{name}.{name}");
    let cases: [(&str, Change, &str); 16] = [
        ("escaping id", |router| rename(router, "query_0_StaticEmbedding", "../query"), "inside the repository"),
        ("absolute id", |router| rename(router, "query_0_StaticEmbedding", "/etc"), "inside the repository"),
        ("missing folder", |router| rename(router, "query_0_StaticEmbedding", "elsewhere"), "elsewhere"),
        ("unknown id", |router| router["structure"]["query"] = json!(["nowhere"]), "\"nowhere\""),
        ("no routes", |router| router["structure"] = json!({}), "0 routes"),
        ("empty route", |router| router["structure"]["query"] = json!([]), "without modules"),
        ("no list", |router| router["structure"]["query"] = json!("x"), "list of strings"),
        ("unknown default", |router| router["parameters"]["default_route"] = json!("x"), "default_route"),
        (
            "rule to nowhere",
            |router| router["parameters"]["route_mappings"] = json!({"('query', None)": "x"}),
            "no such route",
        ),
        ("unknown key", |router| router["parameters"]["novelty"] = json!(1), "`parameters.novelty`"),
        ("no parameters", |router| drop(router.as_object_mut().unwrap().remove("parameters")), "parameters"),
        (
            "many modules",
            |router| router["structure"]["query"] = json!(vec!["query_0_StaticEmbedding"; 65]),
            "up to 64",
        ),
        (
            "many routes",
            |router| (0..65).for_each(|n| router["structure"][n.to_string()] = json!(["query_0_StaticEmbedding"])),
            "67 routes",
        ),
        (
            "a trunk twice",
            |router| router["structure"]["document"] = json!(["document_0_Transformer", "document_0_Transformer"]),
            "second Transformer",
        ),
        (
            "a table behind another",
            |router| router["structure"]["query"] = json!(["query_0_StaticEmbedding", "query_0_StaticEmbedding"]),
            "behind another",
        ),
        (
            "a module of tokens behind a table",
            |router| router["structure"]["query"] = json!(["query_0_StaticEmbedding", "document_1_Pooling"]),
            "token_embeddings",
        ),
    ];
    for (what, change, word) in cases {
        let folder = changed("router static query", ROUTER, &change);
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{what}: {error}");
    }
    for (name, word) in [
        ("Router", "Router inside a Router"),
        ("CNN", "padding"),
        ("LSTM", "WordEmbeddings alone"),
        ("BoW", "BoW"),
        ("WordEmbeddings", "WordEmbeddings"),
        ("CLIPModel", "images"),
        ("Pooling", "first module"),
    ] {
        let folder = changed("router static query", ROUTER, &|router| {
            router["types"]["query_0_StaticEmbedding"] = json!(class(name));
        });
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(name), "{name}: {error}");
    }
    let folder = changed("router static query", ROUTER, &|router| {
        router["types"]["query_0_StaticEmbedding"] = json!("custom.StaticEmbedding");
    });
    assert!(load(folder.path()).unwrap_err().to_string().contains("outside"));
    // A trunk of another architecture.
    let folder = changed("router static query", "document_0_Transformer/config.json", &|config| {
        config["model_type"] = json!("bert");
    });
    assert!(load(folder.path()).unwrap_err().to_string().contains("bert"));
    // A router that names itself, and one that is gone.
    let folder = changed("router static query", ROUTER, &|router| {
        router["types"][""] = json!(class("Router"));
        router["structure"]["query"] = json!([""]);
    });
    assert!(load(folder.path()).unwrap_err().to_string().contains("inside a Router"));
    std::fs::remove_file(folder.path().join(ROUTER)).unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains(ROUTER));
    let folder = changed("router of heads", "modules.json", &|modules| {
        let router = modules[2].clone();
        modules.as_array_mut().unwrap().push(router);
    });
    assert!(load(folder.path()).unwrap_err().to_string().contains("second Router"));
}

fn rename(router: &mut Value, old: &str, new: &str) {
    *router = serde_json::from_str(&router.to_string().replace(old, new)).unwrap();
}

/// A safetensors file of tensors with a name, a type, a shape, and zeros of so many bytes.
fn zeros(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape, bytes) in tensors {
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; end]].concat()
}

#[test]
fn tables_that_lie_are_refused() {
    type Tensors = &'static [(&'static str, &'static str, &'static [usize], usize)];
    let cases: [(Tensors, &str); 9] = [
        (&[("embedding.weight", "F32", &[4], 16)], "embedding.weight"),
        (&[("embedding.weight", "F32", &[0, 4], 0)], "embedding.weight"),
        (&[("embedding.weight", "F32", &[4, 0], 0)], "embedding.weight"),
        (&[("embedding.weight", "I64", &[2, 2], 32)], "I64"),
        (&[("other", "F32", &[2, 2], 16)], "`embeddings`"),
        (&[("embeddings", "F32", &[2, 2], 16), ("mapping", "I64", &[2, 2], 32)], "one dimension"),
        (&[("embeddings", "F32", &[2, 2], 16), ("mapping", "BOOL", &[4], 4)], "BOOL"),
        (&[("embeddings", "F32", &[2, 2], 16), ("weights", "F64", &[3], 24)], "3 numbers for 2 tokens"),
        (&[("embedding.weight", "F32", &[2, usize::MAX], 16)], "model.safetensors"),
    ];
    for (tensors, word) in cases {
        let folder = saved("static alone");
        std::fs::write(folder.path().join("model.safetensors"), zeros(tensors)).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    // A mapping to a row that is not there.
    let folder = saved("model2vec");
    let mut file = zeros(&[("embeddings", "F32", &[2, 2], 16), ("mapping", "I64", &[300], 2400)]);
    let last = file.len() - 8;
    file[last] = 9;
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the row 9 of 2"), "{error}");
    // A table smaller than its tokenizer fails the texts that meet it, and no other.
    for (name, tensor, shape, task) in [
        ("static alone", "embedding.weight", &[100, 4][..], json!(null)),
        ("sparse static alone", "weight", &[100], json!(null)),
    ] {
        let folder = saved(name);
        let bytes = 4 * shape.iter().product::<usize>();
        std::fs::write(folder.path().join("model.safetensors"), zeros(&[(tensor, "F32", shape, bytes)])).unwrap();
        let outcomes = load(folder.path()).unwrap().run(&["x", "the cat sat on the mat"], &request(&task)).unwrap();
        let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert!(errors.len() == 1 && errors[0].to_string().contains("has 100 tokens"), "{name}: {outcomes:?}");
    }
    // Numbers that are none are told, with the module.
    let folder = saved("static with modules");
    let rows = 264 * 12 * 4;
    let mut file = zeros(&[("embedding.weight", "F32", &[264, 12], rows)]);
    let start = file.len() - rows;
    file[start..].as_chunks_mut().0.iter_mut().for_each(|value| *value = f32::NAN.to_le_bytes());
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let outcomes = load(folder.path()).unwrap().run(&["x", ""], &EmbedRequest::default()).unwrap();
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("module 0") && error.contains("StaticEmbedding"), "{error}");
    assert!(outcomes[1].is_ok(), "a text without tokens meets none of them");
}

#[test]
fn weights_by_token_are_a_file_of_the_model_or_nothing() {
    let config = "query_0_SparseStaticEmbedding/config.json";
    let name = "splade inference-free by token";
    for path in ["../idf.json", "/etc/idf.json", "org/model.json", "C:\\idf.json"] {
        let folder = changed(name, config, &|config| config["path"] = json!(path));
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("`path`") && error.contains("outside the model"), "{path}: {error}");
    }
    for (weights, word) in [
        (json!({"the": "x"}), "no finite number"),
        (json!({"the": 1e300}), "no finite number"),
        (json!([1]), "idf.json"),
    ] {
        let folder = saved(name);
        std::fs::write(folder.path().join("idf.json"), weights.to_string()).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    // The older name of the module.
    let folder = changed("splade inference-free", "router_config.json", &|router| {
        router["types"]["query_0_SparseStaticEmbedding"] = json!("sentence_transformers.sparse_encoder.models.IDF");
    });
    let query = request(&json!("query"));
    let of = |folder: &Path| vectors(&load(folder).unwrap(), &["The cat sat."], &query);
    assert_eq!(of(folder.path()), of(saved("splade inference-free").path()));
}
