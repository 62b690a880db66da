//! The seam: the few blocks that a model is made of, and what computes them.
//!
//! [`Compute`] is the trait behind which a model's blocks are computed; `model.rs` calls nothing else. Three types
//! implement it here. [`Fused`] runs on the CPU with packed weights and the kernels of `ettin-kernels`; it obeys
//! the invariance rule (a token's result depends on its own sequence only, bit for bit) and is inference-only.
//! [`Reference`] is plain candle operations: it runs on every device, is differentiable, and is the oracle of the
//! others. [`OnDevice`] runs a GPU's own kernels between candle's matrix products. A [`Backend`](crate::Backend) is
//! one of them, or a type of the user's own; a model is built over it once, as a type, and nothing outside this
//! module looks at a device.
//!
//! Outside the trunk there are [`Linear`] and [`Norm`], the layers that heads are made of, over [`Hidden`] states
//! of any backend.

mod choice;
mod compute;
mod device;
mod dtype;
mod fused;
mod hidden;
mod kv;
mod layers;
mod low_rank;
mod params;
mod reference;
mod ropes;
mod vocabulary;

pub use choice::DeviceChoice;
pub(crate) use compute::refuse_training;
pub use compute::{Block, Compute, States};
pub use device::OnDevice;
pub use dtype::Dtype;
pub use ettin_kernels::{Pooled, Reduce};
pub use fused::Fused;
pub use hidden::Hidden;
pub(crate) use hidden::{check_rows, check_size};
pub use kv::{Caches, KvShape, KvStore, LayerKv};
pub use layers::{Linear, Norm, linear, norm};
pub(crate) use low_rank::AddRow;
pub use low_rank::LowRank;
pub use params::{AttentionParams, HeadParams, LinearParams, Matrix, MlpParams, NormParams, StoredRows, Vector};
pub use reference::Reference;
pub use vocabulary::Vocabulary;

use candle_core::Device;

fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}
