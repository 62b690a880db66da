//! A few queries against blocks of keys, one query at a time (decoding): the lanes are keys, then elements of a head.
//!
//! Every sum goes through the same chain as in `flash.rs`: the scores over the head's elements, the weights and the
//! values over the keys. So the bits are the same.

use std::{marker::PhantomData, ops::Range};

use super::{
    dot::{DotBlock, DotStep},
    format::KEY_BLOCK,
    online_softmax::{finite, hide_columns, in_block, scaled},
    task::QueryTask,
};
use crate::{
    buffer::take,
    math::exp2_weight,
    simd::{Kernel, LANES, Simd, vector, vector_mut},
};

/// Attends with each of some queries in turn, block by block.
pub(super) struct Decode<'a, A> {
    task: &'a QueryTask<'a>,
    queries: Range<usize>,
    scratch: &'a mut [f32],
    numbers: PhantomData<A>,
}

impl<'a, A> Decode<'a, A> {
    /// For at most [`MAX_QUERIES`].
    pub fn new(task: &'a QueryTask<'a>, queries: Range<usize>, scratch: &'a mut [f32]) -> Self {
        Self { task, queries, scratch, numbers: PhantomData }
    }
}

impl<A: DotStep> Kernel for Decode<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { task, queries, scratch, .. } = self;
        decode::<S, A>(s, task, queries, scratch);
    }
}

/// The state of one query.
struct DecodedQuery<'a> {
    /// Relative to the sequence's rows.
    query: usize,
    /// Operands.
    packed: &'a mut [f32],
    /// Weighted sums of values, `[padded]`.
    sums: &'a mut [f32],
    /// Row sum *l*: the sum of weights.
    row_sum: f32,
    /// Running maximum *m* of the scores.
    running_max: f32,
}

#[inline(always)]
fn decode<S: Simd, A: DotStep>(s: S, task: &QueryTask<'_>, queries: Range<usize>, mut scratch: &mut [f32]) {
    let padded = task.sequence.kv.layout().padded();
    let left = &mut scratch;
    let mut states = [const { None }; MAX_QUERIES];
    for (state, query) in states.iter_mut().zip(queries.clone()) {
        let (packed, sums) = (take(left, padded), take(left, padded));
        A::pack(s, task.query(query), task.args.factor(), packed);
        sums.fill(0.0);
        *state = Some(DecodedQuery { query, packed, sums, row_sum: 0.0, running_max: f32::NEG_INFINITY });
    }
    let seen = task.keys(queries.start).start..task.keys(queries.end - 1).end;
    let blocks = seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK);
    for block in blocks.clone() {
        let stored = A::block(s, task.sequence.kv, block, task.head, scratch);
        let mut ahead = task.block_after(block, &blocks);
        for state in states.iter_mut().flatten() {
            let columns = in_block(&task.keys(state.query), block * KEY_BLOCK);
            if !columns.is_empty() {
                state.visit::<S, A>(s, &stored, columns, padded, ahead.take());
            }
        }
    }
    for state in states.iter_mut().flatten() {
        task.finish(s, state.query, state.sums, state.row_sum);
    }
}

/// Most queries of a call.
pub(super) const MAX_QUERIES: usize = 4;

/// Scratch for [`MAX_QUERIES`] queries.
pub(super) fn scratch(head_dim: usize) -> usize {
    (2 * MAX_QUERIES + 2 * KEY_BLOCK) * head_dim.next_multiple_of(KEY_BLOCK)
}

impl DecodedQuery<'_> {
    /// Attends with a block of keys. On the way, `ahead` is fetched from memory, line by line.
    #[inline(always)]
    fn visit<S: Simd, A: DotStep>(
        &mut self,
        s: S,
        block: &DotBlock<'_>,
        columns: Range<usize>,
        padded: usize,
        ahead: Option<&[f32]>,
    ) {
        let mut scores = [s.zero(); 2];
        let steps = block.keys.len() / KEY_BLOCK;
        let packed = &self.packed[..steps * A::TERMS];
        for (step, keys) in block.keys.chunks_exact(KEY_BLOCK).enumerate() {
            fetch::<S, 2>(s, ahead, step * KEY_BLOCK);
            let q = A::nth(s, packed, step);
            scores[0] = A::add(s, scores[0], A::load(s, vector(keys, 0)), q);
            scores[1] = A::add(s, scores[1], A::load(s, vector(keys, LANES)), q);
        }
        let partial = columns.len() < KEY_BLOCK;
        for (i, score) in scores.iter_mut().enumerate() {
            if let Some(scales) = &block.scales {
                *score = s.mul(*score, s.load(vector(scales.keys, i * LANES)));
            }
            if partial {
                *score = hide_columns(s, *score, i * LANES, &columns);
            }
        }
        // A NaN may hide others here; the result is NaN then.
        let highest = s.largest(s.max(scores[0], scores[1]));
        let running_max = if highest > self.running_max { highest } else { self.running_max };
        let shift = finite(s, s.splat(running_max));
        let rescale = exp2_weight(s, s.sub(s.splat(self.running_max), shift));
        self.running_max = running_max;

        let mut weights = [exp2_weight(s, s.sub(scores[0], shift)), exp2_weight(s, s.sub(scores[1], shift))];
        let mut buffer = [0.0; KEY_BLOCK];
        s.store(weights[0], vector_mut(&mut buffer, 0));
        s.store(weights[1], vector_mut(&mut buffer, LANES));
        let mut lanes = [0.0; LANES];
        s.store(rescale, &mut lanes);
        self.row_sum = buffer[columns.clone()].iter().fold(self.row_sum * lanes[0], |row_sum, weight| row_sum + weight);

        if let Some(scales) = &block.scales {
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = scaled(s, *weight, s.load(vector(scales.values, i * LANES)), scores[i]);
            }
            s.store(weights[0], vector_mut(&mut buffer, 0));
            s.store(weights[1], vector_mut(&mut buffer, LANES));
        }
        let mut operands = [0.0; KEY_BLOCK];
        A::pack(s, &buffer, 1.0, &mut operands);

        let add = WeightedValues {
            values: block.values,
            weights: &operands,
            steps: columns.start / A::TERMS..columns.end.div_ceil(A::TERMS),
            seen: partial.then_some(columns),
            ahead: ahead.map(|ahead| &ahead[ahead.len().min(block.keys.len())..]),
        };
        let mut d = 0;
        // Four vectors at a time: two would wait on each other.
        while d + 4 * LANES <= padded {
            self.add::<S, A, 4>(s, d, rescale, &add);
            d += 4 * LANES;
        }
        if d < padded {
            self.add::<S, A, 2>(s, d, rescale, &add);
        }
    }

    /// Weighted values onto `C` vectors of the sums, which are corrected first.
    #[inline(always)]
    fn add<S: Simd, A: DotStep, const C: usize>(&mut self, s: S, d: usize, rescale: S::V, add: &WeightedValues<'_>) {
        let padded = self.sums.len();
        let mut sums = [s.zero(); C];
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = s.mul(s.load(vector(self.sums, d + c * LANES)), rescale);
        }
        for t in add.steps.clone() {
            fetch::<S, C>(s, add.ahead, t * padded + d);
            let weight = A::nth(s, add.weights, t);
            let row = &add.values[t * padded + d..][..C * LANES];
            for (c, sum) in sums.iter_mut().enumerate() {
                let value = A::load(s, vector(row, c * LANES));
                *sum = match &add.seen {
                    Some(seen) => A::add_seen(s, *sum, [value, weight], A::seen(s, seen, t)),
                    None => A::add(s, *sum, value, weight),
                };
            }
        }
        for (c, sum) in sums.iter().enumerate() {
            s.store(*sum, vector_mut(self.sums, d + c * LANES));
        }
    }
}

/// Values of a block, `[steps, padded]`, and the weights of one query as operands.
struct WeightedValues<'a> {
    values: &'a [f32],
    weights: &'a [f32; KEY_BLOCK],
    steps: Range<usize>,
    /// The columns that the query sees, if not all.
    seen: Option<Range<usize>>,
    /// Values of the next block.
    ahead: Option<&'a [f32]>,
}

/// Prefetches `N` vectors of `ahead`.
#[inline(always)]
fn fetch<S: Simd, const N: usize>(s: S, ahead: Option<&[f32]>, from: usize) {
    if let Some(ahead) = ahead {
        for vector in 0..N {
            s.prefetch(ahead.as_ptr().wrapping_add(from + vector * LANES));
        }
    }
}
