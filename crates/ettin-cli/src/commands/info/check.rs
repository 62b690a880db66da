//! `--check`: whether this machine computes the model as the reference path does.

use ettin::check::{CheckOptions, Report, Step, check};
use ettin::files::ModelFiles;
use serde::Serialize;

use crate::args::EngineArgs;
use crate::device;
use crate::say::Notes;

/// What the check found, with its verdict.
#[derive(Serialize)]
pub(super) struct Check {
    passed: bool,
    verdict: String,
    /// The step at which a check that failed did so.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_divergent: Option<String>,
    #[serde(flatten)]
    report: Report,
}

impl Check {
    pub(super) fn run(files: &ModelFiles, engine: &EngineArgs, notes: Notes) -> anyhow::Result<Self> {
        let device = device::resolve(engine.device, notes)?;
        notes.note("comparing every layer with the reference path");
        let options =
            CheckOptions::default().with_device(device).with_dtype(engine.dtype).with_kv_dtype(engine.kv_dtype);
        let report = check(files, &options)?;
        Ok(Self {
            passed: report.passed(),
            verdict: report.verdict(),
            first_divergent: report.first_divergent().map(|step| step.name.clone()),
            report,
        })
    }

    /// What went wrong, if anything.
    pub(super) fn failure(&self) -> Option<&str> {
        (!self.passed).then_some(&self.verdict)
    }

    /// For people; the verdict is the last line.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let Report { computing, reference, texts, steps, .. } = &self.report;
        let texts: Vec<String> = texts.iter().map(usize::to_string).collect();
        let mut rows = vec![
            ("", String::new()),
            ("checked", computing.clone()),
            ("against", reference.clone()),
            ("texts", format!("of {} tokens, and all in one batch", texts.join(", "))),
        ];
        rows.extend(steps.iter().map(|Step { name, alone, chained, drift, .. }| {
            ("step", format!("{name}: alone {alone:.1e}, chained {chained:.1e}, drift {drift:.1e}"))
        }));
        rows.push(("check", self.verdict.clone()));
        rows
    }
}
