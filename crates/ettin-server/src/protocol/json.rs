//! The one door for JSON: bytes to a value, a value to a typed request, a typed answer to bytes.
//!
//! Two rules hold for every request, because they hold here. **Null is absence**: SDKs write `"seed": null` for what
//! their user did not set, so a key of an object whose value is null is dropped as it is read. **Unknown fields are
//! ignored**: request types do not deny them. What must not be ignored, because its silence would be a wrong answer,
//! is listed by each request and refused by name ([`WireRequest::REFUSED`]).

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::fault::{Fault, FaultKind};

/// What is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BodyLimits {
    /// Bytes of the body.
    pub bytes: usize,
    /// Lists and objects within each other. No request of any protocol needs more than eight.
    pub depth: usize,
    /// Values of all kinds. Each takes 32 bytes or more in memory but only two in a body (`1,`).
    pub values: usize,
}

impl BodyLimits {
    /// A body of at most this many bytes, with the usual limits for the rest.
    pub fn of_bytes(bytes: usize) -> Self {
        Self { bytes, depth: 32, values: 4 << 20 }
    }

    /// The same with another depth.
    #[must_use]
    pub fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// The same with another number of values.
    #[must_use]
    pub fn with_values(mut self, values: usize) -> Self {
        self.values = values;
        self
    }
}

/// Parses a body. Keys with null are left out.
///
/// # Errors
/// [`FaultKind::PayloadTooLarge`]; [`FaultKind::Malformed`] with the place when it is not UTF-8 or not JSON, when a key
/// appears twice in an object, when a number is beyond the range of 32-bit floats, or when a limit is broken.
pub fn parse_body(bytes: &[u8], limits: &BodyLimits) -> Result<Value, Fault> {
    if bytes.len() > limits.bytes {
        return Err(Fault::new(
            FaultKind::PayloadTooLarge,
            format!("the body has {} bytes, more than the limit of {}; send less at once", bytes.len(), limits.bytes),
        ));
    }
    let malformed = |message: String| Fault::new(FaultKind::Malformed, message);
    let text = str::from_utf8(bytes)
        .map_err(|error| malformed(format!("the body is not UTF-8: invalid byte at {}", error.valid_up_to())))?;
    let mut left = limits.values;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Node { depth: limits.depth, limits, left: &mut left }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        malformed(match non_finite_at(text, &error) {
            Some(word) => {
                format!("{word} at line {} column {} is not JSON; send finite numbers", error.line(), error.column())
            }
            None => format!("the body is not valid JSON: {error}"),
        })
    })
}

/// Python's and JavaScript's words for numbers that JSON does not have, where the parser stopped.
fn non_finite_at(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    let line = text.split('\n').nth(error.line().checked_sub(1)?)?.as_bytes();
    // Within a word the parser stops at its first wrong letter.
    let around = &line[error.column().saturating_sub(3).min(line.len())..];
    let around = &around[..around.len().min(12)];
    ["NaN", "Infinity"].into_iter().find(|word| around.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// A value at some depth, which counts what it reads.
struct Node<'a> {
    depth: usize,
    limits: &'a BodyLimits,
    left: &'a mut usize,
}

impl Node<'_> {
    fn below<E: serde::de::Error>(&mut self) -> Result<Node<'_>, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom(format!("more than {} lists and objects within each other", self.limits.depth)))?;
        Ok(Node { depth, limits: self.limits, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| D::Error::custom(format!("more than {} values; split the request", self.limits.values)))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // Every number of a request becomes a 32-bit float or an integer; rounding must not make infinity of it.
        let number = (value.abs() <= f64::from(f32::MAX)).then(|| Number::from_f64(value)).flatten();
        number.map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let mut below = self.below()?;
        while let Some(item) = items.next_element_seed(below.again())? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut below = self.below()?;
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` appears twice")));
            }
            let value = entries.next_value_seed(below.again())?;
            map.insert(key, value);
        }
        map.retain(|_, value| !value.is_null());
        Ok(Value::Object(map))
    }
}

impl Node<'_> {
    fn again(&mut self) -> Node<'_> {
        Node { depth: self.depth, limits: self.limits, left: self.left }
    }
}

/// A field that is not ignored, because ignoring it would answer another question.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// The field's name.
    pub field: &'static str,
    /// Whether this value asks for nothing.
    pub neutral: fn(&Value) -> bool,
    /// Why the field is refused, and what to do instead.
    pub why: &'static str,
}

impl Refused {
    /// Refused whatever its value is.
    pub const fn always(field: &'static str, why: &'static str) -> Self {
        Self { field, neutral: |_| false, why }
    }

    /// Refused unless false, zero, or an empty text, list or object.
    pub const fn unless_empty(field: &'static str, why: &'static str) -> Self {
        Self { field, neutral: is_empty, why }
    }

    /// Refused unless this holds for its value.
    pub const fn unless(field: &'static str, neutral: fn(&Value) -> bool, why: &'static str) -> Self {
        Self { field, neutral, why }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.is_empty(),
    }
}

/// A request of some protocol.
pub trait WireRequest: DeserializeOwned {
    /// Fields that are refused by name.
    const REFUSED: &'static [Refused] = &[];

    /// Refuses fields by name, before anything is read.
    ///
    /// # Errors
    /// [`FaultKind::Refused`] with the first one.
    fn check_refused(body: &Map<String, Value>) -> Result<(), Fault> {
        refuse(body, Self::REFUSED)
    }

    /// Checks what types cannot say: ranges, and fields that exclude each other.
    ///
    /// # Errors
    /// [`FaultKind::Field`], [`FaultKind::Empty`] or [`FaultKind::Refused`], with the field.
    fn validate(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Reads a request out of a parsed body.
///
/// # Errors
/// [`FaultKind::Field`] with the path of the field; [`FaultKind::Refused`]; what [`WireRequest::validate`] finds.
pub fn read<R: WireRequest>(body: Value) -> Result<R, Fault> {
    let Value::Object(map) = &body else {
        return Err(Fault::new(FaultKind::Field, format!("expected a JSON object, found {}", kind(&body))));
    };
    R::check_refused(map)?;
    let request: R = serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner().to_string();
        match (path.as_str(), inner.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())) {
            (".", Some(field)) => Fault::field(field, inner.clone()),
            (_, Some(field)) => Fault::field(format!("{path}.{field}"), format!("{inner} of `{path}`")),
            (".", None) => Fault::new(FaultKind::Field, inner),
            (_, None) => Fault::field(path.clone(), format!("`{path}`: {inner}")),
        }
    })?;
    request.validate()?;
    Ok(request)
}

/// Refuses the fields of the list that ask for something.
///
/// # Errors
/// [`FaultKind::Refused`] with the first one.
pub fn refuse(map: &Map<String, Value>, refused: &[Refused]) -> Result<(), Fault> {
    for Refused { field, neutral, why } in refused {
        if map.get(*field).is_some_and(|value| !neutral(value)) {
            return Err(Fault::new(FaultKind::Refused, format!("`{field}` is not supported: {why}")).with_param(*field));
        }
    }
    Ok(())
}

/// What a JSON value is called in messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The default of fields that are on unless said otherwise.
pub(super) fn yes() -> bool {
    true
}

/// A text or a list of texts; kept as the list.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;
    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
            Ok(vec![text])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(text) = items.next_element()? {
                list.push(text);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

/// A seed: any integer of 64 bits, with or without a sign. Negative ones count by their bits.
pub(super) fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Number::deserialize(deserializer)?;
    let seed = number.as_u64().or_else(|| number.as_i64().map(i64::cast_unsigned));
    seed.map(Some).ok_or_else(|| D::Error::custom("expected an integer of 64 bits"))
}

/// Writes an answer.
///
/// # Errors
/// [`FaultKind::Backend`] when it holds a number that is not finite: JSON has no word for it, and null would be a lie.
pub fn text_of<T: Serialize + ?Sized>(answer: &T) -> Result<String, Fault> {
    serde_json::to_string(answer).map_err(|_| Fault::not_finite())
}

/// Serialisers of floats that fail where `serde_json` would write null. Floats are written with the fewest digits that
/// read back as the same 32-bit float.
pub(super) mod finite {
    use super::*;

    /// One number.
    pub fn number<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        if !number.is_finite() {
            return Err(S::Error::custom("a number is not finite"));
        }
        serializer.serialize_f32(*number)
    }

    /// One number or null, which stands for its absence only.
    pub fn optional<S: Serializer>(optional: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        match optional {
            Some(value) => number(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// A vector.
    pub fn list<S: Serializer>(list: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        sequence(list.iter().map(Number32), list.len(), serializer)
    }

    /// Vectors.
    pub fn rows<S: Serializer>(rows: &[Vec<f32>], serializer: S) -> Result<S::Ok, S::Error> {
        sequence(rows.iter().map(|row| Row(row)), rows.len(), serializer)
    }

    /// Lists of vectors.
    pub fn matrices<S: Serializer>(matrices: &[Vec<Vec<f32>>], serializer: S) -> Result<S::Ok, S::Error> {
        sequence(matrices.iter().map(|rows| Matrix(rows)), matrices.len(), serializer)
    }

    fn sequence<S: Serializer, T: Serialize>(
        items: impl Iterator<Item = T>,
        len: usize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(len))?;
        for item in items {
            sequence.serialize_element(&item)?;
        }
        sequence.end()
    }

    struct Number32<'a>(&'a f32);
    struct Row<'a>(&'a [f32]);
    struct Matrix<'a>(&'a [Vec<f32>]);

    impl Serialize for Number32<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            number(self.0, serializer)
        }
    }

    impl Serialize for Row<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            list(self.0, serializer)
        }
    }

    impl Serialize for Matrix<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            rows(self.0, serializer)
        }
    }
}
