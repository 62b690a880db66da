//! `embed`, `similarity` and `rerank` with late-interaction models: a vector per token, and MaxSim.

use ettin::files::ModelFiles;
use ettin::tasks::{MultiVector, MultiVectorEncoder, MultiVectorRequest, SearchSide};

use super::driver::{self, Numbered};
use super::embed;
use super::rerank;
use super::similarity;
use crate::args::{self, ActivationChoice, PoolingChoice, VectorArgs};
use crate::exit::{Status, Usage};
use crate::input::{Comparison, QueryDocuments, Text, Texts};
use crate::output::{ArrayRow, ArrayWriter, Format, Payload, written};
use crate::plan::{Job, Plan};

/// Whether a model gives a vector per token to be compared with those of other texts.
pub(super) fn fits(files: &ModelFiles) -> anyhow::Result<bool> {
    Ok(MultiVectorEncoder::fits(files)?)
}

/// `embed`: the vectors of every text; with a pool factor and the number of leading vectors that are left alone.
pub(super) fn embed(
    texts: Texts<Text>,
    vectors: &VectorArgs,
    side: Option<SearchSide>,
    pooling: Option<(f64, usize)>,
    plan: &Plan,
    mut job: Job,
) -> anyhow::Result<Status> {
    refuse_vector_flags(vectors)?;
    if plan.output.format == Format::Npz {
        return Err(embed::dense_npz());
    }
    let prompt = embed::prompt(&vectors.prompt);
    // As for other models, prompts of these names are for that side.
    let side = side.or(match vectors.prompt.prompt.as_deref() {
        Some("query") => Some(SearchSide::Query),
        _ => None,
    });
    let side = side.unwrap_or(SearchSide::Document);
    let mut request = MultiVectorRequest::default().with_side(side).with_prompt(prompt);
    if let Some((factor, protected)) = pooling {
        if side == SearchSide::Query {
            return Err(Usage::error(
                "--pool-factor: vectors of queries are not brought together, only documents' are",
            ));
        }
        request = request.with_pool_factor(factor).with_protected_tokens(protected);
    }
    let task = driver::until_exit(MultiVectorEncoder::load(&job.files, &plan.options)?);
    let run = |records: &[Numbered<'_, Text>]| {
        let texts: Vec<&str> = records.iter().map(|(_, record)| record.text.as_str()).collect();
        Ok(driver::numbered(task.run(&texts, &request)?, records, |vectors: &mut MultiVector| &mut vectors.index))
    };
    let (size, format) = (plan.chunk_size(), plan.output.format);
    if !matches!(format, Format::Npy | Format::Safetensors) {
        return driver::answer(texts, size, &plan.output, job.sink, run);
    }
    let mut array = ArrayWriter::new(true);
    array.set_width(task.size());
    let status = driver::each_chunk(texts, size, &plan.output, run, |slots| {
        for (_, answer) in slots {
            match answer {
                Some(answer) => array.push(ArrayRow::Vectors(&answer.payload.vectors)),
                None => array.skip(),
            }
        }
        Ok(())
    })?;
    written(array.write(format, &mut job.sink))?;
    job.sink.finish()?;
    Ok(status)
}

/// What would change vectors that are compared as the model's files say.
fn refuse_vector_flags(args: &VectorArgs) -> anyhow::Result<()> {
    let pooling = args.pooling.is_some_and(|pooling| pooling != PoolingChoice::None);
    let given = [
        (pooling, "--pooling"),
        (args.normalize, "--normalize"),
        (args.no_normalize, "--no-normalize"),
        (args.dimensions.is_some(), "--dimensions"),
        (args.layer.is_some(), "--layer"),
        (args.max_active_dims.is_some(), "--max-active-dims"),
    ];
    match given.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(Usage::error(format!(
            "{flag}: the model is one of late interaction, whose vectors, one per token, are as its files say"
        ))),
    }
}

/// `rerank`: documents by their MaxSim score.
pub(super) fn rerank(
    texts: Texts<QueryDocuments>,
    args: &args::Rerank,
    plan: &Plan,
    job: Job,
) -> anyhow::Result<Status> {
    if args.activation == Some(ActivationChoice::Sigmoid) {
        return Err(Usage::error("--activation sigmoid: the scores of late interaction (MaxSim) have no activation"));
    }
    let task = driver::until_exit(MultiVectorEncoder::load(&job.files, &plan.options)?);
    let prompt = embed::prompt(&args.prompt);
    rerank::answer(texts, plan, job.sink, |inputs| Ok(task.rerank(inputs, &prompt)?))
}

/// `similarity`: texts by their MaxSim score, the first a query.
pub(super) fn similarity(
    texts: Texts<Comparison>,
    vectors: &VectorArgs,
    plan: &Plan,
    job: Job,
) -> anyhow::Result<Status> {
    refuse_vector_flags(vectors)?;
    let task = driver::until_exit(MultiVectorEncoder::load(&job.files, &plan.options)?);
    let prompt = embed::prompt(&vectors.prompt);
    similarity::answer(texts, plan, job.sink, |inputs| Ok(task.similarity(inputs, &prompt)?))
}

impl Payload for MultiVector {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["index", "embedding", "truncated"];
    const HEADS: &'static [&'static str] = &["index", "dimensions", "norm", "embedding"];

    fn rows(&self) -> Vec<Vec<String>> {
        self.vectors.rows().map(|vector| embed::row(self.index, vector)).collect()
    }
}
