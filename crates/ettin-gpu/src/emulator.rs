//! The kernels' sources compiled as C++ and run on the CPU: for tests, where there is no device.
//!
//! Every launch is run twice, with the threads of a block in opposite orders, and must give the same bits: otherwise a
//! barrier is missing. Inputs lie between NaNs and outputs between marks, so that reads beyond an end spoil the result
//! and writes beyond one are found.

use std::{
    env,
    ffi::{CString, c_char, c_int, c_uint, c_void},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
};

use candle_core::{
    CpuStorage, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail, op::BackpropOp,
};
use half::{bf16, f16};

use crate::{
    Kernels,
    launch::{Arg, Launch, Launcher, THREADS},
    sources,
};

/// Whose words the sources are compiled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// As on a CUDA device with tensor cores.
    Cuda,
    /// As on a CUDA device without.
    CudaWithoutTensorCores,
    /// As on a Metal device.
    Metal,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 3] = [Dialect::Cuda, Dialect::CudaWithoutTensorCores, Dialect::Metal];

    fn source(self) -> String {
        match self {
            Dialect::Cuda => sources::cuda_with_tensor_cores(),
            Dialect::CudaWithoutTensorCores => sources::cuda(),
            Dialect::Metal => sources::metal(),
        }
    }

    fn header(self) -> &'static str {
        if self == Dialect::Metal { "emulator.h" } else { "cuda.h" }
    }

    fn kernels(self) -> impl Iterator<Item = String> {
        let formats = |name: &str| if name == sources::MMA_NAME { 1..3 } else { 0..3 };
        sources::NAMES
            .into_iter()
            .filter(move |name| self == Dialect::Cuda || *name != sources::MMA_NAME)
            .flat_map(move |name| formats(name).map(move |format| format!("{name}_{}", ["f32", "f16", "bf16"][format])))
    }
}

/// The kernels on the CPU. `None` where there is no C++ compiler (`$CXX`, `c++`), or no Linux: say so and skip.
///
/// `edit` may change the source first: a test that is to fail when the kernels are wrong must be seen to.
///
/// # Errors
/// When the sources do not compile.
pub fn kernels(dialect: Dialect, edit: impl Fn(String) -> String) -> Result<Option<Kernels>> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if !cfg!(target_os = "linux") || Command::new(&compiler).arg("--version").output().is_err() {
        return Ok(None);
    }
    let library = compile(&compiler, dialect, &edit(dialect.source()))?;
    Ok(Some(Kernels::new(Arc::new(Emulator { dialect, run: load(&library)? }))))
}

/// Compiles the sources to a library in the target folder, named by their content: once for all tests.
fn compile(compiler: &str, dialect: Dialect, source: &str) -> Result<PathBuf> {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator");
    let entries: String = dialect.kernels().map(|name| format!(" ENTRY({name})")).collect();
    let unit =
        format!("#include \"{}\"\n{source}\n#define KERNELS{entries}\n#include \"launch.h\"\n", dialect.header());

    let mut hasher = DefaultHasher::new();
    (&unit, compiler).hash(&mut hasher);
    for header in ["emulator.h", "cuda.h", "metal/metal_stdlib", "launch.h"] {
        fs::read(headers.join(header))?.hash(&mut hasher);
    }
    let folder = env::temp_dir().join("ettin-emulator");
    fs::create_dir_all(&folder)?;
    let library = folder.join(format!("{:016x}.so", hasher.finish()));
    if library.exists() {
        return Ok(library);
    }
    // Other tests may be at the same: each compiles under its own name, and the last renames over the others' result.
    let stem = format!("{}-{}", process::id(), TRIES.fetch_add(1, Ordering::Relaxed));
    let (unit_file, made) = (folder.join(format!("{stem}.cpp")), folder.join(format!("{stem}.so")));
    fs::write(&unit_file, unit)?;
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-Wall", "-Wextra"])
        .args(["-Wno-attributes", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter"])
        .args([Path::new("-I"), &headers, Path::new("-I"), &headers.join("metal"), Path::new("-o"), &made, &unit_file])
        .output()?;
    if !output.status.success() {
        bail!("{compiler} refuses {}:\n{}", unit_file.display(), String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_file(&unit_file)?;
    fs::rename(&made, &library)?;
    Ok(library)
}

type Run = unsafe extern "C" fn(
    name: *const c_char,
    kinds: *const c_char,
    arguments: *const *const c_void,
    grid: *const c_uint,
    threads: c_uint,
    reverse: c_int,
) -> c_int;

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

fn load(library: &Path) -> Result<Run> {
    const NOW: c_int = 2;
    let name = CString::new(library.to_string_lossy().as_bytes()).map_err(Error::wrap)?;
    // SAFETY: both take strings that end in 0; the library has no code that runs when it is loaded.
    let symbol = unsafe {
        let library = dlopen(name.as_ptr(), NOW);
        if library.is_null() { library } else { dlsym(library, c"ettin_emulate".as_ptr()) }
    };
    if symbol.is_null() {
        bail!("{} cannot be loaded", library.display());
    }
    // SAFETY: launch.h defines the function with this signature, and the library is never unloaded.
    Ok(unsafe { std::mem::transmute::<*mut c_void, Run>(symbol) })
}

#[derive(Debug)]
struct Emulator {
    dialect: Dialect,
    run: Run,
}

/// Bytes before and after a tensor's own.
const GUARD: usize = 1024;

/// A tensor's bytes between guards of 0xff, which is NaN in every format; aligned to 16.
struct Guarded {
    words: Vec<u128>,
    len: usize,
}

impl Guarded {
    fn unset(len: usize) -> Self {
        Self { words: vec![u128::MAX; (len + 2 * GUARD).div_ceil(16)], len }
    }

    fn new(bytes: &[u8]) -> Self {
        let mut guarded = Self::unset(bytes.len());
        for (index, &byte) in bytes.iter().enumerate() {
            let (word, shift) = ((GUARD + index) / 16, (GUARD + index) % 16 * 8);
            guarded.words[word] &= !(0xff << shift);
            guarded.words[word] |= u128::from(byte) << shift;
        }
        guarded
    }

    fn all(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let all = self.all();
        let (before, after) = (&all[..GUARD], &all[GUARD + self.len..]);
        if before.iter().chain(after).any(|&byte| byte != 0xff) {
            bail!("{name} wrote beyond an end of its output");
        }
        Ok(all[GUARD..GUARD + self.len].to_vec())
    }

    fn pointer(&mut self) -> *mut c_void {
        self.words.as_mut_ptr().wrapping_byte_add(GUARD).cast()
    }
}

impl Emulator {
    /// Runs a kernel in both orders over `targets`, given as they are before; gives them as they are after.
    fn both(&self, launch: &Launch<'_>, targets: &[(Vec<u8>, DType)]) -> Result<Vec<Vec<u8>>> {
        let forward = self.once(launch, targets, false)?;
        if forward != self.once(launch, targets, true)? {
            bail!("{}: the result depends on the order of threads; a barrier is missing", launch.name());
        }
        Ok(forward)
    }

    fn once(&self, launch: &Launch<'_>, targets: &[(Vec<u8>, DType)], reverse: bool) -> Result<Vec<Vec<u8>>> {
        let mut kinds: Vec<u8> = targets.iter().map(|(_, dtype)| kind(*dtype)).collect();
        let mut buffers: Vec<Guarded> = targets.iter().map(|(bytes, _)| Guarded::new(bytes)).collect();
        for arg in launch.args() {
            match arg {
                Arg::Tensor(tensor) => {
                    let (storage, _) = tensor.storage_and_layout();
                    let Storage::Cpu(storage) = &*storage else { bail!("the emulator takes tensors of the CPU") };
                    buffers.push(Guarded::new(&bytes_of(storage)?));
                    kinds.push(kind(tensor.dtype()));
                }
                Arg::U32(_) => kinds.push(b'u'),
                Arg::F32(_) => kinds.push(b'f'),
            }
        }
        let pointers: Vec<*mut c_void> = buffers.iter_mut().map(Guarded::pointer).collect();
        let mut next = pointers.iter();
        let mut arguments: Vec<*const c_void> = Vec::new();
        let address =
            |pointer: Option<&*mut c_void>| pointer.map_or(std::ptr::null(), |p| std::ptr::from_ref(p).cast());
        arguments.extend(targets.iter().map(|_| address(next.next())));
        for arg in launch.args() {
            arguments.push(match arg {
                Arg::Tensor(_) => address(next.next()),
                Arg::U32(value) => std::ptr::from_ref(value).cast(),
                Arg::F32(value) => std::ptr::from_ref(value).cast(),
            });
        }
        let name = CString::new(launch.name()).map_err(Error::wrap)?;
        let kinds = CString::new(kinds).map_err(Error::wrap)?;
        // SAFETY: name and kinds end in 0; there are as many arguments as kinds, which the library compares with the
        // kernel's parameters before it reads them; every pointer leads to a buffer or a number that outlives the call.
        // What a kernel reads or writes inside its buffers is what is being tested.
        let code = unsafe {
            (self.run)(
                name.as_ptr(),
                kinds.as_ptr(),
                arguments.as_ptr(),
                launch.grid().as_ptr(),
                THREADS,
                c_int::from(reverse),
            )
        };
        match code {
            0 => buffers[..targets.len()].iter().map(|buffer| buffer.bytes(launch.name())).collect(),
            1 => bail!("there is no kernel {}", launch.name()),
            _ => bail!("the arguments of {} do not fit its parameters", launch.name()),
        }
    }
}

impl Launcher for Emulator {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn tensor_cores(&self) -> bool {
        self.dialect == Dialect::Cuda
    }

    fn launch(&self, launch: &Launch<'_>, outputs: &[(Shape, DType)]) -> Result<Vec<Tensor>> {
        let targets: Vec<(Vec<u8>, DType)> = outputs
            .iter()
            .map(|(shape, dtype)| (vec![0xff; shape.elem_count() * dtype.size_in_bytes()], *dtype))
            .collect();
        let results = self.both(launch, &targets)?.into_iter().zip(outputs);
        let tensor = |(bytes, (shape, dtype)): (Vec<u8>, &(Shape, DType))| {
            let storage = Storage::Cpu(storage_of(&bytes, *dtype)?);
            Ok(Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false))
        };
        results.map(tensor).collect()
    }

    fn update(&self, launch: &Launch<'_>, target: &Tensor) -> Result<()> {
        target.inplace_op1(&EmulatorUpdate { emulator: self, launch })
    }
}

struct EmulatorUpdate<'a> {
    emulator: &'a Emulator,
    launch: &'a Launch<'a>,
}

impl InplaceOp1 for EmulatorUpdate<'_> {
    fn name(&self) -> &'static str {
        "emulated kernel"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        let (bytes, dtype) = (bytes_of(storage)?, storage_dtype(storage));
        for bytes in self.emulator.both(self.launch, &[(bytes, dtype)])? {
            *storage = storage_of(&bytes, dtype)?;
        }
        Ok(())
    }
}

/// The letter that launch.h has for a buffer of such elements.
fn kind(dtype: DType) -> u8 {
    match dtype {
        DType::F32 => b'F',
        DType::U32 => b'U',
        _ => b'0' + dtype.size_in_bytes() as u8,
    }
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

fn bytes_of(storage: &CpuStorage) -> Result<Vec<u8>> {
    Ok(match storage {
        CpuStorage::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        CpuStorage::U32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        CpuStorage::F16(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        CpuStorage::BF16(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => bail!("kernels have no buffers of {}", storage_dtype(storage).as_str()),
    })
}

fn storage_of(bytes: &[u8], dtype: DType) -> Result<CpuStorage> {
    let (pairs, quads) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    Ok(match dtype {
        DType::F32 => CpuStorage::F32(quads.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
        DType::F16 => CpuStorage::F16(pairs.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect()),
        DType::BF16 => CpuStorage::BF16(pairs.iter().map(|&bytes| bf16::from_le_bytes(bytes)).collect()),
        other => bail!("kernels write no buffers of {}", other.as_str()),
    })
}
