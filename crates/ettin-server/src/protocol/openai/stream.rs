//! `POST /v1/completions` with `stream`: server-sent events as strings.

use serde::Serialize;

use super::{AnswerHead, CompletionChoice, TokenUsage};
use crate::protocol::fault::Fault;
use crate::protocol::json::text_of;

/// What ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// A comment that keeps a quiet connection open; clients ignore it.
pub const PING: &str = ": ping\n\n";

/// The chunks of one completion.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionStream {
    head: AnswerHead,
    include_usage: bool,
}

/// A chunk as it is written: `usage` is there at all only when the request asked for it.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [CompletionChoice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<TokenUsage>>,
}

impl CompletionStream {
    /// A stream whose chunks carry this head. With `include_usage` each has `usage: null` and [`Self::usage`] ends
    /// them.
    pub fn new(head: AnswerHead, include_usage: bool) -> Self {
        Self { head, include_usage }
    }

    /// Pieces of one or more choices.
    ///
    /// # Errors
    /// A log-probability is not finite.
    pub fn chunk(&self, choices: &[CompletionChoice]) -> Result<String, Fault> {
        self.event(choices, self.include_usage.then_some(None))
    }

    /// The chunk of the usage, which has no choices; none where the request did not ask for it.
    pub fn usage(&self, usage: TokenUsage) -> Option<String> {
        // Nothing in it can fail to be written.
        self.include_usage.then(|| self.event(&[], Some(Some(usage))).unwrap_or_default())
    }

    /// The error that ends a stream; SDKs raise it. [`DONE`] does not follow.
    pub fn fault(fault: &Fault) -> String {
        event_of(&fault.open_ai_body()).unwrap_or_default()
    }

    fn event(&self, choices: &[CompletionChoice], usage: Option<Option<TokenUsage>>) -> Result<String, Fault> {
        let AnswerHead { id, created, model } = &self.head;
        event_of(&Chunk { id, object: "text_completion", created: *created, model, choices, usage })
    }
}

/// One server-sent event. JSON has no line breaks of its own, so that one line holds all.
pub(in crate::protocol) fn event_of<T: Serialize>(data: &T) -> Result<String, Fault> {
    text_of(data).map(|json| format!("data: {json}\n\n"))
}
