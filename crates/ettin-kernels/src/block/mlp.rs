//! The feed-forward half of a layer: norm, product, gate, product, residual.

use std::ops::Range;

use super::{
    Linear, Workspace, check,
    cut::row_tasks,
    geglu_epilogue::{GatedRows, GegluEpilogue},
    linear::Encoded,
};
use crate::{
    Activation, Norm, Store,
    activation::gated,
    buffer::with_scratch,
    gemm::{ActivationLayout, OutputTile, PackedActivationsView, PackedColumns, Product, Sink, gemm},
    team::{Shared, TASKS_PER_THREAD, Team, share},
};

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

/// How the half is cut into tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MlpPlan {
    /// Each task takes some rows through both products.
    Rows {
        /// Into which the rows are cut.
        tasks: usize,
    },
    /// Each task has some outputs of the first product, and gates them at once. Tiles of AMX take panels one by one
    /// anyway. A core reads a quarter as much of other cores' results, and threads meet once less.
    GatedOutputs,
    /// Each product is cut by outputs; the gate stands between.
    Outputs,
}

/// `x += wo(activation(a) ⊙ b)` with `[a | b] = wi(norm(x))`, for each row of `x` `[rows, k]`.
///
/// # Panics
/// If the lengths do not fit together.
pub fn mlp(team: &Team, x: &mut [f32], mlp: Mlp<'_>, workspace: &mut Workspace) {
    let Mlp { norm, wi, wo, .. } = mlp;
    let (k, inner) = (wi.weight.k(), wo.weight.k());
    let rows = x.len().checked_div(k).unwrap_or(0);
    check(x, rows, k, Some(norm), wi);
    assert!(wi.weight.n() == 2 * inner && wo.weight.n() == k, "{wi:?} and {wo:?} do not fit together");
    assert!(wo.bias.is_none_or(|bias| bias.len() == k), "bias is not [{k}]");
    match mlp.plan(rows, team.threads()) {
        MlpPlan::Rows { tasks } => mlp.by_rows(team, x, rows, tasks),
        MlpPlan::GatedOutputs => mlp.by_gated_outputs(team, x, rows, workspace),
        MlpPlan::Outputs => mlp.by_outputs(team, x, rows, workspace),
    }
}

impl Mlp<'_> {
    fn plan(&self, rows: usize, threads: usize) -> MlpPlan {
        let Self { wi, wo, .. } = *self;
        let layout = wi.weight.layout();
        if !wo.weight.k().is_multiple_of(wi.weight.width()) {
            // A panel would hold outputs of both halves.
            return MlpPlan::Outputs;
        }
        // Memory of a row: as the first product reads it, as the second does, and between them.
        let elements = wi.weight.row_words() + wo.weight.row_words() + self.whole_elements();
        match row_tasks(rows, layout, elements, threads) {
            Some(tasks) => MlpPlan::Rows { tasks },
            None if layout == ActivationLayout::TILES => MlpPlan::GatedOutputs,
            None => MlpPlan::Outputs,
        }
    }

    /// Elements of a gated row that must be whole before the second product can encode it; 0 where panels are encoded
    /// one by one.
    fn whole_elements(&self) -> usize {
        if PackedColumns::possible(self.wo.weight, self.wi.weight.width()) { 0 } else { self.wo.weight.k() }
    }

    /// Whether a shorter polynomial serves for the activation.
    fn coarse(&self) -> bool {
        self.wo.weight.scheme().rounds_activations()
    }

    /// [`MlpPlan::Rows`].
    fn by_rows(&self, team: &Team, x: &mut [f32], rows: usize, tasks: usize) {
        let Self { norm, wi, wo, .. } = *self;
        let (k, inner, whole_elements) = (wi.weight.k(), wo.weight.k(), self.whole_elements());
        let x = Shared::new(x);
        let work = (6 * rows * inner).saturating_mul(k);
        team.run(tasks, work, |task| {
            let range = wi.weight.layout().share(rows, tasks, task);
            let count = range.len();
            // SAFETY: tasks have disjoint rows.
            let x = unsafe { x.slice(range.start * k..range.end * k) };
            let sizes =
                [Encoded::scratch(wi.weight, count), Encoded::scratch(wo.weight, count), count * whole_elements];
            with_scratch(sizes.iter().sum(), |scratch| {
                let (first, scratch) = scratch.split_at_mut(sizes[0]);
                let (second, between) = scratch.split_at_mut(sizes[1]);
                let input = Encoded::new(wi.weight, x, Some(norm), count, first);
                let (words, factors) = Encoded::parts(wo.weight, count, second);
                let parts = PackedColumns::new(wo.weight, count, words, factors);
                let whole = Some(Shared::new(between)).filter(|_| whole_elements > 0);
                // SAFETY: the rows are this task's, and it goes cell by cell.
                unsafe { self.gate_panels(input.0, 0..inner / wi.weight.width(), &parts, whole.as_ref()) };
                let gated = match whole {
                    None => Encoded(parts.finish()),
                    Some(_) => Encoded::new(wo.weight, between, None, count, second),
                };
                gated.multiply(wo, 0..k, Store::Add, x, k);
            });
        });
    }

    /// [`MlpPlan::GatedOutputs`].
    fn by_gated_outputs(&self, team: &Team, x: &mut [f32], rows: usize, workspace: &mut Workspace) {
        let Self { norm, wi, wo, .. } = *self;
        let (k, inner, threads) = (wi.weight.k(), wo.weight.k(), team.threads());
        let Workspace { operand, gated: second, wide, .. } = workspace;
        operand.encode_normed(team, wi.weight, x, Some(norm));
        wide.resize(rows * self.whole_elements());
        let whole = Some(Shared::new(wide)).filter(|_| self.whole_elements() > 0);
        let parts = second.parts(wo.weight, rows);
        let input = operand.view(wi.weight);
        let panels = inner / wi.weight.width();
        let tasks = panels.min(threads * TASKS_PER_THREAD);
        team.run(tasks, (4 * rows * inner).saturating_mul(k), |task| {
            wi.weight.read_by(task, tasks, threads);
            // SAFETY: each task has panels of its own.
            unsafe { self.gate_panels(input, share(panels, tasks, task), &parts, whole.as_ref()) };
        });
        if self.whole_elements() > 0 {
            second.encode(team, wo.weight, wide);
        }
        gemm(team, second, wo.weight, wo.bias, Store::Add, x);
    }

    /// [`MlpPlan::Outputs`].
    fn by_outputs(&self, team: &Team, x: &mut [f32], rows: usize, workspace: &mut Workspace) {
        let Self { norm, wi, wo, activation } = *self;
        let (isa, inner, coarse) = (wi.weight.isa(), wo.weight.k(), self.coarse());
        let Workspace { operand, wide, .. } = workspace;
        operand.encode_normed(team, wi.weight, x, Some(norm));
        wide.resize(rows * 2 * inner);
        gemm(team, operand, wi.weight, wi.bias, Store::Write, wide);
        operand.produce(team, wo.weight, rows, &|rows, out| {
            for (row, out) in rows.zip(out.chunks_exact_mut(inner)) {
                let (a, b) = wide[2 * row * inner..2 * (row + 1) * inner].split_at(inner);
                gated(isa, activation, coarse, a, b, out);
            }
        });
        gemm(team, operand, wo.weight, wo.bias, Store::Add, x);
    }

    /// Some panels of the activated half and those of the gate, side by side, cell by cell, gated into `parts` or,
    /// where rows must be whole, into `whole` `[rows, inner]`.
    ///
    /// # Safety
    /// Nobody else may write these panels' columns of the rows meanwhile.
    unsafe fn gate_panels(
        &self,
        rows: PackedActivationsView<'_>,
        panels: Range<usize>,
        parts: &PackedColumns<'_, '_>,
        whole: Option<&Shared<'_, f32>>,
    ) {
        let Linear { weight: w, bias } = self.wi;
        let (activation, coarse) = (self.activation, self.coarse());
        let mut memory = GatedRows::default();
        let mut take = |cell: OutputTile<'_>| {
            let memory = &mut memory;
            // SAFETY: by the caller's promise.
            unsafe { GegluEpilogue { cell, activation, coarse, memory, parts, rows: whole }.run(w.isa()) };
        };
        let sink = Sink::Epilogue { apart: Some(w.panels_of(0..self.wo.weight.k()).len()), take: &mut take };
        // SAFETY: nothing is written.
        unsafe { Product { rows, w, bias, tiles: 0..rows.tiles(), panels, sink }.run() }
    }
}
