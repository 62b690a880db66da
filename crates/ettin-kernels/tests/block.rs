//! Chains of steps around products: what a row gives depends neither on how many there are nor on how they are cut.

mod common;

use std::ops::Range;

use common::{Random, bits};
use ettin_kernels::{
    Activation, Attention, Isa, KvBlocks, KvFormat, KvRows, KvWrite, Norm, PackedWeight, Precision, RopeRows,
    RopeTable, Scheme, Sequence, Span, Team, attention,
    attention::store,
    block::{self, AttentionPlan, Linear, Mlp, PackedSequences, SelfAttention, Workspace},
    rope,
    testing::each_isa,
};

const HIDDEN: usize = 48;
const INNER: usize = 128;

/// Projected rows, and the residual after both ways of adding to it.
struct Results {
    projected: Vec<f32>,
    residual: Vec<f32>,
}

struct Layer {
    norm: Vec<f32>,
    qkv: PackedWeight,
    wi: PackedWeight,
    wo: PackedWeight,
    bias: Vec<f32>,
}

impl Layer {
    fn new(isa: Isa, scheme: Scheme) -> Self {
        let mut random = Random::new(1);
        let mut pack = |n: usize, k: usize| {
            let w = random.vector(n * k);
            let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&w[row * k..(row + 1) * k]);
            PackedWeight::pack(isa, scheme, &Team::single(), n, k, &fill)
        };
        let (qkv, wi, wo) = (pack(100, HIDDEN), pack(2 * INNER, HIDDEN), pack(HIDDEN, INNER));
        Self { norm: random.vector(HIDDEN), qkv, wi, wo, bias: random.vector(2 * INNER) }
    }

    fn run(&self, team: &Team, x: &[f32]) -> Results {
        let (rows, mut workspace) = (x.len() / HIDDEN, Workspace::new());
        let norm = Norm { weight: &self.norm, bias: None, eps: 1e-5 };
        let mut projected = vec![f32::NAN; rows * self.qkv.n()];
        let qkv = Linear { weight: &self.qkv, bias: Some(&self.bias[..100]) };
        let double = |_, out: &mut [f32]| out.iter_mut().for_each(|x| *x *= 2.0);
        block::project(team, x, Some(norm), qkv, &double, &mut projected, &mut workspace);
        let wide: Vec<f32> = x.chunks_exact(HIDDEN).flat_map(|row| row.iter().cycle().take(INNER)).copied().collect();
        let mut residual = x.to_vec();
        let wo = Linear { weight: &self.wo, bias: None };
        block::add(team, &wide, wo, &mut residual, &mut workspace);
        let wi = Linear { weight: &self.wi, bias: Some(&self.bias) };
        block::mlp(team, &mut residual, Mlp { norm, wi, activation: Activation::Gelu, wo }, &mut workspace);
        Results { projected, residual }
    }
}

#[test]
fn rows_depend_neither_on_their_number_nor_on_threads() {
    let teams = [Team::single(), Team::with_threads(2).unwrap(), Team::with_threads(3).unwrap()];
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let layer = Layer::new(isa, scheme);
            let x = Random::new(2).vector(300 * HIDDEN);
            let alone: Vec<_> = x.chunks_exact(HIDDEN).map(|row| layer.run(&teams[0], row)).collect();
            let join = |part: fn(&Results) -> &Vec<f32>, rows: usize| -> Vec<u32> {
                alone[..rows].iter().flat_map(|row| bits(part(row))).collect()
            };
            // Around where tiles end, and where tasks begin to take rows through the whole chain.
            for rows in [2, 16, 17, 24, 48, 65, 72, 130, 192, 300] {
                for team in &teams {
                    let Results { projected, residual } = layer.run(team, &x[..rows * HIDDEN]);
                    let what = format!("{isa} {scheme}: {rows} rows, {} threads", team.threads());
                    assert!(bits(&projected) == join(|row| &row.projected, rows), "{what}, projected");
                    assert!(bits(&residual) == join(|row| &row.residual, rows), "{what}, residual");
                }
            }
        }
    });
}

/// Of so many rows by so wide an MLP, L2 does not hold the second product's input on AMX, nor does a task take fewer.
#[test]
fn rows_that_pass_in_parts_are_those_that_pass_together() {
    const ROWS: usize = 256;
    const WIDE: usize = 1536;
    let team = Team::single();
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let mut random = Random::new(7);
            let mut pack = |n: usize, k: usize| {
                let w = random.vector(n * k);
                PackedWeight::pack(isa, scheme, &team, n, k, &|row, out| out.copy_from_slice(&w[row * k..][..k]))
            };
            let (wi, wo) = (pack(2 * WIDE, HIDDEN), pack(HIDDEN, WIDE));
            let weight = [1.0; HIDDEN];
            let mlp = Mlp {
                norm: Norm { weight: &weight, bias: None, eps: 1e-5 },
                wi: Linear { weight: &wi, bias: None },
                activation: Activation::Gelu,
                wo: Linear { weight: &wo, bias: None },
            };
            let x = random.vector(ROWS * HIDDEN);
            let mut all = x.clone();
            block::mlp(&team, &mut all, mlp, &mut Workspace::new());
            for row in [0, 1, 127, 128, 160, 255] {
                let range = row * HIDDEN..(row + 1) * HIDDEN;
                let mut alone = x[range.clone()].to_vec();
                block::mlp(&team, &mut alone, mlp, &mut Workspace::new());
                assert!(bits(&alone) == bits(&all[range]), "{isa} {scheme}: row {row}");
            }
        }
    });
}

/// Heads of the attention test, and elements of one: three groups at most in the panels of any instruction set.
const HEADS: usize = 3;
const HEAD_DIM: usize = 64;

/// [`block::self_attention`] by the kernels that do one thing each.
fn step_by_step(x: &[f32], block: SelfAttention<'_>, positions: &[u32], sequences: &[Range<usize>]) -> Vec<f32> {
    let SelfAttention { norm, qkv, out, heads, head_dim, span, precision, kv, .. } = block;
    let isa = qkv.weight.isa();
    let (team, mut workspace, size, stride) =
        (Team::single(), Workspace::new(), heads * head_dim, 3 * heads * head_dim);
    let mut rows = vec![0.0; positions.len() * stride];
    let turn = |range: Range<usize>, rows: &mut [f32]| {
        let target = RopeRows { rows, stride, offset: 0, heads: 2 * heads };
        rope(isa, &Team::single(), block.rope, &positions[range], target);
    };
    block::project(&team, x, norm, qkv, &turn, &mut rows, &mut workspace);
    let mut keys: Vec<_> = sequences.iter().map(|rows| KvBlocks::new(heads, head_dim, rows.len(), kv)).collect();
    let mut writes = Vec::new();
    for (kv, rows) in keys.iter_mut().zip(sequences) {
        writes.push(KvWrite { kv, position: 0, rows: rows.clone() });
    }
    store(isa, &team, KvRows { k: &rows[size..], v: &rows[2 * size..], stride }, &mut writes);
    let sequences: Vec<_> = keys
        .iter()
        .zip(sequences)
        .map(|(kv, rows)| Sequence { rows: rows.clone(), start: 0, len: rows.len(), kv: kv.view() })
        .collect();
    let scale = 1.0 / (head_dim as f32).sqrt();
    let args = Attention { q: &rows, q_stride: stride, heads, head_dim, span, scale, precision, sequences: &sequences };
    let mut attended = vec![0.0; positions.len() * size];
    attention(isa, &team, args, &mut attended);
    let mut result = x.to_vec();
    block::add(&team, &attended, out, &mut result, &mut workspace);
    result
}

/// Rows of the sequences of the attention tests.
const LENGTHS: [usize; 6] = [130, 1, 64, 300, 33, 200];

/// Attends without caches, by heads.
fn by_heads(
    team: &Team,
    x: &mut [f32],
    block: SelfAttention<'_>,
    positions: &[u32],
    sequences: &[Range<usize>],
    workspace: &mut Workspace,
) {
    let offsets: Vec<usize> = std::iter::once(0).chain(sequences.iter().map(|rows| rows.end)).collect();
    let sequences = PackedSequences { offsets: &offsets, positions, caches: None, unseen: &[] };
    AttentionPlan::Heads.run(team, x, block, sequences, workspace);
}

/// Sequences of [`LENGTHS`], end to end: their rows and positions.
fn sequences() -> (Vec<Range<usize>>, Vec<u32>) {
    let (mut sequences, mut positions) = (Vec::new(), Vec::new());
    for len in LENGTHS {
        sequences.push(positions.len()..positions.len() + len);
        positions.extend(0..len as u32);
    }
    (sequences, positions)
}

/// Calls `test` with a name, an attention block of every instruction set and scheme, and rows for all sequences.
fn each_block(span: Span, mut test: impl FnMut(&str, SelfAttention<'_>, &[f32])) {
    const SIZE: usize = HEADS * HEAD_DIM;
    let table = RopeTable::new(160_000.0, HEAD_DIM, 300);
    let mut random = Random::new(2);
    let (qkv, out) = (random.vector(3 * SIZE * HIDDEN), random.vector(HIDDEN * SIZE));
    let (norm, bias) = (random.vector(HIDDEN), random.vector(3 * SIZE));
    let x = random.vector(LENGTHS.iter().sum::<usize>() * HIDDEN);
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let pack = |w: &[f32], n: usize, k: usize| {
                let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&w[row * k..(row + 1) * k]);
                PackedWeight::pack(isa, scheme, &Team::single(), n, k, &fill)
            };
            let (qkv, out) = (pack(&qkv, 3 * SIZE, HIDDEN), pack(&out, HIDDEN, SIZE));
            let rounds = scheme.rounds_activations();
            let block = SelfAttention {
                norm: Some(Norm { weight: &norm, bias: None, eps: 1e-5 }),
                qkv: Linear { weight: &qkv, bias: Some(&bias) },
                out: Linear { weight: &out, bias: None },
                rope: &table,
                heads: HEADS,
                head_dim: HEAD_DIM,
                span,
                precision: if rounds { Precision::Bf16 } else { Precision::F32 },
                kv: if rounds { KvFormat::Bf16 } else { KvFormat::F32 },
            };
            test(&format!("{isa} {scheme}"), block, &x);
        }
    });
}

fn teams() -> [Team; 3] {
    [Team::single(), Team::with_threads(2).unwrap(), Team::with_threads(3).unwrap()]
}

/// Many rows make heads go one by one, few rows all together, several threads make them shares.
#[test]
fn sequences_depend_neither_on_their_neighbours_nor_on_groups_of_heads_nor_on_threads() {
    let (teams, (sequences, positions)) = (teams(), sequences());
    each_block(Span { left: Some(64), right: Some(64) }, |name, block, x| {
        let (mut memory, mut together) = (Workspace::new(), x.to_vec());
        by_heads(&teams[0], &mut together, block, &positions, &sequences, &mut memory);
        assert!(together.iter().all(|x| x.is_finite()) && together != x, "{name}");
        assert_eq!(bits(&together), bits(&step_by_step(x, block, &positions, &sequences)), "{name}");
        for rows in &sequences {
            let elements = rows.start * HIDDEN..rows.end * HIDDEN;
            let only: Vec<_> = std::iter::once(0..rows.len()).collect();
            for team in &teams {
                let mut alone = x[elements.clone()].to_vec();
                by_heads(team, &mut alone, block, &positions[rows.clone()], &only, &mut memory);
                let what = format!("{name}, rows {rows:?}, {} threads", team.threads());
                assert_eq!(bits(&together[elements.clone()]), bits(&alone), "{what}");
            }
        }
    });
}

/// Every plan, and the one that is chosen, for whole sequences.
#[test]
fn plans_do_not_change_a_bit() {
    let (teams, (sequences, positions)) = (teams(), sequences());
    let offsets: Vec<usize> = std::iter::once(0).chain(sequences.iter().map(|rows| rows.end)).collect();
    let packed = || PackedSequences { offsets: &offsets, positions: &positions, caches: None, unseen: &[] };
    each_block(Span { left: Some(64), right: Some(64) }, |name, block, x| {
        let want = step_by_step(x, block, &positions, &sequences);
        for team in &teams {
            let chosen = AttentionPlan::choose(&block, &packed(), team.threads());
            let cuts = AttentionPlan::Sequences(vec![0, 1, 4, sequences.len()]);
            let mut workspace = Workspace::new();
            for plan in [AttentionPlan::Heads, AttentionPlan::Rows, cuts, chosen] {
                let mut got = x.to_vec();
                plan.run(team, &mut got, block, packed(), &mut workspace);
                assert!(bits(&got) == bits(&want), "{name}, {plan:?}, {} threads", team.threads());
            }
        }
    });
}

/// Rows behind the end of a sequence (query expansion): they see it, nobody sees them, and those that are too far away
/// to see anything add nothing but the output's bias, of which there is none.
#[test]
fn rows_that_nobody_sees_change_no_other_row_and_may_see_nothing() {
    let (teams, (sequences, positions)) = (teams(), sequences());
    let offsets: Vec<usize> = std::iter::once(0).chain(sequences.iter().map(|rows| rows.end)).collect();
    let unseen = [100, 0, 1, 64, 32, 7];
    let packed = || PackedSequences { offsets: &offsets, positions: &positions, caches: None, unseen: &unseen };
    let span = Span { left: Some(64), right: Some(64) };
    each_block(span, |name, block, x| {
        let mut memory = Workspace::new();
        let mut want = x.to_vec();
        AttentionPlan::Heads.run(&teams[0], &mut want, block, packed(), &mut memory);
        for (team, plan) in [
            (&teams[0], AttentionPlan::Rows),
            (&teams[1], AttentionPlan::Sequences(vec![0, 1, 4, sequences.len()])),
            (&teams[2], AttentionPlan::Heads),
        ] {
            let mut got = x.to_vec();
            plan.run(team, &mut got, block, packed(), &mut memory);
            assert!(bits(&got) == bits(&want), "{name}, {plan:?}");
        }
        for (rows, unseen) in sequences.iter().zip(unseen) {
            let part = |rows: Range<usize>| rows.start * HIDDEN..rows.end * HIDDEN;
            let seen = rows.start..rows.end - unseen;
            // The sequence alone, as it is without them.
            let mut alone = x[part(seen.clone())].to_vec();
            let only: Vec<_> = std::iter::once(0..seen.len()).collect();
            by_heads(&teams[0], &mut alone, block, &positions[seen.clone()], &only, &mut memory);
            assert_eq!(bits(&want[part(seen.clone())]), bits(&alone), "{name}, rows {rows:?}");
            for row in seen.end..rows.end {
                let changed = want[part(row..row + 1)] != x[part(row..row + 1)];
                assert_eq!(changed, row - (seen.end - 1) <= 64, "{name}, row {row} behind {seen:?}");
                // Alone behind the sequence, as one of many.
                if row % 9 == 0 {
                    let mut pair = x[part(seen.clone())].to_vec();
                    pair.extend_from_slice(&x[part(row..row + 1)]);
                    let mut at = positions[seen.clone()].to_vec();
                    at.push(positions[row]);
                    if at[at.len() - 1] as usize == seen.len() {
                        let offsets = [0, at.len()];
                        let sequences =
                            PackedSequences { offsets: &offsets, positions: &at, caches: None, unseen: &[1] };
                        AttentionPlan::Heads.run(&teams[0], &mut pair, block, sequences, &mut memory);
                        assert_eq!(bits(&pair[part(seen.len()..at.len())]), bits(&want[part(row..row + 1)]), "{name}");
                    }
                }
            }
        }
    });
}

/// Steps that begin with a block of keys or inside one, of one row and of many, of all sequences that have rows left.
#[test]
fn cached_sequences_are_the_same_in_steps_of_any_length() {
    let (teams, (sequences, positions)) = (teams(), sequences());
    for left in [Some(63), None] {
        each_block(Span { left, right: Some(0) }, |name, block, x| {
            let want = step_by_step(x, block, &positions, &sequences);
            for (team, step) in teams.iter().zip([32, 7, 96]) {
                let mut workspace = Workspace::new();
                let kept = |rows: &Range<usize>| left.map_or(rows.len(), |left| left + 1 + step);
                let cache = |rows| KvBlocks::new(HEADS, HEAD_DIM, kept(rows), block.kv);
                let mut caches: Vec<_> = sequences.iter().map(cache).collect();
                for first in (0..300).step_by(step) {
                    let (mut batch, mut at, mut stores, mut from) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                    let mut offsets = vec![0];
                    for (kv, rows) in caches.iter_mut().zip(&sequences) {
                        let part = rows.start + first.min(rows.len())..rows.start + (first + step).min(rows.len());
                        if !part.is_empty() {
                            stores.push(kv);
                            batch.extend_from_slice(&x[part.start * HIDDEN..part.end * HIDDEN]);
                            at.extend_from_slice(&positions[part.clone()]);
                            offsets.push(at.len());
                            from.extend(part);
                        }
                    }
                    let caches = Some(&mut stores[..]);
                    let sequences = PackedSequences { offsets: &offsets, positions: &at, caches, unseen: &[] };
                    let plan = if first / step % 3 == 2 { AttentionPlan::Rows } else { AttentionPlan::Heads };
                    plan.run(team, &mut batch, block, sequences, &mut workspace);
                    for (row, got) in from.into_iter().zip(batch.chunks_exact(HIDDEN)) {
                        let want = &want[row * HIDDEN..(row + 1) * HIDDEN];
                        let what = format!("{name}, left {left:?}, steps of {step}, row {row}");
                        assert_eq!(bits(got), bits(want), "{what}");
                    }
                }
            }
        });
    }
}
