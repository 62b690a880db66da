//! Answers in the documented shapes, and numbers as they must be written.

use std::time::Duration;

use ettin_server::protocol::hugging_face::{
    FilledMask, FoundAnswer, GeneratedText, GeneratedToken, GenerationEnd, GenerationStep, StepDetails, TaggedSpan,
    fill_mask_answer, generation_answer, question_answer, token_classification_answer, zero_shot_answer,
};
use ettin_server::protocol::input::Document;
use ettin_server::protocol::json::text_of;
use ettin_server::protocol::openai::{
    AnswerHead, CompletionAnswer, CompletionChoice, CompletionLogprobs, CompletionStream, DONE, EncodingFormat,
    FinishCause, ModelCard, ModelList, ScoredToken, TokenUsage, base64_of, embeddings_answer,
};
use ettin_server::protocol::rerank::document_rerank_answer;
use ettin_server::protocol::tei::{
    ClassifierInfo, ComputeReport, EmbeddingInfo, ModelType, Nothing, SimpleToken, VertexAnswer, embed_all_answer,
    embed_answer, embed_sparse_answer, predict_answer, rerank_answer, similarity_answer, tokenize_answer,
};
use ettin_server::protocol::vllm::{
    PooledData, PromptTokens, classify_answer, classify_list_answer, pooling_answer, score_answer,
};
use ettin_server::protocol::{Fault, FaultKind};
use serde_json::{Value, json};

fn head(id: &str) -> AnswerHead {
    AnswerHead { id: id.to_owned(), created: 7, model: "m".to_owned() }
}

fn parsed(body: Result<String, Fault>) -> Value {
    serde_json::from_str(&body.unwrap()).unwrap()
}

fn labels(scores: &[(&str, f32)]) -> Vec<(String, f32)> {
    scores.iter().map(|(label, score)| ((*label).to_owned(), *score)).collect()
}

#[test]
fn floats_have_the_fewest_digits_that_read_back() {
    let numbers = [0.1_f32, -0.0, 1.0 / 3.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, 16_777_216.0];
    let text = embed_answer(&[numbers.to_vec()]).unwrap();
    assert!(text.starts_with("[[0.1,-0.0,0.33333334,"), "{text}");
    let read: Vec<Vec<f32>> = serde_json::from_str(&text).unwrap();
    assert_eq!(read[0].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), numbers.map(f32::to_bits));
}

#[test]
fn numbers_that_are_not_finite_are_errors_everywhere() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let token = GeneratedToken { id: 1, text: "a".into(), logprob: bad, special: false };
        let scored = ScoredToken { id: 1, text: "a".into(), logprob: Some(f32::NAN), top: vec![] };
        let choice = CompletionChoice {
            logprobs: Some(CompletionLogprobs::new(&[scored], 0, 0, false)),
            ..CompletionChoice::default()
        };
        let mask = FilledMask { score: bad, token: 1, token_str: "a".into(), sequence: "a".into() };
        for answer in [
            embed_answer(&[vec![1.0, bad]]),
            embed_all_answer(&[vec![vec![bad]]]),
            embed_sparse_answer(vec![vec![(1, bad)]]),
            predict_answer(vec![labels(&[("a", bad)])], false),
            rerank_answer(&[1.0, bad], 0, None),
            similarity_answer(&[bad]),
            embeddings_answer(head("e"), vec![vec![bad]], EncodingFormat::Float, 1),
            embeddings_answer(head("e"), vec![vec![bad]], EncodingFormat::Base64, 1),
            document_rerank_answer(head("r"), &[bad], 0, None, 1),
            score_answer(head("s"), &[bad], 1),
            classify_answer(head("c"), &["a".into()], vec![vec![bad]], 1),
            classify_list_answer(head("c"), vec![labels(&[("a", bad)])], 1),
            pooling_answer(head("p"), vec![PooledData::Rows(vec![vec![bad]])], EncodingFormat::Float, 1),
            pooling_answer(head("p"), vec![PooledData::Rows(vec![vec![bad]])], EncodingFormat::Base64, 1),
            fill_mask_answer(vec![vec![vec![mask]]], true),
            zero_shot_answer(vec![labels(&[("a", bad)])], true),
            GenerationStep { index: 1, token, top_tokens: None, generated_text: None, details: None }.to_event(),
            CompletionStream::new(head("cmpl-1"), false).chunk(&[choice]),
        ] {
            let fault = answer.expect_err("a fault");
            assert_eq!(fault.kind, FaultKind::Backend);
            assert!(fault.message.contains("not finite"), "{fault}");
        }
    }
}

#[test]
fn tei_answers() {
    assert_eq!(embed_answer(&[vec![0.5, 1.0]]).unwrap(), "[[0.5,1.0]]");
    assert_eq!(embed_all_answer(&[vec![vec![0.5], vec![1.0]]]).unwrap(), "[[[0.5],[1.0]]]");
    assert_eq!(
        embed_sparse_answer(vec![vec![(9, 0.5), (2, 1.0), (3, 0.0)], vec![]]).unwrap(),
        r#"[[{"index":2,"value":1.0},{"index":9,"value":0.5}],[]]"#
    );
    let scores = || labels(&[("a", 0.1), ("b", 0.9)]);
    let one = r#"[{"score":0.9,"label":"b"},{"score":0.1,"label":"a"}]"#;
    assert_eq!(predict_answer(vec![scores()], false).unwrap(), one);
    assert_eq!(predict_answer(vec![scores()], true).unwrap(), format!("[{one}]"));
    assert_eq!(predict_answer(vec![scores(), scores()], true).unwrap(), format!("[{one},{one}]"));
    assert_eq!(
        rerank_answer(&[0.5, 2.0, 0.5], 0, None).unwrap(),
        r#"[{"index":1,"score":2.0},{"index":0,"score":0.5},{"index":2,"score":0.5}]"#
    );
    assert_eq!(
        rerank_answer(&[0.5, 2.0], 1, Some(&["a".to_owned(), "b".to_owned()])).unwrap(),
        r#"[{"index":1,"text":"b","score":2.0}]"#
    );
    assert_eq!(similarity_answer(&[0.5, -1.0]).unwrap(), "[0.5,-1.0]");
    let token = SimpleToken { id: 5, text: "a".into(), special: false, start: Some(0), stop: Some(1) };
    let special = SimpleToken { id: 1, text: "[CLS]".into(), special: true, start: None, stop: None };
    assert_eq!(
        tokenize_answer(&[vec![special, token]]).unwrap(),
        concat!(
            r#"[[{"id":1,"text":"[CLS]","special":true,"start":null,"stop":null},"#,
            r#"{"id":5,"text":"a","special":false,"start":0,"stop":1}]]"#
        )
    );
    assert_eq!(VertexAnswer::of_texts(&["[[0.5]]".into(), "[]".into()]), r#"{"predictions":[[[0.5]],[]]}"#);
}

#[test]
fn the_kind_of_a_model_is_written_as_tei_does() {
    let kind = |kind: &ModelType| text_of(kind).unwrap();
    assert_eq!(
        kind(&ModelType::Embedding(EmbeddingInfo { pooling: "mean".into() })),
        r#"{"embedding":{"pooling":"mean"}}"#
    );
    assert_eq!(
        kind(&ModelType::Reranker(ClassifierInfo::of_labels(["LABEL_0"]))),
        r#"{"reranker":{"id2label":{"0":"LABEL_0"},"label2id":{"LABEL_0":0}}}"#
    );
    assert_eq!(kind(&ModelType::Generator(Nothing {})), r#"{"generator":{}}"#);
}

#[test]
fn costs_are_headers() {
    let mut report = ComputeReport {
        compute_type: "cpu",
        characters: 12,
        tokens: 5,
        total: Duration::from_micros(2900),
        inference: Duration::from_millis(2),
        ..ComputeReport::default()
    };
    let value = |report: &ComputeReport, name: &str| {
        report.headers().into_iter().find(|(header, _)| *header == name).map(|(_, value)| value)
    };
    assert_eq!(value(&report, "x-compute-time").as_deref(), Some("2"));
    assert_eq!(value(&report, "x-compute-tokens").as_deref(), Some("5"));
    assert_eq!(value(&report, "x-inference-time").as_deref(), Some("2"));
    assert_eq!(report.headers().len(), 8);
    assert_eq!(value(&report, "x-truncated"), None);
    report.truncated = 3;
    assert_eq!(value(&report, "x-truncated").as_deref(), Some("3"));
}

#[test]
fn openai_embeddings() {
    let expected = json!({
        "object": "list", "id": "embd-1", "created": 7, "model": "m",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 2.0]},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    });
    let vectors = || vec![vec![0.5, -1.0], vec![0.25, 2.0]];
    assert_eq!(parsed(embeddings_answer(head("embd-1"), vectors(), EncodingFormat::Float, 9)), expected);
    let answer = parsed(embeddings_answer(head("embd-1"), vectors(), EncodingFormat::Base64, 9));
    assert_eq!(answer["data"][0]["embedding"], "AAAAPwAAgL8=", "little-endian 0.5 and -1");
    assert_eq!(base64_of(&[]).unwrap(), "");
}

fn scored(id: u32, text: &str, logprob: Option<f32>, top: &[(u32, &str, f32)]) -> ScoredToken {
    let top = top.iter().map(|(id, text, logprob)| (*id, (*text).to_owned(), *logprob)).collect();
    ScoredToken { id, text: text.to_owned(), logprob, top }
}

#[test]
fn logprobs_of_an_echo() {
    let tokens = [
        scored(1, "Ünd", None, &[]),
        scored(2, " so", Some(-0.5), &[(2, " so", -0.5), (3, " da", -1.0)]),
        scored(4, " x", Some(-2.0), &[(5, " y", -0.25), (6, " z", -1.5)]),
        scored(7, "[SEP]", Some(f32::NEG_INFINITY), &[(5, " y", 0.0), (7, "[SEP]", f32::NEG_INFINITY)]),
    ];
    let lists = |k| parsed(text_of(&CompletionLogprobs::new(&tokens, k, 0, false)));
    assert_eq!(
        lists(2),
        json!({
            "tokens": ["Ünd", " so", " x", "[SEP]"],
            "token_logprobs": [null, -0.5, -2.0, -9999.0],
            "top_logprobs": [
                null,
                {" so": -0.5, " da": -1.0},
                {" y": -0.25, " z": -1.5, " x": -2.0},
                {" y": 0.0, "[SEP]": -9999.0},
            ],
            "text_offset": [0, 3, 6, 8],
        })
    );
    assert_eq!(lists(0)["top_logprobs"], json!([null, {" so": -0.5}, {" x": -2.0}, {"[SEP]": -9999.0}]));
    let offsets = CompletionLogprobs::new(&tokens[1..], 1, 3, false).text_offset;
    assert_eq!(offsets, [3, 6, 8], "a later piece of a stream goes on where the last one ended");
}

#[test]
fn tokens_of_one_string_keep_the_larger_logprob() {
    let token = scored(10, "\u{fffd}", Some(-0.25), &[(10, "\u{fffd}", -0.25), (11, "\u{fffd}", -3.0)]);
    let lists = CompletionLogprobs::new(&[token], 2, 0, false);
    let top = lists.top_logprobs[0].as_ref().unwrap();
    assert_eq!(top.0, [("\u{fffd}".to_owned(), -0.25)]);
    let largest = top.0.iter().map(|(_, logprob)| *logprob).reduce(f32::max);
    assert_eq!(lists.token_logprobs[0], largest, "greedy by lm-eval's comparison");
    let named = CompletionLogprobs::new(&[scored(10, "\u{fffd}", Some(-3.0), &[(11, "\u{fffd}", -0.25)])], 1, 0, true);
    let top = named.top_logprobs[0].as_ref().unwrap();
    assert_eq!(top.0, [("token_id:11".to_owned(), -0.25), ("token_id:10".to_owned(), -3.0)]);
}

#[test]
fn the_same_float_is_printed_in_both_lists() {
    let logprob = -1.234_567_9_f32;
    let lists = CompletionLogprobs::new(&[scored(1, "a", Some(logprob), &[(1, "a", logprob)])], 1, 0, false);
    let text = text_of(&lists).unwrap();
    assert!(text.contains(r#""token_logprobs":[-1.2345679],"top_logprobs":[{"a":-1.2345679}]"#), "{text}");
}

#[test]
fn openai_completions() {
    let choice = |index: usize, text: &str| CompletionChoice {
        index,
        text: text.into(),
        finish_reason: Some(FinishCause::Length),
        ..CompletionChoice::default()
    };
    let answer =
        CompletionAnswer::new(head("cmpl-1"), vec![choice(1, "b"), choice(0, "a")], TokenUsage::of_completion(3, 2));
    assert_eq!(
        parsed(answer.to_json()),
        json!({
            "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m",
            "choices": [
                {"index": 0, "text": "a", "logprobs": null, "finish_reason": "length"},
                {"index": 1, "text": "b", "logprobs": null, "finish_reason": "length"},
            ],
            "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2},
        })
    );
}

#[test]
fn openai_streams() {
    let choice = CompletionChoice { text: "a\nb".into(), ..CompletionChoice::default() };
    let plain = CompletionStream::new(head("cmpl-1"), false);
    let with_usage = CompletionStream::new(head("cmpl-1"), true);
    let start = r#"data: {"id":"cmpl-1","object":"text_completion","created":7,"model":"m","choices":"#;
    let piece = r#"[{"index":0,"text":"a\nb","logprobs":null,"finish_reason":null}]"#;
    assert_eq!(plain.chunk(std::slice::from_ref(&choice)).unwrap(), format!("{start}{piece}}}\n\n"));
    assert_eq!(plain.usage(TokenUsage::of_completion(1, 2)), None);
    assert_eq!(with_usage.chunk(&[choice]).unwrap(), format!("{start}{piece},\"usage\":null}}\n\n"));
    assert_eq!(
        with_usage.usage(TokenUsage::of_completion(1, 2)).unwrap(),
        format!("{start}[],\"usage\":{{\"prompt_tokens\":1,\"total_tokens\":3,\"completion_tokens\":2}}}}\n\n")
    );
    assert_eq!(DONE, "data: [DONE]\n\n");
    let fault = CompletionStream::fault(&Fault::new(FaultKind::Backend, "it failed"));
    let data: Value = serde_json::from_str(fault.strip_prefix("data: ").unwrap().trim_end()).unwrap();
    assert_eq!(data["error"]["message"], "it failed");
    assert!(fault.ends_with("\n\n"));
}

#[test]
fn models() {
    let list = ModelList::new(vec![ModelCard::new("a/b", 7)]);
    assert_eq!(
        text_of(&list).unwrap(),
        r#"{"object":"list","data":[{"id":"a/b","object":"model","created":7,"owned_by":"ettin-run"}]}"#
    );
}

#[test]
fn rerankings_by_documents() {
    let documents = [Document("a".into()), Document("b".into())];
    let answer = parsed(document_rerank_answer(head("rerank-1"), &[0.5, 0.75], 1, Some(&documents), 4));
    assert_eq!(
        answer,
        json!({
            "id": "rerank-1", "object": "rerank", "created": 7, "model": "m",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
            "results": [{"index": 1, "document": {"text": "b"}, "relevance_score": 0.75}],
        })
    );
    let bare = parsed(document_rerank_answer(head("rerank-1"), &[0.5, 0.75], 0, None, 4));
    assert_eq!(
        bare["results"],
        json!([{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.5}]),
        "no null where documents are not repeated"
    );
}

#[test]
fn vllm_answers() {
    let usage = json!({"prompt_tokens": 4, "total_tokens": 4});
    assert_eq!(
        parsed(score_answer(head("score-1"), &[0.5], 4)),
        json!({
            "id": "score-1", "object": "list", "created": 7, "model": "m",
            "data": [{"index": 0, "object": "score", "score": 0.5}], "usage": usage,
        })
    );
    assert_eq!(
        parsed(classify_answer(head("classify-1"), &["x".into(), "y".into()], vec![vec![0.25, 0.75]], 4)),
        json!({
            "id": "classify-1", "object": "list", "created": 7, "model": "m",
            "data": [{"index": 0, "label": "y", "probs": [0.25, 0.75], "num_classes": 2}], "usage": usage,
        })
    );
    let list = parsed(classify_list_answer(head("c"), vec![labels(&[("x", 0.25), ("y", 0.75)])], 4));
    assert_eq!(list["object"], "classify");
    assert_eq!(list["data"], json!([[{"score": 0.75, "label": "y"}, {"score": 0.25, "label": "x"}]]));
    let pool = |data, format| parsed(pooling_answer(head("pool-1"), vec![data], format, 4))["data"][0].clone();
    let rows = || PooledData::Rows(vec![vec![0.5], vec![-1.0]]);
    assert_eq!(pool(rows(), EncodingFormat::Float), json!({"index": 0, "object": "pooling", "data": [[0.5], [-1.0]]}));
    assert_eq!(pool(rows(), EncodingFormat::Base64)["data"], "AAAAPwAAgL8=");
    assert_eq!(pool(PooledData::Vector(vec![0.5]), EncodingFormat::Float)["data"], json!([0.5]));
    let tokens = PromptTokens { count: 1, max_model_len: 8, tokens: vec![5], token_strs: None };
    assert_eq!(text_of(&tokens).unwrap(), r#"{"count":1,"max_model_len":8,"tokens":[5],"token_strs":null}"#);
}

#[test]
fn hugging_face_answers() {
    let mask = || FilledMask { score: 0.5, token: 3, token_str: " x".into(), sequence: "a x".into() };
    let word = json!({"score": 0.5, "token": 3, "token_str": " x", "sequence": "a x"});
    assert_eq!(parsed(fill_mask_answer(vec![vec![vec![mask()]]], true)), json!([word]));
    assert_eq!(parsed(fill_mask_answer(vec![vec![vec![mask()], vec![mask()]]], true)), json!([[word], [word]]));
    assert_eq!(parsed(fill_mask_answer(vec![vec![vec![mask()]]], false)), json!([[word]]));
    let span = TaggedSpan {
        entity: None,
        entity_group: Some("PER".into()),
        score: 0.5,
        index: None,
        word: "Ada".into(),
        start: 0,
        end: 3,
    };
    assert_eq!(
        parsed(token_classification_answer(vec![vec![span]], true)),
        json!([{"entity_group": "PER", "score": 0.5, "word": "Ada", "start": 0, "end": 3}])
    );
    let found = || FoundAnswer { score: 0.5, start: 0, end: 3, answer: "Ada".into() };
    let answer = json!({"score": 0.5, "start": 0, "end": 3, "answer": "Ada"});
    assert_eq!(parsed(question_answer(vec![found()], None)), answer);
    assert_eq!(parsed(question_answer(vec![found(), found()], Some(2))), json!([answer, answer]));
    assert_eq!(parsed(question_answer(vec![found()], Some(2))), json!([answer]));
    assert_eq!(
        parsed(zero_shot_answer(vec![labels(&[("x", 0.25), ("y", 0.75)])], true)),
        json!([{"label": "y", "score": 0.75}, {"label": "x", "score": 0.25}])
    );
    let text = GeneratedText { generated_text: " a".into(), details: None };
    assert_eq!(generation_answer(text).unwrap(), r#"[{"generated_text":" a"}]"#);
}

#[test]
fn hugging_face_streams() {
    let step = GenerationStep {
        index: 1,
        token: GeneratedToken { id: 5, text: " a".into(), logprob: -0.5, special: false },
        top_tokens: None,
        generated_text: None,
        details: None,
    };
    let token = r#"{"id":5,"text":" a","logprob":-0.5,"special":false}"#;
    assert_eq!(
        step.to_event().unwrap(),
        format!("data: {{\"index\":1,\"token\":{token},\"generated_text\":null,\"details\":null}}\n\n")
    );
    let details =
        StepDetails { finish_reason: GenerationEnd::EosToken, generated_tokens: 1, seed: None, input_length: 3 };
    let last = GenerationStep { generated_text: Some(" a".into()), details: Some(details), ..step };
    let event = last.to_event().unwrap();
    assert!(event.contains(r#""finish_reason":"eos_token""#) && event.contains(r#""generated_text":" a""#), "{event}");
    assert_eq!(
        GenerationStep::fault(&Fault::new(FaultKind::Overloaded, "full")),
        "data: {\"error\":\"full\",\"error_type\":\"Overloaded\"}\n\n"
    );
}
