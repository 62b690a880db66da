//! From start and end logits to answers.

use super::super::numbers::softmax;
use super::Answer;
use crate::finite::is_comparable;
use crate::tokenizer::Encoding;

/// What stands for minus infinity in the reference.
const MASKED: f32 = -10_000.0;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// How many answers.
    pub(super) answers: usize,
    /// The longest span, in tokens; at least one.
    pub(super) max_answer_len: usize,
    /// Whether "none" may be an answer.
    pub(super) no_answer: bool,
}

/// A window's logits.
#[derive(Debug, Clone)]
pub struct Scores {
    start: Vec<f32>,
    end: Vec<f32>,
}

/// A range of tokens of a window, both ends included.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
    score: f32,
}

impl Scores {
    /// From rows of `[start, end]`.
    pub(super) fn new(logits: &[Vec<f32>]) -> Self {
        Self { start: logits.iter().map(|row| row[0]).collect(), end: logits.iter().map(|row| row[1]).collect() }
    }

    /// Whether none is NaN or +∞.
    pub(super) fn are_comparable(&self) -> bool {
        is_comparable(&self.start) && is_comparable(&self.end)
    }
}

impl Search {
    /// The best answers over all windows of one context, best first. Spans that name the same text count as one
    /// answer with the sum of their scores. "None" is an answer of its own, and scores as in the window that believes
    /// in it least.
    pub(super) fn answers(&self, context: &str, windows: &[(&Encoding, Scores)], cls: Option<u32>) -> Vec<Answer> {
        let scalars: Vec<char> = context.chars().collect();
        let mut answers: Vec<(Answer, f64)> = Vec::new();
        let mut none = f32::INFINITY;
        for (encoding, scores) in windows {
            let (spans, of_first) = self.spans(encoding, scores, cls);
            none = none.min(of_first);
            for span in spans {
                let (start, end) = bounds(encoding, span);
                let answer: String = scalars.get(start..end).unwrap_or_default().iter().collect();
                let same = |(known, _): &&mut (Answer, f64)| known.answer.to_lowercase() == answer.to_lowercase();
                match answers.iter_mut().find(same) {
                    Some((_, score)) => *score += f64::from(span.score),
                    None => answers.push((Answer { answer, score: 0.0, start, end }, f64::from(span.score))),
                }
            }
        }
        if self.no_answer && !windows.is_empty() {
            answers.push((Answer { answer: String::new(), score: 0.0, start: 0, end: 0 }, f64::from(none)));
        }
        answers.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        answers.truncate(self.answers);
        answers.into_iter().map(|(answer, score)| Answer { score: score as f32, ..answer }).collect()
    }

    /// The best spans of one window, and the score of its first token, which stands for "no answer". More than asked
    /// for are looked at, as several may name one text.
    fn spans(&self, encoding: &Encoding, scores: &Scores, cls: Option<u32>) -> (Vec<Span>, f32) {
        let keep = self.answers * 2 + 10;
        let len = encoding.ids.len();
        let in_context = |token: usize| encoding.sequences[token] == Some(1);
        // The first token takes its share of the probability and is never part of a span.
        let counts = |token: usize| in_context(token) || Some(encoding.ids[token]) == cls;
        let mut start = probabilities(&scores.start, counts);
        let mut end = probabilities(&scores.end, counts);
        let of_first = take_first(&mut start) * take_first(&mut end);

        let mut best: Vec<Span> = Vec::new();
        for first in (0..len).filter(|&first| in_context(first)) {
            for last in (first..len.min(first.saturating_add(self.max_answer_len))).filter(|&last| in_context(last)) {
                let score = start[first] * end[last];
                if best.len() == keep && best[keep - 1].score >= score {
                    continue;
                }
                let place = best.partition_point(|span| span.score >= score);
                best.insert(place, Span { first, last, score });
                best.truncate(keep);
            }
        }
        (best, of_first)
    }
}

/// Softmax over the tokens that count.
fn probabilities(logits: &[f32], counts: impl Fn(usize) -> bool) -> Vec<f32> {
    let masked: Vec<f32> =
        logits.iter().enumerate().map(|(token, &logit)| if counts(token) { logit } else { MASKED }).collect();
    softmax(&masked)
}

/// The first token's probability, which is then zero.
fn take_first(probabilities: &mut [f32]) -> f32 {
    probabilities.first_mut().map(std::mem::take).unwrap_or_default()
}

/// Where a span lies in the context, widened to whole words of the pre-tokenizer.
fn bounds(encoding: &Encoding, span: Span) -> (usize, usize) {
    let same_word = |token: usize| {
        let word = encoding.words[token];
        (0..encoding.ids.len())
            .filter(move |&other| encoding.sequences[other] == Some(1) && encoding.words[other] == word)
    };
    match (encoding.words[span.first], encoding.words[span.last]) {
        (Some(_), Some(_)) => {
            let start = same_word(span.first).map(|token| encoding.offsets[token].0).min();
            let end = same_word(span.last).map(|token| encoding.offsets[token].1).max();
            (start.unwrap_or(0), end.unwrap_or(0))
        }
        // A token of no word keeps its own place.
        _ => (encoding.offsets[span.first].0, encoding.offsets[span.last].1),
    }
}
