//! Numbers for Prometheus: TEI's names where they mean the same, and `ettin_…` for what it has not.
//!
//! Counted is where the event is: a call of [`Service`](crate::service::Service), a batch of a scheduler, a token of a
//! stream. Without a recorder ([`install`]) all of it costs next to nothing.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{SharedString, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{ErrorKind, ServeError};
use crate::logs;
use crate::models::{ModelState, Registry};
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

/// The model of the request that is being carried out; empty where none is known yet.
fn asked_model() -> SharedString {
    logs::model().map_or_else(|| SharedString::const_str(""), SharedString::from)
}

/// A call came in.
pub(crate) fn request(kind: CallKind, inputs: usize) {
    counter!("te_request_count", "model" => asked_model(), "method" => method(inputs)).increment(1);
    let name = match kind {
        CallKind::Embed => "te_embed_count",
        CallKind::Predict => "te_predict_count",
        CallKind::Generate => "ettin_generate_count",
    };
    counter!(name, "model" => asked_model()).increment(inputs as u64);
}

/// A call was answered.
pub(crate) fn success(kind: CallKind, inputs: usize, truncated: usize, times: &CallTimes, total: Duration) {
    counter!("te_request_success", "model" => asked_model(), "method" => method(inputs)).increment(1);
    counter!("ettin_truncated_inputs", "model" => asked_model()).increment(truncated as u64);
    let parts = [total, times.tokenization, times.queue, times.inference];
    let all = [
        "te_request_duration",
        "te_request_tokenization_duration",
        "te_request_queue_duration",
        "te_request_inference_duration",
    ];
    let (answered, of_kind) = match kind {
        CallKind::Embed => (
            "te_embed_success",
            [
                "te_embed_duration",
                "te_embed_tokenization_duration",
                "te_embed_queue_duration",
                "te_embed_inference_duration",
            ],
        ),
        CallKind::Predict => (
            "te_predict_success",
            [
                "te_predict_duration",
                "te_predict_tokenization_duration",
                "te_predict_queue_duration",
                "te_predict_inference_duration",
            ],
        ),
        CallKind::Generate => (
            "ettin_generate_success",
            [
                "ettin_generate_duration",
                "ettin_generate_tokenization_duration",
                "ettin_generate_queue_duration",
                "ettin_generate_inference_duration",
            ],
        ),
    };
    counter!(answered, "model" => asked_model()).increment(inputs as u64);
    for (name, part) in all.into_iter().chain(of_kind).zip(parts.into_iter().cycle()) {
        histogram!(name, "model" => asked_model()).record(part.as_secs_f64());
    }
}

/// A call failed.
pub(crate) fn failure(error: &ServeError) {
    counter!("te_request_failure", "model" => asked_model(), "err" => error.kind.name()).increment(1);
}

/// A request was refused before it came to a call.
pub(crate) fn refused() {
    counter!("te_request_failure", "model" => asked_model(), "err" => ErrorKind::Validation.name()).increment(1);
}

/// A client was gone before its answer.
pub(crate) fn dropped() {
    counter!("te_request_failure", "model" => asked_model(), "err" => "dropped").increment(1);
}

/// How long an input is.
pub(crate) fn input_length(tokens: usize) {
    histogram!("te_request_input_length", "model" => asked_model()).record(tokens as f64);
}

/// How many sequences wait.
pub(crate) fn queue_size(model: &Arc<str>, sequences: usize) {
    gauge!("te_queue_size", "model" => model.clone()).set(sequences as f64);
}

/// A batch is formed.
pub(crate) fn batch(model: &Arc<str>, sequences: usize, tokens: usize) {
    histogram!("te_batch_next_size", "model" => model.clone()).record(sequences as f64);
    histogram!("te_batch_next_tokens", "model" => model.clone()).record(tokens as f64);
}

/// Tokens were computed.
pub(crate) fn computed(model: &Arc<str>, what: &'static str, tokens: usize, time: Duration) {
    let rate = tokens as f64 / time.as_secs_f64().max(1e-9);
    counter!("ettin_computed_tokens_total", "model" => model.clone(), "what" => what).increment(tokens as u64);
    gauge!("ettin_tokens_per_second", "model" => model.clone(), "what" => what).set(rate);
    counter!("ettin_compute_microseconds_total", "model" => model.clone(), "what" => what)
        .increment(time.as_micros() as u64);
}

/// What an engine holds.
pub(crate) fn streams(model: &Arc<str>, running: usize, waiting: usize, cache_bytes: usize) {
    gauge!("ettin_streams_running", "model" => model.clone()).set(running as f64);
    gauge!("ettin_streams_waiting", "model" => model.clone()).set(waiting as f64);
    gauge!("ettin_cache_bytes", "model" => model.clone()).set(cache_bytes as f64);
}

/// Whether a model is ready.
pub(crate) fn model_ready(name: &str, ready: bool) {
    gauge!("ettin_model_ready", "model" => name.to_owned()).set(f64::from(u8::from(ready)));
}

/// A connection more, or one less.
pub(crate) fn connections(change: f64) {
    gauge!("ettin_connections").increment(change);
}

/// A connection was turned away.
pub(crate) fn turned_away() {
    counter!("ettin_connections_refused").increment(1);
}

/// What is told by nothing that happens: looked at again and again.
pub(crate) fn observe(registry: &Registry) {
    for status in registry.status() {
        if let ModelState::Ready(model) = status.state {
            let model_label = || model.name.clone();
            gauge!("ettin_queue_age_seconds", "model" => model_label()).set(model.encoder.oldest().as_secs_f64());
            let admitted = [("encode", &model.admission), ("generate", &model.stream_admission)];
            for (what, admission) in admitted {
                gauge!("ettin_admitted_tokens", "model" => model_label(), "what" => what)
                    .set(admission.tokens() as f64);
                gauge!("ettin_max_queue_tokens", "model" => model_label(), "what" => what)
                    .set(admission.limit() as f64);
            }
        }
    }
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
