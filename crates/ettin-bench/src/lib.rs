//! Benchmarks: a plan of models and workloads becomes records with everything needed to repeat or to doubt them.
//!
//! ```
//! use std::{ops::ControlFlow, time::Duration};
//! use ettin_bench::{self as bench, Build, Event, Plan, Settings, Subject};
//! use ettin::{Dtype, files::ModelFiles};
//!
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! let files = ModelFiles::folder(folder)?;
//! let plan = Plan {
//!     subjects: vec![Subject::files(files, bench::shapes("1,4x16")?)?],
//!     device: candle_core::Device::Cpu,
//!     device_name: "cpu".to_owned(),
//!     dtypes: vec![Dtype::F32],
//!     threads: vec![1],
//!     settings: Settings { repetitions: 2, min_time: Duration::ZERO, limits: false, ..Settings::default() },
//! };
//! let mut records = Vec::new();
//! bench::run(&plan, &Build::new(None), &mut |event| {
//!     if let Event::Measured(record) = event {
//!         records.push(record.clone());
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(records.len(), 3); // load, enc 1×16, enc 4×16
//! # Ok(())
//! # }
//! ```
//!
//! What is timed begins with token ids and ends with vectors or scores: no tokenisation, no sampling. Limits of the
//! hardware are measured in the same run, so that a time can be read as a share of what was possible.

mod chart;
mod compare;
mod limits;
mod machine;
mod plan;
mod plot;
mod ranges;
mod record;
mod run;
mod statistics;
mod table;
mod workload;

pub use chart::chart;
pub use compare::Baseline;
pub use limits::{Bound, Calibration, Limits};
pub use machine::{Machine, device_figures};
pub use plan::{Plan, Settings, Source, Subject};
pub use plot::plot;
pub use ranges::numbers;
pub use record::{Build, Earlier, Limit, Memory, ModelInfo, Provenance, Record, Setting, Work};
pub use run::{Event, run};
pub use statistics::Statistics;
pub use table::{comparison, csv_head, csv_row, markdown_head, markdown_row};
pub use workload::{Cost, Workload, mixed_lengths, pass_weights, shapes};

/// Records that were not measured, for tests of what is made of records.
#[cfg(test)]
mod samples {
    use super::*;

    /// A plausible record of `test` on a model of the suite, at so many tokens per second.
    pub(super) fn record(model: &str, workload: Workload, tokens_per_second: f64) -> Record {
        let entry = ettin::suite::Suite::get().find(model).unwrap();
        let cost = workload.cost(&entry.config().unwrap(), 4096);
        let seconds = cost.tokens as f64 / tokens_per_second;
        let samples = vec![seconds * 0.98, seconds * 1.02];
        let rates: Vec<f64> = samples.iter().map(|seconds| cost.tokens as f64 / seconds).collect();
        Record {
            test: workload.to_string(),
            model: ModelInfo {
                name: entry.name().to_owned(),
                revision: None,
                objective: entry.objective().as_str().to_owned(),
                weights: "random".to_owned(),
                parameters: entry.dimensions().parameters,
            },
            work: Work {
                batch: workload.batch(),
                length: workload.length(),
                depth: workload.depth(),
                tokens: cost.tokens,
                padded_tokens: cost.padded_tokens,
                flops: cost.flops,
                excluded: "tokenisation, sampling".to_owned(),
            },
            setting: Setting {
                device: "cpu".to_owned(),
                dtype: "f32".to_owned(),
                kernels: "avx512".to_owned(),
                threads: 2,
                warmup: 1,
            },
            seconds: Statistics::of(&samples),
            tokens_per_second: Some(Statistics::of(&rates)),
            samples,
            limit: Some(Limit {
                bound: Bound::Arithmetic,
                share: 0.62,
                trusted: true,
                tokens_per_second: tokens_per_second / 0.62,
                gflops: cost.flops / seconds / 1e9,
                peak_gflops: 400.0,
                bytes_per_token: 4.0 * cost.weights / cost.tokens as f64,
                gigabytes_per_second: 4.0 * cost.weights / seconds / 1e9,
                peak_gigabytes_per_second: 30.0,
            }),
            memory: Memory { peak: Some(123 << 20), resident: Some(100 << 20) },
            provenance: Provenance {
                date: "2026-11-23T20:14:11Z".to_owned(),
                build: Build {
                    version: "0.1.0".to_owned(),
                    commit: Some("0123456789ab".to_owned()),
                    profile: "release".to_owned(),
                },
                machine: Machine {
                    cpu: "Test CPU".to_owned(),
                    cores: 2,
                    memory: Some(24 << 30),
                    system: "linux x86_64".to_owned(),
                    load_average: Some(0.1),
                },
                device_figures: None,
            },
            earlier: None,
        }
    }

    /// The same for texts of an encoder.
    pub(super) fn encoded(model: &str, batch: usize, length: usize, tokens_per_second: f64) -> Record {
        record(model, Workload::Encode { batch, length }, tokens_per_second)
    }
}
