//! The chains of a repository: one, or one for each route of its router.
//!
//! A route is a chain that is chosen before anything is computed. What stands before and behind a router in
//! `modules.json` is part of every route, so that here each chain is whole: it begins with a trunk, or with a table in
//! which vectors are looked up, and ends with the last module.

use super::lookup::LookupModule;
use super::router::RouterFile;
use super::routing::Routing;
use super::{Class, ModelType, Module, Repository, Settings, Task, Transformer, modules};
use crate::files::FileSource;
use crate::{Error, Result};

/// What the metadata of a repository says of its chains, the settings of modules after the first left out.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    /// What chooses among them; none for a single chain.
    pub(crate) routing: Option<Routing>,
    /// At least one.
    pub(crate) chains: Vec<RouteChain>,
}

/// One chain.
#[derive(Debug, Clone)]
pub(crate) enum RouteChain {
    /// With a trunk.
    Trunk(Box<Repository>),
    /// Without: vectors are looked up, token by token.
    Lookup(LookupChain),
}

/// A chain without a trunk.
#[derive(Debug, Clone)]
pub(crate) struct LookupChain {
    pub(crate) settings: Settings,
    /// The first module.
    pub(crate) lookup: LookupModule,
    /// Those after it, in order.
    pub(crate) modules: Vec<Module>,
}

impl Routes {
    /// Reads what a repository with a `modules.json` says of itself; `None` for one without.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for modules and kinds of model that are not implemented, [`Error::Config`] for malformed
    /// files and keys that are not known.
    pub(crate) fn load(files: &dyn FileSource) -> Result<Option<Self>> {
        let Some(entries) = modules::entries(files)? else {
            return Ok(None);
        };
        // A kind of model says more than the first module that only it has.
        let mut settings = Settings::load(files)?;
        let mut routing = None;
        let mut chains = vec![Vec::new()];
        for entry in &entries {
            let module = Module { class: entry.class()?, folder: entry.folder.clone() };
            match module.class {
                Class::Router if routing.is_some() => {
                    return Err(Error::Unsupported(format!("a second Router in {}", modules::FILE)));
                }
                Class::Router => {
                    let router = RouterFile::load(files, &module.folder)?;
                    let before = chains.pop().unwrap_or_default();
                    let whole = |route: Vec<Module>| before.iter().cloned().chain(route).collect();
                    chains = router.routes.into_iter().map(whole).collect();
                    if let Some(empty) = chains.iter().position(Vec::is_empty) {
                        let route = &router.routing.names()[empty];
                        return Err(Error::Unsupported(format!("the route {route:?} without modules")));
                    }
                    routing = Some(router.routing);
                }
                _ => chains.iter_mut().for_each(|chain: &mut Vec<Module>| chain.push(module.clone())),
            }
        }
        if settings.model_type.is_none() && chains.iter().flatten().any(|module| module.class.is_sparse()) {
            // What only one class of the library can make sense of was saved by it.
            settings.model_type = Some(ModelType::SparseEncoder);
        }
        let chains = chains.into_iter().map(|modules| RouteChain::of(files, settings.clone(), modules));
        Ok(Some(Self { routing, chains: chains.collect::<Result<_>>()? }))
    }

    /// The chain of texts that no task is named for; the first where the model has no default route.
    pub(crate) fn default_chain(&self) -> &RouteChain {
        &self.chains[self.default_index()]
    }

    /// Its index.
    pub(crate) fn default_index(&self) -> usize {
        self.routing.as_ref().and_then(|routing| routing.resolve(None).ok()).unwrap_or(0)
    }

    /// Whether queries and documents go different ways.
    pub(crate) fn has_sides(&self) -> bool {
        self.routing.as_ref().is_some_and(Routing::has_sides)
    }

    /// Whether its vectors are sparse.
    pub(crate) fn is_sparse(&self) -> bool {
        self.default_chain().settings().model_type == Some(ModelType::SparseEncoder)
    }

    /// The default chain where it has a trunk, else the first that has one.
    pub(crate) fn trunk(&self) -> Option<&Repository> {
        std::iter::once(self.default_chain()).chain(&self.chains).find_map(RouteChain::trunk)
    }

    /// The default chain, which must have a trunk.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where it has none.
    pub(crate) fn into_trunk(mut self) -> Result<Repository> {
        let index = self.default_index();
        match self.chains.swap_remove(index) {
            RouteChain::Trunk(repository) => Ok(*repository),
            RouteChain::Lookup(chain) => Err(Error::Unsupported(format!(
                "a model of {}: it looks vectors up and has no trunk, which fits embed and similarity",
                chain.lookup.class
            ))),
        }
    }
}

impl RouteChain {
    fn of(files: &dyn FileSource, settings: Settings, modules: Vec<Module>) -> Result<Self> {
        let mut modules = modules.into_iter();
        let Some(Module { class, folder }) = modules.next() else {
            return Err(Error::Config { file: modules::FILE.to_owned(), message: "it lists no module".to_owned() });
        };
        let modules = modules.collect();
        match class {
            Class::Transformer | Class::MlmTransformer => {
                let default = if class.is_sparse() { Task::FillMask } else { Task::FeatureExtraction };
                let transformer = Transformer::load(files, &folder, default)?;
                Ok(RouteChain::Trunk(Box::new(Repository { settings, transformer, modules })))
            }
            Class::StaticEmbedding | Class::SparseStaticEmbedding => {
                Ok(RouteChain::Lookup(LookupChain { settings, lookup: LookupModule { class, folder }, modules }))
            }
            _ => Err(Error::Unsupported(format!("{class} as the first module of {}", modules::FILE))),
        }
    }

    /// The chain, where it has a trunk.
    pub(crate) fn trunk(&self) -> Option<&Repository> {
        match self {
            RouteChain::Trunk(repository) => Some(repository),
            RouteChain::Lookup(_) => None,
        }
    }

    /// What concerns the model as a whole.
    pub(crate) fn settings(&self) -> &Settings {
        match self {
            RouteChain::Trunk(repository) => &repository.settings,
            RouteChain::Lookup(chain) => &chain.settings,
        }
    }

    /// The folder of the first module, which has the tokenizer.
    pub(crate) fn folder(&self) -> &str {
        match self {
            RouteChain::Trunk(repository) => &repository.transformer.folder,
            RouteChain::Lookup(chain) => &chain.lookup.folder,
        }
    }

    /// The modules after the first.
    pub(crate) fn modules(&self) -> &[Module] {
        match self {
            RouteChain::Trunk(repository) => &repository.modules,
            RouteChain::Lookup(chain) => &chain.modules,
        }
    }
}
