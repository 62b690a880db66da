//! `rerank`.

use ettin::tasks::{Activation, IndexedScore, RerankInput, RerankRequest, Reranker};
use serde::{Serialize, Serializer};

use super::{driver, embed};
use crate::args::{self, ActivationChoice};
use crate::exit::Status;
use crate::input::{self, QueryDocuments, Texts};
use crate::output::{Format, Payload, number, shortened};
use crate::plan::{Plan, Suited};

pub(super) fn run(args: args::Rerank) -> anyhow::Result<Status> {
    let texts = texts(args.query, args.document, &args.run.input)?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("one output, a reranker"))?;
    let job = plan.open()?;
    let task = driver::until_exit(Reranker::load(&job.files, &plan.options)?);
    let activation = args.activation.map(|activation| match activation {
        ActivationChoice::Raw => Activation::Raw,
        ActivationChoice::Sigmoid => Activation::Sigmoid,
    });
    let request = RerankRequest { activation, prompt: embed::prompt(&args.prompt) };
    let format = plan.output.format;
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let inputs: Vec<RerankInput<'_>> = records
            .iter()
            .map(|(_, record)| RerankInput {
                query: &record.query,
                documents: record.documents.iter().map(String::as_str).collect(),
            })
            .collect();
        let outcomes = task.run(&inputs, &request)?;
        let documents = records.iter().map(|(_, record)| record.documents.as_slice());
        Ok(Ranked::all(outcomes, documents, format))
    })
}

fn texts(
    query: Option<String>,
    documents: Vec<String>,
    input: &args::InputArgs,
) -> anyhow::Result<Texts<QueryDocuments>> {
    let Some(query) = query else {
        return input::records(input, "QUERY");
    };
    let documents = input::arguments_or_lines(documents, input, "DOCUMENT")?;
    Ok(Texts::Arguments(vec![QueryDocuments { id: None, query, documents }]))
}

/// Scores of texts, with the texts where a table shows them.
pub(super) struct Ranked {
    scores: Vec<IndexedScore>,
    texts: Vec<String>,
}

impl Ranked {
    /// Puts the texts of each input beside their scores, for a table; other formats need none.
    pub(super) fn all<'a>(
        outcomes: ettin::tasks::Outcomes<Vec<IndexedScore>>,
        texts: impl Iterator<Item = &'a [String]>,
        format: Format,
    ) -> ettin::tasks::Outcomes<Ranked> {
        let with_texts = |(outcome, texts): (ettin::Result<ettin::tasks::Outcome<_>>, &[String])| {
            outcome.map(|outcome| ettin::tasks::Outcome {
                truncated: outcome.truncated,
                value: Ranked {
                    scores: outcome.value,
                    texts: match format {
                        Format::Table => texts.iter().map(|text| shortened(text)).collect(),
                        _ => Vec::new(),
                    },
                },
            })
        };
        outcomes.into_iter().zip(texts).map(with_texts).collect()
    }
}

impl Serialize for Ranked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.scores.serialize(serializer)
    }
}

impl Payload for Ranked {
    const LIST: bool = true;
    const HEADS: &'static [&'static str] = &["score", "index", "text"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |scored: &IndexedScore| {
            vec![
                number(scored.score.into()),
                scored.index.to_string(),
                self.texts.get(scored.index).cloned().unwrap_or_default(),
            ]
        };
        self.scores.iter().map(row).collect()
    }
}
