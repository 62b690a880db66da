//! A model's tensors by role, every one declared as must or may: what is missing or mis-shaped is reported all at once,
//! what is stored and not used is listed.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::{FileData, Problem, Stack, StoredDtype, View, Weights, names};
use crate::config::{Config, Objective};
use crate::{Error, Result};

/// Which head's tensors to look for besides the trunk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The trunk alone.
    None,
    /// The prediction head and the output projection: masked LM on encoders, causal LM on decoders.
    Language,
    /// The prediction head and a classifier with this many outputs: sequence, token, or question answering (2).
    Classifier {
        /// Rows of the classifier.
        outputs: usize,
    },
}

/// A layer norm over `[hidden]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm<'a> {
    /// Scale, `[hidden]`.
    pub weight: View<'a>,
    /// Shift, `[hidden]`, under `norm_bias`.
    pub bias: Option<View<'a>>,
}

/// A linear layer `y = W x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear<'a> {
    /// `[out, in]`.
    pub weight: Stack<'a>,
    /// `[out]`.
    pub bias: Option<Stack<'a>>,
}

/// The tensors of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights<'a> {
    /// Norm before attention; the first layer has none.
    pub attention_norm: Option<Norm<'a>>,
    /// Query, key and value projections stacked, `[3·hidden, hidden]`, however they were stored.
    pub qkv: Linear<'a>,
    /// Attention output, `[hidden, hidden]`.
    pub attention_output: Linear<'a>,
    /// Norm before the MLP.
    pub mlp_norm: Norm<'a>,
    /// Both halves of the gated MLP's input, `[2·intermediate, hidden]`: the activated half first.
    pub mlp_input: Linear<'a>,
    /// MLP output, `[hidden, intermediate]`.
    pub mlp_output: Linear<'a>,
}

/// The output projection onto the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<'a> {
    /// `[vocabulary, hidden]`; `None` when it is the embedding's matrix.
    pub weight: Option<View<'a>>,
    /// `[vocabulary]`, under `decoder_bias`.
    pub bias: Option<View<'a>>,
}

/// The tensors of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadWeights<'a> {
    /// `[hidden, hidden]`.
    pub dense: Linear<'a>,
    /// Norm after the activation.
    pub norm: Norm<'a>,
    /// Output projection, for [`Head::Language`].
    pub output: Option<Output<'a>>,
    /// `[outputs, hidden]`, for [`Head::Classifier`].
    pub classifier: Option<Linear<'a>>,
}

/// A model's tensors by role, all of them present and of the right shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint<'a> {
    /// Token embedding, `[vocabulary, hidden]`.
    pub embeddings: View<'a>,
    /// Norm after the embedding.
    pub embedding_norm: Norm<'a>,
    /// First layer to last.
    pub layers: Vec<LayerWeights<'a>>,
    /// Norm after the last layer.
    pub final_norm: Norm<'a>,
    /// The head that was asked for.
    pub head: Option<HeadWeights<'a>>,
    /// What was noticed on the way.
    pub report: Report,
}

/// What a load noticed and did not refuse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Stored tensors that no part of this model type uses: worth a warning.
    pub unused: Vec<String>,
    /// Stored tensors of heads that were not asked for.
    pub other_heads: Vec<String>,
    /// Things that deserve a warning, as sentences.
    pub warnings: Vec<String>,
}

impl Report {
    /// What a user should hear, a sentence each. The heads that other tasks would use are as they should be, and not named.
    pub fn sentences(&self) -> Vec<String> {
        /// The most names that are worth reading.
        const NAMED: usize = 3;
        let mut sentences = self.warnings.clone();
        if !self.unused.is_empty() {
            let named: Vec<&str> = self.unused.iter().take(NAMED).map(String::as_str).collect();
            let more = match self.unused.len().saturating_sub(NAMED) {
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
        let mut quantised = stored.filter_map(|name| Some((name, names::quantiser(name)?)));
        if let Some((name, library)) = quantised.next() {
            let message = format!(
                "the weights are quantised by {library}, as `{name}` shows, which only that library reads; use the \
                 original weights, and `ettin-run convert --dtype w8` or w4 to quantise them"
            );
            return Err(Error::Tensors { file: self.place(), message });
        }
        if let Some(prefix) = self.hiding_prefix(config, head) {
            let file = self.files.first().map_or("", FileData::name);
            return Err(Error::Tensors { file: self.place(), message: prefix.explain(file) });
        }
        Err(self.tensors_error(&problems))
    }

    /// The checkpoint, and what is wrong with it; with a fault it holds views of nothing.
    pub(super) fn read(&self, config: &Config, head: Head) -> (Checkpoint<'_>, Vec<Problem>) {
        let reader = Reader {
            weights: self,
            config,
            used: RefCell::default(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
        };
        let embeddings = reader.embeddings();
        let checkpoint = Checkpoint {
            embeddings,
            embedding_norm: reader.norm("model.embeddings.norm"),
            layers: (0..config.num_layers()).map(|index| reader.layer(index)).collect(),
            final_norm: reader.norm("model.final_norm"),
            head: reader.head(head, embeddings),
            report: reader.report(),
        };
        (checkpoint, reader.problems.into_inner())
    }
}

/// Looks tensors up, remembers which were used and what was wrong with them.
///
/// A tensor that must be there and is not is recorded and stood in for by an empty view, so that one pass finds every
/// fault; [`Weights::checkpoint`] returns no checkpoint then.
struct Reader<'a, 'c> {
    weights: &'a Weights,
    config: &'c Config,
    used: RefCell<BTreeSet<&'a str>>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

const NOTHING: View<'static> = View { name: "", dtype: StoredDtype::F32, shape: &[0], bytes: &[], factors: &[] };

impl<'a> Reader<'a, '_> {
    fn must(&self, name: &str, shape: &[usize]) -> View<'a> {
        self.may(name, shape).unwrap_or_else(|| {
            // A fault of a tensor that is there was recorded by `may`.
            if !self.has(name) {
                self.problems.borrow_mut().push(self.weights.missing(name, shape));
            }
            NOTHING
        })
    }

    fn may(&self, name: &str, shape: &[usize]) -> Option<View<'a>> {
        match self.weights.look_up(name, shape) {
            Ok(view) => {
                self.used.borrow_mut().extend(view.map(|view| view.name));
                view
            }
            Err(problem) => {
                self.problems.borrow_mut().push(problem);
                None
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(name)
    }

    fn norm(&self, name: &str) -> Norm<'a> {
        let shape = [self.config.hidden_size];
        Norm {
            weight: self.must(&format!("{name}.weight"), &shape),
            bias: self.config.norm_bias.then(|| self.must(&format!("{name}.bias"), &shape)),
        }
    }

    fn linear(&self, name: &str, shape: [usize; 2], bias: bool) -> Linear<'a> {
        Linear {
            weight: self.must(&format!("{name}.weight"), &shape).into(),
            bias: bias.then(|| self.must(&format!("{name}.bias"), &shape[..1]).into()),
        }
    }

    fn layer(&self, index: usize) -> LayerWeights<'a> {
        let Config { hidden_size: hidden, intermediate_size: inner, .. } = *self.config;
        let (attention, mlp) = (self.config.attention_bias, self.config.mlp_bias);
        let name = |part: &str| format!("model.layers.{index}.{part}");
        LayerWeights {
            attention_norm: (index > 0).then(|| self.norm(&name("attn_norm"))),
            qkv: self.qkv(&name("attn")),
            attention_output: self.linear(&name("attn.Wo"), [hidden, hidden], attention),
            mlp_norm: self.norm(&name("mlp_norm")),
            mlp_input: self.linear(&name("mlp.Wi"), [2 * inner, hidden], mlp),
            mlp_output: self.linear(&name("mlp.Wo"), [hidden, inner], mlp),
        }
    }

    /// Fused `Wqkv` (encoders) or three projections (decoders); either form on either type.
    fn qkv(&self, name: &str) -> Linear<'a> {
        let hidden = self.config.hidden_size;
        let bias = self.config.attention_bias;
        let parts = ["q_proj", "k_proj", "v_proj"].map(|part| format!("{name}.{part}"));
        let fused = format!("{name}.Wqkv");
        let separate = match self.config.objective {
            Objective::Encoder => !self.has(&format!("{fused}.weight")) && self.has(&format!("{}.weight", parts[0])),
            Objective::Decoder => !self.has(&format!("{fused}.weight")),
        };
        if !separate {
            return self.linear(&fused, [3 * hidden, hidden], bias);
        }
        let stack = |kind: &str, shape: &[usize]| {
            Stack::new(parts.iter().map(|part| self.must(&format!("{part}.{kind}"), shape)).collect())
        };
        Linear { weight: stack("weight", &[hidden, hidden]), bias: bias.then(|| stack("bias", &[hidden])) }
    }

    /// The embedding, which a tied file may hold under the output projection's name alone.
    fn embeddings(&self) -> View<'a> {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        let tied_name = self.config.tie_word_embeddings && !self.has(EMBEDDINGS) && self.has(OUTPUT);
        self.must(if tied_name { OUTPUT } else { EMBEDDINGS }, &shape)
    }

    fn head(&self, head: Head, embeddings: View<'a>) -> Option<HeadWeights<'a>> {
        let hidden = self.config.hidden_size;
        let encoder = self.config.objective == Objective::Encoder;
        // An encoder calls it `head` everywhere, a decoder `lm_head` before the vocabulary and `head` before a classifier.
        let (ours, theirs) = match head {
            Head::None => return None,
            Head::Language if !encoder => ("lm_head", "head"),
            _ => ("head", "lm_head"),
        };
        let present = |name: &str| self.has(&format!("{name}.dense.weight"));
        let name = if !present(ours) && present(theirs) { theirs } else { ours };
        Some(HeadWeights {
            dense: self.linear(&format!("{name}.dense"), [hidden, hidden], self.config.classifier_bias),
            norm: self.norm(&format!("{name}.norm")),
            output: (head == Head::Language).then(|| self.output(embeddings)),
            classifier: match head {
                Head::Classifier { outputs } => {
                    let bias = self.config.classifier_has_bias();
                    Some(self.linear("classifier", [outputs, hidden], bias))
                }
                _ => None,
            },
        })
    }

    fn output(&self, embeddings: View<'a>) -> Output<'a> {
        let Config { vocab_size: vocab, hidden_size: hidden, .. } = *self.config;
        let weight = match self.config.tie_word_embeddings {
            false => Some(self.must(OUTPUT, &[vocab, hidden])),
            true => self.may(OUTPUT, &[vocab, hidden]).filter(|output| !output.same_values(&embeddings)),
        };
        if self.config.tie_word_embeddings && weight.is_some() && !embeddings.is_empty() {
            self.warnings.borrow_mut().push(format!(
                "`{OUTPUT}` differs from `{EMBEDDINGS}` although the configuration ties them; both are used as stored"
            ));
        }
        Output { weight, bias: self.config.decoder_bias.then(|| self.must("decoder.bias", &[vocab])) }
    }

    fn report(&self) -> Report {
        let used = self.used.borrow();
        let unused = self.weights.names().filter(|name| !used.contains(name)).map(str::to_owned);
        let (other_heads, unused) = unused.partition(|name| names::is_head(name));
        Report { unused, other_heads, warnings: self.warnings.take() }
    }
}

pub(super) const EMBEDDINGS: &str = "model.embeddings.tok_embeddings.weight";
pub(super) const OUTPUT: &str = "decoder.weight";
