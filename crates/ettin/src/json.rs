//! JSON as a door check: one object, no key that says two things, and errors with a line and a column.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::files::FileSource;
use crate::{Error, Result};

/// A configuration is a few kilobytes; a table of 50,000 labels stays below four megabytes.
const MAX_BYTES: usize = 64 << 20;

/// Parses `bytes` as one JSON object.
///
/// # Errors
/// [`Error::Config`] with line and column when it is not JSON, when it is JSON but no object, or when a key
/// appears twice with different values.
pub(crate) fn parse_object(bytes: &[u8], file: &str) -> Result<Map<String, Value>> {
    match parse(bytes, file)? {
        Value::Object(map) => Ok(map),
        other => Err(unexpected(file, "object", &other)),
    }
}

/// The same, but of a key that appears twice the last one counts, as in Python.
///
/// # Errors
/// As [`parse_object`], but for repeated keys.
pub(crate) fn parse_object_of_last_keys(bytes: &[u8], file: &str) -> Result<Map<String, Value>> {
    match parse_as::<Value>(bytes, file)? {
        Value::Object(map) => Ok(map),
        other => Err(unexpected(file, "object", &other)),
    }
}

/// The object in a model's file; `None` where it has no such file.
///
/// # Errors
/// As [`parse_object`]; what reading the file can meet.
pub(crate) fn read_object(files: &dyn FileSource, file: &str) -> Result<Option<Map<String, Value>>> {
    files.get(file)?.map(|bytes| parse_object(&bytes, file)).transpose()
}

/// Parses `bytes` as one JSON list.
///
/// # Errors
/// As [`parse_object`], for a list.
pub(crate) fn parse_list(bytes: &[u8], file: &str) -> Result<Vec<Value>> {
    match parse(bytes, file)? {
        Value::Array(list) => Ok(list),
        other => Err(unexpected(file, "list", &other)),
    }
}

fn unexpected(file: &str, expected: &str, found: &Value) -> Error {
    Error::Config { file: file.to_owned(), message: format!("expected a JSON {expected}, found {}", kind(found)) }
}

fn parse(bytes: &[u8], file: &str) -> Result<Value> {
    Ok(parse_as::<Unambiguous>(bytes, file)?.0)
}

fn parse_as<'a, T: Deserialize<'a>>(bytes: &'a [u8], file: &str) -> Result<T> {
    let fail = |message: String| Error::Config { file: file.to_owned(), message };
    if bytes.len() > MAX_BYTES {
        return Err(fail(format!("{} bytes are too many for a configuration (limit {MAX_BYTES})", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        fail(match non_finite_at(bytes, &error) {
            Some(word) => format!(
                "{word} at line {} column {} is Python's notation, not JSON; write a finite number",
                error.line(),
                error.column()
            ),
            None => format!("not valid JSON: {error}"),
        })
    })
}

/// What a value is, for error messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The word of Python's `json` for a number that is not finite (`NaN`, `Infinity`, `-Infinity`) which `error`, a
/// parser's for `bytes`, stopped at, so that it can be named instead of "expected value"; none where it is something
/// else.
pub fn non_finite_at(bytes: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    let line = bytes.split(|&b| b == b'\n').nth(error.line().checked_sub(1)?)?;
    let column = error.column();
    ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| {
        // The reported column is that of the first or second byte of the word.
        (column.saturating_sub(2)..=column)
            .any(|start| line.get(start..).is_some_and(|rest| rest.starts_with(word.as_bytes())))
    })
}

/// A JSON value in which no object repeats a key with another value (`serde_json` would keep the last one).
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Unambiguous)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unambiguous(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Unambiguous(value))) = access.next_entry::<String, _>()? {
            match map.get(&key) {
                Some(earlier) if *earlier != value => {
                    return Err(A::Error::custom(format_args!("the key `{key}` appears twice with different values")));
                }
                _ => map.insert(key, value),
            };
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse_object(text.as_bytes(), "config.json").unwrap_err().to_string()
    }

    #[test]
    fn malformed_json_is_located() {
        assert!(message("{\n  \"a\": ,\n}").contains("line 2 column"));
        assert!(message("").contains("line 1"));
        assert!(message("[]").contains("found a list"));
        assert!(message(&"[".repeat(100_000)).contains("recursion"));
    }

    #[test]
    fn python_non_finite_numbers_are_named() {
        assert!(message("{\"a\": NaN}").contains("NaN at line 1"));
        assert!(message("{\"a\":\n Infinity}").contains("Infinity at line 2"));
        assert!(message("{\"a\": -Infinity}").contains("-Infinity at line 1"));
        assert!(message("{\"NaN\": ]}").contains("not valid JSON"));
    }

    #[test]
    fn a_key_may_repeat_itself_but_not_contradict_itself() {
        assert!(parse_object(br#"{"a": 1, "a": 1}"#, "f").is_ok());
        assert!(message(r#"{"a": 1, "a": 2}"#).contains("`a` appears twice"));
        assert!(message(r#"{"o": {"a": 1, "a": 2}}"#).contains("`a` appears twice"));
        let last = parse_object_of_last_keys(br#"{"a": 1, "a": 2}"#, "f").unwrap();
        assert_eq!((last.len(), &last["a"]), (1, &Value::from(2)));
    }
}
