//! The blocks on the CPU: packed weights, deterministic kernels, one reused workspace; inference-only.

mod attention;

use std::sync::{Arc, Mutex, PoisonError};

use ettin_kernels::{
    Activation, Aligned, Isa, KvFormat, Operand, PackedMatrix, Pooled, Precision, ReadingOrder, Scheme, Sharing, Store,
    Team, activate, block, block::Workspace, gemm, layer_norm, pool, rounded,
};

use super::{HeadParams, LinearParams, Matrix, MlpParams, NormParams, StoredRows, TableParams};
use crate::{Error, Result};
use attention::Buffers;
pub(super) use attention::{Attention, attention_block};

/// The instruction set, the number format and the threads that everything of one model runs on.
#[derive(Debug, Clone)]
pub(super) struct Cpu {
    pub(super) isa: Isa,
    pub(super) scheme: Scheme,
    /// How keys and values are kept, by a cache or for the time of a layer.
    pub(super) kv: KvFormat,
    pub(super) team: Team,
    /// What forwards of few rows worked in, for the next one.
    spare: Arc<Mutex<Vec<Memory>>>,
    /// Weights in the order that they are built in, which is that of a forward.
    order: Arc<ReadingOrder>,
}

/// Floating-point operations of a forward pass, some tens of microseconds' worth, from which waking threads pays.
const SHARED_WORK: usize = 1 << 22;

/// The same on AMX, which is done with few rows by the time that another thread is awake and has read what it needs from
/// this one: bytes of weights and operations of half a millisecond (measured: 16 tokens of the smallest model take a third
/// longer on two threads than on one, 128 tokens a little less).
const SHARED_ON_AMX: (usize, usize) = (12 << 20, 1 << 29);

/// Rows up to which memory is kept for the next forward: a step of decoding should not wait for the allocator, nor a
/// batch of the default size for fresh pages (which cost the smallest model a tenth of its time).
const KEPT_ROWS: usize = 1 << 14;

/// Inputs of a product in int8: what [`PackedMatrix::pack`] takes.
const MOST_INPUTS_OF_BYTES: usize = 1 << 16;

/// Memory that is kept, beside one for each thread; a forward and its heads take three at once.
const KEPT: usize = 8;

impl Cpu {
    pub(super) fn new(isa: Isa, scheme: Scheme, kv: KvFormat, team: Team) -> Self {
        Self { isa, scheme, kv, team, spare: Arc::default(), order: Arc::default() }
    }

    /// Whether a pass of `tokens` rows over so many weights is worth waking threads for.
    pub(super) fn shares(&self, tokens: usize, weights: usize) -> bool {
        let work = 2 * tokens * weights;
        let bytes = match self.scheme {
            Scheme::Bf16 => 2,
            Scheme::Bf16x3 => 4,
            Scheme::Bf16x6 => 6,
            Scheme::Int8 => 1,
            Scheme::F32 | Scheme::W8 | Scheme::W4 => return work >= SHARED_WORK,
        };
        match self.isa {
            Isa::Amx => bytes * weights >= SHARED_ON_AMX.0 || work >= SHARED_ON_AMX.1,
            _ => work >= SHARED_WORK,
        }
    }

    fn pack(&self, matrix: Matrix<'_>, scheme: Scheme, sharing: Sharing) -> Result<PackedMatrix> {
        let inputs = matrix.inputs();
        if scheme == Scheme::Int8 && inputs > MOST_INPUTS_OF_BYTES {
            return Err(Error::Unsupported(format!(
                "dtype int8 for a matrix of {inputs} inputs; its sums hold {MOST_INPUTS_OF_BYTES} products: use bf16 or w8"
            )));
        }
        let packed = matrix.pack(self.isa, scheme, &self.team)?;
        self.order.push(&packed, sharing);
        Ok(packed)
    }

    pub(super) fn with_scheme(&self, scheme: Scheme) -> Self {
        Self { scheme, ..self.clone() }
    }

    pub(super) fn with_kv(&self, kv: KvFormat) -> Self {
        Self { kv, ..self.clone() }
    }

    pub(super) fn with_team(&self, team: Team) -> Self {
        Self { team, ..self.clone() }
    }

    /// Memory with undefined contents.
    fn memory(&self) -> Memory {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep(&self, memory: Memory) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < KEPT + self.team.threads() {
            spare.push(memory);
        }
    }

    /// In which numbers attention multiplies.
    fn precision(&self) -> Precision {
        if self.scheme.rounds_activations() { Precision::Bf16 } else { Precision::F32 }
    }

    /// How token vectors and the output matrix are kept: rounding them to bytes with the activations would cost most
    /// and gain least.
    fn table_scheme(&self) -> Scheme {
        match self.scheme {
            Scheme::Int8 => Scheme::Bf16,
            scheme => scheme,
        }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    cpu: Arc<Cpu>,
    vectors: Vectors, // [vocabulary, hidden]
}

#[derive(Debug)]
enum Vectors {
    Packed(PackedMatrix),
    /// Rows in their file, and what is done to them to be what packing would have made of them.
    Stored(StoredRows, Option<Scheme>),
}

#[derive(Debug)]
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

#[derive(Debug)]
pub(super) struct Linear {
    weight: PackedMatrix, // [outputs, inputs]
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
pub(super) struct Mlp {
    norm: Norm,
    wi: Linear,
    wo: Linear,
    activation: Activation,
}

#[derive(Debug)]
pub(super) struct Head {
    dense: Linear,
    activation: Activation,
    norm: Norm,
}

impl Table {
    pub(super) fn new(table: TableParams<'_>, cpu: &Arc<Cpu>) -> Result<Self> {
        let scheme = cpu.table_scheme();
        let vectors = match table {
            TableParams::Matrix(matrix) => Vectors::Packed(cpu.pack(matrix, scheme, Sharing::Outputs)?),
            TableParams::Stored(rows) => {
                let rounding = rows.quantisation.is_none_or(|stored| stored.scheme() != scheme).then_some(scheme);
                Vectors::Stored(rows, rounding)
            }
        };
        Ok(Self { cpu: cpu.clone(), vectors })
    }

    /// Vocabulary and hidden size.
    fn shape(&self) -> (usize, usize) {
        match &self.vectors {
            Vectors::Packed(matrix) => (matrix.n(), matrix.k()),
            Vectors::Stored(rows, _) => (rows.outputs, rows.inputs),
        }
    }

    /// The vectors of some tokens of the vocabulary, `[ids, hidden]`.
    fn look_up(&self, ids: &[u32], out: &mut [f32]) {
        match &self.vectors {
            Vectors::Packed(matrix) => matrix.rows(ids, out),
            Vectors::Stored(rows, rounding) => {
                for (&id, out) in ids.iter().zip(out.chunks_exact_mut(rows.inputs)) {
                    (rows.fill)(id as usize, out);
                }
                if let Some(scheme) = *rounding {
                    rounded(self.cpu.isa, scheme, rows.inputs, out);
                }
            }
        }
    }

    /// The output matrix of a language model.
    fn matrix(&self) -> Result<&PackedMatrix> {
        match &self.vectors {
            Vectors::Packed(matrix) => Ok(matrix),
            Vectors::Stored(..) => {
                Err(Error::input("these parameters are not a language model's: they have no output matrix"))
            }
        }
    }
}

impl Norm {
    pub(super) fn new(params: NormParams) -> Result<Self> {
        Ok(Self {
            weight: params.weight.values()?,
            bias: params.bias.map(|bias| bias.values()).transpose()?,
            eps: params.eps,
        })
    }

    fn apply(&self, cpu: &Cpu, x: &[f32], out: &mut Aligned) {
        out.resize(x.len());
        layer_norm(cpu.isa, &cpu.team, x, self.kernel(), out);
    }

    fn kernel(&self) -> ettin_kernels::Norm<'_> {
        ettin_kernels::Norm { weight: &self.weight, bias: self.bias.as_deref(), eps: self.eps }
    }
}

impl Linear {
    /// A layer of its own: small ones that end a model are kept exact.
    pub(super) fn exact(params: LinearParams<'_>, cpu: &Cpu) -> Result<Self> {
        Self::of(params, Scheme::F32, Sharing::Outputs, cpu)
    }

    fn new(params: LinearParams<'_>, cpu: &Cpu) -> Result<Self> {
        Self::shared(params, Sharing::Outputs, cpu)
    }

    fn shared(params: LinearParams<'_>, sharing: Sharing, cpu: &Cpu) -> Result<Self> {
        Self::of(params, cpu.scheme, sharing, cpu)
    }

    fn of(params: LinearParams<'_>, scheme: Scheme, sharing: Sharing, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            weight: cpu.pack(params.weight, scheme, sharing)?,
            bias: params.bias.map(|bias| bias.values()).transpose()?,
        })
    }

    fn kernel(&self) -> block::Linear<'_> {
        block::Linear { weight: &self.weight, bias: self.bias.as_deref() }
    }
}

impl Mlp {
    pub(super) fn new(params: MlpParams<'_>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(params.norm)?,
            wi: Linear::shared(params.wi, Sharing::Gates, cpu)?,
            wo: Linear::new(params.wo, cpu)?,
            activation: params.activation,
        })
    }
}

impl Head {
    pub(super) fn new(params: HeadParams<'_>, cpu: &Cpu) -> Result<Self> {
        Ok(Self {
            dense: Linear::new(params.dense, cpu)?,
            activation: params.activation,
            norm: Norm::new(params.norm)?,
        })
    }
}

/// Rows of the residual stream with the buffers that the blocks reuse from layer to layer.
#[derive(Debug)]
pub(super) struct Rows {
    cpu: Arc<Cpu>,
    size: usize,
    memory: Memory,
}

/// The buffers of [`Rows`].
#[derive(Debug, Default)]
struct Memory {
    hidden: Aligned, // [rows, size]
    buffers: Buffers,
    workspace: Workspace,
    /// For products outside blocks.
    operand: Operand,
}

impl Drop for Rows {
    fn drop(&mut self) {
        if self.rows() <= KEPT_ROWS {
            self.cpu.keep(std::mem::take(&mut self.memory));
        }
    }
}

impl Rows {
    pub(super) fn new(cpu: &Arc<Cpu>, size: usize, hidden: &[f32]) -> Self {
        let mut rows = Self::empty(cpu, size);
        rows.memory.hidden.extend_from_slice(hidden);
        rows
    }

    /// Rows to be filled.
    fn empty(cpu: &Arc<Cpu>, size: usize) -> Self {
        let mut memory = cpu.memory();
        memory.hidden.resize(0);
        Self { cpu: cpu.clone(), size, memory }
    }

    pub(super) fn rows(&self) -> usize {
        self.memory.hidden.len() / self.size
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.memory.hidden
    }

    pub(super) fn pool(&self, runs: &[Pooled]) -> Vec<f32> {
        let mut out = vec![0.0; runs.len() * self.size];
        pool(self.cpu.isa, &self.cpu.team, self.values(), self.size, runs, &mut out);
        out
    }

    pub(super) fn select(&self, rows: &[usize]) -> Rows {
        let mut selected = Rows::empty(&self.cpu, self.size);
        for &row in rows {
            selected.memory.hidden.extend_from_slice(&self.values()[row * self.size..][..self.size]);
        }
        selected
    }
}

pub(super) fn embed(table: &Table, norm: &Norm, ids: &[u32]) -> Result<Rows> {
    let (vocabulary, size) = table.shape();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(Error::input(format!("token id {id} is outside the vocabulary of {vocabulary}")));
    }
    let mut rows = Rows::empty(&table.cpu, size);
    rows.memory.hidden.resize(ids.len() * size);
    let look_up = |ids: &[u32], out: &mut [f32]| table.look_up(ids, out);
    ettin_kernels::embed(table.cpu.isa, &table.cpu.team, ids, &look_up, norm.kernel(), &mut rows.memory.hidden);
    Ok(rows)
}

pub(super) fn mlp_block(rows: &mut Rows, block: &Mlp) -> Result<()> {
    let mlp = block::Mlp {
        norm: block.norm.kernel(),
        wi: block.wi.kernel(),
        activation: block.activation,
        wo: block.wo.kernel(),
    };
    block::mlp(&rows.cpu.team, &mut rows.memory.hidden, mlp, &mut rows.memory.workspace);
    Ok(())
}

pub(super) fn norm(rows: &Rows, norm: &Norm) -> Result<Rows> {
    let mut out = Rows::empty(&rows.cpu, rows.size);
    norm.apply(&rows.cpu, rows.values(), &mut out.memory.hidden);
    Ok(out)
}

pub(super) fn head(rows: &Rows, head: &Head) -> Result<Rows> {
    let cpu = &rows.cpu;
    let mut dense = linear(rows, &head.dense)?;
    activate(cpu.isa, &cpu.team, head.activation, &mut dense.memory.hidden);
    norm(&dense, &head.norm)
}

pub(super) fn linear(rows: &Rows, linear: &Linear) -> Result<Rows> {
    let mut out = Rows::empty(&rows.cpu, linear.weight.n());
    let Memory { hidden, operand, .. } = &mut out.memory;
    hidden.resize(rows.rows() * linear.weight.n());
    product(rows, &linear.weight, linear.bias.as_deref(), operand, hidden);
    Ok(out)
}

pub(super) fn logits(rows: &Rows, table: &Table, bias: Option<&[f32]>, out: &mut Vec<f32>) -> Result<()> {
    let matrix = table.matrix()?;
    let mut memory = rows.cpu.memory();
    out.resize(rows.rows() * matrix.n(), 0.0);
    product(rows, matrix, bias, &mut memory.operand, out);
    if rows.rows() <= KEPT_ROWS {
        rows.cpu.keep(memory);
    }
    Ok(())
}

fn product(rows: &Rows, weight: &PackedMatrix, bias: Option<&[f32]>, operand: &mut Operand, out: &mut [f32]) {
    let team = &rows.cpu.team;
    operand.encode(team, weight, rows.values());
    gemm(team, operand, weight, bias, Store::Write, out);
}
