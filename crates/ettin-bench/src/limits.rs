//! What the hardware could do at best, measured in the same run, and how near a time comes to it.
//!
//! A piece of work takes at least as long as its operations take at the peak rate, and at least as long as its weights
//! and cached keys take to be read. The longer of the two is the limit.

use std::collections::{HashMap, hash_map::Entry};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use ettin_kernels::Isa;
use ettin_kernels::roofline::{self, Operands};
use serde::{Deserialize, Serialize};

use crate::workload::Cost;
use ettin::{Backend, Result};

/// Read rates are measured on a buffer of the weights' size, but on no larger one: beyond every cache nothing changes.
const MAX_READ: usize = 256 << 20;

/// Times that limits are measured again for work that passes them.
const MEASURED_AGAIN: usize = 2;

/// What bounds a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The rate of multiply-adds.
    Arithmetic,
    /// The rate at which weights and caches are read.
    Memory,
}

/// Rates that a model cannot exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Useful operations per second in the model's number format.
    pub flops: f64,
    /// Bytes read per second.
    pub bytes: f64,
    /// Bytes of one weight.
    pub weight_bytes: f64,
    /// Bytes of one cached number.
    pub cached_bytes: f64,
}

impl Limits {
    /// The least seconds for a piece of work, and why.
    pub fn of(&self, cost: &Cost) -> (f64, Bound) {
        let (arithmetic, memory) = (cost.flops / self.flops, self.bytes_of(cost) / self.bytes);
        if arithmetic >= memory { (arithmetic, Bound::Arithmetic) } else { (memory, Bound::Memory) }
    }

    /// The better of two measurements of each rate: other work on the machine only ever lowers one.
    fn best(&self, other: &Limits) -> Limits {
        Limits { flops: self.flops.max(other.flops), bytes: self.bytes.max(other.bytes), ..*self }
    }

    /// These limits, and whether they can be trusted for work that took so many seconds. Where it was faster than they
    /// say is possible, they were measured while something else ran: they are measured `again`, some times at most.
    ///
    /// # Errors
    /// When measuring fails.
    pub fn settled(
        self,
        cost: &Cost,
        seconds: f64,
        mut again: impl FnMut() -> Result<Option<Limits>>,
    ) -> Result<(Self, bool)> {
        let mut limits = self;
        for _ in 0..MEASURED_AGAIN {
            if limits.of(cost).0 <= seconds {
                break;
            }
            if let Some(measured) = again()? {
                limits = limits.best(&measured);
            }
        }
        Ok((limits, limits.of(cost).0 <= seconds))
    }

    /// Bytes that it reads at least.
    pub fn bytes_of(&self, cost: &Cost) -> f64 {
        cost.weights * self.weight_bytes + cost.cached * self.cached_bytes
    }
}

/// How a number format multiplies.
struct Scheme {
    /// Operands whose instructions serve: the fastest of those that this CPU has.
    operands: &'static [Operands],
    /// Products for each useful one.
    products: f64,
    /// Bytes of a stored weight, with its share of a group's scale.
    weight_bytes: f64,
}

/// The scheme behind a [`Dtype`](ettin::Dtype)'s name; without one no share of a limit is reported.
fn scheme(dtype: &str) -> Option<Scheme> {
    const F32: &[Operands] = &[Operands::F32];
    const BF16: &[Operands] = &[Operands::Bf16, Operands::F32];
    const INT8: &[Operands] = &[Operands::Int8, Operands::Bf16, Operands::F32];
    let (operands, products, weight_bytes) = match dtype {
        "f32" => (F32, 1.0, 4.0),
        "bf16" => (BF16, 1.0, 2.0),
        "f16" => (F32, 1.0, 2.0),
        // Sums of bf16 parts: two parts with three products, three parts with six.
        "bf16x3" => (BF16, 3.0, 4.0),
        "bf16x6" => (BF16, 6.0, 6.0),
        "int8" => (INT8, 1.0, 1.0),
        "w8" => (F32, 1.0, 1.0),
        "w4" => (F32, 1.0, 4.5 / 8.0),
        _ => return None,
    };
    Some(Scheme { operands, products, weight_bytes })
}

/// Measures limits, each once, and again where it is asked to; the best counts.
#[derive(Debug, Default)]
pub struct Calibration {
    /// Operations per second by instruction set, threads and operands.
    peaks: HashMap<(Isa, usize, Operands), Option<f64>>,
    /// Bytes per second by instruction set, threads and buffer.
    reads: HashMap<(Isa, usize, usize), f64>,
    /// Operations and bytes per second of a device by dtype.
    device: HashMap<DType, (f64, f64)>,
}

impl Calibration {
    /// The limits of a model on `backend` whose weights have `elements` matrix elements; `None` for a number format of
    /// which the limit is not known. On the CPU this measures on the threads of the backend.
    ///
    /// # Errors
    /// When a device fails.
    pub fn limits(&mut self, backend: &Backend, elements: f64) -> Result<Option<Limits>> {
        self.measured(backend, elements, false)
    }

    /// The same, measured again: for work that passed them.
    ///
    /// # Errors
    /// When a device fails.
    pub fn again(&mut self, backend: &Backend, elements: f64) -> Result<Option<Limits>> {
        self.measured(backend, elements, true)
    }

    fn measured(&mut self, backend: &Backend, elements: f64, again: bool) -> Result<Option<Limits>> {
        let dtype = backend.dtype().to_string();
        let Some(scheme) = scheme(&dtype) else {
            return Ok(None);
        };
        let weight_bytes = scheme.weight_bytes;
        let device = backend.device();
        if !device.is_cpu() {
            let dtype = match dtype.as_str() {
                "bf16" => DType::BF16,
                "f16" => DType::F16,
                _ => DType::F32,
            };
            let known = self.device.get(&dtype).copied();
            let (flops, bytes) = match known.filter(|_| !again) {
                Some(rates) => rates,
                None => {
                    let (flops, bytes) = device_rates(&device, dtype, 4096)?;
                    let (flops, bytes) = known.map_or((flops, bytes), |known| (flops.max(known.0), bytes.max(known.1)));
                    self.device.insert(dtype, (flops, bytes));
                    (flops, bytes)
                }
            };
            return Ok(Some(Limits { flops, bytes, weight_bytes, cached_bytes: weight_bytes }));
        }
        let (isa, team) = (backend.isa().unwrap_or_else(Isa::best), backend.team());
        let threads = team.threads();
        let peak = |operands: &Operands| {
            let known = self.peaks.entry((isa, threads, *operands));
            let better = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
            once_or_again(known, again, || roofline::peak(isa, &team, *operands), better)
        };
        let Some(flops) = scheme.operands.iter().filter_map(peak).reduce(f64::max) else {
            return Ok(None);
        };
        let buffer = ((elements * weight_bytes) as usize).min(MAX_READ);
        let known = self.reads.entry((isa, threads, buffer));
        let bytes = once_or_again(known, again, || roofline::read_bandwidth(isa, &team, buffer), f64::max);
        Ok(Some(Limits { flops: flops / scheme.products, bytes, weight_bytes, cached_bytes: backend.kv_bytes() }))
    }
}

/// What is known, or measured now; measured now and the better of both where it shall be measured `again`.
fn once_or_again<K, V: Copy>(
    entry: Entry<'_, K, V>,
    again: bool,
    measure: impl FnOnce() -> V,
    better: impl FnOnce(V, V) -> V,
) -> V {
    match entry {
        Entry::Vacant(entry) => *entry.insert(measure()),
        Entry::Occupied(mut entry) if again => {
            *entry.get_mut() = better(*entry.get(), measure());
            *entry.get()
        }
        Entry::Occupied(entry) => *entry.get(),
    }
}

/// Operations per second of a product of square matrices of `n` rows, and bytes per second (read and written) of a copy
/// of such a matrix sixteen times over, on a device: the best of several.
fn device_rates(device: &Device, dtype: DType, n: usize) -> Result<(f64, f64)> {
    const RUNS: usize = 8;
    let best = |work: &dyn Fn() -> candle_core::Result<Tensor>| -> Result<f64> {
        work()?;
        device.synchronize()?;
        let mut least = f64::INFINITY;
        for _ in 0..RUNS {
            let start = Instant::now();
            let result = work()?;
            device.synchronize()?;
            least = least.min(start.elapsed().as_secs_f64());
            drop(result);
        }
        Ok(least)
    };
    let x = Tensor::ones((n, n), dtype, device)?;
    let product = 2.0 * (n as f64).powi(3) / best(&|| x.matmul(&x))?;
    let large = Tensor::ones((16 * n, n), dtype, device)?;
    let bytes = 2.0 * (large.elem_count() * dtype.size_in_bytes()) as f64;
    Ok((product, bytes / best(&|| large.copy())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ettin::Dtype;

    #[test]
    fn the_slower_of_the_two_is_the_limit() {
        let limits = Limits { flops: 100.0, bytes: 10.0, weight_bytes: 2.0, cached_bytes: 4.0 };
        let cost = Cost { tokens: 1, padded_tokens: 1, flops: 300.0, weights: 5.0, cached: 2.0 };
        assert_eq!(limits.bytes_of(&cost), 18.0);
        assert_eq!(limits.of(&cost), (3.0, Bound::Arithmetic));
        assert_eq!(limits.of(&Cost { weights: 21.0, ..cost }), (5.0, Bound::Memory));
    }

    #[test]
    fn a_limit_that_work_passes_is_measured_again_and_then_not_trusted() {
        let of = |flops, bytes| Limits { flops, bytes, weight_bytes: 1.0, cached_bytes: 1.0 };
        let cost = Cost { tokens: 1, padded_tokens: 1, flops: 100.0, weights: 10.0, cached: 0.0 };
        // Takes a second at best; how long it took, and what measuring again gives each time.
        let settled = |seconds, measured: &[Option<Limits>]| {
            let mut times = 0;
            let again = || {
                times += 1;
                Ok(measured[times - 1])
            };
            let (limits, trusted) = of(100.0, 20.0).settled(&cost, seconds, again).unwrap();
            (limits, trusted, times)
        };
        assert_eq!(settled(1.0, &[]), (of(100.0, 20.0), true, 0));
        assert_eq!(settled(0.5, &[Some(of(250.0, 15.0))]), (of(250.0, 20.0), true, 1));
        // Once more beside other work, then alone: of each rate the best counts.
        assert_eq!(settled(0.5, &[Some(of(110.0, 30.0)), Some(of(200.0, 10.0))]), (of(200.0, 30.0), true, 2));
        let beyond = settled(0.5, &[Some(of(110.0, 30.0)), Some(of(120.0, 30.0))]);
        assert_eq!(beyond, (of(120.0, 30.0), false, 2));
        assert!(share(&beyond.0, &cost, 0.5) > 1.6);
        assert_eq!(settled(0.5, &[None, None]), (of(100.0, 20.0), false, 2));
    }

    /// What a record would say.
    fn share(limits: &Limits, cost: &Cost, seconds: f64) -> f64 {
        limits.of(cost).0 / seconds
    }

    #[test]
    fn every_number_format_has_a_scheme() {
        for (dtype, name) in Dtype::ALL {
            assert_eq!(scheme(name).is_some(), dtype != Dtype::Auto, "{name}");
        }
    }

    #[test]
    fn measured_once_and_plausible() {
        let (backend, mut calibration) = (Backend::cpu().unwrap(), Calibration::default());
        let limits = calibration.limits(&backend, 1e6).unwrap().unwrap();
        assert!(limits.flops > 1e8 && limits.bytes > 1e8, "{limits:?}");
        assert_eq!(limits.weight_bytes, 4.0);
        assert_eq!(calibration.limits(&backend, 1e6).unwrap(), Some(limits));
        let again = calibration.again(&backend, 1e6).unwrap().unwrap();
        assert!(again.flops >= limits.flops && again.bytes >= limits.bytes, "{again:?}");
        assert_eq!(calibration.limits(&backend, 1e6).unwrap(), Some(again));
    }

    #[test]
    fn what_is_measured_again_is_kept_where_it_is_better() {
        let mut known = HashMap::new();
        let mut at = |again, measured: f64| once_or_again(known.entry(()), again, || measured, f64::max);
        assert_eq!(
            [at(false, 2.0), at(false, 9.0), at(true, 1.0), at(true, 3.0), at(false, 9.0)],
            [2.0, 2.0, 2.0, 3.0, 3.0]
        );
    }

    #[test]
    fn devices_are_measured_by_candle() {
        let (flops, bytes) = device_rates(&Device::Cpu, DType::F32, 64).unwrap();
        assert!(flops > 1e6 && bytes > 1e6 && flops.is_finite() && bytes.is_finite());
    }
}
