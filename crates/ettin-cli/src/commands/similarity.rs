//! `similarity`.

use ettin::tasks::{IndexedScore, Outcomes, SimilarityInput};

use super::rerank::Ranked;
use super::{driver, embed, multi_vector};
use crate::args::{self, PoolingChoice};
use crate::exit::{Status, Usage};
use crate::input::{self, Comparison, Input, Texts};
use crate::nano::Nano;
use crate::output::Sink;
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Similarity) -> anyhow::Result<Status> {
    if args.vectors.pooling == Some(PoolingChoice::None) {
        return Err(Usage::error("--pooling none: texts are compared by one vector each"));
    }
    let texts = texts(args.a, args.b, &plan::input(&args.run.input))?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Encoder))?;
    let job = plan.open()?;
    if multi_vector::fits(&job.files)? {
        return multi_vector::similarity(texts, &args.vectors, &plan, job);
    }
    let task = driver::until_exit(embed::load(&job, &args.vectors, &plan)?);
    embed::say_pooling(task, &args.vectors, plan.output.notes);
    let request = embed::request(&args.vectors);
    answer(texts, &plan, job.sink, |inputs| Ok(task.similarity(inputs, &request)?))
}

/// Answers every text by what compares it with others.
pub(super) fn answer(
    texts: Texts<Comparison>,
    plan: &Plan,
    sink: Sink,
    compare: impl Fn(&[SimilarityInput<'_>]) -> anyhow::Result<Outcomes<Vec<IndexedScore>>>,
) -> anyhow::Result<Status> {
    driver::answer(texts, plan.chunk_size(), &plan.output, sink, |records| {
        let inputs: Vec<SimilarityInput<'_>> = records
            .iter()
            .map(|(_, record)| SimilarityInput { a: &record.a, b: record.b.iter().map(String::as_str).collect() })
            .collect();
        let texts = records.iter().map(|(_, record)| (record.b.as_slice(), record.numbers.as_deref()));
        Ok(Ranked::all(compare(&inputs)?, texts, plan.output.format))
    })
}

fn texts(a: Option<String>, b: Vec<String>, input: &Input) -> anyhow::Result<Texts<Comparison>> {
    let Some(a) = a else {
        return input::records(input, "A");
    };
    let (b, numbers) = input::listed(b, input, "B")?;
    Ok(Texts::Arguments(vec![Comparison { id: None, a, b, numbers }]))
}
