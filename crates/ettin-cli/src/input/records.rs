//! The JSON records of each kind of task.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde_json::{Map, Value};

use ettin::json::non_finite_at;
use ettin::tasks::{TextInput, split_labels};

use super::Texts;
use super::elements::At;
use super::fields::{ExtraFields, Sieve};
use crate::record::{Extra, Id};

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

    /// What is still missing once everything that was said for all records is filled in.
    fn missing(&self) -> Option<&'static str> {
        None
    }
}

/// `{text}`: fill-mask, embed, tag.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Text {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
}

/// `{text, text_pair}`: classify, tokenize.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct TextPair {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
    pub(crate) text_pair: Option<String>,
}

/// `{text, labels}`: classify with labels of one's own.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct LabelledText {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
    #[serde(default, deserialize_with = "labels")]
    labels: Option<Labels>,
}

/// Labels that records may share.
type Labels = Arc<[String]>;

/// `{context, choices}`: choose.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct ContextChoices {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) context: String,
    pub(crate) choices: Vec<String>,
    /// The choices' numbers in the output, where they are not 0, 1, 2, ….
    #[serde(skip)]
    pub(crate) numbers: Option<Vec<usize>>,
}

/// `{text, context}`: score.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct ContextText {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) text: String,
    pub(crate) context: Option<String>,
}

/// `{query, documents}`: rerank.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct QueryDocuments {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) query: String,
    pub(crate) documents: Vec<String>,
    /// The documents' numbers in the output, where they are not 0, 1, 2, ….
    #[serde(skip)]
    pub(crate) numbers: Option<Vec<usize>>,
}

/// `{question, context}`: answer.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct QuestionContext {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) question: Option<String>,
    pub(crate) context: String,
}

/// `{a, b}`: similarity.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Comparison {
    #[serde(default, deserialize_with = "given")]
    pub(crate) id: Option<Id>,
    pub(crate) a: String,
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) b: Vec<String>,
    /// The numbers of the Bs in the output, where they are not 0, 1, 2, ….
    #[serde(skip)]
    pub(crate) numbers: Option<Vec<usize>>,
}

/// `{prompt}`: generate.
#[derive(Debug, PartialEq, Deserialize)]
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

/// A list of labels, or a text that separates them by commas.
fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Labels>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "labels must be a list of texts, or a text with commas")]
    enum Given {
        Listed(Vec<String>),
        Together(String),
    }
    Ok(Some(match Given::deserialize(deserializer)? {
        Given::Listed(labels) => labels.into(),
        Given::Together(text) => split_labels(&text).into_iter().map(str::to_owned).collect(),
    }))
}

macro_rules! records {
    ($($record:ty: |$it:ident| $bytes:expr $(, missing $missing:expr)?;)*) => {$(
        impl Record for $record {
            fn take_id(&mut self) -> Option<Id> {
                self.id.take()
            }

            fn bytes(&self) -> usize {
                let $it = self;
                $bytes
            }

            $(fn missing(&self) -> Option<&'static str> {
                let $it = self;
                $missing
            })?
        }
    )*};
}

records! {
    Text: |it| it.text.len();
    TextPair: |it| it.text.len() + it.text_pair.as_ref().map_or(0, String::len);
    LabelledText: |it| it.labels().iter().map(|label| it.text.len() + label.len()).sum();
    ContextChoices: |it| it.choices.iter().map(|choice| it.context.len() + choice.len()).sum();
    ContextText: |it| it.text.len() + it.context.as_ref().map_or(0, String::len);
    QueryDocuments: |it| it.documents.iter().map(|document| it.query.len() + document.len()).sum();
    QuestionContext: |it| it.question().len() + it.context.len(), missing it.question.is_none().then_some("question");
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

impl LabelledText {
    pub(crate) fn new(text: String) -> Self {
        LabelledText { id: None, text, labels: None }
    }

    /// The labels; every text that is classified by labels has some.
    pub(crate) fn labels(&self) -> &[String] {
        self.labels.as_deref().unwrap_or_default()
    }
}

impl ContextText {
    pub(crate) fn new(text: String) -> Self {
        ContextText { id: None, text, context: None }
    }
}

impl QuestionContext {
    pub(crate) fn new(context: String) -> Self {
        QuestionContext { id: None, question: None, context }
    }

    /// The question; every record that is read has one.
    pub(crate) fn question(&self) -> &str {
        self.question.as_deref().unwrap_or_default()
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

impl Texts<LabelledText> {
    /// Gives these labels to every text that comes without labels of its own.
    pub(crate) fn labelled(self, labels: Vec<String>) -> Self {
        let labels = Labels::from(labels);
        self.complete(move |record| {
            record.labels.get_or_insert_with(|| labels.clone());
        })
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

impl Texts<QuestionContext> {
    /// Asks this of every context that comes without a question of its own.
    pub(crate) fn asked(self, question: String) -> Self {
        self.complete(move |record| {
            record.question.get_or_insert_with(|| question.clone());
        })
    }
}

/// What is done about fields beyond those of the task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Further {
    pub(super) rule: ExtraFields,
    /// Keys of the output, which no kept field may have.
    pub(super) reserved: &'static [&'static str],
}

/// Reads one record with the fields that are kept of it, which is `None` unless fields are to be kept.
///
/// `at` is where it begins if it is part of a larger document; a line of JSONL is a document of its own.
pub(super) fn parse<T: Record>(text: &str, further: Further, at: Option<At>) -> Result<(T, Option<Extra>), String> {
    if !text.trim_start().starts_with('{') {
        return Err("not a JSON object".into());
    }
    let mut kept = Extra::new();
    let mut inner = serde_json::Deserializer::from_str(text);
    let Further { rule, reserved } = further;
    let record = T::deserialize(Sieve { inner: &mut inner, rule, reserved, kept: &mut kept })
        .and_then(|record| inner.end().map(|()| record))
        .map_err(|error| {
            // A number that only Python reads is wrong whatever is said of its field.
            let whole = serde_json::from_str::<IgnoredAny>(text).err();
            let error = whole.filter(|error| non_finite_at(text.as_bytes(), error).is_some()).unwrap_or(error);
            let message = explained(&error, text, at);
            if message.starts_with("missing field") { format!("{message}; {}", fields_of(text)) } else { message }
        })?;
    Ok((record, (rule == ExtraFields::Keep).then_some(kept)))
}

/// What a record has, in words.
fn fields_of(text: &str) -> String {
    const MAX_NAMES: usize = 8;
    let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let mut names: Vec<String> = fields.keys().take(MAX_NAMES).map(|name| format!("`{name}`")).collect();
    if fields.len() > MAX_NAMES {
        names.push("…".into());
    }
    match names.len() {
        0 => "the record has no fields".into(),
        _ => format!("the record has {}", names.join(", ")),
    }
}

/// A parser's error for a text with its place in the input.
pub(super) fn explained(error: &serde_json::Error, text: &str, at: Option<At>) -> String {
    let message = match non_finite_at(text.as_bytes(), error) {
        Some(word) if error.is_syntax() => format!(
            "{word} is Python's notation, not JSON: write a finite number or null at line {} column {}",
            error.line(),
            error.column()
        ),
        _ => error.to_string(),
    };
    // Counted from the record's own beginning, serde_json's "line 1" would contradict ours.
    match (message.rsplit_once(" at line "), at) {
        (Some((what, _)), None) if error.column() > 0 => format!("{what} (column {})", error.column()),
        // The record's place, which stands before every message, has its line.
        (Some((what, _)), Some(At { column, .. })) if error.line() == 1 => {
            format!("{what} (column {})", column as usize - 1 + error.column())
        }
        (Some((what, _)), Some(At { line, .. })) if error.line() > 1 => {
            format!("{what} (line {}, column {})", line + error.line() as u64 - 1, error.column())
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of JSONL of which nothing is kept.
    fn parse<T: Record>(line: &str) -> Result<T, String> {
        let further = Further { rule: ExtraFields::Error, reserved: &[] };
        super::parse(line, further, None).map(|(record, _)| record)
    }

    /// The fields that are kept of a line.
    fn kept(line: &str) -> Result<String, String> {
        let further = Further { rule: ExtraFields::Keep, reserved: &["score"] };
        let (_, kept) = super::parse::<Text>(line, further, None)?;
        Ok(serde_json::to_string(&kept.unwrap()).unwrap())
    }

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
        assert!(error.contains("unknown field `txt`") && error.contains("--extra ignore"), "{error}");
        assert!(error.contains("`id` or `text`") && error.contains("column"), "{error}");
        let error = parse::<Text>("{}").unwrap_err();
        assert!(error.contains("missing field `text`") && error.ends_with("the record has no fields"), "{error}");
        let error = parse::<Text>("{\"id\":1}").unwrap_err();
        assert!(error.contains("missing field `text`") && error.ends_with("the record has `id`"), "{error}");
        for bad in [r#"{"text":1}"#, r#"{"text":null}"#, r#"{"text":"x"} y"#, r#"{"text":"x","text":"y"}"#, "{"] {
            assert!(parse::<Text>(bad).is_err(), "{bad}");
        }
        assert!(parse::<QueryDocuments>(r#"{"query":"q","documents":"d"}"#).is_err());
    }

    #[test]
    fn further_fields_are_passed_over_or_kept_as_they_are() {
        let line = r#"{"z":[1,{"y":null}],"text":"x","a":"é\"","n":-0.5,"id":7,"big":18446744073709551615}"#;
        assert_eq!(kept(line).unwrap(), r#"{"z":[1,{"y":null}],"a":"é\"","n":-0.5,"big":18446744073709551615}"#);
        assert_eq!(kept(r#"{"text":"x"}"#).unwrap(), "{}");
        let further = Further { rule: ExtraFields::Ignore, reserved: &["score"] };
        let (text, none) = super::parse::<Text>(r#"{"score":1,"a":1,"a":2,"text":"x"}"#, further, None).unwrap();
        assert_eq!((text.text.as_str(), none), ("x", None));
        // A required field is required whatever else is there.
        assert!(super::parse::<Text>(r#"{"score":1}"#, further, None).unwrap_err().contains("missing field `text`"));
        assert!(super::parse::<Text>(r#"{"text":"x","a":}"#, further, None).is_err());
    }

    #[test]
    fn a_missing_field_is_named_before_one_that_cannot_be_kept() {
        let error = kept(r#"{"score":1,"a":2}"#).unwrap_err();
        assert!(error.contains("missing field `text`") && error.ends_with("the record has `score`, `a`"), "{error}");
    }

    #[test]
    fn pythons_numbers_are_named() {
        for word in ["NaN", "Infinity", "-Infinity"] {
            let line = format!("{{\"text\":\"x\",\"a\": {word}}}");
            let error = kept(&line).unwrap_err();
            assert!(
                error.starts_with(&format!("{word} is Python's notation")) && error.contains("(column "),
                "{error}"
            );
            for rule in [ExtraFields::Ignore, ExtraFields::Error] {
                let further = Further { rule, reserved: &[] };
                assert_eq!(super::parse::<Text>(&line, further, None).unwrap_err(), error);
            }
        }
        assert!(!kept(r#"{"text":"NaN",}"#).unwrap_err().contains("Python"));
    }

    #[test]
    fn fields_that_cannot_be_kept_are_named() {
        for (line, said) in [
            (r#"{"text":"x","score":1}"#, "a key `score` of its own"),
            (r#"{"text":"x","a":1,"a":2}"#, "duplicate field `a`"),
            (r#"{"text":"x","a":[{"b":123456789012345678901234567890}]}"#, "the field `a` holds too large a number"),
        ] {
            let error = kept(line).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn errors_in_an_array_give_a_line_of_the_input_unless_it_is_that_of_the_record() {
        let further = Further { rule: ExtraFields::Error, reserved: &[] };
        let at = Some(At { line: 7, column: 3 });
        let error = super::parse::<Text>("{\"text\": }", further, at).unwrap_err();
        assert!(error.ends_with("(column 12)") && !error.contains("line"), "{error}");
        let error = super::parse::<Text>("{\n\"text\":\n }", further, at).unwrap_err();
        assert!(error.contains("(line 9, column 2)"), "{error}");
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
