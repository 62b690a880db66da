//! How long an input may be, as the model's files say, and what the library that they are for does about longer ones.
//!
//! * Without `modules.json`, most tasks: `max_position_embeddings` of `config.json`. Longer inputs are computed there.
//! * The same with a truncating call, and for `tag`, `answer` and `rerank`: that, and `model_max_length` of
//!   `tokenizer_config.json`. Longer inputs are cut.
//! * With `modules.json`: the first that `sentence_bert_config.json` states of `max_length` of `processing_kwargs`,
//!   `query_length` or `document_length`, `model_max_length` of the tokenizer's arguments, `max_seq_length`; and else as
//!   above. Longer inputs are cut.
//! * Without a trunk: `model_max_length` of the tokenizer under weights of tokens, the `truncation` of `tokenizer.json`
//!   under static embeddings, and else none.
//!
//! Under `truncation: false` of `processing_kwargs` nothing is cut, and the limit is the most positions that this
//! engine computes.
//!
//! So a library has two limits: what it computes, and what it cuts to where it cuts. The first decides what is an
//! error here.

use super::Options;
use crate::files::{ModelFiles, Subfolder};
use crate::sentence_transformers::{SearchSide, Transformer};
use crate::tokenizer::{Limit, LimitOrigin, Side, TokenizerLimits, Truncate};
use crate::{Config, Result};

/// How long an input may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The most that is computed without being asked to cut.
    accepted: Bound,
    /// What longer inputs are cut to.
    kept: Bound,
    /// The side that is cut, where the model's files name one outside `tokenizer.json`.
    side: Option<Side>,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    tokens: usize,
    origin: LimitOrigin,
}

impl Bound {
    fn min(self, other: Option<Bound>) -> Bound {
        other.filter(|other| other.tokens < self.tokens).unwrap_or(self)
    }
}

impl Bounds {
    /// Of a task whose library computes whatever the model has positions for, and cuts to the tokenizer's limit when
    /// asked to.
    pub(super) fn lenient(files: &ModelFiles, config: &Config) -> Result<Self> {
        let tokenizer = TokenizerLimits::load(files)?;
        let positions = positions(config);
        Ok(Self { accepted: positions, kept: positions.min(of_tokenizer(&tokenizer)), side: tokenizer.side })
    }

    /// Of a task whose library always cuts to the tokenizer's limit.
    pub(super) fn strict(files: &ModelFiles, config: &Config) -> Result<Self> {
        let bounds = Self::lenient(files, config)?;
        Ok(Self { accepted: bounds.kept, ..bounds })
    }

    /// Of a task that knows no limit but the model's positions.
    pub(super) fn positions(files: &ModelFiles, config: &Config) -> Result<Self> {
        let side = TokenizerLimits::load(files)?.side;
        Ok(Self { accepted: positions(config), kept: positions(config), side })
    }

    /// Of a repository of sentence-transformers, for texts on one side of a search or on none.
    pub(super) fn sentence_transformers(
        files: &ModelFiles,
        transformer: &Transformer,
        config: &Config,
        role: Option<SearchSide>,
    ) -> Result<Self> {
        let tokenizer = TokenizerLimits::load(&Subfolder { files, folder: &transformer.folder })?;
        let bound = |tokens: Option<usize>, origin| tokens.map(|tokens| Bound { tokens, origin });
        let of_role = match role {
            None => None,
            Some(SearchSide::Query) => bound(transformer.query_length, LimitOrigin::QueryLength),
            Some(SearchSide::Document) => bound(transformer.document_length, LimitOrigin::DocumentLength),
        };
        let stated = bound(transformer.max_length, LimitOrigin::ProcessingKwargs)
            .or(of_role)
            .or(bound(transformer.model_max_length, LimitOrigin::TokenizerArguments))
            .or(bound(transformer.max_seq_length, LimitOrigin::MaxSeqLength));
        let positions = positions(config);
        let limit = match stated {
            // The positions are raised to what is let through, see `Transformer::longest`.
            _ if !transformer.truncates => Bound { origin: LimitOrigin::Uncut, ..positions },
            Some(stated) => positions.min(Some(stated)),
            None => positions.min(of_tokenizer(&tokenizer)),
        };
        Ok(Self { accepted: limit, kept: limit, side: transformer.truncation_side.or(tokenizer.side) })
    }

    /// Of static embeddings, whose library cuts as the bare `tokenizer.json` says, at so many tokens or nowhere.
    pub(super) fn of_tokenizer_file(length: Option<usize>) -> Self {
        let limit = length.map_or(UNLIMITED, |tokens| Bound { tokens, origin: LimitOrigin::TokenizerFile });
        Self { accepted: limit, kept: limit, side: None }
    }

    /// Of weights of tokens, which know no positions: the tokenizer's limit alone.
    pub(super) fn of_tokenizer_in(folder: &Subfolder<'_>) -> Result<Self> {
        let tokenizer = TokenizerLimits::load(folder)?;
        let limit = of_tokenizer(&tokenizer).unwrap_or(UNLIMITED);
        Ok(Self { accepted: limit, kept: limit, side: tokenizer.side })
    }

    /// The limit under a task's options; `stored` is the side that `tokenizer.json` names.
    pub(super) fn limit(&self, options: &Options, stored: Option<Side>) -> Limit {
        let asked = options.max_length.map(|tokens| Bound { tokens, origin: LimitOrigin::Asked });
        let bound = match options.truncate {
            Truncate::Error => self.accepted,
            _ => self.kept,
        };
        let Bound { tokens, origin } = bound.min(asked);
        Limit { tokens, truncate: options.truncate, origin, side: self.side.or(stored).unwrap_or_default() }
    }
}

const UNLIMITED: Bound = Bound { tokens: usize::MAX, origin: LimitOrigin::None };

fn positions(config: &Config) -> Bound {
    Bound { tokens: config.max_position_embeddings, origin: LimitOrigin::Positions }
}

fn of_tokenizer(limits: &TokenizerLimits) -> Option<Bound> {
    limits.length.map(|tokens| Bound { tokens, origin: LimitOrigin::ModelMaxLength })
}
