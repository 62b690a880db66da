//! Fields that a record has beyond those of its task.

use std::fmt;

use clap::ValueEnum;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use crate::record::{Extra, is_exact_number};

/// `--extra`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ExtraFields {
    /// Refuse the record
    #[default]
    Error,
    /// Pass over them
    Ignore,
    /// Copy them into the output, behind the id
    Keep,
}

/// A deserializer of a record that treats further fields as `--extra` says.
pub(super) struct Sieve<'a, D> {
    pub(super) inner: D,
    pub(super) rule: ExtraFields,
    /// Keys of the output, which no kept field may have.
    pub(super) reserved: &'static [&'static str],
    pub(super) kept: &'a mut Extra,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Sieve<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let Sieve { inner, rule, reserved, kept } = self;
        let mut refused = None;
        let value = inner.deserialize_map(Fields {
            inner: visitor,
            known: fields,
            rule,
            reserved,
            kept,
            refused: &mut refused,
        })?;
        match refused {
            Some(key) => Err(D::Error::custom(format!(
                "--extra keep: the output has a key `{key}` of its own; rename the field, or use --extra ignore"
            ))),
            None => Ok(value),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The visitor and the fields of an object, without the further ones.
struct Fields<'a, I> {
    inner: I,
    known: &'static [&'static str],
    rule: ExtraFields,
    reserved: &'static [&'static str],
    kept: &'a mut Extra,
    /// The first field that the output has no room for. That is told when nothing else is wrong: with a field of the
    /// task missing, it may be that one under another name.
    refused: &'a mut Option<String>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let Fields { inner, known, rule, reserved, kept, refused } = self;
        inner.visit_map(Fields { inner: map, known, rule, reserved, kept, refused })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.inner.next_key::<String>()? {
            if self.known.contains(&key.as_str()) {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            match self.rule {
                ExtraFields::Error => {
                    let unknown = A::Error::unknown_field(&key, self.known);
                    return Err(A::Error::custom(format!(
                        "{unknown}; --extra ignore passes over further fields, --extra keep copies them into the output"
                    )));
                }
                ExtraFields::Ignore => {
                    self.inner.next_value::<IgnoredAny>()?;
                }
                ExtraFields::Keep => self.keep(key)?,
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

impl<'de, A: MapAccess<'de>> Fields<'_, A> {
    fn keep(&mut self, key: String) -> Result<(), A::Error> {
        if self.reserved.contains(&key.as_str()) {
            self.refused.get_or_insert(key);
            self.inner.next_value::<IgnoredAny>()?;
            return Ok(());
        }
        if self.kept.contains_key(&key) {
            return Err(A::Error::custom(format!("duplicate field `{key}`")));
        }
        let value: Value = self.inner.next_value()?;
        if !is_exact(&value) {
            return Err(A::Error::custom(format!(
                "--extra keep: the field `{key}` holds too large a number to come back unchanged: make it a string"
            )));
        }
        self.kept.insert(key, value);
        Ok(())
    }
}

/// Whether all numbers in it come back as they were.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => is_exact_number(number),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        _ => true,
    }
}
