//! Many queries against blocks of keys, by query tile (flash attention): the lanes are queries.
//!
//! Scores, weights and sums of values stand transposed, `[keys, queries]` and `[head_dim, queries]`, so that the
//! softmax of a query happens in its lane: no sum or maximum crosses lanes, and a key hidden from some of the queries
//! is a mask on a multiply-add.

use std::{marker::PhantomData, mem, ops::Range, ptr};

use super::{
    dot::{BlockScales, FlashStep},
    format::KEY_BLOCK,
    online_softmax::{finite, in_block, scaled},
    register_tile::{RegisterTiles, TileProduct},
    task::QueryTask,
};
use crate::{
    buffer::take,
    math::exp2_weight,
    simd::{LANES, Simd, Task, vector, vector_mut},
    transpose::transposed,
};

/// Some vectors of queries on their way over the blocks.
pub(super) struct FlashQueries<'a, A> {
    task: &'a QueryTask<'a>,
    /// Relative to the sequence's rows.
    queries: Range<usize>,
    /// Lanes: the queries, and the rest of their last vector.
    width: usize,
    /// Packed queries, `[steps, width]`.
    packed: &'a mut [f32],
    /// Scores of a block, `[KEY_BLOCK, width]`.
    scores: &'a mut [f32],
    /// Their weights as operands, `[KEY_BLOCK / TERMS, width]`.
    weights: &'a mut [f32],
    /// The mask of those that are seen, of the same shape.
    seen: &'a mut [f32],
    /// Weighted sums of values, `[padded, width]`.
    sums: &'a mut [f32],
    /// Row sums *l*: the sums of weights, `[width]`.
    row_sums: &'a mut [f32],
    /// Running maxima *m* of the scores, `[width]`.
    running_max: &'a mut [f32],
    /// Rescale factors α: the sums so far are multiplied by them, `[width]`.
    rescale: &'a mut [f32],
    /// Room for a block in another format.
    block: &'a mut [f32],
    arithmetic: PhantomData<A>,
}

/// Scratch for as many vectors of queries.
pub(super) fn scratch(vectors: usize, head_dim: usize) -> usize {
    let width = vectors * LANES;
    let padded = head_dim.next_multiple_of(KEY_BLOCK);
    width * (2 * padded + 3 * KEY_BLOCK + 3) + 2 * KEY_BLOCK * padded
}

/// Attends with queries that fill at most [`RegisterTiles::MAX_VECTORS`] vectors.
pub(super) struct Flash<'a, A> {
    task: &'a QueryTask<'a>,
    queries: Range<usize>,
    scratch: &'a mut [f32],
    numbers: PhantomData<A>,
}

impl<'a, A> Flash<'a, A> {
    pub fn new(task: &'a QueryTask<'a>, queries: Range<usize>, scratch: &'a mut [f32]) -> Self {
        Self { task, queries, scratch, numbers: PhantomData }
    }
}

impl<S: RegisterTiles, A: FlashStep> Task<S> for Flash<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run(self, s: S) {
        let Self { task, queries, scratch, .. } = self;
        flash::<S, A>(s, task, queries, scratch);
    }
}

#[inline(always)]
fn flash<S: RegisterTiles, A: FlashStep>(s: S, task: &QueryTask<'_>, queries: Range<usize>, mut scratch: &mut [f32]) {
    let (width, padded) = (queries.len().next_multiple_of(LANES), task.sequence.kv.layout().padded());
    let left = &mut scratch;
    let mut tile = FlashQueries::<A> {
        task,
        queries,
        width,
        packed: take(left, padded * width),
        scores: take(left, KEY_BLOCK * width),
        weights: take(left, KEY_BLOCK * width),
        seen: take(left, KEY_BLOCK * width),
        sums: take(left, padded * width),
        row_sums: take(left, width),
        running_max: take(left, width),
        rescale: take(left, width),
        block: scratch,
        arithmetic: PhantomData,
    };
    tile.begin(s);
    let first = tile.keys(0);
    let last = tile.keys(tile.queries.len() - 1);
    let blocks = first.start / KEY_BLOCK..last.end.div_ceil(KEY_BLOCK);
    for block in blocks.clone() {
        // Both ends of the keys that a query sees rise with its position.
        let union = in_block(&(first.start..last.end), block * KEY_BLOCK);
        let partial = in_block(&(last.start..first.end), block * KEY_BLOCK) != (0..KEY_BLOCK);
        if !union.is_empty() {
            // After the last, the first of the next task, which most often is the same tile or the same head.
            let next = if block + 1 < blocks.end { block + 1 } else { blocks.start };
            let head = if block + 1 < blocks.end { task.head } else { task.next_head() };
            tile.visit(s, block, union, partial, task.sequence.kv.block(next, head));
        }
    }
    tile.finish(s);
}

impl<A: FlashStep> FlashQueries<'_, A> {
    /// The keys that a lane's query sees. Lanes without a query see those of the last.
    #[inline(always)]
    fn keys(&self, lane: usize) -> Range<usize> {
        self.task.keys((self.queries.start + lane).min(self.queries.end - 1))
    }

    /// Packs the queries, sixteen of them and sixteen operands at a time.
    #[inline(always)]
    fn begin<S: Simd>(&mut self, s: S) {
        self.sums.fill(0.0);
        self.row_sums.fill(0.0);
        self.running_max.fill(f32::NEG_INFINITY);
        let steps = self.task.args.head_dim.div_ceil(A::TERMS).next_multiple_of(LANES);
        for first in (0..self.width).step_by(LANES) {
            let rows = &mut self.block[..LANES * steps];
            for (i, row) in rows.chunks_exact_mut(steps).enumerate() {
                if first + i < self.queries.len() {
                    A::pack(s, self.task.query(self.queries.start + first + i), self.task.args.factor(), row);
                } else {
                    row.fill(0.0);
                }
            }
            for step in (0..steps).step_by(LANES) {
                let column = transposed(s, &rows[step..], steps);
                for (i, column) in column.into_iter().enumerate() {
                    s.store(column, vector_mut(self.packed, (step + i) * self.width + first));
                }
            }
        }
        self.task.prefetch_next(s, self.queries.clone());
    }

    /// One block of keys, of which some query sees each of the columns `union`; `next` is read after it.
    #[inline(always)]
    fn visit<S: RegisterTiles>(&mut self, s: S, block: usize, union: Range<usize>, partial: bool, next: &[f32]) {
        let (width, vectors) = (self.width, self.width / LANES);
        let layout = self.task.sequence.kv.layout();
        let room = mem::take(&mut self.block);
        let stored = A::block(s, self.task.sequence.kv, block, self.task.head, room);

        let rows = S::rows(vectors);
        let first = union.start / rows * rows;
        let product = TileProduct {
            rows: union.end.next_multiple_of(rows) - first,
            steps: layout.head_dim.next_multiple_of(A::GROUP) / A::TERMS,
            a: stored.keys[first..].as_ptr(),
            a_stride: KEY_BLOCK,
            b: self.packed.as_ptr(),
            seen: ptr::null(),
            out: self.scores[first * width..].as_mut_ptr(),
            stride: width,
            correction: ptr::null(),
            ahead: stored.values.as_ptr(),
            lines: stored.values.len() / LANES,
        };
        // SAFETY: keys are [steps, KEY_BLOCK], packed queries [≥ steps, width], scores [KEY_BLOCK, width]; `rows`
        // divides KEY_BLOCK.
        unsafe { s.product::<A>(product, vectors) };

        // Two keys at a time from here on.
        let pairs = union.start / 2..union.end.div_ceil(2);
        if let Some(scales) = &stored.scales {
            for key in 2 * pairs.start..2 * pairs.end {
                for score in self.scores[key * width..][..width].as_chunks_mut().0 {
                    s.store(s.mul(s.load(score), s.splat(scales.keys[key])), score);
                }
            }
        }
        for lane in (0..width).step_by(LANES) {
            if partial {
                let mut bounds = [[0.0; LANES]; 2];
                let [starts, ends] = &mut bounds;
                for (i, (start, end)) in starts.iter_mut().zip(ends).enumerate() {
                    let columns = in_block(&self.keys(lane + i), block * KEY_BLOCK);
                    (*start, *end) = (columns.start as f32, columns.end as f32);
                }
                hide::<S, A>(s, &bounds, pairs.clone(), &mut self.scores[lane..], &mut self.seen[lane..], width);
            }
            self.weigh(s, lane, pairs.clone(), stored.scales.as_ref());
        }

        let steps = union.start / A::GROUP * A::GROUP / A::TERMS..union.end.next_multiple_of(A::GROUP) / A::TERMS;
        let product = TileProduct {
            rows: layout.head_dim.next_multiple_of(rows),
            steps: steps.len(),
            a: stored.values[steps.start * layout.padded()..].as_ptr(),
            a_stride: layout.padded(),
            b: self.weights[steps.start * width..].as_ptr(),
            seen: if partial { self.seen[steps.start * width..].as_ptr() } else { ptr::null() },
            out: self.sums.as_mut_ptr(),
            stride: width,
            correction: self.rescale.as_ptr(),
            ahead: next.as_ptr(),
            lines: layout.keys() / LANES,
        };
        // SAFETY: values are [KEY_BLOCK / TERMS, padded], and by the width so are weights and what is seen of them;
        // sums are [padded, width]; `rows` divides `padded`.
        unsafe { s.product::<A>(product, vectors) };
        self.block = room;
    }

    /// Scores of one vector of queries to weights; running maxima, rescale factors and row sums go with them.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, lane: usize, pairs: Range<usize>, scales: Option<&BlockScales<'_>>) {
        let width = self.width;
        let old = s.load(vector(self.running_max, lane));
        let mut running_max = old;
        for key in 2 * pairs.start..2 * pairs.end {
            running_max = s.max(s.load(vector(self.scores, key * width + lane)), running_max); // not if it is NaN
        }
        s.store(running_max, vector_mut(self.running_max, lane));
        let shift = finite(s, running_max);
        let rescale = exp2_weight(s, s.sub(old, shift));
        s.store(rescale, vector_mut(self.rescale, lane));
        let mut total = s.mul(s.load(vector(self.row_sums, lane)), rescale);
        for i in pairs {
            let scores = [
                s.load(vector(self.scores, 2 * i * width + lane)),
                s.load(vector(self.scores, (2 * i + 1) * width + lane)),
            ];
            let mut weights = [exp2_weight(s, s.sub(scores[0], shift)), exp2_weight(s, s.sub(scores[1], shift))];
            total = s.add(s.add(total, weights[0]), weights[1]);
            if let Some(scales) = scales {
                weights[0] = scaled(s, weights[0], s.splat(scales.values[2 * i]), scores[0]);
                weights[1] = scaled(s, weights[1], s.splat(scales.values[2 * i + 1]), scores[1]);
            }
            A::put(s, weights, i, &mut self.weights[lane..], width);
        }
        s.store(total, vector_mut(self.row_sums, lane));
    }

    /// Transposes the sums back and hands each query its own.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S) {
        let padded = self.task.sequence.kv.layout().padded();
        for first in (0..self.queries.len()).step_by(LANES) {
            let rows = &mut self.block[..LANES * padded];
            for d in (0..padded).step_by(LANES) {
                let column = transposed(s, &self.sums[d * self.width + first..], self.width);
                for (i, column) in column.into_iter().enumerate() {
                    s.store(column, vector_mut(rows, i * padded + d));
                }
            }
            for (i, row) in rows.chunks_exact_mut(padded).enumerate().take(self.queries.len() - first) {
                self.task.finish(s, self.queries.start + first + i, row, self.row_sums[first + i]);
            }
        }
    }
}

/// Puts −∞ in place of the scores of keys that are not between a lane's bounds, and writes which are.
#[inline(always)]
fn hide<S: Simd, A: FlashStep>(
    s: S,
    bounds: &[[f32; LANES]; 2],
    pairs: Range<usize>,
    scores: &mut [f32],
    seen: &mut [f32],
    width: usize,
) {
    let (start, end) = (s.load(&bounds[0]), s.load(&bounds[1]));
    let (zero, one, hidden) = (s.zero(), s.splat(1.0), s.splat(f32::NEG_INFINITY));
    for i in pairs {
        let mut pair = [one; 2];
        for (odd, sees) in pair.iter_mut().enumerate() {
            let key = 2 * i + odd;
            let column = s.splat(key as f32);
            *sees = s.where_less(column, start, zero, s.where_less(column, end, one, zero));
            let score = vector_mut(scores, key * width);
            s.store(s.where_less(zero, *sees, s.load(score), hidden), score);
        }
        A::put_seen(s, pair, i, seen, width);
    }
}
