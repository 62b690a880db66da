//! Typed access to the keys of one JSON object; every refusal names file, key, value and what is supported.

use serde_json::{Map, Value};

use crate::json::kind;
use crate::{Error, Result};

/// One JSON object of a configuration file; a key that is `null` is absent.
pub(crate) struct Keys<'a> {
    map: &'a Map<String, Value>,
    file: &'a str,
    /// Path of the object inside the file: empty, or like `rope_parameters.full_attention.`.
    path: String,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, file: &'a str) -> Self {
        Self { map, file, path: String::new() }
    }

    /// An error about `key`: "`key` is <value>; <rule>".
    pub(crate) fn refuse(&self, key: &str, rule: impl std::fmt::Display) -> Error {
        let value = self.map.get(key).map_or("absent".to_owned(), brief);
        self.error(format!("`{}{key}` is {value}; {rule}", self.path))
    }

    /// An error about the file as a whole.
    pub(crate) fn error(&self, message: String) -> Error {
        Error::Config { file: self.file.to_owned(), message }
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is present, even as `null`: of a token id, that says that there is none.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Every key of the object.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        let present = self.map.iter().filter(|(_, value)| !value.is_null());
        present.map(|(key, _)| key.as_str())
    }

    /// The first key that is `null`: where keys are numbers of a list, that is no absent key.
    pub(crate) fn null(&self) -> Option<&'a str> {
        self.map.iter().find(|(_, value)| value.is_null()).map(|(key, _)| key.as_str())
    }

    /// A whole number in `1..=limit`, or `default` when the key is absent.
    pub(crate) fn size(&self, key: &str, default: usize, limit: usize) -> Result<usize> {
        Ok(self.stated_size(key, limit)?.unwrap_or(default))
    }

    /// A whole number in `1..=limit`.
    pub(crate) fn stated_size(&self, key: &str, limit: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number
            .filter(|n| (1..=limit).contains(n))
            .map(Some)
            .ok_or_else(|| self.refuse(key, format_args!("supported: whole numbers from 1 to {limit}")))
    }

    /// `true` or `false`, or `default` when the key is absent.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.refuse(key, "supported: true, false")),
        }
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64().map(|n| n as f32);
        match number.filter(|n| n.is_finite() && *n > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refuse(key, "supported: finite numbers above 0")),
        }
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "expected a string")),
        }
    }

    /// A list of strings.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let items = value.as_array().map(|items| items.iter().map(Value::as_str));
        match items.and_then(|items| items.collect()) {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.refuse(key, "expected a list of strings")),
        }
    }

    /// A nested object.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { map, file: self.file, path: format!("{}{key}.", self.path) })),
            Some(_) => Err(self.refuse(key, "expected an object")),
        }
    }
}

/// A value as shown in an error: as JSON, cut where it gets long.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(map) if map.len() > 4 => format!("an object of {} keys", map.len()),
        Value::Array(items) if items.len() > 4 => format!("a list of {} items", items.len()),
        _ => {
            let text = value.to_string();
            if text.len() <= 120 { text } else { format!("{} of {} bytes", kind(value), text.len()) }
        }
    }
}
