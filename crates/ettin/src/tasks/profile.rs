//! What a model's files say of its texts and results, without its weights: for descriptions.

use super::limit::Bounds;
use super::spec::fitting;
use super::{Options, Truncate};
use crate::files::ModelFiles;
use crate::files::Subfolder;
use crate::gliner::{GlinerConfig, LabelSide, schema_trunk};
use crate::heads::Settings;
use crate::metadata::MODULES;
use crate::sentence_transformers::{LateInteraction, LateModule, RouteChain, Routes, Task, trunk_folder};
use crate::tokenizer::Limit;
use crate::{Config, Result};

/// How a model takes its texts, and what its files make of the result.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The folder of the trunk, or of the table of a model without one: not the top, which is empty here, only in old
    /// saves of sentence-transformers and behind a router.
    pub folder: String,
    /// The trunk's configuration; none of a model whose vectors are looked up.
    pub config: Option<Config>,
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
    /// The routes of a model that has several; the modules above are those of the default one.
    pub routes: Vec<RouteProfile>,
    /// Prompts, similarity, width.
    pub settings: Settings,
    /// What is applied to scores, by its Python class: of a reranker alone.
    pub activation: Option<String>,
}

/// One route of a model.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RouteProfile {
    /// Its name.
    pub name: String,
    /// Whether texts take it for which no task is named.
    pub is_default: bool,
    /// The sides of a search whose texts take it.
    pub sides: Vec<&'static str>,
    /// The classes of its modules, in order.
    pub modules: Vec<String>,
    /// The same with their settings.
    pub details: Vec<String>,
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
            let (tasks, config) = (&["classify"], Some(config));
            return Ok(Self { folder: String::new(), config, tasks, limit, chain: None, extraction: None, refused });
        }
        let late = kept(LateInteraction::load(files), &mut refused).flatten();
        let routes = match (&late, &refused) {
            (None, None) => kept(Routes::load(files), &mut refused).flatten(),
            _ => None,
        };
        let trunk = routes.as_ref().and_then(Routes::trunk);
        let looked_up = routes.is_some() && trunk.is_none();
        let folder = match trunk {
            Some(repository) => repository.transformer.folder.clone(),
            None => trunk_folder(files).unwrap_or_default(),
        };
        let config = match looked_up {
            true => None,
            false => Some(Config::load(&Subfolder { files, folder: &folder })?),
        };
        let limit = config.as_ref().map(|config| match trunk {
            None => Bounds::lenient(files, config),
            Some(repository) => {
                let mut config = config.clone();
                config.allow_length(repository.transformer.longest());
                Bounds::sentence_transformers(files, &repository.transformer, &config, None)
            }
        });
        let tasks = match &config {
            Some(config) if files.peek(MODULES)?.is_none() => fitting(config),
            _ => &[],
        };
        let options = Options { truncate: Truncate::Model, ..Options::default() };
        // Each side of late interaction has a limit of its own.
        let bounds = limit.and_then(|bounds| kept(bounds, &mut refused)).filter(|_| late.is_none());
        let limit = bounds.map(|bounds| bounds.limit(&options, None));
        let chain = routes.map(|routes| ChainProfile::of(files, &routes, config.as_ref()));
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
            config: Some(gliner.encoder),
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
        Self { modules, details, routes: Vec::new(), settings, activation: None }
    }

    fn of(files: &ModelFiles, routes: &Routes, config: Option<&Config>) -> Result<Self> {
        let chain = routes.default_chain();
        let scores = match chain.trunk() {
            Some(repository) => {
                repository.transformer.task == Task::SequenceClassification || repository.scores(files)?.is_some()
            }
            None => false,
        };
        let settings = chain.settings().clone();
        // As `rerank` chooses: only torch's own classes are taken.
        let torch = |class: &Option<String>| class.clone().filter(|class| class.starts_with("torch."));
        let named = torch(&settings.activation_fn).or_else(|| torch(&config?.activation_fn));
        let activation = scores.then(|| named.unwrap_or_else(|| "torch.nn.modules.activation.Sigmoid".to_owned()));
        let (modules, details) = (chain.classes(), chain.described(files)?);
        Ok(Self { modules, details, routes: RouteProfile::all(files, routes)?, settings, activation })
    }
}

impl RouteProfile {
    fn all(files: &ModelFiles, routes: &Routes) -> Result<Vec<Self>> {
        let Some(routing) = &routes.routing else {
            return Ok(Vec::new());
        };
        let default = routing.resolve(None).ok();
        let profile = |(index, (name, chain)): (usize, (&String, &RouteChain))| {
            let takes = |side: &&'static str| routing.resolve(Some(side)).ok() == Some(index);
            Ok(Self {
                name: name.clone(),
                is_default: default == Some(index),
                sides: ["query", "document"].into_iter().filter(takes).collect(),
                modules: chain.classes(),
                details: chain.described(files)?,
            })
        };
        routing.names().iter().zip(&routes.chains).enumerate().map(profile).collect()
    }
}
