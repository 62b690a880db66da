//! Kernels on Metal devices: compiled from source when a device is opened, encoded beside candle's own operations.

use std::{collections::HashMap, sync::Mutex};

use candle_core::{
    CpuStorage, DType, Device, Error, InplaceOp1, Layout, MetalDevice, MetalStorage, Result, Shape, Storage, Tensor,
    bail, op::BackpropOp,
};
use candle_metal_kernels::metal::{ComputePipeline, Library};
use objc2_metal::{MTLCompileOptions, MTLSize};

use crate::{
    launch::{Arg, Launch, Launcher, THREADS},
    sources,
};

pub(crate) struct Metal {
    device: Device,
    metal: MetalDevice,
    library: Library,
    pipelines: Mutex<HashMap<String, ComputePipeline>>,
}

impl std::fmt::Debug for Metal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metal").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Metal {
    pub(crate) fn new(metal: &MetalDevice) -> Result<Self> {
        let options = MTLCompileOptions::new();
        // Fast arithmetic may assume that nothing is infinite or NaN, and approximates functions.
        #[allow(deprecated, reason = "its successor is missing before macOS 15")]
        options.setFastMathEnabled(false);
        let library = metal.device().new_library_with_source(&sources::metal(), Some(&options)).map_err(Error::wrap)?;
        Ok(Self { device: Device::Metal(metal.clone()), metal: metal.clone(), library, pipelines: Mutex::default() })
    }

    fn pipeline(&self, name: &str) -> Result<ComputePipeline> {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(pipeline) = pipelines.get(name) {
            return Ok(pipeline.clone());
        }
        let function = self.library.get_function(name, None).map_err(Error::wrap)?;
        let pipeline = self.metal.device().new_compute_pipeline_state_with_function(&function).map_err(Error::wrap)?;
        if pipeline.max_total_threads_per_threadgroup() < THREADS as usize {
            bail!("{name}: this device has too few registers for blocks of {THREADS} threads");
        }
        pipelines.insert(name.to_owned(), pipeline.clone());
        Ok(pipeline)
    }

    /// Encodes `launch` with `targets` as its first arguments.
    fn start(&self, launch: &Launch<'_>, targets: &[&MetalStorage]) -> Result<()> {
        let pipeline = self.pipeline(launch.name())?;
        let commands = self.metal.command_encoder()?;
        let encoder = commands.as_ref();
        encoder.set_compute_pipeline_state(&pipeline);
        for (index, target) in targets.iter().enumerate() {
            encoder.set_output_buffer(index, Some(target.buffer()), 0);
        }
        for (index, arg) in launch.args().iter().enumerate() {
            let index = targets.len() + index;
            match arg {
                Arg::Tensor(tensor) => match &*tensor.storage_and_layout().0 {
                    Storage::Metal(storage) => encoder.set_input_buffer(index, Some(storage.buffer()), 0),
                    _ => bail!("{}: a tensor is not on the Metal device", launch.name()),
                },
                Arg::U32(value) => encoder.set_bytes(index, value),
                Arg::F32(value) => encoder.set_bytes(index, value),
            }
        }
        let [x, y, z] = launch.grid().map(|blocks| blocks as usize);
        let grid = MTLSize { width: x, height: y, depth: z };
        encoder.dispatch_thread_groups(grid, MTLSize { width: THREADS as usize, height: 1, depth: 1 });
        Ok(())
    }
}

impl Launcher for Metal {
    fn device(&self) -> &Device {
        &self.device
    }

    fn tensor_cores(&self) -> bool {
        false
    }

    fn launch(&self, launch: &Launch<'_>, outputs: &[(Shape, DType)]) -> Result<Vec<Tensor>> {
        let allocated = outputs.iter().map(|(shape, dtype)| {
            let count = shape.elem_count();
            let buffer = self.metal.new_buffer(count, *dtype, "ettin")?;
            Ok(MetalStorage::new(buffer, self.metal.clone(), count, *dtype))
        });
        let storages = allocated.collect::<Result<Vec<_>>>()?;
        self.start(launch, &storages.iter().collect::<Vec<_>>())?;
        let tensors = storages.into_iter().zip(outputs).map(|(storage, (shape, _))| {
            Tensor::from_storage(Storage::Metal(storage), shape.clone(), BackpropOp::none(), false)
        });
        Ok(tensors.collect())
    }

    fn update(&self, launch: &Launch<'_>, target: &Tensor) -> Result<()> {
        target.inplace_op1(&MetalUpdate { metal: self, launch })
    }
}

struct MetalUpdate<'a> {
    metal: &'a Metal,
    launch: &'a Launch<'a>,
}

impl InplaceOp1 for MetalUpdate<'_> {
    fn name(&self) -> &'static str {
        "Metal kernel"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("{}: the tensor is on the CPU", self.launch.name())
    }

    fn metal_fwd(&self, storage: &mut MetalStorage, _: &Layout) -> Result<()> {
        self.metal.start(self.launch, &[storage])
    }
}
