//! Rows of a task: how many pass through a chain of products on one thread.
//!
//! A task's rows cost memory: the encoded input, the result of the first product, and the encoded input of the second.
//! They should stay in L2 beside the panel that passes through. The more rows, the fewer times a weight comes from L3
//! or memory: at r rows, a weight of b bytes brings 2r / b flops a byte. Some tens of rows suffice to hide the stream
//! behind the arithmetic (measured: 28 rows cost a tenth, 56 nothing).

use crate::gemm::ActivationLayout;

/// Scratch of a task, in elements: half of a common L2 of 1 to 2 MiB.
const TASK_SCRATCH: usize = 1 << 17;

/// The same on AMX, whose CPUs have 2 MiB.
const TASK_SCRATCH_AMX: usize = 3 << 17;

/// Rows from which a task may read every weight, and rows from which the weights' way from L3 is hidden.
const TASK_ROWS: RowBounds = RowBounds { min: 24, enough: 48 };

/// The same on AMX, which multiplies several times faster than weights come (2 Tflop/s from L2, some 20 GB/s a core
/// from L3): measured, 128 rows cost a tenth, and more than 256 gain little.
const TASK_ROWS_AMX: RowBounds = RowBounds { min: 64, enough: 256 };

struct RowBounds {
    min: usize,
    enough: usize,
}

/// Tasks that `rows` are cut into; `None` when the threads should share each product instead.
///
/// `elements_per_row` is the scratch of a row.
pub(super) fn row_tasks(
    rows: usize,
    layout: ActivationLayout,
    elements_per_row: usize,
    threads: usize,
) -> Option<usize> {
    let amx = layout == ActivationLayout::TILES;
    let RowBounds { min, enough } = if amx { TASK_ROWS_AMX } else { TASK_ROWS };
    if rows < min * threads {
        return None;
    }
    let scratch = if amx { TASK_SCRATCH_AMX } else { TASK_SCRATCH };
    let max = (scratch / elements_per_row.max(1)).max(enough);
    // Whole rounds: the threads end together.
    Some(rows.div_ceil(max).next_multiple_of(threads).min(rows / min.min(rows)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_have_rows_enough_and_make_whole_rounds() {
        let tasks = |rows, elements, threads| row_tasks(rows, ActivationLayout::TILES, elements, threads);
        assert_eq!(tasks(63, 1000, 1), None);
        assert_eq!(tasks(64, 1000, 1), Some(1));
        assert_eq!(tasks(127, 1000, 2), None, "every thread needs its rows");
        // 393 rows fit into the scratch.
        assert_eq!(tasks(1000, 1000, 2), Some(4), "three tasks, and one more for the second thread");
        assert_eq!(tasks(512, 1 << 20, 1), Some(2), "more scratch than L2 has, but rows enough to hide the stream");
    }
}
