//! Ranking by vectors: a query's and each document's are made apart, and compared by the model's own function.

use super::{Activation, RerankInput, RerankPlan, RerankReading, RerankRequest, RerankRow, Reranker};
use crate::heads::Similarity;
use crate::tasks::numbers::sigmoid;
use crate::tasks::{
    EmbedPlan, EmbedRequest, Embedding, IndexedScore, Outcome, Outcomes, Prepared, PromptChoice, SearchSide,
    TextEmbedder,
};
use crate::{Error, Result};

/// Queries and documents on their way; the queries' sequences come first.
#[derive(Debug)]
pub struct Sides {
    queries: EmbedPlan,
    documents: EmbedPlan,
    /// How many sequences the queries have.
    of_queries: usize,
    /// How many documents each query has.
    counts: Vec<usize>,
    activation: Option<Activation>,
}

/// The first stage. The prompt of the request is the query's; documents have their own.
pub(super) fn prepare(
    embedder: &TextEmbedder,
    inputs: &[RerankInput<'_>],
    request: &RerankRequest,
) -> Result<Prepared<Reranker>> {
    embedder.similarity_function()?;
    let of_side =
        |side, prompt| EmbedRequest::default().with_side(side).with_prompt(prompt).with_truncate(request.truncate);
    let queries: Vec<&str> = inputs.iter().map(|input| input.query).collect();
    let queries = embedder.prepare(&queries, &of_side(SearchSide::Query, request.prompt.clone()))?;
    let of_document = match request.prompt {
        PromptChoice::None => PromptChoice::None,
        _ => PromptChoice::Default,
    };
    let documents: Vec<&str> = inputs.iter().flat_map(|input| input.documents.iter().copied()).collect();
    let documents = embedder.prepare(&documents, &of_side(SearchSide::Document, of_document))?;
    let (mut sequences, reading, queries) = queries.into_parts();
    let (of_documents, _, documents) = documents.into_parts();
    let of_queries = sequences.len();
    sequences.extend(of_documents);
    let counts = inputs.iter().map(|input| input.documents.len()).collect();
    let sides = Sides { queries, documents, of_queries, counts, activation: request.activation };
    Ok(Prepared::new(sequences, RerankReading::Vectors(reading), RerankPlan::Vectors(sides)))
}

impl Sides {
    /// The documents of every query, best first.
    pub(super) fn ranked(
        &self,
        embedder: &TextEmbedder,
        mut rows: Vec<Result<RerankRow>>,
    ) -> Outcomes<Vec<IndexedScore>> {
        let similarity = match embedder.similarity_function() {
            Ok(similarity) => similarity,
            Err(error) => return self.counts.iter().map(|_| Err(error.clone())).collect(),
        };
        let vector = |row: Result<RerankRow>| match row? {
            RerankRow::Vector(vector) => Ok(vector),
            RerankRow::Score(_) => Err(Error::internal("a text was read as a pair")),
        };
        let of_documents = rows.split_off(self.of_queries.min(rows.len()));
        let queries = self.queries.answers(rows.into_iter().map(vector).collect());
        let mut documents = self.documents.answers(of_documents.into_iter().map(vector).collect()).into_iter();
        let ranked = self.counts.iter().zip(queries).map(|(&count, query)| {
            let documents: Outcomes<Embedding> = documents.by_ref().take(count).collect();
            let query = query?;
            let scored = documents.into_iter().map(|document| score(&query, document?, similarity, self.activation));
            super::ranked(scored.collect())
        });
        ranked.collect()
    }

    /// Where another kind of reranker is to rank them.
    pub(super) fn of_another(&self) -> Outcomes<Vec<IndexedScore>> {
        let error = |_: &usize| Err(Error::internal("a reranker was given what another prepared"));
        self.counts.iter().map(error).collect()
    }
}

fn score(
    query: &Outcome<Embedding>,
    document: Outcome<Embedding>,
    similarity: Similarity,
    activation: Option<Activation>,
) -> Result<Outcome<f32>> {
    let score = query.value.embedding.similarity(&document.value.embedding, similarity)?;
    let value = match activation {
        Some(Activation::Sigmoid) => sigmoid(score),
        None | Some(Activation::Raw) => score,
    };
    Ok(Outcome { value, truncated: query.truncated || document.truncated })
}
