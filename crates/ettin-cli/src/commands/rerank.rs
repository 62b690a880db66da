//! `rerank`.

use ettin::tasks::{Activation, IndexedScore, Outcomes, RerankInput, RerankRequest, Reranker, TextEmbedder};
use serde::{Serialize, Serializer};

use super::{driver, embed, multi_vector};
use crate::args::{self, ActivationChoice, RerankPooling};
use crate::exit::{Status, Usage};
use crate::input::{self, Input, QueryDocuments, Texts};
use crate::output::{Cut, Format, LIST_KEYS, Payload, Sink, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(mut args: args::Rerank) -> anyhow::Result<Status> {
    let (query, documents) = (args.query.take(), std::mem::take(&mut args.document));
    let texts = texts(query, documents, &plan::input(&args.run.input))?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("one output, a reranker"))?;
    let job = plan.open()?;
    if multi_vector::fits(&job.files)? {
        if args.pooling.is_some() {
            return Err(Usage::error("--pooling splade: the model is one of late interaction, and scores by MaxSim"));
        }
        return multi_vector::rerank(texts, &args, &plan, job);
    }
    let task = driver::until_exit(match args.pooling {
        Some(RerankPooling::Splade) => Reranker::by_similarity(TextEmbedder::load_splade(&job.files, &plan.options)?),
        None => Reranker::load(&job.files, &plan.options)?,
    });
    let activation = args.activation.map(|activation| match activation {
        ActivationChoice::Raw => Activation::Raw,
        ActivationChoice::Sigmoid => Activation::Sigmoid,
    });
    let request = RerankRequest::default().with_activation(activation).with_prompt(embed::prompt(&args.prompt));
    answer(texts, &plan, job.sink, |inputs| task.run(inputs, &request).map_err(advised))
}

/// Answers every query by what scores its documents.
pub(super) fn answer(
    texts: Texts<QueryDocuments>,
    plan: &Plan,
    sink: Sink,
    score: impl Fn(&[RerankInput<'_>]) -> anyhow::Result<Outcomes<Vec<IndexedScore>>>,
) -> anyhow::Result<Status> {
    driver::answer(texts, plan.chunk_size(), &plan.output, sink, |records| {
        let inputs: Vec<RerankInput<'_>> = records
            .iter()
            .map(|(_, record)| RerankInput {
                query: &record.query,
                documents: record.documents.iter().map(String::as_str).collect(),
            })
            .collect();
        let documents = records.iter().map(|(_, record)| (record.documents.as_slice(), record.numbers.as_deref()));
        Ok(Ranked::all(score(&inputs)?, documents, plan.output.format))
    })
}

/// What to type about an activation of the model's that is not implemented: nothing else is found unsupported this
/// late.
fn advised(error: ettin::Error) -> anyhow::Error {
    match error {
        ettin::Error::Unsupported(_) => anyhow::anyhow!("{error} (--activation raw or sigmoid)"),
        error => error.into(),
    }
}

fn texts(query: Option<String>, documents: Vec<String>, input: &Input) -> anyhow::Result<Texts<QueryDocuments>> {
    let Some(query) = query else {
        return input::records(input, "QUERY");
    };
    let (documents, numbers) = input::listed(documents, input, "DOCUMENT")?;
    Ok(Texts::Arguments(vec![QueryDocuments { id: None, query, documents, numbers }]))
}

/// Scores of texts, with the texts where a table shows them.
pub(super) struct Ranked {
    scores: Vec<IndexedScore>,
    /// The text of each score.
    texts: Vec<String>,
}

impl Ranked {
    /// Gives scores the numbers of their texts, and puts the texts beside them for a table; other formats need none.
    ///
    /// `texts` has those of each input, with their numbers where they are not 0, 1, 2, ….
    pub(super) fn all<'a>(
        outcomes: Outcomes<Vec<IndexedScore>>,
        texts: impl Iterator<Item = (&'a [String], Option<&'a [usize]>)>,
        format: Format,
    ) -> Outcomes<Ranked> {
        let ranked = |scores: Vec<IndexedScore>, texts: &[String], numbers: Option<&[usize]>| {
            let text = |scored: &IndexedScore| texts.get(scored.index).map(|text| shortened(text)).unwrap_or_default();
            let texts = match format {
                Format::Table => scores.iter().map(text).collect(),
                _ => Vec::new(),
            };
            let number = |scored: IndexedScore| IndexedScore {
                index: numbers.and_then(|numbers| numbers.get(scored.index)).copied().unwrap_or(scored.index),
                ..scored
            };
            Ranked { scores: scores.into_iter().map(number).collect(), texts }
        };
        let outcomes = outcomes.into_iter().zip(texts);
        let ranked = outcomes.map(|(outcome, (texts, numbers))| {
            let ettin::tasks::Outcome { value, truncated } = outcome?;
            Ok(ettin::tasks::Outcome { value: ranked(value, texts, numbers), truncated })
        });
        ranked.collect()
    }
}

impl Serialize for Ranked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.scores.serialize(serializer)
    }
}

impl Payload for Ranked {
    const LIST: bool = true;
    const KEYS: &'static [&'static str] = LIST_KEYS;
    const HEADS: &'static [&'static str] = &["score", "index", "text"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(scored, text): (&IndexedScore, &String)| {
            vec![number(scored.score.into()), scored.index.to_string(), text.clone()]
        };
        self.scores.iter().zip(&self.texts).map(row).collect()
    }

    fn serialize_cut<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Cut::all(&self.scores).serialize(serializer)
    }
}
