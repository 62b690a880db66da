//! Headers of TEI's answers: what a request cost.

use std::time::Duration;

/// How many texts of a request were cut to the model's length. TEI has no such header: it cuts silently.
pub const X_TRUNCATED: &str = "x-truncated";

/// What a request cost.
///
/// TEI sends these headers on `/embed`, `/embed_all`, `/embed_sparse`, `/predict`, `/rerank`, `/similarity` and
/// `/v1/embeddings`. Times are means over the texts of a batch, in whole milliseconds on the wire; counts are sums.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComputeReport {
    /// What computed: `cpu`, `cuda`, ….
    pub compute_type: &'static str,
    /// Unicode scalars of the texts.
    pub characters: usize,
    /// Tokens of the texts, special ones included.
    pub tokens: usize,
    /// From the request's arrival to its answer.
    pub total: Duration,
    /// In the tokenizer.
    pub tokenization: Duration,
    /// In the queue.
    pub queue: Duration,
    /// In the model.
    pub inference: Duration,
    /// Texts that were cut.
    pub truncated: usize,
}

impl ComputeReport {
    /// The headers. `x-truncated` is there only when a text was cut.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let milliseconds = |time: Duration| time.as_millis().to_string();
        let mut headers = vec![
            ("x-compute-type", self.compute_type.to_owned()),
            ("x-compute-time", milliseconds(self.total)),
            ("x-compute-characters", self.characters.to_string()),
            ("x-compute-tokens", self.tokens.to_string()),
            ("x-total-time", milliseconds(self.total)),
            ("x-tokenization-time", milliseconds(self.tokenization)),
            ("x-queue-time", milliseconds(self.queue)),
            ("x-inference-time", milliseconds(self.inference)),
        ];
        if self.truncated > 0 {
            headers.push((X_TRUNCATED, self.truncated.to_string()));
        }
        headers
    }
}
