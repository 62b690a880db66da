//! Kernels for packed batches on CUDA and Metal devices.
//!
//! [`Kernels`] offers the steps of a transformer layer that candle's own operations do slowly or cannot do without
//! padding: the residual addition with the layer norm, RoPE on packed `[q | k | v]`, gated activations, attention over
//! spans, and attention over a key-value cache. Matrix products stay candle's.
//!
//! The kernels are written once (`kernels/`) and compiled by the device's own compiler when they are first used: NVRTC
//! on CUDA, the system's compiler on Metal. A third form, the `emulator` feature, compiles the same sources as C++ and
//! runs them on the CPU, which is how they are tested where there is no device.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "emulator")]
pub mod emulator;
#[cfg(feature = "flash-attn")]
mod flash;
mod kernels;
mod launch;
#[cfg(feature = "metal")]
mod metal;
pub mod sources;

use candle_core::{Device, Result};

pub use kernels::{AttentionShape, Cache, Kernels, Norm, Segment, Tiles};
pub use launch::{Arg, Launch, Launcher};

/// Opens the CUDA device of this number in a way that lets every thread use what is on it.
///
/// # Errors
/// When this build has no CUDA, or this machine no such device.
pub fn open_cuda(number: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return cuda::open(number);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(number)
}
