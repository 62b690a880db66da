//! What stands on the trunk: language models, classifiers, embedders.

mod activation;
mod chain;
mod choice;
mod embedder;
mod language;
mod lookup;
mod lstm;
mod multi_vector;
mod routes;
mod schema;
mod sequence;
mod similarity;
mod spans;
mod token;

pub use crate::sentence_transformers::Settings;
pub(crate) use activation::TorchActivation;
pub use chain::Chain;
pub use choice::ChoiceScorer;
pub(crate) use embedder::{Asked, TracedEmbedder};
pub use embedder::{EmbedOptions, Embedder};
pub use language::LanguageModel;
pub use lookup::StaticEmbedder;
pub(crate) use lookup::no_trunk;
pub use multi_vector::MultiVectorModel;
pub(crate) use multi_vector::no_late_interaction;
pub(crate) use routes::{RouteModel, RouteModels};
pub use schema::SchemaModel;
pub use sequence::SequenceClassifier;
pub use similarity::Similarity;
pub use spans::SpanModel;
pub(crate) use spans::{LabelMatrix, SpanText, spans};
pub use token::{QuestionAnswering, TokenClassifier};

use crate::{
    Backend, Config, Error, Result, Trunk,
    files::ModelFiles,
    finite, identity,
    ops::Hidden,
    params::Parameters,
    weights::{self, Subfolder, Weights},
};

/// What stands on a trunk.
pub(crate) trait TaskHead {
    /// The layers under it.
    fn trunk(&self) -> &Trunk;
}

/// What loading can tell of.
pub(crate) trait Reported {
    /// What loading each trunk noticed.
    fn reports(&self) -> Vec<&weights::LoadReport>;
}

impl<T: TaskHead> Reported for T {
    fn reports(&self) -> Vec<&weights::LoadReport> {
        vec![self.trunk().report()]
    }
}

impl Reported for RouteModels {
    fn reports(&self) -> Vec<&weights::LoadReport> {
        RouteModels::reports(self)
    }
}

macro_rules! heads {
    ($($head:ty),*) => {
        $(impl TaskHead for $head {
            fn trunk(&self) -> &Trunk {
                <$head>::trunk(self)
            }
        })*
    };
}

heads!(
    LanguageModel,
    SequenceClassifier,
    ChoiceScorer,
    TokenClassifier,
    QuestionAnswering,
    Embedder,
    MultiVectorModel,
    SpanModel,
    SchemaModel
);

/// Reads configuration and weights and builds a model from them; every tensor must be there, of its shape.
fn open<T>(
    files: &ModelFiles,
    backend: &Backend,
    head: impl FnOnce(&Config) -> weights::Head,
    build: impl FnOnce(Parameters<'_>, &Config, &Backend) -> Result<T>,
) -> Result<T> {
    identity::check(files, identity::Use::Head)?;
    open_in(files, "", None, backend, head, build)
}

/// As [`open`], in a folder of the repository; with texts of `length` tokens, if the configuration allows fewer.
fn open_in<T>(
    files: &ModelFiles,
    folder: &str,
    length: Option<usize>,
    backend: &Backend,
    head: impl FnOnce(&Config) -> weights::Head,
    build: impl FnOnce(Parameters<'_>, &Config, &Backend) -> Result<T>,
) -> Result<T> {
    let trunk = Subfolder { files, folder };
    let mut config = Config::load(&trunk).map_err(|error| identity::explained(files, error))?;
    config.allow_length(length);
    let weights = Weights::open(&trunk).map_err(|error| identity::explained(files, error))?;
    weights.label(&mut config);
    let head = head(&config);
    if matches!(head, weights::Head::Classifier { .. }) {
        config.check_classifier()?;
    }
    let parameters = Parameters::from_weights(&weights, &config, head)?;
    let backend = backend.for_stored(parameters.quantization);
    build(parameters, &config, &backend)
}

/// The classifier that its labels ask for.
fn classifier(config: &Config) -> weights::Head {
    weights::Head::Classifier { outputs: config.labels.len() }
}

/// A trunk with a classifier.
fn build_classifier(parameters: Parameters<'_>, config: &Config, backend: &Backend) -> Result<Trunk> {
    require(parameters.tensors.head.is_some(), "prediction head")?;
    require(parameters.tensors.classifier.is_some(), "classifier")?;
    Trunk::with_head(parameters, config, backend)
}

fn require(there: bool, part: &str) -> Result<()> {
    if there { Ok(()) } else { Err(Error::input(format!("these parameters have no {part}"))) }
}

/// Fails where the prediction head's result is not finite.
fn trace_head(hidden: &Hidden, trunk: &Trunk) -> Result<()> {
    let predicted = trunk.model().predict(hidden)?;
    finite::check(|| "the prediction head".to_owned(), predicted.states(), trunk.backend().dtype())
}
