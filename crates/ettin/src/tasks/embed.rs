//! Embeddings and similarity.

use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::prompt::{PromptChoice, Prompts};
use super::spec::{TaskSpec, of_scores};
use super::{Options, Outcome, Outcomes, Preprocessor};
use crate::batching::Item;
use crate::files::ModelFiles;
use crate::finite::{self, Traced};
use crate::heads::{Asked, Chain, EmbedOptions, Embedder, Similarity, TracedEmbedder};
use crate::pooling::Pooling;
use crate::sentence_transformers::{ModelType, SearchSide};
use crate::setters::setters;
use crate::tokenizer::Limit;
use crate::{Error, Result};

/// Turns texts into vectors.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{EmbedRequest, Options, TextEmbedder};
///
/// let embedder = TextEmbedder::load(&ModelFiles::folder(folder)?, &Options::default())?;
/// let request = EmbedRequest::default().with_normalize(true);
/// let vectors = embedder.embed_with(&["The cat sat on the mat.", "A kitten rested on the rug."], &request)?;
/// assert_eq!(vectors.shape, [2, 256]);
/// assert!((vectors[0].iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TextEmbedder {
    model: Arc<Embedder>,
    preprocessor: Preprocessor,
    prompts: Prompts,
    /// Limits of texts on one side of a search.
    queries: Limit,
    documents: Limit,
}

/// How to embed; the default leaves everything to the model's own files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EmbedRequest {
    /// Pooling instead of the model's.
    pub pooling: Option<Pooling>,
    /// One vector per token instead of one per text; excludes `pooling`.
    pub per_token: bool,
    /// Scale to unit length, or not, instead of the model's choice.
    pub normalize: Option<bool>,
    /// Keep only the first dimensions (Matryoshka) instead of what the model's files say; what was normalised is
    /// normalised again.
    pub dimensions: Option<usize>,
    /// Hidden states of this layer: 0 the embeddings, the number of layers the last (after the final norm).
    pub layer: Option<usize>,
    /// The prompt.
    pub prompt: PromptChoice,
}

setters!(EmbedRequest {
    /// With a pooling instead of the model's.
    with_pooling(pooling: impl Into<Option<Pooling>>);
    /// With one vector per token, or one per text.
    with_per_token(per_token: bool);
    /// With vectors scaled to unit length, or not, instead of the model's choice.
    with_normalize(normalize: impl Into<Option<bool>>);
    /// With the first dimensions alone.
    with_dimensions(dimensions: impl Into<Option<usize>>);
    /// With hidden states of another layer.
    with_layer(layer: impl Into<Option<usize>>);
    /// With another prompt.
    with_prompt(prompt: PromptChoice);
});

/// A vector per text, or one per token of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TextVectors {
    /// `[dimensions]`.
    Pooled(Vec<f32>),
    /// `[tokens, dimensions]`, special tokens included.
    Tokens(Vec<Vec<f32>>),
}

impl TextVectors {
    fn is_finite(&self) -> bool {
        match self {
            TextVectors::Pooled(vector) => finite::is_finite(vector),
            TextVectors::Tokens(vectors) => vectors.iter().all(|vector| finite::is_finite(vector)),
        }
    }
}

/// The embedding of one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embedding {
    /// Index of the input.
    pub index: usize,
    /// The vector.
    pub embedding: TextVectors,
}

/// A score and the index of the text it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IndexedScore {
    /// Index among the texts compared.
    pub index: usize,
    /// The score.
    pub score: f32,
}

/// A text and those it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimilarityInput<'a> {
    /// The text.
    pub a: &'a str,
    /// What it is compared with.
    pub b: Vec<&'a str>,
}

impl TextEmbedder {
    /// Loads a trunk or a sentence-transformers chain.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for rerankers, late interaction and SPLADE; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "embed", objective: None };
        let (model, tokenizer) = spec.load_parts(files, options, Embedder::load)?;
        let Some(chain) = model.chain() else {
            let preprocessor = Preprocessor::within(Bounds::lenient(files, model.config())?, tokenizer, options);
            return Ok(Self::new(model, preprocessor));
        };
        if chain.settings().model_type == Some(ModelType::CrossEncoder) {
            return Err(Error::Unsupported(format!(
                "embeddings of {}: config_sentence_transformers.json says that it is {}",
                files.name(),
                match chain.scores_size() {
                    Some(scores) => of_scores(scores),
                    None => "a CrossEncoder, but no module of modules.json writes its scores".to_owned(),
                }
            )));
        }
        let transformer = chain.transformer();
        let bounds = |role| Bounds::sentence_transformers(files, transformer, model.config(), role);
        let side = tokenizer.truncation_side();
        let queries = bounds(Some(SearchSide::Query))?.limit(options, side);
        let documents = bounds(Some(SearchSide::Document))?.limit(options, side);
        let preprocessor =
            Preprocessor::within(bounds(None)?, tokenizer, options).with_special_tokens(transformer.special_tokens);
        Ok(Self { queries, documents, ..Self::new(model, preprocessor) })
    }

    /// An embedder of parts; the preprocessor's limit holds for texts on either side of a search.
    pub fn new(model: impl Into<Arc<Embedder>>, preprocessor: Preprocessor) -> Self {
        let model = model.into();
        let prompts = model.chain().map_or_else(Prompts::of_embedder, |chain| Prompts::new(chain.settings()));
        let limit = preprocessor.limit;
        Self { model, preprocessor, prompts, queries: limit, documents: limit }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Embedder> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The pooling taken because the model's files configure none; worth telling the user once.
    pub fn unconfigured_pooling(&self) -> Option<Pooling> {
        self.model.chain().is_none().then(|| self.model.default_pooling())
    }

    /// Names of the model's prompts.
    pub fn prompts(&self) -> Vec<&str> {
        self.prompts.names()
    }

    /// The vector of every text.
    ///
    /// # Errors
    /// [`Error::Input`] for a request that does not fit the model; failures of the engine. A text's own failure is in
    /// its place.
    pub fn run(&self, texts: &[&str], request: &EmbedRequest) -> Result<Outcomes<Embedding>> {
        self.check(request)?;
        let prompt = self.prompts.text(&request.prompt)?;
        let skip = match self.model.chain() {
            Some(chain) if chain.skips_prompt() => self.preprocessor.prompt_tokens(prompt)?,
            _ => 0,
        };
        let limit = match request.prompt.role() {
            None => self.preprocessor.limit,
            Some(SearchSide::Query) => self.queries,
            Some(SearchSide::Document) => self.documents,
        };
        let encode = |text: &&str| self.preprocessor.encode_behind(prompt, (*text).into(), limit);
        self.preprocessor.run(texts, encode, |batch, items| {
            let options = EmbedOptions {
                pooling: request.pooling,
                normalize: request.normalize,
                dimensions: request.dimensions,
                layer: request.layer,
                skip: (skip > 0).then(|| vec![skip; items.len()]),
            };
            let vectors: Vec<TextVectors> = if request.per_token {
                let mut rows = self.model.token_vectors(batch, &options)?.to_vec2()?.into_iter();
                let of_text =
                    |item: &Item<'_>| TextVectors::Tokens(rows.by_ref().take(item.encoding.ids.len()).collect());
                items.iter().map(of_text).collect()
            } else {
                self.model.embed(batch, &options)?.to_vec2()?.into_iter().map(TextVectors::Pooled).collect()
            };
            let result = if request.per_token { Asked::Tokens } else { Asked::Pooled };
            let asked = TracedEmbedder { model: &self.model, options: &options, result };
            let embeddings = items.iter().zip(vectors).map(|(item, embedding)| {
                let finite = embedding.is_finite();
                asked.finite(finite, Embedding { index: item.input, embedding }, &item.encoding.ids)
            });
            Ok(embeddings.collect())
        })
    }

    /// Compares each `a` with each of its `b`, in the order given, by the model's similarity function
    /// (cosine unless configured).
    ///
    /// # Errors
    /// As [`run`](Self::run); an input fails if one of its texts does.
    pub fn similarity(
        &self,
        inputs: &[SimilarityInput<'_>],
        request: &EmbedRequest,
    ) -> Result<Outcomes<Vec<IndexedScore>>> {
        if request.per_token {
            return Err(Error::input("texts are compared by one vector each, not by one per token"));
        }
        let similarity = self.model.chain().map_or(Ok(Similarity::default()), |chain| chain.settings().similarity())?;
        let texts: Vec<&str> =
            inputs.iter().flat_map(|input| std::iter::once(input.a).chain(input.b.iter().copied())).collect();
        let mut embeddings = self.run(&texts, request)?.into_iter();
        Ok(inputs
            .iter()
            .map(|input| compared(similarity, embeddings.by_ref().take(1 + input.b.len()).collect()))
            .collect())
    }

    /// The sentence-transformers modules, where the model has them.
    pub fn chain(&self) -> Option<&Chain> {
        self.model.chain()
    }

    /// Refuses a request that no text could fulfil, before any is computed.
    fn check(&self, request: &EmbedRequest) -> Result<()> {
        if request.per_token && request.pooling.is_some() {
            return Err(Error::input("one vector per token and a pooling exclude each other"));
        }
        let layers = self.model.config().num_layers();
        if let Some(layer) = request.layer.filter(|&layer| layer > layers) {
            return Err(Error::input(format!(
                "there is no layer {layer}: the model has {layers}, and 0 is the embedding"
            )));
        }
        if request.dimensions == Some(0) {
            return Err(Error::input("an embedding must keep at least one dimension"));
        }
        Ok(())
    }
}

/// The first embedding against each of the others.
fn compared(similarity: Similarity, embeddings: Outcomes<Embedding>) -> Result<Outcome<Vec<IndexedScore>>> {
    let mut truncated = false;
    let mut vectors = Vec::with_capacity(embeddings.len());
    for outcome in embeddings {
        let outcome = outcome?;
        truncated |= outcome.truncated;
        match outcome.value.embedding {
            TextVectors::Pooled(vector) => vectors.push(vector),
            TextVectors::Tokens(_) => return Err(Error::input("texts are compared by one vector each")),
        }
    }
    let Some((a, rest)) = vectors.split_first() else {
        return Err(Error::internal("a comparison has no first embedding"));
    };
    let score = |(index, b): (usize, &Vec<f32>)| IndexedScore { index, score: similarity.score(a, b) };
    let scores: Vec<IndexedScore> = rest.iter().enumerate().map(score).collect();
    if !scores.iter().all(|score| score.score.is_finite()) {
        return Err(Error::input("the vectors are too large to be compared: their similarity is not finite"));
    }
    Ok(Outcome { value: scores, truncated })
}
