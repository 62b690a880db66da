//! Kernels on CUDA devices: compiled by NVRTC when a device is opened, started through cudarc.
//!
//! The target is `compute_80`, whose PTX the driver translates for any later device, or `compute_75` without tensor
//! cores for older ones: what is tested to compile is what is compiled.

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage, Tensor,
    backend::BackendDevice,
    bail,
    cuda::{
        CudaStorageSlice,
        cudarc::{
            driver::{LaunchArgs, LaunchConfig, PushKernelArg, result, sys},
            nvrtc::{CompileOptions, compile_ptx_with_opts},
        },
    },
    op::BackpropOp,
};

use crate::{
    launch::{Arg, Launch, Launcher, THREADS},
    sources,
};

/// Under which a device keeps the loaded kernels.
const MODULE: &str = "ettin";

/// Opens a device that has one stream for all threads of the host. On candle's own, every thread has its stream, and
/// nothing makes one wait for what another has written: a model is loaded by one thread and used by others.
pub(crate) fn open(number: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(number)?;
    // SAFETY: events order the work of several streams, and there is one.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}

/// Makes the driver keep what is freed for what is allocated next; by default it goes back to the system whenever the
/// host waits for the device, which is after every token.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let pools = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    if context.attribute(pools).map_err(Error::wrap)? == 0 {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is that of a context, the pool is the device's, and this attribute is a u64.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device()).map_err(Error::wrap)?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).map_err(Error::wrap)
    }
}

#[derive(Debug)]
pub(crate) struct Cuda {
    device: Device,
    cuda: CudaDevice,
    tensor_cores: bool,
    ptx: String,
}

impl Cuda {
    pub(crate) fn new(cuda: &CudaDevice) -> Result<Self> {
        let capability = cuda.cuda_stream().context().compute_capability().map_err(Error::wrap)?;
        let tensor_cores = capability >= (8, 0);
        let (source, arch) = match capability {
            (8.., _) => (sources::cuda_with_tensor_cores(), "compute_80"),
            (7, 5..) => (sources::cuda(), "compute_75"),
            (major, minor) => bail!(
                "this device has compute capability {major}.{minor} and the kernels need 7.5; \
                 ETTIN_REFERENCE=1 computes without them"
            ),
        };
        let options = CompileOptions { arch: Some(arch), name: Some("ettin.cu".to_owned()), ..Default::default() };
        let ptx = compile_ptx_with_opts(source, options).map_err(Error::wrap)?.to_src();
        Ok(Self { device: Device::Cuda(cuda.clone()), cuda: cuda.clone(), tensor_cores, ptx })
    }

    /// Starts `launch` with `targets` as its first arguments.
    fn start(&self, launch: &Launch<'_>, targets: &mut [&mut CudaStorage]) -> Result<()> {
        let function = self.cuda.get_or_load_custom_func(launch.name(), MODULE, &self.ptx)?;
        let inputs: Vec<_> = launch
            .args()
            .iter()
            .filter_map(|arg| match arg {
                Arg::Tensor(tensor) => Some(tensor.storage_and_layout().0),
                _ => None,
            })
            .collect();
        let mut inputs = inputs.iter();
        let mut builder = function.builder();
        for target in targets {
            push_target(&mut builder, target)?;
        }
        for arg in launch.args() {
            match arg {
                Arg::Tensor(_) => match inputs.next().map(|storage| &**storage) {
                    Some(Storage::Cuda(storage)) => push_input(&mut builder, storage)?,
                    _ => bail!("{}: a tensor is not on the CUDA device", launch.name()),
                },
                Arg::U32(value) => {
                    builder.arg(value);
                }
                Arg::F32(value) => {
                    builder.arg(value);
                }
            }
        }
        let [x, y, z] = launch.grid();
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: `Kernels` gives every kernel the arguments of its signature, in order and of the right element types
        // (the emulator's tests compare both), and a grid within the shapes that it has checked, so no kernel reads or
        // writes outside its buffers. Buffers and numbers outlive the call, and the stream orders their later uses.
        unsafe { builder.launch(config) }.map_err(Error::wrap)?;
        Ok(())
    }
}

fn push_input<'a>(builder: &mut LaunchArgs<'a>, storage: &'a CudaStorage) -> Result<()> {
    match &storage.slice {
        CudaStorageSlice::F32(slice) => builder.arg(slice),
        CudaStorageSlice::F16(slice) => builder.arg(slice),
        CudaStorageSlice::BF16(slice) => builder.arg(slice),
        CudaStorageSlice::U32(slice) => builder.arg(slice),
        _ => bail!("kernels read f32, f16, bf16 and u32 only"),
    };
    Ok(())
}

fn push_target<'a>(builder: &mut LaunchArgs<'a>, storage: &'a mut CudaStorage) -> Result<()> {
    match &mut storage.slice {
        CudaStorageSlice::F32(slice) => builder.arg(slice),
        CudaStorageSlice::F16(slice) => builder.arg(slice),
        CudaStorageSlice::BF16(slice) => builder.arg(slice),
        _ => bail!("kernels write f32, f16 and bf16 only"),
    };
    Ok(())
}

impl Launcher for Cuda {
    fn device(&self) -> &Device {
        &self.device
    }

    fn tensor_cores(&self) -> bool {
        self.tensor_cores
    }

    fn launch(&self, launch: &Launch<'_>, outputs: &[(Shape, DType)]) -> Result<Vec<Tensor>> {
        // SAFETY: a launch fills its outputs before anything else on the stream can read them.
        let allocated = outputs.iter().map(|(shape, dtype)| unsafe { self.cuda.alloc_uninit(shape, *dtype) });
        let mut storages = allocated.collect::<Result<Vec<_>>>()?;
        self.start(launch, &mut storages.iter_mut().collect::<Vec<_>>())?;
        let tensors = storages.into_iter().zip(outputs).map(|(storage, (shape, _))| {
            Tensor::from_storage(Storage::Cuda(storage), shape.clone(), BackpropOp::none(), false)
        });
        Ok(tensors.collect())
    }

    fn update(&self, launch: &Launch<'_>, target: &Tensor) -> Result<()> {
        target.inplace_op1(&CudaUpdate { cuda: self, launch })
    }
}

struct CudaUpdate<'a> {
    cuda: &'a Cuda,
    launch: &'a Launch<'a>,
}

impl InplaceOp1 for CudaUpdate<'_> {
    fn name(&self) -> &'static str {
        "CUDA kernel"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("{}: the tensor is on the CPU", self.launch.name())
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> Result<()> {
        self.cuda.start(self.launch, &mut [storage])
    }
}
