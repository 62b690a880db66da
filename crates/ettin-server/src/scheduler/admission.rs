//! How much may wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use crate::error::ServeError;

/// Bytes of text that are taken for a token before it is known how many there are. Tokens of prose are longer, so that
/// this rather counts too many.
const BYTES_PER_TOKEN: usize = 3;

/// The longest time that a client is told to wait: the SDK of OpenAI does not retry at all beyond two minutes.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// One rule for all: a request is let in when its tokens and those of all that are in come to no more than a limit. A
/// request larger than the limit is let in when nothing else is there.
///
/// A request counts from before its texts are encoded (then by their bytes) until it is answered or its client is gone.
#[derive(Debug)]
pub struct Admission {
    limit: usize,
    state: Mutex<Admitted>,
}

#[derive(Debug)]
struct Admitted {
    tokens: usize,
    /// Tokens computed in a second, lately.
    rate: f64,
}

/// The tokens of one request that is in, until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    admission: Arc<Admission>,
    tokens: usize,
}

impl Admission {
    /// With room for so many tokens.
    pub fn new(limit: usize) -> Arc<Self> {
        // Before anything is measured: what one core of an old machine does for the smallest model.
        Arc::new(Self { limit, state: Mutex::new(Admitted { tokens: 0, rate: 2000.0 }) })
    }

    /// The most tokens that may be in.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The tokens that are in.
    pub fn tokens(&self) -> usize {
        lock(&self.state).tokens
    }

    /// Tokens computed in a second, lately.
    pub fn rate(&self) -> f64 {
        lock(&self.state).rate
    }

    /// Lets a request in by the bytes of its texts.
    ///
    /// # Errors
    /// [`Overloaded`](crate::error::ErrorKind::Overloaded).
    pub fn reserve_bytes(self: &Arc<Self>, bytes: usize, texts: usize) -> Result<Reservation, ServeError> {
        // Two special tokens around each.
        self.reserve(bytes / BYTES_PER_TOKEN + 2 * texts)
    }

    /// Lets a request of so many tokens in.
    ///
    /// # Errors
    /// [`Overloaded`](crate::error::ErrorKind::Overloaded).
    pub fn reserve(self: &Arc<Self>, tokens: usize) -> Result<Reservation, ServeError> {
        let mut state = lock(&self.state);
        if state.tokens > 0 && state.tokens.saturating_add(tokens) > self.limit {
            return Err(self.refused(&state, tokens));
        }
        state.tokens += tokens;
        Ok(Reservation { admission: self.clone(), tokens })
    }

    fn refused(&self, state: &Admitted, tokens: usize) -> ServeError {
        let excess = (state.tokens + tokens).saturating_sub(self.limit).min(state.tokens) as f64;
        let wait = Duration::from_secs_f64((excess / state.rate.max(1.0)).min(LONGEST_RETRY.as_secs_f64()));
        let (limit, waiting) = (self.limit, state.tokens);
        ServeError::overloaded(
            format!(
                "the server is busy: {waiting} tokens wait, and with the {tokens} of this request there would be more \
                 than {limit}; try again later"
            ),
            wait.max(Duration::from_millis(100)),
        )
    }

    /// Notes that so many tokens took so long.
    pub(super) fn computed(&self, tokens: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if tokens > 0 && seconds > 0.0 {
            let mut state = lock(&self.state);
            // A small batch says less.
            let weight = (tokens as f64 / 4096.0).clamp(0.02, 0.5);
            state.rate += weight * (tokens as f64 / seconds - state.rate);
        }
    }
}

impl Reservation {
    /// Says how many tokens there really are.
    ///
    /// # Errors
    /// [`Overloaded`](crate::error::ErrorKind::Overloaded) where those are more than was thought, and too many.
    pub fn settle(&mut self, tokens: usize) -> Result<(), ServeError> {
        let mut state = lock(&self.admission.state);
        let others = state.tokens - self.tokens;
        if tokens > self.tokens && others > 0 && others.saturating_add(tokens) > self.admission.limit {
            return Err(self.admission.refused(&state, tokens - self.tokens));
        }
        state.tokens = others + tokens;
        self.tokens = tokens;
        Ok(())
    }

    /// Its tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.admission.state).tokens -= self.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn singles_and_batches_have_one_limit_and_the_largest_comes_in_alone() {
        let admission = Admission::new(100);
        let first = admission.reserve(60).unwrap();
        let refused = admission.reserve(41).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Overloaded);
        assert!(refused.retry_after.is_some());
        let second = admission.reserve(40).unwrap();
        assert!(admission.reserve(1).is_err());
        drop((first, second));
        let huge = admission.reserve(1_000_000).unwrap();
        assert!(admission.reserve(1).is_err());
        drop(huge);
        assert_eq!(admission.tokens(), 0);
    }

    #[test]
    fn what_was_estimated_is_settled() {
        let admission = Admission::new(100);
        let mut one = admission.reserve(50).unwrap();
        let mut other = admission.reserve(20).unwrap();
        one.settle(10).unwrap();
        other.settle(90).unwrap();
        assert!(one.settle(11).is_err());
        assert_eq!(admission.tokens(), 100);
        drop(other);
        one.settle(500).unwrap();
        drop(one);
        assert_eq!(admission.tokens(), 0);
    }
}
