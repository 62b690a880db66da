//! Words of a text, as gliner splits them: `\w+(?:[-_]\w+)*|\S`.

use std::sync::LazyLock;

use regex::Regex;

/// A word, and where it is in Unicode scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where it begins and ends in bytes.
    pub(super) bytes: (usize, usize),
}

/// Python's `\w` is letters, numbers and `_` (no combining marks), and its white space has four separators more.
static WORD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+(?:[-_][\p{L}\p{N}_]+)*|[^\s\x1c-\x1f]").ok());

/// The words of a text, in order.
pub(super) fn words(text: &str) -> Vec<Word<'_>> {
    let Some(pattern) = &*WORD else {
        return Vec::new();
    };
    let (mut at, mut scalars) = (0, 0);
    let word = |found: regex::Match<'_>| {
        let start = scalars + text[at..found.start()].chars().count();
        let end = start + text[found.start()..found.end()].chars().count();
        (at, scalars) = (found.end(), end);
        Word { text: &text[found.start()..found.end()], start, end, bytes: (found.start(), found.end()) }
    };
    pattern.find_iter(text).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_library() {
        let split = |text| words(text).iter().map(|word| word.text.to_owned()).collect::<Vec<_>>();
        assert_eq!(split("well-known_place, isn't"), ["well-known_place", ",", "isn", "'", "t"]);
        assert_eq!(split("-a- --b _c 3.5"), ["-", "a", "-", "-", "-", "b", "_c", "3", ".", "5"]);
        // A combining mark is a word of its own, and so is every sign.
        assert_eq!(split("e\u{301} <<ENT>>"), ["e", "\u{301}", "<", "<", "ENT", ">", ">"]);
        assert_eq!(split("٣ ½\u{1c}²"), ["٣", "½", "²"]);
        assert!(split(" \n\u{1f}\u{a0}").is_empty());
    }

    #[test]
    fn offsets_count_scalars() {
        let text = "😀 Zoë!";
        let places: Vec<_> = words(text).iter().map(|word| (word.start, word.end)).collect();
        assert_eq!(places, [(0, 1), (2, 5), (5, 6)]);
        assert_eq!(words(text)[1].bytes, (5, 9));
    }
}
