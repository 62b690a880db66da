//! What a model's files say of its texts and results, without its weights: for descriptions.

use super::limit::Bounds;
use super::spec::fitting;
use super::{Options, Truncate};
use crate::files::ModelFiles;
use crate::files::Subfolder;
use crate::gliner::{GlinerConfig, LabelSide, schema_trunk};
use crate::heads::Settings;
use crate::metadata::MODULES;
use crate::sentence_transformers::{LateInteraction, LateModule, Repository, Task, trunk_folder};
use crate::tokenizer::Limit;
use crate::{Config, Result};

/// How a model takes its texts, and what its files make of the result.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The folder of the trunk: not the top, which is empty here, only in old saves of sentence-transformers.
    pub folder: String,
    /// The trunk's configuration.
    pub config: Config,
    /// The tasks that fit the class of transformers that it names; none where it names none, and beside
    /// `modules.json`, whose chain counts.
    pub tasks: &'static [&'static str],
    /// What a text on no side of a search is cut to, and who says so; none where the files that say it cannot be used, or
    /// texts are always on one side.
    pub limit: Option<Limit>,
    /// The chain, where the model has one that can be run.
    pub chain: Option<ChainProfile>,
    /// What a GLiNER model finds entities with.
    pub extraction: Option<ExtractionProfile>,
    /// What is wrong with the files of the chain or of the limit: the tasks that need them fail with it.
    pub refused: Option<String>,
}

/// What the files of a GLiNER model say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionProfile {
    /// How labels become vectors, in words.
    pub labels: String,
    /// The most words of an entity.
    pub max_width: usize,
    /// The most words of a text.
    pub max_words: usize,
}

impl From<&GlinerConfig> for ExtractionProfile {
    fn from(config: &GlinerConfig) -> Self {
        let labels = match &config.labels {
            LabelSide::Encoder(encoder) => format!("encoded apart, by a trunk of hidden size {}", encoder.hidden_size),
            LabelSide::Foreign(kind) => {
                format!("encoded apart by {kind}, which is not run: by a file of their vectors")
            }
            LabelSide::Prompt(_) => "read together with the text".to_owned(),
        };
        Self { labels, max_width: config.max_width, max_words: config.max_words }
    }
}

/// What sentence-transformers' files say.
#[derive(Debug, Clone)]
pub struct ChainProfile {
    /// The classes of all modules, in order.
    pub modules: Vec<String>,
    /// The same with their settings: `Dense (768 → 128, Tanh)`.
    pub details: Vec<String>,
    /// Prompts, similarity, width.
    pub settings: Settings,
    /// What is applied to scores, by its Python class: of a reranker alone.
    pub activation: Option<String>,
}

impl Profile {
    /// Reads the small files of a model.
    ///
    /// # Errors
    /// What reading `config.json` finds wrong.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let mut refused = None;
        if let Some(gliner) = GlinerConfig::load(files)? {
            return Self::of_gliner(files, gliner);
        }
        if let Some(config) = schema_trunk(files)? {
            let bounds = kept(Bounds::positions(files, &config), &mut refused);
            let options = Options { truncate: Truncate::Model, ..Options::default() };
            let limit = bounds.map(|bounds| bounds.limit(&options, None));
            let tasks = &["classify"];
            return Ok(Self { folder: String::new(), config, tasks, limit, chain: None, extraction: None, refused });
        }
        let late = kept(LateInteraction::load(files), &mut refused).flatten();
        let repository = match (&late, &refused) {
            (None, None) => kept(Repository::load(files), &mut refused).flatten(),
            _ => None,
        };
        let folder = trunk_folder(files).unwrap_or_default();
        let config = Config::load(&Subfolder { files, folder: &folder })?;
        let bounds = match &repository {
            None => Bounds::lenient(files, &config),
            Some(repository) => {
                let mut config = config.clone();
                config.allow_length(repository.transformer.longest());
                Bounds::sentence_transformers(files, &repository.transformer, &config, None)
            }
        };
        let tasks = if files.peek(MODULES)?.is_some() { &[] } else { fitting(&config) };
        let options = Options { truncate: Truncate::Model, ..Options::default() };
        // Each side of late interaction has a limit of its own.
        let bounds = kept(bounds, &mut refused).filter(|_| late.is_none());
        let limit = bounds.map(|bounds| bounds.limit(&options, None));
        let chain = repository.map(|repository| ChainProfile::of(files, repository, &config));
        let chain = chain.and_then(|chain| kept(chain, &mut refused)).or(late.map(ChainProfile::of_late_interaction));
        Ok(Self { folder, config, tasks, limit, chain, extraction: None, refused })
    }

    fn of_gliner(files: &ModelFiles, gliner: GlinerConfig) -> Result<Self> {
        let mut refused = None;
        let options = Options { truncate: Truncate::Model, ..Options::default() };
        let bounds = kept(Bounds::strict(files, &gliner.encoder), &mut refused);
        Ok(Self {
            folder: String::new(),
            tasks: &["extract"],
            limit: bounds.map(|bounds| bounds.limit(&options, None)),
            chain: None,
            extraction: Some(ExtractionProfile::from(&gliner)),
            refused,
            config: gliner.encoder,
        })
    }
}

/// A value, or none where it is refused; the first refusal is kept.
fn kept<T>(value: Result<T>, refused: &mut Option<String>) -> Option<T> {
    match value {
        Ok(value) => Some(value),
        Err(error) => {
            refused.get_or_insert_with(|| error.to_string());
            None
        }
    }
}

impl ChainProfile {
    fn of_late_interaction(late: LateInteraction) -> Self {
        let module = |module: &LateModule| match module {
            LateModule::Dense(_, config) => ("Dense", format!("Dense ({} → {})", config.inputs, config.outputs)),
            LateModule::Linear(outputs) => {
                let outputs = outputs.map_or_else(String::new, |outputs| format!(" → {outputs}"));
                ("Dense", format!("Dense (linear.weight{outputs})"))
            }
            LateModule::Normalize => ("Normalize", "Normalize".to_owned()),
        };
        let mut all = vec![("Transformer", "Transformer".to_owned())];
        all.extend(late.modules.iter().map(module));
        const POOLING: &str = "HierarchicalTokenPooling";
        all.extend(late.pooling.is_some().then(|| (POOLING, POOLING.to_owned())));
        let mut settings = late.settings;
        settings.similarity_fn_name.get_or_insert_with(|| "maxsim".to_owned());
        let (modules, details) = all.into_iter().map(|(name, detail)| (name.to_owned(), detail)).unzip();
        Self { modules, details, settings, activation: None }
    }

    fn of(files: &ModelFiles, repository: Repository, config: &Config) -> Result<Self> {
        let scores = repository.transformer.task == Task::SequenceClassification || repository.scores(files)?.is_some();
        let details = repository.described(files)?;
        let Repository { settings, modules, .. } = repository;
        let classes = modules.iter().map(|module| module.class.to_string());
        // As `rerank` chooses: only torch's own classes are taken.
        let torch = |class: &Option<String>| class.clone().filter(|class| class.starts_with("torch."));
        let named = torch(&settings.activation_fn).or_else(|| torch(&config.activation_fn));
        let activation = scores.then(|| named.unwrap_or_else(|| "torch.nn.modules.activation.Sigmoid".to_owned()));
        let modules = std::iter::once("Transformer".to_owned()).chain(classes).collect();
        Ok(Self { modules, details, settings, activation })
    }
}
