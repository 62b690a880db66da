//! Stop strings, found across the borders of tokens.

use std::ops::Range;
use std::sync::Arc;

/// Lets text through up to the first stop string. Text that may be the beginning of one is held back.
///
/// Spellings of special tokens are looked at and never let through: a stop string may be one, or reach from text into
/// one.
#[derive(Debug, Clone)]
pub(super) struct StopFilter {
    stops: Arc<[String]>,
    held: String,
    /// Where in `held` special tokens are spelled, in order.
    hidden: Vec<Range<usize>>,
    /// Which stop string was found.
    found: Option<usize>,
}

impl StopFilter {
    /// `stops` must not hold empty strings.
    pub(super) fn new(stops: Arc<[String]>) -> Self {
        Self { stops, held: String::new(), hidden: Vec::new(), found: None }
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_off(&self) -> bool {
        self.stops.is_empty()
    }

    /// Takes text, and the spelling of a special token behind it if there is one; returns what is certain to come
    /// before any stop string, and whether one was found.
    pub(super) fn push(&mut self, text: &str, hidden: &str) -> (String, bool) {
        if self.is_off() {
            return (text.to_owned(), false);
        }
        self.held.push_str(text);
        if !hidden.is_empty() {
            self.hidden.push(self.held.len()..self.held.len() + hidden.len());
            self.held.push_str(hidden);
        }
        let starts = self.stops.iter().enumerate().filter_map(|(n, stop)| Some((self.held.find(stop.as_str())?, n)));
        if let Some((start, stop)) = starts.min() {
            self.found = Some(stop);
            let text = self.take(start);
            (self.held, self.hidden) = Default::default();
            return (text, true);
        }
        (self.take(self.held.len() - self.longest_beginning()), false)
    }

    /// The text before a stop string, if `more`, which is not certain yet, completes one, with the spelling behind it.
    pub(super) fn complete_with(&mut self, more: &str, hidden: &str) -> Option<String> {
        if self.is_off() || more.is_empty() {
            return None;
        }
        let mut filter = self.clone();
        let (text, found) = filter.push(more, hidden);
        found.then(|| {
            *self = filter;
            text
        })
    }

    /// The stop string that was found.
    pub(super) fn found(&self) -> Option<&str> {
        self.stops.get(self.found?).map(String::as_str)
    }

    /// The text held back, when no more follows.
    pub(super) fn finish(&mut self) -> String {
        self.take(self.held.len())
    }

    /// Bytes of text held back.
    pub(super) fn waiting(&self) -> usize {
        self.held.len() - self.hidden.iter().map(Range::len).sum::<usize>()
    }

    /// Lets go of the first `end` bytes held, and returns those of them that are text.
    fn take(&mut self, end: usize) -> String {
        let rest = self.held.split_off(end);
        let mut taken = std::mem::replace(&mut self.held, rest);
        for range in self.hidden.iter().rev().filter(|range| range.start < end) {
            taken.replace_range(range.start..range.end.min(end), "");
        }
        self.hidden.retain_mut(|range| {
            *range = range.start.saturating_sub(end)..range.end.saturating_sub(end);
            range.start < range.end
        });
        taken
    }

    /// Bytes at the end of the held text with which a stop string begins.
    fn longest_beginning(&self) -> usize {
        let beginning = |stop: &String| {
            let ends = stop.char_indices().map(|(index, _)| index).rev();
            ends.into_iter().find(|&end| self.held.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.stops.iter().map(beginning).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text let through when it arrives in pieces, and whether it was stopped.
    fn through(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Arc<[String]> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut filter = StopFilter::new(stops.clone());
        let mut text = String::new();
        for piece in pieces {
            let (passed, stopped) = filter.push(piece, "");
            text += &passed;
            // Nothing let through may turn out to be part of a stop string.
            assert!(stops.iter().all(|stop| !text.contains(stop.as_str())));
            if stopped {
                return (text, true);
            }
        }
        (text + &filter.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        let text = "one END two";
        for cut in 0..text.len() {
            let pieces = [&text[..cut], &text[cut..]];
            assert_eq!(through(&["END"], &pieces), ("one ".to_string(), true), "{cut}");
        }
        let letters: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(through(&["END"], &letters), ("one ".to_string(), true));
    }

    #[test]
    fn beginnings_of_a_stop_string_are_held_and_returned() {
        let stops = [String::from("\n\n###")];
        let mut filter = StopFilter::new(stops.into());
        assert_eq!(filter.push("a\n", ""), ("a".into(), false));
        assert_eq!(filter.push("\n", ""), (String::new(), false));
        assert_eq!(filter.push("\n", ""), ("\n".into(), false));
        assert_eq!(filter.push("##", ""), (String::new(), false));
        assert_eq!(filter.push("x", ""), ("\n\n##x".into(), false));
        assert_eq!(filter.finish(), "");
        assert_eq!(through(&["\n\n###"], &["a\n\n#"]), ("a\n\n#".into(), false));
    }

    #[test]
    fn the_earliest_of_several_wins() {
        assert_eq!(through(&["two", "one"], &["zero one two"]), ("zero ".into(), true));
        assert_eq!(through(&["aab", "ab"], &["a", "a", "b"]), (String::new(), true));
        assert_eq!(through(&[], &["a", "b"]), ("ab".into(), false));
    }

    /// As [`through`], with special tokens between pieces.
    fn through_special(stops: &[&str], pieces: &[(&str, &str)]) -> (String, bool) {
        let stops: Arc<[String]> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut filter = StopFilter::new(stops.clone());
        let mut text = String::new();
        for (piece, hidden) in pieces {
            let (passed, stopped) = filter.push(piece, hidden);
            text += &passed;
            if stopped {
                return (text, true);
            }
        }
        (text + &filter.finish(), false)
    }

    #[test]
    fn special_tokens_are_looked_at_and_left_out() {
        let pieces = [("one ", ""), ("two", "<end>"), (" three", ""), ("", "<end>"), ("four", "")];
        let stopped = |stop: &str| through_special(&[stop], &pieces);
        assert_eq!(stopped("<end>"), ("one two".into(), true));
        assert_eq!(stopped("nd"), ("one two".into(), true));
        assert_eq!(stopped("two<end>"), ("one ".into(), true));
        assert_eq!(stopped("<end> thr"), ("one two".into(), true));
        assert_eq!(stopped("three<end>four"), ("one two ".into(), true));
        assert_eq!(stopped("r"), ("one two th".into(), true));
        // Beginnings that come to nothing.
        for stop in ["two three", "<end>four!", "d> three<e>"] {
            assert_eq!(stopped(stop), ("one two threefour".into(), false), "{stop}");
        }
    }

    #[test]
    fn uncertain_text_can_complete_a_stop_string() {
        let stops = [String::from("ab")];
        let mut filter = StopFilter::new(stops.into());
        assert_eq!(filter.push("xa", ""), ("x".into(), false));
        assert_eq!((filter.complete_with("c", ""), filter.waiting()), (None, 1));
        assert_eq!(filter.complete_with("b", ""), Some(String::new()));
    }

    #[test]
    fn borders_inside_characters_do_not_matter() {
        assert_eq!(through(&["é→"], &["aé", "é", "→"]), ("aé".into(), true));
        assert_eq!(through(&["→→"], &["→", "x→"]), ("→x→".into(), false));
    }
}
