//! What computes here, and with what.

use ettin::hub::HubOptions;
use ettin::{Backend, DeviceChoice, Isa, Quantization};
use serde::Serialize;

use crate::args::EngineArgs;
use crate::device;
use crate::say::Notes;

/// This machine and this binary.
#[derive(Serialize)]
pub(super) struct Machine {
    version: &'static str,
    target: String,
    features: Vec<&'static str>,
    cpu: Cpu,
    threads: Threads,
    devices: Devices,
    hub: Hub,
}

/// The processor and the kernels it gets.
#[derive(Serialize)]
struct Cpu {
    features: Vec<&'static str>,
    /// Kernels that this processor runs, best first.
    kernels: Vec<String>,
    /// The kernels that are used.
    selected: String,
    /// Whether `ETTIN_ISA` chose them.
    forced: bool,
}

#[derive(Serialize)]
struct Threads {
    used: usize,
    cores: usize,
}

#[derive(Serialize)]
struct Devices {
    compiled: Vec<&'static str>,
    present: Vec<String>,
    /// What `--device` and `--dtype` come to: device, number format, kernels.
    selected: String,
}

#[derive(Serialize)]
struct Hub {
    cache: String,
    endpoint: String,
    offline: bool,
    /// Whether there is one; it is not shown.
    token: bool,
}

impl Machine {
    /// Looks around; what is computed in may be left to how weights are stored.
    pub(super) fn look(engine: &EngineArgs, hub: &HubOptions, stored: Option<Quantization>) -> anyhow::Result<Self> {
        let device = device::resolve(engine.device, Notes::new(false))?;
        let backend = Backend::new(&device, engine.dtype)?.for_stored(stored);
        let forced = std::env::var_os("ETTIN_ISA").is_some_and(|name| !name.is_empty());
        Ok(Machine {
            version: env!("CARGO_PKG_VERSION"),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            features: features(),
            cpu: Cpu {
                features: cpu_features(),
                kernels: Isa::available().iter().map(Isa::to_string).collect(),
                // Backend::new has already refused a variable that names no kernels.
                selected: Isa::select().unwrap_or(Isa::Portable).to_string(),
                forced,
            },
            threads: Threads {
                used: rayon::current_num_threads(),
                cores: std::thread::available_parallelism().map_or(1, usize::from),
            },
            devices: Devices {
                compiled: DeviceChoice::built(),
                present: DeviceChoice::present().iter().map(DeviceChoice::to_string).collect(),
                selected: backend.describe(),
            },
            hub: Hub {
                cache: hub.cache.display().to_string(),
                endpoint: hub.endpoint.clone(),
                offline: hub.offline,
                token: hub.token.is_some(),
            },
        })
    }

    /// For people.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let yes = |holds| if holds { "yes" } else { "no" }.to_owned();
        let forced = if self.cpu.forced { " (forced by ETTIN_ISA)" } else { "" };
        vec![
            ("ettin-run", format!("{} ({})", self.version, self.target)),
            ("built with", self.features.join(", ")),
            ("cpu features", self.cpu.features.join(" ")),
            ("kernels", format!("{}{forced}; this CPU runs {}", self.cpu.selected, self.cpu.kernels.join(", "))),
            ("threads", format!("{} of {} cores", self.threads.used, self.threads.cores)),
            ("devices built in", self.devices.compiled.join(", ")),
            ("devices present", self.devices.present.join(", ")),
            ("computing on", self.devices.selected.clone()),
            ("cache", self.hub.cache.clone()),
            ("hub", self.hub.endpoint.clone()),
            ("offline", yes(self.hub.offline)),
            ("token", yes(self.hub.token)),
        ]
    }
}

/// Cargo features of this binary.
fn features() -> Vec<&'static str> {
    let hub = cfg!(feature = "hub").then_some("hub");
    hub.into_iter().chain(DeviceChoice::built().into_iter().filter(|kind| *kind != "cpu")).collect()
}

macro_rules! detected {
    ($detect:ident: $($feature:tt)*) => {
        [$(($feature, std::arch::$detect!($feature))),*]
            .iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| *name)
            .collect()
    };
}

/// What of the processor matters to kernels, present or to come.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    detected!(is_x86_feature_detected: "avx" "f16c" "fma" "avx2" "avxvnni" "avx512f" "avx512bw" "avx512dq"
        "avx512vl" "avx512vnni" "avx512bf16" "avx512fp16")
}

/// What of the processor matters to kernels, present or to come.
#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    detected!(is_aarch64_feature_detected: "neon" "dotprod" "fp16" "bf16" "i8mm" "sve")
}

/// What of the processor matters to kernels: unknown here.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}
