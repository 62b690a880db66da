//! `classify --labels`.

use ettin::tasks::{ZeroShotClassifier, ZeroShotInput, ZeroShotLabels, ZeroShotRequest, split_labels};

use super::driver;
use crate::args;
use crate::exit::{Status, Usage};
use crate::input::{self, LabelledText};
use crate::output::{Payload, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Classify, labels: &str) -> anyhow::Result<Status> {
    let labels: Vec<String> = split_labels(labels).into_iter().map(str::to_owned).collect();
    if labels.is_empty() {
        return Err(Usage::error("--labels: name at least one label"));
    }
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", LabelledText::new)?.labelled(labels);
    let plan = Plan::new(&args.run, Suited::NeedsHead("a classification head for natural language inference"))?;
    let job = plan.open()?;
    let task = driver::until_exit(ZeroShotClassifier::load(&job.files, &plan.options)?);
    let request = ZeroShotRequest::default()
        .with_template(args.zero_shot.template.unwrap_or_default())
        .with_multi_label(args.zero_shot.multi_label);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let inputs: Vec<ZeroShotInput<'_>> = records
            .iter()
            .map(|(_, record)| ZeroShotInput {
                text: &record.text,
                labels: record.labels().iter().map(String::as_str).collect(),
            })
            .collect();
        Ok(task.run(&inputs, &request)?)
    })
}

impl Payload for ZeroShotLabels {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["sequence", "labels", "scores", "truncated"];
    const HEADS: &'static [&'static str] = &["score", "label"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(&score, label): (&f32, &String)| vec![number(score.into()), shortened(label)];
        self.scores.iter().zip(&self.labels).map(row).collect()
    }
}
