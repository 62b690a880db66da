//! Time, in one place: the standard clock panics in a browser.

use std::time::Duration;

/// A moment on a clock that never goes back. In a browser (wasm32 without a system) all moments are the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    instant: std::time::Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
            instant: std::time::Instant::now(),
        }
    }

    /// The time since an earlier moment.
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.instant - earlier.instant
    }

    /// The time since an earlier moment.
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    pub(super) fn since(self, _: Self) -> Duration {
        Duration::ZERO
    }
}

/// How long a sequence took, phase by phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Times {
    /// From the submission of its request until it began to run.
    pub queued: Duration,
    /// From there until the logits behind its prompt.
    pub prompt: Duration,
    /// From there until its end.
    pub generate: Duration,
}

/// When a sequence passed from phase to phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phases {
    submitted: Moment,
    started: Option<Moment>,
    prompt_computed: Option<Moment>,
}

impl Phases {
    pub(super) fn new() -> Self {
        Self { submitted: Moment::now(), started: None, prompt_computed: None }
    }

    /// Notes that it runs.
    pub(super) fn start(&mut self) {
        self.started.get_or_insert_with(Moment::now);
    }

    /// Notes that the logits behind its prompt are there.
    pub(super) fn prompt_computed(&mut self) {
        self.prompt_computed.get_or_insert_with(Moment::now);
    }

    /// Whether the logits behind its prompt have been there.
    pub(super) fn is_prompt_computed(&self) -> bool {
        self.prompt_computed.is_some()
    }

    /// How long each took until now.
    pub(super) fn times(&self) -> Times {
        let now = Moment::now();
        let started = self.started.unwrap_or(now);
        let computed = self.prompt_computed.unwrap_or(now);
        Times { queued: started.since(self.submitted), prompt: computed.since(started), generate: now.since(computed) }
    }
}
