//! How the attention half is cut into tasks: the ways, and the policy that chooses among them.
//!
//! No way changes a bit of the result. All constants of the choice are here.

use super::{PackedSequences, SelfAttention};
use crate::{
    block::cut::row_tasks,
    gemm::{ActivationLayout, PackedColumns},
};

/// Rows of a task that takes whole sequences: enough to read every weight for, few enough for the cache.
const SEQUENCE_TASK_ROWS: usize = 256;

/// Rows of such a task that are worth reading every weight for.
const MIN_SEQUENCE_TASK_ROWS: usize = 128;

/// Least work of a thread, in longest sequences: the wait for the last task to end stays a small part.
const MIN_LONGEST_PER_THREAD: usize = 4;

/// Rows up to which threads share heads even if some then wait for the last.
const MAX_UNEVEN_ROWS: usize = 1024;

/// Bytes that pass through a group of heads: a third of a common L2 of 2 MiB.
const GROUP_BYTES: usize = 640 << 10;

/// The same where the projection's epilogue rounds, on AMX: one head of a task's rows measured fastest.
const ROUNDED_GROUP_BYTES: usize = 320 << 10;

/// Bytes of a row and an element of a head: q, k, v and the result in f32, key and value in bf16.
const ELEMENT_BYTES: usize = 4 * 4 + 2 * 2;

/// Bytes of encoded rows that pass a group's weights at a time: a quarter of a common L2, as in products.
pub(super) const INPUT_BYTES: usize = 1 << 19;

/// How the attention half of a layer is cut into tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttentionPlan {
    /// A task takes some sequences through the whole half on one thread: for batches of many sequences. Queries, keys
    /// and values stay in that core's cache, and threads meet once. These are the first sequences of the tasks, and the
    /// end.
    Sequences(Vec<usize>),
    /// Threads share groups of heads: for few rows (decoding, short texts), and on AMX for more. A task projects its
    /// heads, attends, and encodes the input of the output product.
    Heads,
    /// One step after the other over all rows, each on all threads: for many rows of few sequences.
    Rows,
}

impl AttentionPlan {
    /// The plan that suits these sequences and so many threads.
    pub fn choose(block: &SelfAttention<'_>, sequences: &PackedSequences<'_, '_>, threads: usize) -> Self {
        if sequences.caches.is_none()
            && let Some(firsts) = sequence_tasks(sequences.offsets, threads)
        {
            return AttentionPlan::Sequences(firsts);
        }
        if heads_pay(block, sequences.positions.len(), threads) { AttentionPlan::Heads } else { AttentionPlan::Rows }
    }
}

/// First sequences of tasks, and the end; `None` where threads should share each step instead. Tasks are of nearly one
/// size, and where sequences are equal, they make whole rounds.
fn sequence_tasks(offsets: &[usize], threads: usize) -> Option<Vec<usize>> {
    let longest = offsets.windows(2).map(|rows| rows[1] - rows[0]).max()?;
    let (start, sequences) = (offsets[0], offsets.len() - 1);
    let rows = offsets[sequences] - start;
    if rows < threads * MIN_LONGEST_PER_THREAD * longest.max(MIN_SEQUENCE_TASK_ROWS) {
        return None;
    }
    let rows_of_task = rows.div_ceil(rows.div_ceil(SEQUENCE_TASK_ROWS).next_multiple_of(threads));
    let (mut firsts, mut first_row) = (vec![0], start);
    for (sequence, &row) in offsets.iter().enumerate().take(sequences).skip(1) {
        if row - first_row >= rows_of_task {
            firsts.push(sequence);
            first_row = row;
        }
    }
    firsts.push(sequences);
    Some(firsts)
}

/// Whether threads should share groups of heads of so many rows.
///
/// It pays where threads share weights anyway. A thread that stores, reads and multiplies the keys of its own heads has
/// them in its cache, and threads meet twice less. On AMX it pays for more rows, as little is left to do between these
/// meetings; and where the projection's epilogue rounds, for many rows too, as long as all threads are busy to the end.
fn heads_pay(block: &SelfAttention<'_>, rows: usize, threads: usize) -> bool {
    let layout = block.qkv.weight.layout();
    if row_tasks(rows, layout, 0, threads).is_none() {
        return true;
    }
    let (few, even) = (rows <= MAX_UNEVEN_ROWS, block.heads.is_multiple_of(threads));
    let pays = if block.rounds_in_epilogue() { few || even } else { few && threads > 1 };
    pays && layout == ActivationLayout::TILES && heads_of_group(block, rows, threads) < block.heads
}

/// Heads of a group: an equal share of all, as many as their memory allows, and few enough for all threads.
pub(super) fn heads_of_group(block: &SelfAttention<'_>, rows: usize, threads: usize) -> usize {
    let SelfAttention { qkv, out, heads, head_dim, .. } = *block;
    let panel = qkv.weight.width();
    // Whole panels of the weights, and whole groups of the next product's input.
    let possible = |width: usize| {
        let encoded =
            !PackedColumns::possible(out.weight, heads * head_dim) || PackedColumns::possible(out.weight, width);
        width.is_multiple_of(panel) && (heads * head_dim).is_multiple_of(panel) && encoded
    };
    let shares = (1..=heads).filter(|&share| heads.is_multiple_of(share));
    let mut groups = shares.filter(|&group| group == heads || possible(group * head_dim));
    let min = groups.clone().next().unwrap_or(heads);
    let max_bytes = if block.rounds_in_epilogue() { ROUNDED_GROUP_BYTES } else { GROUP_BYTES };
    let fits = |group: &usize| group * head_dim * rows * ELEMENT_BYTES <= max_bytes && group * threads <= heads;
    groups.rfind(fits).unwrap_or(min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Linear;
    use crate::{Isa, KvBlocks, KvFormat, PackedWeight, Precision, RopeTable, Scheme, Span, Team};

    fn offsets(lengths: &[usize]) -> Vec<usize> {
        let ends = lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn firsts(lengths: &[usize]) -> Option<Vec<usize>> {
        sequence_tasks(&offsets(lengths), 2)
    }

    #[test]
    fn tasks_are_whole_sequences_of_enough_rows() {
        assert_eq!(firsts(&[128; 8]), Some(vec![0, 2, 4, 6, 8]));
        assert_eq!(firsts(&[100; 11]), Some(vec![0, 2, 4, 6, 8, 10, 11]));
        assert_eq!(firsts(&[128; 7]), None, "too little for two threads");
        assert_eq!(firsts(&[256, 128, 128, 128, 128, 128, 128]), None, "one would be waited for");
        assert_eq!(firsts(&[1; 1024]).unwrap().len(), 5);
        assert_eq!(sequence_tasks(&[], 2), None);
    }

    #[test]
    fn tasks_do_not_depend_on_where_the_rows_begin() {
        let moved: Vec<usize> = offsets(&[128; 8]).into_iter().map(|row| row + 1000).collect();
        assert_eq!(sequence_tasks(&moved, 2), firsts(&[128; 8]));
    }

    /// Heads of the blocks below, and elements of one.
    const HEADS: usize = 4;
    const HEAD_DIM: usize = 64;

    fn with_block(isa: Isa, test: impl FnOnce(&SelfAttention<'_>)) {
        const SIZE: usize = HEADS * HEAD_DIM;
        let pack = |n| PackedWeight::pack(isa, Scheme::F32, &Team::single(), n, SIZE, &|_, row| row.fill(0.0));
        let (qkv, out, rope) = (pack(3 * SIZE), pack(SIZE), RopeTable::new(10_000.0, HEAD_DIM, 16));
        test(&SelfAttention {
            norm: None,
            qkv: Linear { weight: &qkv, bias: None },
            out: Linear { weight: &out, bias: None },
            rope: &rope,
            heads: HEADS,
            head_dim: HEAD_DIM,
            span: Span::FULL,
            precision: Precision::F32,
            kv: KvFormat::F32,
        });
    }

    #[test]
    fn few_rows_share_heads_many_rows_steps_and_many_sequences_are_tasks() {
        with_block(Isa::Portable, |block| {
            let chosen = |lengths: &[usize], cached: bool| {
                let (offsets, rows) = (offsets(lengths), lengths.iter().sum());
                let mut caches: Vec<_> =
                    lengths.iter().map(|&len| KvBlocks::new(HEADS, HEAD_DIM, len, block.kv)).collect();
                let mut caches: Vec<_> = caches.iter_mut().collect();
                let positions = vec![0; rows];
                let caches = cached.then_some(&mut caches[..]);
                let sequences = PackedSequences { offsets: &offsets, positions: &positions, caches, unseen: &[] };
                AttentionPlan::choose(block, &sequences, 2)
            };
            assert_eq!(chosen(&[16], false), AttentionPlan::Heads);
            assert_eq!(chosen(&[16], true), AttentionPlan::Heads);
            assert_eq!(chosen(&[2048], false), AttentionPlan::Rows);
            assert_eq!(chosen(&[2048], true), AttentionPlan::Rows);
            assert_eq!(chosen(&[128; 8], false), AttentionPlan::Sequences(vec![0, 2, 4, 6, 8]));
            assert_eq!(chosen(&[128; 8], true), AttentionPlan::Rows, "caches belong to all heads of a step");
        });
    }

    #[test]
    fn groups_are_small_enough_for_the_cache_and_for_all_threads() {
        with_block(Isa::Portable, |block| {
            assert_eq!(heads_of_group(block, 1, 1), HEADS);
            assert_eq!(heads_of_group(block, 1, 2), 2, "one for each thread");
            assert_eq!(heads_of_group(block, GROUP_BYTES / (2 * HEAD_DIM * ELEMENT_BYTES), 1), 2, "what fits");
            assert_eq!(heads_of_group(block, 1 << 16, 1), 1, "nothing fits: the fewest");
        });
    }
}
