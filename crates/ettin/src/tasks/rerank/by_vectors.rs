//! Ranking by vectors: a query's and each document's are made apart, and compared by the model's own function.

use super::{Activation, RerankInput, RerankRequest, ranked};
use crate::Result;
use crate::heads::Similarity;
use crate::tasks::numbers::sigmoid;
use crate::tasks::{EmbedRequest, Embedding, IndexedScore, Outcome, Outcomes, PromptChoice, SearchSide, TextEmbedder};

/// The documents of every query, best first. The prompt of the request is the query's; documents have their own.
pub(super) fn run(
    embedder: &TextEmbedder,
    inputs: &[RerankInput<'_>],
    request: &RerankRequest,
) -> Result<Outcomes<Vec<IndexedScore>>> {
    let similarity = embedder.similarity_function()?;
    let of_side = |side, prompt| EmbedRequest::default().with_side(side).with_prompt(prompt);
    let queries: Vec<&str> = inputs.iter().map(|input| input.query).collect();
    let queries = embedder.run(&queries, &of_side(SearchSide::Query, request.prompt.clone()))?;
    let of_document = match request.prompt {
        PromptChoice::None => PromptChoice::None,
        _ => PromptChoice::Default,
    };
    let documents: Vec<&str> = inputs.iter().flat_map(|input| input.documents.iter().copied()).collect();
    let documents = embedder.run(&documents, &of_side(SearchSide::Document, of_document))?;
    let mut documents = documents.into_iter();
    let ranked = inputs.iter().zip(queries).map(|(input, query)| {
        let scores = documents.by_ref().take(input.documents.len());
        match query {
            Ok(query) => ranked(scores.map(|document| score(&query, document?, similarity, request)).collect()),
            Err(error) => {
                scores.for_each(drop);
                Err(error)
            }
        }
    });
    Ok(ranked.collect())
}

fn score(
    query: &Outcome<Embedding>,
    document: Outcome<Embedding>,
    similarity: Similarity,
    request: &RerankRequest,
) -> Result<Outcome<f32>> {
    let score = query.value.embedding.similarity(&document.value.embedding, similarity)?;
    let value = match request.activation {
        Some(Activation::Sigmoid) => sigmoid(score),
        None | Some(Activation::Raw) => score,
    };
    Ok(Outcome { value, truncated: query.truncated || document.truncated })
}
