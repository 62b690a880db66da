//! The attention half of a layer: norm, projection, rotation, keys and values, attention, output, residual.
//!
//! A sequence attends to itself and to what is cached of it. [`AttentionPlan`] names the ways to cut the work and holds
//! the policy; each way has a file: `heads.rs` computes groups of heads (for one task's sequences, or shared by all
//! threads), `rows.rs` takes one step after the other over all rows.

mod heads;
mod plan;
mod rows;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

pub use plan::AttentionPlan;

use super::{Linear, Workspace, check};
use crate::{
    Attention, KvBlocks, KvFormat, Norm, Precision, RopeTable, Sequence, Span, Team, attention, gemm::ActivationLayout,
};

/// The attention half of a layer.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention<'a> {
    /// Before `qkv`.
    pub norm: Option<Norm<'a>>,
    /// `[3 · size, k]`: queries, keys, values.
    pub qkv: Linear<'a>,
    /// `[k, size]`
    pub out: Linear<'a>,
    /// Rotates queries and keys.
    pub rope: &'a RopeTable,
    /// Heads.
    pub heads: usize,
    /// Elements of a head; `size` is `heads · head_dim`.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub span: Span,
    /// In which numbers products of attention are taken.
    pub precision: Precision,
    /// How keys and values are stored for the time of a call. Caches have a format of their own.
    pub kv: KvFormat,
}

/// Sequences laid end to end, and their caches.
#[derive(Debug)]
pub struct PackedSequences<'a, 'kv> {
    /// Borders of the sequences' rows, `[sequences + 1]`; nothing without sequences.
    pub offsets: &'a [usize],
    /// Position of every row in its sequence, `[rows]`: consecutive from the position of the sequence's first row on.
    pub positions: &'a [u32],
    /// One for each sequence: keys and values of the rows are written there at their positions, and rows attend to the
    /// earlier ones as well. Without caches, sequences start at the position 0 and attend to themselves.
    pub caches: Option<&'a mut [&'kv mut KvBlocks]>,
    /// How many rows at the end of each sequence no row sees as keys, themselves included; nothing where all are seen.
    pub unseen: &'a [usize],
}

impl PackedSequences<'_, '_> {
    fn rows(&self) -> SequenceRows<'_> {
        SequenceRows { offsets: self.offsets, positions: self.positions, unseen: self.unseen }
    }
}

/// The rows of some sequences.
#[derive(Clone, Copy)]
struct SequenceRows<'a> {
    /// The first need not be 0: rows count from it.
    offsets: &'a [usize],
    positions: &'a [u32],
    unseen: &'a [usize],
}

impl<'a> SequenceRows<'a> {
    fn len(self) -> usize {
        self.positions.len()
    }

    fn sequences(self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Rows of each sequence, and the position of its first one.
    fn each(self) -> impl Iterator<Item = (Range<usize>, usize)> + Clone + 'a {
        self.offsets.windows(2).map(move |borders| {
            let rows = borders[0] - self.offsets[0]..borders[1] - self.offsets[0];
            let start = self.positions.get(rows.start).map_or(0, |&position| position as usize);
            (rows, start)
        })
    }

    /// How many rows at the end of a sequence are no keys.
    fn unseen(self, sequence: usize) -> usize {
        self.unseen.get(sequence).copied().unwrap_or(0)
    }

    /// Some of the sequences.
    fn part(self, sequences: Range<usize>) -> Self {
        let offsets = &self.offsets[sequences.start..=sequences.end];
        let rows = offsets[0] - self.offsets[0]..offsets[sequences.len()] - self.offsets[0];
        let unseen = self.unseen.get(sequences).unwrap_or(&[]);
        Self { offsets, positions: &self.positions[rows], unseen }
    }
}

/// Memory of [`self_attention`], kept from call to call.
#[derive(Debug, Default)]
pub(super) struct AttentionMemory {
    heads: heads::HeadsMemory,
    /// Of tasks that compute whole sequences; as many as ran at the same time.
    tasks: Mutex<Vec<heads::HeadsMemory>>,
    rows: rows::RowsMemory,
}

/// `x += out(attention(rope(qkv(norm(x)))))` for every sequence: `x` is `[rows, k]`.
///
/// # Panics
/// If the lengths do not fit together, or a cache has other heads or too little room.
pub fn self_attention(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    sequences: PackedSequences<'_, '_>,
    workspace: &mut Workspace,
) {
    let plan = AttentionPlan::choose(&block, &sequences, team.threads());
    plan.run(team, x, block, sequences, workspace);
}

impl AttentionPlan {
    /// [`self_attention`], cut in this way whatever suits best.
    ///
    /// # Panics
    /// As [`self_attention`]; and if whole sequences should be tasks that have caches.
    pub fn run(
        &self,
        team: &Team,
        x: &mut [f32],
        block: SelfAttention<'_>,
        sequences: PackedSequences<'_, '_>,
        workspace: &mut Workspace,
    ) {
        block.check(x, &sequences);
        let Workspace { operand, attention: AttentionMemory { heads, tasks, rows }, .. } = workspace;
        match self {
            AttentionPlan::Sequences(firsts) => {
                assert!(sequences.caches.is_none(), "tasks of whole sequences have no caches");
                by_sequences(team, x, block, sequences.rows(), firsts, tasks);
            }
            AttentionPlan::Heads => heads::attend(team, x, block, sequences, heads),
            AttentionPlan::Rows => rows::attend(team, x, block, sequences, rows, operand),
        }
    }
}

/// [`AttentionPlan::Sequences`]: `firsts` are the first sequences of tasks, and the end.
fn by_sequences(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    all: SequenceRows<'_>,
    firsts: &[usize],
    memories: &Mutex<Vec<heads::HeadsMemory>>,
) {
    let cuts: Vec<usize> = firsts.iter().map(|&sequence| all.offsets[sequence] - all.offsets[0]).collect();
    team.run_parts(x, block.qkv.weight.k(), &cuts, block.work(all.len()), |task, x| {
        let SequenceRows { offsets, positions, unseen } = all.part(firsts[task]..firsts[task + 1]);
        let kept = memories.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = kept.unwrap_or_default();
        let part = PackedSequences { offsets, positions, caches: None, unseen };
        heads::attend(&Team::single(), x, block, part, &mut memory);
        memories.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    });
}

impl SelfAttention<'_> {
    fn check(&self, x: &[f32], sequences: &PackedSequences<'_, '_>) {
        let &Self { norm, qkv, out, heads, head_dim, .. } = self;
        let (all, size) = (sequences.rows(), heads * head_dim);
        check(x, all.len(), qkv.weight.k(), norm, qkv);
        assert!(qkv.weight.n() == 3 * size && out.weight.k() == size && out.weight.n() == qkv.weight.k(), "{self:?}");
        let (first, last) = (all.offsets.first().unwrap_or(&0), all.offsets.last().unwrap_or(&0));
        assert!(all.offsets.is_sorted() && last - first == all.len(), "{:?} for {} rows", all.offsets, all.len());
        let unseen = all.unseen;
        assert!(
            unseen.is_empty()
                || unseen.len() == all.sequences() && all.each().zip(unseen).all(|(at, &n)| n <= at.0.len()),
            "{unseen:?} rows at the ends of {:?}",
            all.offsets
        );
        if let Some(caches) = &sequences.caches {
            assert_eq!(caches.len(), all.sequences(), "a cache for every sequence");
            for cache in caches.iter() {
                assert!((cache.heads(), cache.head_dim()) == (heads, head_dim), "{cache:?} for {self:?}");
            }
        }
    }

    /// Floating-point operations of so many rows, attention itself left out.
    fn work(&self, rows: usize) -> usize {
        let size = self.heads * self.head_dim;
        (8 * size * size).saturating_mul(rows)
    }

    /// Whether queries, keys and values can be rounded in the epilogue of the projection. Tiles of AMX take the halves
    /// of a head, which rotation pairs, as two panels.
    fn rounds_in_epilogue(&self) -> bool {
        let weight = self.qkv.weight;
        weight.layout() == ActivationLayout::TILES
            && (self.precision, self.kv) == (Precision::Bf16, KvFormat::Bf16)
            && self.head_dim == 2 * weight.width()
            && self.rope.head_dim() == self.head_dim
            && attention::takes_rounded(weight.isa(), self.head_dim)
    }

    /// The arguments of attention for some heads.
    fn queries<'a>(&self, heads: usize, q: &'a [f32], sequences: &'a [Sequence<'a>]) -> Attention<'a> {
        let &Self { head_dim, span, precision, .. } = self;
        let scale = 1.0 / (head_dim as f32).sqrt();
        Attention { q, q_stride: 3 * heads * head_dim, heads, head_dim, span, scale, precision, sequences }
    }
}
