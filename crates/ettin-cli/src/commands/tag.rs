//! `tag`.

use ettin::tasks::{Aggregation, Tag, TagRequest, Tagger};
use serde::{Serialize, Serializer};

use super::driver;
use crate::args::{self, AggregationChoice};
use crate::exit::Status;
use crate::input::{self, Text};
use crate::output::{Cut, LIST_KEYS, Payload, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Tag) -> anyhow::Result<Status> {
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", Text::new)?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("a token-classification head"))?;
    let job = plan.open()?;
    let task = driver::until_exit(Tagger::load(&job.files, &plan.options)?);
    let aggregation = match args.aggregation {
        AggregationChoice::None => Aggregation::None,
        AggregationChoice::Simple => Aggregation::Simple,
        AggregationChoice::First => Aggregation::First,
        AggregationChoice::Average => Aggregation::Average,
        AggregationChoice::Max => Aggregation::Max,
    };
    let request = TagRequest::default().with_aggregation(aggregation).with_all(args.all);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let texts: Vec<&str> = records.iter().map(|(_, record)| record.text.as_str()).collect();
        Ok(task.run(&texts, &request)?)
    })
}

impl Payload for Vec<Tag> {
    const LIST: bool = true;
    const KEYS: &'static [&'static str] = LIST_KEYS;
    const HEADS: &'static [&'static str] = &["score", "entity", "word", "start", "end"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |tag: &Tag| {
            let (score, entity, word, start, end) = match tag {
                Tag::Token { entity, score, word, start, end, .. } => (score, entity, word, start, end),
                Tag::Group { entity_group, score, word, start, end } => (score, entity_group, word, start, end),
            };
            vec![number((*score).into()), entity.clone(), shortened(word), start.to_string(), end.to_string()]
        };
        self.iter().map(row).collect()
    }

    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Cut::all(self).serialize(serializer)
    }
}
