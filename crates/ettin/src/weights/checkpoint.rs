//! A model's tensors by role, every one declared as must or may: what is missing or mis-shaped is reported all at once,
//! what is stored and not used is listed.

use std::collections::BTreeSet;
use std::convert::Infallible;

use super::{FileData, Problem, Stack, StoredDtype, View, Weights, names};
use crate::config::{Config, Objective};
use crate::tensors::{Head, HeadName, Kind, ModelTensors, Part, Role, Source, walk};
use crate::{Error, Result};

/// A model's tensors by role, all of them present and of the right shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint<'a> {
    /// The trunk's, and those of the head that was asked for. Query, key and value are stacked, however they are
    /// stored.
    pub tensors: ModelTensors<Stack<'a>, Stack<'a>>,
    /// What was noticed on the way.
    pub report: LoadReport,
}

/// What a load noticed and did not refuse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Stored tensors that no part of this model type uses: worth a warning.
    pub unused: Vec<String>,
    /// Stored tensors of heads that were not asked for.
    pub other_heads: Vec<String>,
    /// Things that deserve a warning, as sentences.
    pub warnings: Vec<String>,
}

impl LoadReport {
    /// What a user should hear, a sentence each. The heads that other tasks would use are as they should be, and
    /// not named.
    pub fn sentences(&self) -> Vec<String> {
        /// The most names that are worth reading.
        const MAX_NAMES: usize = 3;
        let mut sentences = self.warnings.clone();
        if !self.unused.is_empty() {
            let named: Vec<&str> = self.unused.iter().take(MAX_NAMES).map(String::as_str).collect();
            let more = match self.unused.len().saturating_sub(MAX_NAMES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            sentences.push(format!("its weights hold tensors that are not used: {}{more}", named.join(", ")));
        }
        sentences
    }
}

impl Weights {
    /// Everything that a model of this configuration needs, checked.
    ///
    /// # Errors
    /// [`crate::Error::Tensors`] naming every tensor that is missing, mis-shaped or of an unsupported dtype.
    pub fn checkpoint(&self, config: &Config, head: Head) -> Result<Checkpoint<'_>> {
        let (checkpoint, problems) = self.read(config, head);
        if problems.is_empty() {
            return Ok(checkpoint);
        }
        // What hides all tensors is one fault, not as many as there are tensors.
        let stored = self.tensors.values().map(|entry| entry.stored.as_str());
        let mut quantized = stored.filter_map(|name| Some((name, names::quantizer(name)?)));
        if let Some((name, library)) = quantized.next() {
            let message = format!(
                "the weights are quantized by {library}, as `{name}` shows, which only that library reads; use the \
                 original weights, which can be converted to w8 or w4 here"
            );
            return Err(Error::Tensors { file: self.place(), message });
        }
        if let Some(prefix) = self.hiding_prefix(config, head) {
            let file = self.files.first().map_or("", FileData::name);
            return Err(prefix.error(self.place(), file));
        }
        Err(self.tensors_error(&problems))
    }

    /// The checkpoint, and what is wrong with it; with a fault it holds views of nothing.
    pub(super) fn read(&self, config: &Config, head: Head) -> (Checkpoint<'_>, Vec<Problem>) {
        let mut reader = Reader {
            weights: self,
            config,
            embedding: NOTHING,
            used: BTreeSet::new(),
            problems: Vec::new(),
            warnings: self.adaptation.notes.clone(),
        };
        if matches!(head, Head::Classifier { .. }) {
            reader.warnings.extend(self.lacking_head(config.objective));
        }
        let Ok(tensors) = walk(config, head, &mut reader);
        (Checkpoint { tensors, report: reader.report() }, reader.problems)
    }
}

/// Looks tensors up, remembers which were used and what was wrong with them.
///
/// A tensor that must be there and is not is recorded and stood in for by an empty view, so that one walk finds every
/// fault; [`Weights::checkpoint`] returns no checkpoint then.
struct Reader<'a, 'c> {
    weights: &'a Weights,
    config: &'c Config,
    /// Once it was read.
    embedding: View<'a>,
    used: BTreeSet<&'a str>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

const NOTHING: View<'static> = View { name: "", dtype: StoredDtype::F32, shape: &[0], bytes: &[], scales: &[] };

impl<'a> Source for Reader<'a, '_> {
    type Matrix = Stack<'a>;
    type Vector = Stack<'a>;
    type Error = Infallible;

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Stack<'a>, Infallible> {
        Ok(match role.part {
            Part::Embedding => {
                self.embedding = self.must(self.embedding_name(), &shape);
                self.embedding.into()
            }
            _ => self.stack(role, &shape),
        })
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<Stack<'a>, Infallible> {
        Ok(self.stack(role, &[len]))
    }

    fn tied_output(&mut self, _: Role, shape: [usize; 2]) -> Result<Option<Stack<'a>>, Infallible> {
        let embedding = self.embedding;
        let weight = self.may(OUTPUT, &shape).filter(|output| !output.same_values(&embedding));
        if weight.is_some() && !embedding.is_empty() && !self.weights.unties() {
            self.warnings.push(format!(
                "`{OUTPUT}` differs from `{EMBEDDINGS}` although the configuration ties them; both are used as stored"
            ));
        }
        Ok(weight.map(Stack::from))
    }
}

impl<'a> Reader<'a, '_> {
    fn must(&mut self, name: &str, shape: &[usize]) -> View<'a> {
        self.may(name, shape).unwrap_or_else(|| {
            // A fault of a tensor that is there was recorded by `may`.
            if !self.has(name) {
                self.problems.push(self.weights.missing(name, shape));
            }
            NOTHING
        })
    }

    fn may(&mut self, name: &str, shape: &[usize]) -> Option<View<'a>> {
        match self.weights.look_up(name, shape) {
            Ok(view) => {
                self.used.extend(view.map(|view| view.name));
                view
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(name)
    }

    /// A tensor under whichever of its spellings the file has.
    fn stack(&mut self, role: Role, shape: &[usize]) -> Stack<'a> {
        match role.part {
            Part::Qkv(_) if self.separate(role.part) => {
                let part = [&[shape[0] / 3], &shape[1..]].concat();
                Stack::new(separate_names(role).iter().map(|name| self.must(name, &part)).collect())
            }
            part => self.must(&Role { part: self.stored_part(part), ..role }.to_string(), shape).into(),
        }
    }

    /// Whether query, key and value are three projections (decoders) instead of one `Wqkv` (encoders); either form
    /// on either type.
    fn separate(&self, qkv: Part) -> bool {
        let fused = self.has(&qkv.weight().to_string());
        match self.config.objective {
            Objective::Encoder => !fused && self.has(&separate_names(qkv.weight())[0]),
            Objective::Decoder => !fused,
        }
    }

    /// A prediction head may be stored under the other objective's name.
    fn stored_part(&self, part: Part) -> Part {
        let stored = |name: HeadName| {
            let other = match name {
                HeadName::Head => HeadName::LmHead,
                HeadName::LmHead => HeadName::Head,
            };
            let present = |name: HeadName| self.has(&Part::HeadDense(name).weight().to_string());
            if !present(name) && present(other) { other } else { name }
        };
        match part {
            Part::HeadDense(name) => Part::HeadDense(stored(name)),
            Part::HeadNorm(name) => Part::HeadNorm(stored(name)),
            other => other,
        }
    }

    /// The embedding, which a tied file may hold under the output projection's name alone.
    fn embedding_name(&self) -> &'static str {
        match self.config.tie_word_embeddings && !self.has(EMBEDDINGS) && self.has(OUTPUT) {
            true => OUTPUT,
            false => EMBEDDINGS,
        }
    }

    fn report(&mut self) -> LoadReport {
        let unused = self.weights.names().filter(|name| !self.used.contains(name)).map(str::to_owned);
        let (other_heads, unused) = unused.partition(|name| names::is_head(name));
        LoadReport { unused, other_heads, warnings: std::mem::take(&mut self.warnings) }
    }
}

/// Names of the three projections that a `Wqkv` may be stored as.
fn separate_names(qkv: Role) -> [String; 3] {
    let kind = match qkv.kind {
        Kind::Weight => "weight",
        Kind::Bias => "bias",
    };
    let fused = qkv.part.to_string();
    let attention = fused.strip_suffix("Wqkv").unwrap_or(&fused);
    ["q_proj", "k_proj", "v_proj"].map(|part| format!("{attention}{part}.{kind}"))
}

pub(super) const EMBEDDINGS: &str = "model.embeddings.tok_embeddings.weight";
pub(super) const OUTPUT: &str = "decoder.weight";
