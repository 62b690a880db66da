//! `similarity`.

use ettin::tasks::{SimilarityInput, TextEmbedder};

use super::rerank::Ranked;
use super::{driver, embed};
use crate::args::{self, PoolingChoice};
use crate::exit::{Status, Usage};
use crate::input::{self, Comparison, Input, Texts};
use crate::nano::Nano;
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Similarity) -> anyhow::Result<Status> {
    if args.vectors.pooling == Some(PoolingChoice::None) {
        return Err(Usage::error("--pooling none: texts are compared by one vector each"));
    }
    let texts = texts(args.a, args.b, &plan::input(&args.run.input))?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Encoder))?;
    let job = plan.open()?;
    let task = driver::until_exit(TextEmbedder::load(&job.files, &plan.options)?);
    embed::say_pooling(task, &args.vectors, plan.output.notes);
    let request = embed::request(&args.vectors);
    let format = plan.output.format;
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let inputs: Vec<SimilarityInput<'_>> = records
            .iter()
            .map(|(_, record)| SimilarityInput { a: &record.a, b: record.b.iter().map(String::as_str).collect() })
            .collect();
        let outcomes = task.similarity(&inputs, &request)?;
        let texts = records.iter().map(|(_, record)| (record.b.as_slice(), record.numbers.as_deref()));
        Ok(Ranked::all(outcomes, texts, format))
    })
}

fn texts(a: Option<String>, b: Vec<String>, input: &Input) -> anyhow::Result<Texts<Comparison>> {
    let Some(a) = a else {
        return input::records(input, "A");
    };
    let (b, numbers) = input::listed(b, input, "B")?;
    Ok(Texts::Arguments(vec![Comparison { id: None, a, b, numbers }]))
}
