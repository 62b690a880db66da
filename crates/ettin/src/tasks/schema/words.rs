//! Words of a text, as gliner2 splits them: addresses of the web and of mail, names behind `@`, words with their marks.

use std::sync::LazyLock;

use regex::Regex;

/// Python's `[a-z]` without regard to case has four letters more, and its white space four separators.
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let letter = r"a-zA-Z\u{130}\u{131}\u{17f}\u{212a}";
    let word = r"[\p{L}\p{N}\p{M}_\u{200c}\u{200d}]";
    let black = r"[^\s\x1c-\x1f]";
    Regex::new(&format!(
        r"(?:(?i:https?)://{black}+|(?i:www)\.{black}+)|[{letter}0-9._%+-]+@[{letter}0-9.-]+\.[{letter}]{{2,}}|@[{letter}0-9_]+|{word}+(?:[-_]{word}+)*|{black}"
    ))
    .ok()
});

/// The words of a text in lower case, behind a full stop where the text does not end a sentence.
pub(super) fn words(text: &str) -> Vec<String> {
    let text = match text.ends_with(['.', '!', '?']) {
        true => text.to_owned(),
        false => format!("{text}."),
    };
    let found = WORD.iter().flat_map(|pattern| pattern.find_iter(&text));
    found.map(|word| word.as_str().to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_library() {
        assert_eq!(words("See HTTPS://a.b/C?d=1 now"), ["see", "https://a.b/c?d=1", "now", "."]);
        assert_eq!(words("www.x.y!"), ["www.x.y!"]);
        assert_eq!(words("Mail a.b+c@x-y.org, @Me_1"), ["mail", "a.b+c@x-y.org", ",", "@me_1", "."]);
        assert_eq!(words("a@b.c"), ["a", "@b", ".", "c", "."]);
        assert_eq!(words("e\u{301}té well-known_ हिन्दी?"), ["e\u{301}té", "well-known_", "हिन्दी", "?"]);
        assert_eq!(words(""), ["."]);
        assert_eq!(words(" \u{1c}"), ["."]);
    }
}
