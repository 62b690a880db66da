//! Numbers for Prometheus: TEI's names where they mean the same, and `ettin_…` for what it has not.
//!
//! Counted is where the event is: a call of [`Service`](crate::service::Service), a batch of a scheduler, a token of a
//! stream. Without a recorder ([`install`]) all of it costs next to nothing.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{ErrorKind, ServeError};
use crate::scheduler::CallTimes;

/// Installs the recorder of this process, once; none when there is one of somebody else's.
pub fn install() -> Option<PrometheusHandle> {
    let durations: Vec<f64> = (1..=35).map(|k| 1e-5 * 1.5f64.powi(k)).collect();
    let powers = |last: i32| (0..=last).map(|k| 2f64.powi(k)).collect::<Vec<_>>();
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration".into()), &durations)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".into()), &powers(12)))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_tokens".into()), &powers(20)))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_length".into()), &powers(16)));
    builder.ok()?.install_recorder().ok()
}

/// What kind of call one is, as TEI counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// Vectors.
    Embed,
    /// Scores and labels.
    Predict,
    /// Text.
    Generate,
}

/// A call came in.
pub(crate) fn request(kind: CallKind, inputs: usize) {
    counter!("te_request_count", "method" => method(inputs)).increment(1);
    match kind {
        CallKind::Embed => counter!("te_embed_count").increment(inputs as u64),
        CallKind::Predict => counter!("te_predict_count").increment(inputs as u64),
        CallKind::Generate => counter!("ettin_generate_count").increment(inputs as u64),
    }
}

/// A call was answered.
pub(crate) fn success(kind: CallKind, inputs: usize, truncated: usize, times: &CallTimes, total: Duration) {
    counter!("te_request_success", "method" => method(inputs)).increment(1);
    histogram!("te_request_duration").record(total.as_secs_f64());
    histogram!("te_request_tokenization_duration").record(times.tokenization.as_secs_f64());
    histogram!("te_request_queue_duration").record(times.queue.as_secs_f64());
    histogram!("te_request_inference_duration").record(times.inference.as_secs_f64());
    counter!("ettin_truncated_inputs").increment(truncated as u64);
    match kind {
        CallKind::Embed => counter!("te_embed_success").increment(inputs as u64),
        CallKind::Predict => counter!("te_predict_success").increment(inputs as u64),
        CallKind::Generate => counter!("ettin_generate_success").increment(inputs as u64),
    }
}

/// A call failed.
pub(crate) fn failure(error: &ServeError) {
    counter!("te_request_failure", "err" => error.kind.name()).increment(1);
}

/// A request was refused before it came to a call.
pub(crate) fn refused() {
    counter!("te_request_failure", "err" => ErrorKind::Validation.name()).increment(1);
}

/// A client was gone before its answer.
pub(crate) fn dropped() {
    counter!("te_request_failure", "err" => "dropped").increment(1);
}

/// How long an input is.
pub(crate) fn input_length(tokens: usize) {
    histogram!("te_request_input_length").record(tokens as f64);
}

/// How many sequences wait.
pub(crate) fn queue_size(sequences: usize) {
    gauge!("te_queue_size").set(sequences as f64);
}

/// A batch is formed.
pub(crate) fn batch(sequences: usize, tokens: usize) {
    histogram!("te_batch_next_size").record(sequences as f64);
    histogram!("te_batch_next_tokens").record(tokens as f64);
}

/// Tokens were computed.
pub(crate) fn computed(what: &'static str, tokens: usize, time: Duration) {
    counter!("ettin_computed_tokens_total", "what" => what).increment(tokens as u64);
    gauge!("ettin_tokens_per_second", "what" => what).set(tokens as f64 / time.as_secs_f64().max(1e-9));
    counter!("ettin_compute_microseconds_total", "what" => what).increment(time.as_micros() as u64);
}

/// What an engine holds.
pub(crate) fn streams(running: usize, waiting: usize, cache_bytes: usize) {
    gauge!("ettin_streams_running").set(running as f64);
    gauge!("ettin_streams_waiting").set(waiting as f64);
    gauge!("ettin_cache_bytes").set(cache_bytes as f64);
}

/// Whether a model is ready.
pub(crate) fn model_ready(name: &str, ready: bool) {
    gauge!("ettin_model_ready", "model" => name.to_owned()).set(f64::from(u8::from(ready)));
}

fn method(inputs: usize) -> &'static str {
    if inputs == 1 { "single" } else { "batch" }
}

/// Counts a call that is dropped before it is answered.
#[derive(Debug)]
pub(crate) struct Dropped(bool);

impl Dropped {
    pub(crate) fn armed() -> Self {
        Self(true)
    }

    /// The call has an answer.
    pub(crate) fn disarm(mut self) {
        self.0 = false;
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if self.0 {
            dropped();
        }
    }
}

/// Whether an error is worth a line in the log: clients' mistakes are theirs.
pub(crate) fn is_ours(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Backend | ErrorKind::Internal)
}
