//! Sequences that wait, and which of them are next: deficit round robin among clients.
//!
//! Every client on the ring is given the same number of tokens in a round, and takes the sequences at the head of its
//! line for as long as it can pay for them. What it cannot spend because its next sequence is long it keeps. So clients
//! get equal shares of tokens, whatever the lengths of their texts and however many they send at once: the ones with
//! short texts go on while another one saves up for a long text.

use std::collections::{HashMap, VecDeque};

/// Tokens that a client is given in a round.
const QUANTUM: usize = 512;

/// One request's sequences, in a line.
pub(super) trait Queued: Clone {
    /// How many sequences it has.
    fn sequences(&self) -> usize;
    /// Tokens of one of them.
    fn length(&self, index: usize) -> usize;
    /// Whether it must not be computed any more.
    fn is_dead(&self) -> bool;
}

/// The sequences of all clients that wait.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    clients: HashMap<u64, Line<J>>,
    /// Clients with something to do, the next one first.
    ring: VecDeque<u64>,
    sequences: usize,
}

/// What one client waits for.
#[derive(Debug)]
struct Line<J> {
    jobs: VecDeque<(J, usize)>,
    /// Tokens that it may spend.
    deficit: usize,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { clients: HashMap::new(), ring: VecDeque::new(), sequences: 0 }
    }
}

impl<J: Queued> FairQueue<J> {
    /// Puts a request with at least one sequence at the end of its client's line.
    pub(super) fn push(&mut self, client: u64, job: J) {
        self.sequences += job.sequences();
        let line = self.clients.entry(client).or_insert_with(|| {
            self.ring.push_back(client);
            Line { jobs: VecDeque::new(), deficit: 0 }
        });
        line.jobs.push_back((job, 0));
    }

    /// The job at the head of each client's line.
    pub(super) fn heads(&self) -> impl Iterator<Item = &J> {
        self.clients.values().filter_map(|line| line.jobs.front().map(|(job, _)| job))
    }

    /// Sequences that wait.
    pub(super) fn len(&self) -> usize {
        self.sequences
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The next batch: sequences of at most `budget` tokens, or one; none of them longer than `longest`. Nothing only where
    /// nothing waits that is alive and short enough.
    pub(super) fn take(&mut self, budget: usize, longest: usize) -> Vec<(J, usize)> {
        let (mut batch, mut room) = (Vec::new(), budget);
        // A client whose next sequence did not fit any more begins the next batch.
        let mut first_next: Option<u64> = None;
        while !self.ring.is_empty() {
            let mut full = 0;
            for _ in 0..self.ring.len() {
                let Some(client) = self.ring.pop_front() else { break };
                let Some(line) = self.clients.get_mut(&client) else { continue };
                line.deficit += QUANTUM;
                let fits = line.spend(&mut batch, &mut room, longest, &mut self.sequences);
                if line.jobs.is_empty() {
                    self.clients.remove(&client);
                    continue;
                }
                self.ring.push_back(client);
                if !fits {
                    // It pays when it is served.
                    full += 1;
                    first_next.get_or_insert(client);
                }
            }
            if room == 0 || full > 0 && full == self.ring.len() {
                break;
            }
            // Clients that can afford nothing yet save up while the batch has room for what they save for.
        }
        if let Some(place) = first_next.and_then(|first| self.ring.iter().position(|&client| client == first)) {
            self.ring.rotate_left(place);
        }
        batch
    }
}

impl<J: Queued> Line<J> {
    /// Takes what it can pay for and what fits. Says whether the next one fits, could it pay for it.
    fn spend(&mut self, batch: &mut Vec<(J, usize)>, room: &mut usize, longest: usize, waiting: &mut usize) -> bool {
        while let Some((job, next)) = self.jobs.front_mut() {
            if job.is_dead() {
                *waiting -= job.sequences() - *next;
                self.jobs.pop_front();
                continue;
            }
            let length = job.length(*next);
            if length > longest || length > *room && !batch.is_empty() {
                // It need not save more than it can spend at once.
                self.deficit = self.deficit.min(length);
                return false;
            }
            if length > self.deficit {
                return true;
            }
            self.deficit -= length;
            *room = room.saturating_sub(length);
            *waiting -= 1;
            batch.push((job.clone(), *next));
            *next += 1;
            if *next == job.sequences() {
                self.jobs.pop_front();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Texts {
        name: &'static str,
        lengths: Rc<[usize]>,
        dead: bool,
    }

    impl Queued for Texts {
        fn sequences(&self) -> usize {
            self.lengths.len()
        }

        fn length(&self, index: usize) -> usize {
            self.lengths[index]
        }

        fn is_dead(&self) -> bool {
            self.dead
        }
    }

    fn texts(name: &'static str, lengths: &[usize]) -> Texts {
        Texts { name, lengths: lengths.into(), dead: false }
    }

    fn tokens(batch: &[(Texts, usize)]) -> usize {
        batch.iter().map(|(job, index)| job.length(*index)).sum()
    }

    #[test]
    fn everything_is_taken_once_and_batches_keep_the_budget() {
        let mut queue = FairQueue::default();
        for client in 0..7 {
            let lengths: Vec<usize> = (0..40).map(|i| 1 + (i * 37 + client as usize * 91) % 700).collect();
            queue.push(client, texts("a", &lengths));
        }
        let (mut taken, mut batches) = (0, 0);
        while !queue.is_empty() {
            let batch = queue.take(2000, usize::MAX);
            assert!(!batch.is_empty());
            assert!(tokens(&batch) <= 2000 || batch.len() == 1);
            taken += batch.len();
            batches += 1;
            assert_eq!(queue.len(), 280 - taken);
        }
        assert_eq!(taken, 280);
        // 98,000 tokens: batches are nearly full.
        assert!(batches < 60, "{batches}");
    }

    #[test]
    fn a_large_request_does_not_hold_up_a_small_one_behind_it() {
        let mut queue = FairQueue::default();
        queue.push(1, texts("large", &[100; 10_000]));
        queue.push(2, texts("small", &[20]));
        let batch = queue.take(4000, usize::MAX);
        assert!(batch.iter().any(|(job, _)| job.name == "small"));
        assert!(tokens(&batch) > 3800);
    }

    #[test]
    fn long_texts_take_their_share_and_never_starve() {
        let mut queue = FairQueue::default();
        queue.push(1, texts("long", &[8000; 5]));
        for client in 2..6 {
            queue.push(client, texts("short", &[50; 2000]));
        }
        let (mut long, mut short) = (0, 0);
        while long < 3 * 8000 {
            for (job, index) in queue.take(2000, usize::MAX) {
                match job.name {
                    "long" => long += job.length(index),
                    _ => short += job.length(index),
                }
            }
        }
        // Four clients of short texts have about four times as much.
        assert!((60_000..130_000).contains(&short), "{short}");
    }

    #[test]
    fn a_text_longer_than_any_batch_is_a_batch() {
        let mut queue = FairQueue::default();
        queue.push(1, texts("long", &[8000]));
        assert_eq!(queue.take(100, usize::MAX).len(), 1);
        assert!(queue.is_empty() && queue.take(100, usize::MAX).is_empty());
    }

    #[test]
    fn what_is_too_long_now_stays_and_lets_other_clients_pass() {
        let mut queue = FairQueue::default();
        queue.push(1, texts("long", &[900, 10]));
        queue.push(2, texts("short", &[20, 20]));
        assert_eq!(queue.take(2000, 500).iter().map(|(job, _)| job.name).collect::<Vec<_>>(), ["short"; 2]);
        assert!(queue.take(2000, 500).is_empty() && queue.len() == 2);
        assert_eq!(queue.take(2000, usize::MAX).len(), 2);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_dead_leave_without_being_computed() {
        let mut queue = FairQueue::default();
        queue.push(1, Texts { dead: true, ..texts("dead", &[10, 10]) });
        queue.push(1, texts("alive", &[10]));
        let batch = queue.take(100, usize::MAX);
        assert_eq!(batch.iter().map(|(job, _)| job.name).collect::<Vec<_>>(), ["alive"]);
        assert_eq!(queue.len(), 0);
        queue.push(1, Texts { dead: true, ..texts("dead", &[10]) });
        assert!(queue.take(100, usize::MAX).is_empty() && queue.is_empty());
    }
}
