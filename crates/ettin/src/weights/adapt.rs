//! Adapters on a model's weights: tensors that they replace are replaced here, what they add to a matrix is kept until
//! the matrix is packed or written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checkpoint::{EMBEDDINGS, OUTPUT};
use super::{FileSource, TensorEntry, View, Weights, names};
use crate::config::{Config, Objective};
use crate::metadata::ADAPTER_CONFIG;
use crate::ops::AddRow;
use crate::params::{Adapter, TIED};
use crate::{Error, Result};

/// A tensor that every trunk has: an adapter is for that, not for other modules of a chain.
const TRUNK: &str = "model.layers.0.attn.Wo.weight";
const CLASSIFIER: &str = "classifier.weight";
const HEAD: &str = "head.dense.weight";

/// What adapters have done to weights, and what is left to do.
#[derive(Debug, Default)]
pub(super) struct Adaptation {
    adapters: Vec<Arc<Adapter>>,
    /// Tensors that are an adapter's, with the adapter's file.
    replaced: BTreeMap<String, String>,
    /// What deserves a word.
    pub(super) notes: Vec<String>,
}

impl Weights {
    /// Puts on what lies beside the weights, as transformers does where PEFT is installed, and what the caller gave.
    pub(super) fn adapt(&mut self, source: &dyn FileSource) -> Result<()> {
        if !self.tensors.contains_key(TRUNK) {
            return Ok(());
        }
        // Who names a weights file wants that one.
        if source.weights_file().is_none() && source.get(ADAPTER_CONFIG)?.is_some() {
            self.put_on(Adapter::load(source)?)?;
            self.adaptation.notes.push(format!(
                "the adapter beside its weights ({ADAPTER_CONFIG}) is applied, as transformers does where PEFT is \
                 installed; name the weights file itself to run the base alone"
            ));
        }
        for (name, files) in source.adapters() {
            let adapter = Adapter::load(files).map_err(|error| of_adapter(name, error))?;
            self.put_on(adapter)?;
        }
        Ok(())
    }

    fn put_on(&mut self, adapter: Adapter) -> Result<()> {
        if TIED.iter().any(|layer| adapter.changes(layer)) {
            self.separate_tables(&adapter);
        }
        let first_file = self.files.len();
        for (name, tensors, own) in adapter.replacements() {
            let Some(entry) = tensors.tensors.get(own) else { continue };
            if self.files.len() == first_file {
                self.files.extend(tensors.files.iter().cloned());
            }
            if let Some(other) = self.adaptation.replaced.insert(name.to_owned(), adapter.file().to_owned()) {
                return Err(adapter.error(format!("`{name}` is replaced by another adapter, too ({other})")));
            }
            let stored = match self.tensors.get(name) {
                Some(base) if base.shape != entry.shape && name != CLASSIFIER => {
                    return Err(adapter.error(format!(
                        "`{name}` is {:?}, and {:?} in the model{}",
                        entry.shape,
                        base.shape,
                        adapter.trained_on()
                    )));
                }
                Some(base) => base.stored.clone(),
                None if names::is_head(name) => name.to_owned(),
                None => {
                    return Err(adapter.error(format!(
                        "the model has no tensor `{name}`, which it replaces{}",
                        adapter.trained_on()
                    )));
                }
            };
            let entry = TensorEntry { stored, file: first_file + entry.file, ..entry.clone() };
            self.tensors.insert(name.to_owned(), entry);
        }
        self.adaptation.adapters.push(Arc::new(adapter));
        Ok(())
    }

    /// A tied file may hold the one table under the output's name alone: it is the embedding then. And where one of the
    /// two is replaced, the other is what it was: PEFT replaces one module.
    fn separate_tables(&mut self, adapter: &Adapter) {
        let renamed = |entry: &TensorEntry, stored: &str| TensorEntry { stored: stored.to_owned(), ..entry.clone() };
        if !self.tensors.contains_key(EMBEDDINGS)
            && let Some(output) = self.tensors.remove(OUTPUT)
        {
            self.tensors.insert(EMBEDDINGS.to_owned(), renamed(&output, EMBEDDINGS));
        }
        if adapter.replaced().any(|name| [EMBEDDINGS, OUTPUT].contains(&name))
            && !self.tensors.contains_key(OUTPUT)
            && let Some(embeddings) = self.tensors.get(EMBEDDINGS)
        {
            self.tensors.insert(OUTPUT.to_owned(), renamed(embeddings, OUTPUT));
        }
    }

    /// The adapters on these weights, first to last.
    pub fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.adaptation.adapters.iter().map(|adapter| &**adapter)
    }

    /// Whether an adapter makes two matrices of one that is token vectors and output.
    pub(crate) fn unties(&self) -> bool {
        self.adapters().any(|adapter| TIED.iter().any(|layer| adapter.changes(layer)))
    }

    /// A configuration that says nothing of labels has those of the classifier that an adapter brings: PEFT leaves it
    /// to the caller to say how many there are.
    pub(crate) fn label(&self, config: &mut Config) {
        let classifier = self.tensors.get(CLASSIFIER).filter(|_| self.adaptation.replaced.contains_key(CLASSIFIER));
        if let Some(&[labels, _]) = classifier.map(|entry| entry.shape.as_slice()) {
            config.number_labels(labels);
        }
    }

    /// What a configuration does not say of a classifier that an adapter brings: its labels, and transformers' class of
    /// a model with it, for PEFT's name of the task.
    pub(super) fn classified(&self, mut config: Config) -> (Option<Vec<String>>, Option<String>) {
        let brings = |adapter: &&Adapter| adapter.changes("classifier");
        let Some(task) = self.adapters().find(brings).and_then(Adapter::task) else {
            return (None, None);
        };
        let before = config.labels.len();
        self.label(&mut config);
        let end = match task {
            "SEQ_CLS" => "ForSequenceClassification",
            "TOKEN_CLS" => "ForTokenClassification",
            "QUESTION_ANS" => "ForQuestionAnswering",
            _ => return (None, None),
        };
        let family = match config.objective {
            Objective::Encoder => "ModernBert",
            Objective::Decoder => "ModernBertDecoder",
        };
        let class = format!("{family}{end}");
        let other = config.architecture() != Some(&*class);
        (Some(config.labels).filter(|labels| labels.len() != before), Some(class).filter(|_| other))
    }

    /// What is wrong with a classifier that an adapter brings without the layer under it.
    pub(super) fn lacking_head(&self, objective: Objective) -> Option<String> {
        let brings = |adapter: &&Adapter| adapter.changes("classifier");
        let adapter = self.adapters().find(brings)?;
        (objective == Objective::Decoder && !self.tensors.contains_key(HEAD)).then(|| {
            format!(
                "the adapter {} brings a classifier and not the layer `head` under it, which transformers makes at \
                 random for a decoder: what it was trained with is lost, and its labels mean nothing; train it with \
                 \"head\" in modules_to_save",
                adapter.file()
            )
        })
    }

    /// What adds all that adapters say of a stored matrix to its rows; which of their layers that were is noted in
    /// `used`, for each adapter.
    pub(super) fn additions(&self, view: &View<'_>, used: &mut [BTreeSet<String>]) -> Result<Vec<AddRow>> {
        let (Some(layer), &[outputs, inputs]) = (view.name().strip_suffix(".weight"), view.shape()) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        for (adapter, used) in self.adapters().zip(used) {
            for update in adapter.updates(layer, [outputs, inputs], used)? {
                rows.push(update.rows(outputs, inputs)?);
            }
        }
        Ok(rows)
    }
}

/// An adapter's own error, with its name where the message does not say which it is.
fn of_adapter(name: &str, error: Error) -> Error {
    match error {
        Error::Config { file, message } => Error::Config { file: format!("the adapter {name}: {file}"), message },
        Error::Unsupported(what) => Error::Unsupported(format!("the adapter {name}: {what}")),
        other => other,
    }
}
