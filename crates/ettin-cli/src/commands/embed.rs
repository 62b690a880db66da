//! `embed`.

mod quantized;

use std::num::NonZeroUsize;

use ettin::pooling::Pooling;
use ettin::tasks::{EmbedRequest, Embedding, Outcome, Outcomes, PromptChoice, SearchSide, TextEmbedder, TextVectors};
use serde::Serialize;

use super::driver::{self, Numbered};
use super::multi_vector;
use crate::args::{self, PoolingChoice, PromptArgs, VectorArgs};
use crate::exit::{Status, Usage};
use crate::input::{self, ChunkSize, Text, Texts};
use crate::nano::Nano;
use crate::output::{ArrayRow, ArrayWriter, CsrWriter, Format, Payload, Sink, number, written};
use crate::plan::{self, Job, Plan, Suited};
use crate::say::Notes;

pub(super) fn run(args: args::Embed) -> anyhow::Result<Status> {
    let texts = input::texts(args.text, &plan::input(&args.run.input), "TEXT", Text::new)?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Encoder))?;
    let format = plan.output.format;
    let side = args.side.map(SearchSide::from);
    let request = request(&args.vectors).with_side(side).with_task(args.task.clone()).with_decode(args.decode);
    let quantized = quantized::Quantized::wanted(&args.precision)?;
    let mut job = plan.open()?;
    refuse_terminal(&plan)?;
    if multi_vector::fits(&job.files)? {
        let flags = [
            (quantized.is_some(), "--precision"),
            (args.decode, "--decode"),
            (args.task.is_some(), "--task"),
            (args.vectors.max_active_dims.is_some(), "--max-active-dims"),
        ];
        for (given, flag) in flags {
            if given {
                return Err(Usage::error(format!(
                    "{flag}: the model is one of late interaction, with a vector per token"
                )));
            }
        }
        let pooling = args.pool_factor.map(|factor| (factor, args.protected_tokens));
        return multi_vector::embed(texts, &args.vectors, side, pooling, &plan, job);
    }
    if args.pool_factor.is_some() {
        return Err(Usage::error("--pool-factor: the model gives one vector per text, not one per token"));
    }
    let task = driver::until_exit(load(&job, &args.vectors, &plan)?);
    say_pooling(task, &args.vectors, plan.output.notes);
    let run = |records: &[Numbered<'_, Text>]| {
        let texts: Vec<&str> = records.iter().map(|(_, record)| record.text.as_str()).collect();
        Ok(driver::numbered(task.run(&texts, &request)?, records, |embedding| &mut embedding.index))
    };
    if format == Format::Npz && sparse_size(task, &request)?.is_none() {
        return Err(dense_npz());
    }
    if let Some(quantized) = quantized {
        if task.is_sparse() {
            return Err(Usage::error("--precision is for dense vectors, and those of this model are sparse"));
        }
        return quantized.run(texts, &plan, job.sink, &quantized::Embedder { task, request: &request, run: &run });
    }
    let size = plan.chunk_size();
    if let Some(columns) = sparse_size(task, &request)? {
        return sparse(texts, size, &plan, job.sink, columns, run);
    }
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
                    // None of a model whose vectors are dense.
                    TextVectors::Sparse(vector) => ArrayRow::Pooled(&vector.values),
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

/// The refusal of a format for sparse vectors alone.
pub(super) fn dense_npz() -> anyhow::Error {
    Usage::error("--format npz is for sparse vectors, and those of this model are dense: use --format npy")
}

/// How long the sparse vectors of a model are; none where its vectors are dense.
fn sparse_size(task: &TextEmbedder, request: &EmbedRequest) -> anyhow::Result<Option<usize>> {
    let sparse = task.chain_for(request)?.filter(|chain| chain.is_sparse() && !request.per_token);
    Ok(sparse.map(ettin::heads::Chain::output_size))
}

/// Answers with sparse vectors.
fn sparse(
    texts: Texts<Text>,
    size: ChunkSize,
    plan: &Plan,
    mut sink: Sink,
    columns: usize,
    mut run: impl FnMut(&[Numbered<'_, Text>]) -> anyhow::Result<Outcomes<Embedding>>,
) -> anyhow::Result<Status> {
    match plan.output.format {
        Format::Safetensors | Format::Npz => {}
        Format::Npy => {
            let message =
                "the vectors of this model are sparse, which npy cannot hold: use --format npz or safetensors";
            return Err(Usage::error(message));
        }
        _ => {
            let marked = |outcome: Outcome<Embedding>| Outcome {
                value: SparseEmbedding(outcome.value),
                truncated: outcome.truncated,
            };
            return driver::answer(texts, size, &plan.output, sink, |records| {
                Ok(run(records)?.into_iter().map(|outcome| outcome.map(marked)).collect())
            });
        }
    }
    let mut matrix = CsrWriter::new(columns);
    let status = driver::each_chunk(texts, size, &plan.output, run, |slots| {
        for (_, answer) in slots {
            match answer.map(|answer| answer.payload.embedding) {
                Some(TextVectors::Sparse(vector)) => matrix.push(&vector.indices, &vector.values),
                _ => matrix.skip(),
            }
        }
        Ok(())
    })?;
    written(match plan.output.format {
        Format::Npz => matrix.write_npz(&mut sink),
        _ => matrix.write(&mut sink),
    })?;
    sink.finish()?;
    Ok(status)
}

/// How long the vectors are that the request asks for, found by making one; none where every text fails, as under a
/// limit that leaves no room.
fn width(task: &TextEmbedder, request: &EmbedRequest) -> anyhow::Result<Option<usize>> {
    let made = task.run(&["a"], request)?.into_iter().next();
    Ok(made.and_then(Result::ok).and_then(|outcome| match outcome.value.embedding {
        TextVectors::Pooled(vector) => Some(vector.len()),
        TextVectors::Tokens(vectors) => vectors.first().map(Vec::len),
        TextVectors::Sparse(_) => None,
    }))
}

fn refuse_terminal(plan: &Plan) -> anyhow::Result<()> {
    let binary = matches!(plan.output.format, Format::Npy | Format::Npz | Format::Safetensors);
    if binary && plan.output.on_terminal() {
        return Err(Usage::error("an array does not belong on a terminal: add --output FILE, or redirect stdout"));
    }
    Ok(())
}

/// The model that gives one vector per text.
pub(super) fn load(job: &Job, args: &VectorArgs, plan: &Plan) -> ettin::Result<TextEmbedder> {
    match args.pooling {
        Some(PoolingChoice::Splade) => TextEmbedder::load_splade(&job.files, &plan.options),
        _ => TextEmbedder::load(&job.files, &plan.options),
    }
}

/// What the flags ask for.
pub(super) fn request(args: &VectorArgs) -> EmbedRequest {
    let pooling = args.pooling.and_then(|pooling| match pooling {
        PoolingChoice::Cls => Some(Pooling::Cls),
        PoolingChoice::Mean => Some(Pooling::Mean),
        PoolingChoice::Last => Some(Pooling::Last),
        PoolingChoice::WeightedMean => Some(Pooling::WeightedMean),
        PoolingChoice::Max => Some(Pooling::Max),
        PoolingChoice::Splade | PoolingChoice::None => None,
    });
    EmbedRequest::default()
        .with_pooling(pooling)
        .with_per_token(args.pooling == Some(PoolingChoice::None))
        .with_normalize(args.normalization())
        .with_dimensions(args.dimensions.map(NonZeroUsize::get))
        .with_layer(args.layer)
        .with_max_active_dims(args.max_active_dims.map(NonZeroUsize::get))
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
            TextVectors::Sparse(_) => Vec::new(),
        }
    }
}

/// An embedding that is a sparse vector, with keys of its own.
#[derive(Serialize)]
#[serde(transparent)]
struct SparseEmbedding(Embedding);

impl Payload for SparseEmbedding {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["index", "indices", "values", "tokens", "truncated"];
    const HEADS: &'static [&'static str] = &["index", "active", "norm", "largest"];

    fn rows(&self) -> Vec<Vec<String>> {
        const SHOWN: usize = 6;
        let TextVectors::Sparse(vector) = &self.0.embedding else {
            return Vec::new();
        };
        let norm: f64 = vector.values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let place = |at: usize| match &vector.tokens {
            Some(tokens) => tokens[at].clone(),
            None => vector.indices[at].to_string(),
        };
        let shown = vector.descending().into_iter().take(SHOWN);
        let mut values: Vec<String> =
            shown.map(|at| format!("{}: {}", place(at), number(vector.values[at].into()))).collect();
        if vector.len() > SHOWN {
            values.push("…".into());
        }
        vec![vec![self.0.index.to_string(), vector.len().to_string(), number(norm.sqrt()), values.join(", ")]]
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
