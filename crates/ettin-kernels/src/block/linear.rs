//! One product and the row-wise step before or after it, fused.

use std::ops::Range;

use super::{Linear, Workspace, check, cut::row_tasks};
use crate::{
    Norm, PackedActivations, PackedWeight, Store,
    buffer::{as_words, with_scratch},
    gemm::{PackedActivationsView, gemm},
    simd::LANES,
    team::{Shared, Team},
};

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
    project_with(team, (x, norm), linear, finish, out, &mut workspace.operand);
}

/// As [`project`], with the operand alone for memory.
pub(super) fn project_with(
    team: &Team,
    (x, norm): (&[f32], Option<Norm<'_>>),
    linear: Linear<'_>,
    finish: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    out: &mut [f32],
    operand: &mut PackedActivations,
) {
    let w = linear.weight;
    let (rows, n) = (rows_of(x, norm, linear, out), w.n());
    match row_tasks(rows, w.layout(), w.row_words() + 64, team.threads()) {
        Some(tasks) => ByRows { x, norm, linear, store: Store::Write, rows, tasks }.run(team, out, finish),
        None => {
            operand.encode_normed(team, w, x, norm);
            gemm(team, operand, w, linear.bias, Store::Write, out);
            team.run_rows(out, n, 4 * rows * n, |first, out| finish(first..first + out.len() / n, out));
        }
    }
}

/// `out += x·Wᵀ + bias`: `x` `[rows, k]`, `out` `[rows, n]`.
///
/// # Panics
/// If the lengths do not fit together.
pub fn add(team: &Team, x: &[f32], linear: Linear<'_>, out: &mut [f32], workspace: &mut Workspace) {
    add_with(team, x, linear, out, &mut workspace.operand);
}

/// As [`add`], with the operand alone for memory.
pub(super) fn add_with(team: &Team, x: &[f32], linear: Linear<'_>, out: &mut [f32], operand: &mut PackedActivations) {
    let w = linear.weight;
    let rows = rows_of(x, None, linear, out);
    match row_tasks(rows, w.layout(), w.row_words() + w.n(), team.threads()) {
        Some(tasks) => ByRows { x, norm: None, linear, store: Store::Add, rows, tasks }.run(team, out, &|_, _| {}),
        None => {
            operand.encode(team, w, x);
            gemm(team, operand, w, linear.bias, Store::Add, out);
        }
    }
}

/// Rows of a product.
///
/// # Panics
/// If the lengths do not fit together.
fn rows_of(x: &[f32], norm: Option<Norm<'_>>, linear: Linear<'_>, out: &[f32]) -> usize {
    let (k, n) = (linear.weight.k(), linear.weight.n());
    let rows = x.len().checked_div(k).unwrap_or(0);
    check(x, rows, k, norm, linear);
    assert_eq!(out.len(), rows * n, "out is not [{rows}, {n}]");
    rows
}

/// A product whose rows are shared out: each task multiplies some rows with the whole weight.
struct ByRows<'a> {
    x: &'a [f32],
    norm: Option<Norm<'a>>,
    linear: Linear<'a>,
    store: Store,
    rows: usize,
    tasks: usize,
}

impl ByRows<'_> {
    fn run(&self, team: &Team, out: &mut [f32], finish: &(dyn Fn(Range<usize>, &mut [f32]) + Sync)) {
        let &Self { x, norm, linear, store, rows, tasks } = self;
        let w = linear.weight;
        let (k, n) = (w.k(), w.n());
        let out = Shared::new(out);
        team.run(tasks, (2 * rows * n).saturating_mul(k), |task| {
            let range = w.layout().share(rows, tasks, task);
            with_scratch(Encoded::scratch(w, range.len()), |scratch| {
                let input = &x[range.start * k..range.end * k];
                // SAFETY: tasks have disjoint rows.
                let out = unsafe { out.slice(range.start * n..range.end * n) };
                Encoded::new(w, input, norm, range.len(), scratch).multiply(linear, 0..n, store, out, n);
                finish(range, out);
            });
        });
    }
}

/// The rows of a task, encoded in its scratch.
pub(super) struct Encoded<'a>(pub(super) PackedActivationsView<'a>);

impl<'a> Encoded<'a> {
    /// Elements that `rows` need, and a row's room for the norm. Whole cache lines: the next slice of scratch starts
    /// one.
    pub(super) fn scratch(w: &PackedWeight, rows: usize) -> usize {
        (rows * (w.row_words() + 1)).next_multiple_of(LANES) + w.k().next_multiple_of(LANES)
    }

    /// Words and factors of rows in such scratch.
    pub(super) fn parts(w: &PackedWeight, rows: usize, scratch: &'a mut [f32]) -> (&'a mut [u32], &'a mut [f32]) {
        let (words, scratch) = scratch.split_at_mut(rows * w.row_words());
        (as_words(words), &mut scratch[..rows])
    }

    /// Encodes `x`, of so many rows, after its norm.
    pub(super) fn new(
        w: &PackedWeight,
        x: &[f32],
        norm: Option<Norm<'_>>,
        rows: usize,
        scratch: &'a mut [f32],
    ) -> Self {
        let (scratch, room) = scratch.split_at_mut(scratch.len() - w.k().next_multiple_of(LANES));
        let (words, factors) = Self::parts(w, rows, scratch);
        let norm = norm.map(|norm| (norm, &mut room[..w.k()]));
        Self(PackedActivationsView::encode(w, x, norm, words, factors))
    }

    /// Some outputs of the product, from the first element of `out` on, rows `stride` apart.
    pub(super) fn multiply(
        &self,
        linear: Linear<'_>,
        outputs: Range<usize>,
        store: Store,
        out: &mut [f32],
        stride: usize,
    ) {
        self.0.multiply(linear.weight, linear.bias, outputs, store, out, stride);
    }
}
