//! In which order weights are read, as far as it is known: what threads fetch while they wait.
//!
//! Between products of few rows (decoding), threads wait for the one that does what is not worth sharing: of small
//! weights, a third of the time. Which weights they read next is known by then, so they bring them into their cache.

use std::sync::{Arc, Mutex, PoisonError};

use super::{layout::ActivationLayout, next_read::NextRead, weight::PackedWeight};
use crate::team::share;

/// Weights that are read one after the other, again and again.
#[derive(Debug, Default)]
pub struct ReadingOrder(Mutex<Option<Ends>>);

/// Which outputs of a weight threads share, of few rows.
#[derive(Clone, Copy, Debug)]
pub enum Sharing {
    /// All of them.
    Outputs,
    /// Queries, keys and values, each by heads ([`block::self_attention`](crate::block::self_attention)).
    Heads,
    /// The halves that gate each other: each where they are gated as they are multiplied, on AMX, else all
    /// ([`block::mlp`](crate::block::mlp)).
    Gates,
}

#[derive(Debug)]
struct Ends {
    first: NextRead,
    /// What is read after the last.
    next: Arc<NextRead>,
}

impl ReadingOrder {
    /// Adds a weight, which is read after those that were added before it, and before the first, and how threads share
    /// it.
    pub fn push(&self, w: &PackedWeight, sharing: Sharing) {
        let parts = match sharing {
            Sharing::Heads => 3,
            Sharing::Gates if w.layout() == ActivationLayout::TILES => 2,
            Sharing::Gates | Sharing::Outputs => 1,
        };
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = ends.get_or_insert_with(|| {
            let (first, next) = (NextRead::default(), w.next().clone());
            first.set(w.words(), parts);
            Ends { first, next }
        });
        ends.next.set(w.words(), parts);
        w.next().set_as(&ends.first);
        ends.next = w.next().clone();
    }
}

impl PackedWeight {
    /// Told by a task of a step that reads this weight: who begins a run of tasks will fetch what it reads next, when
    /// it waits.
    pub(crate) fn read_by(&self, task: usize, tasks: usize, workers: usize) {
        let worker = (task * workers).div_ceil(tasks);
        if workers > 1 && task == share(tasks, workers, worker).start {
            self.next().fetch_while_waiting(worker, workers);
        }
    }
}
