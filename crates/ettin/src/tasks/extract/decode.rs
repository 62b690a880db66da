//! Which spans are entities: greedily by score, as gliner chooses them.

use super::EntityRequest;
use crate::tasks::numbers::{descending, sigmoid};

/// A span of words with a label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ChosenSpan {
    /// First and last word.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) label: usize,
    pub(super) score: f32,
}

/// The entities of a text of `words` words, by their first word; of equal ones the best first. `logits` has one number
/// for each label of each span.
pub(super) fn decode(
    spans: impl Iterator<Item = (usize, usize)>,
    logits: &[f32],
    labels: usize,
    words: usize,
    request: &EntityRequest,
) -> Vec<ChosenSpan> {
    let mut candidates = Vec::new();
    for ((start, end), logits) in spans.zip(logits.chunks_exact(labels.max(1))) {
        let scores = logits.iter().map(|&logit| sigmoid(logit)).enumerate();
        let above = scores.filter(|(_, score)| *score > request.threshold);
        candidates.extend(above.map(|(label, score)| ChosenSpan { start, end, label, score }));
    }
    // Equal scores keep their order.
    candidates.sort_by(|a, b| descending(a.score, b.score));
    let mut taken = Taken::new(words, request);
    candidates.retain(|span| taken.take(span));
    candidates.sort_by_key(|span| span.start);
    candidates
}

/// The spans that are entities so far. No two of them conflict, so that one that is there once is there again without
/// conflict, and others are looked up by word instead of compared one by one.
struct Taken {
    nested: bool,
    multi_label: bool,
    /// Whether a word is part of an entity.
    words: Vec<bool>,
    /// The last ends of entities that begin with a word.
    ends: Vec<Vec<usize>>,
    /// The first beginning of entities that end with a word.
    starts: Vec<Option<usize>>,
}

impl Taken {
    fn new(words: usize, request: &EntityRequest) -> Self {
        let EntityRequest { nested, multi_label, .. } = *request;
        Self {
            nested,
            multi_label,
            words: vec![false; words],
            ends: vec![Vec::new(); words],
            starts: vec![None; words],
        }
    }

    /// Takes a span that conflicts with none that was taken.
    fn take(&mut self, &ChosenSpan { start, end, .. }: &ChosenSpan) -> bool {
        if self.ends[start].contains(&end) {
            return self.multi_label;
        }
        let conflict = match self.nested {
            false => self.words[start..=end].contains(&true),
            true => self.crosses(start, end),
        };
        if conflict {
            return false;
        }
        self.words[start..=end].fill(true);
        self.ends[start].push(end);
        self.starts[end] = Some(self.starts[end].map_or(start, |first| first.min(start)));
        true
    }

    /// Whether an entity shares words with a span of which neither is inside the other.
    fn crosses(&self, start: usize, end: usize) -> bool {
        let behind = (start + 1..=end).any(|word| self.ends[word].iter().any(|&other| other > end));
        behind || self.starts[start..end].iter().any(|first| first.is_some_and(|first| first < start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's own loops.
    fn by_comparison(mut candidates: Vec<ChosenSpan>, nested: bool, multi_label: bool) -> Vec<ChosenSpan> {
        candidates.sort_by(|a, b| descending(a.score, b.score));
        let mut kept: Vec<ChosenSpan> = Vec::new();
        for span in candidates {
            let conflict = |other: &ChosenSpan| {
                if (other.start, other.end) == (span.start, span.end) {
                    return !multi_label;
                }
                let apart = span.start > other.end || other.start > span.end;
                let inside = |a: &ChosenSpan, b: &ChosenSpan| a.start <= b.start && a.end >= b.end;
                !(apart || (nested && (inside(&span, other) || inside(other, &span))))
            };
            if !kept.iter().any(conflict) {
                kept.push(span);
            }
        }
        kept.sort_by_key(|span| span.start);
        kept
    }

    #[test]
    fn the_same_spans_as_by_comparison() {
        let (words, width, labels) = (9, 4, 2);
        let spans = || crate::heads::spans(words, width);
        let mut seed = 7u32;
        for round in 0..200 {
            let mut number = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Few values, so that scores are equal.
                ((seed >> 24) % 12) as f32 / 4.0 - 1.0
            };
            let logits: Vec<f32> = (0..spans().count() * labels).map(|_| number()).collect();
            for (nested, multi_label) in [(false, false), (false, true), (true, false), (true, true)] {
                let request = EntityRequest { threshold: 0.4, nested, multi_label };
                let all = EntityRequest { threshold: 0.4, nested: true, multi_label: true };
                let mut candidates = Vec::new();
                for ((start, end), logits) in spans().zip(logits.chunks_exact(labels)) {
                    let scores = logits.iter().map(|&logit| sigmoid(logit)).enumerate();
                    let above = scores.filter(|(_, score)| *score > all.threshold);
                    candidates.extend(above.map(|(label, score)| ChosenSpan { start, end, label, score }));
                }
                let ours = decode(spans(), &logits, labels, words, &request);
                assert_eq!(ours, by_comparison(candidates, nested, multi_label), "round {round}");
            }
        }
    }
}
