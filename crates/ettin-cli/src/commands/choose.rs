//! `choose`.

use ettin::tasks::{ChoiceInput, MultipleChoice, Outcome, ScoredChoice};
use serde::{Serialize, Serializer};

use super::driver;
use crate::args;
use crate::exit::Status;
use crate::input::{self, ContextChoices, Input, Texts};
use crate::output::{Cut, Format, LIST_KEYS, Payload, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Choose) -> anyhow::Result<Status> {
    let texts = texts(args.context, args.choice, &plan::input(&args.run.input))?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("a multiple-choice head"))?;
    let job = plan.open()?;
    let task = driver::until_exit(MultipleChoice::load(&job.files, &plan.options)?);
    let format = plan.output.format;
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let inputs: Vec<ChoiceInput<'_>> = records
            .iter()
            .map(|(_, record)| ChoiceInput {
                context: &record.context,
                choices: record.choices.iter().map(String::as_str).collect(),
            })
            .collect();
        let outcomes = task.run(&inputs)?.into_iter().zip(records);
        let chosen = outcomes.map(|(outcome, (_, record))| {
            let Outcome { value, truncated } = outcome?;
            Ok(Outcome { value: Chosen::new(value, record, format), truncated })
        });
        Ok(chosen.collect())
    })
}

fn texts(context: Option<String>, choices: Vec<String>, input: &Input) -> anyhow::Result<Texts<ContextChoices>> {
    let Some(context) = context else {
        return input::records(input, "CONTEXT");
    };
    let (choices, numbers) = input::listed(choices, input, "CHOICE")?;
    Ok(Texts::Arguments(vec![ContextChoices { id: None, context, choices, numbers }]))
}

/// Choices, with their texts where a table shows them.
struct Chosen {
    choices: Vec<ScoredChoice>,
    texts: Vec<String>,
}

impl Chosen {
    fn new(choices: Vec<ScoredChoice>, record: &ContextChoices, format: Format) -> Self {
        let text = |choice: &ScoredChoice| record.choices.get(choice.index).map(|text| shortened(text));
        let texts = match format {
            Format::Table => choices.iter().map(|choice| text(choice).unwrap_or_default()).collect(),
            _ => Vec::new(),
        };
        let numbers = record.numbers.as_deref();
        let number = |choice: ScoredChoice| ScoredChoice {
            index: numbers.and_then(|numbers| numbers.get(choice.index)).copied().unwrap_or(choice.index),
            ..choice
        };
        Self { choices: choices.into_iter().map(number).collect(), texts }
    }
}

impl Serialize for Chosen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.choices.serialize(serializer)
    }
}

impl Payload for Chosen {
    const LIST: bool = true;
    const KEYS: &'static [&'static str] = LIST_KEYS;
    const HEADS: &'static [&'static str] = &["score", "logit", "index", "text"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(choice, text): (&ScoredChoice, &String)| {
            vec![number(choice.score.into()), number(choice.logit.into()), choice.index.to_string(), text.clone()]
        };
        self.choices.iter().zip(&self.texts).map(row).collect()
    }

    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Cut::all(&self.choices).serialize(serializer)
    }
}
