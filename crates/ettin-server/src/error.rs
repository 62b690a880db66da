//! Why a request got no answer, in the server's own terms. What a protocol makes of it (status, body, headers) is the
//! protocol's affair.

use std::fmt;
use std::time::Duration;

use ettin::Error;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense: a value out of range, a prompt that the model lacks, ids of another vocabulary.
    Validation,
    /// A text is longer than the model reads, and is not to be cut.
    TooLong,
    /// The tokenizer cannot encode a text.
    Tokenizer,
    /// There is nothing to compute: no inputs, or a text without a token.
    Empty,
    /// The model cannot do what was asked.
    WrongModel,
    /// No model of that name, and none to take its place.
    NotFound,
    /// Computing failed, or its result is no number.
    Backend,
    /// As much waits as may wait; try again later.
    Overloaded,
    /// The time that the request was given is over.
    Deadline,
    /// Models are not loaded yet, or could not be; or the server is ending.
    Unhealthy,
    /// A fault of the program.
    Internal,
}

impl ErrorKind {
    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::TooLong => "too_long",
            Self::Tokenizer => "tokenization",
            Self::Empty => "empty",
            Self::WrongModel => "model_type",
            Self::NotFound => "not_found",
            Self::Backend => "inference",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Unhealthy => "unhealthy",
            Self::Internal => "internal",
        }
    }
}

/// Why a request, or one of its inputs, got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeError {
    /// What kind of thing went wrong.
    pub kind: ErrorKind,
    /// What was wrong and what to do next, for people.
    pub message: String,
    /// When another try is worth while.
    pub retry_after: Option<Duration>,
}

impl ServeError {
    /// An error of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// Too much waits already.
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Overloaded, message) }
    }

    /// The server cannot answer yet, or any more.
    pub fn unhealthy(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Unhealthy, message) }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same of one input among several.
    #[must_use]
    pub fn of_input(mut self, index: usize, inputs: usize) -> Self {
        if inputs > 1 {
            self.message = format!("input {index}: {}", self.message);
        }
        self
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ServeError {}

impl From<Error> for ServeError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::TooLong { .. } | Error::NoRoom { .. } => ErrorKind::TooLong,
            Error::Tokenizer(_) => ErrorKind::Tokenizer,
            Error::Unsupported(_) => ErrorKind::WrongModel,
            Error::Input(_) | Error::NoRanges { .. } => ErrorKind::Validation,
            Error::Internal(_) => ErrorKind::Internal,
            _ => ErrorKind::Backend,
        };
        Self::new(kind, error.to_string())
    }
}
