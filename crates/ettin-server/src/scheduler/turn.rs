//! The process's one turn to compute.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use super::aside::{Aside, AsideJob};
use super::lock;

/// A lock that is given in the order in which it was asked for.
#[derive(Debug, Default)]
pub struct Turn {
    tickets: Mutex<Tickets>,
    next: Condvar,
    /// Started when there is something for it; none where that failed.
    aside: OnceLock<Option<Aside>>,
}

#[derive(Debug, Default)]
struct Tickets {
    /// That of the next to ask.
    drawn: u64,
    /// That of whoever computes, or may.
    serving: u64,
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(super) struct HeldTurn<'a>(&'a Turn);

impl Turn {
    /// Computes something beside whoever has the turn; at once, where there are no threads for it.
    pub(super) fn beside(&self, job: AsideJob) {
        let start = || Aside::start().inspect_err(|error| tracing::warn!(%error, "long texts hold up others")).ok();
        match self.aside.get_or_init(start) {
            Some(aside) => aside.run(job),
            None => job(),
        }
    }

    /// Waits for the turn.
    pub(super) fn take(&self) -> HeldTurn<'_> {
        let mut tickets = lock(&self.tickets);
        let own = tickets.drawn;
        tickets.drawn += 1;
        while tickets.serving != own {
            tickets = self.next.wait(tickets).unwrap_or_else(PoisonError::into_inner);
        }
        HeldTurn(self)
    }
}

impl Drop for HeldTurn<'_> {
    fn drop(&mut self) {
        lock(&self.0.tickets).serving += 1;
        self.0.next.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_at_a_time_and_nobody_is_left_out() {
        let (turn, inside, turns) = (Arc::new(Turn::default()), Arc::new(AtomicUsize::new(0)), 200);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (turn, inside) = (turn.clone(), inside.clone());
                thread::spawn(move || {
                    for _ in 0..turns {
                        let _held = turn.take();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(lock(&turn.tickets).serving, 4 * turns);
    }
}
