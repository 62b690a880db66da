//! `classify`.

use std::num::NonZeroUsize;

use ettin::tasks::{Classifier, ClassifyRequest, Label, TextInput};
use serde::{Serialize, Serializer};

use super::{driver, embed, zero_shot};
use crate::args;
use crate::exit::Status;
use crate::input::{self, TextPair};
use crate::output::{Cut, LIST_KEYS, Payload, number};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(mut args: args::Classify) -> anyhow::Result<Status> {
    if let Some(labels) = args.zero_shot.labels.take() {
        return zero_shot::run(args, &labels);
    }
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", TextPair::new)?.paired(args.pair);
    let plan = Plan::new(&args.run, Suited::NeedsHead("a classification head"))?;
    let job = plan.open()?;
    let task = driver::until_exit(Classifier::load(&job.files, &plan.options)?);
    let request = ClassifyRequest::default()
        .with_top_k(args.top_k.map(NonZeroUsize::get))
        .with_raw(args.raw)
        .with_prompt(embed::prompt(&args.prompt));
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let inputs: Vec<TextInput<'_>> = records.iter().map(|(_, record)| record.input()).collect();
        Ok(task.run(&inputs, &request)?)
    })
}

impl Payload for Vec<Label> {
    const LIST: bool = true;
    const KEYS: &'static [&'static str] = LIST_KEYS;
    const HEADS: &'static [&'static str] = &["score", "label"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |label: &Label| vec![number(label.score.into()), label.label.clone()];
        self.iter().map(row).collect()
    }

    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Cut::all(self).serialize(serializer)
    }
}
