//! How much an engine holds and computes at once.

use super::STEP_ROWS;
use crate::setters::setters;
use crate::{Error, Result};

/// The most tokens that are drafted in one step, all sequences together, unless an engine is told otherwise: beyond,
/// verifying a token costs as much as making it.
pub const MAX_DRAFTED: usize = 64;

/// Limits of an [`Engine`](super::Engine). They change its speed and its memory, never a token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineSettings {
    /// Sequences that run at once; 32 by default. A request for more samples than that runs alone.
    pub max_running: usize,
    /// The most tokens that one step computes, above `max_running`, so that prompts are computed while others generate;
    /// [`STEP_ROWS`] by default. Local layers keep this many positions more than they attend to.
    pub step_rows: usize,
    /// Caches of beginnings that waiting prompts share, kept at once; 4 by default, and 0 shares nothing.
    pub prefix_caches: usize,
    /// The most tokens drafted in one step, all sequences together; [`MAX_DRAFTED`] by default.
    pub max_drafted: usize,
    /// The most tokens of a sequence, prompt included, where the model has more positions.
    pub max_context: usize,
    /// The most bytes that the caches of all sequences may come to, as
    /// [`bytes_per_token`](super::Engine::bytes_per_token) counts them and each as long as it may get; a request beyond
    /// waits, or runs alone. None by default.
    pub max_cache_bytes: Option<usize>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            max_running: 32,
            step_rows: STEP_ROWS,
            prefix_caches: 4,
            max_drafted: MAX_DRAFTED,
            max_context: usize::MAX,
            max_cache_bytes: None,
        }
    }
}

setters!(EngineSettings {
    /// With this many sequences running at once.
    with_max_running(max_running: usize);
    /// With steps of at most this many tokens.
    with_step_rows(step_rows: usize);
    /// With this many caches of shared beginnings.
    with_prefix_caches(prefix_caches: usize);
    /// With at most this many tokens drafted in one step.
    with_max_drafted(max_drafted: usize);
    /// With sequences of at most this many tokens.
    with_max_context(max_context: usize);
    /// With caches of at most this many bytes together.
    with_max_cache_bytes(max_cache_bytes: impl Into<Option<usize>>);
});

impl EngineSettings {
    /// # Errors
    /// [`Error::Input`] for limits under which nothing could be computed.
    pub(super) fn check(&self) -> Result<()> {
        if self.max_context == 0 {
            return Err(Error::input("a sequence needs room for at least one token (max_context)"));
        }
        if self.max_running == 0 {
            return Err(Error::input("an engine must run at least one sequence at a time (max_running)"));
        }
        if self.step_rows <= self.max_running {
            return Err(Error::input(format!(
                "a step of {} rows leaves no room for a prompt beside {} running sequences; raise step_rows above \
                 max_running",
                self.step_rows, self.max_running
            )));
        }
        Ok(())
    }
}
