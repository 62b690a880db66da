//! `fill-mask`.

use ettin::tasks::{self, Candidate, Fills};
use serde::{Serialize, Serializer};

use super::driver;
use crate::args;
use crate::exit::Status;
use crate::input::{self, Text};
use crate::nano::Nano;
use crate::output::{Cut, LIST_KEYS, Payload, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::FillMask) -> anyhow::Result<Status> {
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", Text::new)?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Encoder))?;
    let job = plan.open()?;
    let task = driver::until_exit(tasks::FillMask::load(&job.files, &plan.options)?);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let texts: Vec<&str> = records.iter().map(|(_, record)| record.text.as_str()).collect();
        Ok(task.run(&texts, args.top_k.get())?)
    })
}

impl Payload for Fills {
    const LIST: bool = true;
    const KEYS: &'static [&'static str] = LIST_KEYS;
    const HEADS: &'static [&'static str] = &["score", "token", "token_str", "sequence"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |candidate: &Candidate| {
            vec![
                number(candidate.score.into()),
                candidate.token.to_string(),
                // Quoted: the leading space matters.
                format!("{:?}", candidate.token_str),
                shortened(&candidate.sequence),
            ]
        };
        match self {
            Fills::One(candidates) => candidates.iter().map(row).collect(),
            Fills::Many(masks) => masks.iter().flatten().map(row).collect(),
        }
    }

    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Fills::One(candidates) => Cut::all(candidates).serialize(serializer),
            Fills::Many(masks) => serializer.collect_seq(masks.iter().map(|candidates| Cut::all(candidates))),
        }
    }
}
