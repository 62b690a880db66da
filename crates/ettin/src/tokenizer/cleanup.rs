//! `clean_up_tokenization_spaces` of transformers: spaces before punctuation and English contractions go.
//!
//! The library replaces one pattern after another in the whole text. [`Cleaner`] does the same to a text that comes in
//! pieces: each pattern is a stage that holds back what may be the pattern's beginning.

/// Patterns in their order, as transformers 5.23 has them.
const PATTERNS: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// The whole text at once.
pub(super) fn clean_up(text: &str) -> String {
    PATTERNS.iter().fold(text.to_owned(), |text, (pattern, with)| text.replace(pattern, with))
}

/// The text in pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Cleaner {
    /// What each stage holds back.
    held: [String; PATTERNS.len()],
}

impl Cleaner {
    /// Takes text; returns what is certain.
    pub(super) fn push(&mut self, text: &str) -> String {
        self.run(text, false)
    }

    /// The rest.
    pub(super) fn finish(&mut self) -> String {
        self.run("", true)
    }

    /// Whether nothing is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.held.iter().all(String::is_empty)
    }

    fn run(&mut self, text: &str, last: bool) -> String {
        self.held.iter_mut().zip(PATTERNS).fold(text.to_owned(), |text, (held, (pattern, with))| {
            held.push_str(&text);
            // What a whole match leaves behind it begins no other match.
            let behind = held.match_indices(pattern).last().map_or(0, |(start, _)| start + pattern.len());
            let open = |length: &usize| held[behind..].ends_with(&pattern[..*length]);
            let open = if last { 0 } else { (1..pattern.len()).rev().find(open).unwrap_or(0) };
            let rest = held.split_off(held.len() - open);
            std::mem::replace(held, rest).replace(pattern, with)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cleaned_as_the_whole() {
        // Every text of eight characters over those that patterns are made of would be many: a counter walks a part of
        // them.
        let alphabet = [" ", " ", "'", ".", "n", "t", "m", "v", "e", "r", "a"];
        let mut state = 7u64;
        for _ in 0..20_000 {
            let mut next = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let text: String = (0..12).map(|_| alphabet[next(alphabet.len())]).collect();
            let mut cleaner = Cleaner::default();
            let mut pieces = String::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(1 + next(rest.len().min(4)));
                pieces += &cleaner.push(piece);
                rest = more;
            }
            pieces += &cleaner.finish();
            assert!(cleaner.is_empty());
            assert_eq!(pieces, clean_up(&text), "{text:?}");
        }
    }

    #[test]
    fn replacements_come_one_after_the_other() {
        assert_eq!(clean_up("It is n't , is it ? I 'm sure ."), "It isn't, is it? I'm sure.");
        assert_eq!(clean_up("a  ' m"), "a'm");
    }
}
