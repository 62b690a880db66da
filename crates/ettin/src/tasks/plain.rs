//! Plain results for plain wishes: no requests, no outcomes.
//!
//! These methods fail with the error of the first input that failed; the `run` beside each gives every input its own.

use super::{
    Answer, AnswerRequest, Answerer, Candidate, ChoiceInput, Classifier, ClassifyRequest, EmbedRequest, Embedding,
    Embeddings, Entity, EntityExtractor, EntityRequest, FillMask, Fills, IndexedScore, Label, MultipleChoice, Outcomes,
    Question, RerankInput, RerankRequest, Reranker, ScoreInput, ScoreRequest, Scored, ScoredChoice, Scorer,
    SparseVector, Tag, TagRequest, Tagger, TextEmbedder, TextInput, TextVectors, ZeroShotClassifier, ZeroShotInput,
    ZeroShotLabels, ZeroShotRequest,
};
use crate::{Error, Result};

/// The values alone, or the first error.
fn values<T>(outcomes: Outcomes<T>) -> Result<Vec<T>> {
    outcomes.into_iter().map(|outcome| Ok(outcome?.value)).collect()
}

/// The value of a single input.
fn single<T>(outcomes: Outcomes<T>) -> Result<T> {
    values(outcomes)?.pop().ok_or_else(|| Error::internal("one input gave no result"))
}

fn texts_of(texts: &[impl AsRef<str>]) -> Vec<&str> {
    texts.iter().map(AsRef::as_ref).collect()
}

impl EntityExtractor {
    /// The entities of one text with these labels.
    ///
    /// # Errors
    /// As [`labels`](Self::labels) and [`run`](Self::run); the error of the text.
    pub fn extract(&self, text: &str, labels: &[impl AsRef<str>]) -> Result<Vec<Entity>> {
        single(self.run(&[text], &self.labels(labels)?, &EntityRequest::default())?)
    }
}

impl TextEmbedder {
    /// One vector per text, as the model's files describe it: `[texts, size]`.
    ///
    /// ```
    /// # fn main() -> ettin::Result<()> {
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
    /// use ettin::{files::ModelFiles, tasks::{Options, TextEmbedder}};
    ///
    /// let embedder = TextEmbedder::load(&ModelFiles::open(folder)?, &Options::default())?;
    /// let vectors = embedder.embed(&["The cat sat on the mat.", "A dog."])?;
    /// assert_eq!(vectors.shape, [2, 256]);
    /// assert_eq!(vectors[1].len(), 256);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error of the first text that failed; failures of the engine.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Embeddings> {
        self.embed_with(texts, &EmbedRequest::default())
    }

    /// The same with a request: another pooling, scale, size, layer or prompt.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); [`Error::Input`] for a request that does not fit the model, or that asks for one
    /// vector per token.
    pub fn embed_with(&self, texts: &[impl AsRef<str>], request: &EmbedRequest) -> Result<Embeddings> {
        if request.per_token {
            return Err(Error::input("one vector per text was asked for with a request for one per token"));
        }
        if self.is_sparse() {
            return Err(Error::input("dense vectors were asked of a model whose vectors are sparse; `embed_sparse`"));
        }
        let pooled = |vector| match vector {
            TextVectors::Pooled(vector) => Some(vector),
            TextVectors::Tokens(_) | TextVectors::Sparse(_) => None,
        };
        let embedded = values(self.run(&texts_of(texts), request)?)?;
        let rows: Option<Vec<_>> = embedded.into_iter().map(|embedding| pooled(embedding.embedding)).collect();
        rows.and_then(Embeddings::from_rows).ok_or_else(uneven)
    }

    /// One sparse vector per text, of a model that makes such ones.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); [`Error::Input`] for a model whose vectors are dense.
    pub fn embed_sparse(&self, texts: &[impl AsRef<str>], request: &EmbedRequest) -> Result<Vec<SparseVector>> {
        let sparse = |embedding: Embedding| match embedding.embedding {
            TextVectors::Sparse(vector) => Ok(vector),
            _ => Err(Error::input("sparse vectors were asked of a model whose vectors are dense")),
        };
        values(self.run(&texts_of(texts), request)?)?.into_iter().map(sparse).collect()
    }

    /// One vector per token of each text, special tokens included: `[tokens, size]` for every text.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_tokens(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Embeddings>> {
        self.embed_tokens_with(texts, &EmbedRequest::default())
    }

    /// The same with a request, which need not ask for one vector per token.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); [`Error::Input`] for a request that does not fit the model, or that asks for a
    /// pooling.
    pub fn embed_tokens_with(&self, texts: &[impl AsRef<str>], request: &EmbedRequest) -> Result<Vec<Embeddings>> {
        let request = request.clone().with_per_token(true);
        let tokens = |vector| match vector {
            TextVectors::Tokens(rows) => Embeddings::from_rows(rows),
            TextVectors::Pooled(_) | TextVectors::Sparse(_) => None,
        };
        let embedded = values(self.run(&texts_of(texts), &request)?)?;
        embedded.into_iter().map(|embedding| tokens(embedding.embedding).ok_or_else(uneven)).collect()
    }
}

fn uneven() -> Error {
    Error::internal("vectors of one request differ in form")
}

impl FillMask {
    /// The `top_k` best fillings of every mask of one text: a list per mask, best first.
    ///
    /// # Errors
    /// [`Error::Input`] for a text without a mask; failures of the engine.
    pub fn fill(&self, text: &str, top_k: usize) -> Result<Vec<Vec<Candidate>>> {
        Ok(match single(self.run(&[text], top_k)?)? {
            Fills::One(candidates) => vec![candidates],
            Fills::Many(lists) => lists,
        })
    }
}

impl Classifier {
    /// The best label of every text.
    ///
    /// # Errors
    /// The error of the first text that failed; failures of the engine.
    pub fn classify(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Label>> {
        let inputs: Vec<TextInput<'_>> = texts.iter().map(|text| text.as_ref().into()).collect();
        let best = |labels: Vec<Label>| labels.into_iter().next().ok_or_else(|| Error::internal("a text has no label"));
        values(self.run(&inputs, &ClassifyRequest::default())?)?.into_iter().map(best).collect()
    }
}

impl ZeroShotClassifier {
    /// The labels of a text, best first, of which one holds.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty text and without labels; failures of the engine.
    pub fn classify(&self, text: &str, labels: &[impl AsRef<str>]) -> Result<ZeroShotLabels> {
        let input = ZeroShotInput { text, labels: texts_of(labels) };
        single(self.run(&[input], &ZeroShotRequest::default())?)
    }
}

impl MultipleChoice {
    /// The choices, best first, each with its index.
    ///
    /// # Errors
    /// [`Error::Input`] without choices; failures of the engine.
    pub fn choose(&self, context: &str, choices: &[impl AsRef<str>]) -> Result<Vec<ScoredChoice>> {
        single(self.run(&[ChoiceInput { context, choices: texts_of(choices) }])?)
    }
}

impl Tagger {
    /// The tags of every token of every text, in text order, without those labelled `O`.
    ///
    /// # Errors
    /// The error of the first text that failed; failures of the engine.
    pub fn tag(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<Tag>>> {
        values(self.run(&texts_of(texts), &TagRequest::default())?)
    }
}

impl Answerer {
    /// The best answer to a question in a text.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty question or context; failures of the engine.
    pub fn answer(&self, question: &str, context: &str) -> Result<Answer> {
        single(self.run(&[Question { question, context }], &AnswerRequest::default())?)
    }
}

impl Reranker {
    /// The documents' scores against a query, best first, each with the index of its document.
    ///
    /// # Errors
    /// The error of the first document that failed; failures of the engine.
    pub fn rerank(&self, query: &str, documents: &[impl AsRef<str>]) -> Result<Vec<IndexedScore>> {
        let input = RerankInput { query, documents: texts_of(documents) };
        single(self.run(&[input], &RerankRequest::default())?)
    }
}

impl Scorer {
    /// The log-probabilities of every text's tokens, by the method that suits the model.
    ///
    /// # Errors
    /// The error of the first text that failed; failures of the engine.
    pub fn score(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Scored>> {
        let inputs: Vec<ScoreInput<'_>> =
            texts.iter().map(|text| ScoreInput { text: text.as_ref(), context: None }).collect();
        values(self.run(&inputs, &ScoreRequest::default())?)
    }
}
