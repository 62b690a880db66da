//! Beginnings that several prompts share: read once, then copied.

use super::model::Cache;

/// Tokens from which sharing pays: below, copying keys and values costs about as much as computing them.
const MIN_SHARED: usize = 64;

/// Waiting prompts that are looked at.
const WINDOW: usize = 64;

/// Beginnings that were computed, with the caches behind them.
pub(super) struct PrefixCache<C, D> {
    kept: Vec<CachedPrefix<C, D>>,
    /// How many are kept at once, for their memory.
    capacity: usize,
}

/// One of them; `draft` is what a draft remembers of it.
pub(super) struct CachedPrefix<C, D> {
    ids: Vec<u32>,
    pub(super) cache: C,
    pub(super) draft: D,
}

impl<C: Cache, D> PrefixCache<C, D> {
    /// Room for `capacity` of them.
    pub(super) fn new(capacity: usize) -> Self {
        Self { kept: Vec::new(), capacity }
    }

    /// Tokens whose keys and values are kept.
    pub(super) fn tokens(&self) -> usize {
        self.kept.iter().map(|prefix| prefix.ids.len()).sum()
    }

    /// The longest one that `prompt` begins with and goes on after: a prompt's last token is always read for its
    /// logits.
    pub(super) fn find(&self, prompt: &[u32]) -> Option<&CachedPrefix<C, D>> {
        let fits = |prefix: &&CachedPrefix<C, D>| prefix.ids.len() < prompt.len() && prompt.starts_with(&prefix.ids);
        self.kept.iter().filter(fits).max_by_key(|prefix| prefix.ids.len())
    }

    /// Keeps one more, in place of the oldest when there are enough.
    pub(super) fn keep(&mut self, ids: &[u32], cache: C, draft: D) {
        if self.capacity == 0 {
            return;
        }
        if self.kept.len() == self.capacity {
            self.kept.remove(0);
        }
        self.kept.push(CachedPrefix { ids: ids.to_vec(), cache, draft });
    }

    /// Forgets those that no waiting prompt begins with.
    pub(super) fn forget<'p>(&mut self, waiting: impl Iterator<Item = &'p [u32]> + Clone) {
        self.kept.retain(|prefix| waiting.clone().take(WINDOW).any(|prompt| prompt.starts_with(&prefix.ids)));
    }
}

/// How many tokens of `prompt` are worth keeping for the prompts that wait, where the first `known` need not be read:
/// the length that saves most.
pub(super) fn worth_keeping<'p>(
    prompt: &[u32],
    known: usize,
    waiting: impl Iterator<Item = &'p [u32]>,
) -> Option<usize> {
    let shared = |other: &[u32]| {
        let common = prompt.iter().zip(other).take_while(|(a, b)| a == b).count();
        common.min(prompt.len() - 1).min(other.len() - 1)
    };
    let mut lengths: Vec<usize> =
        waiting.take(WINDOW).map(shared).filter(|&shared| shared >= known + MIN_SHARED).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let saved = lengths.iter().zip(1..).map(|(&length, prompts)| ((length - known) * prompts, length));
    saved.max().map(|(_, length)| length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt that begins with `shared` equal tokens and goes on by itself.
    fn prompt(shared: usize, own: u32) -> Vec<u32> {
        (0..shared as u32).chain([1000 + own; 10]).collect()
    }

    fn worth(known: usize, shared: &[usize]) -> Option<usize> {
        let others: Vec<_> = shared.iter().zip(1..).map(|(&shared, own)| prompt(shared, own)).collect();
        worth_keeping(&prompt(500, 0), known, others.iter().map(Vec::as_slice))
    }

    #[test]
    fn the_length_that_saves_most() {
        assert_eq!(worth(0, &[]), None);
        assert_eq!(worth(0, &[MIN_SHARED - 1]), None);
        assert_eq!(worth(0, &[MIN_SHARED]), Some(MIN_SHARED));
        assert_eq!(worth(0, &[300, 200, 100, 5]), Some(200));
        assert_eq!(worth(0, &[90; WINDOW * 2]), Some(90));
        // What is known need not be kept again.
        assert_eq!(worth(150, &[300, 200, 200]), Some(300));
        assert_eq!(worth(200, &[200 + MIN_SHARED - 1]), None);
    }

    #[test]
    fn the_last_token_is_always_read() {
        let one = prompt(500, 0);
        let other = [one.clone(), vec![7]].concat();
        let worth = |a: &[u32], b: &[u32]| worth_keeping(a, 0, std::iter::once(b));
        assert_eq!((worth(&one, &one), worth(&one, &other)), (Some(509), Some(509)));
        assert_eq!(worth(&other, &one), Some(509));
    }

    impl Cache for usize {
        fn len(&self) -> usize {
            *self
        }

        fn truncate(&mut self, len: usize) -> crate::Result<()> {
            *self = len;
            Ok(())
        }

        fn fork(&self) -> usize {
            *self
        }
    }

    #[test]
    fn the_longest_fit_is_found_and_the_oldest_goes() {
        let all: Vec<u32> = (0..100).collect();
        let mut prefixes = PrefixCache::new(4);
        for len in [30, 10, 20] {
            prefixes.keep(&all[..len], len, ());
        }
        let found = |prefixes: &PrefixCache<usize, ()>, len| prefixes.find(&all[..len]).map(|prefix| prefix.cache);
        assert_eq!([10, 11, 20, 31].map(|len| found(&prefixes, len)), [None, Some(10), Some(10), Some(30)]);
        prefixes.keep(&[9], 1, ());
        prefixes.keep(&[8], 1, ());
        assert_eq!(found(&prefixes, 31), Some(20));
        let waiting = [vec![9, 1], all[..15].to_vec()];
        prefixes.forget(waiting.iter().map(Vec::as_slice));
        assert_eq!(found(&prefixes, 31), Some(10));
        assert!(prefixes.find(&[9, 1]).is_some() && prefixes.find(&[8, 1]).is_none());
    }
}
