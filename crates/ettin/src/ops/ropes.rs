//! Rotary tables that layers share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ettin_kernels::RopeTable;

use super::AttentionParams;

/// Tables that layers of one base share; clones share them too.
#[derive(Debug, Clone, Default)]
pub(super) struct Ropes(Arc<Mutex<Tables>>);

/// By theta (its bits), head width and positions.
type Tables = HashMap<(u32, usize, usize), Arc<RopeTable>>;

impl Ropes {
    /// The table that a layer needs.
    pub(super) fn of(&self, params: &AttentionParams<'_>) -> Arc<RopeTable> {
        let (theta, head_dim, positions) = (params.rope_theta, params.head_dim, params.max_positions);
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables
            .entry((theta.to_bits(), head_dim, positions))
            .or_insert_with(|| Arc::new(RopeTable::new(theta, head_dim, positions)))
            .clone()
    }
}
