//! One line of results, with everything needed to repeat or to doubt it.

use serde::{Deserialize, Serialize};

use crate::limits::Bound;
use crate::machine::Machine;
use crate::statistics::Statistics;

/// What is measured nowhere: said in every record.
pub const EXCLUDED: &str = "tokenisation, sampling";

/// The result of one workload, or of loading a model.
///
/// As JSON it is an object of objects; [`csv_row`](super::csv_row) makes one row of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `enc 8×128`, `mixed 256`, `pp512`, `tg128 ×8 @ d1024`, or `load`.
    pub test: String,
    /// Which model.
    pub model: ModelInfo,
    /// What was computed.
    pub work: Work,
    /// How it was computed.
    pub setting: Setting,
    /// Seconds of a repetition.
    pub seconds: Statistics,
    /// Seconds of every repetition, in order.
    pub samples: Vec<f64>,
    /// Tokens per second of a repetition; `None` for loading.
    pub tokens_per_second: Option<Statistics>,
    /// How near the time comes to what the hardware can do; `None` where that is not known.
    pub limit: Option<Limit>,
    /// Memory of the process.
    pub memory: Memory,
    /// When, where and with which build.
    pub provenance: Provenance,
    /// The same work in an earlier run, when one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
}

/// A model, for a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name or path.
    pub name: String,
    /// The commit of its repository, where it has one.
    pub revision: Option<String>,
    /// `encoder` or `decoder`.
    pub objective: String,
    /// Where its weights come from: `files`, or `random`, which have the exact shapes and say nothing true.
    pub weights: String,
    /// Parameters of the trunk.
    pub parameters: u64,
}

/// Work that two runs must have in common to be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of the longest sequence at the end.
    pub length: usize,
    /// Tokens in the caches before the clock started.
    pub depth: usize,
    /// Tokens read or generated in one repetition.
    pub tokens: usize,
    /// Tokens that an engine with padding would have computed.
    pub padded_tokens: usize,
    /// Floating-point operations of one repetition, counted from the configuration.
    pub flops: f64,
    /// What the time does not include.
    pub excluded: String,
}

/// How something was computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// The number format that products were computed in.
    pub dtype: String,
    /// Instruction set of the kernels, or `candle` for candle's operations.
    pub kernels: String,
    /// Threads on the CPU.
    pub threads: usize,
    /// Repetitions thrown away before the clock started.
    pub warmup: usize,
}

/// The share of what the hardware can do, measured in the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Whether arithmetic or reading memory takes longer at best.
    pub bound: Bound,
    /// Least seconds over the mean of the seconds taken; 1 is perfect.
    pub share: f64,
    /// Whether the share is below 1. What took less than the least has a limit that was measured too low, again and
    /// again: on a machine that did other work, most likely.
    #[serde(default = "trusted")]
    pub trusted: bool,
    /// Tokens per second at the limit.
    pub tokens_per_second: f64,
    /// Useful operations per second that were reached, in 10⁹.
    pub gflops: f64,
    /// The peak of that in this number format, in 10⁹.
    pub peak_gflops: f64,
    /// Bytes of weights, and of cached keys and values, read per token.
    pub bytes_per_token: f64,
    /// Bytes per second at which they were read, in 10⁹.
    pub gigabytes_per_second: f64,
    /// The rate at which memory of that size can be read (on a GPU: copied), in 10⁹.
    pub peak_gigabytes_per_second: f64,
}

/// Records of earlier versions, which did not say.
fn trusted() -> bool {
    true
}

/// Bytes of memory that the whole process had resident; `None` where the system does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The most during this measurement, warm-up included.
    pub peak: Option<u64>,
    /// After it.
    pub resident: Option<u64>,
}

/// When, where and with which build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// UTC.
    pub date: String,
    /// The program that ran.
    pub build: Build,
    /// The machine.
    pub machine: Machine,
    /// What the driver says of the device, when it is not the CPU.
    pub device_figures: Option<String>,
}

/// The program that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// The commit it was built from, with `-dirty` when the sources differed; `None` when unknown.
    pub commit: Option<String>,
    /// `release`, or `debug`, whose times mean nothing.
    pub profile: String,
}

impl Record {
    /// The limit, unless it cannot be [trusted](Limit::trusted).
    pub fn trusted_limit(&self) -> Option<&Limit> {
        self.limit.as_ref().filter(|limit| limit.trusted)
    }
}

impl Build {
    /// This library, built from a commit that only the builder knows.
    pub fn new(commit: Option<&str>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit.map(str::to_owned),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}

/// The same work in an earlier run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Earlier {
    /// Times faster than then: then's mean of seconds over now's.
    pub ratio: f64,
    /// Tokens per second then.
    pub tokens_per_second: Option<f64>,
    /// What differs besides the time: `dtype f32 → bf16`, `commit a → b`; empty for a repetition.
    pub changed: Vec<String>,
}
