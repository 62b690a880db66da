//! Embeddings and similarity.

use std::sync::Arc;

use candle_core::Tensor;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::limit::Bounds;
use super::prompt::{PromptChoice, Prompts};
use super::spec::{TaskSpec, of_scores};
use super::staged::{self, EachInput};
use super::{Options, Outcome, Outcomes, Prepared, PreparedSequence, Preprocessor, SparseVector, Staged};
use crate::batching::{merge, split};
use crate::files::{FileSource, ModelFiles, Subfolder};
use crate::finite::{self, Traced};
use crate::heads::{
    Asked, Chain, EmbedOptions, Embedder, RouteModel, RouteModels, Similarity, StaticEmbedder, TracedEmbedder, no_trunk,
};
use crate::metadata::TOKENIZER;
use crate::pooling::Pooling;
use crate::sentence_transformers::{Class, ModelType, RouteChain, Routes, Routing, SearchSide};
use crate::setters::setters;
use crate::tokenizer::{Encoding, Limit, Tokenizer, Truncate};
use crate::{Backend, Error, PackedBatch, Result};

/// Texts without a trunk that are looked up at once: the row of one is as long as the vocabulary, where it is sparse.
const LOOKED_UP_AT_ONCE: usize = 64;

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
    /// One, or one for each route of the model.
    routes: Vec<TextRoute>,
    /// What chooses among them.
    routing: Option<Routing>,
    /// The route of texts that no task is named for.
    default: usize,
    prompts: Prompts,
}

/// One way of texts to vectors.
#[derive(Debug)]
struct TextRoute {
    model: RouteModel,
    preprocessor: Preprocessor,
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
    /// The side of a search that the texts are on: decides their route, their limit and, unless `prompt` does, their
    /// prompt.
    pub side: Option<SearchSide>,
    /// What the texts are encoded for, instead of the side: the route of that task is taken, of a model with routes.
    pub task: Option<String>,
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
    /// With the route of a task.
    with_task(task: impl Into<Option<String>>);
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

/// How rows become embeddings.
#[derive(Debug)]
pub struct EmbedPlan(Planned);

#[derive(Debug)]
enum Planned {
    /// Behind a trunk: by the rows of the sequences.
    Rows(EachInput),
    /// Without one there is nothing to compute together: they are looked up when they are prepared.
    LookedUp(Outcomes<Embedding>),
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
    /// Loads a trunk or a sentence-transformers chain, with all routes of a model that has several.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for rerankers and late interaction; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        Self::load_by(files, options, RouteModels::load)
    }

    /// Loads a masked language model as an encoder of sparse vectors (SPLADE), as [`Embedder::load_splade`] does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for decoders, and chains of another kind; what loading the model's files can meet.
    pub fn load_splade(files: &ModelFiles, options: &Options) -> Result<Self> {
        Self::load_by(files, options, RouteModels::load_splade)
    }

    fn load_by(
        files: &ModelFiles,
        options: &Options,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<RouteModels>,
    ) -> Result<Self> {
        let spec = TaskSpec { task: "embed", objective: None };
        let (models, tokenizers) = spec.load_with(files, options, load, || RouteTokenizer::all(files))?;
        let RouteModels { routing, models, default } = models;
        if let Some(chain) = models[default].chain()
            && chain.settings().model_type == Some(ModelType::CrossEncoder)
        {
            return Err(Error::Unsupported(format!(
                "embeddings of {}: config_sentence_transformers.json says that it is {}",
                files.name(),
                match chain.scores_size() {
                    Some(scores) => of_scores(scores),
                    None => "a CrossEncoder, but no module of modules.json writes its scores".to_owned(),
                }
            )));
        }
        let routes = models.into_iter().zip(tokenizers);
        let routes = routes.map(|(model, tokenizer)| TextRoute::new(files, model, tokenizer, options));
        Ok(Self::of_routes(routes.collect::<Result<_>>()?, routing, default))
    }

    /// An embedder of parts; the preprocessor's limit holds for texts on either side of a search.
    pub fn new(model: impl Into<Arc<Embedder>>, preprocessor: Preprocessor) -> Self {
        let (model, limit) = (RouteModel::Trunk(model.into()), preprocessor.limit);
        Self::of_routes(vec![TextRoute { model, preprocessor, queries: limit, documents: limit }], None, 0)
    }

    fn of_routes(routes: Vec<TextRoute>, routing: Option<Routing>, default: usize) -> Self {
        let chain = routes[default].model.chain();
        let prompts = chain.map_or_else(Prompts::of_embedder, |chain| Prompts::new(chain.settings()));
        Self { routes, routing, default, prompts }
    }

    /// The model of the default route; none where that has no trunk.
    pub fn model(&self) -> Option<&Arc<Embedder>> {
        match &self.routes[self.default].model {
            RouteModel::Trunk(model) => Some(model),
            RouteModel::Lookup(_) => None,
        }
    }

    /// What turns texts into batches on the default route.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.routes[self.default].preprocessor
    }

    /// The pooling taken because the model's files configure none; worth telling the user once.
    pub fn unconfigured_pooling(&self) -> Option<Pooling> {
        self.model().filter(|model| model.chain().is_none()).map(|model| model.default_pooling())
    }

    /// Names of the model's prompts.
    pub fn prompts(&self) -> Vec<&str> {
        self.prompts.names()
    }

    /// Names of the model's routes, in order; none of a model that has one way for all texts.
    pub fn routes(&self) -> &[String] {
        self.routing.as_ref().map_or(&[], Routing::names)
    }

    /// The number of the route of a request.
    fn route(&self, request: &EmbedRequest) -> Result<usize> {
        let task = request.task.as_deref();
        match &self.routing {
            Some(routing) => routing.resolve(task.or(request.side.map(SearchSide::name))),
            None if task.is_some() => {
                Err(Error::input("a task was named for a model that has one route for all texts"))
            }
            None => Ok(0),
        }
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
        self.prepare(texts, request)?.run(self, self.preprocessor().batch_tokens)
    }

    /// The first stage of [`run`](Self::run). Vectors of a route without a trunk are looked up here.
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
        let index = self.route(request)?;
        let route = &self.routes[index];
        route.check(request)?;
        let prompt = self.prompts.text(&request.prompt.on_side(request.side))?;
        let encodings = route.encode(inputs, prompt, route.limit(request), input);
        let (sequences, plan) = match &route.model {
            RouteModel::Lookup(model) => (Vec::new(), Planned::LookedUp(route.look_up(model, encodings, request)?)),
            RouteModel::Trunk(model) => {
                let skip = match model.chain().is_some_and(Chain::skips_prompt) {
                    true => route.preprocessor.prompt_tokens(prompt)?,
                    false => 0,
                };
                let (mut sequences, plan) = EachInput::new(encodings, skip);
                sequences.iter_mut().for_each(|sequence| sequence.route = index);
                (sequences, Planned::Rows(plan))
            }
        };
        // What has been said of the texts says nothing of how they are computed.
        let reading = request.clone().with_prompt(PromptChoice::Default).with_side(None).with_task(None);
        Ok(Prepared::new(sequences, reading.with_truncate(None), EmbedPlan(plan)))
    }

    /// The vectors of a batch all of whose sequences are on one route.
    fn on_route(
        &self,
        route: usize,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        request: &EmbedRequest,
    ) -> Result<Vec<Result<TextVectors>>> {
        let route = self.routes.get(route);
        match route.map(|route| (route, &route.model)) {
            Some((route, RouteModel::Trunk(model))) => route.compute(model, batch, sequences, request),
            _ => Err(Error::internal("sequences of another model's route, or of one without a trunk")),
        }
    }

    /// Whether its vectors are sparse.
    pub fn is_sparse(&self) -> bool {
        self.chain().is_some_and(Chain::is_sparse)
    }

    /// How two of its vectors are compared.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a function of the model's files that is not implemented.
    pub fn similarity_function(&self) -> Result<Similarity> {
        self.chain().map_or(Ok(Similarity::default()), |chain| chain.settings().similarity())
    }

    /// Compares each `a` with each of its `b`, in the order given, by the model's similarity function
    /// (cosine unless configured). Where the model has routes for queries and for documents, `a` is a query and each `b` a
    /// document, unless the request says what they are.
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
        let queries: Vec<&str> = inputs.iter().map(|input| input.a).collect();
        let documents: Vec<&str> = inputs.iter().flat_map(|input| input.b.iter().copied()).collect();
        let unsaid = request.side.is_none() && request.task.is_none();
        let (queries, documents) = match &self.routing {
            Some(routing) if unsaid && routing.has_sides() => {
                let of_side = |side| request.clone().with_side(side);
                (
                    self.run(&queries, &of_side(SearchSide::Query))?,
                    self.run(&documents, &of_side(SearchSide::Document))?,
                )
            }
            _ => {
                let mut all = self.run(&[queries.as_slice(), &documents].concat(), request)?;
                let documents = all.split_off(queries.len());
                (all, documents)
            }
        };
        let mut documents = documents.into_iter();
        let compare = |(input, query): (&SimilarityInput<'_>, _)| {
            let others = documents.by_ref().take(input.b.len());
            compared(similarity, std::iter::once(query).chain(others).collect())
        };
        Ok(inputs.iter().zip(queries).map(compare).collect())
    }

    /// The sentence-transformers modules of the default route, where the model has them.
    pub fn chain(&self) -> Option<&Chain> {
        self.routes[self.default].model.chain()
    }

    /// The modules of the route that a request takes, where the model has them.
    ///
    /// # Errors
    /// [`Error::Input`] for a task without a route.
    pub fn chain_for(&self, request: &EmbedRequest) -> Result<Option<&Chain>> {
        Ok(self.routes[self.route(request)?].model.chain())
    }
}

impl TextRoute {
    fn new(files: &ModelFiles, model: RouteModel, tokenizer: RouteTokenizer, options: &Options) -> Result<Self> {
        let RouteTokenizer { tokenizer, folder, length } = tokenizer;
        let limits = |bounds: Bounds| bounds.limit(options, tokenizer.truncation_side());
        match &model {
            RouteModel::Lookup(table) => {
                let bounds = match table.weighs_tokens() {
                    true => Bounds::of_tokenizer_in(&Subfolder { files, folder: &folder })?,
                    false => Bounds::of_tokenizer_file(length),
                };
                let limit = limits(bounds);
                let preprocessor = Preprocessor::within(bounds, tokenizer, options).with_special_tokens(false);
                Ok(Self { model, preprocessor, queries: limit, documents: limit })
            }
            RouteModel::Trunk(trunk) => {
                let config = trunk.config();
                let Some(transformer) = trunk.chain().and_then(Chain::transformer) else {
                    let preprocessor = Preprocessor::within(Bounds::lenient(files, config)?, tokenizer, options);
                    let limit = preprocessor.limit;
                    return Ok(Self { model, preprocessor, queries: limit, documents: limit });
                };
                let bounds = |role| Bounds::sentence_transformers(files, transformer, config, role);
                let queries = limits(bounds(Some(SearchSide::Query))?);
                let documents = limits(bounds(Some(SearchSide::Document))?);
                let preprocessor = Preprocessor::within(bounds(None)?, tokenizer, options)
                    .with_special_tokens(transformer.special_tokens);
                Ok(Self { model, preprocessor, queries, documents })
            }
        }
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

    fn encode<I: Sync>(
        &self,
        inputs: &[I],
        prompt: &str,
        limit: Limit,
        input: impl Fn(&I) -> EmbedInput<'_> + Send + Sync,
    ) -> Vec<Result<Encoding>> {
        let preprocessor = &self.preprocessor;
        match &self.model {
            RouteModel::Trunk(model) => {
                let vocabulary = model.config().vocab_size;
                preprocessor.encode_all(inputs, |one| match input(one) {
                    EmbedInput::Text(text) => preprocessor.encode_behind(prompt, text.into(), limit),
                    EmbedInput::Ids(ids) => preprocessor.take_ids(ids, vocabulary, limit),
                })
            }
            RouteModel::Lookup(model) => preprocessor.encode_all(inputs, |one| match input(one) {
                EmbedInput::Text(text) => {
                    let encoding = preprocessor.encode_whatever(prompt, text.into(), limit)?;
                    model.check(&encoding.ids)?;
                    Ok(encoding)
                }
                EmbedInput::Ids(ids) => preprocessor.take_ids(ids, model.tokens(), limit),
            }),
        }
    }

    /// The vectors of a batch behind a trunk.
    fn compute(
        &self,
        model: &Embedder,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        request: &EmbedRequest,
    ) -> Result<Vec<Result<TextVectors>>> {
        let options = EmbedOptions { skip: staged::skipped(sequences), ..request.options() };
        let vectors: Vec<TextVectors> = if request.per_token {
            let mut rows = model.token_vectors(batch, &options)?.to_vec2()?.into_iter();
            let of_text = |sequence: &&PreparedSequence| rows.by_ref().take(sequence.ids().len()).collect();
            sequences.iter().map(of_text).map(TextVectors::Tokens).collect()
        } else {
            self.of_texts(&model.embed(batch, &options)?, request)?
        };
        let result = if request.per_token { Asked::Tokens } else { Asked::Pooled };
        let rows = sequences.iter().zip(vectors).map(|(sequence, vectors)| match vectors.is_finite() {
            true => Ok(vectors),
            false => {
                let options = &EmbedOptions { skip: staged::skipped(&[sequence]), ..options.clone() };
                Err(TracedEmbedder { model, options, result }.not_finite(sequence.ids()))
            }
        });
        Ok(rows.collect())
    }

    /// The vectors of texts without a trunk. A text without tokens has one, too.
    fn look_up(
        &self,
        model: &StaticEmbedder,
        encodings: Vec<Result<Encoding>>,
        request: &EmbedRequest,
    ) -> Result<Outcomes<Embedding>> {
        let (encodings, errors) = split(encodings.into_iter());
        let inputs = (0..errors.len()).filter(|&input| errors[input].is_none());
        let (options, mut embeddings) = (request.options(), Vec::with_capacity(encodings.len()));
        let mut inputs = inputs.collect::<Vec<_>>().into_iter();
        for rows in encodings.chunks(LOOKED_UP_AT_ONCE) {
            let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
            let vectors = self.of_texts(&model.embed(&ids, &options)?, request)?;
            embeddings.extend(rows.iter().zip(inputs.by_ref()).zip(vectors).map(|((row, index), embedding)| {
                match embedding.is_finite() {
                    true => Ok(Outcome { value: Embedding { index, embedding }, truncated: row.truncated }),
                    false => Err(model.not_finite(&row.ids, &options)),
                }
            }));
        }
        Ok(merge(embeddings.into_iter(), errors))
    }

    /// What each row of `[texts, size]` is in the form that the model's vectors have.
    fn of_texts(&self, vectors: &Tensor, request: &EmbedRequest) -> Result<Vec<TextVectors>> {
        match self.model.chain() {
            Some(chain) if chain.is_sparse() => {
                let sparse = |row| Ok(TextVectors::Sparse(self.sparse(chain, &vectors.get(row)?.to_vec1()?, request)));
                (0..vectors.dim(0)?).map(sparse).collect()
            }
            _ => Ok(vectors.to_vec2()?.into_iter().map(TextVectors::Pooled).collect()),
        }
    }

    /// The sparse form of a text's vector.
    fn sparse(&self, chain: &Chain, vector: &[f32], request: &EmbedRequest) -> SparseVector {
        let kept = request.max_active_dims.or(chain.max_active_dims());
        let mut sparse = SparseVector::of_dense(vector, kept);
        if request.decode {
            // A model may have more entries than its tokenizer has tokens.
            let token = |&id: &u32| self.preprocessor.tokenizer().token(id).unwrap_or_default();
            sparse.tokens = Some(sparse.indices.iter().map(token).collect());
        }
        sparse
    }

    /// Refuses a request that no text could fulfil, before any is computed.
    fn check(&self, request: &EmbedRequest) -> Result<()> {
        if request.per_token && request.pooling.is_some() {
            return Err(Error::input("one vector per token and a pooling exclude each other"));
        }
        match &self.model {
            RouteModel::Trunk(model) => {
                let layers = model.config().num_layers();
                if let Some(layer) = request.layer.filter(|&layer| layer > layers) {
                    return Err(Error::input(format!(
                        "there is no layer {layer}: the model has {layers}, and 0 is the embedding"
                    )));
                }
            }
            RouteModel::Lookup(_) => {
                let per_token = request.per_token.then_some("one vector per token");
                if let Some(wish) = per_token.or(request.layer.map(|_| "another layer")) {
                    return Err(no_trunk(wish));
                }
            }
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
            return Err(Error::input(
                "tokens were asked of sparse vectors whose values belong to features, not to tokens",
            ));
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
    type Plan = EmbedPlan;
    type Answer = Embedding;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        request: &EmbedRequest,
    ) -> Result<Vec<Result<TextVectors>>> {
        let Some(first) = sequences.first().map(|sequence| sequence.route) else { return Ok(Vec::new()) };
        if sequences.iter().all(|sequence| sequence.route == first) {
            return self.on_route(first, batch, sequences, request);
        }
        let mut rows: Vec<Option<Result<TextVectors>>> = sequences.iter().map(|_| None).collect();
        for route in 0..self.routes.len() {
            let (places, own): (Vec<usize>, Vec<&PreparedSequence>) =
                sequences.iter().enumerate().filter(|(_, sequence)| sequence.route == route).unzip();
            if own.is_empty() {
                continue;
            }
            let ids: Vec<&[u32]> = own.iter().map(|sequence| sequence.ids()).collect();
            let computed = self.on_route(route, &PackedBatch::new(&ids)?, &own, request)?;
            places.into_iter().zip(computed).for_each(|(place, row)| rows[place] = Some(row));
        }
        Ok(rows.into_iter().map(|row| row.unwrap_or_else(|| Err(staged::no_row()))).collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<TextVectors>>) -> Outcomes<Embedding> {
        prepared.plan.answers(rows)
    }
}

impl EmbedPlan {
    /// The embeddings of the inputs, from the rows of their sequences.
    pub(super) fn answers(&self, rows: Vec<Result<TextVectors>>) -> Outcomes<Embedding> {
        match &self.0 {
            Planned::Rows(plan) => plan.answers(rows, |index, embedding| Ok(Embedding { index, embedding })),
            Planned::LookedUp(embeddings) => embeddings.clone(),
        }
    }
}

impl EmbedRequest {
    /// What it asks of a model.
    fn options(&self) -> EmbedOptions {
        EmbedOptions {
            pooling: self.pooling,
            normalize: self.normalize,
            dimensions: self.dimensions,
            layer: self.layer,
            max_active_dims: self.max_active_dims,
            skip: None,
        }
    }
}

/// The tokenizer of a route.
struct RouteTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Where it is.
    folder: String,
    /// The length that `tokenizer.json` itself cuts to, of static embeddings.
    length: Option<usize>,
}

impl RouteTokenizer {
    /// Those of all routes of a model, in order; a folder's is read once.
    fn all(files: &ModelFiles) -> Result<Vec<Self>> {
        let Some(routes) = Routes::load(files)? else {
            let tokenizer = Tokenizer::load(files)?.into();
            return Ok(vec![Self { tokenizer, folder: String::new(), length: None }]);
        };
        let mut all: Vec<Self> = Vec::with_capacity(routes.chains.len());
        for chain in &routes.chains {
            let folder = chain.folder();
            let within = Subfolder { files, folder };
            let (tokenizer, length) = match chain {
                RouteChain::Lookup(chain) if chain.lookup.class == Class::StaticEmbedding => {
                    let (tokenizer, length) = Tokenizer::bare(&within.require(TOKENIZER)?)?;
                    (tokenizer.into(), length)
                }
                _ => match all.iter().find(|other| other.folder == folder) {
                    Some(other) => (other.tokenizer.clone(), None),
                    None => {
                        let tokenizer = Tokenizer::load_in(&within)?;
                        let tokenizer = match chain.trunk() {
                            Some(repository) => repository.transformer.tokenizer(tokenizer)?,
                            None => tokenizer,
                        };
                        (tokenizer.into(), None)
                    }
                },
            };
            all.push(Self { tokenizer, folder: folder.to_owned(), length });
        }
        Ok(all)
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
