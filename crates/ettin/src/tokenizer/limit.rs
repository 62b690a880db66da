//! How long an input may be, who says so, and what happens to a longer one.

use std::fmt;

use tokenizers::utils::truncation::TruncationDirection;

use crate::Result;
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::{self, TOKENIZER_CONFIG};
use crate::named::Named;

/// What happens to an input over the length limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncate {
    /// It is an error.
    #[default]
    Error,
    /// It is cut on the side that the model's files name: the right, unless they say otherwise.
    Model,
    /// Its end is cut off.
    Right,
    /// Its beginning is cut off.
    Left,
}

/// Which end of a longer input is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The end.
    #[default]
    Right,
    /// The beginning.
    Left,
}

impl Named for Side {
    const NAMES: &'static [(Self, &'static str)] = &[(Side::Right, "right"), (Side::Left, "left")];
}

impl Side {
    /// The side that a key of a configuration names.
    pub(crate) fn read(keys: &Keys<'_>, key: &str) -> Result<Option<Self>> {
        let refused = || keys.refuse(key, "supported: \"right\", \"left\"");
        keys.text(key)?.map(|name| Self::of_name(name).ok_or_else(refused)).transpose()
    }
}

impl From<TruncationDirection> for Side {
    fn from(direction: TruncationDirection) -> Self {
        match direction {
            TruncationDirection::Right => Side::Right,
            TruncationDirection::Left => Side::Left,
        }
    }
}

impl From<Side> for TruncationDirection {
    fn from(side: Side) -> Self {
        match side {
            Side::Right => TruncationDirection::Right,
            Side::Left => TruncationDirection::Left,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What transformers takes for "none": it writes 1e30.
const NO_LIMIT: f64 = 1e20;

/// What `tokenizer_config.json` says of lengths.
pub(crate) struct TokenizerLimits {
    /// The most tokens.
    pub(crate) length: Option<usize>,
    /// The side that is cut.
    pub(crate) side: Option<Side>,
}

impl TokenizerLimits {
    /// Reads them.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a malformed file, a length that is no whole number above 0, and a side that is
    /// neither.
    pub(crate) fn load(files: &dyn FileSource) -> Result<Self> {
        let Some(map) = metadata::tokenizer_config(files)? else {
            return Ok(Self { length: None, side: None });
        };
        let keys = Keys::new(&map, TOKENIZER_CONFIG);
        // `max_len` is the older name, and read where the newer is missing.
        let key = if keys.has("model_max_length") { "model_max_length" } else { "max_len" };
        let length = match keys.get(key) {
            None => None,
            Some(value) if value.as_f64().is_some_and(|length| length > NO_LIMIT) => None,
            Some(value) => match value.as_u64().and_then(|length| usize::try_from(length).ok()) {
                Some(tokens) if tokens > 0 => Some(tokens),
                _ => return Err(keys.refuse(key, "supported: whole numbers above 0; 1e30 for none")),
            },
        };
        Ok(Self { length, side: Side::read(&keys, "truncation_side")? })
    }
}

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LimitOrigin {
    /// `max_position_embeddings` of `config.json`.
    #[default]
    Positions,
    /// `model_max_length` of `tokenizer_config.json`.
    ModelMaxLength,
    /// `max_seq_length` of `sentence_bert_config.json`.
    MaxSeqLength,
    /// `model_max_length` among the tokenizer's arguments in `sentence_bert_config.json`.
    TokenizerArguments,
    /// `query_length` of `sentence_bert_config.json`.
    QueryLength,
    /// `document_length` of `sentence_bert_config.json`.
    DocumentLength,
    /// `query_length` of a late-interaction model, less its prefix.
    LateInteractionQuery,
    /// `document_length` of a late-interaction model, less its prefix.
    LateInteractionDocument,
    /// `query_maxlen` of `artifact.metadata`, less its marker.
    StanfordQuery,
    /// `doc_maxlen` of `artifact.metadata`, less its marker.
    StanfordDocument,
    /// `length` of `query_expansion` of `sentence_bert_config.json`.
    QueryExpansion,
    /// `max_length` in `processing_kwargs` of `sentence_bert_config.json`.
    ProcessingKwargs,
    /// This engine, for texts that `processing_kwargs` of `sentence_bert_config.json` leaves whole.
    Uncut,
    /// `truncation` of `tokenizer.json`, of static embeddings.
    TokenizerFile,
    /// Nobody: any length is taken.
    None,
    /// The windows in which long contexts are searched for answers.
    Window,
    /// The caller.
    Asked,
}

impl fmt::Display for LimitOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitOrigin::Positions => "max_position_embeddings of config.json",
            LimitOrigin::ModelMaxLength => "model_max_length of tokenizer_config.json",
            LimitOrigin::MaxSeqLength => "max_seq_length of sentence_bert_config.json",
            LimitOrigin::TokenizerArguments => {
                "model_max_length of the tokenizer's arguments in sentence_bert_config.json"
            }
            LimitOrigin::QueryLength => "query_length of sentence_bert_config.json",
            LimitOrigin::DocumentLength => "document_length of sentence_bert_config.json",
            LimitOrigin::LateInteractionQuery => "query_length of config_sentence_transformers.json, less the prefix",
            LimitOrigin::LateInteractionDocument => {
                "document_length of config_sentence_transformers.json, less the prefix"
            }
            LimitOrigin::StanfordQuery => "query_maxlen of artifact.metadata, less the marker",
            LimitOrigin::StanfordDocument => "doc_maxlen of artifact.metadata, less the marker",
            LimitOrigin::QueryExpansion => "length of query_expansion of sentence_bert_config.json",
            LimitOrigin::ProcessingKwargs => "max_length of processing_kwargs in sentence_bert_config.json",
            LimitOrigin::Uncut => "the most that is computed under `truncation: false` in sentence_bert_config.json",
            LimitOrigin::TokenizerFile => "truncation of tokenizer.json",
            LimitOrigin::None => "no limit",
            LimitOrigin::Window => "a window of question answering",
            LimitOrigin::Asked => "the maximal length asked for",
        })
    }
}

/// The most tokens an input may have, and what happens to a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The most tokens, special tokens included.
    pub tokens: usize,
    /// What happens to an input with more.
    pub truncate: Truncate,
    /// Where the limit comes from.
    pub origin: LimitOrigin,
    /// The side that the model's files name.
    pub side: Side,
}

impl Limit {
    /// A limit of the caller's own.
    pub fn new(tokens: usize, truncate: Truncate) -> Self {
        Self { tokens, truncate, origin: LimitOrigin::Asked, side: Side::Right }
    }

    /// The side to cut, or none where a longer input is an error.
    pub(crate) fn cut(&self) -> Option<Side> {
        match self.truncate {
            Truncate::Error => None,
            Truncate::Model => Some(self.side),
            Truncate::Right => Some(Side::Right),
            Truncate::Left => Some(Side::Left),
        }
    }

    /// The error of an input of so many tokens.
    pub(crate) fn too_long(&self, tokens: usize) -> crate::Error {
        crate::Error::TooLong { tokens, limit: self.tokens, origin: self.origin, side: self.side }
    }
}
