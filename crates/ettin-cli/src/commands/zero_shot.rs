//! `classify --labels`.

use ettin::tasks::{
    SchemaClassifier, SchemaRequest, ZeroShotClassifier, ZeroShotInput, ZeroShotLabels, ZeroShotRequest, split_labels,
};

use super::driver::{self, Numbered};
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
    let args::ZeroShotArgs { template, task: topic, multi_label, .. } = args.zero_shot;
    if SchemaClassifier::fits(&job.files)? {
        if template.is_some() {
            return Err(Usage::error(
                "--template: a GLiNER2 model reads labels as they are; --task says what they are",
            ));
        }
        let task = driver::until_exit(SchemaClassifier::load(&job.files, &plan.options)?);
        let mut request = SchemaRequest::default().with_multi_label(multi_label);
        if let Some(topic) = topic {
            request = request.with_task(topic);
        }
        return driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
            Ok(task.run(&inputs(records), &request)?)
        });
    }
    if topic.is_some() {
        return Err(Usage::error("--task: only a GLiNER2 model reads one; --template is the sentence about a label"));
    }
    let task = driver::until_exit(ZeroShotClassifier::load(&job.files, &plan.options)?);
    let request = ZeroShotRequest::default().with_template(template.unwrap_or_default()).with_multi_label(multi_label);
    driver::answer(
        texts,
        plan.chunk_size(),
        &plan.output,
        job.sink,
        |records| Ok(task.run(&inputs(records), &request)?),
    )
}

fn inputs<'a>(records: &[Numbered<'a, LabelledText>]) -> Vec<ZeroShotInput<'a>> {
    let input = |(_, record): &Numbered<'a, LabelledText>| ZeroShotInput {
        text: &record.text,
        labels: record.labels().iter().map(String::as_str).collect(),
    };
    records.iter().map(input).collect()
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
