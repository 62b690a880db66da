//! Where and how a model computes: decided once, when it is loaded.

use std::{fmt, sync::Arc};

use candle_core::{Device, Tensor};
use ettin_gpu::Kernels;
use ettin_kernels::{Isa, KvFormat, Quantization, Scheme, Team};

use crate::{
    Config, Dtype, Error, Result,
    model::{ErasedModel, Network},
    ops::{Compute, Fused, Hidden, Linear, LinearParams, Matrix, Norm, NormParams, OnDevice, Reference, Vector},
    tensors::ModelTensors,
};

/// What computes a model's blocks: the fused kernels on the CPU, a device's own kernels, candle's operations
/// anywhere, or a [`Compute`] of the caller's.
#[derive(Debug, Clone)]
pub struct Backend(Arc<dyn Platform>);

impl Backend {
    /// The best backend for `device`: fused kernels on the CPU, the device's own kernels elsewhere.
    ///
    /// `ETTIN_REFERENCE=1` chooses the reference path on any device; `ETTIN_ISA` forces an instruction set of the CPU.
    ///
    /// # Errors
    /// When the device cannot compute in `dtype`, or `ETTIN_ISA` names what this CPU has not.
    pub fn new(device: &Device, dtype: Dtype) -> Result<Self> {
        let reference = std::env::var_os("ETTIN_REFERENCE").is_some_and(|value| value == "1");
        if !device.is_cpu() {
            return match Kernels::open(device)? {
                Some(kernels) if !reference => Self::with_kernels(kernels, dtype),
                _ => Self::reference(device, dtype),
            };
        }
        let Some(scheme) = dtype.scheme() else {
            return Err(Error::Unsupported(format!("dtype {dtype} on the CPU; bf16 is the half precision there")));
        };
        if reference {
            return Self::reference(device, dtype);
        }
        let isa = Isa::select().map_err(|error| Error::Input(error.to_string()))?;
        let fused = Fused::new(isa, scheme, Team::global());
        Ok(Self::custom(if dtype == Dtype::Auto { fused.auto() } else { fused }))
    }

    /// Fused kernels on the CPU in f32: what [`Backend::new`] gives for it.
    pub fn cpu() -> Result<Self> {
        Self::new(&Device::Cpu, Dtype::F32)
    }

    /// Fused kernels of a given instruction set and number format on given threads.
    ///
    /// # Panics
    /// If this CPU lacks the instruction set. [`Isa::select`], [`Isa::best`] and [`Isa::available`] never give one;
    /// [`Isa::supported`] asks.
    pub fn fused(isa: Isa, scheme: Scheme, team: Team) -> Self {
        Self::custom(Fused::new(isa, scheme, team))
    }

    /// candle's operations on any device: differentiable, and the oracle of the fused kernels.
    ///
    /// # Errors
    /// For number formats that candle has no products in; for bf16 and f16 on the CPU, which only
    /// [`training`](Self::training) is worth their slowness.
    pub fn reference(device: &Device, dtype: Dtype) -> Result<Self> {
        Ok(Self::custom(Reference::new(device, dtype)?))
    }

    /// candle's operations with products in `dtype` on any device, the CPU included, where bf16 and f16 are slow:
    /// variables stay in their own dtype, and are cast where they are used.
    ///
    /// # Errors
    /// For number formats that candle has no products in.
    pub fn training(device: &Device, dtype: Dtype) -> Result<Self> {
        Ok(Self::custom(Reference::for_training(device, dtype)?))
    }

    /// A device's own kernels in the blocks of the trunk, candle's operations in heads.
    pub fn with_kernels(kernels: Kernels, dtype: Dtype) -> Result<Self> {
        Ok(Self::custom(OnDevice::new(kernels, dtype)?))
    }

    /// Anything that computes blocks.
    pub fn custom(compute: impl Compute) -> Self {
        Self(Arc::new(compute))
    }

    /// Keeps keys and values in another format than the number format's own: bf16 where weights or activations are
    /// rounded to that or less, else f32.
    ///
    /// A prefill attends to what is kept, as a decode does: results do not depend on how tokens are cut into steps.
    ///
    /// # Errors
    /// On the reference path and devices, which keep what they compute.
    pub fn with_kv(self, kv: KvFormat) -> Result<Self> {
        self.0.with_kv(kv).ok_or_else(|| Error::Unsupported(format!("keys and values in {kv} outside the CPU kernels")))
    }

    /// Computes on the threads of `team`, where the CPU computes with fused kernels.
    #[must_use]
    pub fn on_team(self, team: Team) -> Self {
        self.0.on_team(team).unwrap_or(self)
    }

    /// The threads that the CPU computes on.
    pub fn team(&self) -> Team {
        self.0.team()
    }

    /// The backend for weights that are stored so: what [`Dtype::Auto`] comes to. Any other number format stays;
    /// what is stored in few bits is then dequantised.
    #[must_use]
    pub fn for_stored(&self, quantization: Option<Quantization>) -> Self {
        quantization.and_then(|quantization| self.0.for_stored(quantization)).unwrap_or_else(|| self.clone())
    }

    /// The device that results live on.
    pub fn device(&self) -> Device {
        self.0.device()
    }

    /// The number format that products are computed in: what [`Dtype::Auto`] came to.
    pub fn dtype(&self) -> Dtype {
        self.0.dtype()
    }

    /// Bytes of one kept number of a key or value, but for scales.
    pub fn kv_bytes(&self) -> f64 {
        self.0.kv_bytes()
    }

    /// The instruction set of the fused kernels; `None` where candle's operations compute.
    pub fn isa(&self) -> Option<Isa> {
        self.0.isa()
    }

    /// One line for people and benchmark records: device, number format, kernels, threads.
    pub fn describe(&self) -> String {
        self.0.describe()
    }

    /// Vectors `[rows, size]` in f32 as the input of layers: what a head of the caller's own starts from.
    pub fn hidden(&self, vectors: &Tensor) -> Result<Hidden> {
        self.0.hidden(vectors)
    }

    /// A dense layer outside the trunk; the fused kernels compute it in f32. [`ops::linear`](crate::ops::linear)
    /// runs it.
    ///
    /// # Errors
    /// For variables where the backend cannot train.
    pub fn linear(&self, params: LinearParams<'_>) -> Result<Linear> {
        self.0.clone().linear(params)
    }

    /// A layer norm outside the trunk. [`ops::norm`](crate::ops::norm) runs it.
    ///
    /// # Errors
    /// For variables where the backend cannot train.
    pub fn norm(&self, params: NormParams) -> Result<Norm> {
        self.0.clone().norm(params)
    }

    /// A model over this backend.
    pub(crate) fn model(
        &self,
        tensors: ModelTensors<Matrix<'_>, Vector>,
        config: &Config,
    ) -> Result<Box<dyn ErasedModel>> {
        self.0.clone().model(tensors, config)
    }
}

/// A [`Compute`] whose type is not known.
trait Platform: fmt::Debug + Send + Sync {
    fn device(&self) -> Device;
    fn dtype(&self) -> Dtype;
    fn describe(&self) -> String;
    fn kv_bytes(&self) -> f64;
    fn isa(&self) -> Option<Isa>;
    fn team(&self) -> Team;
    fn on_team(&self, team: Team) -> Option<Backend>;
    fn with_kv(&self, kv: KvFormat) -> Option<Backend>;
    fn for_stored(&self, quantization: Quantization) -> Option<Backend>;
    fn hidden(&self, vectors: &Tensor) -> Result<Hidden>;
    fn linear(self: Arc<Self>, params: LinearParams<'_>) -> Result<Linear>;
    fn norm(self: Arc<Self>, params: NormParams) -> Result<Norm>;
    fn model(
        self: Arc<Self>,
        tensors: ModelTensors<Matrix<'_>, Vector>,
        config: &Config,
    ) -> Result<Box<dyn ErasedModel>>;
}

impl<C: Compute> Platform for C {
    fn device(&self) -> Device {
        Compute::device(self)
    }

    fn dtype(&self) -> Dtype {
        Compute::dtype(self)
    }

    fn describe(&self) -> String {
        Compute::describe(self)
    }

    fn kv_bytes(&self) -> f64 {
        Compute::kv_bytes(self)
    }

    fn isa(&self) -> Option<Isa> {
        Compute::isa(self)
    }

    fn team(&self) -> Team {
        Compute::team(self)
    }

    fn on_team(&self, team: Team) -> Option<Backend> {
        Compute::on_team(self, team).map(Backend::custom)
    }

    fn with_kv(&self, kv: KvFormat) -> Option<Backend> {
        Compute::with_kv(self, kv).map(Backend::custom)
    }

    fn for_stored(&self, quantization: Quantization) -> Option<Backend> {
        Compute::for_stored(self, quantization).map(Backend::custom)
    }

    fn hidden(&self, vectors: &Tensor) -> Result<Hidden> {
        Ok(Hidden::new(Compute::hidden(self, vectors)?))
    }

    fn linear(self: Arc<Self>, params: LinearParams<'_>) -> Result<Linear> {
        Linear::new(self, params)
    }

    fn norm(self: Arc<Self>, params: NormParams) -> Result<Norm> {
        Norm::new(self, params)
    }

    fn model(
        self: Arc<Self>,
        tensors: ModelTensors<Matrix<'_>, Vector>,
        config: &Config,
    ) -> Result<Box<dyn ErasedModel>> {
        Ok(Box::new(Network::build(tensors, config, self)?))
    }
}
