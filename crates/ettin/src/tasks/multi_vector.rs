//! Late interaction: a vector for every token of a text, and documents scored by MaxSim.

use std::borrow::Cow;
use std::slice;
use std::sync::Arc;

use ettin_kernels::{DocumentVectors, Isa, MaxSimQueries, Scheme, Team, max_sim};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::limit::Bounds;
use super::numbers::descending;
use super::prompt::{PromptChoice, Prompts, prompted};
use super::spec::TaskSpec;
use super::staged::EachInput;
use super::ward;
use super::{
    Embeddings, IndexedScore, Options, Outcome, Outcomes, Prepared, PreparedSequence, Preprocessor, RerankInput,
    SimilarityInput, Staged,
};
use crate::files::ModelFiles;
use crate::finite::{self, Traced};
use crate::heads::{MultiVectorModel, no_late_interaction};
use crate::sentence_transformers::{
    Expansion, Inserter, LateInput, LateInteraction, SearchSide, SideSettings, TokenMask, TokenPooling, Transformer,
    WordLookup,
};
use crate::setters::setters;
use crate::tokenizer::{Encoding, Limit, LimitOrigin, Tokenizer};
use crate::{Config, Error, PackedBatch, Result};

/// Turns texts into a vector per token, for late interaction (ColBERT).
///
/// Queries and documents are encoded differently, as the model's files say: prefixes, lengths, expansion of queries,
/// words of documents that are left out. Special tokens and the prefix have vectors like all others.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{MultiVectorEncoder, Options, SearchSide};
///
/// let encoder = MultiVectorEncoder::load(&ModelFiles::folder("GTE-ModernColBERT-v1")?, &Options::default())?;
/// let query = &encoder.encode(&["Which planet is red?"], SearchSide::Query)?[0];
/// let documents = encoder.encode(&["Mars is red.", "Venus is hot."], SearchSide::Document)?;
/// println!("{:?}", encoder.scores(query, &documents)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MultiVectorEncoder {
    model: Arc<MultiVectorModel>,
    preprocessor: Preprocessor,
    prompts: Prompts,
    query: SideRules,
    document: SideRules,
    pooling: Option<TokenPooling>,
    /// Whether texts get the prompt of their side where none is named; else the model's default one.
    prompts_by_side: bool,
    /// Whether a score is divided by the number of the query's vectors.
    mean: bool,
}

/// How texts of one side of a search become rows.
#[derive(Debug)]
struct SideRules {
    /// Whether white space around a text is taken off.
    strips: bool,
    lower_case: bool,
    /// Whether `[CLS]` and `[SEP]` are put around a text.
    special_tokens: bool,
    /// The token that is put behind the first one.
    prefix: Option<(u32, String)>,
    /// Of the text, without the prefix.
    limit: Limit,
    /// What fills texts up.
    expansion: Option<Filling>,
    /// A token that is what fills texts up wherever it stands.
    padding: Option<u32>,
    /// Ids whose rows are left out, ascending.
    skipped: Vec<u32>,
    /// The only ids whose rows are kept, ascending.
    only: Option<Vec<u32>>,
}

#[derive(Debug)]
struct Filling {
    id: u32,
    token: String,
    /// Tokens with it.
    length: usize,
    /// Whether other tokens see it.
    attended: bool,
}

/// How to encode; the default leaves everything to the model's own files.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MultiVectorRequest {
    /// What the texts are; documents, unless said otherwise.
    pub side: SearchSide,
    /// The prompt.
    pub prompt: PromptChoice,
    /// How many vectors of a document become one, about, at least 1: alike ones are brought together (Ward's method),
    /// behind the pooling that a model may have itself. `None` brings none together.
    pub pool_factor: Option<f64>,
    /// How many leading vectors are not brought together with others.
    pub protected_tokens: usize,
}

impl Default for MultiVectorRequest {
    fn default() -> Self {
        Self { side: SearchSide::Document, prompt: PromptChoice::Default, pool_factor: None, protected_tokens: 1 }
    }
}

setters!(MultiVectorRequest {
    /// With texts of this side of a search.
    with_side(side: SearchSide);
    /// With another prompt.
    with_prompt(prompt: PromptChoice);
    /// With alike vectors of documents brought together.
    with_pool_factor(pool_factor: impl Into<Option<f64>>);
    /// With so many leading vectors left alone.
    with_protected_tokens(protected_tokens: usize);
});

/// The vectors of one text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MultiVector {
    /// Index of the input.
    pub index: usize,
    /// A vector per token that is kept, in order; or per cluster of them.
    pub vectors: Embeddings,
}

impl Serialize for MultiVector {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("MultiVector", 2)?;
        object.serialize_field("index", &self.index)?;
        object.serialize_field("embedding", &self.vectors.rows().collect::<Vec<_>>())?;
        object.end()
    }
}

/// A text on its way into a batch.
struct EncodedText {
    encoding: Encoding,
    /// Tokens that are not there to fill it up.
    real: usize,
}

/// Texts that wait for the vectors of their tokens.
#[derive(Debug)]
pub struct MultiVectorPlan {
    inputs: EachInput,
    request: MultiVectorRequest,
}

impl Staged for MultiVectorEncoder {
    type Reading = ();
    /// The vectors that are kept, end to end.
    type Row = Vec<f32>;
    type Plan = MultiVectorPlan;
    type Answer = MultiVector;

    fn compute(&self, batch: &PackedBatch, sequences: &[&PreparedSequence], (): &()) -> Result<Vec<Result<Vec<f32>>>> {
        let starts = batch.offsets();
        let of_text = |(sequence, &start): (&&PreparedSequence, &usize)| {
            sequence.wanted.iter().map(|row| start + row).collect::<Vec<_>>()
        };
        let wanted: Vec<usize> = sequences.iter().zip(starts).flat_map(of_text).collect();
        let values: Vec<f32> = match (sequences.iter().any(|sequence| sequence.unseen > 0), wanted.is_empty()) {
            (_, true) => Vec::new(),
            (false, _) => self.model.vectors(batch, &wanted)?.flatten_all()?.to_vec1()?,
            (true, _) => {
                let unseen = sequences.iter().map(|sequence| sequence.unseen).collect();
                let batch = batch.clone().with_unseen(unseen)?;
                self.model.vectors(&batch, &wanted)?.flatten_all()?.to_vec1()?
            }
        };
        let mut values = values.as_slice();
        let rows = sequences.iter().map(|sequence| {
            let (own, rest) = values.split_at(sequence.wanted.len() * self.size());
            values = rest;
            self.model.finite(finite::is_finite(own), own.to_vec(), sequence.ids())
        });
        Ok(rows.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<Vec<f32>>>) -> Outcomes<MultiVector> {
        let MultiVectorPlan { inputs, request } = &prepared.plan;
        inputs.answers(rows, |index, values| {
            let values = self.pooled(values, request);
            let vectors = Embeddings { shape: [values.len() / self.size(), self.size()], values };
            Ok(MultiVector { index, vectors })
        })
    }
}

impl MultiVectorEncoder {
    /// Whether a model is one of late interaction that this task runs.
    ///
    /// # Errors
    /// For a model of that kind with settings that are not implemented; when its files cannot be read.
    pub fn fits(files: &ModelFiles) -> Result<bool> {
        Ok(LateInteraction::load(files)?.is_some())
    }

    /// Loads a late-interaction model: a folder of PyLate, of `MultiVectorEncoder` of sentence-transformers, or of
    /// Stanford's colbert-ai.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models of other kinds, and for settings that are not implemented; what loading the
    /// model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let Some(late) = LateInteraction::load(files)? else {
            return Err(no_late_interaction(files));
        };
        let spec = TaskSpec { task: "embed", objective: None };
        let load = |files: &ModelFiles, backend: &_| MultiVectorModel::of_settings(files, &late, backend);
        let (model, tokenizer) = spec.load_parts(files, options, load)?;
        Self::build(files, late, model, tokenizer, options)
    }

    fn build(
        files: &ModelFiles,
        late: LateInteraction,
        model: MultiVectorModel,
        tokenizer: Tokenizer,
        options: &Options,
    ) -> Result<Self> {
        let config = model.config();
        let tokenizer = match &late.input {
            LateInput::SentenceTransformers(transformer) => transformer.tokenizer(tokenizer)?,
            LateInput::Inserted { .. } => tokenizer,
        };
        let [mut query, mut document] = match &late.input {
            LateInput::Inserted { inserter, query, document, lower_case } => {
                let rules = |settings, side| {
                    let rules = SideRules::inserted(*inserter, settings, side, &tokenizer, config, options)?;
                    Ok::<_, Error>(SideRules { lower_case: *lower_case, ..rules })
                };
                [rules(query, SearchSide::Query)?, rules(document, SearchSide::Document)?]
            }
            LateInput::SentenceTransformers(transformer) => {
                let rules = |side| SideRules::of_transformer(files, transformer, side, &tokenizer, config, options);
                [rules(SearchSide::Query)?, rules(SearchSide::Document)?]
            }
        };
        if let Some(expansion) = &late.expansion {
            let filling = Filling::new(expansion, &tokenizer, config)?;
            if expansion.cuts && matches!(late.input, LateInput::SentenceTransformers(_)) {
                query.limit = filling.limit(query.limit, options);
            }
            query.expansion = Some(filling);
        }
        let mut skipped = skipped(&late.mask, &tokenizer)?;
        if let LateInput::Inserted { inserter: Inserter::Stanford, .. } = &late.input
            && let Some(pad) = tokenizer.special().pad
        {
            if query.expansion.as_ref().is_some_and(|filling| filling.id == pad) {
                return Err(Error::Unsupported(
                    "a tokenizer that pads with the token that queries are expanded with: colbert-ai takes both for \
                     padding, and makes their vectors zero"
                        .to_owned(),
                ));
            }
            query.padding = Some(pad);
            let place = skipped.partition_point(|&id| id < pad);
            skipped.insert(place, pad);
        }
        for side in &late.mask.sides {
            match side {
                SearchSide::Query => query.skipped.clone_from(&skipped),
                SearchSide::Document => document.skipped.clone_from(&skipped),
            }
        }
        document.only = late.mask.only.map(|mut ids| {
            ids.sort_unstable();
            ids
        });
        Ok(Self {
            prompts: Prompts::new(&late.settings),
            query,
            document,
            pooling: late.pooling,
            prompts_by_side: matches!(late.input, LateInput::SentenceTransformers(_)),
            mean: late.mean,
            preprocessor: Preprocessor::new(tokenizer, config).with_options(options),
            model: Arc::new(model),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<MultiVectorModel> {
        &self.model
    }

    /// The tokenizer and the size of batches; limits are those of the sides of a search.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// Values per vector.
    pub fn size(&self) -> usize {
        self.model.size()
    }

    /// Names of the model's prompts.
    pub fn prompts(&self) -> Vec<&str> {
        self.prompts.names()
    }

    /// The vectors of every text, all of one side of a search.
    ///
    /// # Errors
    /// As [`run`](Self::run); the first failure of a text is that of the call.
    pub fn encode(&self, texts: &[&str], side: SearchSide) -> Result<Vec<Embeddings>> {
        let outcomes = self.run(texts, &MultiVectorRequest::default().with_side(side))?;
        outcomes.into_iter().map(|outcome| Ok(outcome?.value.vectors)).collect()
    }

    /// The vectors of every text.
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt that the model does not have; failures of the engine. A text's own failure is in
    /// its place.
    pub fn run(&self, texts: &[&str], request: &MultiVectorRequest) -> Result<Outcomes<MultiVector>> {
        self.prepare(texts, request)?.run(self, self.preprocessor.batch_tokens())
    }

    /// The first stage of [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt that the model does not have.
    pub fn prepare(&self, texts: &[&str], request: &MultiVectorRequest) -> Result<Prepared<Self>> {
        if let Some(factor) = request.pool_factor.filter(|factor| !(1.0..f64::INFINITY).contains(factor)) {
            return Err(Error::input(format!("a pool factor of {factor}: it is at least 1")));
        }
        let prompt = match &request.prompt {
            PromptChoice::Default if self.prompts_by_side => {
                self.prompts.text(&PromptChoice::Named(request.side.name().to_owned()))?
            }
            prompt => self.prompts.text(prompt)?,
        };
        let rules = self.rules(request.side);
        let encoded = self.preprocessor.encode_all(texts, |text: &&str| self.encode_text(prompt, text, rules));
        let kept: Vec<_> = encoded
            .iter()
            .flatten()
            .map(|text| {
                let unseen = if rules.hides_expansion() { text.encoding.ids.len() - text.real } else { 0 };
                (rules.kept(text), unseen)
            })
            .collect();
        let encodings = encoded.into_iter().map(|text| text.map(|text| text.encoding)).collect();
        let (mut sequences, inputs) = EachInput::new(encodings, 0);
        for (sequence, (wanted, unseen)) in sequences.iter_mut().zip(kept) {
            (sequence.wanted, sequence.unseen) = (wanted, unseen);
        }
        Ok(Prepared::new(sequences, (), MultiVectorPlan { inputs, request: request.clone() }))
    }

    /// The MaxSim score of every document: the largest dot products of the query's vectors with the document's, added.
    /// A document without vectors has −1e9. Where the model's files ask for the mean, both are divided by the number of
    /// the query's vectors.
    ///
    /// # Errors
    /// [`Error::Input`] for vectors of another size, or scores that are not finite.
    pub fn scores(&self, query: &Embeddings, documents: &[Embeddings]) -> Result<Vec<f32>> {
        let size = self.size();
        if let Some(odd) = documents.iter().chain([query]).find(|item| item.values.len() != item.len() * size) {
            let shape = odd.shape;
            return Err(Error::input(format!("vectors of shape {shape:?}, where this model's have {size} values")));
        }
        let backend = self.model.trunk().backend();
        let team = backend.team();
        let isa = backend.isa().unwrap_or_else(Isa::best);
        let packed = MaxSimQueries::pack(isa, Scheme::F32, &team, &query.values, size, &[0, query.len()]);
        let mut scores = vec![0.0; documents.len()];
        let vectors: usize = documents.iter().map(Embeddings::len).sum();
        let work = (2 * query.len() * size).saturating_mul(vectors);
        // Each where it lies: to bring them together first takes longer than to score them.
        team.run_rows(&mut scores, 1, work, |first, scores| {
            let alone = Team::single();
            for (document, score) in documents[first..].iter().zip(scores) {
                let vectors = DocumentVectors::F32(&document.values);
                max_sim(&alone, &packed, vectors, &[0, document.len()], slice::from_mut(score));
            }
        });
        if self.mean {
            scores.iter_mut().for_each(|score| *score /= query.len().max(1) as f32);
        }
        match finite::is_finite(&scores) {
            true => Ok(scores),
            false => Err(Error::input("the vectors are too large to be compared: their score is not finite")),
        }
    }

    /// The documents of every query, best first by their MaxSim score; equal scores keep the order of the documents.
    ///
    /// # Errors
    /// As [`run`](Self::run); a query fails in its place if it or one of its documents does.
    pub fn rerank(&self, inputs: &[RerankInput<'_>], prompt: &PromptChoice) -> Result<Outcomes<Vec<IndexedScore>>> {
        let request = |side| MultiVectorRequest::default().with_side(side).with_prompt(prompt.clone());
        let queries: Vec<&str> = inputs.iter().map(|input| input.query).collect();
        let documents: Vec<&str> = inputs.iter().flat_map(|input| input.documents.iter().copied()).collect();
        let queries = self.run(&queries, &request(SearchSide::Query))?;
        let mut documents = self.run(&documents, &request(SearchSide::Document))?.into_iter();
        let ranked = inputs.iter().zip(queries).map(|(input, query)| {
            let documents: Outcomes<MultiVector> = documents.by_ref().take(input.documents.len()).collect();
            self.ranked(query?, documents)
        });
        Ok(ranked.collect())
    }

    /// Compares each `a` with each of its `b`, in the order given, by MaxSim: `a` is a query, and each `b` a document.
    ///
    /// # Errors
    /// As [`rerank`](Self::rerank).
    pub fn similarity(
        &self,
        inputs: &[SimilarityInput<'_>],
        prompt: &PromptChoice,
    ) -> Result<Outcomes<Vec<IndexedScore>>> {
        let inputs: Vec<RerankInput<'_>> =
            inputs.iter().map(|input| RerankInput { query: input.a, documents: input.b.clone() }).collect();
        let in_order = |mut outcome: Outcome<Vec<IndexedScore>>| {
            outcome.value.sort_unstable_by_key(|scored| scored.index);
            outcome
        };
        Ok(self.rerank(&inputs, prompt)?.into_iter().map(|outcome| outcome.map(in_order)).collect())
    }

    /// The documents of one query, best first, from the vectors of all of them.
    ///
    /// # Errors
    /// The first failure of a document; as [`scores`](Self::scores).
    pub fn ranked(
        &self,
        query: Outcome<MultiVector>,
        documents: Outcomes<MultiVector>,
    ) -> Result<Outcome<Vec<IndexedScore>>> {
        let mut truncated = query.truncated;
        let mut vectors = Vec::with_capacity(documents.len());
        for document in documents {
            let document = document?;
            truncated |= document.truncated;
            vectors.push(document.value.vectors);
        }
        let scores = self.scores(&query.value.vectors, &vectors)?.into_iter().enumerate();
        let mut ranked: Vec<_> = scores.map(|(index, score)| IndexedScore { index, score }).collect();
        ranked.sort_by(|a, b| descending(a.score, b.score));
        Ok(Outcome { value: ranked, truncated })
    }

    fn rules(&self, side: SearchSide) -> &SideRules {
        match side {
            SearchSide::Query => &self.query,
            SearchSide::Document => &self.document,
        }
    }

    /// What the model's own pooling and that of a request make of the vectors of a text.
    fn pooled(&self, mut values: Vec<f32>, request: &MultiVectorRequest) -> Vec<f32> {
        let size = self.size();
        let asked = request.pool_factor.filter(|_| request.side == SearchSide::Document).map(|factor| TokenPooling {
            factor,
            protected: request.protected_tokens,
            // PyLate keeps the means as they are.
            normalize: self.prompts_by_side,
            sides: vec![SearchSide::Document],
        });
        for pooling in self.pooling.iter().chain(&asked).filter(|pooling| pooling.sides.contains(&request.side)) {
            if pooling.factor > 1.0 {
                values = ward::pooled(&values, size, pooling.factor, pooling.protected);
            }
            if pooling.normalize {
                values.chunks_exact_mut(size).for_each(normalize);
            }
        }
        values
    }

    /// A text as the model's library encodes it.
    fn encode_text(&self, prompt: &str, text: &str, rules: &SideRules) -> Result<EncodedText> {
        let text = prompted(prompt, text);
        let mut text = Cow::Borrowed(if rules.strips { text.trim_matches(is_python_space) } else { &text });
        if rules.lower_case {
            text = Cow::Owned(text.to_lowercase());
        }
        let mut encoding = self.preprocessor.tokenizer().within(&text, None, rules.special_tokens, rules.limit)?;
        if let Some((id, token)) = &rules.prefix {
            encoding.insert(encoding.ids.len().min(1), *id, token);
        }
        let real = encoding.ids.len();
        if let Some(Filling { id, token, length, .. }) = &rules.expansion {
            for at in 0..real {
                if rules.padding == Some(encoding.ids[at]) {
                    encoding.ids[at] = *id;
                    encoding.tokens[at].clone_from(token);
                }
            }
            for at in real..*length {
                encoding.insert(at, *id, token);
            }
        }
        match encoding.ids.is_empty() {
            true => Err(Error::input("the text has no tokens, and the model's files put none around it")),
            false => Ok(EncodedText { encoding, real }),
        }
    }
}

impl SideRules {
    /// With the id of a prefix put in.
    fn inserted(
        inserter: Inserter,
        settings: &SideSettings,
        side: SearchSide,
        tokenizer: &Tokenizer,
        config: &Config,
        options: &Options,
    ) -> Result<Self> {
        let prefix = match &settings.prefix {
            None => None,
            Some(token) => Some((token_id(inserter, tokenizer, config, token)?, token.clone())),
        };
        let origin = match (inserter, side) {
            (Inserter::PyLate, SearchSide::Query) => LimitOrigin::LateInteractionQuery,
            (Inserter::PyLate, SearchSide::Document) => LimitOrigin::LateInteractionDocument,
            (Inserter::Stanford, SearchSide::Query) => LimitOrigin::StanfordQuery,
            (Inserter::Stanford, SearchSide::Document) => LimitOrigin::StanfordDocument,
        };
        let length = settings.length.min(config.max_position_embeddings);
        let (tokens, origin) = match options.max_length {
            Some(asked) if asked < length => (asked, LimitOrigin::Asked),
            _ => (length, origin),
        };
        let tokens = tokens.saturating_sub(usize::from(prefix.is_some()));
        let side = tokenizer.truncation_side().unwrap_or_default();
        let limit = Limit { tokens, truncate: options.truncate, origin, side };
        Ok(Self { strips: inserter == Inserter::PyLate, prefix, ..Self::plain(limit, true) })
    }

    /// As sentence-transformers has it for every model.
    fn of_transformer(
        files: &ModelFiles,
        transformer: &Transformer,
        side: SearchSide,
        tokenizer: &Tokenizer,
        config: &Config,
        options: &Options,
    ) -> Result<Self> {
        let bounds = Bounds::sentence_transformers(files, transformer, config, Some(side))?;
        Ok(Self::plain(bounds.limit(options, tokenizer.truncation_side()), transformer.special_tokens))
    }

    /// Texts as they are.
    fn plain(limit: Limit, special_tokens: bool) -> Self {
        Self {
            strips: false,
            lower_case: false,
            special_tokens,
            prefix: None,
            limit,
            expansion: None,
            padding: None,
            skipped: Vec::new(),
            only: None,
        }
    }

    /// Rows of a text whose vectors are kept.
    fn kept(&self, text: &EncodedText) -> Vec<usize> {
        let kept = |id: &u32| {
            let wanted = self.only.as_ref().is_none_or(|only| only.binary_search(id).is_ok());
            wanted && self.skipped.binary_search(id).is_err()
        };
        let ids = text.encoding.ids.iter().enumerate();
        ids.filter(|(_, id)| kept(id)).map(|(row, _)| row).collect()
    }

    fn hides_expansion(&self) -> bool {
        self.expansion.as_ref().is_some_and(|filling| !filling.attended)
    }
}

impl Filling {
    fn new(expansion: &Expansion, tokenizer: &Tokenizer, config: &Config) -> Result<Self> {
        let special = tokenizer.special();
        let id = match &expansion.token {
            Some(token) => {
                let id = tokenizer.id(token).filter(|&id| (id as usize) < config.vocab_size);
                id.ok_or_else(|| Error::Unsupported(format!("the token {token:?} of query_expansion, which is none")))?
            }
            None => special.mask.or(special.eos_of_model.first().copied()).ok_or_else(|| {
                let what = "it has neither a mask token nor an end token, with which queries are expanded";
                Error::Tokenizer(what.to_owned())
            })?,
        };
        let length = expansion.length.min(config.max_position_embeddings);
        Ok(Self { id, token: tokenizer.token(id).unwrap_or_default(), length, attended: expansion.attended })
    }

    /// The limit of queries that are cut to the length with the expansion.
    fn limit(&self, stated: Limit, options: &Options) -> Limit {
        match options.max_length.filter(|&asked| asked < self.length) {
            Some(asked) => Limit { tokens: asked, origin: LimitOrigin::Asked, ..stated },
            None => Limit { tokens: self.length, origin: LimitOrigin::QueryExpansion, ..stated },
        }
    }
}

/// The id of a prefix. One that the vocabulary or the model lacks would have a vector made up by chance.
fn token_id(inserter: Inserter, tokenizer: &Tokenizer, config: &Config, token: &str) -> Result<u32> {
    let file = inserter.file();
    match tokenizer.id(token) {
        Some(id) if (id as usize) < config.vocab_size => Ok(id),
        Some(id) => Err(Error::Unsupported(format!(
            "the prefix {token:?} of {file}: its id {id} is outside the model's vocabulary of {}",
            config.vocab_size
        ))),
        None => Err(Error::Unsupported(match inserter {
            Inserter::PyLate => format!(
                "the prefix {token:?} of {file}: the tokenizer has no such token, and PyLate would make up its vector by \
                 chance; save the model with PyLate once, or set the prefix to \"\""
            ),
            Inserter::Stanford => format!(
                "the marker {token:?} of {file}: the tokenizer has no such token; colbert-ai would put in the unknown \
                 one, and PyLate a vector made up by chance"
            ),
        })),
    }
}

/// The ids of a skiplist.
fn skipped(mask: &TokenMask, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let id = |word: &String| {
        Ok(match mask.lookup {
            WordLookup::Known => tokenizer.id(word),
            WordLookup::OrUnknown => tokenizer.id(word).or(tokenizer.special().unk),
            WordLookup::FirstToken => tokenizer.ids(word)?.first().copied(),
        })
    };
    let ids: Result<Vec<Option<u32>>> = mask.words.iter().map(id).collect();
    let mut ids: Vec<u32> = ids?.into_iter().flatten().collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// What Python's `str.strip` takes off.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// To length 1, as torch's `normalize` does.
fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= norm);
}
