//! The models of a process: loaded in the background, chosen by name or by what is needed, replaced while others run.

mod abilities;
mod loaded;
mod probe;
mod registry;

pub use abilities::{Abilities, Ability};
pub use loaded::{LoadedModel, ModelDescription, ModelSettings, ModelTasks};
pub use registry::{ModelSource, ModelState, ModelStatus, Registry};
