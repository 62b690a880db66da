//! The attention half of a layer, head by head: norm, projection, rotation, attention, output.
//!
//! **Heads in groups.** A few heads at a time are projected, attended with and made input of the output product. What a
//! group passes through (queries, keys, values, results) stays in L2 beside the encoded rows, whatever the number of heads;
//! for all heads at once it would go to L3 and back, at several times the cost. Threads share the groups of one
//! sequence: they meet three times a block, and read little of each other. No bit depends on the groups. Sequences whose keys and
//! values are cached go the same way: a group keeps its heads' in the cache, and attends to what is there.
//!
//! **Rounded on the way.** Where attention is in bf16 on tiles, the two halves of a head, which rotation pairs, are two
//! panels of the projection: their cell is rotated, scaled and rounded while it is in L1 ([`Turning`]), and what leaves it is what
//! tiles of attention read. It is rounded there anyway, of the same numbers, so the bits are those of the separate steps.

use std::ops::Range;

use super::{
    Linear, Store, check, row_tasks,
    turning::{ROW, Turning},
};
use crate::{
    Aligned, Attention, KEY_BLOCK, KvBlocks, KvFormat, KvRows, KvWrite, Norm, Operand, Precision, RopeRows, RopeTable,
    Sequence, Span, Team, attention,
    attention::SharedKv,
    buffer::{as_words, bits},
    gemm::{Cell, Layout, Parts, Product, Rows, Sink, gemm},
    recycled, rope,
    team::Shared,
};

/// Bytes of what a group of heads passes through: a third of a common L2 of 2 MiB.
const GROUP: usize = 640 << 10;

/// The same where they are rounded on their way, on AMX: a head of a task's rows alone measured fastest.
const GROUP_ROUNDED: usize = 320 << 10;

/// Rows of which threads share heads even if some then wait for the last.
const FEW_ROWS: usize = 1024;

/// Bytes of encoded rows that pass a group's weights at a time: a quarter of a common L2, as in products.
const INPUT: usize = 1 << 19;

/// Of a row and an element of a head: q, k, v and the result in f32, key and value in bf16.
const ELEMENT: usize = 4 * 4 + 2 * 2;

/// The attention half of a layer.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention<'a> {
    /// Before `qkv`.
    pub norm: Option<Norm<'a>>,
    /// `[3 · size, k]`: queries, keys, values.
    pub qkv: Linear<'a>,
    /// `[k, size]`
    pub out: Linear<'a>,
    /// Turns queries and keys.
    pub rope: &'a RopeTable,
    /// Heads.
    pub heads: usize,
    /// Elements of a head; `size` is `heads · head_dim`.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub span: Span,
    /// In which numbers products of attention are taken.
    pub precision: Precision,
    /// What is kept of keys and values, unless they are cached in another format.
    pub kv: KvFormat,
}

/// Memory of [`attend`], kept from call to call.
#[derive(Debug, Default)]
pub struct AttentionMemory {
    input: Operand,
    output: Operand,
    whole: Aligned, // [rows, size]
    /// One for each group that is computed at the same time.
    groups: Vec<Group>,
    /// A list of a moment, for its memory.
    kept: Vec<Kept<'static>>,
}

/// Rows of a sequence, and where their keys and values are kept.
#[derive(Debug)]
struct Kept<'a> {
    rows: Range<usize>,
    kv: SharedKv<'a>,
}

/// Where keys and values are kept.
#[derive(Clone, Copy)]
enum Keys<'a> {
    /// For the time of the call, of sequences of these rows.
    Here(&'a [Range<usize>]),
    /// In caches, all heads of them.
    Cached(&'a [Kept<'a>]),
}

/// What a group of heads passes through.
#[derive(Debug, Default)]
struct Group {
    qkv: Aligned, // [rows, 3 · width]
    /// The same where it is rounded: `[q | k | v, heads, rows]` rows of pairs.
    rounded: Aligned,
    attended: Aligned, // [rows, width]
    /// One for each sequence or more.
    keys: Vec<KvBlocks>,
    /// Lists of a moment, for their memory.
    kept: Vec<Kept<'static>>,
    lists: Vec<Sequence<'static>>,
}

/// Whether it pays to take the heads of so many rows in groups, which the threads of a team share: where they share weights anyway, as who
/// keeps, reads and multiplies the keys of its own heads has them at hand, and they meet twice less; on AMX, up to rows that
/// leave little to do between these moments; and where queries, keys and values leave the product as
/// attention reads them, with many rows too, as long as all threads are busy to the end.
pub fn shares_heads(team: &Team, block: &SelfAttention<'_>, rows: usize) -> bool {
    let layout = block.qkv.weight.layout();
    if row_tasks(rows, layout, 0, team.threads()).is_none() {
        return true;
    }
    let (few, even) = (rows <= FEW_ROWS, block.heads.is_multiple_of(team.threads()));
    let pays = if block.rounds() { few || even } else { few && team.threads() > 1 };
    pays && layout == Layout::TILES && heads_of_a_group(block, rows, team.threads()) < block.heads
}

/// `x += out(attention(rope(qkv(norm(x)))))` for whole sequences: `x` is `[rows, k]`, of which every sequence has some rows,
/// in order; `positions` has one for each row, consecutive in a sequence.
///
/// # Panics
/// If the lengths do not fit together.
pub fn attend(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    positions: &[u32],
    sequences: &[Range<usize>],
    memory: &mut AttentionMemory,
) {
    attend_with(team, x, block, positions, Keys::Here(sequences), memory);
}

/// The same for sequences that go on: their rows' keys and values are written where they are told, and they attend to those before them
/// as well.
///
/// # Panics
/// If the lengths do not fit together.
pub fn attend_cached(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    positions: &[u32],
    writes: &mut [KvWrite<'_>],
    memory: &mut AttentionMemory,
) {
    let mut kept = recycled(std::mem::take(&mut memory.kept));
    for KvWrite { kv, position, rows } in writes {
        assert!((kv.heads(), kv.head_dim()) == (block.heads, block.head_dim), "{kv:?} for {block:?}");
        assert_eq!(start(positions, rows), *position, "rows go elsewhere than where they are");
        kept.push(Kept { rows: rows.clone(), kv: SharedKv::new(kv, *position..*position + rows.len()) });
    }
    attend_with(team, x, block, positions, Keys::Cached(&kept), memory);
    memory.kept = recycled(kept);
}

fn attend_with(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    positions: &[u32],
    keys: Keys<'_>,
    memory: &mut AttentionMemory,
) {
    let SelfAttention { norm, qkv, out, heads: all, head_dim, .. } = block;
    let (rows, size, threads) = (positions.len(), all * head_dim, team.threads());
    check(x, rows, qkv.weight.k(), norm, qkv);
    assert!(qkv.weight.n() == 3 * size && out.weight.k() == size && out.weight.n() == qkv.weight.k(), "{block:?}");
    let AttentionMemory { input, output, whole, groups: memories, .. } = memory;
    input.encode_normed(team, qkv.weight, x, norm);
    let group = heads_of_a_group(&block, rows, threads);
    let parted = Parts::possible(out.weight, group * head_dim);
    whole.resize(if parted { 0 } else { rows * size });
    let groups = all.div_ceil(group);
    let kept = if threads == 1 { 1 } else { groups };
    memories.resize_with(kept.max(memories.len()), Group::default);
    // Blocks of keys are written whole.
    let begins = |rows: &Range<usize>| start(positions, rows).is_multiple_of(KEY_BLOCK);
    let rounded = block.rounds()
        && match keys {
            Keys::Here(sequences) => sequences.iter().all(begins),
            Keys::Cached(kept) => kept.iter().all(|Kept { rows, kv }| begins(rows) && kv.format() == block.kv),
        };
    let work = Work { block: &block, input: input.view(qkv.weight), positions, keys, rounded };
    {
        let (memories, whole) = (Shared::new(memories), Shared::new(whole));
        let parts = output.parts(out.weight, rows);
        team.run(groups, (6 * rows * size).saturating_mul(size), |index| {
            qkv.weight.read_by(index, groups, threads);
            let heads = index * group..((index + 1) * group).min(all);
            let columns = heads.start * head_dim..heads.end * head_dim;
            // SAFETY: a group of its own for each task; there is only one where tasks follow each other.
            let through = &mut unsafe { memories.slice(index % kept..index % kept + 1) }[0];
            through.attend(&work, heads, |attended| {
                if parted {
                    // SAFETY: tasks have columns of their own.
                    return unsafe { parts.put_all(columns.start, attended) };
                }
                for (row, attended) in attended.chunks_exact(columns.len()).enumerate() {
                    // SAFETY: as above.
                    let whole = unsafe { whole.slice(row * size + columns.start..row * size + columns.end) };
                    whole.copy_from_slice(attended);
                }
            });
        });
    }
    if !parted {
        output.encode(team, out.weight, whole);
    }
    gemm(team, output, out.weight, out.bias, Store::Add, x);
}

/// Heads that pass together: an equal share of all, as many as their memory allows, and few enough for all threads.
fn heads_of_a_group(block: &SelfAttention<'_>, rows: usize, threads: usize) -> usize {
    let SelfAttention { qkv, out, heads, head_dim, .. } = *block;
    let panel = qkv.weight.width();
    // Whole panels of the weights, and whole groups of the next product's input.
    let possible = |width: usize| {
        let encoded = !Parts::possible(out.weight, heads * head_dim) || Parts::possible(out.weight, width);
        width.is_multiple_of(panel) && (heads * head_dim).is_multiple_of(panel) && encoded
    };
    let shares = (1..=heads).filter(|&share| heads.is_multiple_of(share));
    let mut groups = shares.filter(|&group| group == heads || possible(group * head_dim));
    let fewest = groups.clone().next().unwrap_or(heads);
    let most = if block.rounds() { GROUP_ROUNDED } else { GROUP };
    let fits = |group: &usize| group * head_dim * rows * ELEMENT <= most && group * threads <= heads;
    groups.rfind(fits).unwrap_or(fewest)
}

impl SelfAttention<'_> {
    /// Whether queries, keys and values can be rounded on their way out of the product: for tiles, which take the halves of
    /// a head, that rotation pairs, as two panels.
    fn rounds(&self) -> bool {
        let weight = self.qkv.weight;
        weight.layout() == Layout::TILES
            && (self.precision, self.kv) == (Precision::Bf16, KvFormat::Bf16)
            && self.head_dim == 2 * weight.width()
            && self.rope.head_dim() == self.head_dim
            && attention::takes_rounded(weight.isa(), self.head_dim)
    }

    /// What attention is told of some heads.
    fn queries<'a>(&self, heads: usize, q: &'a [f32], sequences: &'a [Sequence<'a>]) -> Attention<'a> {
        let &Self { head_dim, span, precision, .. } = self;
        let scale = 1.0 / (head_dim as f32).sqrt();
        Attention { q, q_stride: 3 * heads * head_dim, heads, head_dim, span, scale, precision, sequences }
    }
}

/// What all groups of heads have in common.
struct Work<'a> {
    block: &'a SelfAttention<'a>,
    /// Encoded rows.
    input: Rows<'a>,
    positions: &'a [u32],
    keys: Keys<'a>,
    /// Whether queries, keys and values are [rounded](SelfAttention::rounds) on their way.
    rounded: bool,
}

impl Group {
    /// Some heads of all rows, from encoded rows to results `[rows, width]`.
    fn attend(&mut self, work: &Work<'_>, heads: Range<usize>, take: impl FnOnce(&[f32])) {
        let &Work { block, positions, keys, rounded, .. } = work;
        let (width, rows) = (heads.len() * block.head_dim, positions.len());
        self.attended.resize(rows * width);
        let mut own = recycled(std::mem::take(&mut self.kept));
        let (kept, kept_heads) = match keys {
            Keys::Cached(kept) => (kept, heads.clone()),
            Keys::Here(sequences) => {
                let lengths = sequences.iter().map(Range::len);
                KvBlocks::make_room(&mut self.keys, lengths, heads.len(), block.head_dim, block.kv);
                for (kv, rows) in self.keys.iter_mut().zip(sequences) {
                    let first = start(positions, rows);
                    own.push(Kept { rows: rows.clone(), kv: SharedKv::new(kv, first..first + rows.len()) });
                }
                (&*own, 0..heads.len())
            }
        };
        // SAFETY: these heads are this task's: of its own storage, or in caches of which each task has others.
        unsafe {
            if rounded {
                project_rounded(&mut self.rounded, work, heads.clone(), kept, kept_heads.clone());
            } else {
                project(&mut self.qkv, work, heads.clone(), kept, kept_heads.clone());
            }
        }
        let mut list = recycled(std::mem::take(&mut self.lists));
        for Kept { rows, kv } in kept {
            let start = start(positions, rows);
            // SAFETY: these heads are this task's, and nothing more is written to them.
            let kv = unsafe { kv.heads(kept_heads.clone()) };
            list.push(Sequence { rows: rows.clone(), start, len: start + rows.len(), kv });
        }
        let args = block.queries(heads.len(), &self.qkv, &list);
        if rounded {
            let queries = bits(&self.rounded[..rows * width / 2]);
            attention::of_rounded(&Team::single(), args, queries, &mut self.attended);
        } else {
            attention(block.qkv.weight.isa(), &Team::single(), args, &mut *self.attended);
        }
        self.lists = recycled(list);
        self.kept = recycled(own);
        take(&self.attended);
    }
}

/// Queries, keys and values of some heads as `[rows, q | k | v]`, keys and values kept as `kept_heads`.
///
/// # Safety
/// Nobody else may use `kept_heads` meanwhile.
unsafe fn project(
    qkv: &mut Aligned,
    work: &Work<'_>,
    heads: Range<usize>,
    kept: &[Kept<'_>],
    kept_heads: Range<usize>,
) {
    let &Work { block, input, positions, .. } = work;
    let SelfAttention { qkv: linear, head_dim, .. } = *block;
    let isa = linear.weight.isa();
    let (width, size) = (heads.len() * head_dim, block.heads * head_dim);
    let stride = 3 * width;
    qkv.resize(positions.len() * stride);
    if width == size {
        // All heads at once: their queries, keys and values need not begin panels of their own.
        input.multiply(linear.weight, linear.bias, 0..stride, Store::Write, qkv, stride);
    } else {
        for part in 0..3 {
            let outputs = part * size + heads.start * head_dim..part * size + heads.end * head_dim;
            let out = &mut qkv[part * width..];
            input.multiply(linear.weight, linear.bias, outputs, Store::Write, out, stride);
        }
    }
    let target = RopeRows { rows: qkv, stride, offset: 0, heads: 2 * heads.len() };
    rope(isa, &Team::single(), block.rope, positions, target);
    let source = KvRows { k: &qkv[width..], v: &qkv[2 * width..], stride };
    for Kept { rows, kv } in kept {
        // SAFETY: by the caller's promise.
        unsafe { kv.write_heads(isa, kept_heads.clone(), source, rows.start) };
    }
}

/// The same as `[q | k | v, heads, rows]`, rounded from the cells of the product.
///
/// # Safety
/// As of [`project`].
unsafe fn project_rounded(
    out: &mut Aligned,
    work: &Work<'_>,
    heads: Range<usize>,
    kept: &[Kept<'_>],
    kept_heads: Range<usize>,
) {
    let &Work { block, input, positions, .. } = work;
    let Linear { weight, bias } = block.qkv;
    let (size, rows, count) = (block.heads * block.head_dim, positions.len(), heads.len());
    out.resize(3 * count * rows * ROW);
    let all = as_words(out).as_chunks_mut::<ROW>().0;
    let factor = block.queries(count, &[], &[]).factor();
    for tiles in input.parts(INPUT) {
        for part in 0..3 {
            let first = part * size + heads.start * block.head_dim;
            let mut take = |cell: Cell<'_>| {
                let head = part * count + (cell.outputs.start - first) / block.head_dim;
                let angles = (part < 2).then_some((block.rope, positions));
                let out = &mut all[head * rows..(head + 1) * rows];
                Turning { cell, angles, factor: if part == 0 { factor } else { 1.0 }, out }.run(weight.isa());
            };
            let panels = weight.panels_of(first..first + count * block.head_dim);
            let sink = Sink::Cells { apart: Some(1), take: &mut take };
            // SAFETY: nothing is written.
            unsafe { Product { rows: input, w: weight, bias, tiles: tiles.clone(), panels, sink }.run() };
        }
    }
    let (k, v) = bits(&out[count * rows * ROW..]).split_at(count * rows * ROW);
    for Kept { rows: range, kv } in kept {
        for (head, kept_head) in kept_heads.clone().enumerate() {
            let range = (head * rows + range.start) * ROW..(head * rows + range.end) * ROW;
            // SAFETY: by the caller's promise.
            unsafe { kv.fill(weight.isa(), kept_head, &k[range.clone()], &v[range]) };
        }
    }
}

/// The position of a sequence's first row.
fn start(positions: &[u32], rows: &Range<usize>) -> usize {
    positions.get(rows.start).map_or(0, |&position| position as usize)
}
