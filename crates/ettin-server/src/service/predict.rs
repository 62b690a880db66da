//! Scores and labels.

use ettin::tasks::{
    Answer, AnswerRequest, Answerer, Classifier, ClassifyRequest, FillMask, Fills, IndexedScore, Label,
    MultiVectorEncoder, MultiVectorRequest, Question, RerankInput, RerankRequest, Reranker, SearchSide, Tag,
    TagRequest, Tagger, TextInput, ZeroShotClassifier, ZeroShotInput, ZeroShotLabels, ZeroShotRequest,
};

use super::embed::texts_of;
use super::{Answered, CallSize, Service, single, values};
use crate::error::{ErrorKind, ServeError};
use crate::metrics::CallKind;
use crate::models::Ability;
use crate::scheduler::Caller;

/// A text, or two that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairText {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
}

/// Texts or pairs to label.
#[derive(Debug, Clone, Default)]
pub struct ClassifyCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts or pairs.
    pub inputs: Vec<PairText>,
    /// How many labels, logits or probabilities, truncation.
    pub request: ClassifyRequest,
}

/// A query and the documents to rank for it.
#[derive(Debug, Clone, Default)]
pub struct RerankCall {
    /// The model's name.
    pub model: Option<String>,
    /// The query.
    pub query: String,
    /// The documents.
    pub documents: Vec<String>,
    /// Which activation, which prompt, truncation. Late interaction takes the prompt alone.
    pub request: RerankRequest,
}

/// Pairs to score, each by itself.
#[derive(Debug, Clone, Default)]
pub struct ScorePairsCall {
    /// The model's name.
    pub model: Option<String>,
    /// Queries, each with its document.
    pub pairs: Vec<(String, String)>,
    /// As for [`RerankCall`].
    pub request: RerankRequest,
}

/// Texts whose tokens are to be labelled.
#[derive(Debug, Clone, Default)]
pub struct TagCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// How tokens are joined.
    pub request: TagRequest,
}

/// A question and the text that answers it.
#[derive(Debug, Clone, Default)]
pub struct AnswerCall {
    /// The model's name.
    pub model: Option<String>,
    /// The question.
    pub question: String,
    /// The text.
    pub context: String,
    /// How to search.
    pub request: AnswerRequest,
}

/// Texts with masks.
#[derive(Debug, Clone, Default)]
pub struct FillMaskCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// How many fillings of each mask.
    pub top_k: usize,
}

/// Texts and labels of the caller's own.
#[derive(Debug, Clone, Default)]
pub struct ZeroShotCall {
    /// The model's name.
    pub model: Option<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// The labels, the same for all texts.
    pub labels: Vec<String>,
    /// Which sentence is made of labels, and whether several may hold.
    pub request: ZeroShotRequest,
}

impl Service {
    /// The labels of every input, best first.
    ///
    /// # Errors
    /// Those of a call, see the [module](crate::service).
    pub async fn classify(
        &self,
        ClassifyCall { model, inputs, request }: ClassifyCall,
        caller: Caller,
    ) -> Result<Answered<Vec<Vec<Label>>>, ServeError> {
        let task = self.task(model.as_deref(), Ability::Classify, |model| model.tasks.classify.as_ref())?;
        let texts = inputs.iter().flat_map(|input| std::iter::once(&input.text).chain(&input.pair));
        let size = CallSize { inputs: inputs.len(), ..CallSize::of(texts.map(String::as_str)) }.not_empty()?;
        let prepare = move |task: &Classifier| {
            let inputs: Vec<TextInput<'_>> =
                inputs.iter().map(|input| TextInput { text: &input.text, pair: input.pair.as_deref() }).collect();
            task.prepare(&inputs, &request)
        };
        self.staged(CallKind::Predict, task, size, caller, prepare, values).await
    }

    /// The documents, best first.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn rerank(&self, call: RerankCall, caller: Caller) -> Result<Answered<Vec<IndexedScore>>, ServeError> {
        let size = CallSize::of(call.documents.iter().map(String::as_str)).not_empty()?;
        let model = self.registry.choose(call.model.as_deref(), Ability::Rerank).map_err(super::told)?;
        if let Some(task) = model.tasks.multi_vector.clone() {
            return self.rerank_by_vectors((model, task), call, size, caller).await;
        }
        let task = self.task(call.model.as_deref(), Ability::Rerank, |model| model.tasks.rerank.as_ref())?;
        // The query is read with every document.
        let bytes = size.bytes + size.inputs * call.query.len();
        let characters = size.characters + size.inputs * call.query.chars().count();
        let size = CallSize { bytes, characters, ..size };
        let prepare = move |task: &Reranker| {
            task.prepare(&[RerankInput { query: &call.query, documents: texts_of(&call.documents) }], &call.request)
        };
        let documents = size.inputs;
        self.staged(CallKind::Predict, task, size, caller, prepare, move |outcomes, usage| {
            let ranked = single(outcomes, usage)?;
            match ranked.len() == documents {
                true => Ok(ranked),
                false => Err(ServeError::internal("a document has no score")),
            }
        })
        .await
    }

    /// A score per pair, in the order of the pairs.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn score_pairs(&self, call: ScorePairsCall, caller: Caller) -> Result<Answered<Vec<f32>>, ServeError> {
        let ScorePairsCall { model, pairs, request } = call;
        let texts = pairs.iter().flat_map(|(query, document)| [query.as_str(), document.as_str()]);
        let size = CallSize { inputs: pairs.len(), ..CallSize::of(texts) }.not_empty()?;
        if self.registry.choose(model.as_deref(), Ability::Rerank).map_err(super::told)?.tasks.rerank.is_none() {
            let message = "late interaction ranks documents for a query; send them to /rerank";
            return Err(super::told(ServeError::new(ErrorKind::WrongModel, message)));
        }
        let task = self.task(model.as_deref(), Ability::Rerank, |model| model.tasks.rerank.as_ref())?;
        let prepare = move |task: &Reranker| {
            let inputs: Vec<RerankInput<'_>> =
                pairs.iter().map(|(query, document)| RerankInput { query, documents: vec![document] }).collect();
            task.prepare(&inputs, &request)
        };
        self.staged(CallKind::Predict, task, size, caller, prepare, |outcomes, usage| {
            let scores = values(outcomes, usage)?.into_iter().map(|ranked| match ranked.as_slice() {
                [one] => Ok(one.score),
                _ => Err(ServeError::internal("a pair has no score")),
            });
            scores.collect()
        })
        .await
    }

    /// By late interaction: queries and documents are encoded apart.
    async fn rerank_by_vectors(
        &self,
        (model, task): (std::sync::Arc<crate::models::LoadedModel>, std::sync::Arc<MultiVectorEncoder>),
        call: RerankCall,
        size: CallSize,
        caller: Caller,
    ) -> Result<Answered<Vec<IndexedScore>>, ServeError> {
        if call.request.activation.is_some() {
            let message = "late interaction has scores of its own; leave the activation out";
            return Err(ServeError::new(ErrorKind::Validation, message));
        }
        let request = |side| MultiVectorRequest::default().with_side(side).with_prompt(call.request.prompt.clone());
        let (of_query, of_documents) = (request(SearchSide::Query), request(SearchSide::Document));
        let (query, documents) = (call.query, call.documents);
        let query_size = CallSize::of([query.as_str()]);
        let both = (model.clone(), task.clone());
        let query = self.staged_apart(
            CallKind::Predict,
            both,
            query_size,
            caller,
            move |task: &MultiVectorEncoder| task.prepare(&[&query], &of_query),
            |mut outcomes, _| outcomes.pop().ok_or_else(|| ServeError::internal("a query has no vectors")),
        );
        let documents = self.staged_apart(
            CallKind::Predict,
            (model, task.clone()),
            size,
            caller,
            move |task: &MultiVectorEncoder| task.prepare(&texts_of(&documents), &of_documents),
            |outcomes, usage| {
                usage.truncated = outcomes.iter().flatten().filter(|outcome| outcome.truncated).count();
                Ok(outcomes)
            },
        );
        let (query, documents) = tokio::try_join!(query, documents)?;
        let ranked = task.ranked(query.value?, documents.value)?.value;
        let mut usage = documents.usage;
        usage.tokens += query.usage.tokens;
        let Answered { model, times, total, .. } = documents;
        Ok(Answered { value: ranked, model, usage, times, total })
    }

    /// The tags of every text, in text order.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn tag(
        &self,
        TagCall { model, texts, request }: TagCall,
        caller: Caller,
    ) -> Result<Answered<Vec<Vec<Tag>>>, ServeError> {
        let task = self.task(model.as_deref(), Ability::Tag, |model| model.tasks.tag.as_ref())?;
        let size = CallSize::of(texts.iter().map(String::as_str)).not_empty()?;
        let prepare = move |task: &Tagger| Ok(task.prepare(&texts_of(&texts), &request));
        self.staged_apart(CallKind::Predict, task, size, caller, prepare, values).await
    }

    /// The best answer.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn answer(
        &self,
        AnswerCall { model, question, context, request }: AnswerCall,
        caller: Caller,
    ) -> Result<Answered<Answer>, ServeError> {
        let task = self.task(model.as_deref(), Ability::Answer, |model| model.tasks.answer.as_ref())?;
        let size = CallSize { inputs: 1, ..CallSize::of([question.as_str(), context.as_str()]) };
        let prepare =
            move |task: &Answerer| task.prepare(&[Question { question: &question, context: &context }], &request);
        self.staged_apart(CallKind::Predict, task, size, caller, prepare, single).await
    }

    /// The best fillings of every mask of every text.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn fill_mask(
        &self,
        FillMaskCall { model, texts, top_k }: FillMaskCall,
        caller: Caller,
    ) -> Result<Answered<Vec<Fills>>, ServeError> {
        let task = self.task(model.as_deref(), Ability::FillMask, |model| model.tasks.fill_mask.as_ref())?;
        let size = CallSize::of(texts.iter().map(String::as_str)).not_empty()?;
        let prepare = move |task: &FillMask| Ok(task.prepare(&texts_of(&texts), top_k));
        self.staged_apart(CallKind::Predict, task, size, caller, prepare, values).await
    }

    /// The labels of every text, best first.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn zero_shot(
        &self,
        ZeroShotCall { model, texts, labels, request }: ZeroShotCall,
        caller: Caller,
    ) -> Result<Answered<Vec<ZeroShotLabels>>, ServeError> {
        let task = self.task(model.as_deref(), Ability::ZeroShot, |model| model.tasks.zero_shot.as_ref())?;
        let size = CallSize::of(texts.iter().map(String::as_str)).not_empty()?;
        let of_labels = CallSize::of(labels.iter().map(String::as_str)).bytes;
        let pairs = size.bytes * labels.len() + of_labels * texts.len();
        let prepare = move |task: &ZeroShotClassifier| {
            let inputs: Vec<ZeroShotInput<'_>> =
                texts.iter().map(|text| ZeroShotInput { text, labels: texts_of(&labels) }).collect();
            Ok(task.prepare(&inputs, &request))
        };
        let size = CallSize { bytes: pairs, ..size };
        self.staged_apart(CallKind::Predict, task, size, caller, prepare, values).await
    }
}
