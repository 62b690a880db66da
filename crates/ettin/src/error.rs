//! The library's one error type: what was wrong, where, and what to do next.

use std::path::PathBuf;
use std::sync::Arc;

use crate::tokenizer::{LimitOrigin, Side};

/// Everything that can go wrong in this crate. Cheap to clone, so that one failure can be told to several callers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `config.json` (or another JSON file of the model) is malformed or inconsistent.
    #[error("{file}: {message}")]
    Config {
        /// The file that is wrong.
        file: String,
        /// What is wrong with it and what was expected.
        message: String,
    },
    /// The model asks for something this engine does not implement.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A weights file is corrupt, truncated or not of a known form.
    #[error("{file}: {message}")]
    Weights {
        /// The file that is wrong.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The names of tensors have a prefix, without which the model is complete;
    /// [`ConvertOptions::strip_prefix`](crate::weights::ConvertOptions::strip_prefix) takes it off.
    #[error("{file}: {message}")]
    TensorPrefix {
        /// Where they are.
        file: String,
        /// The model's folder.
        folder: PathBuf,
        /// The prefix.
        prefix: String,
        /// Which names have it, and where it may come from.
        message: String,
    },
    /// Tensors are missing, unexpected or of the wrong shape; every one of them is named.
    #[error("{file}: {message}")]
    Tensors {
        /// The weights file.
        file: String,
        /// The names, with expected and actual shapes.
        message: String,
    },
    /// A file that the model must have is not there.
    #[error("{place} has no {file}")]
    MissingFile {
        /// The folder, repository or archive searched.
        place: String,
        /// The file looked for.
        file: String,
    },
    /// `tokenizer.json` cannot be used, or a text cannot be encoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// An input is longer than the model's limit and truncation was not asked for.
    #[error(
        "the input has {tokens} tokens, the limit is {limit} ({origin}); shorten it or choose a side to truncate \
         (the model's own is {side})"
    )]
    TooLong {
        /// Tokens of the input, special tokens included.
        tokens: usize,
        /// The most tokens that are accepted.
        limit: usize,
        /// What sets the limit.
        origin: LimitOrigin,
        /// The side that the model's own files would cut.
        side: Side,
    },
    /// A text has more words than a span model takes.
    #[error(
        "the text has {words} words, more than the limit of {limit} (max_len of gliner_config.json); shorten it, or cut it"
    )]
    TooManyWords {
        /// Words of the text.
        words: usize,
        /// The most words that are accepted.
        limit: usize,
    },
    /// Truncation was asked for, but the limit has no room for anything beside the special tokens.
    #[error("the limit of {limit} tokens ({origin}) leaves no room for text beside {special} special tokens; raise it")]
    NoRoom {
        /// The most tokens that are accepted.
        limit: usize,
        /// What sets the limit.
        origin: LimitOrigin,
        /// Special tokens that are put around the input.
        special: usize,
    },
    /// An input or an argument makes no sense for the call.
    #[error("{0}")]
    Input(String),
    /// Vectors cannot be quantised without a lowest and a highest value of each dimension, and one vector has none.
    #[error("{precision} needs the range of each dimension, which one vector does not show; give ranges, or calibrate")]
    NoRanges {
        /// What the vectors were to become.
        precision: String,
    },
    /// A result is NaN or infinite. It is not handed out: nothing that is made of it would be right.
    #[error(
        "NaN or infinite numbers first appear in {place}: weights there are broken, or results are too large for \
         {dtype}{}",
        if dtype == "f32" { "" } else { "; try f32" }
    )]
    NotFinite {
        /// The first step of the model whose result is not finite.
        place: String,
        /// The number format computed in.
        dtype: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        reason: Arc<std::io::Error>,
    },
    /// A model name that is neither a path, nor a model of the suite, nor a Hub id.
    #[error("unknown model {name:?}{hint}")]
    UnknownModel {
        /// The name as given.
        name: String,
        /// A likely correction or the accepted forms, as the end of the sentence.
        hint: String,
    },
    /// The model, or a file of it, is not in the cache and must not, or cannot, be downloaded.
    #[error("{model} ({what}) is not in the cache at {cache}, and {reason}")]
    NotCached {
        /// The model's Hub id.
        model: String,
        /// The revision, and the file where only that is missing.
        what: String,
        /// The cache folder that was searched.
        cache: PathBuf,
        /// Why it is not downloaded, and what to do about it.
        reason: &'static str,
    },
    /// The Hub wants other credentials: the model is private or gated.
    #[error("the Hub refuses access to {url} (HTTP {status}): {message}")]
    Unauthorized {
        /// The address asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The Hub's reason and what to do next.
        message: String,
    },
    /// The Hub has no such repository, revision or file.
    #[error("the Hub has no {what}: {message}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What to check next.
        message: String,
    },
    /// A request to the Hub failed, or its answer cannot be used.
    #[error("{url}: {message}")]
    Hub {
        /// The address asked for.
        url: String,
        /// What happened and, where it helps, what to do next.
        message: String,
    },
    /// This build does not support the device.
    #[error("this build has no support for {device}; build with --features {feature}, or compute on the cpu")]
    NotBuilt {
        /// The device asked for.
        device: String,
        /// The cargo feature that supports it.
        feature: &'static str,
    },
    /// The device is not there, or cannot be used.
    #[error("{device} cannot be opened ({reason}); {hint}, or compute on the cpu")]
    NoDevice {
        /// The device asked for.
        device: String,
        /// The system's reason.
        reason: String,
        /// What to check.
        hint: &'static str,
    },
    /// Worker threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ettin_kernels::TeamError),
    /// candle refused an operation on a tensor or a device.
    #[error(transparent)]
    Candle(Arc<candle_core::Error>),
    /// A fault of the program, not of what it was given: of this crate, or of code that it calls back.
    #[error("internal error: {0}; no input should cause this, so please report it")]
    Internal(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Candle(Arc::new(error))
    }
}

impl Error {
    /// An [`Error::Input`] from anything printable.
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// An [`Error::Internal`] from anything printable.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Error::Internal(message.into())
    }

    /// An [`Error::TooLong`] of more tokens than the model has positions.
    pub(crate) fn too_long(tokens: usize, limit: usize) -> Self {
        Error::TooLong { tokens, limit, origin: LimitOrigin::Positions, side: Side::Right }
    }

    /// An [`Error::Io`] that remembers which file it was about.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |reason| Error::Io { path, reason: Arc::new(reason) }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
