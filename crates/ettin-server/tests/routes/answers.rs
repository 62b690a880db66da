//! Numbers of answers.

use ettin::tasks::{
    Activation, Aggregation, AnswerRequest, Answerer, Classifier, ClassifyRequest, EmbedInput, EmbedRequest, FillMask,
    Fills, IndexedScore, Label, MultiVectorEncoder, Options, Question, RerankInput, RerankRequest, Reranker,
    ScoreFunction, SearchSide, TagRequest, Tagger, TextEmbedder, TextInput, TextVectors, Truncate, ZeroShotClassifier,
    ZeroShotInput, ZeroShotRequest,
};
use ettin::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::support::{decoded, files, float, floats, get, post, rows, values};

const TEXTS: [&str; 3] = ["A cat.", "Paris is the capital of France, and not far from here.", "the mat"];

fn vectors(model: &str, texts: &[&str], request: &EmbedRequest) -> Vec<TextVectors> {
    let embedder = TextEmbedder::load(&files(model), &Options::default()).unwrap();
    values(embedder.run(texts, request).unwrap()).into_iter().map(|embedding| embedding.embedding).collect()
}

fn pooled(model: &str, request: &EmbedRequest) -> Vec<Vec<f32>> {
    let pooled = |vectors| match vectors {
        TextVectors::Pooled(vector) => vector,
        other => panic!("{other:?}"),
    };
    vectors(model, &TEXTS, request).into_iter().map(pooled).collect()
}

fn unit() -> EmbedRequest {
    EmbedRequest::default().with_normalize(true)
}

#[tokio::test]
async fn vectors_of_tei() {
    let expected = pooled("encoder", &unit());
    let answer = post("/embed", &json!({"inputs": TEXTS, "truncate": null, "normalize": null, "unknown": [1]})).await;
    assert_eq!(rows(&answer.good()), expected);
    let number = |name: &str| answer.header(name).unwrap().parse::<usize>().unwrap();
    assert_eq!(number("x-compute-characters"), TEXTS.iter().map(|text| text.chars().count()).sum::<usize>());
    assert!(number("x-compute-tokens") > 2 * TEXTS.len());
    assert_eq!(answer.header("x-compute-type"), Some("cpu"));
    for name in ["x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"] {
        answer.header(name).unwrap().parse::<u64>().unwrap();
    }
    assert_eq!(answer.header("x-truncated"), None);
    let one = post("/embed", &json!({"inputs": TEXTS[0]})).await.good();
    assert_eq!(rows(&one), expected[..1]);
    let root = post("/", &json!({"inputs": TEXTS, "model": "encoder"})).await.good();
    assert_eq!(rows(&root), expected);
    let raw = post("/invocations", &json!({"inputs": TEXTS, "normalize": false, "dimensions": 8})).await.good();
    assert_eq!(rows(&raw), pooled("encoder", &EmbedRequest::default().with_normalize(false).with_dimensions(8)));
    let chain = post("/embed", &json!({"inputs": TEXTS, "model": "chain"})).await.good();
    assert_eq!(rows(&chain), pooled("chain", &unit()));
}

#[tokio::test]
async fn vectors_of_openai() {
    let expected = pooled("encoder", &unit());
    for path in ["/v1/embeddings", "/embeddings"] {
        let answer = post(path, &json!({"model": "any", "input": TEXTS, "encoding_format": null})).await.good();
        let vectors: Vec<Vec<f32>> =
            answer["data"].as_array().unwrap().iter().map(|datum| floats(&datum["embedding"])).collect();
        assert_eq!(vectors, expected);
        assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("encoder")));
        assert_eq!(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]);
    }
    let body = json!({"model": "encoder", "input": TEXTS, "encoding_format": "base64", "dimensions": 16});
    let answer = post("/v1/embeddings", &body).await;
    let short = pooled("encoder", &unit().with_dimensions(16));
    for (index, datum) in answer.good()["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&datum["index"], decoded(&datum["embedding"])), (&json!(index), short[index].clone()));
    }
    assert!(answer.header("x-compute-tokens").is_some());
    let raw = post("/v1/embeddings", &json!({"input": TEXTS, "use_activation": false})).await.good();
    let unscaled = pooled("encoder", &EmbedRequest::default().with_normalize(false));
    assert_eq!(floats(&raw["data"][1]["embedding"]), unscaled[1]);
}

#[tokio::test]
async fn ids_are_used_as_they_are() {
    let embedder = TextEmbedder::load(&files("encoder"), &Options::default()).unwrap();
    let lists: [&[u32]; 2] = [&[5, 6, 7], &[9]];
    let prepared = embedder.prepare_inputs(&lists, &unit(), |ids| EmbedInput::Ids(ids)).unwrap();
    let expected: Vec<_> =
        values(prepared.run(&embedder, 1024).unwrap()).into_iter().map(|one| one.embedding).collect();
    let answer = post("/v1/embeddings", &json!({"input": lists})).await.good();
    for (datum, expected) in answer["data"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!(TextVectors::Pooled(floats(&datum["embedding"])), *expected);
    }
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    let one = post("/embed", &json!({"inputs": [5, 6, 7]})).await.good();
    assert_eq!(TextVectors::Pooled(floats(&one[0])), expected[0]);
}

#[tokio::test]
async fn vectors_of_tokens() {
    let expected = vectors("encoder", &TEXTS, &EmbedRequest::default().with_per_token(true).with_normalize(false));
    let answer = post("/embed_all", &json!({"inputs": TEXTS})).await.good();
    for (text, expected) in answer.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(TextVectors::Tokens(rows(text)), *expected);
    }
    let body = json!({"input": TEXTS[0], "model": "encoder", "task": "token_embed", "encoding_format": "base64"});
    let pooling = post("/pooling", &body).await.good();
    let TextVectors::Tokens(tokens) = &expected[0] else { panic!("{expected:?}") };
    assert_eq!(decoded(&pooling["data"][0]["data"]), tokens.concat());
    let pooling = post("/pooling", &json!({"input": TEXTS[0], "model": "encoder"})).await.good();
    assert_eq!(floats(&pooling["data"][0]["data"]), pooled("encoder", &unit())[0]);
}

#[tokio::test]
async fn several_vectors_per_text() {
    let encoder = MultiVectorEncoder::load(&files("colbert"), &Options::default()).unwrap();
    let written = |side| -> Vec<Vec<Vec<f32>>> {
        let texts = encoder.encode(&TEXTS, side).unwrap();
        texts.iter().map(|text| text.rows().map(<[f32]>::to_vec).collect()).collect()
    };
    let read = |value: &Value| value.as_array().unwrap().iter().map(rows).collect::<Vec<_>>();
    let body = json!({"inputs": TEXTS, "model": "colbert"});
    assert_eq!(read(&post("/embed_all", &body).await.good()), written(SearchSide::Document));
    assert_eq!(read(&post("/", &body).await.good()), written(SearchSide::Document));
    let body = json!({"inputs": TEXTS, "model": "colbert", "prompt_name": "query"});
    assert_eq!(read(&post("/embed_all", &body).await.good()), written(SearchSide::Query));
    let answer = post("/pooling", &json!({"input": TEXTS, "model": "colbert"})).await.good();
    assert_eq!(rows(&answer["data"][1]["data"]), written(SearchSide::Document)[1]);
}

#[tokio::test]
async fn sparse_vectors() {
    let expected = vectors("sparse", &TEXTS, &EmbedRequest::default().with_truncate(Truncate::Model));
    for (path, body) in
        [("/embed_sparse", json!({"inputs": TEXTS})), ("/", json!({"inputs": TEXTS, "model": "sparse"}))]
    {
        let answer = post(path, &body).await.good();
        for (text, expected) in answer.as_array().unwrap().iter().zip(&expected) {
            let TextVectors::Sparse(expected) = expected else { panic!("{expected:?}") };
            let index = |pair: &Value| pair["index"].as_u64().unwrap() as u32;
            let pairs = text.as_array().unwrap();
            assert_eq!(pairs.iter().map(index).collect::<Vec<_>>(), expected.indices);
            assert_eq!(pairs.iter().map(|pair| float(&pair["value"])).collect::<Vec<_>>(), expected.values);
        }
    }
}

fn labels(model: &str, inputs: &[TextInput<'_>], request: &ClassifyRequest) -> Vec<Vec<Label>> {
    values(Classifier::load(&files(model), &Options::default()).unwrap().run(inputs, request).unwrap())
}

fn assert_labels(answer: &Value, expected: &[Label]) {
    let answer = answer.as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(answer.len(), expected.len());
    for (label, expected) in answer.iter().zip(expected) {
        assert_eq!((&label["label"], float(&label["score"])), (&json!(expected.label), expected.score));
    }
}

#[tokio::test]
async fn labels_of_texts_and_pairs() {
    let all = ClassifyRequest::default().with_top_k(None);
    let inputs: Vec<TextInput<'_>> = vec![TEXTS[0].into(), (TEXTS[1], TEXTS[2]).into()];
    let expected = labels("classify", &inputs, &all);
    let flat = post("/predict", &json!({"inputs": TEXTS[0], "model": "classify"})).await.good();
    assert_labels(&flat, &expected[0]);
    let pair = post("/predict", &json!({"inputs": [TEXTS[1], TEXTS[2]], "model": "classify"})).await.good();
    assert_labels(&pair, &expected[1]);
    let body = json!({"inputs": [[TEXTS[0]], [TEXTS[1], TEXTS[2]]], "model": "classify", "raw_scores": true});
    let batch = post("/predict", &body).await.good();
    let raw = labels("classify", &inputs, &all.clone().with_raw(true));
    assert_labels(&batch[0], &raw[0]);
    assert_labels(&batch[1], &raw[1]);

    // At `/`, the client that sends `parameters` reads the first of a list.
    let flat = post("/", &json!({"inputs": TEXTS[0], "model": "classify"})).await.good();
    assert_labels(&flat, &expected[0]);
    let nested = post("/", &json!({"inputs": TEXTS[0], "model": "classify", "parameters": {}})).await.good();
    assert_eq!(nested.as_array().unwrap().len(), 1);
    assert_labels(&nested[0], &expected[0]);
    for (name, function) in
        [("sigmoid", ScoreFunction::Sigmoid), ("softmax", ScoreFunction::Softmax), ("none", ScoreFunction::Raw)]
    {
        let parameters = json!({"function_to_apply": name, "top_k": 2});
        let answer = post("/", &json!({"inputs": TEXTS[0], "model": "multi-label", "parameters": parameters})).await;
        let request = ClassifyRequest::default().with_top_k(2).with_function(function);
        assert_labels(&answer.good()[0], &labels("multi-label", &inputs[..1], &request)[0]);
    }

    let answer = post("/classify", &json!({"input": [TEXTS[0]], "model": "classify"})).await.good();
    let order = ["negative", "neutral", "positive"];
    let of = |name: &str| expected[0].iter().find(|label| label.label == name).unwrap().score;
    assert_eq!(floats(&answer["data"][0]["probs"]), order.map(of));
    assert_eq!(
        (&answer["data"][0]["label"], &answer["data"][0]["num_classes"]),
        (&json!(expected[0][0].label), &json!(3))
    );
    let answer =
        post("/classify", &json!({"input": [TEXTS[0]], "model": "classify", "raw_scores": false})).await.good();
    assert_labels(&answer["data"][0], &expected[0]);
    let answer = post("/pooling", &json!({"input": TEXTS[0], "model": "classify"})).await.good();
    assert_eq!(floats(&answer["data"][0]["data"]), order.map(of));
}

fn ranking(model: &str, request: &RerankRequest) -> Vec<IndexedScore> {
    let input = RerankInput { query: "a cat", documents: TEXTS.to_vec() };
    values(Reranker::load(&files(model), &Options::default()).unwrap().run(&[input], request).unwrap()).remove(0)
}

#[tokio::test]
async fn rankings_in_both_forms() {
    let expected = ranking("rerank", &RerankRequest::default());
    let places: Vec<(usize, f32)> = expected.iter().map(|one| (one.index, one.score)).collect();
    let read = |list: &Value, score: &str| -> Vec<(usize, f32)> {
        let place = |one: &Value| (one["index"].as_u64().unwrap() as usize, float(&one[score]));
        list.as_array().unwrap_or_else(|| panic!("{list}")).iter().map(place).collect()
    };
    for path in ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking", "/v2/rerank"] {
        let body = json!({"query": "a cat", "texts": TEXTS, "model": "rerank", "return_text": true});
        let answer = post(path, &body).await.good();
        assert_eq!(read(&answer, "score"), places, "{path}");
        assert_eq!(answer[0]["text"], TEXTS[expected[0].index]);
        let body = json!({"query": "a cat", "documents": TEXTS, "model": "rerank", "top_n": 2});
        let answer = post(path, &body).await.good();
        assert_eq!(read(&answer["results"], "relevance_score"), places[..2], "{path}");
        assert!(answer["results"][0].get("document").is_none());
    }
    let body =
        json!({"query": "a cat", "documents": [{"text": TEXTS[0]}], "model": "rerank", "return_documents": true});
    let answer = post("/rerank", &body).await.good();
    assert_eq!(answer["results"][0]["document"], json!({"text": TEXTS[0]}));
    let raw = ranking("rerank", &RerankRequest::default().with_activation(Activation::Raw));
    let body = json!({"query": "a cat", "texts": TEXTS, "raw_scores": true, "model": "rerank"});
    assert_eq!(float(&post("/", &body).await.good()[0]["score"]), raw[0].score);

    let by_vectors = MultiVectorEncoder::load(&files("colbert"), &Options::default()).unwrap();
    let input = RerankInput { query: "a cat", documents: TEXTS.to_vec() };
    let expected = values(by_vectors.rerank(&[input], &Default::default()).unwrap()).remove(0);
    let answer = post("/rerank", &json!({"query": "a cat", "texts": TEXTS, "model": "colbert"})).await.good();
    assert_eq!(read(&answer, "score"), expected.iter().map(|one| (one.index, one.score)).collect::<Vec<_>>());
}

#[tokio::test]
async fn scores_of_pairs() {
    let mut expected = ranking("rerank", &RerankRequest::default());
    expected.sort_by_key(|one| one.index);
    let expected: Vec<f32> = expected.iter().map(|one| one.score).collect();
    let read = |answer: &Value| -> Vec<f32> {
        answer["data"].as_array().unwrap().iter().map(|datum| float(&datum["score"])).collect()
    };
    for (path, body) in [
        ("/score", json!({"text_1": "a cat", "text_2": TEXTS, "model": "rerank"})),
        ("/v1/score", json!({"queries": ["a cat", "a cat", "a cat"], "documents": TEXTS, "model": "rerank"})),
    ] {
        assert_eq!(read(&post(path, &body).await.good()), expected, "{path}");
    }
}

#[tokio::test]
async fn similarities() {
    let embedder = TextEmbedder::load(&files("encoder"), &Options::default()).unwrap();
    let input = ettin::tasks::SimilarityInput { a: "a cat", b: TEXTS.to_vec() };
    let expected = values(embedder.similarity(&[input], &EmbedRequest::default()).unwrap()).remove(0);
    let expected: Vec<f32> = expected.iter().map(|one| one.score).collect();
    let body = json!({"inputs": {"source_sentence": "a cat", "sentences": TEXTS}, "parameters": {}});
    for path in ["/similarity", "/"] {
        assert_eq!(floats(&post(path, &body).await.good()), expected, "{path}");
    }
}

#[tokio::test]
async fn tags_answers_and_fills() {
    let tagger = Tagger::load(&files("tag"), &Options::default()).unwrap();
    for (parameters, aggregation, all) in [
        (json!({}), Aggregation::Simple, false),
        (json!({"aggregation_strategy": "none"}), Aggregation::None, false),
        (json!({"aggregation_strategy": "max", "ignore_labels": []}), Aggregation::Max, true),
    ] {
        let request = TagRequest::default().with_aggregation(aggregation).with_all(all);
        let expected = written(&values(tagger.run(&TEXTS, &request).unwrap()));
        let answer = post("/", &json!({"inputs": TEXTS, "model": "tag", "parameters": parameters})).await.good();
        assert_eq!(answer, expected, "{parameters}");
        let one = post("/", &json!({"inputs": TEXTS[1], "model": "tag", "parameters": parameters})).await.good();
        assert_eq!(one, expected[1]);
    }

    let answerer = Answerer::load(&files("answer"), &Options::default()).unwrap();
    let question = Question { question: "where is it?", context: TEXTS[1] };
    let expected = values(answerer.run(&[question], &AnswerRequest::default()).unwrap()).remove(0);
    let body = json!({"inputs": {"question": "where is it?", "context": TEXTS[1]}, "parameters": {}});
    let answer = post("/", &body).await.good();
    assert_eq!((&answer["answer"], float(&answer["score"])), (&json!(expected.answer), expected.score));
    assert_eq!((&answer["start"], &answer["end"]), (&json!(expected.start), &json!(expected.end)));

    let fill = FillMask::load(&files("encoder"), &Options::default()).unwrap();
    let text = "The capital of France is [MASK].";
    let Fills::One(expected) = values(fill.run(&[text], 3).unwrap()).remove(0) else { panic!("one mask") };
    for body in [
        json!({"inputs": text, "parameters": {"top_k": 3}, "model": "encoder"}),
        json!({"inputs": [text], "parameters": {"top_k": 3}, "model": "encoder"}),
    ] {
        let answer = post("/", &body).await.good();
        let list = if body["inputs"].is_array() { &answer[0] } else { &answer };
        for (filled, expected) in list.as_array().unwrap().iter().zip(&expected) {
            assert_eq!((float(&filled["score"]), &filled["token"]), (expected.score, &json!(expected.token)));
            assert_eq!(
                (&filled["token_str"], &filled["sequence"]),
                (&json!(expected.token_str), &json!(expected.sequence))
            );
        }
    }
    // A client that sends no parameters means the mask all the same.
    let answer = post("/", &json!({"inputs": text, "model": "encoder"})).await.good();
    assert_eq!((answer.as_array().unwrap().len(), &answer[0]["token_str"]), (5, &json!(" Paris")));
}

/// As it is read from JSON text, where 32-bit floats have their own digits.
fn written(value: &impl serde::Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

#[tokio::test]
async fn labels_that_the_request_brings() {
    let classifier = ZeroShotClassifier::load(&files("nli"), &Options::default()).unwrap();
    let names = ["animals", "towns"];
    let request = ZeroShotRequest::default().with_multi_label(true).with_template("It is about {}.".parse().unwrap());
    let input = ZeroShotInput { text: TEXTS[0], labels: names.to_vec() };
    let expected = values(classifier.run(&[input], &request).unwrap()).remove(0);
    let parameters = json!({"candidate_labels": names, "multi_label": true, "hypothesis_template": "It is about {}."});
    let answer = post("/", &json!({"inputs": TEXTS[0], "parameters": parameters})).await.good();
    for (index, label) in answer.as_array().unwrap().iter().enumerate() {
        assert_eq!((&label["label"], float(&label["score"])), (&json!(expected.labels[index]), expected.scores[index]));
    }
}

#[tokio::test]
async fn tokens() {
    let text = "Ünïted [MASK] 猫 cat";
    let answer = post("/tokenize", &json!({"inputs": text, "model": "encoder"})).await.good();
    let tokens = answer[0].as_array().unwrap();
    assert!(tokens[0]["special"] == true && tokens[0]["start"].is_null() && tokens[0]["text"] == "[CLS]");
    for token in tokens.iter().filter(|token| token["special"] == false) {
        let place = |name: &str| token[name].as_u64().unwrap() as usize;
        if let Some(covered) = text.get(place("start")..place("stop")) {
            assert_eq!(token["text"], covered);
        }
    }
    let ids: Vec<u32> = tokens.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect();
    let tokenizer = Tokenizer::load(&files("encoder")).unwrap();
    assert_eq!(ids, tokenizer.encode(text, None, true).unwrap().ids);
    let decoded = post("/decode", &json!({"ids": ids, "model": "encoder", "skip_special_tokens": false})).await.good();
    assert_eq!(decoded, json!([tokenizer.decode(&ids, false).unwrap()]));

    let answer =
        post("/tokenize", &json!({"prompt": text, "model": "encoder", "return_token_strs": true})).await.good();
    assert_eq!((&answer["tokens"], &answer["count"]), (&json!(ids), &json!(ids.len())));
    assert_eq!(answer["token_strs"].as_array().unwrap().len(), ids.len());
    let bare = post("/tokenize", &json!({"prompt": "A cat.", "add_special_tokens": false})).await.good();
    let back = post("/detokenize", &json!({"tokens": bare["tokens"]})).await.good();
    assert_eq!(back, json!({"prompt": "A cat."}));
    let info = get("/tokenizer_info").await.good();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("[CLS]"), &json!("[SEP]")));
}

#[tokio::test]
async fn requests_within_a_request() {
    let instances = json!([
        {"inputs": TEXTS[0]},
        {"query": "a cat", "texts": TEXTS},
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    ]);
    let answer = post("/vertex", &json!({"instances": instances})).await;
    let predictions = answer.good()["predictions"].clone();
    assert_eq!(rows(&predictions[0]), pooled("encoder", &unit())[..1]);
    assert_eq!(predictions.as_array().unwrap().len(), 3);
    assert!(answer.header("x-compute-tokens").is_some());
}
