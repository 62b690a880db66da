//! Counter-based random numbers: a draw depends on its key alone, never on what was drawn before.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). The seed is the key; the
//! sample's index, the token's absolute position and its id are the counter. Sequences share nothing, so sampling in a
//! batch equals sampling alone, and a continuation can be drawn again from any position.

use std::hash::{BuildHasher, RandomState};

const ROUNDS: usize = 10;
const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The random numbers of one position of one sample: 32 bits for every token of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws {
    key: [u32; 2],
    sample: u64,
    position: u32,
}

impl Draws {
    /// Those at absolute `position`, which the engine keeps below 2²⁰.
    pub(super) fn new(seed: u64, sample: u64, position: usize) -> Self {
        Self { key: halves(seed), sample, position: position as u32 }
    }

    /// The numbers of tokens `4 · quad` to `4 · quad + 3`.
    pub(super) fn quad(&self, quad: u32) -> [u32; 4] {
        let [low, high] = halves(self.sample);
        philox([self.position, quad, low, high], self.key)
    }
}

/// A seed from the operating system's entropy, as the standard library's hash maps are keyed.
pub fn draw_seed() -> u64 {
    RandomState::new().hash_one(0)
}

fn halves(wide: u64) -> [u32; 2] {
    [wide as u32, (wide >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [a, b] = [MULTIPLIERS[0] * u64::from(counter[0]), MULTIPLIERS[1] * u64::from(counter[2])];
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 library.
    #[test]
    fn philox_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn numbers_fill_the_interval_whatever_varies() {
        for vary in 0..4 {
            let mut bins = [0usize; 16];
            for i in 0..4_000 {
                let mut key = [7, 0, 0, 0];
                key[vary] = i;
                let [seed, sample, position, quad] = key;
                for number in Draws::new(seed, sample, position as usize).quad(quad as u32) {
                    bins[(number >> 28) as usize] += 1;
                }
            }
            // 1000 expected in each; five standard deviations are 153.
            assert!(bins.iter().all(|&bin| bin.abs_diff(1000) < 153), "{bins:?}");
        }
    }

    #[test]
    fn drawn_seeds_differ() {
        assert_ne!(draw_seed(), draw_seed());
    }
}
