//! The smallest thing that a model can compute, to find out whether it still does.

use ettin::{PackedBatch, Trunk};

use super::ModelTasks;
use crate::scheduler::Probe;

impl ModelTasks {
    /// Computes one token; none for models whose tasks have no one trunk.
    pub(super) fn probe(&self) -> Option<Box<Probe>> {
        let trunk: Trunk = None
            .or(self.embed.as_ref().and_then(|task| task.model()).map(|model| model.trunk()))
            .or(self.multi_vector.as_ref().map(|task| task.model().trunk()))
            .or(self.classify.as_ref().and_then(|task| task.model()).map(|model| model.trunk()))
            .or(self.tag.as_ref().map(|task| task.model().trunk()))
            .or(self.answer.as_ref().map(|task| task.model().trunk()))?
            .clone();
        Some(Box::new(move || trunk.forward(&PackedBatch::new(&[[0u32]])?).map(drop)))
    }
}
