use serde_json::Value;

use super::*;

/// The cases of the fixtures that ask for several answers, as `Search` does.
#[test]
fn several_answers_are_those_of_the_pipeline() {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let files = ModelFiles::folder(format!("{repository}/models/tiny-text-answer")).unwrap();
    let answerer = Answerer::load(&files, &Options::default()).unwrap();
    for fixture in ["answer", "no_answer"] {
        let path = format!("{repository}/tests/fixtures/pipelines/{fixture}.json");
        let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        let tested = cases.iter().filter(|case| is_found(&answerer, case)).count();
        assert!(tested > 10);
    }
}

/// Whether a case is one of ours; its answers must then be the pipeline's.
fn is_found(answerer: &Answerer, case: &Value) -> bool {
    let given = case["options"].as_object().unwrap();
    if given.contains_key("align_to_words") {
        return false;
    }
    let number = |key: &str, default| given.get(key).and_then(Value::as_u64).map_or(default, |n| n as usize);
    let search = Search {
        answers: number("top_k", 1),
        max_answer_len: number("max_answer_len", 15),
        no_answer: given.get("handle_impossible_answer") == Some(&Value::Bool(true)),
    };
    let text = |key: &str| case["input"][key].as_str().unwrap();
    let question = Question { question: text("question"), context: text("context") };
    let prepared = answerer.prepare_search(&[question], search);
    let sequences: Vec<_> = prepared.sequences().iter().collect();
    let batch = PackedBatch::new(&sequences.iter().map(|sequence| sequence.ids()).collect::<Vec<_>>()).unwrap();
    let rows = answerer.compute(&batch, &sequences, &()).unwrap();
    let found = answerer.found(&prepared.plan, rows).remove(0).unwrap();
    // Of a short context the pipeline also lists spans from [CLS], which score nothing.
    let scores = |answer: &&Value| answer["score"].as_f64() != Some(0.0);
    let expected: Vec<&Value> = case["output"].as_array().unwrap().iter().filter(scores).collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let place = (expected["start"].as_u64().unwrap() as usize, expected["end"].as_u64().unwrap() as usize);
        assert_eq!((found.start, found.end), place, "{case}");
        assert_eq!(expected["answer"], found.answer.as_str());
        assert!((f64::from(found.score) - expected["score"].as_f64().unwrap()).abs() < 1e-5);
    }
    true
}

fn window(ids: &[u32], context_from: usize) -> Encoding {
    let len = ids.len();
    let inside = |token: usize| token >= context_from && token < len - 1;
    Encoding {
        ids: ids.to_vec(),
        tokens: vec![String::new(); len],
        offsets: (0..len)
            .map(|token| if inside(token) { (token - context_from, token - context_from + 1) } else { (0, 0) })
            .collect(),
        sequences: (0..len).map(|token| if inside(token) { Some(1) } else { None }).collect(),
        words: (0..len).map(|token| if inside(token) { Some((token - context_from) as u32) } else { None }).collect(),
        special: vec![false; len],
        truncated: false,
    }
}

fn scores(start: &[f32], end: &[f32]) -> Scores {
    let rows: Vec<Vec<f32>> = start.iter().zip(end).map(|(&start, &end)| vec![start, end]).collect();
    Scores::new(&rows)
}

#[test]
fn only_the_context_answers_and_only_forwards() {
    let encoding = window(&[2, 9, 3, 20, 21, 22, 3], 3);
    // The question and the special tokens have the highest logits; in the context the end peaks before the start.
    let scores = scores(&[9.0, 9.0, 9.0, 0.0, 1.0, 4.0, 9.0], &[9.0, 9.0, 9.0, 5.0, 0.0, 2.0, 9.0]);
    let search = Search { answers: 1, max_answer_len: 15, no_answer: false };
    let answers = search.answers("abc", &[(&encoding, scores)], Some(2));
    assert_eq!((answers.len(), answers[0].answer.as_str()), (1, "c"));
    assert_eq!((answers[0].start, answers[0].end), (2, 3));
}

#[test]
fn answers_are_no_longer_than_allowed() {
    let encoding = window(&[2, 9, 3, 20, 21, 22, 3], 3);
    let scores = scores(&[0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0], &[0.0, 0.0, 0.0, 0.0, 1.0, 9.0, 0.0]);
    for (max_answer_len, expected) in [(3, "abc"), (2, "ab"), (1, "c")] {
        let search = Search { answers: 1, max_answer_len, no_answer: false };
        let answers = search.answers("abc", &[(&encoding, scores.clone())], Some(2));
        assert_eq!(answers[0].answer, expected, "{max_answer_len}");
    }
}

#[test]
fn the_same_text_in_two_windows_is_one_answer() {
    let encoding = window(&[2, 9, 3, 20, 3], 3);
    let flat = || scores(&[0.0; 5], &[0.0; 5]);
    let search = Search { answers: 3, max_answer_len: 15, no_answer: false };
    let one = search.answers("a", &[(&encoding, flat())], Some(2));
    let two = search.answers("a", &[(&encoding, flat()), (&encoding, flat())], Some(2));
    assert_eq!((one.len(), two.len()), (1, 1));
    assert_eq!(two[0].score, 2.0 * one[0].score);
    // [CLS] shares the probability with the one context token.
    assert_eq!(one[0].score, 0.25);
}

#[test]
fn no_answer_is_as_likely_as_the_window_that_doubts_it_most_says() {
    let encoding = window(&[2, 9, 3, 20, 21, 3], 3);
    let of_first = |logit: f32| scores(&[logit, 0.0, 0.0, 0.0, 0.0, 0.0], &[logit, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let search = Search { answers: 9, max_answer_len: 1, no_answer: true };
    let none = |windows: &[(&Encoding, Scores)]| {
        let answers = search.answers("ab", windows, Some(2));
        let none = answers.iter().position(|answer| answer.answer.is_empty()).unwrap();
        assert_eq!((answers[none].start, answers[none].end), (0, 0));
        (none, answers[none].score)
    };
    // Of [CLS] and two context tokens.
    let share = |logit: f32| (logit.exp() / (logit.exp() + 2.0)).powi(2);
    for logit in [3.0, -3.0] {
        let (place, score) = none(&[(&encoding, of_first(logit))]);
        assert!((score - share(logit)).abs() < 1e-6, "{score}");
        assert_eq!(place, if logit > 0.0 { 0 } else { 2 });
    }
    let (_, score) = none(&[(&encoding, of_first(3.0)), (&encoding, of_first(-3.0)), (&encoding, of_first(1.0))]);
    assert!((score - share(-3.0)).abs() < 1e-6, "{score}");
    assert!(
        Search { no_answer: false, ..search }
            .answers("ab", &[(&encoding, of_first(3.0))], Some(2))
            .iter()
            .all(|answer| !answer.answer.is_empty())
    );
}
