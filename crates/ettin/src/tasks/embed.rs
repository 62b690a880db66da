//! Embeddings and similarity.

use serde::Serialize;

use super::batching::Item;
use super::frontend::{Frontend, Need};
use super::{Options, Outcome, Outcomes};
use crate::files::ModelFiles;
use crate::finite::{self, Traced};
use crate::heads::{Chain, EmbedOptions, Embedder, Embedding as Asked, Settings, Similarity};
use crate::pooling::Pooling;
use crate::{Error, PackedBatch, Result};

/// Turns texts into vectors.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{EmbedRequest, Options, TextEmbedder, Vector};
///
/// let embedder = TextEmbedder::load(&ModelFiles::folder(folder)?, &Options::default())?;
/// let request = EmbedRequest { normalize: Some(true), ..EmbedRequest::default() };
/// for outcome in embedder.run(&["The cat sat on the mat.", "A kitten rested on the rug."], &request)? {
///     let Vector::Pooled(vector) = outcome?.value.embedding else { unreachable!() };
///     assert_eq!(vector.len(), 256);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TextEmbedder {
    model: Embedder,
    frontend: Frontend,
    /// What a model without a chain has.
    plain: Settings,
}

/// Which prompt is put before each text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PromptChoice {
    /// The model's `default_prompt_name`, if it has one.
    #[default]
    Default,
    /// No prompt.
    None,
    /// A prompt by its name in `config_sentence_transformers.json`.
    Named(String),
}

/// How to embed; the default leaves everything to the model's own files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EmbedRequest {
    /// Pooling instead of the model's.
    pub pooling: Option<Pooling>,
    /// One vector per token instead of one per text (`--pooling none`); excludes `pooling`.
    pub per_token: bool,
    /// Scale to unit length, or not, instead of the model's choice.
    pub normalize: Option<bool>,
    /// Keep only the first dimensions (Matryoshka); what was normalised is normalised again.
    pub dimensions: Option<usize>,
    /// Hidden states of this layer: 0 the embeddings, the number of layers the last (after the final norm).
    pub layer: Option<usize>,
    /// The prompt.
    pub prompt: PromptChoice,
}

/// A vector per text, or one per token of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Vector {
    /// `[dimensions]`.
    Pooled(Vec<f32>),
    /// `[tokens, dimensions]`, special tokens included.
    Tokens(Vec<Vec<f32>>),
}

impl Vector {
    fn is_finite(&self) -> bool {
        match self {
            Vector::Pooled(vector) => finite::is_finite(vector),
            Vector::Tokens(vectors) => vectors.iter().all(|vector| finite::is_finite(vector)),
        }
    }
}

/// The embedding of one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embedding {
    /// Index of the input.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
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
    /// [`Error::Unsupported`] for late interaction and SPLADE; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let (model, tokenizer) = Need { task: "embed", objective: None }.load(files, options, Embedder::load)?;
        let max_seq_length = model.chain().and_then(|chain| chain.settings().max_seq_length);
        let frontend = Frontend::new(tokenizer, options, model.config(), max_seq_length);
        Ok(Self { model, frontend, plain: Settings { include_prompt: true, ..Settings::default() } })
    }

    /// The pooling taken because the model's files configure none; worth telling the user once.
    pub fn unconfigured_pooling(&self) -> Option<Pooling> {
        self.model.chain().is_none().then(|| self.model.default_pooling())
    }

    /// Names of the model's prompts.
    pub fn prompts(&self) -> Vec<&str> {
        self.settings().prompts.keys().map(String::as_str).collect()
    }

    /// The vector of every text.
    ///
    /// # Errors
    /// [`Error::Input`] for a request that does not fit the model; failures of the engine. A text's own failure is in its
    /// place.
    pub fn run(&self, texts: &[&str], request: &EmbedRequest) -> Result<Outcomes<Embedding>> {
        self.check(request)?;
        let prompt = self.prompt(&request.prompt)?;
        let skip = self.skipped(prompt)?;
        let encode = |text: &&str| match prompt {
            "" => self.frontend.encode((*text).into()),
            prompt => self.frontend.encode([prompt, text].concat().as_str().into()),
        };
        self.frontend.run(texts, encode, |batch, items| {
            let options = EmbedOptions {
                pooling: request.pooling,
                normalize: request.normalize,
                dimensions: request.dimensions,
                layer: request.layer,
                skip: (skip > 0).then(|| vec![skip; items.len()]),
            };
            let vectors = if request.per_token {
                self.token_vectors(batch, items, request)?
            } else {
                self.model.embed(batch, &options)?.to_vec2()?.into_iter().map(Vector::Pooled).collect()
            };
            let asked = Asked { model: &self.model, options: &options, per_token: request.per_token };
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
        let texts: Vec<&str> =
            inputs.iter().flat_map(|input| std::iter::once(input.a).chain(input.b.iter().copied())).collect();
        let mut embeddings = self.run(&texts, request)?.into_iter();
        let similarity = self.settings().similarity;
        Ok(inputs
            .iter()
            .map(|input| compared(similarity, embeddings.by_ref().take(1 + input.b.len()).collect()))
            .collect())
    }

    /// The sentence-transformers modules, where the model has them.
    pub fn chain(&self) -> Option<&Chain> {
        self.model.chain()
    }

    fn settings(&self) -> &Settings {
        self.model.chain().map_or(&self.plain, Chain::settings)
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

    fn prompt(&self, choice: &PromptChoice) -> Result<&str> {
        let settings = self.settings();
        let name = match choice {
            PromptChoice::None => return Ok(""),
            PromptChoice::Default => match &settings.default_prompt_name {
                Some(name) => name,
                None => return Ok(""),
            },
            PromptChoice::Named(name) => name,
        };
        // Every model of sentence-transformers has these two; where its files do not define them, they are empty.
        if ["query", "document"].contains(&name.as_str()) && !settings.prompts.contains_key(name) {
            return Ok("");
        }
        settings.prompts.get(name).map(String::as_str).ok_or_else(|| {
            let known = self.prompts();
            Error::input(match known.is_empty() {
                true => format!("the model has no prompts, so none named {name:?}"),
                false => format!("the model has no prompt {name:?}; it has {}", known.join(", ")),
            })
        })
    }

    /// Leading tokens that take no part in the pooling: the prompt, with the special token before it.
    fn skipped(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() || self.settings().include_prompt {
            return Ok(0);
        }
        let encoding = self.frontend.tokenizer.encode(prompt, None, true)?;
        let closing = encoding.special.last() == Some(&true);
        Ok(encoding.ids.len() - usize::from(closing))
    }

    /// One vector per token, cut and scaled as a pooled one would be.
    fn token_vectors(&self, batch: &PackedBatch, items: &[Item<'_>], request: &EmbedRequest) -> Result<Vec<Vector>> {
        let mut vectors: Vec<Vec<f32>> = self.model.token_embeddings(batch, request.layer)?.to_vec2()?;
        if let Some(dimensions) = request.dimensions {
            let size = self.model.config().hidden_size;
            if dimensions > size {
                return Err(Error::input(format!("{dimensions} dimensions were asked of vectors that have {size}")));
            }
            vectors.iter_mut().for_each(|vector| vector.truncate(dimensions));
        }
        if request.normalize == Some(true) {
            vectors.iter_mut().for_each(|vector| normalize(vector));
        }
        let mut rows = vectors.into_iter();
        Ok(items.iter().map(|item| Vector::Tokens(rows.by_ref().take(item.encoding.ids.len()).collect())).collect())
    }
}

/// Scales to length 1; zeros stay.
fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

/// The first embedding against each of the others.
fn compared(similarity: Similarity, embeddings: Outcomes<Embedding>) -> Result<Outcome<Vec<IndexedScore>>> {
    let mut truncated = false;
    let mut vectors = Vec::with_capacity(embeddings.len());
    for outcome in embeddings {
        let outcome = outcome?;
        truncated |= outcome.truncated;
        match outcome.value.embedding {
            Vector::Pooled(vector) => vectors.push(vector),
            Vector::Tokens(_) => return Err(Error::input("texts are compared by one vector each")),
        }
    }
    let Some((a, rest)) = vectors.split_first() else {
        return Err(Error::input("there is nothing to compare"));
    };
    let score = |(index, b): (usize, &Vec<f32>)| IndexedScore { index, score: similarity.score(a, b) };
    let scores: Vec<IndexedScore> = rest.iter().enumerate().map(score).collect();
    if !scores.iter().all(|score| score.score.is_finite()) {
        return Err(Error::input("the vectors are too large to be compared: their similarity is not finite"));
    }
    Ok(Outcome { value: scores, truncated })
}
