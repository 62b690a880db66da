//! `clean_up_tokenization_spaces` of transformers: spaces before punctuation and English contractions go.

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
