//! What requests carry: texts or token ids, one or many, and pairs.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::fault::Fault;

/// A text, or the ids of its tokens, which are used as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextOrIds {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl TextOrIds {
    /// Whether it has no character or no id.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Ids(ids) => ids.is_empty(),
        }
    }
}

impl From<&str> for TextOrIds {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// One input or several: a text, a list of ids (one input), or a list of texts and lists of ids, mixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Inputs {
    /// One input, not in a list.
    One(TextOrIds),
    /// A list of inputs.
    Many(Vec<TextOrIds>),
}

impl Inputs {
    /// Whether it came without a list, which some answers repeat.
    pub fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is no input.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All inputs in order.
    pub fn as_slice(&self) -> &[TextOrIds] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// All inputs in order.
    pub fn into_list(self) -> Vec<TextOrIds> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }

    /// Refuses an empty list and, among `Inputs` of TEI, an empty text, as TEI does.
    pub(super) fn check_not_empty(&self, field: &str) -> Result<(), Fault> {
        if self.is_empty() {
            return Err(Fault::empty(field));
        }
        match self.as_slice().iter().position(TextOrIds::is_empty) {
            None => Ok(()),
            Some(_) if self.is_one() => Err(Fault::empty(field)),
            Some(index) => Err(Fault::empty(&format!("{field}[{index}]"))),
        }
    }

    /// Refuses an empty list and an empty list of ids; an empty text is a text (OpenAI's clients send one).
    pub(super) fn check_ids_not_empty(&self, field: &str) -> Result<(), Fault> {
        let no_ids = |input: &TextOrIds| matches!(input, TextOrIds::Ids(ids) if ids.is_empty());
        if self.is_empty() || self.as_slice().iter().any(no_ids) {
            return Err(Fault::empty(field));
        }
        Ok(())
    }
}

/// An element of a list of inputs.
enum Element {
    Id(u32),
    Item(TextOrIds),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Element, E> {
                token_id(id).map(Element::Id)
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Item(TextOrIds::Text(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Element, E> {
                Ok(Element::Item(TextOrIds::Text(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Element, A::Error> {
                ids_of(Vec::new(), items).map(|ids| Element::Item(TextOrIds::Ids(ids)))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

fn token_id<E: de::Error>(id: u64) -> Result<u32, E> {
    u32::try_from(id).map_err(|_| E::custom(format!("{id} is no token id: ids have 32 bits")))
}

/// The ids that `items` still has, after these.
fn ids_of<'de, A: SeqAccess<'de>>(mut ids: Vec<u32>, mut items: A) -> Result<Vec<u32>, A::Error> {
    while let Some(id) = items.next_element::<u64>()? {
        ids.push(token_id(id)?);
    }
    Ok(ids)
}

impl<'de> Deserialize<'de> for TextOrIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Element::deserialize(deserializer)? {
            Element::Item(item) => Ok(item),
            Element::Id(_) => Err(D::Error::custom("a token id alone is no text: send a list of ids")),
        }
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputsVisitor;
        impl<'de> Visitor<'de> for InputsVisitor {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of token ids, or a list of those")
            }

            fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
                Ok(Inputs::One(TextOrIds::Text(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Inputs, E> {
                Ok(Inputs::One(TextOrIds::Text(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Inputs, A::Error> {
                match items.next_element()? {
                    None => Ok(Inputs::Many(Vec::new())),
                    Some(Element::Id(first)) => Ok(Inputs::One(TextOrIds::Ids(ids_of(vec![first], items)?))),
                    Some(Element::Item(first)) => {
                        let mut list = vec![first];
                        while let Some(item) = items.next_element()? {
                            list.push(item);
                        }
                        Ok(Inputs::Many(list))
                    }
                }
            }
        }
        deserializer.deserialize_any(InputsVisitor)
    }
}

/// One or two texts that make one input of a classifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Sequence {
    /// One text; `[text]` within a batch.
    Single([String; 1]),
    /// A pair of texts.
    Pair([String; 2]),
}

impl Sequence {
    fn of<E: de::Error>(texts: Vec<String>) -> Result<Self, E> {
        match <[String; 1]>::try_from(texts) {
            Ok(single) => Ok(Self::Single(single)),
            Err(texts) => <[String; 2]>::try_from(texts).map(Self::Pair).map_err(|texts| {
                E::custom(format!("expected one text or a pair, found a list of {} texts", texts.len()))
            }),
        }
    }

    fn has_empty(&self) -> bool {
        match self {
            Self::Single(texts) => texts[0].is_empty(),
            Self::Pair(texts) => texts.iter().any(String::is_empty),
        }
    }
}

/// What `/predict` takes: a text, one pair (`[a, b]`), or a batch (`[[a], [a, b], …]`).
///
/// A flat list of texts is not a batch: two are a pair, three an error, as in TEI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredictInputs {
    /// One text or pair, answered by a flat list.
    One(Sequence),
    /// A batch, answered by a list of lists.
    Batch(Vec<Sequence>),
}

impl PredictInputs {
    pub(super) fn check_not_empty(&self, field: &str) -> Result<(), Fault> {
        let empty = match self {
            Self::One(one) => one.has_empty(),
            Self::Batch(batch) => batch.is_empty() || batch.iter().any(Sequence::has_empty),
        };
        if empty { Err(Fault::empty(field)) } else { Ok(()) }
    }
}

impl Serialize for PredictInputs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(Sequence::Single([text])) => serializer.serialize_str(text),
            Self::One(pair) => pair.serialize(serializer),
            Self::Batch(batch) => batch.serialize(serializer),
        }
    }
}

/// The forms of [`PredictInputs`] on the wire.
#[derive(DeriveDeserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, a pair [a, b] or a batch [[a], [a, b], …]")]
enum PredictForm {
    Text(String),
    Flat(Vec<String>),
    Batch(Vec<Vec<String>>),
}

impl<'de> Deserialize<'de> for PredictInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match PredictForm::deserialize(deserializer)? {
            PredictForm::Text(text) => Ok(Self::One(Sequence::Single([text]))),
            PredictForm::Flat(texts) if texts.len() > 2 => Err(D::Error::custom(format!(
                "a list of {} strings is neither a text nor a pair; a batch is [[a], [b], …]",
                texts.len()
            ))),
            PredictForm::Flat(texts) if texts.is_empty() => Ok(Self::Batch(Vec::new())),
            PredictForm::Flat(texts) => Sequence::of(texts).map(Self::One),
            PredictForm::Batch(batch) => batch.into_iter().map(Sequence::of).collect::<Result<_, _>>().map(Self::Batch),
        }
    }
}

impl PartialSchema for PredictInputs {
    fn schema() -> RefOr<Schema> {
        PredictForm::schema()
    }
}

impl ToSchema for PredictInputs {}

/// A document of a request to rerank: a string, or an object with `text`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
pub struct Document(pub String);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(DeriveDeserialize)]
        #[serde(untagged, expecting = "expected a string or an object with `text`")]
        enum Form {
            Bare(String),
            Object { text: String },
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Bare(text) | Form::Object { text } => Self(text),
        })
    }
}

/// One document or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum Documents {
    /// One.
    One(Document),
    /// A list.
    Many(Vec<Document>),
}

impl Documents {
    /// All texts in order.
    pub fn into_texts(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.0],
            Self::Many(many) => many.into_iter().map(|document| document.0).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }
}
