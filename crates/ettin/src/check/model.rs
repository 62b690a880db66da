//! The model that is checked, with the head that its files say it has.

use candle_core::Tensor;

use super::rounded::Rounded;
use crate::files::{ModelFiles, Subfolder};
use crate::heads::{Chain, EmbedOptions, Embedder, LanguageModel, SequenceClassifier, TokenClassifier};
use crate::ops::Hidden;
use crate::params::Stored;
use crate::sentence_transformers::{LateInteraction, Repository, Routes, Task};
use crate::tensors::walk;
use crate::weights::{self, Weights};
use crate::{Backend, Config, PackedBatch, Parameters, Result, Trunk, identity};

/// Every so many rows of a text get logits over the vocabulary: each costs as much as a small layer.
const LOGIT_ROWS: usize = 16;

/// An opened model, to be built more than once.
pub(super) struct Subject<'a> {
    files: &'a ModelFiles,
    repository: Option<Repository>,
    config: Config,
    weights: Weights,
    head: CheckedHead,
}

/// What stands on the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckedHead {
    Language,
    Sequence,
    /// One output, whatever labels there are.
    Choices,
    Tokens,
    Vectors,
}

impl<'a> Subject<'a> {
    pub(super) fn open(files: &'a ModelFiles) -> Result<Self> {
        // Late interaction puts small products on the rows of its trunk, whose mean is compared in their place.
        let late = LateInteraction::load(files)?;
        let routes = if late.is_some() { None } else { Routes::load(files)? };
        // Of several routes one with a trunk.
        let repository = match routes.as_ref().and_then(Routes::trunk) {
            Some(repository) => Some(repository.clone()),
            None => routes.map(Routes::into_trunk).transpose()?,
        };
        let (purpose, folder, longest) = match (&late, &repository) {
            (Some(late), _) => (identity::Use::Tokens, late.folder.as_str(), late.longest()),
            (None, Some(chain)) => {
                (identity::Use::Vectors, chain.transformer.folder.as_str(), chain.transformer.longest())
            }
            (None, None) => (identity::Use::Head, "", None),
        };
        identity::check(files, purpose)?;
        let trunk = Subfolder { files, folder };
        let mut config = Config::load(&trunk).map_err(|error| identity::explained(files, error))?;
        config.allow_length(longest);
        let weights = Weights::open(&trunk).map_err(|error| identity::explained(files, error))?;
        weights.label(&mut config);
        let head = match late {
            Some(_) => CheckedHead::Vectors,
            None => CheckedHead::of(repository.as_ref(), &config),
        };
        Ok(Self { files, repository, config, weights, head })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn quantization(&self) -> Option<ettin_kernels::Quantization> {
        self.weights.quantization()
    }

    /// Builds the model; with matrices as the format of another backend keeps them, where one is given.
    pub(super) fn build(&self, backend: &Backend, rounded_as: Option<&Backend>) -> Result<CheckedModel> {
        let config = &self.config;
        let head = match self.head {
            CheckedHead::Language => weights::Head::Language,
            CheckedHead::Vectors => weights::Head::None,
            CheckedHead::Sequence | CheckedHead::Tokens => {
                config.check_classifier()?;
                weights::Head::Classifier { outputs: config.labels.len() }
            }
            CheckedHead::Choices => {
                config.check_classifier()?;
                weights::Head::Classifier { outputs: 1 }
            }
        };
        let parameters = match rounded_as {
            None => Parameters::from_weights(&self.weights, config, head)?,
            Some(other) => {
                let stored = Stored::new(&self.weights, config, head)?;
                Parameters::from_tensors(walk(config, head, &mut Rounded::new(stored, other))?)
            }
        };
        Ok(match self.head {
            CheckedHead::Language => CheckedModel::Language(LanguageModel::build(parameters, config, backend)?),
            CheckedHead::Sequence | CheckedHead::Choices => {
                CheckedModel::Sequence(SequenceClassifier::build(parameters, config, backend)?)
            }
            CheckedHead::Tokens => CheckedModel::Tokens(TokenClassifier::build(parameters, config, backend)?),
            CheckedHead::Vectors => {
                let chain = |repository| Chain::load(self.files, repository, config, backend);
                let chain = self.repository.clone().map(chain).transpose()?;
                CheckedModel::Vectors(Embedder::build(parameters, config, backend, chain)?.into())
            }
        })
    }
}

impl CheckedHead {
    fn of(repository: Option<&Repository>, config: &Config) -> Self {
        if let Some(repository) = repository {
            return match repository.transformer.task {
                Task::SequenceClassification => CheckedHead::Sequence,
                Task::FillMask | Task::TextGeneration => CheckedHead::Language,
                Task::FeatureExtraction => CheckedHead::Vectors,
            };
        }
        let class = config.architecture().unwrap_or_default();
        const HEADS: [(&str, CheckedHead); 6] = [
            ("ForMaskedLM", CheckedHead::Language),
            ("ForCausalLM", CheckedHead::Language),
            ("ForSequenceClassification", CheckedHead::Sequence),
            ("ForTokenClassification", CheckedHead::Tokens),
            ("ForQuestionAnswering", CheckedHead::Tokens),
            ("ForMultipleChoice", CheckedHead::Choices),
        ];
        HEADS.iter().find(|(end, _)| class.ends_with(end)).map_or(CheckedHead::Vectors, |(_, head)| *head)
    }
}

/// A model with its head.
pub(super) enum CheckedModel {
    Language(LanguageModel),
    Sequence(SequenceClassifier),
    Tokens(TokenClassifier),
    Vectors(Box<Embedder>),
}

impl CheckedModel {
    pub(super) fn trunk(&self) -> &Trunk {
        match self {
            CheckedModel::Language(model) => model.trunk(),
            CheckedModel::Sequence(model) => model.trunk(),
            CheckedModel::Tokens(model) => model.trunk(),
            CheckedModel::Vectors(model) => model.trunk(),
        }
    }

    /// What the head gives, in words.
    pub(super) fn result_name(&self) -> &'static str {
        match self {
            CheckedModel::Language(_) => "the logits",
            CheckedModel::Sequence(_) => "the label scores",
            CheckedModel::Tokens(_) => "the label scores of tokens",
            CheckedModel::Vectors(_) => "the vectors",
        }
    }

    /// What the head makes of final hidden states.
    pub(super) fn result(&self, hidden: &Hidden, batch: &PackedBatch) -> Result<Tensor> {
        match self {
            CheckedModel::Language(model) => {
                let sequences = (0..batch.sequences()).map(|index| batch.rows(index));
                let rows: Vec<usize> = sequences.flat_map(|rows| rows.rev().step_by(LOGIT_ROWS)).collect();
                model.project(hidden, &rows)
            }
            CheckedModel::Sequence(model) => model.classify(hidden, batch),
            CheckedModel::Tokens(model) => model.trunk().model().classify(hidden),
            CheckedModel::Vectors(model) => {
                let rows: Vec<usize> = (0..hidden.rows()).collect();
                model.pool(hidden.select(&rows)?, batch, &EmbedOptions::default())
            }
        }
    }
}
