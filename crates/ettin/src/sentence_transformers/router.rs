//! `router_config.json`: the routes of a Router, or of an Asym as older versions called it.

use serde_json::Value;

use super::keys::{join, object, only, required};
use super::modules::{class_of, folder_in};
use super::routing::Routing;
use super::{Class, Module};
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::{CONFIG, ROUTER};
use crate::{Error, Result};

/// Nobody has more routes, or more modules in one: bounds on hostile files.
const MAX_ROUTES: usize = 64;
const MAX_MODULES: usize = 64;

/// A router: chains of modules, and which texts take which.
#[derive(Debug)]
pub(super) struct RouterFile {
    pub(super) routing: Routing,
    /// The modules of each route.
    pub(super) routes: Vec<Vec<Module>>,
}

impl RouterFile {
    /// Reads the router in `folder`.
    pub(super) fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        let mut file = join(folder, ROUTER);
        let mut map = object(files, &file)?;
        if map.is_empty() && !folder.is_empty() {
            // Where Asym kept it; at the top, that is a route's own.
            let older = join(folder, CONFIG);
            map = object(files, &older)?;
            file = if map.is_empty() { file } else { older };
        }
        if map.is_empty() {
            map = required(files, &file)?;
        }
        let keys = Keys::new(&map, &file);
        only(&keys, &["types", "structure", "parameters"])?;
        let types = keys.object("types")?.ok_or_else(|| keys.refuse("types", "an object is expected"))?;
        if let Some(id) = types.names().find(|id| folder_in(folder, id).is_none()) {
            return Err(types.refuse(id, format_args!("the id {id:?} is no folder inside the repository")));
        }
        let structure = keys.object("structure")?.ok_or_else(|| keys.refuse("structure", "an object is expected"))?;
        let names: Vec<String> = structure.names().map(str::to_owned).collect();
        if !(1..=MAX_ROUTES).contains(&names.len()) {
            let message = format!("`structure` has {} routes; supported: 1 to {MAX_ROUTES}", names.len());
            return Err(keys.error(message));
        }
        let routes = names.iter().map(|name| {
            let ids = structure.texts(name)?.unwrap_or_default();
            if ids.len() > MAX_MODULES {
                return Err(structure.refuse(name, format_args!("supported: up to {MAX_MODULES} modules")));
            }
            ids.into_iter().map(|id| module(&types, folder, id, &file)).collect()
        });
        let routes = routes.collect::<Result<Vec<_>>>()?;
        let parameters = keys.object("parameters")?;
        let parameters = parameters.ok_or_else(|| keys.refuse("parameters", "an object is expected"))?;
        only(&parameters, &["default_route", "allow_empty_key", "route_mappings"])?;
        Ok(Self { routing: Routing::new(names, &parameters)?, routes })
    }
}

fn module(types: &Keys<'_>, router: &str, id: &str, file: &str) -> Result<Module> {
    let path = types.get(id).and_then(Value::as_str).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Error::Config {
        file: file.to_owned(),
        message: format!("`structure` names the module {id:?}, whose class `types` does not name"),
    })?;
    let folder = folder_in(router, id).ok_or_else(|| types.refuse(id, "its id is no folder inside the repository"))?;
    match class_of(path, file)? {
        Class::Router => Err(Error::Unsupported(format!("the module {id:?} of {file}: a Router inside a Router"))),
        class => Ok(Module { class, folder }),
    }
}
