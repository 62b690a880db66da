//! Fill-mask: the most likely tokens at each mask.

use std::sync::Arc;

use serde::Serialize;

use super::limit::Bounds;
use super::spec::TaskSpec;
use super::staged::{self, EachInput};
use super::{Options, Outcomes, Prepared, PreparedSequence, Preprocessor, Staged};
use crate::files::ModelFiles;
use crate::finite::Traced;
use crate::heads::LanguageModel;
use crate::readout::{TopK, TopTokens};
use crate::tokenizer::{Encoding, Tokenizer};
use crate::{Error, Objective, PackedBatch, Result};

/// Predicts the masked tokens of a text with a masked language model.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
/// use ettin::files::ModelFiles;
/// use ettin::tasks::{FillMask, Fills, Options};
///
/// let fill_mask = FillMask::load(&ModelFiles::folder(folder)?, &Options::default())?;
/// let outcomes = fill_mask.run(&["The capital of France is [MASK]."], 5)?;
/// for outcome in outcomes {
///     if let Fills::One(candidates) = outcome?.value {
///         assert_eq!(candidates[0].token_str, " Paris");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FillMask {
    model: Arc<LanguageModel>,
    preprocessor: Preprocessor,
    mask: u32,
}

/// One filling of one mask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Probability over the whole vocabulary.
    pub score: f32,
    /// The token's id.
    pub token: u32,
    /// The token decoded alone, as the library's pipeline does: with its space where it is a part of the token
    /// (byte-level), without where the decoder leaves it out at a text's beginning (Metaspace, WordPiece).
    pub token_str: String,
    /// The text with the mask filled; special tokens are left out when the text has one mask only.
    pub sequence: String,
}

/// The fillings of one input: a list for a single mask, a list per mask for several.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fills {
    /// The text has one mask.
    One(Vec<Candidate>),
    /// The text has several masks; each list fills one of them and leaves the others.
    Many(Vec<Vec<Candidate>>),
}

impl FillMask {
    /// Loads a masked language model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a decoder; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "fill-mask", objective: Some(Objective::Encoder) };
        let (model, preprocessor) = spec.load(files, options, LanguageModel::load, Bounds::lenient)?;
        Self::new(model, preprocessor)
    }

    /// A fill-mask of parts.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a decoder; [`Error::Tokenizer`] for a tokenizer without a mask token.
    pub fn new(model: impl Into<Arc<LanguageModel>>, preprocessor: Preprocessor) -> Result<Self> {
        let model = model.into();
        if model.config().objective != Objective::Encoder {
            return Err(Error::Unsupported("fill-mask with a decoder, which was trained on no masks".to_owned()));
        }
        let mask = preprocessor.tokenizer.special().mask.ok_or_else(|| {
            Error::Tokenizer("the model's files name no mask token, which fill-mask needs".to_owned())
        })?;
        Ok(Self { model, preprocessor, mask })
    }

    /// The model.
    pub fn model(&self) -> &Arc<LanguageModel> {
        &self.model
    }

    /// What turns texts into batches.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The tokenizer, for example for the mask's spelling.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.preprocessor.tokenizer
    }

    /// The `top_k` best fillings of every mask of every text. A text without a mask is an error.
    ///
    /// # Errors
    /// Failures of the engine; a text's own failure is in its place.
    pub fn run(&self, texts: &[&str], top_k: usize) -> Result<Outcomes<Fills>> {
        self.prepare(texts, top_k).run(self, self.preprocessor.batch_tokens)
    }

    /// The first stage of [`run`](Self::run).
    pub fn prepare(&self, texts: &[&str], top_k: usize) -> Prepared<Self> {
        let encode = |text: &&str| {
            let encoding = self.preprocessor.encode((*text).into())?;
            if encoding.ids.contains(&self.mask) { Ok(encoding) } else { Err(self.no_mask(&encoding)) }
        };
        let (sequences, inputs) = EachInput::new(self.preprocessor.encode_all(texts, encode), 0);
        Prepared::new(sequences, top_k, inputs)
    }

    /// `best` holds the tokens of each mask.
    fn fills(&self, ids: &[u32], best: Vec<TopTokens>) -> Result<Fills> {
        let single = best.len() == 1;
        let positions = (0..ids.len()).filter(|&position| ids[position] == self.mask);
        let mut lists = positions
            .zip(best)
            .map(|(position, best)| {
                let candidate = |(token, score)| self.candidate(ids, position, token, score, single);
                best.probabilities().map(candidate).collect::<Result<Vec<_>>>()
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(match (single, lists.pop()) {
            (true, Some(list)) => Fills::One(list),
            (_, last) => {
                lists.extend(last);
                Fills::Many(lists)
            }
        })
    }

    fn candidate(&self, ids: &[u32], position: usize, token: u32, score: f32, single: bool) -> Result<Candidate> {
        let tokenizer = &self.preprocessor.tokenizer;
        let mut filled = ids.to_vec();
        filled[position] = token;
        filled.retain(|&id| Some(id) != tokenizer.special().pad);
        Ok(Candidate {
            score,
            token,
            token_str: tokenizer.decode(&[token], false)?,
            // With several masks, skipping special tokens would hide the masks that are left.
            sequence: tokenizer.decode(&filled, single)?,
        })
    }

    fn no_mask(&self, encoding: &Encoding) -> Error {
        let mask = self.preprocessor.tokenizer.token(self.mask).unwrap_or_default();
        Error::input(match encoding.truncated {
            true => format!("the part of the text that is left after truncation has no {mask}"),
            false => format!("the text has no {mask} to fill"),
        })
    }
}

impl Staged for FillMask {
    /// How many fillings of each mask.
    type Reading = usize;
    type Row = Vec<TopTokens>;
    type Plan = EachInput;
    type Answer = Fills;

    fn compute(
        &self,
        batch: &PackedBatch,
        sequences: &[&PreparedSequence],
        &top_k: &usize,
    ) -> Result<Vec<Result<Vec<TopTokens>>>> {
        let is_mask = |row: &usize| batch.ids()[*row] == self.mask;
        let masks: Vec<usize> = (0..batch.tokens()).filter(is_mask).collect();
        let best = self.model.read(batch, &TopK { rows: &masks, k: top_k })?;
        let mut best = best.into_iter();
        let rows = sequences.iter().map(|sequence| {
            let masks = sequence.ids().iter().filter(|&&id| id == self.mask).count();
            let best: Vec<_> = best.by_ref().take(masks).collect();
            let finite = best.iter().all(|best| best.log_sum_exp.is_finite());
            self.model.finite(finite, best, sequence.ids())
        });
        Ok(rows.collect())
    }

    fn assemble(&self, prepared: &Prepared<Self>, rows: Vec<Result<Vec<TopTokens>>>) -> Outcomes<Fills> {
        let mut sequences = prepared.sequences().iter();
        let with_ids = rows.into_iter().map(|row| {
            let sequence = sequences.next();
            Ok((sequence.ok_or_else(staged::no_row)?, row?))
        });
        prepared.plan.answers(with_ids.collect(), |_, (sequence, best)| self.fills(sequence.ids(), best))
    }
}
