use super::*;

fn window(ids: &[u32], context_from: usize) -> Encoding {
    let len = ids.len();
    let inside = |token: usize| token >= context_from && token < len - 1;
    Encoding {
        ids: ids.to_vec(),
        tokens: vec![String::new(); len],
        offsets: (0..len).map(|token| if inside(token) { (token - context_from, token - context_from + 1) } else { (0, 0) }).collect(),
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
    let search = Search { answers: 1, max_answer_len: 15 };
    let answers = search.answers("abc", &[(&encoding, scores)], Some(2));
    assert_eq!((answers.len(), answers[0].answer.as_str()), (1, "c"));
    assert_eq!((answers[0].start, answers[0].end), (2, 3));
}

#[test]
fn answers_are_no_longer_than_allowed() {
    let encoding = window(&[2, 9, 3, 20, 21, 22, 3], 3);
    let scores = scores(&[0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0], &[0.0, 0.0, 0.0, 0.0, 1.0, 9.0, 0.0]);
    for (max_answer_len, expected) in [(3, "abc"), (2, "ab"), (1, "c")] {
        let search = Search { answers: 1, max_answer_len };
        let answers = search.answers("abc", &[(&encoding, scores.clone())], Some(2));
        assert_eq!(answers[0].answer, expected, "{max_answer_len}");
    }
}

#[test]
fn the_same_text_in_two_windows_is_one_answer() {
    let encoding = window(&[2, 9, 3, 20, 3], 3);
    let flat = || scores(&[0.0; 5], &[0.0; 5]);
    let search = Search { answers: 3, max_answer_len: 15 };
    let one = search.answers("a", &[(&encoding, flat())], Some(2));
    let two = search.answers("a", &[(&encoding, flat()), (&encoding, flat())], Some(2));
    assert_eq!((one.len(), two.len()), (1, 1));
    assert_eq!(two[0].score, 2.0 * one[0].score);
    // [CLS] shares the probability with the one context token.
    assert_eq!(one[0].score, 0.25);
}
