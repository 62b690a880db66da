//! A task of attention: one head, and some consecutive queries of one sequence.

use std::ops::Range;

use super::{
    arguments::{Attention, Sequence},
    format::KvFormat,
};
use crate::{
    simd::{LANES, Simd},
    team::Shared,
};

/// Queries of a task: the most that a register tile takes on any instruction set.
pub(super) const QUERY_TILE: usize = 2 * LANES;

/// One task: some queries of a sequence, one head.
pub(super) struct QueryTask<'a> {
    pub args: Attention<'a>,
    /// Queries that need no packing.
    pub rounded: Option<&'a [u32]>,
    pub sequence: &'a Sequence<'a>,
    pub head: usize,
    /// Relative to the sequence's rows.
    pub queries: Range<usize>,
    /// Whether the next task is the next head of the same queries; else it is the same head of the next queries.
    pub heads_inside: bool,
    pub out: &'a Shared<'a, f32>,
}

impl QueryTask<'_> {
    /// The keys that a query sees.
    #[inline(always)]
    pub fn keys(&self, query: usize) -> Range<usize> {
        self.args.span.keys(self.sequence.start + query, self.sequence.len)
    }

    /// The block to be read after one of `blocks`: the next, or the first of the next head. `None` for integers, which
    /// are not multiplied where they are stored.
    #[inline(always)]
    pub fn block_after(&self, block: usize, blocks: &Range<usize>) -> Option<&[f32]> {
        let (block, head) = if block + 1 < blocks.end { (block + 1, self.head) } else { (blocks.start, self.head + 1) };
        let wanted = head < self.args.heads && self.format() != KvFormat::Int8;
        wanted.then(|| self.sequence.kv.block(block, head))
    }

    pub fn format(&self) -> KvFormat {
        self.sequence.kv.layout().format
    }

    /// The elements of a query, for this head.
    #[inline(always)]
    pub fn query(&self, query: usize) -> &[f32] {
        let row = self.sequence.rows.start + query;
        &self.args.q[row * self.args.q_stride + self.head * self.args.head_dim..][..self.args.head_dim]
    }

    /// The pairs of a query and those behind it, for this head, where they are rounded.
    #[inline(always)]
    pub fn rounded(&self, query: usize) -> Option<&[u32]> {
        let queries = self.rounded?;
        let width = self.args.head_dim / 2;
        let rows = queries.len() / (self.args.heads * width);
        Some(&queries[(self.head * rows + self.sequence.rows.start + query) * width..(self.head + 1) * rows * width])
    }

    #[inline(always)]
    pub fn next_head(&self) -> usize {
        if self.heads_inside { (self.head + 1) % self.args.heads } else { self.head }
    }

    /// Brings the next task's queries into the cache: they are far apart, and nothing else would in time.
    #[inline(always)]
    pub fn prefetch_next<S: Simd>(&self, s: S, queries: Range<usize>) {
        if self.rounded.is_some() {
            return;
        }
        let ahead = if self.heads_inside { self.args.head_dim } else { QUERY_TILE * self.args.q_stride };
        for query in queries {
            let next = self.query(query).as_ptr().wrapping_add(ahead);
            for i in (0..self.args.head_dim).step_by(LANES) {
                s.prefetch(next.wrapping_add(i));
            }
        }
    }

    /// Divides a query's weighted sums of values by its sum of weights.
    #[inline(always)]
    pub fn finish<S: Simd>(&self, s: S, query: usize, sums: &mut [f32], total: f32) {
        let seen = !self.keys(query).is_empty();
        for sum in sums.as_chunks_mut().0 {
            let quotient = s.div(s.load(sum), s.splat(total));
            // A sum that is zero has the sign of keys nobody may know of: adding 0 makes it positive.
            s.store(if seen { s.add(quotient, s.zero()) } else { s.zero() }, sum);
        }
        self.put(s, query, sums);
    }

    /// Hands out a query's result.
    #[inline(always)]
    pub fn put<S: Simd>(&self, s: S, query: usize, sums: &[f32]) {
        let dim = self.args.head_dim;
        let start = ((self.sequence.rows.start + query) * self.args.heads + self.head) * dim;
        // SAFETY: tasks differ in row or head, and rows of sequences do not overlap (checked).
        let out = unsafe { self.out.slice(start..start + dim) };
        for (out, sum) in out.chunks_mut(LANES).zip(sums.as_chunks().0) {
            s.store_part(s.load(sum), out);
        }
    }
}
