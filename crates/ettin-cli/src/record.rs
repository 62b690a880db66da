//! What a record of the input and its answer in the output share: its id, and the fields that are kept of it.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

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
        match Value::deserialize(deserializer)? {
            Value::Array(_) | Value::Object(_) => {
                Err(de::Error::custom("id must be a string, a number, true, false or null"))
            }
            Value::Number(number) if !is_exact_number(&number) => {
                Err(de::Error::custom("id is too large a number: make it a string"))
            }
            scalar => Ok(Id(scalar)),
        }
    }
}

/// What is kept of a record, in its order.
pub(crate) type Extra = Map<String, Value>;

/// Integers beyond 64 bits are read as floats and would come back changed.
pub(crate) fn is_exact_number(number: &Number) -> bool {
    const EXACT: f64 = (1u64 << 53) as f64;
    !number.is_f64() || number.as_f64().is_some_and(|value| value.abs() <= EXACT)
}
