//! Softmax, log-softmax and the largest elements of a row.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{
    isa::Isa,
    math::exp,
    simd::{Kernel, LANES, Simd},
};

/// Vectors summed in f32 before the sum goes on in f64, so that a whole vocabulary adds without drift.
const SUM_VECTORS: usize = 32;

/// Replaces a row by its softmax. A row of −∞ alone, or with a NaN or +∞, becomes NaN, as in PyTorch.
pub fn softmax(isa: Isa, x: &mut [f32]) {
    let (largest, sum) = isa.run(Partition { x });
    isa.run(Softmax { x, largest, sum: sum as f32 });
}

/// Replaces a row by its natural log-softmax.
pub fn log_softmax(isa: Isa, x: &mut [f32]) {
    let (largest, sum) = isa.run(Partition { x });
    let log = sum.ln() as f32;
    for x in x {
        *x = (*x - largest) - log;
    }
}

/// ln Σ eˣ of a row; −∞ for an empty one.
pub fn log_sum_exp(isa: Isa, x: &[f32]) -> f64 {
    let (largest, sum) = isa.run(Partition { x });
    if x.is_empty() { f64::NEG_INFINITY } else { f64::from(largest) + sum.ln() }
}

/// The largest element and Σ e^(x − largest).
struct Partition<'a> {
    x: &'a [f32],
}

impl Kernel for Partition<'_> {
    type Output = (f32, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f64) {
        let (vectors, tail) = self.x.as_chunks::<LANES>();
        // Lanes past the end are −∞: the largest is not theirs, and e^−∞ is exactly 0.
        let mut end = [f32::NEG_INFINITY; LANES];
        end[..tail.len()].copy_from_slice(tail);
        let end = s.load(&end);
        let mut largest = end;
        for v in vectors {
            largest = s.max(s.load(v), largest);
        }
        let largest = s.largest(largest);
        let shift = s.splat(largest);
        let mut sum = f64::from(s.sum(exp(s, s.sub(end, shift))));
        for block in vectors.chunks(SUM_VECTORS) {
            let mut part = s.zero();
            for v in block {
                part = s.add(part, exp(s, s.sub(s.load(v), shift)));
            }
            sum += f64::from(s.sum(part));
        }
        (largest, sum)
    }
}

struct Softmax<'a> {
    x: &'a mut [f32],
    largest: f32,
    sum: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shift, sum) = (s.splat(self.largest), s.splat(self.sum));
        let (vectors, tail) = self.x.as_chunks_mut();
        for v in vectors {
            s.store(s.div(exp(s, s.sub(s.load(v), shift)), sum), v);
        }
        s.store_part(s.div(exp(s, s.sub(s.load_part(tail), shift)), sum), tail);
    }
}

/// The `k` largest elements of a row with their places, largest first; of equal ones the lower place first. NaN is
/// never among them, so fewer than `k` come back if fewer are numbers.
pub fn top_k(row: &[f32], k: usize) -> Vec<(usize, f32)> {
    let k = k.min(row.len());
    if k == 0 {
        return Vec::new();
    }
    // The root is the worst of the best so far.
    let mut best = BinaryHeap::with_capacity(k + 1);
    let mut bar = f32::NEG_INFINITY;
    for (block, values) in row.chunks(LANES).enumerate() {
        // Later elements must be strictly larger once k are held: most blocks end here.
        if best.len() == k && !values.iter().fold(false, |any, &value| any | (value > bar)) {
            continue;
        }
        for (i, &value) in values.iter().enumerate() {
            if value.is_nan() || (best.len() == k && value <= bar) {
                continue;
            }
            best.push(Candidate { place: block * LANES + i, value });
            if best.len() > k {
                best.pop();
            }
            if best.len() == k {
                bar = best.peek().map_or(bar, |worst| worst.value);
            }
        }
    }
    best.into_sorted_vec().into_iter().map(|c| (c.place, c.value)).collect()
}

/// Ordered so that the better candidate is the smaller. Values are not NaN.
struct Candidate {
    place: usize,
    value: f32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_value = other.value.partial_cmp(&self.value).unwrap_or(Ordering::Equal);
        by_value.then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}
