//! What can go wrong with a request, and how each protocol says so.
//!
//! One table decides: a [`FaultKind`] has one status, one name and one retry rule per [`ErrorForm`]. Broken JSON,
//! unknown routes and a server that is still loading take the same way as an over-long text.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::json;

/// The longest message that is sent: parsers quote what they met, and a body may be many megabytes.
const MAX_MESSAGE: usize = 400;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The body is not JSON, or breaks a limit of the door (depth, number of values, numbers beyond range).
    Malformed,
    /// A field is missing, has the wrong type or a value outside its range.
    Field,
    /// A text, or the list of texts, is empty where that has no meaning.
    Empty,
    /// A field asks for something that this server does not do; silence would be a wrong answer.
    Refused,
    /// A text has more tokens than the model takes, and truncation is off.
    TooLong,
    /// The tokenizer failed.
    Tokenizer,
    /// No model of this name is loaded.
    UnknownModel,
    /// The model is of another kind than the route asks for.
    WrongModel,
    /// No such route.
    UnknownRoute,
    /// The route exists for another method.
    Method,
    /// The body is of another media type than JSON.
    MediaType,
    /// The body is larger than the server takes.
    PayloadTooLarge,
    /// The key is missing or wrong.
    Unauthorized,
    /// The client took too long to send its request.
    SlowClient,
    /// There is no room for the request now.
    Overloaded,
    /// Models are loading, or the server is ending: another try may succeed.
    Unavailable,
    /// The request did not get its turn before its deadline.
    Deadline,
    /// The computation failed or gave a number that is not finite. It would do so again.
    Backend,
    /// The route or feature is part of the protocol, but not of this build.
    NotImplemented,
    /// A defect of the server.
    Internal,
}

/// How a protocol writes its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorForm {
    /// `{"error": text, "error_type": "Validation"}`.
    Tei,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Fault {
    /// What kind of thing went wrong.
    pub kind: FaultKind,
    /// The field that is wrong, as a path in the body (`parameters.top_k`).
    pub param: Option<String>,
    /// What was wrong and what to do next, for people.
    pub message: String,
    /// When another try is worth while, on the wire in milliseconds and, rounded up, in whole seconds.
    pub retry_after: Option<Duration>,
}

/// A status, headers and a body: what is sent for a [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Headers beside `content-type: application/json`.
    pub headers: Vec<(&'static str, String)>,
    /// The JSON body.
    pub body: String,
}

/// An error as TEI writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TeiErrorBody {
    /// What was wrong and what to do next.
    #[schema(example = "`inputs` cannot be empty")]
    pub error: String,
    /// The class of the error.
    pub error_type: TeiErrorType,
}

/// TEI's classes of errors, capitalised on the wire (its own OpenAPI document shows them in lower case).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TeiErrorType {
    /// A server that is not ready.
    Unhealthy,
    /// The computation failed, or the model is of another kind.
    Backend,
    /// No room now.
    Overloaded,
    /// The request is wrong.
    Validation,
    /// The tokenizer failed.
    Tokenizer,
    /// An empty text or list.
    Empty,
}

/// An error as OpenAI, vLLM and llama.cpp write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OpenAiErrorBody {
    /// The error; the only key.
    pub error: OpenAiError,
}

/// The content of an [`OpenAiErrorBody`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OpenAiError {
    /// What was wrong and what to do next.
    pub message: String,
    /// The class of the error.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub class: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// The error's name within its class.
    #[schema(example = "model_not_found")]
    pub code: Option<String>,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, param: None, message: shortened(message.into()), retry_after: None }
    }

    /// A field that is missing or wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FaultKind::Field, message).with_param(param)
    }

    /// An empty text or list.
    pub fn empty(param: &str) -> Self {
        Self::new(FaultKind::Empty, format!("`{param}` cannot be empty")).with_param(param)
    }

    /// A number that is not finite where a result should be.
    pub fn not_finite() -> Self {
        Self::new(
            FaultKind::Backend,
            "the model computed a number that is not finite (NaN or infinity); no answer can be given for this input",
        )
    }

    /// The same, about this field.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same, of one request of several: the message says which, for forms that have no place for the field.
    #[must_use]
    pub fn of_instance(self, index: usize) -> Self {
        let parent = format!("instances[{index}]");
        let message = shortened(format!("{parent}: {}", self.message));
        Self { message, ..self.within(&parent) }
    }

    /// The same, within `parent`: the path of the field gets it in front.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.param = Some(match self.param {
            Some(param) => format!("{parent}.{param}"),
            None => parent.to_owned(),
        });
        self
    }

    /// The same, worth another try after this time.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// What is sent: status, headers and body in the protocol's form.
    pub fn answer(&self, form: ErrorForm) -> FaultAnswer {
        let body = match form {
            ErrorForm::Tei => {
                json::text_of(&TeiErrorBody { error: self.message.clone(), error_type: self.kind.tei_type() })
            }
            ErrorForm::OpenAi => json::text_of(&self.open_ai_body()),
        };
        FaultAnswer { status: self.kind.status(form), headers: self.headers(), body: body.unwrap_or_default() }
    }

    /// The body of the nested form, which is also what a stream carries when it fails.
    pub fn open_ai_body(&self) -> OpenAiErrorBody {
        let error = OpenAiError {
            message: self.message.clone(),
            class: self.kind.open_ai_class().to_owned(),
            param: self.param.clone(),
            code: self.kind.open_ai_code().map(str::to_owned),
        };
        OpenAiErrorBody { error }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        match self.kind.retry() {
            Retry::Never => vec![("x-should-retry", "false".to_owned())],
            Retry::ByStatus => Vec::new(),
            Retry::After => {
                let after = self.retry_after.unwrap_or(Duration::from_secs(1));
                let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
                let milliseconds = after.as_millis().max(1);
                vec![
                    ("retry-after", seconds.max(1).to_string()),
                    ("retry-after-ms", milliseconds.to_string()),
                    ("x-should-retry", "true".to_owned()),
                ]
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// What clients are told about another try. The OpenAI SDKs try again on 408, 409, 429 and from 500 on.
enum Retry {
    /// `retry-after`, in seconds for all and in milliseconds for those SDKs.
    After,
    /// `x-should-retry: false`, where the status alone would invite another try.
    Never,
    /// The status says it.
    ByStatus,
}

impl FaultKind {
    /// The HTTP status in the protocol's use.
    pub fn status(self, form: ErrorForm) -> u16 {
        use FaultKind::*;
        match (self, form) {
            (Malformed | Empty, _) | (Field | Refused | TooLong | Tokenizer | WrongModel, ErrorForm::OpenAi) => 400,
            (Unauthorized, _) => 401,
            (UnknownModel | UnknownRoute, _) => 404,
            (Method, _) => 405,
            (SlowClient, _) => 408,
            (PayloadTooLarge, _) => 413,
            (MediaType, _) => 415,
            (Field | Refused | TooLong | Tokenizer, ErrorForm::Tei) => 422,
            (Backend, _) | (WrongModel, ErrorForm::Tei) => 424,
            (Overloaded, _) => 429,
            (Internal, _) => 500,
            (NotImplemented, _) => 501,
            (Unavailable | Deadline, _) => 503,
        }
    }

    /// TEI's class. Its enumeration has no word for some kinds; the nearest one stands for them.
    pub fn tei_type(self) -> TeiErrorType {
        use FaultKind::*;
        match self {
            Malformed | Field | Refused | TooLong | UnknownModel | UnknownRoute | Method | MediaType
            | PayloadTooLarge | Unauthorized | SlowClient | NotImplemented => TeiErrorType::Validation,
            Empty => TeiErrorType::Empty,
            Tokenizer => TeiErrorType::Tokenizer,
            WrongModel | Backend | Internal => TeiErrorType::Backend,
            Overloaded => TeiErrorType::Overloaded,
            Unavailable | Deadline => TeiErrorType::Unhealthy,
        }
    }

    /// OpenAI's `type`.
    pub fn open_ai_class(self) -> &'static str {
        use FaultKind::*;
        match self {
            Malformed | Field | Empty | Refused | TooLong | Tokenizer | UnknownModel | WrongModel | UnknownRoute
            | Method | MediaType | PayloadTooLarge | SlowClient => "invalid_request_error",
            Unauthorized => "authentication_error",
            Overloaded => "rate_limit_error",
            Unavailable | Deadline => "service_unavailable_error",
            Backend | Internal => "server_error",
            NotImplemented => "not_implemented_error",
        }
    }

    /// OpenAI's `code`, where the class alone does not say it.
    pub fn open_ai_code(self) -> Option<&'static str> {
        use FaultKind::*;
        match self {
            Malformed => Some("invalid_json"),
            Refused => Some("unsupported_parameter"),
            TooLong => Some("context_length_exceeded"),
            UnknownModel => Some("model_not_found"),
            WrongModel => Some("model_not_supported"),
            UnknownRoute => Some("unknown_url"),
            Method => Some("method_not_allowed"),
            MediaType => Some("unsupported_media_type"),
            PayloadTooLarge => Some("payload_too_large"),
            Unauthorized => Some("invalid_api_key"),
            SlowClient => Some("request_timeout"),
            Overloaded => Some("rate_limit_exceeded"),
            Unavailable => Some("not_ready"),
            Deadline => Some("deadline_exceeded"),
            Backend => Some("backend_error"),
            NotImplemented => Some("not_implemented"),
            Internal => Some("internal_error"),
            Field | Empty | Tokenizer => None,
        }
    }

    fn retry(self) -> Retry {
        match self {
            Self::Overloaded | Self::Unavailable | Self::Deadline => Retry::After,
            Self::NotImplemented => Retry::Never,
            _ => Retry::ByStatus,
        }
    }
}

/// The message without its middle where it is long; cut between characters.
fn shortened(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let head = message.floor_char_boundary(MAX_MESSAGE * 2 / 3);
    let tail = message.ceil_char_boundary(message.len() - MAX_MESSAGE / 3);
    format!("{}…{}", &message[..head], &message[tail..])
}
