//! Chains of row-wise steps around products, fused: norm, product, rotation; norm, product, gate, product, residual.
//!
//! **Two ways to cut.** With many rows, a task takes some of them through the whole chain on one thread: what lies between
//! the products stays in that core's cache, and threads meet once a block. With few rows (decoding, short texts) that
//! would make every thread read every weight, so each product is cut by outputs instead and the threads meet between
//! products. Neither changes a bit: every element is computed by the same operations.
//!
//! **How many rows.** A task's rows cost memory: the encoded input, what the first product gives, and the encoded input
//! of the second. They should stay in L2 beside the panel that passes through. The more rows, the fewer times a weight
//! comes from L3 or memory: at r rows, a weight of b bytes brings 2r / b flops a byte; some tens of rows suffice to hide
//! the stream behind the arithmetic (measured: 28 rows cost a tenth, 56 nothing).

mod attention;
mod gating;
mod turning;

use std::ops::Range;

pub use attention::{AttentionMemory, SelfAttention, attend, attend_cached, shares_heads};
use gating::Gating;

use crate::{
    Activation, Norm, Operand, PackedMatrix, Store,
    activation::gated,
    buffer::{Aligned, as_words, with_scratch},
    gemm::{Cell, Layout, Parts, Product, Rows, Sink, gemm},
    simd::LANES,
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

/// Scratch of a task, in elements: half of a common L2 of 1 to 2 MiB.
const TASK_SCRATCH: usize = 1 << 17;

/// The same on AMX, whose CPUs have 2 MiB.
const TASK_SCRATCH_OF_TILES: usize = 3 << 17;

/// Rows of a task that are worth reading every weight for, and from which the weights' way from L3 is hidden.
const ROWS: (usize, usize) = (24, 48);

/// The same on AMX, which multiplies several times faster than weights come (2 Tflop/s from L2, some 20 GB/s a core from
/// L3): measured, 128 rows cost a tenth, and more than 256 gain little.
const ROWS_OF_TILES: (usize, usize) = (64, 256);

/// A dense layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[n, k]`
    pub weight: &'a PackedMatrix,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
}

/// Buffers that blocks reuse from call to call.
#[derive(Debug, Default)]
pub struct Workspace {
    operand: Operand,
    gated: Operand,
    wide: Aligned,
}

impl Workspace {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Rows of a task, and how many tasks; `None` when the threads should share each product instead.
fn row_tasks(rows: usize, layout: Layout, elements_per_row: usize, threads: usize) -> Option<usize> {
    let tiled = layout == Layout::TILES;
    let (fewest, enough) = if tiled { ROWS_OF_TILES } else { ROWS };
    if rows < fewest * threads {
        return None;
    }
    let scratch = if tiled { TASK_SCRATCH_OF_TILES } else { TASK_SCRATCH };
    let most = (scratch / elements_per_row.max(1)).max(enough);
    // Whole rounds: the threads end together.
    Some(rows.div_ceil(most).next_multiple_of(threads).min(rows / fewest.min(rows)))
}

/// `finish(norm(x)·Wᵀ + bias)` into `out` `[rows, n]`, where `finish(rows, out)` may change whole rows of the result.
///
/// `x` is `[rows, k]`; without a norm it is taken as it is. `finish` must not call parallel kernels.
///
/// # Panics
/// If the lengths do not fit together.
pub fn project(
    team: &Team,
    x: &[f32],
    norm: Option<Norm<'_>>,
    linear: Linear<'_>,
    finish: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    out: &mut [f32],
    workspace: &mut Workspace,
) {
    let w = linear.weight;
    let (k, n) = (w.k(), w.n());
    let rows = x.len().checked_div(k).unwrap_or(0);
    check(x, rows, k, norm, linear);
    assert_eq!(out.len(), rows * n, "out is not [{rows}, {n}]");
    let Some(tasks) = row_tasks(rows, w.layout(), w.row_words() + 64, team.threads()) else {
        workspace.operand.encode_normed(team, w, x, norm);
        gemm(team, &workspace.operand, w, linear.bias, Store::Write, out);
        return team.run_rows(out, n, 4 * rows * n, |first, out| finish(first..first + out.len() / n, out));
    };
    let out = Shared::new(out);
    team.run(tasks, (2 * rows * n).saturating_mul(k), |task| {
        let range = w.layout().share(rows, tasks, task);
        with_scratch(Encoded::scratch(w, range.len()), |scratch| {
            let input = &x[range.start * k..range.end * k];
            // SAFETY: tasks have disjoint rows.
            let out = unsafe { out.slice(range.start * n..range.end * n) };
            Encoded::new(w, input, norm, range.len(), scratch).multiply(linear, 0..n, Store::Write, out, n);
            finish(range, out);
        });
    });
}

/// `out += x·Wᵀ + bias`: `x` `[rows, k]`, `out` `[rows, n]`.
///
/// # Panics
/// If the lengths do not fit together.
pub fn add(team: &Team, x: &[f32], linear: Linear<'_>, out: &mut [f32], workspace: &mut Workspace) {
    let w = linear.weight;
    let (k, n) = (w.k(), w.n());
    let rows = x.len().checked_div(k).unwrap_or(0);
    check(x, rows, k, None, linear);
    assert_eq!(out.len(), rows * n, "out is not [{rows}, {n}]");
    let Some(tasks) = row_tasks(rows, w.layout(), w.row_words() + n, team.threads()) else {
        workspace.operand.encode(team, w, x);
        return gemm(team, &workspace.operand, w, linear.bias, Store::Add, out);
    };
    let out = Shared::new(out);
    team.run(tasks, (2 * rows * n).saturating_mul(k), |task| {
        let range = w.layout().share(rows, tasks, task);
        with_scratch(Encoded::scratch(w, range.len()), |scratch| {
            let input = &x[range.start * k..range.end * k];
            // SAFETY: tasks have disjoint rows.
            let out = unsafe { out.slice(range.start * n..range.end * n) };
            Encoded::new(w, input, None, range.len(), scratch).multiply(linear, 0..n, Store::Add, out, n);
        });
    });
}

/// The feed-forward half of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Mlp<'a> {
    /// Before `wi`.
    pub norm: Norm<'a>,
    /// `[2i, k]`: activated half, then gate.
    pub wi: Linear<'a>,
    /// Of the first half.
    pub activation: Activation,
    /// `[k, i]`
    pub wo: Linear<'a>,
}

/// `x += wo(activation(a) ⊙ b)` with `[a | b] = wi(norm(x))`, for each row of `x` `[rows, k]`.
///
/// # Panics
/// If the lengths do not fit together.
pub fn mlp(team: &Team, x: &mut [f32], mlp: Mlp<'_>, workspace: &mut Workspace) {
    let Mlp { norm, wi, activation, wo } = mlp;
    let isa = wi.weight.isa();
    let (k, inner) = (wi.weight.k(), wo.weight.k());
    let rows = x.len().checked_div(k).unwrap_or(0);
    check(x, rows, k, Some(norm), wi);
    assert!(wi.weight.n() == 2 * inner && wo.weight.n() == k, "{wi:?} and {wo:?} do not fit together");
    assert!(wo.bias.is_none_or(|bias| bias.len() == k), "bias is not [{k}]");
    let coarse = wo.weight.scheme().rounds_activations();
    // Memory of a row: as the first product reads it, as the second does, and between them where that needs whole rows.
    let parted = Parts::possible(wo.weight, wi.weight.width());
    let between = if parted { 0 } else { inner };
    let elements = wi.weight.row_words() + wo.weight.row_words() + between;
    let tasks = row_tasks(rows, wi.weight.layout(), elements, team.threads());
    let whole_panels = inner.is_multiple_of(wi.weight.width());
    let Some(tasks) = tasks.filter(|_| whole_panels) else {
        let Workspace { operand, gated: second, wide } = workspace;
        operand.encode_normed(team, wi.weight, x, Some(norm));
        if whole_panels && wi.weight.layout() == Layout::TILES {
            // Tiles take panels one by one anyway, so a task can have its outputs' gates, too: what a core reads of another
            // is a quarter, and threads meet once less.
            wide.resize(rows * between);
            let apart = Some(Shared::new(wide)).filter(|_| !parted);
            let parts = second.parts(wo.weight, rows);
            let input = operand.view(wi.weight);
            let tasks = (inner / wi.weight.width()).min(team.threads() * TASKS_PER_THREAD);
            let hands = team.threads();
            team.run(tasks, (4 * rows * inner).saturating_mul(k), |task| {
                wi.weight.read_by(task, tasks, hands);
                let target = |cell: Cell<'_>| {
                    let gating = Gating { cell, activation, coarse, parts: &parts, rows: apart.as_ref() };
                    // SAFETY: each task has panels of its own.
                    unsafe { gating.run(isa) };
                };
                let panels = share(inner / wi.weight.width(), tasks, task);
                cells(input, wi, inner, panels, target);
            });
            if !parted {
                second.encode(team, wo.weight, wide);
            }
            return gemm(team, second, wo.weight, wo.bias, Store::Add, x);
        }
        wide.resize(rows * 2 * inner);
        gemm(team, operand, wi.weight, wi.bias, Store::Write, wide);
        operand.produce(team, wo.weight, rows, &|rows, out| {
            for (row, out) in rows.zip(out.chunks_exact_mut(inner)) {
                let (a, b) = wide[2 * row * inner..2 * (row + 1) * inner].split_at(inner);
                gated(isa, activation, coarse, a, b, out);
            }
        });
        return gemm(team, operand, wo.weight, wo.bias, Store::Add, x);
    };
    let x = Shared::new(x);
    let work = (6 * rows * inner).saturating_mul(k);
    team.run(tasks, work, |task| {
        let range = wi.weight.layout().share(rows, tasks, task);
        let count = range.len();
        // SAFETY: tasks have disjoint rows.
        let x = unsafe { x.slice(range.start * k..range.end * k) };
        let sizes = [Encoded::scratch(wi.weight, count), Encoded::scratch(wo.weight, count), count * between];
        with_scratch(sizes.iter().sum(), |scratch| {
            let (first, scratch) = scratch.split_at_mut(sizes[0]);
            let (second, between) = scratch.split_at_mut(sizes[1]);
            let input = Encoded::new(wi.weight, x, Some(norm), count, first);
            let (words, factors) = Encoded::parts(wo.weight, count, second);
            let parts = Parts::new(wo.weight, count, words, factors);
            let apart = Some(Shared::new(between)).filter(|_| !parted);
            let target = |cell: Cell<'_>| {
                let gating = Gating { cell, activation, coarse, parts: &parts, rows: apart.as_ref() };
                // SAFETY: the rows are this task's, and it goes cell by cell.
                unsafe { gating.run(isa) };
            };
            cells(input.0, wi, inner, 0..inner / wi.weight.width(), target);
            let gated =
                if parted { Encoded(parts.finish()) } else { Encoded::new(wo.weight, between, None, count, second) };
            gated.multiply(wo, 0..k, Store::Add, x, k);
        });
    });
}

fn check(x: &[f32], rows: usize, k: usize, norm: Option<Norm<'_>>, linear: Linear<'_>) {
    assert_eq!(x.len(), rows * k, "x is not [rows, {k}]");
    assert!(norm.is_none_or(|norm| norm.weight.len() == k), "norm is not [{k}]");
    assert!(linear.bias.is_none_or(|bias| bias.len() == linear.weight.n()), "bias is not [{}]", linear.weight.n());
}

/// The rows of a task, encoded in its scratch.
struct Encoded<'a>(Rows<'a>);

impl<'a> Encoded<'a> {
    /// Elements that `rows` need, with room for one that is normalised: whole cache lines, so that what follows starts one.
    fn scratch(w: &PackedMatrix, rows: usize) -> usize {
        (rows * (w.row_words() + 1)).next_multiple_of(LANES) + w.k().next_multiple_of(LANES)
    }

    /// Words and factors of rows in such scratch.
    fn parts(w: &PackedMatrix, rows: usize, scratch: &'a mut [f32]) -> (&'a mut [u32], &'a mut [f32]) {
        let (words, scratch) = scratch.split_at_mut(rows * w.row_words());
        (as_words(words), &mut scratch[..rows])
    }

    fn new(w: &PackedMatrix, x: &[f32], norm: Option<Norm<'_>>, rows: usize, scratch: &'a mut [f32]) -> Self {
        let (scratch, room) = scratch.split_at_mut(scratch.len() - w.k().next_multiple_of(LANES));
        let (words, factors) = Self::parts(w, rows, scratch);
        let norm = norm.map(|norm| (norm, &mut room[..w.k()]));
        Self(Rows::encode(w, x, norm, words, factors))
    }

    /// Some outputs of the product, from the first element of `out` on, rows `stride` apart.
    fn multiply(&self, linear: Linear<'_>, outputs: Range<usize>, store: Store, out: &mut [f32], stride: usize) {
        self.0.multiply(linear.weight, linear.bias, outputs, store, out, stride);
    }
}

/// Some panels of the outputs `0..n` and those `n` further, side by side, cell by cell.
fn cells(rows: Rows<'_>, linear: Linear<'_>, n: usize, panels: Range<usize>, mut take: impl FnMut(Cell<'_>)) {
    let Linear { weight: w, bias } = linear;
    let sink = Sink::Cells { apart: Some(w.panels_of(0..n).len()), take: &mut take };
    // SAFETY: nothing is written.
    unsafe { Product { rows, w, bias, tiles: 0..rows.tiles(), panels, sink }.run() }
}
