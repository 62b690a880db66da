//! This run beside an earlier one: ratios where the work is the same, refusal where it is not.

use crate::plan::{Plan, Subject};
use crate::record::{Earlier, Record};
use crate::workload::Workload;
use ettin::{Error, Result};

/// Records of an earlier run.
#[derive(Debug, Clone)]
pub struct Baseline {
    file: String,
    records: Vec<Record>,
}

impl Baseline {
    /// Reads what a run wrote as JSON or JSON lines; `file` names it in messages.
    ///
    /// # Errors
    /// [`Error::Input`] for anything else, with the line.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let refuse = |place: String, error: serde_json::Error| {
            Error::input(format!("{file}{place}: {error}; give a file that `bench` wrote as json or jsonl"))
        };
        // Some programs put a byte order mark before UTF-8.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let records: Vec<Record> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(|error| refuse(String::new(), error))?
        } else {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let record = |(index, line)| {
                serde_json::from_str(line).map_err(|error| refuse(format!(", line {}", index + 1), error))
            };
            lines.map(record).collect::<Result<_>>()?
        };
        if records.is_empty() {
            return Err(Error::input(format!("{file} holds no records to compare with")));
        }
        Ok(Self { file: file.to_owned(), records })
    }

    /// Refuses, before any time is spent, a plan that does other work under the same names, or none in common.
    ///
    /// # Errors
    /// [`Error::Input`] saying what differs.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let mut common = false;
        for subject in &plan.subjects {
            for &workload in &subject.workloads {
                for record in self.named(&subject.name, &workload.to_string()) {
                    self.same_work(record, subject, workload, plan)?;
                    common = true;
                }
            }
        }
        if common {
            return Ok(());
        }
        let mut known: Vec<String> = self.records.iter().map(|r| format!("{} {}", r.model.name, r.test)).collect();
        known.dedup();
        let names = known.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
        let more = if known.len() > 6 { ", …" } else { "" };
        Err(Error::input(format!("{} has none of the work that is to be measured: it has {names}{more}", self.file)))
    }

    /// The work of a plan that these records have nothing of, as `model test`.
    pub fn lacks(&self, plan: &Plan) -> Vec<String> {
        let all = plan.subjects.iter().flat_map(|subject| {
            let named = |workload: &Workload| (subject.name.as_str(), workload.to_string());
            subject.workloads.iter().map(named)
        });
        let lacking = all.filter(|(model, test)| self.named(model, test).next().is_none());
        lacking.map(|(model, test)| format!("{model} {test}")).collect()
    }

    fn same_work(&self, record: &Record, subject: &Subject, workload: Workload, plan: &Plan) -> Result<()> {
        let cost = workload.cost(&subject.config, plan.settings.batch_tokens);
        let (then, now) = ((record.work.flops, record.work.tokens), (cost.flops, cost.tokens));
        if then == now {
            return Ok(());
        }
        Err(Error::input(format!(
            "{workload} of {} in {} was other work: {} tokens and {:.6e} flops then, {} and {:.6e} now; \
             times of different work cannot be compared",
            subject.name, self.file, then.1, then.0, now.1, now.0
        )))
    }

    /// The same work in this run, in the setting that is nearest to the record's own: on the same device if there is
    /// one, among those of the same dtype, and so on; the latest of several.
    pub fn find(&self, record: &Record) -> Option<Earlier> {
        let same = |other: &&Record| other.work.flops == record.work.flops && other.work.tokens == record.work.tokens;
        let mut candidates: Vec<&Record> = self.named(&record.model.name, &record.test).filter(same).collect();
        let alike: [fn(&Record) -> String; 5] = [
            |record| record.setting.device.clone(),
            |record| record.setting.dtype.clone(),
            |record| record.setting.threads.to_string(),
            |record| record.setting.kernels.clone(),
            |record| record.model.weights.clone(),
        ];
        for trait_of in alike {
            let wanted = trait_of(record);
            if candidates.iter().any(|other| trait_of(other) == wanted) {
                candidates.retain(|other| trait_of(other) == wanted);
            }
        }
        let earlier = candidates.last()?;
        Some(Earlier {
            ratio: earlier.seconds.mean / record.seconds.mean,
            tokens_per_second: earlier.tokens_per_second.map(|rate| rate.mean),
            changed: changes(earlier, record),
        })
    }

    fn named<'a>(&'a self, model: &'a str, test: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.model.name == model && record.test == test)
    }
}

/// What differs between two runs of the same work, besides its time.
fn changes(then: &Record, now: &Record) -> Vec<String> {
    let threads = |record: &Record| record.setting.threads.to_string();
    let commit = |record: &Record| record.provenance.build.commit.clone().unwrap_or_else(|| "unknown".to_owned());
    let pairs = [
        ("device", then.setting.device.clone(), now.setting.device.clone()),
        ("dtype", then.setting.dtype.clone(), now.setting.dtype.clone()),
        ("kernels", then.setting.kernels.clone(), now.setting.kernels.clone()),
        ("threads", threads(then), threads(now)),
        ("weights", then.model.weights.clone(), now.model.weights.clone()),
        ("machine", then.provenance.machine.cpu.clone(), now.provenance.machine.cpu.clone()),
        ("build", then.provenance.build.profile.clone(), now.provenance.build.profile.clone()),
        ("commit", commit(then), commit(now)),
    ];
    let changed = pairs.into_iter().filter(|(_, then, now)| then != now);
    changed.map(|(what, then, now)| format!("{what} {then} → {now}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::encoded;
    use ettin::suite::Suite;

    fn baseline(records: &[Record]) -> Baseline {
        Baseline::parse(&serde_json::to_string(records).unwrap(), "old.json").unwrap()
    }

    fn plan(model: &str, workload: Workload) -> Plan {
        Plan {
            subjects: vec![Subject::random(Suite::get().find(model).unwrap(), vec![workload]).unwrap()],
            device: candle_core::Device::Cpu,
            device_name: "cpu".into(),
            dtypes: vec![ettin::Dtype::F32],
            threads: Vec::new(),
            settings: Default::default(),
        }
    }

    #[test]
    fn both_json_formats_are_read_and_others_refused() {
        let record = encoded("encoder-17m", 8, 128, 1000.0);
        let line = serde_json::to_string(&record).unwrap();
        let twice = [record.clone(), record];
        assert_eq!(Baseline::parse(&format!("{line}\n\n{line}\n"), "f").unwrap().records, twice);
        assert_eq!(Baseline::parse(&format!("\u{feff}{line}\r\n{line}"), "f").unwrap().records, twice);
        assert_eq!(Baseline::parse(&format!("\u{feff}[{line},{line}]"), "f").unwrap().records, twice);
        for (text, why) in [
            ("", "no records"),
            ("[]", "no records"),
            ("\u{feff}[]", "no records"),
            ("a,b\n", "line 1"),
            ("{\"test\": 1}", "line 1"),
            ("[1]", "json"),
        ] {
            let error = Baseline::parse(text, "old.json").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("old.json"), "{text}: {error}");
        }
    }

    #[test]
    fn the_ratio_is_how_many_times_faster() {
        let then = encoded("encoder-17m", 8, 128, 1000.0);
        let mut now = encoded("encoder-17m", 8, 128, 2500.0);
        now.setting.threads = 4;
        now.provenance.build.commit = None;
        let earlier = baseline(&[then]).find(&now).unwrap();
        assert!((earlier.ratio - 2.5).abs() < 1e-9);
        assert_eq!(earlier.changed, ["threads 2 → 4", "commit 0123456789ab → unknown"]);
        assert!(baseline(&[now]).find(&encoded("encoder-17m", 8, 64, 1.0)).is_none());
    }

    #[test]
    fn the_nearest_setting_is_compared() {
        let make = |dtype: &str, threads, rate| {
            let mut record = encoded("encoder-17m", 8, 128, rate);
            record.setting.dtype = dtype.into();
            record.setting.threads = threads;
            record
        };
        let old = baseline(&[make("f32", 1, 1.0), make("bf16", 1, 2.0), make("bf16", 2, 4.0), make("f32", 2, 3.0)]);
        let rate = |dtype, threads| old.find(&make(dtype, threads, 1.0)).unwrap().tokens_per_second.unwrap().round();
        assert_eq!((rate("f32", 1), rate("bf16", 1), rate("bf16", 2), rate("f32", 2)), (1.0, 2.0, 4.0, 3.0));
        // An unknown dtype on two threads is nearest to two threads; the last of those.
        assert_eq!(rate("int8", 2), 3.0);
    }

    #[test]
    fn work_that_an_earlier_run_lacks_is_named() {
        let enc = |batch| Workload::Encode { batch, length: 128 };
        let old = baseline(&[encoded("encoder-17m", 8, 128, 1000.0)]);
        let mut plan = plan("encoder-17m", enc(8));
        assert_eq!(old.lacks(&plan), [""; 0]);
        plan.subjects[0].workloads.push(enc(1));
        assert_eq!(old.lacks(&plan), ["ettin-encoder-17m enc 1×128"]);
        assert!(old.check(&plan).is_ok());
    }

    #[test]
    fn different_work_is_refused() {
        let enc = Workload::Encode { batch: 8, length: 128 };
        let old = encoded("encoder-17m", 8, 128, 1000.0);
        assert!(baseline(std::slice::from_ref(&old)).check(&plan("encoder-17m", enc)).is_ok());

        let mut other = old.clone();
        other.work.flops *= 2.0;
        let error = baseline(&[other.clone()]).check(&plan("encoder-17m", enc)).unwrap_err().to_string();
        assert!(error.contains("enc 8×128") && error.contains("different work"), "{error}");
        assert!(baseline(&[other]).find(&old).is_none());

        let error = baseline(&[old]).check(&plan("encoder-32m", enc)).unwrap_err().to_string();
        assert!(error.contains("none of the work") && error.contains("ettin-encoder-17m enc 8×128"), "{error}");
    }
}
