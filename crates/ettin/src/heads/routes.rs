//! The models of a repository's routes, a trunk that several of them share loaded once.

use std::sync::Arc;

use super::embedder::check_splade;
use super::{Chain, Embedder, StaticEmbedder};
use crate::{
    Backend, Error, Result, Trunk,
    files::ModelFiles,
    identity,
    metadata::MODULES,
    sentence_transformers::{RouteChain, Routes, Routing},
    weights::LoadReport,
};

/// What makes the vectors of a route.
#[derive(Debug, Clone)]
pub(crate) enum RouteModel {
    Trunk(Arc<Embedder>),
    Lookup(Arc<StaticEmbedder>),
}

/// All routes of a repository, or its one chain.
#[derive(Debug)]
pub(crate) struct RouteModels {
    pub(crate) routing: Option<Routing>,
    pub(crate) models: Vec<RouteModel>,
    /// The route of texts that no task is named for.
    pub(crate) default: usize,
}

impl RouteModel {
    /// The modules; none for a plain trunk.
    pub(crate) fn chain(&self) -> Option<&Chain> {
        match self {
            RouteModel::Trunk(model) => model.chain(),
            RouteModel::Lookup(model) => Some(model.chain()),
        }
    }

    fn trunk(&self) -> Option<&Arc<Trunk>> {
        match self {
            RouteModel::Trunk(model) => Some(model.shared_trunk()),
            RouteModel::Lookup(_) => None,
        }
    }
}

impl RouteModels {
    /// Loads every chain that `files` hold.
    pub(crate) fn load(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        identity::check(files, identity::Use::Vectors)?;
        let Some(routes) = Routes::load(files)? else {
            let model = RouteModel::Trunk(Embedder::of_repository(files, None, backend)?.into());
            return Ok(Self { routing: None, models: vec![model], default: 0 });
        };
        let default = routes.default_index();
        let folders = || routes.chains.iter().filter_map(|chain| Some(&chain.trunk()?.transformer.folder));
        let adapted = files.adapter_names().next().is_some();
        if adapted && folders().next().is_none() {
            return Err(Error::Unsupported(format!(
                "an adapter on {}, which looks vectors up and has no trunk that it could change",
                files.name()
            )));
        }
        if adapted && folders().any(|folder| Some(folder) != folders().next()) {
            return Err(Error::Unsupported(format!(
                "an adapter on {}, whose routes have trunks of their own: which of them it is for is said nowhere",
                files.name()
            )));
        }
        let mut trunks: Vec<(String, Arc<Trunk>)> = Vec::new();
        let models = routes.chains.into_iter().map(|chain| match chain {
            RouteChain::Lookup(chain) => {
                Ok(RouteModel::Lookup(StaticEmbedder::of_chain(files, chain, backend)?.into()))
            }
            RouteChain::Trunk(repository) => {
                let folder = repository.transformer.folder.clone();
                let model = match trunks.iter().find(|(known, _)| *known == folder) {
                    Some((_, trunk)) => Embedder::behind(files, *repository, trunk.clone())?,
                    None => {
                        let model = Embedder::of_repository(files, Some(*repository), backend)?;
                        trunks.push((folder, model.shared_trunk().clone()));
                        model
                    }
                };
                Ok(RouteModel::Trunk(model.into()))
            }
        });
        Ok(Self { models: models.collect::<Result<_>>()?, routing: routes.routing, default })
    }

    /// Loads a masked language model as an encoder of sparse vectors, as [`Embedder::load_splade`] does, or chains whose
    /// default is one.
    pub(crate) fn load_splade(files: &ModelFiles, backend: &Backend) -> Result<Self> {
        if files.get(MODULES)?.is_none() {
            let model = RouteModel::Trunk(Embedder::load_splade(files, backend)?.into());
            return Ok(Self { routing: None, models: vec![model], default: 0 });
        }
        let loaded = Self::load(files, backend)?;
        check_splade(files, loaded.models[loaded.default].chain())?;
        Ok(loaded)
    }

    /// What loading each trunk noticed.
    pub(crate) fn reports(&self) -> Vec<&LoadReport> {
        let mut trunks: Vec<&Arc<Trunk>> = Vec::new();
        for trunk in self.models.iter().filter_map(RouteModel::trunk) {
            if !trunks.iter().any(|known| Arc::ptr_eq(known, trunk)) {
                trunks.push(trunk);
            }
        }
        trunks.into_iter().map(|trunk| trunk.report()).collect()
    }
}
