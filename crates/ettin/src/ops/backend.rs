//! Where and how a model computes: decided once, when it is loaded.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
};

use candle_core::{DType, Device};
use ettin_gpu::Kernels;
use ettin_kernels::{Isa, KvBlocks, KvFormat, Quantisation, RopeTable, Scheme, Team};

use super::{
    Attention, AttentionParams, Bias, Block, Head, HeadParams, Hidden, KvRepr, KvStore, Linear, LinearParams, Mlp,
    MlpParams, Norm, NormParams, Room, Table, TableParams, Vector,
    device::{self, Gpu},
    fused::{self, Cpu},
    hidden::Repr,
    reference,
};
use crate::{Config, Error, Result};

/// The number format that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dtype {
    /// What the weights are stored in where that is [`Dtype::W8`] or [`Dtype::W4`] and the fused kernels compute; else
    /// [`Dtype::F32`] on every machine: bf16x3, faster on AMX, misses f32's contract (docs/ACCURACY.md).
    #[default]
    Auto,
    /// IEEE single precision.
    F32,
    /// bfloat16 weights and products, f32 sums, residual and norms.
    Bf16,
    /// Half precision weights and products, f32 residual and norms; on devices only.
    F16,
    /// Weights and activations as two bf16 parts, three products: errors of about 2⁻¹⁶. On the CPU only.
    Bf16x3,
    /// Weights and activations as three bf16 parts, six products: f32 accuracy. On the CPU only.
    Bf16x6,
    /// Weights and activations of dense layers in eight bits, token vectors in bf16. On the CPU only.
    Int8,
    /// Weights in eight bits with a factor per output, arithmetic in f32. On the CPU only.
    W8,
    /// Weights in four bits with a factor per 32 inputs, arithmetic in f32. On the CPU only.
    W4,
}

impl Dtype {
    /// Every format with its name.
    pub const ALL: [(Dtype, &'static str); 9] = [
        (Dtype::Auto, "auto"),
        (Dtype::F32, "f32"),
        (Dtype::Bf16, "bf16"),
        (Dtype::F16, "f16"),
        (Dtype::Bf16x3, "bf16x3"),
        (Dtype::Bf16x6, "bf16x6"),
        (Dtype::Int8, "int8"),
        (Dtype::W8, "w8"),
        (Dtype::W4, "w4"),
    ];

    /// The number format of the CPU's kernels; `None` where they have none.
    fn scheme(self) -> Option<Scheme> {
        Some(match self {
            Dtype::Auto | Dtype::F32 => Scheme::F32,
            Dtype::Bf16 => Scheme::Bf16,
            Dtype::Bf16x3 => Scheme::Bf16x3,
            Dtype::Bf16x6 => Scheme::Bf16x6,
            Dtype::Int8 => Scheme::Int8,
            Dtype::W8 => Scheme::W8,
            Dtype::W4 => Scheme::W4,
            Dtype::F16 => return None,
        })
    }

    fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::F32 => Dtype::F32,
            Scheme::Bf16 => Dtype::Bf16,
            Scheme::Bf16x3 => Dtype::Bf16x3,
            Scheme::Bf16x6 => Dtype::Bf16x6,
            Scheme::Int8 => Dtype::Int8,
            Scheme::W8 => Dtype::W8,
            Scheme::W4 => Dtype::W4,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(dtype, _)| dtype == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(dtype, _)| *dtype).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name).join(", ");
            Error::input(format!("unknown dtype {name:?}; known are {names}"))
        })
    }
}

/// What computes a model's blocks: the fused kernels on the CPU, a device's own kernels, or candle's operations anywhere.
#[derive(Debug, Clone)]
pub struct Backend {
    kind: Kind,
    /// Whether the weights may choose the number format.
    auto: bool,
    /// Whether it was said how keys and values are kept; else that follows the number format.
    kv_given: bool,
    /// Layers of one base share one table.
    ropes: Arc<Mutex<Ropes>>,
}

/// Tables by theta (its bits), head width and positions.
type Ropes = HashMap<(u32, usize, usize), Arc<RopeTable>>;

#[derive(Debug, Clone)]
enum Kind {
    Fused(Arc<Cpu>),
    Reference { device: Device, dtype: DType },
    Device(Arc<Gpu>),
}

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
        Ok(Self { auto: dtype == Dtype::Auto, ..Self::fused(isa, scheme, Team::global()) })
    }

    /// Fused kernels on the CPU in f32: what [`Backend::new`] gives for it.
    pub fn cpu() -> Result<Self> {
        Self::new(&Device::Cpu, Dtype::F32)
    }

    /// Fused kernels of a given instruction set and number format on given threads.
    pub fn fused(isa: Isa, scheme: Scheme, team: Team) -> Self {
        Self::of(Kind::Fused(Arc::new(Cpu::new(isa, scheme, default_kv(scheme), team))))
    }

    /// Keeps keys and values in another format than the number format's own: bf16 where weights or activations are rounded to that or less, else f32.
    ///
    /// A prefill attends to what is kept, as a decode does: results do not depend on how tokens are cut into steps.
    ///
    /// # Errors
    /// On the reference path, which keeps what it computes.
    pub fn with_kv(self, kv: KvFormat) -> Result<Self> {
        match &self.kind {
            Kind::Fused(cpu) => Ok(Self { kind: Kind::Fused(Arc::new(cpu.with_kv(kv))), kv_given: true, ..self }),
            _ => Err(Error::Unsupported(format!("keys and values in {kv} outside the CPU kernels"))),
        }
    }

    /// Computes on the threads of `team`, where the CPU computes with fused kernels.
    pub fn on_team(self, team: Team) -> Self {
        match &self.kind {
            Kind::Fused(cpu) => Self { kind: Kind::Fused(Arc::new(cpu.with_team(team))), ..self },
            _ => self,
        }
    }

    /// The threads that the CPU computes on.
    pub fn team(&self) -> Team {
        match &self.kind {
            Kind::Fused(cpu) => cpu.team.clone(),
            Kind::Reference { .. } | Kind::Device(_) => Team::global(),
        }
    }

    /// candle's operations on any device: differentiable, and the oracle of the fused kernels.
    pub fn reference(device: &Device, dtype: Dtype) -> Result<Self> {
        let float = float(dtype)?;
        if device.is_cpu() && float != DType::F32 {
            // candle's CPU products in these widen every operand on each call.
            return Err(Error::Unsupported(format!("dtype {dtype} on the reference path of the CPU")));
        }
        Ok(Self::of(Kind::Reference { device: device.clone(), dtype: float }))
    }

    /// A device's own kernels in the blocks of the trunk, candle's operations in heads.
    pub fn with_kernels(kernels: Kernels, dtype: Dtype) -> Result<Self> {
        Ok(Self::of(Kind::Device(Arc::new(Gpu::new(kernels, float(dtype)?)))))
    }

    /// The backend for weights that are stored so: what [`Dtype::Auto`] comes to. Any other number format stays; what is
    /// stored in few bits is then dequantised.
    pub fn for_stored(&self, quantisation: Option<Quantisation>) -> Self {
        let kind = match (&self.kind, quantisation.filter(|_| self.auto)) {
            (Kind::Fused(cpu), Some(quantisation)) => {
                let scheme = quantisation.scheme();
                let kv = if self.kv_given { cpu.kv } else { default_kv(scheme) };
                Kind::Fused(Arc::new(cpu.with_scheme(scheme).with_kv(kv)))
            }
            (kind, _) => kind.clone(),
        };
        Self { kind, ..self.clone() }
    }

    fn of(kind: Kind) -> Self {
        Self { kind, auto: false, kv_given: false, ropes: Arc::default() }
    }

    /// The device that results live on.
    pub fn device(&self) -> Device {
        match &self.kind {
            Kind::Fused(_) => Device::Cpu,
            Kind::Reference { device, .. } => device.clone(),
            Kind::Device(gpu) => gpu.device().clone(),
        }
    }

    /// Runs a forward pass over `tokens` rows, with a `head` of so many weights, among the threads that will share its
    /// work, so that they are called once and not for every block; a pass too short to be shared stays with the caller.
    pub(crate) fn enter<R>(
        &self,
        tokens: usize,
        config: &Config,
        head: usize,
        forward: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let layers = config.layers.len() * config.hidden_size * (4 * config.hidden_size + 3 * config.intermediate_size);
        match &self.kind {
            Kind::Fused(cpu) if cpu.shares(tokens, layers + head) => cpu.team.enter(forward),
            Kind::Fused(cpu) => cpu.team.alone(forward),
            Kind::Reference { .. } | Kind::Device(_) => forward(),
        }
    }

    /// The number format that products are computed in: what [`Dtype::Auto`] came to.
    pub fn dtype(&self) -> Dtype {
        let float = |dtype: DType| match dtype {
            DType::BF16 => Dtype::Bf16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        };
        match &self.kind {
            Kind::Fused(cpu) => Dtype::of(cpu.scheme),
            Kind::Reference { dtype, .. } => float(*dtype),
            Kind::Device(gpu) => float(gpu.dtype()),
        }
    }

    /// Bytes of one kept number of a key or value, but for scales.
    pub fn kv_bytes(&self) -> f64 {
        match &self.kind {
            Kind::Fused(cpu) => match cpu.kv {
                KvFormat::F32 => 4.0,
                KvFormat::Bf16 => 2.0,
                KvFormat::Int8 => 1.0,
            },
            Kind::Reference { dtype, .. } => dtype.size_in_bytes() as f64,
            Kind::Device(gpu) => gpu.dtype().size_in_bytes() as f64,
        }
    }

    /// The instruction set of the fused kernels; `None` where candle's operations compute.
    pub fn isa(&self) -> Option<Isa> {
        match &self.kind {
            Kind::Fused(cpu) => Some(cpu.isa),
            Kind::Reference { .. } | Kind::Device(_) => None,
        }
    }

    /// One line for people and benchmark records: device, number format, kernels, threads.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Fused(cpu) => {
                format!("cpu, {}, {} kernels, {} threads", cpu.scheme, cpu.isa, cpu.team.threads())
            }
            Kind::Reference { device, dtype } => {
                format!("{}, {}, candle operations", device_name(device), dtype.as_str())
            }
            Kind::Device(gpu) => {
                format!("{}, {}, {}", device_name(gpu.device()), gpu.dtype().as_str(), gpu.describe())
            }
        }
    }

    /// A token table.
    pub fn table(&self, table: TableParams<'_>) -> Result<Table> {
        Ok(Table(match &self.kind {
            Kind::Fused(cpu) => Block::Fused(fused::Table::new(table, cpu)?),
            Kind::Reference { device, dtype } => Block::Reference(reference::Table::new(table, device, *dtype)?),
            Kind::Device(gpu) => Block::Reference(reference::Table::new(table, gpu.device(), gpu.dtype())?),
        }))
    }

    /// A bias over the vocabulary.
    pub fn bias(&self, vector: Vector) -> Result<Bias> {
        Ok(Bias(match &self.kind {
            Kind::Fused(_) => Block::Fused(vector.values()?),
            Kind::Reference { device, .. } => Block::Reference(vector.tensor(device)?),
            Kind::Device(gpu) => Block::Reference(vector.tensor(gpu.device())?),
        }))
    }

    /// A layer norm.
    pub fn norm(&self, params: NormParams) -> Result<Norm> {
        Ok(Norm(match &self.kind {
            Kind::Fused(_) => Block::Fused(fused::Norm::new(params)?),
            Kind::Reference { device, .. } => Block::Reference(reference::Norm::new(params, device)?),
            Kind::Device(gpu) => Block::Device(device::Norm::new(params, gpu)?),
        }))
    }

    /// A dense layer.
    pub fn linear(&self, params: LinearParams<'_>) -> Result<Linear> {
        Ok(Linear(match &self.kind {
            Kind::Fused(cpu) => Block::Fused(fused::Linear::exact(params, cpu)?),
            Kind::Reference { device, dtype } => Block::Reference(reference::Linear::new(params, device, *dtype)?),
            Kind::Device(gpu) => Block::Reference(reference::Linear::new(params, gpu.device(), gpu.dtype())?),
        }))
    }

    /// The attention half of a layer.
    pub fn attention(&self, params: AttentionParams<'_>) -> Result<Attention> {
        let rope = self.rope(params.rope_theta, params.head_dim, params.max_positions);
        Ok(Attention(match &self.kind {
            Kind::Fused(cpu) => Block::Fused(fused::Attention::new(params, &rope, cpu)?),
            Kind::Reference { device, dtype } => {
                Block::Reference(reference::Attention::new(params, &rope, device, *dtype)?)
            }
            Kind::Device(gpu) => Block::Device(device::Attention::new(params, &rope, gpu)?),
        }))
    }

    /// The feed-forward half of a layer.
    pub fn mlp(&self, params: MlpParams<'_>) -> Result<Mlp> {
        Ok(Mlp(match &self.kind {
            Kind::Fused(cpu) => Block::Fused(fused::Mlp::new(params, cpu)?),
            Kind::Reference { device, dtype } => Block::Reference(reference::Mlp::new(params, device, *dtype)?),
            Kind::Device(gpu) => Block::Device(device::Mlp::new(params, gpu)?),
        }))
    }

    /// A prediction head.
    pub fn head(&self, params: HeadParams<'_>) -> Result<Head> {
        Ok(Head(match &self.kind {
            Kind::Fused(cpu) => Block::Fused(fused::Head::new(params, cpu)?),
            Kind::Reference { device, dtype } => Block::Reference(reference::Head::new(params, device, *dtype)?),
            Kind::Device(gpu) => Block::Reference(reference::Head::new(params, gpu.device(), gpu.dtype())?),
        }))
    }

    /// Vectors `[rows, size]` as the input of further blocks.
    pub(crate) fn hidden(&self, vectors: &candle_core::Tensor) -> Result<Hidden> {
        let (_, size) = vectors.dims2()?;
        Ok(Hidden(match &self.kind {
            Kind::Fused(cpu) => {
                let values = vectors.flatten_all()?.to_vec1::<f32>()?;
                Repr::Fused(fused::Rows::new(cpu, size, &values))
            }
            Kind::Reference { device, .. } => Repr::Reference(vectors.to_device(device)?),
            Kind::Device(gpu) => Repr::Device(device::Rows::new(gpu, vectors.to_device(gpu.device())?)),
        }))
    }

    /// Room for one sequence's keys and values in one layer: a ring of `capacity` positions, or all of them.
    pub(crate) fn kv_store(&self, heads: usize, head_dim: usize, ring: Option<usize>) -> KvStore {
        KvStore(match &self.kind {
            Kind::Fused(cpu) => {
                let room = if ring.is_some() { Room::Ring } else { Room::All };
                KvRepr::Fused(KvBlocks::new(heads, head_dim, ring.unwrap_or(0), cpu.kv), room)
            }
            Kind::Reference { .. } => KvRepr::Reference(reference::KvTensors::default()),
            Kind::Device(_) => KvRepr::Device(device::KvRows::new(ring)),
        })
    }

    fn rope(&self, theta: f32, head_dim: usize, positions: usize) -> Arc<RopeTable> {
        let mut ropes = self.ropes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ropes
            .entry((theta.to_bits(), head_dim, positions))
            .or_insert_with(|| Arc::new(RopeTable::new(theta, head_dim, positions)))
            .clone()
    }
}

/// Keys and values lose no more than what is multiplied with them, or than the weights that they come from.
fn default_kv(scheme: Scheme) -> KvFormat {
    match scheme {
        Scheme::F32 | Scheme::Bf16x3 | Scheme::Bf16x6 => KvFormat::F32,
        Scheme::Bf16 | Scheme::Int8 | Scheme::W8 | Scheme::W4 => KvFormat::Bf16,
    }
}

/// The format of weights and products on devices and on the reference path.
fn float(dtype: Dtype) -> Result<DType> {
    match dtype {
        Dtype::Auto | Dtype::F32 => Ok(DType::F32),
        Dtype::Bf16 => Ok(DType::BF16),
        Dtype::F16 => Ok(DType::F16),
        Dtype::Bf16x3 | Dtype::Bf16x6 | Dtype::Int8 | Dtype::W8 | Dtype::W4 => {
            Err(Error::Unsupported(format!("dtype {dtype} outside the CPU kernels; use f32 or bf16")))
        }
    }
}

fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}
