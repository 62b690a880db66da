//! Doing it: load, warm up, repeat, record.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Device;
use ettin_kernels::Team;

use crate::limits::{Calibration, Limits};
use crate::machine::{self, Machine};
use crate::plan::{Plan, Settings, Source, Subject};
use crate::record::{Build, EXCLUDED, Limit, Memory, ModelInfo, Provenance, Record, Setting, Work};
use crate::statistics::Statistics;
use crate::workload::{Cost, Workload, chunk, pass_weights};
use ettin::generate::STEP_ROWS;
use ettin::heads::LanguageModel;
use ettin::weights::{Head, Weights};
use ettin::{Backend, Config, Error, KvCache, Objective, PackedBatch, Parameters, Pooling, Result, Trunk};

/// Random weights are the same in every run.
const SEED: u64 = 0;

/// Repetitions after which even the shortest workload is measured well enough.
const MAX_SAMPLES: usize = 10_000;

/// What a caller hears of a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something begins: a model's name and `load` or the name of a workload.
    Begins(&'a str, &'a str),
    /// Something was measured.
    Measured(&'a Record),
}

/// Carries a plan out and gives each record to `on_event` as soon as it is measured; a break ends the run.
///
/// # Errors
/// What [`Plan::check`] refuses, and what loading and computing return.
pub fn run(plan: &Plan, build: &Build, on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<()> {
    plan.check()?;
    let bench = Bench { plan, build, machine: Machine::look(), device_figures: machine::device_figures(&plan.device) };
    let teams = plan.threads.iter().map(|&threads| {
        Team::with_threads(threads).map_err(|error| Error::input(format!("{threads} threads: {error}")))
    });
    let mut teams = teams.collect::<Result<Vec<_>>>()?;
    if teams.is_empty() {
        teams.push(Team::global());
    }
    let mut calibration = Calibration::default();
    for subject in &plan.subjects {
        for &dtype in &plan.dtypes {
            for team in &teams {
                let backend = Backend::new(&plan.device, dtype)?.on_team(team.clone());
                if bench.subject(subject, &backend, &mut calibration, on_event)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

struct Bench<'a> {
    plan: &'a Plan,
    build: &'a Build,
    machine: Machine,
    device_figures: Option<String>,
}

impl Bench<'_> {
    /// Loads a model and does its workloads.
    fn subject(
        &self,
        subject: &Subject,
        backend: &Backend,
        calibration: &mut Calibration,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let Settings { batch_tokens, warmup, .. } = self.plan.settings;
        if on_event(Event::Begins(&subject.name, "load")).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let (model, record) = self.load(subject, backend)?;
        let backend = model.trunk().backend();
        if on_event(Event::Measured(&record)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let pass = pass_weights(&subject.config);
        for &workload in &subject.workloads {
            let test = workload.to_string();
            if on_event(Event::Begins(&subject.name, &test)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let cost = workload.cost(&subject.config, batch_tokens);
            let limits = if self.plan.settings.limits { calibration.limits(backend, pass)? } else { None };
            machine::reset_peak_memory();
            let samples = model.time(workload, &self.plan.settings, &self.plan.device)?;
            let rates: Vec<f64> = samples.iter().map(|seconds| cost.tokens as f64 / seconds).collect();
            let seconds = Statistics::of(&samples);
            let memory = memory();
            let limit = match limits {
                Some(limits) => {
                    let settled = limits.settled(&cost, seconds.mean, || calibration.again(backend, pass))?;
                    Some(share(&settled.0, &cost, seconds.mean))
                }
                None => None,
            };
            let record = Record {
                test,
                work: work(workload, &cost),
                setting: self.setting(backend, warmup),
                limit,
                seconds,
                samples,
                tokens_per_second: Some(Statistics::of(&rates)),
                memory,
                provenance: self.provenance(),
                model: record.model.clone(),
                earlier: None,
            };
            if on_event(Event::Measured(&record)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Loads a model and records how long that took.
    fn load(&self, subject: &Subject, backend: &Backend) -> Result<(Model, Record)> {
        machine::reset_peak_memory();
        let start = Instant::now();
        let model = Model::load(subject, backend)?;
        self.plan.device.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        let (weights, revision) = match &subject.source {
            Source::Files(files) => ("files", files.revision()),
            Source::Random => ("random", None),
        };
        let record = Record {
            test: "load".to_owned(),
            model: ModelInfo {
                name: subject.name.clone(),
                revision: revision.map(str::to_owned),
                objective: subject.config.objective.as_str().to_owned(),
                weights: weights.to_owned(),
                parameters: parameters(&subject.config),
            },
            work: Work {
                batch: 0,
                length: 0,
                depth: 0,
                tokens: 0,
                padded_tokens: 0,
                flops: 0.0,
                excluded: "download, tokenizer".to_owned(),
            },
            setting: self.setting(model.trunk().backend(), 0),
            seconds: Statistics::of(&[seconds]),
            samples: vec![seconds],
            tokens_per_second: None,
            limit: None,
            memory: memory(),
            provenance: self.provenance(),
            earlier: None,
        };
        Ok((model, record))
    }

    fn setting(&self, backend: &Backend, warmup: usize) -> Setting {
        Setting {
            device: self.plan.device_name.clone(),
            dtype: backend.dtype().to_string(),
            kernels: backend.isa().map_or_else(|| "candle".to_owned(), |isa| isa.to_string()),
            threads: backend.team().threads(),
            warmup,
        }
    }

    fn provenance(&self) -> Provenance {
        Provenance {
            date: machine::now(),
            build: self.build.clone(),
            machine: self.machine.clone(),
            device_figures: self.device_figures.clone(),
        }
    }
}

fn work(workload: Workload, cost: &Cost) -> Work {
    Work {
        batch: workload.batch(),
        length: workload.length(),
        depth: workload.depth(),
        tokens: cost.tokens,
        padded_tokens: cost.padded_tokens,
        flops: cost.flops,
        excluded: EXCLUDED.to_owned(),
    }
}

fn share(limits: &Limits, cost: &Cost, seconds: f64) -> Limit {
    let (least, bound) = limits.of(cost);
    let (tokens, bytes) = (cost.tokens as f64, limits.bytes_of(cost));
    Limit {
        bound,
        share: least / seconds,
        trusted: least <= seconds,
        tokens_per_second: tokens / least,
        gflops: cost.flops / seconds / 1e9,
        peak_gflops: limits.flops / 1e9,
        bytes_per_token: bytes / tokens,
        gigabytes_per_second: bytes / seconds / 1e9,
        peak_gigabytes_per_second: limits.bytes / 1e9,
    }
}

fn memory() -> Memory {
    Memory { peak: machine::peak_memory(), resident: machine::resident_memory() }
}

/// Parameters of the trunk: embeddings, layers, norms.
fn parameters(config: &Config) -> u64 {
    let (layers, hidden, inner) =
        (config.num_layers() as u64, config.hidden_size as u64, config.intermediate_size as u64);
    let optional = |there: bool, size: u64| if there { size } else { 0 };
    let layer = 4 * hidden * hidden
        + 3 * hidden * inner
        + optional(config.attention_bias, 4 * hidden)
        + optional(config.mlp_bias, 2 * inner + hidden);
    // Two norms a layer, but for the first; the embedding's and the last.
    let norms = (2 * layers + 1) * hidden * if config.norm_bias { 2 } else { 1 };
    config.vocab_size as u64 * hidden + layers * layer + norms
}

/// A loaded model.
enum Model {
    Encoder(Box<Trunk>),
    Decoder(Box<LanguageModel>),
}

impl Model {
    fn load(subject: &Subject, backend: &Backend) -> Result<Self> {
        let config = &subject.config;
        let head = match config.objective {
            Objective::Encoder => Head::None,
            Objective::Decoder => Head::Language,
        };
        let build = |parameters: Parameters<'_>, backend: &Backend| {
            Ok(match config.objective {
                Objective::Encoder => Model::Encoder(Trunk::build(parameters, config, backend)?.into()),
                Objective::Decoder => Model::Decoder(LanguageModel::build(parameters, config, backend)?.into()),
            })
        };
        match &subject.source {
            Source::Random => build(Parameters::random(config, head, SEED), backend),
            Source::Files(files) => {
                let weights = Weights::open(files)?;
                let backend = backend.for_stored(weights.quantization());
                build(Parameters::from_weights(&weights, config, head)?, &backend)
            }
        }
    }

    fn trunk(&self) -> &Trunk {
        match self {
            Model::Encoder(trunk) => trunk,
            Model::Decoder(model) => model.trunk(),
        }
    }

    /// Seconds of every repetition.
    fn time(&self, workload: Workload, settings: &Settings, device: &Device) -> Result<Vec<f64>> {
        let vocabulary = self.trunk().config().vocab_size;
        match (workload, self) {
            (Workload::Encode { .. } | Workload::Mixed { .. }, _) => {
                let pack = |lengths: Vec<usize>| PackedBatch::new(&sequences(&lengths, vocabulary));
                let batches =
                    workload.batches(settings.batch_tokens).into_iter().map(pack).collect::<Result<Vec<_>>>()?;
                repeat(settings, device, || Ok(()), |()| batches.iter().try_for_each(|batch| self.encode(batch)))
            }
            (Workload::Prefill { tokens, batch, depth }, Model::Decoder(model)) => {
                let growth = Growth::new(model, device, tokens, batch, depth)?;
                repeat(settings, device, || Ok(growth.caches()), |mut caches| growth.read(&mut caches, chunk(batch)))
            }
            (Workload::Decode { tokens, batch, depth }, Model::Decoder(model)) => {
                let growth = Growth::new(model, device, tokens, batch, depth)?;
                repeat(settings, device, || Ok(growth.caches()), |mut caches| growth.generate(&mut caches))
            }
            (_, Model::Encoder(_)) => Err(Error::input(format!("{workload} needs a decoder"))),
        }
    }

    /// A batch to its mean-pooled vectors.
    fn encode(&self, batch: &PackedBatch) -> Result<()> {
        let hidden = self.trunk().forward(batch)?;
        std::hint::black_box(Pooling::Mean.pool(&hidden, batch, None)?);
        Ok(())
    }
}

/// Times `work` on what `prepare` makes each time, unseen by the clock, until the settings are satisfied.
fn repeat<T>(
    settings: &Settings,
    device: &Device,
    prepare: impl Fn() -> Result<T>,
    work: impl Fn(T) -> Result<()>,
) -> Result<Vec<f64>> {
    let once = || {
        let prepared = prepare()?;
        device.synchronize()?;
        let start = Instant::now();
        work(prepared)?;
        // Devices compute after the call has returned.
        device.synchronize()?;
        Ok::<_, Error>(start.elapsed().as_secs_f64())
    };
    for _ in 0..settings.warmup {
        once()?;
    }
    let (mut samples, mut total) = (Vec::new(), 0.0);
    while samples.len() < settings.repetitions
        || (total < settings.min_time.as_secs_f64() && samples.len() < MAX_SAMPLES)
    {
        let seconds = once()?;
        total += seconds;
        samples.push(seconds);
    }
    Ok(samples)
}

/// Sequences that grow on their caches.
struct Growth<'a> {
    model: &'a LanguageModel,
    device: &'a Device,
    /// One per sequence, all of one length.
    tokens: Vec<Vec<u32>>,
    depth: usize,
    /// A cache that holds `depth` tokens.
    start: KvCache,
}

impl<'a> Growth<'a> {
    fn new(model: &'a LanguageModel, device: &'a Device, tokens: usize, batch: usize, depth: usize) -> Result<Self> {
        let vocabulary = model.config().vocab_size;
        let mut start = model.cache(STEP_ROWS)?;
        let context = sequences(&[depth], vocabulary).concat();
        for (index, part) in context.chunks(STEP_ROWS).enumerate() {
            let batch = PackedBatch::continuing(&[part], &[index * STEP_ROWS])?;
            model.step(&batch, &mut [&mut start], &[])?;
        }
        Ok(Self { model, device, tokens: sequences(&vec![tokens; batch], vocabulary), depth, start })
    }

    /// A cache for each sequence, as before its first token.
    fn caches(&self) -> Vec<KvCache> {
        self.tokens.iter().map(|_| self.start.fork()).collect()
    }

    /// Reads all sequences, `rows` of each at a time, and scores what follows their last tokens.
    fn read(&self, caches: &mut [KvCache], rows: usize) -> Result<()> {
        let len = self.tokens[0].len();
        for from in (0..len).step_by(rows) {
            let to = (from + rows).min(len);
            self.step(caches, from..to, to == len)?;
        }
        Ok(())
    }

    /// Adds token after token to every sequence, each time scoring what could follow.
    fn generate(&self, caches: &mut [KvCache]) -> Result<()> {
        for from in 0..self.tokens[0].len() {
            self.step(caches, from..from + 1, true)?;
            // The next token is chosen from these scores: they must be there.
            self.device.synchronize()?;
        }
        Ok(())
    }

    fn step(&self, caches: &mut [KvCache], range: std::ops::Range<usize>, scored: bool) -> Result<()> {
        let parts: Vec<&[u32]> = self.tokens.iter().map(|tokens| &tokens[range.clone()]).collect();
        let batch = PackedBatch::continuing(&parts, &vec![self.depth + range.start; parts.len()])?;
        let last: Vec<usize> =
            if scored { batch.offsets()[1..].iter().map(|end| end - 1).collect() } else { Vec::new() };
        let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
        std::hint::black_box(self.model.step(&batch, &mut caches, &last)?);
        Ok(())
    }
}

/// Token ids spread over the vocabulary, different in every sequence and the same in every run.
fn sequences(lengths: &[usize], vocabulary: usize) -> Vec<Vec<u32>> {
    // A prime larger than any vocabulary: all ids of one are met before the first comes again.
    let id = |index: usize| (index as u64).wrapping_mul(2_654_435_761) % vocabulary as u64;
    let mut next = 0;
    let mut sequence = |&length: &usize| {
        next += length;
        (next - length..next).map(|index| id(index) as u32).collect()
    };
    lengths.iter().map(&mut sequence).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use ettin::suite::Suite;

    #[test]
    fn parameters_are_those_published() {
        for entry in Suite::get() {
            assert_eq!(parameters(&entry.config().unwrap()), entry.dimensions().parameters, "{}", entry.name());
        }
    }

    #[test]
    fn repetitions_are_as_set() {
        let settings = Settings { repetitions: 3, warmup: 2, min_time: Duration::ZERO, ..Settings::default() };
        let (prepared, done) = (Cell::new(0), Cell::new(0));
        let prepare = || {
            prepared.set(prepared.get() + 1);
            Ok(prepared.get())
        };
        let work = |number| {
            assert_eq!(number, done.get() + 1);
            done.set(number);
            Ok(())
        };
        assert_eq!(repeat(&settings, &Device::Cpu, prepare, work).unwrap().len(), 3);
        assert_eq!((prepared.get(), done.get()), (5, 5));

        // Preparing is not timed, and short work is repeated until there was enough of it.
        let settings = Settings { repetitions: 1, warmup: 0, min_time: Duration::from_millis(10), ..settings };
        let sleep = |()| {
            std::thread::sleep(Duration::from_millis(3));
            Ok(())
        };
        let start = Instant::now();
        let samples = repeat(&settings, &Device::Cpu, || sleep(()), sleep).unwrap();
        let (total, unseen) = (samples.iter().sum::<f64>(), 0.003 * samples.len() as f64);
        assert!(total >= 0.01 && total + unseen <= start.elapsed().as_secs_f64(), "{samples:?}");
    }

    #[test]
    fn token_ids_are_spread_and_inside_the_vocabulary() {
        let ids = sequences(&[500, 500], 1000);
        assert_ne!(ids[0], ids[1]);
        let mut all = ids.concat();
        assert!(all.iter().all(|&id| id < 1000));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn a_share_is_least_time_over_time() {
        let limits = Limits { flops: 100e9, bytes: 10e9, weight_bytes: 4.0, cached_bytes: 4.0 };
        let cost = Cost { tokens: 10, padded_tokens: 10, flops: 50e9, weights: 1e9, cached: 0.0 };
        let limit = share(&limits, &cost, 1.0);
        assert_eq!((limit.share, limit.gflops, limit.tokens_per_second), (0.5, 50.0, 20.0));
        assert!(limit.trusted && share(&limits, &cost, 0.5).trusted && !share(&limits, &cost, 0.4).trusted);
        assert_eq!((limit.bytes_per_token, limit.gigabytes_per_second), (4e8, 4.0));
    }
}
