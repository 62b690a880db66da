//! What is to be measured: models, number formats, threads, workloads.

use std::time::Duration;

use candle_core::Device;

use crate::workload::Workload;
use ettin::files::ModelFiles;
use ettin::suite::Entry;
use ettin::{Backend, Config, Dtype, Error, Result};

/// Every model in every number format on every number of threads does its workloads.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The models.
    pub subjects: Vec<Subject>,
    /// Where to compute.
    pub device: Device,
    /// What records call the device.
    pub device_name: String,
    /// Number formats; at least one.
    pub dtypes: Vec<Dtype>,
    /// Numbers of threads; none takes the pool that the caller is on.
    pub threads: Vec<usize>,
    /// How to measure.
    pub settings: Settings,
}

/// A model and what it does.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What records call it.
    pub name: String,
    /// Its architecture.
    pub config: Config,
    /// Where its weights come from.
    pub source: Source,
    /// In this order.
    pub workloads: Vec<Workload>,
}

/// Where weights come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The model's files.
    Files(ModelFiles),
    /// Random numbers in the exact shapes; times are those of trained weights.
    Random,
}

impl Subject {
    /// A model from its files.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn files(files: ModelFiles, workloads: Vec<Workload>) -> Result<Self> {
        Ok(Self {
            name: files.name().to_owned(),
            config: Config::load(&files)?,
            source: Source::Files(files),
            workloads,
        })
    }

    /// A model of the suite with random weights.
    ///
    /// # Errors
    /// As [`Entry::config`].
    pub fn random(entry: &Entry, workloads: Vec<Workload>) -> Result<Self> {
        Ok(Self { name: entry.name().to_owned(), config: entry.config()?, source: Source::Random, workloads })
    }
}

/// How to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The least number of repetitions; at least one.
    pub repetitions: usize,
    /// Repetitions before that which do not count.
    pub warmup: usize,
    /// Short workloads are repeated until this much time was measured.
    pub min_time: Duration,
    /// Most tokens of a packed batch of mixed texts.
    pub batch_tokens: usize,
    /// Whether to measure the limits of the hardware.
    pub limits: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            repetitions: 5,
            warmup: 1,
            min_time: Duration::from_millis(300),
            batch_tokens: ettin::tasks::Options::default().batch_tokens,
            limits: true,
        }
    }
}

impl Plan {
    /// Refuses, before any time is spent, what could not be run.
    ///
    /// # Errors
    /// [`Error::Input`] for workloads that a model cannot do or for nothing to do, [`Error::Unsupported`] for a number
    /// format that the device has not.
    pub fn check(&self) -> Result<()> {
        if self.settings.repetitions == 0 {
            return Err(Error::input("at least one repetition is needed"));
        }
        if self.subjects.iter().all(|subject| subject.workloads.is_empty()) || self.dtypes.is_empty() {
            return Err(Error::input("there is nothing to measure: no model, no workload or no dtype"));
        }
        for &dtype in &self.dtypes {
            Backend::new(&self.device, dtype)?;
        }
        for subject in &self.subjects {
            for workload in &subject.workloads {
                workload.check(&subject.config).map_err(|error| match error {
                    Error::TooLong { tokens, limit, .. } => Error::input(format!(
                        "{workload} on {}: it has {tokens} tokens, and the model has positions for {limit}",
                        subject.name
                    )),
                    error => error,
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ettin::suite::Suite;

    fn plan(name: &str, workload: Workload) -> Plan {
        let entry = Suite::get().find(name).unwrap();
        Plan {
            subjects: vec![Subject::random(entry, vec![workload]).unwrap()],
            device: Device::Cpu,
            device_name: "cpu".into(),
            dtypes: vec![Dtype::F32],
            threads: Vec::new(),
            settings: Settings::default(),
        }
    }

    #[test]
    fn impossible_plans_are_refused_by_name() {
        let enc = Workload::Encode { batch: 1, length: 16 };
        assert!(plan("encoder-17m", enc).check().is_ok());
        let refusal = |plan: Plan| plan.check().unwrap_err().to_string();

        let long = Workload::Encode { batch: 1, length: 8000 };
        let message = refusal(plan("encoder-17m", long));
        assert!(message.contains("enc 1×8000") && message.contains("7999"), "{message}");

        let message = refusal(plan("encoder-17m", Workload::Decode { tokens: 8, batch: 1, depth: 0 }));
        assert!(message.contains("tg8") && message.contains("decoder"), "{message}");

        let f16 = Plan { dtypes: vec![Dtype::F32, Dtype::F16], ..plan("encoder-17m", enc) };
        assert!(refusal(f16).contains("f16"));

        let mut nothing = plan("encoder-17m", enc);
        nothing.subjects[0].workloads.clear();
        assert!(refusal(nothing).contains("nothing"));

        let mut never = plan("encoder-17m", enc);
        never.settings.repetitions = 0;
        assert!(refusal(never).contains("repetition"));
    }
}
