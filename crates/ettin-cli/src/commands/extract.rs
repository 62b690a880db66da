//! `extract`.

use ettin::tasks::{Entity, EntityExtractor, EntityRequest, LabelVectors, split_labels};
use serde::{Serialize, Serializer};

use super::driver;
use crate::args;
use crate::exit::{Status, Usage};
use crate::input::{self, Text};
use crate::output::{Cut, LIST_KEYS, Payload, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Extract) -> anyhow::Result<Status> {
    let labels = split_labels(&args.labels);
    if labels.is_empty() {
        return Err(Usage::error("--labels: name at least one label"));
    }
    if args.threshold.is_nan() {
        return Err(Usage::error("--threshold: a number is expected"));
    }
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", Text::new)?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("a head for spans (GLiNER)"))?;
    let job = plan.open()?;
    let mut task = EntityExtractor::load(&job.files, &plan.options)?;
    if let Some(file) = &args.label_vectors {
        task = task.with_label_vectors(LabelVectors::open(file)?)?;
    }
    let task = driver::until_exit(task);
    let labels = task.labels(&labels)?;
    let request = EntityRequest::default()
        .with_threshold(args.threshold)
        .with_nested(args.nested)
        .with_multi_label(args.multi_label);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let texts: Vec<&str> = records.iter().map(|(_, record)| record.text.as_str()).collect();
        Ok(task.run(&texts, &labels, &request)?)
    })
}

impl Payload for Vec<Entity> {
    const LIST: bool = true;
    const KEYS: &'static [&'static str] = LIST_KEYS;
    const HEADS: &'static [&'static str] = &["score", "label", "text", "start", "end"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |entity: &Entity| {
            let Entity { start, end, text, label, score } = entity;
            vec![number((*score).into()), shortened(label), shortened(text), start.to_string(), end.to_string()]
        };
        self.iter().map(row).collect()
    }

    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Cut::all(self).serialize(serializer)
    }
}
