//! The steps of a layer, on tensors.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Shape, Tensor, bail};
use ettin_kernels::{Activation, Pooled, Reduce, Span};

use crate::{
    launch::{Arg, Launch, Launcher, THREADS},
    sources::MMA_NAME,
};

/// Widest head that the kernels take.
const MAX_HEAD_DIM: usize = 128;
/// Width of the heads that tensor cores work on.
const MMA_HEAD: usize = 64;
/// Columns of a row that a block of `geglu` computes.
const GEGLU_COLUMNS: usize = 4 * THREADS as usize;
/// Columns of a run that a block of `pool` brings together.
const POOL_COLUMNS: usize = 32;
/// Keys of a split of the attention over a cache.
const SPLIT: usize = 256;
/// Most new rows for which splitting the keys among blocks beats a tile of queries.
const SPLIT_ROWS: usize = 8;
/// An end of a span without bound, to the kernels.
const UNBOUNDED: u32 = u32::MAX;

/// The kernels of one device.
#[derive(Debug, Clone)]
pub struct Kernels {
    launcher: Arc<dyn Launcher>,
}

/// The parameters of a layer norm: `weight` and `bias` `[size]` in f32.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Multiplied at the end.
    pub weight: &'a Tensor,
    /// Added at the end.
    pub bias: Option<&'a Tensor>,
    /// Added to the variance.
    pub eps: f32,
}

/// Heads and what they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Attention heads.
    pub heads: usize,
    /// Width of one.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub span: Span,
}

/// Consecutive queries of one sequence, and where its keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Row of the first query.
    pub row: usize,
    /// Number of queries.
    pub rows: usize,
    /// Position of the first query in its sequence.
    pub start: usize,
    /// Row, among the keys, of the sequence's position 0.
    pub base: usize,
}

/// Queries cut into tiles, on the device: made once for a batch, used by every layer.
#[derive(Debug, Clone)]
pub struct Tiles {
    table: Tensor, // [tiles, 5]
    count: usize,
    #[cfg(feature = "flash-attn")]
    lengths: crate::flash::Lengths,
}

/// Keys and values of one sequence: position p in row p, or in row p mod capacity of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    /// `[capacity, k | v]`, each `heads · head_dim` wide.
    pub kv: &'a Tensor,
    /// Whether it is a ring.
    pub ring: bool,
}

impl Cache<'_> {
    /// What the kernels take for the ring: its capacity, or 0.
    fn modulus(self) -> Result<usize> {
        Ok(if self.ring { self.kv.dim(0)? } else { 0 })
    }
}

impl Kernels {
    /// The kernels for a device, or `None` if this build has none for it: the CPU, or a feature that is off.
    ///
    /// # Errors
    /// When the device's compiler refuses them.
    pub fn open(device: &Device) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Ok(Some(Self::new(Arc::new(crate::cuda::Cuda::new(cuda)?)))),
            #[cfg(feature = "metal")]
            Device::Metal(metal) => Ok(Some(Self::new(Arc::new(crate::metal::Metal::new(metal)?)))),
            _ => Ok(None),
        }
    }

    /// Kernels that a given launcher runs.
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self { launcher }
    }

    /// The device that tensors must be on.
    pub fn device(&self) -> &Device {
        self.launcher.device()
    }

    /// Whether heads of this width can be computed.
    pub fn supports_head(head_dim: usize) -> bool {
        head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(2)
    }

    /// One line on what attention runs on, for people.
    pub fn describe(&self, dtype: DType) -> &'static str {
        if self.on_tensor_cores(dtype, MMA_HEAD) { "own kernels on tensor cores" } else { "own kernels" }
    }

    fn on_tensor_cores(&self, dtype: DType, head_dim: usize) -> bool {
        dtype != DType::F32 && head_dim == MMA_HEAD && self.launcher.tensor_cores()
    }

    /// Layer norm of every row of `x` `[rows, size]` (f32), as `dtype`.
    pub fn norm(&self, x: &Tensor, norm: Norm<'_>, dtype: DType) -> Result<Tensor> {
        let size = self.check_norm("norm", x, norm)?;
        let rows = x.elem_count() / size;
        let mut args = vec![Arg::Tensor(x)];
        args.extend(norm_args(norm, size));
        let launch = Launch::new("norm", dtype, [rows, 1, 1], args)?;
        one(self.launcher.launch(&launch, &[(x.shape().clone(), dtype)])?)
    }

    /// `x + delta` (f32) and its layer norm in the dtype of `delta`; both `[rows, size]`.
    pub fn add_norm(&self, x: &Tensor, delta: &Tensor, norm: Norm<'_>) -> Result<(Tensor, Tensor)> {
        let size = self.check_norm("add_norm", x, norm)?;
        if delta.shape() != x.shape() {
            bail!("add_norm: {:?} is added to {:?}", delta.shape(), x.shape());
        }
        let mut args = vec![Arg::Tensor(x), Arg::Tensor(delta)];
        args.extend(norm_args(norm, size));
        let launch = Launch::new("add_norm", delta.dtype(), [x.elem_count() / size, 1, 1], args)?;
        let outputs = [(x.shape().clone(), DType::F32), (x.shape().clone(), delta.dtype())];
        let mut outputs = self.launcher.launch(&launch, &outputs)?.into_iter();
        match (outputs.next(), outputs.next()) {
            (Some(sum), Some(normed)) => Ok((sum, normed)),
            _ => bail!("add_norm: the launcher gave too few tensors"),
        }
    }

    fn check_norm(&self, name: &str, x: &Tensor, norm: Norm<'_>) -> Result<usize> {
        let size = x.dim(D::Minus1)?;
        let vectors = std::iter::once(norm.weight).chain(norm.bias);
        for (what, tensor) in std::iter::once(("input", x)).chain(vectors.map(|vector| ("parameter", vector))) {
            if tensor.dtype() != DType::F32 || tensor.dim(D::Minus1)? != size {
                bail!("{name}: {what} of {:?} in {:?} for rows of {size}", tensor.shape(), tensor.dtype());
            }
        }
        Ok(size)
    }

    /// Row i of the result is what becomes of the rows of `x` `[rows, size]` (f32) that `runs[i]` names, as `dtype`.
    pub fn pool(&self, x: &Tensor, runs: &[Pooled], dtype: DType) -> Result<Tensor> {
        let (rows, size) = x.dims2()?;
        check_types("pool", &[(x, DType::F32)])?;
        let mut table: Vec<u32> = Vec::with_capacity(5 * runs.len());
        for run in runs {
            if run.rows.is_empty() || run.rows.end > rows {
                bail!("pool: rows {:?} of {rows}", run.rows);
            }
            let (kind, first) = match run.reduce {
                Reduce::Sum => (0, 0),
                Reduce::Ramp { first } => (1, first),
                Reduce::Max => (2, 0),
            };
            table.extend([
                narrow(run.rows.start)?,
                narrow(run.rows.len())?,
                kind,
                narrow(first)?,
                run.divisor.to_bits(),
            ]);
        }
        let table = Tensor::from_vec(table, (runs.len(), 5), self.device())?;
        let args = vec![Arg::Tensor(x), Arg::Tensor(&table), number(size)?];
        let launch = Launch::new("pool", dtype, [runs.len(), size.div_ceil(POOL_COLUMNS), 1], args)?;
        one(self.launcher.launch(&launch, &[(Shape::from((runs.len(), size)), dtype)])?)
    }

    /// Turns q and k of `qkv` `[rows, 3 · heads · head_dim]` to `positions` `[rows]` (u32), in place; `cos` and `sin`
    /// are `[positions, head_dim / 2]` in f32.
    ///
    /// `qkv` must be the only tensor of its storage.
    pub fn rope(&self, qkv: &Tensor, positions: &Tensor, cos: &Tensor, sin: &Tensor, heads: usize) -> Result<()> {
        let ((rows, stride), (_, half)) = (qkv.dims2()?, cos.dims2()?);
        if stride != 6 * heads * half || positions.dims1()? != rows || sin.shape() != cos.shape() {
            bail!("rope: {:?} of {heads} heads at {:?} by {:?}", qkv.shape(), positions.shape(), cos.shape());
        }
        check_types("rope", &[(positions, DType::U32), (cos, DType::F32), (sin, DType::F32)])?;
        let args = vec![
            Arg::Tensor(positions),
            Arg::Tensor(cos),
            Arg::Tensor(sin),
            number(stride)?,
            number(2 * heads)?,
            number(half)?,
        ];
        self.launcher.update(&Launch::new("rope", qkv.dtype(), [rows, 1, 1], args)?, qkv)
    }

    /// `activation(a) ⊙ b` of rows `[a | b]`: `[rows, 2 · size]` to `[rows, size]`.
    pub fn geglu(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let size = width / 2;
        let kind = match activation {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::Silu => 2,
            Activation::Relu => 3,
        };
        let args = vec![Arg::Tensor(x), number(size)?, Arg::U32(kind)];
        let launch = Launch::new("geglu", x.dtype(), [rows, size.div_ceil(GEGLU_COLUMNS), 1], args)?;
        one(self.launcher.launch(&launch, &[(Shape::from((rows, size)), x.dtype())])?)
    }

    /// Cuts the queries of `segments` into the tiles that attention in `dtype` over heads of `head_dim` wants.
    pub fn tiles(&self, dtype: DType, head_dim: usize, segments: &[Segment]) -> Result<Tiles> {
        let size = match head_dim {
            _ if self.on_tensor_cores(dtype, head_dim) => 64,
            0..=64 => 32,
            _ => 16,
        };
        let mut table: Vec<u32> = Vec::new();
        for segment in segments {
            let end = segment.start + segment.rows;
            for first in (0..segment.rows).step_by(size) {
                let count = size.min(segment.rows - first);
                for value in [segment.row + first, count, segment.start + first, segment.base, end] {
                    table.push(narrow(value)?);
                }
            }
        }
        let count = table.len() / 5;
        Ok(Tiles {
            table: Tensor::from_vec(table, (count, 5), self.device())?,
            count,
            #[cfg(feature = "flash-attn")]
            lengths: crate::flash::Lengths::new(segments, self.device())?,
        })
    }

    /// Attention of every query of `tiles` over a packed batch, `[rows, q | k | v]` to `[rows, heads · head_dim]`.
    pub fn attention(&self, qkv: &Tensor, tiles: &Tiles, shape: AttentionShape) -> Result<Tensor> {
        #[cfg(feature = "flash-attn")]
        if crate::flash::takes(qkv, shape.head_dim) {
            return crate::flash::attention(qkv, &tiles.lengths, shape);
        }
        let launch = self.attention_launch(qkv, tiles, None, shape)?;
        let size = shape.heads * shape.head_dim;
        one(self.launcher.launch(&launch, &[(Shape::from((qkv.dim(0)?, size)), qkv.dtype())])?)
    }

    /// Whether attention of so few new rows over a cache splits the keys among blocks and needs no tiles.
    pub fn splits_keys(rows: usize) -> bool {
        rows <= SPLIT_ROWS
    }

    /// Causal attention of the queries of one segment over a cache that holds their own keys already; writes their rows
    /// of `out` `[rows, heads · head_dim]`, in place. `tiles` are those of this segment alone, with `base` 0; without
    /// them the keys are split.
    pub fn attention_over_cache(
        &self,
        out: &Tensor,
        qkv: &Tensor,
        segment: Segment,
        tiles: Option<&Tiles>,
        cache: Cache<'_>,
        shape: AttentionShape,
    ) -> Result<()> {
        match tiles {
            Some(tiles) => self.launcher.update(&self.attention_launch(qkv, tiles, Some(cache), shape)?, out),
            None => self.attention_in_splits(out, qkv, segment, cache, shape),
        }
    }

    fn attention_launch<'a>(
        &self,
        qkv: &'a Tensor,
        tiles: &'a Tiles,
        cache: Option<Cache<'a>>,
        shape: AttentionShape,
    ) -> Result<Launch<'a>> {
        let size = self.check_heads(qkv, shape)?;
        let (kv, stride, k_offset, ring) = match cache {
            None => (qkv, 3 * size, size, 0),
            Some(cache) => {
                check_cache("attention", cache.kv, qkv, size)?;
                (cache.kv, 2 * size, 0, cache.modulus()?)
            }
        };
        let name = match shape.head_dim {
            head_dim if self.on_tensor_cores(qkv.dtype(), head_dim) => MMA_NAME,
            0..=64 => "attention_64",
            _ => "attention_128",
        };
        let args = vec![
            Arg::Tensor(qkv),
            Arg::Tensor(kv),
            Arg::Tensor(&tiles.table),
            number(shape.heads)?,
            number(shape.head_dim)?,
            number(3 * size)?,
            number(stride)?,
            number(k_offset)?,
            number(k_offset + size)?,
            number(ring)?,
            end(shape.span.left)?,
            end(shape.span.right)?,
            Arg::F32(scale(shape.head_dim)),
        ];
        Launch::new(name, qkv.dtype(), [tiles.count, shape.heads, 1], args)
    }

    fn attention_in_splits(
        &self,
        out: &Tensor,
        qkv: &Tensor,
        segment: Segment,
        cache: Cache<'_>,
        shape: AttentionShape,
    ) -> Result<()> {
        let size = self.check_heads(qkv, shape)?;
        check_cache("attend_split", cache.kv, qkv, size)?;
        let AttentionShape { heads, head_dim, span } = shape;
        if span.right != Some(0) {
            bail!("attend_split: attention over a cache is causal, not {span:?}");
        }
        let low = span.left.map_or(0, |left| segment.start.saturating_sub(left));
        let first = low / SPLIT;
        let splits = (segment.start + segment.rows).div_ceil(SPLIT) - first;
        let args = vec![
            Arg::Tensor(qkv),
            Arg::Tensor(cache.kv),
            number(heads)?,
            number(head_dim)?,
            number(3 * size)?,
            number(segment.row)?,
            number(segment.start)?,
            number(first)?,
            number(splits)?,
            number(cache.modulus()?)?,
            end(span.left)?,
            Arg::F32(scale(head_dim)),
        ];
        let launch = Launch::new("attend_split", qkv.dtype(), [splits, heads, segment.rows], args)?;
        let partial = Shape::from((segment.rows, heads, splits, 2 + head_dim));
        let partial = one(self.launcher.launch(&launch, &[(partial, DType::F32)])?)?;
        let args =
            vec![Arg::Tensor(&partial), number(heads)?, number(head_dim)?, number(segment.row)?, number(splits)?];
        let launch = Launch::new("merge_splits", qkv.dtype(), [heads, segment.rows, 1], args)?;
        self.launcher.update(&launch, out)
    }

    /// Writes the keys and values of one segment's rows of `qkv` into a cache, at their positions.
    ///
    /// `cache.kv` must be the only tensor of its storage.
    pub fn append(&self, cache: Cache<'_>, qkv: &Tensor, segment: Segment) -> Result<()> {
        let Cache { kv, ring } = cache;
        let ((capacity, width), (rows, stride)) = (kv.dims2()?, qkv.dims2()?);
        check_cache("append", kv, qkv, width / 2)?;
        let fits = if ring { segment.rows } else { segment.start + segment.rows } <= capacity;
        if stride != 3 * (width / 2) || segment.row + segment.rows > rows || !fits {
            bail!("append: {segment:?} of {:?} into a cache of {:?}", qkv.shape(), kv.shape());
        }
        let args = vec![
            Arg::Tensor(qkv),
            number(width / 2)?,
            number(segment.row)?,
            number(segment.start)?,
            number(cache.modulus()?)?,
        ];
        self.launcher.update(&Launch::new("append", kv.dtype(), [segment.rows, 1, 1], args)?, kv)
    }

    fn check_heads(&self, qkv: &Tensor, shape: AttentionShape) -> Result<usize> {
        let size = shape.heads * shape.head_dim;
        if qkv.dims2()?.1 != 3 * size || !Self::supports_head(shape.head_dim) {
            bail!("attention: {} heads of {} on {:?}", shape.heads, shape.head_dim, qkv.shape());
        }
        Ok(size)
    }
}

fn check_types(name: &str, tensors: &[(&Tensor, DType)]) -> Result<()> {
    for (tensor, dtype) in tensors {
        if tensor.dtype() != *dtype {
            bail!("{name}: {:?} where {:?} is expected", tensor.dtype(), dtype);
        }
    }
    Ok(())
}

/// A cache must hold rows `[k | v]` of the queries' type.
fn check_cache(name: &str, kv: &Tensor, qkv: &Tensor, size: usize) -> Result<()> {
    check_types(name, &[(kv, qkv.dtype())])?;
    if kv.dims2()?.1 != 2 * size {
        bail!("{name}: a cache of {:?} for keys of {size}", kv.shape());
    }
    Ok(())
}

/// What the norm kernels take after their tensors; without a bias, the weight stands in its place and is not read.
fn norm_args(norm: Norm<'_>, size: usize) -> [Arg<'_>; 5] {
    [
        Arg::Tensor(norm.weight),
        Arg::Tensor(norm.bias.unwrap_or(norm.weight)),
        Arg::U32(size as u32),
        Arg::F32(norm.eps),
        Arg::U32(norm.bias.is_some().into()),
    ]
}

pub(crate) fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

fn narrow(value: usize) -> Result<u32> {
    match u32::try_from(value) {
        Ok(value) if value != UNBOUNDED => Ok(value),
        _ => bail!("{value} is more than the kernels can count"),
    }
}

fn number<'a>(value: usize) -> Result<Arg<'a>> {
    Ok(Arg::U32(narrow(value)?))
}

/// One end of a span.
fn end<'a>(bound: Option<usize>) -> Result<Arg<'a>> {
    Ok(Arg::U32(bound.map_or(Ok(UNBOUNDED), narrow)?))
}

fn one(tensors: Vec<Tensor>) -> Result<Tensor> {
    match tensors.into_iter().next() {
        Some(tensor) => Ok(tensor),
        None => bail!("the launcher gave no tensor"),
    }
}
