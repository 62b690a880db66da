//! Hypotheses: sentences with a place for a label.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A sentence with a place for a label, in the notation of Python's `str.format`: `{}` once or `{0}` any number of
/// times; `{{` and `}}` are braces.
///
/// ```
/// use ettin::tasks::HypothesisTemplate;
///
/// let template: HypothesisTemplate = "This text is about {}.".parse()?;
/// assert_eq!(template.hypothesis("sports"), "This text is about sports.");
/// assert!("This text is about sports.".parse::<HypothesisTemplate>().is_err());
/// # Ok::<(), ettin::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypothesisTemplate {
    /// As it was given.
    text: String,
    /// What stands before, between and behind the places of the label.
    around: Vec<String>,
}

impl HypothesisTemplate {
    /// The sentence with a label in its place.
    pub fn hypothesis(&self, label: &str) -> String {
        self.around.join(label)
    }

    /// The hypotheses of labels, of which there must be one.
    ///
    /// The pipeline of transformers tells a template without a place by the first label, which leaves it unchanged.
    pub(super) fn hypotheses(&self, labels: &[&str]) -> Result<Vec<String>> {
        let Some(first) = labels.first() else {
            return Err(Error::input("there are no labels to choose from"));
        };
        if self.hypothesis(first) == self.text {
            return Err(Error::input(format!(
                "the template {:?} is the same with the label {first:?} in it; it needs a {{}} where the label belongs",
                self.text
            )));
        }
        Ok(labels.iter().map(|label| self.hypothesis(label)).collect())
    }

    fn refused(text: &str, reason: &str) -> Error {
        Error::input(format!("the template {text:?}: {reason}"))
    }
}

impl Default for HypothesisTemplate {
    /// That of transformers: `This example is {}.`
    fn default() -> Self {
        let around = vec!["This example is ".to_owned(), ".".to_owned()];
        Self { text: "This example is {}.".to_owned(), around }
    }
}

impl FromStr for HypothesisTemplate {
    type Err = Error;

    /// # Errors
    /// [`Error::Input`] for a template without a place for the label, and for what `str.format` refuses; other fields
    /// than `{}` and `{0}` are refused by name.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |reason: &str| Err(Self::refused(text, reason));
        let (mut around, mut automatic, mut manual) = (vec![String::new()], 0, 0);
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            if let Some(last) = around.last_mut() {
                last.push_str(before);
            }
            let escaped = ["{{", "}}"].into_iter().find(|escaped| brace.starts_with(escaped));
            if let (Some(escaped), Some(last)) = (escaped, around.last_mut()) {
                last.push_str(&escaped[1..]);
                rest = &brace[2..];
                continue;
            }
            let Some(inside) = brace.strip_prefix('{') else {
                return refused("a single '}'; write }} for a brace");
            };
            let Some((field, behind)) = inside.split_once('}') else {
                return refused("a '{' without its '}'; write {{ for a brace");
            };
            match field {
                "" => automatic += 1,
                "0" => manual += 1,
                _ => return refused(&format!("the field {{{field}}} is not supported; write {{}} for the label")),
            }
            around.push(String::new());
            rest = behind;
        }
        if let Some(last) = around.last_mut() {
            last.push_str(rest);
        }
        match (automatic, manual) {
            (0, 0) if !text.contains(['{', '}']) => refused("it needs a {} where the label belongs"),
            (0, _) | (1, 0) => Ok(Self { text: text.to_owned(), around }),
            (_, 0) => refused("there is one label, and more than one {}; {0} may stand several times"),
            _ => refused("{} and {0} do not go together"),
        }
    }
}

impl fmt::Display for HypothesisTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_those_of_str_format() {
        let label = |text: &str| text.parse::<HypothesisTemplate>().map(|template| template.hypothesis("x"));
        for (text, made) in [
            ("This example is {}.", "This example is x."),
            ("{}", "x"),
            ("{0} or {0}?", "x or x?"),
            ("{{{}}} é{{}}", "{x} é{}"),
            ("a {{b}}", "a {b}"),
        ] {
            assert_eq!(label(text).unwrap(), made);
        }
        assert_eq!(HypothesisTemplate::default(), "This example is {}.".parse().unwrap());
        for (text, reason) in [
            ("no place", "needs a {}"),
            ("", "needs a {}"),
            ("{} and {}", "more than one {}"),
            ("{} and {0}", "do not go together"),
            ("{label}", "{label} is not supported"),
            ("{1}", "{1} is not supported"),
            ("{:>9}", "{:>9} is not supported"),
            ("{!r}", "{!r} is not supported"),
            ("a } b {}", "single '}'"),
            ("{", "without its '}'"),
            ("{} {", "without its '}'"),
        ] {
            let error = label(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_first_label_tells_whether_there_is_a_place() {
        let template: HypothesisTemplate = "It is {}.".parse().unwrap();
        assert!(template.hypotheses(&[]).unwrap_err().to_string().contains("no labels"));
        assert!(template.hypotheses(&["{}", "a"]).unwrap_err().to_string().contains("needs a {}"));
        assert_eq!(template.hypotheses(&["a", "{}"]).unwrap(), ["It is a.", "It is {}."]);
        let braces: HypothesisTemplate = "{{}}".parse().unwrap();
        assert_eq!(braces.hypotheses(&["a"]).unwrap(), ["{}"]);
    }
}
