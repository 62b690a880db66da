//! `embed`.

use std::num::NonZeroUsize;

use ettin::pooling::Pooling;
use ettin::tasks::{EmbedRequest, Embedding, PromptChoice, SearchSide, TextEmbedder, TextVectors};

use super::driver::{self, Numbered};
use super::multi_vector;
use crate::args::{self, PoolingChoice, PromptArgs, VectorArgs};
use crate::exit::{Status, Usage};
use crate::input::{self, Text};
use crate::nano::Nano;
use crate::output::{ArrayRow, ArrayWriter, Format, Payload, number, written};
use crate::plan::{self, Plan, Suited};
use crate::say::Notes;

pub(super) fn run(args: args::Embed) -> anyhow::Result<Status> {
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", Text::new)?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Encoder))?;
    let format = plan.output.format;
    let mut request = request(&args.vectors);
    let mut job = plan.open()?;
    refuse_terminal(&plan)?;
    let side = args.side.map(SearchSide::from);
    if multi_vector::fits(&job.files)? {
        let pooling = args.pool_factor.map(|factor| (factor, args.protected_tokens));
        return multi_vector::embed(texts, &args.vectors, side, pooling, &plan, job);
    }
    if args.pool_factor.is_some() {
        return Err(Usage::error("--pool-factor: the model gives one vector per text, not one per token"));
    }
    if let (Some(side), PromptChoice::Default) = (side, &request.prompt) {
        // As encode_query and encode_document of sentence-transformers.
        request.prompt = PromptChoice::Named(side.prompt().to_owned());
    }
    let task = driver::until_exit(TextEmbedder::load(&job.files, &plan.options)?);
    say_pooling(task, &args.vectors, plan.output.notes);
    let run = |records: &[Numbered<'_, Text>]| {
        let texts: Vec<&str> = records.iter().map(|(_, record)| record.text.as_str()).collect();
        let mut outcomes = task.run(&texts, &request)?;
        // The library counts within the call; the contract counts all inputs.
        for (outcome, (index, _)) in outcomes.iter_mut().zip(records) {
            if let Ok(outcome) = outcome {
                outcome.value.index = *index;
            }
        }
        Ok(outcomes)
    };
    let size = plan.chunk_size();
    if !matches!(format, Format::Npy | Format::Safetensors) {
        return driver::answer(texts, size, &plan.output, job.sink, run);
    }
    let mut array = ArrayWriter::new(request.per_token);
    let status = driver::each_chunk(texts, size, &plan.output, run, |slots| {
        for (_, answer) in slots {
            match answer {
                Some(answer) => array.push(match &answer.payload.embedding {
                    TextVectors::Pooled(vector) => ArrayRow::Pooled(vector),
                    TextVectors::Tokens(vectors) => ArrayRow::Tokens(vectors),
                }),
                None => array.skip(),
            }
        }
        Ok(())
    })?;
    if array.needs_width()
        && let Some(width) = width(task, &request)?
    {
        array.set_width(width);
    }
    written(array.write(format, &mut job.sink))?;
    job.sink.finish()?;
    Ok(status)
}

/// How long the vectors are that the request asks for, found by making one; none where every text fails, as under a
/// limit that leaves no room.
fn width(task: &TextEmbedder, request: &EmbedRequest) -> anyhow::Result<Option<usize>> {
    let made = task.run(&["a"], request)?.into_iter().next();
    Ok(made.and_then(Result::ok).and_then(|outcome| match outcome.value.embedding {
        TextVectors::Pooled(vector) => Some(vector.len()),
        TextVectors::Tokens(vectors) => vectors.first().map(Vec::len),
    }))
}

fn refuse_terminal(plan: &Plan) -> anyhow::Result<()> {
    let binary = matches!(plan.output.format, Format::Npy | Format::Safetensors);
    if binary && plan.output.on_terminal() {
        return Err(Usage::error("an array does not belong on a terminal: add --output FILE, or redirect stdout"));
    }
    Ok(())
}

/// What the flags ask for.
pub(super) fn request(args: &VectorArgs) -> EmbedRequest {
    let pooling = args.pooling.and_then(|pooling| match pooling {
        PoolingChoice::Cls => Some(Pooling::Cls),
        PoolingChoice::Mean => Some(Pooling::Mean),
        PoolingChoice::Last => Some(Pooling::Last),
        PoolingChoice::WeightedMean => Some(Pooling::WeightedMean),
        PoolingChoice::Max => Some(Pooling::Max),
        PoolingChoice::None => None,
    });
    EmbedRequest::default()
        .with_pooling(pooling)
        .with_per_token(args.pooling == Some(PoolingChoice::None))
        .with_normalize(args.normalization())
        .with_dimensions(args.dimensions.map(NonZeroUsize::get))
        .with_layer(args.layer)
        .with_prompt(prompt(&args.prompt))
}

/// Which prompt is asked for.
pub(super) fn prompt(args: &PromptArgs) -> PromptChoice {
    match (&args.prompt, args.no_prompt) {
        (_, true) => PromptChoice::None,
        (Some(name), false) => PromptChoice::Named(name.clone()),
        (None, false) => PromptChoice::Default,
    }
}

/// Says what was decided for a model that decides nothing itself.
pub(super) fn say_pooling(task: &TextEmbedder, args: &VectorArgs, notes: Notes) {
    if let (Some(pooling), None) = (task.unconfigured_pooling(), args.pooling) {
        let normalised = match args.normalization() {
            Some(true) => "normalised",
            _ => "not normalised",
        };
        notes.note(format_args!(
            "the model names no pooling: using {pooling}, {normalised}; choose with --pooling and --normalize"
        ));
    }
}

impl Payload for Embedding {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["index", "embedding", "truncated"];
    const HEADS: &'static [&'static str] = &["index", "dimensions", "norm", "embedding"];

    fn rows(&self) -> Vec<Vec<String>> {
        match &self.embedding {
            TextVectors::Pooled(vector) => vec![row(self.index, vector)],
            TextVectors::Tokens(vectors) => vectors.iter().map(|vector| row(self.index, vector)).collect(),
        }
    }
}

/// A vector as a row of a table: the index of its text, its length, its norm, and its beginning.
pub(super) fn row(index: usize, vector: &[f32]) -> Vec<String> {
    const SHOWN: usize = 4;
    let norm: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let mut values: Vec<String> = vector.iter().take(SHOWN).map(|&value| number(value.into())).collect();
    if vector.len() > SHOWN {
        values.push("…".into());
    }
    vec![index.to_string(), vector.len().to_string(), number(norm.sqrt()), values.join(" ")]
}
