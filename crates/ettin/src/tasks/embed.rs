//! Embeddings and similarity.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::limit::Bounds;
use super::prompt::{PromptChoice, Prompts};
use super::spec::{TaskSpec, of_scores};
use super::staged::{self, EachInput};
use super::{Options, Outcome, Outcomes, Prepared, PreparedSequence, Preprocessor, SparseVector, Staged};
use crate::files::ModelFiles;
use crate::finite::{self, Traced};
use crate::heads::{Asked, Chain, EmbedOptions, Embedder, Similarity, TracedEmbedder};
use crate::pooling::Pooling;
use crate::sentence_transformers::{ModelType, SearchSide};
use crate::setters::setters;
use crate::tokenizer::{Limit, Truncate};
use crate::{Error, PackedBatch, Result};

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
    /// The side of a search that the texts are on: decides their limit and, unless `prompt` does, their prompt.
    pub side: Option<SearchSide>,
    /// Of a sparse vector, keep only so many values, the largest by magnitude, instead of what the model's files say.
    pub max_active_dims: Option<usize>,
    /// Give the tokens of sparse vectors, too.
    pub decode: bool,
    /// What becomes of texts over the limit, instead of the task's own choice.
    pub truncate: Option<Truncate>,
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
    /// With texts that are queries, or documents.
    with_side(side: impl Into<Option<SearchSide>>);
    /// With the largest values of sparse vectors alone.
    with_max_active_dims(max_active_dims: impl Into<Option<usize>>);
    /// With the tokens of sparse vectors, or without.
    with_decode(decode: bool);
    /// With another fate of texts over the limit.
    with_truncate(truncate: impl Into<Option<Truncate>>);
});

/// What is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbedInput<'a> {
    /// A text.
    Text(&'a str),
    /// Token ids, computed as they are: without a prompt, and with the special tokens that they hold.
    Ids(&'a [u32]),
}

/// A vector per text, or one per token of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum TextVectors {
    /// `[dimensions]`.
    Pooled(Vec<f32>),
    /// `[tokens, dimensions]`, special tokens included.
    Tokens(Vec<Vec<f32>>),
    /// Most of whose values are 0.
    Sparse(SparseVector),
}

impl TextVectors {
    /// Compares the vectors of two texts of one model.
    ///
    /// # Errors
    /// [`Error::Input`] for texts with one vector per token, and where the result is not finite.
    pub fn similarity(&self, other: &Self, similarity: Similarity) -> Result<f32> {
        let score = match (self, other) {
            (TextVectors::Pooled(a), TextVectors::Pooled(b)) => similarity.score(a, b),
            (TextVectors::Sparse(a), TextVectors::Sparse(b)) => a.similarity(b, similarity),
            _ => return Err(Error::input("texts are compared by one vector each")),
        };
        match score.is_finite() {
            true => Ok(score),
            false => Err(Error::input("the vectors are too large to be compared: their similarity is not finite")),
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            TextVectors::Pooled(vector) => finite::is_finite(vector),
            TextVectors::Tokens(vectors) => vectors.iter().all(|vector| finite::is_finite(vector)),
            TextVectors::Sparse(vector) => finite::is_finite(&vector.values),
        }
    }
}

/// The embedding of one input. It serialises to `{index, embedding}`, a sparse one to `{index, indices, values}`, with
/// `tokens` where they were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Index of the input.
    pub index: usize,
    /// The vector.
    pub embedding: TextVectors,
}

impl Serialize for Embedding {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let TextVectors::Sparse(vector) = &self.embedding else {
            let mut fields = serializer.serialize_struct("Embedding", 2)?;
            fields.serialize_field("index", &self.index)?;
            fields.serialize_field("embedding", &self.embedding)?;
            return fields.end();
        };
        let mut fields = serializer.serialize_struct("Embedding", 3 + usize::from(vector.tokens.is_some()))?;
        fields.serialize_field("index", &self.index)?;
        fields.serialize_field("indices", &vector.indices)?;
        fields.serialize_field("values", &vector.values)?;
        if let Some(tokens) = &vector.tokens {
            fields.serialize_field("tokens", tokens)?;
        }
        fields.end()
    }
}

/// A score and the index of the text it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
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
    /// [`Error::Unsupported`] for rerankers, late interaction and routed models; what loading the model's files can
    /// meet.
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

    /// The text of a prompt; empty for none.
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt that the model does not have.
    pub fn prompt_text(&self, prompt: &PromptChoice) -> Result<&str> {
        self.prompts.text(prompt)
    }

    /// The vector of every text.
    ///
    /// # Errors
    /// [`Error::Input`] for a request that does not fit the model; failures of the engine. A text's own failure is in
    /// its place.
    pub fn run(&self, texts: &[&str], request: &EmbedRequest) -> Result<Outcomes<Embedding>> {
        self.prepare(texts, request)?.run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Input`] for a request that does not fit the model.
    pub fn prepare(&self, texts: &[&str], request: &EmbedRequest) -> Result<Prepared<Self>> {
        self.prepare_inputs(texts, request, |text| EmbedInput::Text(text))
    }

    /// The same with texts or token ids, as `input` says of each.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare). Ids beyond the vocabulary are their input's own failure.
    pub fn prepare_inputs<I: Sync>(
        &self,
        inputs: &[I],
        request: &EmbedRequest,
        input: impl Fn(&I) -> EmbedInput<'_> + Send + Sync,
    ) -> Result<Prepared<Self>> {
        self.check(request)?;
        let prompt = self.prompts.text(&request.prompt.on_side(request.side))?;
        let skip = match self.model.chain() {
            Some(chain) if chain.skips_prompt() => self.preprocessor.prompt_tokens(prompt)?,
            _ => 0,
        };
        let limit = self.limit(request);
        let vocabulary = self.model.config().vocab_size;
        let encode = |one: &I| match input(one) {
            EmbedInput::Text(text) => self.preprocessor.encode_behind(prompt, text.into(), limit),
            EmbedInput::Ids(ids) => self.preprocessor.take_ids(ids, vocabulary, limit),
        };
        let (sequences, plan) = EachInput::new(self.preprocessor.encode_all(inputs, encode), skip);
        // What has been said of the texts says nothing of how they are computed.
        let reading = request.clone().with_prompt(PromptChoice::Default).with_side(None).with_truncate(None);
        Ok(Prepared::new(sequences, reading, plan))
    }

    /// The limit of a request's texts.
    fn limit(&self, request: &EmbedRequest) -> Limit {
        // Files of sentence-transformers know one limit, cut or not.
        let of_side = |limit: Limit| Limit { truncate: request.truncate.unwrap_or(limit.truncate), ..limit };
        match request.side.or(request.prompt.role()) {
            None => self.preprocessor.limit_for(request.truncate),
            Some(SearchSide::Query) => of_side(self.queries),
            Some(SearchSide::Document) => of_side(self.documents),
        }
    }

    /// Whether its vectors are sparse.
    pub fn is_sparse(&self) -> bool {
        self.model.chain().is_some_and(Chain::is_sparse)
    }

    /// The sparse form of a text's vector.
    fn sparse(&self, vector: &[f32], request: &EmbedRequest) -> Result<SparseVector> {
        let kept = request.max_active_dims.or(self.model.chain().and_then(Chain::max_active_dims));
        let mut sparse = SparseVector::of_dense(vector, kept);
        if request.decode {
            // A model may have more entries than its tokenizer has tokens.
            let token = |&id: &u32| self.preprocessor.tokenizer().token(id).unwrap_or_default();
            sparse.tokens = Some(sparse.indices.iter().map(token).collect());
        }
        Ok(sparse)
    }

    /// How two of its vectors are compared.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a function of the model's files that is not implemented.
    pub fn similarity_function(&self) -> Result<Similarity> {
        self.model.chain().map_or(Ok(Similarity::default()), |chain| chain.settings().similarity())
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
        let similarity = self.similarity_function()?;
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
        if request.dimensions == Some(0) || request.max_active_dims == Some(0) {
            return Err(Error::input("an embedding must keep at least one dimension"));
        }
        let Some(chain) = self.model.chain() else {
            return sparse_wish(request).map_or(Ok(()), |wish| Err(not_sparse(wish)));
        };
        if request.pooling.is_some() && !chain.pools() {
            return Err(Error::input("another pooling was asked of a chain that has none to be replaced"));
        }
        if !chain.is_sparse() {
            return sparse_wish(request).map_or(Ok(()), |wish| Err(not_sparse(wish)));
        }
        if request.decode && !chain.weighs_tokens() {
            return Err(Error::input("the tokens of a vector whose values belong to features, not to tokens"));
        }
        if request.dimensions.is_some() {
            return Err(Error::input("the first dimensions of a sparse vector: keep its largest values instead"));
        }
        if request.layer.is_some() && chain.scores_vocabulary() {
            return Err(Error::input("another layer of a model whose vectors are scores over the vocabulary"));
        }
        Ok(())
    }
}

impl Staged for TextEmbedder {
    type Reading = EmbedRequest;
    type Row = TextVectors;
    type Plan = EachInput;
    type Answer = Embedding;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        request: &EmbedRequest,
    ) -> Result<Vec<Result<TextVectors>>> {
        let options = EmbedOptions {
            pooling: request.pooling,
            normalize: request.normalize,
            dimensions: request.dimensions,
            layer: request.layer,
            max_active_dims: request.max_active_dims,
            skip: staged::skipped(sequences),
        };
        let vectors: Vec<TextVectors> = if request.per_token {
            let mut rows = self.model.token_vectors(batch, &options)?.to_vec2()?.into_iter();
            let of_text = |sequence: &&PreparedSequence| rows.by_ref().take(sequence.ids().len()).collect();
            sequences.iter().map(of_text).map(TextVectors::Tokens).collect()
        } else if self.is_sparse() {
            let dense = self.model.embed(batch, &options)?;
            let sparse = |row| Ok(TextVectors::Sparse(self.sparse(&dense.get(row)?.to_vec1()?, request)?));
            (0..sequences.len()).map(sparse).collect::<Result<_>>()?
        } else {
            self.model.embed(batch, &options)?.to_vec2()?.into_iter().map(TextVectors::Pooled).collect()
        };
        let result = if request.per_token { Asked::Tokens } else { Asked::Pooled };
        let rows = sequences.iter().zip(vectors).map(|(sequence, vectors)| match vectors.is_finite() {
            true => Ok(vectors),
            false => {
                let options = &EmbedOptions { skip: staged::skipped(&[sequence]), ..options.clone() };
                Err(TracedEmbedder { model: &self.model, options, result }.not_finite(sequence.ids()))
            }
        });
        Ok(rows.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<TextVectors>>) -> Outcomes<Embedding> {
        prepared.plan.answers(rows, |index, embedding| Ok(Embedding { index, embedding }))
    }
}

/// What only sparse vectors have, where a request asks for it.
fn sparse_wish(request: &EmbedRequest) -> Option<&'static str> {
    let decode = request.decode.then_some("the tokens");
    decode.or(request.max_active_dims.map(|_| "the largest values"))
}

fn not_sparse(wish: &str) -> Error {
    Error::input(format!("{wish} of sparse vectors were asked of a model whose vectors are dense"))
}

/// The first embedding against each of the others.
fn compared(similarity: Similarity, embeddings: Outcomes<Embedding>) -> Result<Outcome<Vec<IndexedScore>>> {
    let mut truncated = false;
    let mut vectors = Vec::with_capacity(embeddings.len());
    for outcome in embeddings {
        let outcome = outcome?;
        truncated |= outcome.truncated;
        vectors.push(outcome.value.embedding);
    }
    let Some((a, rest)) = vectors.split_first() else {
        return Err(Error::internal("a comparison has no first embedding"));
    };
    let score = |(index, b)| Ok(IndexedScore { index, score: a.similarity(b, similarity)? });
    let scores = rest.iter().enumerate().map(score).collect::<Result<Vec<IndexedScore>>>()?;
    Ok(Outcome { value: scores, truncated })
}
