//! Vectors and what is compared by them.

use ettin::tasks::{EmbedInput, EmbedRequest, Embeddings, IndexedScore, MultiVector, MultiVectorRequest, TextVectors};

use super::{Answered, CallSize, InputText, Service, values};
use crate::error::ServeError;
use crate::metrics::CallKind;
use crate::models::Ability;
use crate::scheduler::Caller;

/// Texts to embed.
#[derive(Debug, Clone, Default)]
pub struct EmbedCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts or ids.
    pub inputs: Vec<InputText>,
    /// How: pooling, scale, dimensions, prompt, one vector per token, truncation.
    pub request: EmbedRequest,
}

/// Texts to embed as several vectors each.
#[derive(Debug, Clone)]
pub struct MultiVectorCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// How, and on which side of a search.
    pub request: MultiVectorRequest,
}

/// A text to compare with others.
#[derive(Debug, Clone, Default)]
pub struct SimilarityCall {
    /// The model's name.
    pub model: Option<String>,
    /// The text.
    pub source: String,
    /// The others.
    pub sentences: Vec<String>,
    /// How they are embedded.
    pub request: EmbedRequest,
}

impl Service {
    /// A dense vector per input, or one per token of it where `per_token` is asked for.
    ///
    /// # Errors
    /// Those of a call, see the [module](crate::service).
    pub async fn embed(&self, call: EmbedCall, caller: Caller) -> Result<Answered<Vec<TextVectors>>, ServeError> {
        self.embed_as(Ability::Embed, call, caller).await
    }

    /// A sparse vector per input.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn embed_sparse(
        &self,
        call: EmbedCall,
        caller: Caller,
    ) -> Result<Answered<Vec<TextVectors>>, ServeError> {
        self.embed_as(Ability::EmbedSparse, call, caller).await
    }

    async fn embed_as(
        &self,
        need: Ability,
        EmbedCall { model, inputs, mut request }: EmbedCall,
        caller: Caller,
    ) -> Result<Answered<Vec<TextVectors>>, ServeError> {
        self.defaults.complete(&mut request);
        let task = self.task(model.as_deref(), need, |model| model.tasks.embed.as_ref())?;
        let size = CallSize::of_inputs(&inputs).not_empty()?;
        let prepare = move |task: &ettin::tasks::TextEmbedder| task.prepare_inputs(&inputs, &request, embed_input);
        self.staged(CallKind::Embed, task, size, caller, prepare, |outcomes, usage| {
            Ok(values(outcomes, usage)?.into_iter().map(|embedding| embedding.embedding).collect())
        })
        .await
    }

    /// Several vectors per text: `[tokens, size]`.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn embed_multi(
        &self,
        MultiVectorCall { model, texts, request }: MultiVectorCall,
        caller: Caller,
    ) -> Result<Answered<Vec<Embeddings>>, ServeError> {
        let task = self.task(model.as_deref(), Ability::EmbedMulti, |model| model.tasks.multi_vector.as_ref())?;
        let size = CallSize::of(texts.iter().map(String::as_str)).not_empty()?;
        let prepare = move |task: &ettin::tasks::MultiVectorEncoder| task.prepare(&texts_of(&texts), &request);
        self.staged_apart(CallKind::Embed, task, size, caller, prepare, |outcomes, usage| {
            Ok(values(outcomes, usage)?.into_iter().map(|vectors: MultiVector| vectors.vectors).collect())
        })
        .await
    }

    /// Compares a text with each of the others, by the model's own function.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn similarity(
        &self,
        SimilarityCall { model, source, sentences, mut request }: SimilarityCall,
        caller: Caller,
    ) -> Result<Answered<Vec<IndexedScore>>, ServeError> {
        self.defaults.complete(&mut request);
        let (model, task) = self.task(model.as_deref(), Ability::Embed, |model| model.tasks.embed.as_ref())?;
        let similarity = task.similarity_function()?;
        CallSize::of(sentences.iter().map(String::as_str)).not_empty()?;
        let texts: Vec<String> = std::iter::once(source).chain(sentences).collect();
        let size = CallSize::of(texts.iter().map(String::as_str));
        let prepare = move |task: &ettin::tasks::TextEmbedder| task.prepare(&texts_of(&texts), &request);
        self.staged(CallKind::Embed, (model, task), size, caller, prepare, |outcomes, usage| {
            let vectors = values(outcomes, usage)?;
            let Some((source, others)) = vectors.split_first() else {
                return Err(ServeError::internal("a comparison has no first text"));
            };
            let compare = |(index, other): (usize, &ettin::tasks::Embedding)| {
                let score = source.embedding.similarity(&other.embedding, similarity)?;
                Ok(IndexedScore { index, score })
            };
            others.iter().enumerate().map(compare).collect()
        })
        .await
    }
}

fn embed_input(input: &InputText) -> EmbedInput<'_> {
    match input {
        InputText::Text(text) => EmbedInput::Text(text),
        InputText::Ids(ids) => EmbedInput::Ids(ids),
    }
}

pub(super) fn texts_of(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
