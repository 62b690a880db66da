//! Embeddings without a trunk: vectors of tokens are looked up and averaged, or weights of tokens are.

use candle_core::Tensor;

use super::chain::{Chain, Look, Start};
use super::embedder::{EmbedOptions, chained};
use crate::{
    Backend, Dtype, Error, Result,
    files::ModelFiles,
    finite,
    ops::Hidden,
    sentence_transformers::{Class, LookupChain, RouteChain, Routes, SparseLookup},
    weights::{FileSource, Subfolder, Weights},
};

/// The most values in the vector of a token, and the most tokens: bounds on hostile files.
const MAX_SIZE: usize = 1 << 20;
const MAX_TOKENS: usize = 1 << 26;

/// A chain of sentence-transformers that begins with a table (`StaticEmbedding`, `SparseStaticEmbedding`).
#[derive(Debug)]
pub struct StaticEmbedder {
    table: StaticTable,
    chain: Chain,
    backend: Backend,
}

/// What is looked up.
#[derive(Debug)]
enum StaticTable {
    /// A vector for each token; a text has the mean of its tokens', and zeros where it has none.
    Vectors(Box<VectorTable>),
    /// A weight for each token; a text has the weights of the tokens that it holds, however often, in their places.
    Weights(Vec<f32>),
}

/// Vectors of tokens, read out of their file when they are needed.
#[derive(Debug)]
struct VectorTable {
    weights: Weights,
    name: &'static str,
    rows: usize,
    size: usize,
    /// The row of each token; its own number where there is none.
    mapping: Option<Vec<usize>>,
    /// What the vector of each token is multiplied by.
    factors: Option<Vec<f64>>,
}

impl StaticEmbedder {
    /// Loads the model that `files` hold, the default route of one that has several.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model with a trunk; what reading its files finds wrong.
    pub fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        match Routes::load(files)?.as_ref().map(Routes::default_chain) {
            Some(RouteChain::Lookup(chain)) => Self::of_chain(files, chain.clone(), backend),
            _ => Err(Error::Unsupported(format!("static embeddings of {}, which has a trunk", files.name()))),
        }
    }

    pub(super) fn of_chain(files: &dyn FileSource, chain: LookupChain, backend: &Backend) -> Result<Self> {
        let folder = &chain.lookup.folder;
        let table = match chain.lookup.class {
            Class::SparseStaticEmbedding => StaticTable::weights(files, folder)?,
            _ => StaticTable::Vectors(VectorTable::load(files, folder)?.into()),
        };
        let chain = Chain::of_vectors(files, chain, table.size(), backend)?;
        Ok(Self { table, chain, backend: backend.clone() })
    }

    /// The modules behind the table.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Whether it looks up a weight for each token, and not a vector.
    pub fn weighs_tokens(&self) -> bool {
        matches!(self.table, StaticTable::Weights(_))
    }

    /// How many tokens it knows: ids from here on cannot be looked up.
    pub fn tokens(&self) -> usize {
        self.table.tokens()
    }

    /// Refuses a sequence with an id that the table does not have.
    ///
    /// # Errors
    /// [`Error::Input`] naming it.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        let known = self.tokens();
        match ids.iter().find(|&&id| id as usize >= known) {
            None => Ok(()),
            Some(id) => {
                Err(Error::input(format!("token {id} of the tokenizer is outside the table, which has {known} tokens")))
            }
        }
    }

    /// One vector for each sequence of token ids, `[sequences, size]`; a sequence may be empty.
    ///
    /// # Errors
    /// [`Error::Input`] for an id that the table does not have, and for options that only a trunk has.
    pub fn embed(&self, sequences: &[&[u32]], options: &EmbedOptions) -> Result<Tensor> {
        self.vectors(sequences, options, &mut |_, _| Ok(()))
    }

    fn vectors(&self, sequences: &[&[u32]], options: &EmbedOptions, look: &mut Look<'_>) -> Result<Tensor> {
        if options.layer.is_some() || options.pooling.is_some() {
            return Err(no_trunk("another layer or pooling"));
        }
        let size = self.table.size();
        let mut values = vec![0.0; sequences.len() * size];
        for (ids, out) in sequences.iter().zip(values.chunks_exact_mut(size)) {
            self.check(ids)?;
            self.table.look_up(ids, out)?;
        }
        let vectors = Tensor::from_vec(values, (sequences.len(), size), &self.backend.device())?;
        let vectors = Hidden::new(vectors);
        look((0, self.table.class()), &vectors)?;
        chained(&self.chain, Start::Vectors(vectors), options, look)
    }

    /// Where the numbers of this sequence stop being finite.
    #[cold]
    pub(crate) fn not_finite(&self, ids: &[u32], options: &EmbedOptions) -> Error {
        // The table is read in f32, whatever computes the modules behind it.
        let mut look = |(number, class): (usize, &str), vectors: &Hidden| {
            finite::check(|| format!("module {number} of the chain ({class})"), vectors.states(), Dtype::F32)
        };
        let traced = self.vectors(&[ids], options, &mut look);
        traced.err().unwrap_or_else(|| finite::not_finite("the vectors", Dtype::F32))
    }
}

/// The refusal of what needs a trunk.
pub(crate) fn no_trunk(wish: &str) -> Error {
    Error::input(format!("{wish} was asked of a route without a trunk, which looks its vectors up"))
}

impl StaticTable {
    fn weights(files: &dyn FileSource, folder: &str) -> Result<Self> {
        if let Some(file) = SparseLookup::load(files, folder)?.by_token {
            return Ok(StaticTable::Weights(SparseLookup::of_tokens(files, folder, &file)?));
        }
        let weights = Weights::open(&Subfolder { files, folder })?;
        let shape = match weights.get("weight") {
            Some(view) if view.shape().len() == 1 => [view.len().clamp(1, MAX_TOKENS)],
            _ => [1],
        };
        Ok(StaticTable::Weights(weights.require("weight", &shape)?.to_f32()))
    }

    fn class(&self) -> &'static str {
        match self {
            StaticTable::Vectors(_) => "StaticEmbedding",
            StaticTable::Weights(_) => "SparseStaticEmbedding",
        }
    }

    /// Values per text.
    fn size(&self) -> usize {
        match self {
            StaticTable::Vectors(table) => table.size,
            StaticTable::Weights(weights) => weights.len(),
        }
    }

    fn tokens(&self) -> usize {
        match self {
            StaticTable::Vectors(table) => table.tokens(),
            StaticTable::Weights(weights) => weights.len(),
        }
    }

    /// Puts what a text has into `out`, which is 0.
    fn look_up(&self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        match self {
            StaticTable::Vectors(table) => table.mean(ids, out),
            StaticTable::Weights(weights) => {
                ids.iter().for_each(|&id| out[id as usize] = weights[id as usize]);
                Ok(())
            }
        }
    }
}

impl VectorTable {
    /// Reads the module in `folder`, as the library saves it or as model2vec does.
    fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        let weights = Weights::open(&Subfolder { files, folder })?;
        let own = weights.names().any(|name| name == "embedding.weight");
        let name = if own { "embedding.weight" } else { "embeddings" };
        let fail = |message: String| Error::Tensors { file: Subfolder { files, folder }.place(), message };
        // A tensor of another shape or type is named by what it should be.
        let shape = match weights.get(name).map(|view| view.shape()) {
            Some(&[rows, size]) => [rows.clamp(1, MAX_TOKENS), size.clamp(1, MAX_SIZE)],
            _ => [1, 1],
        };
        weights.require(name, &shape)?;
        let [rows, size] = shape;
        let (mut mapping, mut factors) = (None, None);
        if !own {
            mapping = weights.numbers("mapping")?;
            factors = weights.numbers("weights")?;
        }
        let mapping = mapping.map(|numbers| {
            let row = |number: f64| {
                // As in Python, a row below 0 is counted from the end.
                let row = if number < 0.0 { number + rows as f64 } else { number };
                let found = (row.fract() == 0.0 && (0.0..rows as f64).contains(&row)).then_some(row as usize);
                found.ok_or_else(|| fail(format!("`mapping` names the row {number} of {rows}")))
            };
            numbers.into_iter().map(row).collect::<Result<Vec<usize>>>()
        });
        let mapping = mapping.transpose()?;
        let tokens = mapping.as_ref().map_or(rows, Vec::len);
        if let Some(factors) = factors.as_ref().filter(|factors| factors.len() != tokens) {
            return Err(fail(format!("`weights` has {} numbers for {tokens} tokens", factors.len())));
        }
        Ok(Self { weights, name, rows, size, mapping, factors })
    }

    fn tokens(&self) -> usize {
        self.mapping.as_ref().map_or(self.rows, Vec::len)
    }

    /// The mean of the vectors of tokens, summed in their order; nothing of no tokens.
    fn mean(&self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let missing = || Error::internal("a table has lost its tensor");
        let table = self.weights.get(self.name).ok_or_else(missing)?;
        let mut vector = vec![0.0; self.size];
        for &id in ids {
            let token = id as usize;
            table.row(self.mapping.as_ref().map_or(token, |mapping| mapping[token]), &mut vector);
            if let Some(factors) = &self.factors {
                // Rounded once, as a product in f32 or a wider type is.
                vector.iter_mut().for_each(|value| *value = (f64::from(*value) * factors[token]) as f32);
            }
            out.iter_mut().zip(&vector).for_each(|(sum, value)| *sum += value);
        }
        if !ids.is_empty() {
            out.iter_mut().for_each(|sum| *sum /= ids.len() as f32);
        }
        Ok(())
    }
}
