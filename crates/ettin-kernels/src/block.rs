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

use std::ops::Range;

use crate::{
    Activation, Norm, Operand, PackedMatrix, Store,
    activation::gated,
    buffer::{Aligned, as_words, with_scratch},
    gemm::{Encoding, Layout, Product, Rows, gemm},
    isa::Isa,
    norm::normalise,
    simd::LANES,
    team::{Shared, Team},
};

/// Scratch of a task, in elements: half of a common L2 of 1 to 2 MiB.
const TASK_SCRATCH: usize = 1 << 17;

/// Rows of a task that are worth reading every weight for, and from which the weights' way from L3 is hidden.
const ROWS: (usize, usize) = (24, 48);

/// The same on AMX: at 2.3 Tflop/s from L2 and 26 GB/s from L3, 88 rows of bf16 and as many of bytes balance the two
/// (rates of one Xeon; the numbers follow from them and have not been tried).
const ROWS_OF_TILES: (usize, usize) = (64, 128);

/// Outputs of a gated product at a time, of each half.
const GATE_CHUNK: usize = 256;

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
    let (fewest, enough) = if layout == Layout::TILES { ROWS_OF_TILES } else { ROWS };
    if rows < fewest * threads {
        return None;
    }
    let most = (TASK_SCRATCH / elements_per_row.max(1)).max(enough);
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
    let (w, isa) = (linear.weight, linear.weight.isa());
    let (k, n) = (w.k(), w.n());
    let rows = x.len().checked_div(k).unwrap_or(0);
    check(x, rows, k, norm, linear);
    assert_eq!(out.len(), rows * n, "out is not [{rows}, {n}]");
    let fill = |rows: Range<usize>, out: &mut [f32]| normed(isa, &x[rows.start * k..rows.end * k], norm, out);
    let Some(tasks) = row_tasks(rows, w.layout(), w.row_words() + 64, team.threads()) else {
        workspace.operand.produce(team, w, rows, &fill);
        gemm(team, &workspace.operand, w, linear.bias, Store::Write, out);
        return team.run_rows(out, n, 4 * rows * n, |first, out| finish(first..first + out.len() / n, out));
    };
    let out = Shared::new(out);
    team.run(tasks, (2 * rows * n).saturating_mul(k), |task| {
        let range = w.layout().share(rows, tasks, task);
        with_scratch(Encoded::scratch(w, range.len()) + range.len() * k, |scratch| {
            let (input, scratch) = scratch.split_at_mut(range.len() * k);
            fill(range.clone(), input);
            // SAFETY: tasks have disjoint rows.
            let out = unsafe { out.slice(range.start * n..range.end * n) };
            Encoded::new(w, input, range.len(), scratch).multiply(linear, 0..n, Store::Write, out, n);
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
            Encoded::new(w, input, range.len(), scratch).multiply(linear, 0..n, Store::Add, out, n);
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
    let chunk = if inner.is_multiple_of(GATE_CHUNK / 2) { GATE_CHUNK.min(inner) } else { inner };
    let elements = wi.weight.row_words() + inner + 2 * chunk + wo.weight.row_words();
    let Some(tasks) = row_tasks(rows, wi.weight.layout(), elements, team.threads()) else {
        let fill = |rows: Range<usize>, out: &mut [f32]| normed(isa, &x[rows.start * k..rows.end * k], Some(norm), out);
        workspace.operand.produce(team, wi.weight, rows, &fill);
        workspace.wide.resize(rows * 2 * inner);
        gemm(team, &workspace.operand, wi.weight, wi.bias, Store::Write, &mut workspace.wide);
        let wide = &workspace.wide;
        workspace.operand.produce(team, wo.weight, rows, &|rows, out| {
            for (row, out) in rows.zip(out.chunks_exact_mut(inner)) {
                let (a, b) = wide[2 * row * inner..2 * (row + 1) * inner].split_at(inner);
                gated(isa, activation, a, b, out);
            }
        });
        return gemm(team, &workspace.operand, wo.weight, wo.bias, Store::Add, x);
    };
    let x = Shared::new(x);
    let work = (6 * rows * inner).saturating_mul(k);
    team.run(tasks, work, |task| {
        let range = wi.weight.layout().share(rows, tasks, task);
        let count = range.len();
        // SAFETY: tasks have disjoint rows.
        let x = unsafe { x.slice(range.start * k..range.end * k) };
        let first = Encoded::scratch(wi.weight, count).max(Encoded::scratch(wo.weight, count));
        with_scratch(first + count * (inner.max(k) + 2 * chunk), |scratch| {
            let (scratch, rest) = scratch.split_at_mut(first);
            let (narrow, wide) = rest.split_at_mut(count * inner.max(k));
            normalise(isa, x, norm, &mut narrow[..count * k]);
            let input = Encoded::new(wi.weight, &narrow[..count * k], count, scratch);
            let narrow = &mut narrow[..count * inner];
            for from in (0..inner).step_by(chunk) {
                let columns = from..(from + chunk).min(inner);
                let len = columns.len();
                let wide = &mut wide[..count * 2 * len];
                if len == inner {
                    input.multiply(wi, 0..2 * inner, Store::Write, wide, 2 * len);
                } else {
                    input.multiply(wi, columns.clone(), Store::Write, wide, 2 * len);
                    let gate = inner + columns.start..inner + columns.end;
                    input.multiply(wi, gate, Store::Write, &mut wide[len..], 2 * len);
                }
                for (wide, narrow) in wide.chunks_exact(2 * len).zip(narrow.chunks_exact_mut(inner)) {
                    let (a, b) = wide.split_at(len);
                    gated(isa, activation, a, b, &mut narrow[columns.clone()]);
                }
            }
            Encoded::new(wo.weight, narrow, count, scratch).multiply(wo, 0..k, Store::Add, x, k);
        });
    });
}

fn check(x: &[f32], rows: usize, k: usize, norm: Option<Norm<'_>>, linear: Linear<'_>) {
    assert_eq!(x.len(), rows * k, "x is not [rows, {k}]");
    assert!(norm.is_none_or(|norm| norm.weight.len() == k), "norm is not [{k}]");
    assert!(linear.bias.is_none_or(|bias| bias.len() == linear.weight.n()), "bias is not [{}]", linear.weight.n());
}

fn normed(isa: Isa, x: &[f32], norm: Option<Norm<'_>>, out: &mut [f32]) {
    match norm {
        Some(norm) => normalise(isa, x, norm, out),
        None => out.copy_from_slice(x),
    }
}

/// The rows of a task, encoded in its scratch.
struct Encoded<'a>(Rows<'a>);

impl<'a> Encoded<'a> {
    /// Elements that `rows` need: whole cache lines, so that what follows starts one.
    fn scratch(w: &PackedMatrix, rows: usize) -> usize {
        (rows * (w.row_words() + 1)).next_multiple_of(LANES)
    }

    fn new(w: &PackedMatrix, x: &[f32], rows: usize, scratch: &'a mut [f32]) -> Self {
        let (encoded, scratch) = scratch.split_at_mut(rows * w.row_words());
        let factors = &mut scratch[..rows];
        Self(w.isa().run_narrow(Encoding { w, x, rows, words: as_words(encoded), factors }))
    }

    /// Some outputs of the product, from the first element of `out` on, rows `stride` apart.
    fn multiply(&self, linear: Linear<'_>, outputs: Range<usize>, store: Store, out: &mut [f32], stride: usize) {
        let (rows, tiles) = (self.0.rows, self.0.tiles());
        let w = linear.weight;
        assert!(outputs.end <= w.n() && outputs.len() <= stride && out.len() + stride >= rows * stride + outputs.len());
        let product = Product {
            rows: self.0,
            w,
            bias: linear.bias,
            store,
            tiles: 0..tiles,
            panels: w.panels_of(outputs.clone()),
            // `wrapping`: the product adds the outputs' place back.
            out: out.as_mut_ptr().wrapping_sub(outputs.start),
            out_stride: stride,
        };
        // SAFETY: the rows are writable from `out` on, by the assertion, and borrowed.
        unsafe { product.run() }
    }
}
