//! How a kernel is started, whatever runs it.

use std::fmt;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

/// Threads of a block, for every kernel.
pub const THREADS: u32 = 128;

/// An argument after those that a kernel writes.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    /// A contiguous tensor that starts at its storage's beginning.
    Tensor(&'a Tensor),
    /// An unsigned number.
    U32(u32),
    /// A single-precision number.
    F32(f32),
}

/// A kernel with its grid and its arguments.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    name: String,
    grid: [u32; 3],
    args: Vec<Arg<'a>>,
}

impl<'a> Launch<'a> {
    /// The kernel `name` in the variant for elements of `dtype`.
    ///
    /// # Errors
    /// When there is no such variant, when the grid does not fit the device's limits, or when a tensor is not
    /// contiguous from the start of its storage.
    pub fn new(name: &str, dtype: DType, grid: [usize; 3], args: Vec<Arg<'a>>) -> Result<Self> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            other => bail!("the kernel {name} has no variant for {}", other.as_str()),
        };
        // Both systems take 2³¹ − 1 blocks in x and 65,535 in y and z.
        if grid[0] >= 1 << 31 || grid[1] >= 1 << 16 || grid[2] >= 1 << 16 {
            bail!("{name}: a grid of {grid:?} blocks is more than a device takes; use smaller batches");
        }
        for arg in &args {
            if let Arg::Tensor(tensor) = arg {
                whole(name, tensor)?;
            }
        }
        Ok(Self { name: format!("{name}_{suffix}"), grid: grid.map(|blocks| blocks as u32), args })
    }

    /// The kernel's name, its variant included.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Blocks in x, y and z.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Arguments after those that the kernel writes.
    pub fn args(&self) -> &[Arg<'a>] {
        &self.args
    }
}

/// Refuses a tensor that is not all of its storage, in order.
fn whole(name: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.is_contiguous() || tensor.layout().start_offset() != 0 {
        bail!("{name}: a tensor of shape {:?} is a view; kernels take whole tensors", tensor.shape());
    }
    Ok(())
}

/// Starts kernels on one device.
pub trait Launcher: fmt::Debug + Send + Sync {
    /// The device of all tensors.
    fn device(&self) -> &Device;

    /// Whether the kernels for tensor cores run here.
    fn tensor_cores(&self) -> bool;

    /// Runs a kernel whose first arguments are new tensors of the given shapes, which it fills completely.
    fn launch(&self, launch: &Launch<'_>, outputs: &[(Shape, DType)]) -> Result<Vec<Tensor>>;

    /// Runs a kernel whose first argument is `target`, of which it changes a part or all. The caller makes sure that
    /// nobody else holds the tensor, as every clone of it shares its storage.
    fn update(&self, launch: &Launch<'_>, target: &Tensor) -> Result<()>;
}
