//! The JSONL records of each kind of task. Unknown fields are errors.

use serde::de::{self, DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use ettin::tasks::TextInput;

use super::Texts;

/// A record's `id`: any JSON scalar, given back as it came.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Id(Value);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Value::String(text) => f.write_str(text),
            other => other.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Integers beyond 64 bits are read as floats and would come back changed.
        const EXACT: f64 = (1u64 << 53) as f64;
        match Value::deserialize(deserializer)? {
            Value::Array(_) | Value::Object(_) => {
                Err(de::Error::custom("id must be a string, a number, true, false or null"))
            }
            Value::Number(number) if number.is_f64() && number.as_f64().unwrap_or(0.0).abs() > EXACT => {
                Err(de::Error::custom("id is too large a number: make it a string"))
            }
            scalar => Ok(Id(scalar)),
        }
    }
}

/// Tells `"id": null`, which is echoed, from no `id`, which is not.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Id>, D::Error> {
    Id::deserialize(deserializer).map(Some)
}

/// A kind of record.
pub(crate) trait Record: DeserializeOwned + Send + 'static {
    /// Takes the `id` out of it.
    fn take_id(&mut self) -> Option<Id>;

    /// Bytes of text in it, by which chunks are cut.
    fn bytes(&self) -> usize;
}

/// `{text}`: fill-mask, embed, tag.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Text {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
}

/// `{text, text_pair}`: classify, tokenize.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextPair {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
    pub(crate) text_pair: Option<String>,
}

/// `{text, context}`: score.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContextText {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
    pub(crate) context: Option<String>,
}

/// `{query, documents}`: rerank.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryDocuments {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) query: String,
    pub(crate) documents: Vec<String>,
}

/// `{question, context}`: answer.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuestionContext {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) question: String,
    pub(crate) context: String,
}

/// `{a, b}`: similarity.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Comparison {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) a: String,
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) b: Vec<String>,
}

/// `{prompt}`: generate.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prompt {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) prompt: String,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "b must be a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

macro_rules! records {
    ($($record:ty: |$it:ident| $bytes:expr;)*) => {$(
        impl Record for $record {
            fn take_id(&mut self) -> Option<Id> {
                self.id.take()
            }

            fn bytes(&self) -> usize {
                let $it = self;
                $bytes
            }
        }
    )*};
}

records! {
    Text: |it| it.text.len();
    TextPair: |it| it.text.len() + it.text_pair.as_ref().map_or(0, String::len);
    ContextText: |it| it.text.len() + it.context.as_ref().map_or(0, String::len);
    QueryDocuments: |it| it.documents.iter().map(|document| it.query.len() + document.len()).sum();
    QuestionContext: |it| it.question.len() + it.context.len();
    Comparison: |it| it.a.len() + it.b.iter().map(String::len).sum::<usize>();
    Prompt: |it| it.prompt.len();
}

impl Text {
    pub(crate) fn new(text: String) -> Self {
        Text { id: None, text }
    }
}

impl TextPair {
    pub(crate) fn new(text: String) -> Self {
        TextPair { id: None, text, text_pair: None }
    }

    /// As the library takes it.
    pub(crate) fn input(&self) -> TextInput<'_> {
        TextInput { text: &self.text, pair: self.text_pair.as_deref() }
    }
}

impl ContextText {
    pub(crate) fn new(text: String) -> Self {
        ContextText { id: None, text, context: None }
    }
}

impl Prompt {
    pub(crate) fn new(prompt: String) -> Self {
        Prompt { id: None, prompt }
    }
}

impl Texts<TextPair> {
    /// Pairs every text that has no second text of its own with this one.
    pub(crate) fn paired(self, pair: Option<String>) -> Self {
        match pair {
            Some(pair) => self.complete(move |record| {
                record.text_pair.get_or_insert_with(|| pair.clone());
            }),
            None => self,
        }
    }
}

impl Texts<ContextText> {
    /// Puts every text that has no context of its own into this one.
    pub(crate) fn in_context(self, context: Option<String>) -> Self {
        match context {
            Some(context) => self.complete(move |record| {
                record.context.get_or_insert_with(|| context.clone());
            }),
            None => self,
        }
    }
}

/// Reads one line of JSONL.
pub(super) fn parse<T: Record>(line: &str) -> Result<T, String> {
    // serde would also take the fields from a list, in their order here.
    if !line.trim_start().starts_with('{') {
        return Err("not a JSON object".into());
    }
    serde_json::from_str(line).map_err(|error| {
        // Each line is a document of its own: serde_json's "line 1" would contradict ours.
        let message = error.to_string();
        match message.rsplit_once(" at line ") {
            Some((what, _)) if error.column() > 0 => {
                format!("{what} (column {})", error.column())
            }
            _ => message,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_given() {
        for id in ["7", "-1", "1.5", "\"a\"", "\"\"", "true", "null", "18446744073709551615"] {
            let mut record: Text = parse(&format!(r#"{{"text":"x","id":{id}}}"#)).unwrap();
            let given = record.take_id().expect(id);
            assert_eq!(serde_json::to_string(&given).unwrap(), id);
        }
        assert_eq!(parse::<Text>(r#"{"text":"x"}"#).unwrap().take_id(), None);
        for bad in ["[1]", "{}", "123456789012345678901234567890"] {
            let error = parse::<Text>(&format!(r#"{{"text":"x","id":{bad}}}"#)).unwrap_err();
            assert!(error.contains("id "), "{bad}: {error}");
        }
    }

    #[test]
    fn fields_are_strict() {
        let error = parse::<Text>(r#"{"text":"x","txt":"y"}"#).unwrap_err();
        assert!(error.contains("unknown field `txt`"), "{error}");
        let error = parse::<Text>("{}").unwrap_err();
        assert!(error.contains("missing field `text`"), "{error}");
        for bad in [r#"{"text":1}"#, r#"{"text":null}"#, r#"{"text":"x"} y"#, r#"{"text":"x","text":"y"}"#, "{"] {
            assert!(parse::<Text>(bad).is_err(), "{bad}");
        }
        assert!(parse::<QueryDocuments>(r#"{"query":"q","documents":"d"}"#).is_err());
    }

    #[test]
    fn records_are_objects() {
        for bad in [r#"[null,"x"]"#, r#""x""#, "3", "null", "x", ""] {
            let error = parse::<Text>(bad).unwrap_err();
            assert_eq!(error, "not a JSON object", "{bad}");
        }
        assert!(parse::<Text>(" {\"text\":\"x\"} ").is_ok());
    }

    #[test]
    fn errors_give_a_column_and_no_line_of_their_own() {
        let error = parse::<Text>(r#"{"text": }"#).unwrap_err();
        assert!(error.contains("column 10") && !error.contains("line 1"), "{error}");
    }

    #[test]
    fn b_is_one_text_or_several() {
        let one: Comparison = parse(r#"{"a":"x","b":"y"}"#).unwrap();
        assert_eq!(one.b, ["y"]);
        let two: Comparison = parse(r#"{"a":"x","b":["y","z"],"id":1}"#).unwrap();
        assert_eq!(two.b, ["y", "z"]);
        let error = parse::<Comparison>(r#"{"a":"x","b":3}"#).unwrap_err();
        assert!(error.contains("a text or a list of texts"), "{error}");
    }
}
