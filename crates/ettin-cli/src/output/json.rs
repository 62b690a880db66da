//! JSON lines and arrays, with the contract's rules for `id`, kept fields and `truncated`.
//!
//! Values are serialised straight to the writer: through `serde_json::Value` an f32 would become an f64 and print
//! digits it does not have.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Payload;
use crate::record::{Extra, Id};

/// A result with what is said about its input.
///
/// An object gets `id` as its first key, kept fields behind it, and `truncated` as its last key. A list has no keys:
/// with an id or kept fields it becomes `{"id": …, "result": […], "truncated": true}`, without them it stays a list,
/// and `truncated` is the last key of each entry. So the shape goes by the record and never by the length of its texts.
#[derive(Debug, Clone)]
pub(crate) struct Answered<P> {
    /// The record's `id`.
    pub(crate) id: Option<Id>,
    /// What is kept of the record; none where nothing was to be kept.
    pub(crate) extra: Option<Extra>,
    /// The result.
    pub(crate) payload: P,
    /// Whether the input was cut.
    pub(crate) truncated: bool,
}

/// An entry of a list of which the input was cut.
#[derive(Debug, Serialize)]
pub(crate) struct Cut<'a, T> {
    #[serde(flatten)]
    entry: &'a T,
    truncated: bool,
}

impl<'a, T> Cut<'a, T> {
    /// Marks every entry.
    pub(crate) fn all(entries: &'a [T]) -> Vec<Self> {
        entries.iter().map(|entry| Cut { entry, truncated: true }).collect()
    }
}

impl<P> Answered<P> {
    /// A result of no particular input.
    pub(crate) fn plain(payload: P) -> Self {
        Answered { id: None, extra: None, payload, truncated: false }
    }
}

impl<P: Payload> Serialize for Answered<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct WithKeys<'a, P> {
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a Id>,
            #[serde(flatten)]
            extra: Option<&'a Extra>,
            #[serde(flatten)]
            payload: &'a P,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            truncated: bool,
        }
        let Answered { id, extra, payload, truncated } = self;
        let of_record = id.is_some() || extra.is_some();
        match (P::LIST, of_record, *truncated) {
            (_, false, false) => payload.serialize(serializer),
            (true, false, true) => payload.serialize_cut(serializer),
            (true, true, _) => {
                let mut map = serializer.serialize_map(None)?;
                if let Some(id) = id {
                    map.serialize_entry("id", id)?;
                }
                for (key, value) in extra.iter().flatten() {
                    map.serialize_entry(key, value)?;
                }
                map.serialize_entry("result", payload)?;
                if *truncated {
                    map.serialize_entry("truncated", &true)?;
                }
                map.end()
            }
            (false, _, truncated) => {
                WithKeys { id: id.as_ref(), extra: extra.as_ref(), payload, truncated }.serialize(serializer)
            }
        }
    }
}

/// Writes a value and a line end.
pub(crate) fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// A JSON array written element by element, each on its line.
#[derive(Debug, Default)]
pub(crate) struct JsonArray {
    started: bool,
}

impl JsonArray {
    /// Writes the next element.
    pub(crate) fn push(&mut self, out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
        out.write_all(if self.started { b",\n" } else { b"[\n" })?;
        self.started = true;
        serde_json::to_writer(out, value)?;
        Ok(())
    }

    /// Writes the end; an array without elements is `[]`.
    pub(crate) fn finish(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(if self.started { b"\n]\n" } else { b"[]\n" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Object {
        score: f32,
    }

    impl Payload for Object {
        const LIST: bool = false;
        const KEYS: &'static [&'static str] = &["score"];
        const HEADS: &'static [&'static str] = &[];

        fn rows(&self) -> Vec<Vec<String>> {
            Vec::new()
        }
    }

    impl Payload for Vec<Object> {
        const LIST: bool = true;
        const KEYS: &'static [&'static str] = super::super::LIST_KEYS;
        const HEADS: &'static [&'static str] = &[];

        fn rows(&self) -> Vec<Vec<String>> {
            Vec::new()
        }

        fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Cut::all(self).serialize(serializer)
        }
    }

    fn json<P: Payload>(id: Option<&str>, payload: P, truncated: bool) -> String {
        let id = id.map(|id| serde_json::from_str(id).unwrap());
        let answered = Answered { id, extra: None, payload, truncated };
        serde_json::to_string(&answered).unwrap()
    }

    fn json_with<P: Payload>(id: Option<&str>, extra: &str, payload: P, truncated: bool) -> String {
        let id = id.map(|id| serde_json::from_str(id).unwrap());
        let extra = Some(serde_json::from_str(extra).unwrap());
        serde_json::to_string(&Answered { id, extra, payload, truncated }).unwrap()
    }

    #[test]
    fn objects_get_keys() {
        let object = || Object { score: 0.1 };
        assert_eq!(json(None, object(), false), r#"{"score":0.1}"#);
        assert_eq!(json(Some("7"), object(), false), r#"{"id":7,"score":0.1}"#);
        assert_eq!(json(None, object(), true), r#"{"score":0.1,"truncated":true}"#);
        assert_eq!(json(Some("null"), object(), true), r#"{"id":null,"score":0.1,"truncated":true}"#);
    }

    #[test]
    fn lists_are_wrapped_for_their_records_and_never_for_their_length() {
        let list = || vec![Object { score: 0.3 }];
        assert_eq!(json(None, list(), false), r#"[{"score":0.3}]"#);
        assert_eq!(json(Some("\"a\""), list(), false), r#"{"id":"a","result":[{"score":0.3}]}"#);
        assert_eq!(json(Some("1"), list(), true), r#"{"id":1,"result":[{"score":0.3}],"truncated":true}"#);
        assert_eq!(json(None, list(), true), r#"[{"score":0.3,"truncated":true}]"#);
        assert_eq!(json(None, Vec::<Object>::new(), true), "[]");
    }

    #[test]
    fn kept_fields_stand_behind_the_id() {
        let list = || vec![Object { score: 0.3 }];
        let extra = r#"{"z":1,"a":[null,0.1]}"#;
        assert_eq!(
            json_with(Some("1"), extra, Object { score: 0.1 }, true),
            r#"{"id":1,"z":1,"a":[null,0.1],"score":0.1,"truncated":true}"#
        );
        assert_eq!(json_with(None, extra, Object { score: 0.1 }, false), r#"{"z":1,"a":[null,0.1],"score":0.1}"#);
        assert_eq!(
            json_with(Some("1"), extra, list(), true),
            r#"{"id":1,"z":1,"a":[null,0.1],"result":[{"score":0.3}],"truncated":true}"#
        );
        // Records of which nothing is left to keep have the shape of the others.
        assert_eq!(json_with(None, "{}", list(), false), r#"{"result":[{"score":0.3}]}"#);
    }

    #[test]
    fn floats_are_shortest_and_never_invalid() {
        // 0.1f32 as an f64 would print 0.10000000149011612.
        assert_eq!(
            json(Some("1"), Object { score: 0.515_187_2 }, true),
            r#"{"id":1,"score":0.5151872,"truncated":true}"#
        );
        assert_eq!(json(None, Object { score: f32::NAN }, false), r#"{"score":null}"#);
        assert_eq!(json(None, Object { score: f32::INFINITY }, false), r#"{"score":null}"#);
    }

    #[test]
    fn arrays_are_valid_at_every_length() {
        for length in 0..3 {
            let mut out = Vec::new();
            let mut array = JsonArray::default();
            for index in 0..length {
                array.push(&mut out, &index).unwrap();
            }
            array.finish(&mut out).unwrap();
            let read: Vec<usize> = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, (0..length).collect::<Vec<_>>());
            assert_eq!(out.last(), Some(&b'\n'));
        }
    }
}
