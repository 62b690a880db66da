//! Hidden states whose backend is not known by type.

use std::any::Any;

use candle_core::Tensor;
use ettin_kernels::Pooled;

use super::{Compute, States};
use crate::{Error, Result};

/// Hidden states of a packed batch, `[rows, size]`: a workspace on the CPU, tensors on devices.
///
/// Every network takes them, whichever backend they come from: those of another go through a tensor.
#[derive(Debug)]
pub struct Hidden(Box<dyn Erased>);

/// States of some backend.
trait Erased: States + Any {
    fn select_erased(&self, rows: &[usize]) -> Result<Hidden>;

    fn reduce_erased(&self, runs: &[Pooled]) -> Result<Option<Hidden>>;
}

impl<S: States> Erased for S {
    fn select_erased(&self, rows: &[usize]) -> Result<Hidden> {
        Ok(Hidden::new(self.select(rows)?))
    }

    fn reduce_erased(&self, runs: &[Pooled]) -> Result<Option<Hidden>> {
        Ok(self.reduce(runs)?.map(Hidden::new))
    }
}

impl Hidden {
    /// What a backend computed.
    pub fn new(states: impl States) -> Self {
        Self(Box::new(states))
    }

    /// The states as their backend holds them, if that is what `S` is.
    pub fn downcast_ref<S: States>(&self) -> Option<&S> {
        (&*self.0 as &dyn Any).downcast_ref()
    }

    /// Runs `work` on the states in the form of `compute`.
    pub fn within<C: Compute, R>(&self, compute: &C, work: impl FnOnce(&C::Hidden) -> Result<R>) -> Result<R> {
        match self.downcast_ref() {
            Some(own) => work(own),
            None => work(&compute.hidden(&self.to_tensor()?)?),
        }
    }

    /// The states, of whichever backend.
    pub(crate) fn states(&self) -> &dyn States {
        &*self.0
    }

    /// Number of rows (tokens of the batch, or those selected).
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// Values per row.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// A copy as a tensor, `[rows, size]` in f32, on the device that computed it.
    pub fn to_tensor(&self) -> Result<Tensor> {
        self.0.to_tensor()
    }

    /// Runs of rows brought together, `[runs, size]`, where there are kernels for it; elsewhere `None`.
    pub(crate) fn reduce(&self, runs: impl Iterator<Item = Pooled>) -> Result<Option<Hidden>> {
        self.0.reduce_erased(&runs.collect::<Vec<_>>())
    }

    /// The given rows alone, in the given order: heads compute only what is asked.
    pub fn select(&self, rows: &[usize]) -> Result<Hidden> {
        check_rows(rows, self.rows())?;
        self.0.select_erased(rows)
    }
}

/// Fails where rows have another size than what is to be computed with them.
pub(crate) fn check_size(hidden: &Hidden, expected: usize) -> Result<()> {
    match hidden.size() {
        size if size == expected => Ok(()),
        size => Err(Error::input(format!("hidden states of size {size} where {expected} belongs"))),
    }
}

/// Fails where a row is asked for that is not there.
pub(crate) fn check_rows(asked: &[usize], rows: usize) -> Result<()> {
    match asked.iter().find(|&&row| row >= rows) {
        Some(row) => Err(Error::input(format!("row {row} was asked of {rows} rows"))),
        None => Ok(()),
    }
}
