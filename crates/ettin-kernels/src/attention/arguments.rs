//! The arguments of attention: a packed batch of queries, and the keys of each sequence.

use std::{f32::consts::LOG2_E, ops::Range};

use super::{format::KEY_BLOCK, kv::KvHeads, span::Span};

/// Consecutive queries of one sequence and the keys they may see.
#[derive(Clone, Debug)]
pub struct Sequence<'a> {
    /// Rows of `q` and `out` that hold the queries.
    pub rows: Range<usize>,
    /// Absolute position of the first query.
    pub start: usize,
    /// Keys exist at the positions `0..len` (those that a span reaches must still be stored).
    pub len: usize,
    /// The keys and values.
    pub kv: KvHeads<'a>,
}

/// The arguments of [`attention`](fn@super::attention).
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries, already rotated: row r's heads are at `q[r·q_stride..]`, `[heads, head_dim]`.
    pub q: &'a [f32],
    /// Elements from one row of `q` to the next; q may be part of a `[tokens, q | k | v]` buffer.
    pub q_stride: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub span: Span,
    /// Multiplies the scores; 1 / √head_dim.
    pub scale: f32,
    /// In which numbers products are taken.
    pub precision: Precision,
    /// The packed batch.
    pub sequences: &'a [Sequence<'a>],
}

/// In which numbers the products of attention are taken. Softmax and all sums are in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Queries and weights rounded to bf16, multiplied with keys and values of
    /// [`KvFormat::Bf16`](super::KvFormat::Bf16) or [`KvFormat::Int8`](super::KvFormat::Int8). Keys and values kept in
    /// f32 are multiplied in f32.
    Bf16,
}

impl Attention<'_> {
    /// The factor of queries: scale · log₂ e, as weights are powers of two.
    #[inline(always)]
    pub(crate) fn factor(&self) -> f32 {
        self.scale * LOG2_E
    }

    /// # Panics
    /// If the sequence does not fit to the others, or a key that is seen is no longer stored.
    pub(super) fn check(&self, sequence: &Sequence<'_>, rounded: Option<&[u32]>, out: usize) {
        let Sequence { rows, start, len, kv } = sequence;
        let width = self.heads * self.head_dim;
        assert!(kv.heads() == self.heads && kv.layout().head_dim == self.head_dim, "{kv:?} has other heads");
        assert!(rows.end * width <= out, "rows {rows:?} pass the end of out");
        let Some(last) = rows.end.checked_sub(1).filter(|_| !rows.is_empty()) else {
            return;
        };
        match rounded {
            Some(queries) => {
                assert!(rows.end * width <= 2 * queries.len(), "rows {rows:?} pass the end of the queries")
            }
            None => assert!(last * self.q_stride + width <= self.q.len(), "rows {rows:?} pass the end of q"),
        }
        let keys = self.span.keys(*start, *len).start..self.span.keys(start + rows.len() - 1, *len).end;
        if !keys.is_empty() {
            let blocks = (keys.end - 1) / KEY_BLOCK - keys.start / KEY_BLOCK + 1;
            assert!(blocks * KEY_BLOCK <= kv.capacity(), "keys {keys:?} are not all stored in {kv:?}");
        }
    }
}
