//! Models by name, and in what state each is.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use ettin::files::ModelFiles;
use tokio::sync::watch;

use super::{Ability, LoadedModel, ModelSettings};
use crate::error::{ErrorKind, ServeError};
use crate::metrics;
use crate::scheduler::Turn;

/// What a client is told to wait for models that are loading.
const LOADING_RETRY: Duration = Duration::from_secs(2);

/// Finds a model's files, when it is loaded and whenever it is loaded again.
type OpenFiles = dyn Fn() -> Result<ModelFiles, ServeError> + Send + Sync;

/// Where a model comes from.
#[derive(Clone)]
pub struct ModelSource {
    /// The name that it is asked for by.
    pub name: String,
    open: Arc<OpenFiles>,
}

impl ModelSource {
    /// A model of this name whose files `open` finds.
    pub fn new(
        name: impl Into<String>,
        open: impl Fn() -> Result<ModelFiles, ServeError> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), open: Arc::new(open) }
    }
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelSource").field(&self.name).finish()
    }
}

/// In what state a model is.
#[derive(Debug, Clone)]
pub enum ModelState {
    /// Being loaded for the first time, since then.
    Loading(Instant),
    /// Answering.
    Ready(Arc<LoadedModel>),
    /// It could not be loaded, for this reason.
    Failed(ServeError),
}

/// A model's name and state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelStatus {
    /// The name.
    pub name: String,
    /// The state.
    pub state: ModelState,
    /// Why it could not be loaded again, where an older one still answers.
    pub reload_error: Option<ServeError>,
}

/// All models of a process.
#[derive(Debug)]
pub struct Registry {
    settings: ModelSettings,
    turn: Arc<Turn>,
    sources: Vec<ModelSource>,
    slots: RwLock<Vec<ModelStatus>>,
    /// Held while a model is loaded: two at once would need the memory of both, and the one that was asked for first
    /// might be ready last.
    loading: Mutex<()>,
    /// Whether every model has been tried once.
    tried: watch::Sender<bool>,
}

impl Registry {
    /// A registry of these models, none of which is loaded yet: [`load_all`](Self::load_all) does.
    ///
    /// # Errors
    /// For two models of one name, and for none.
    pub fn new(sources: Vec<ModelSource>, settings: ModelSettings) -> Result<Arc<Self>, ServeError> {
        if sources.is_empty() {
            return Err(ServeError::new(ErrorKind::Validation, "there is no model to serve"));
        }
        for (index, source) in sources.iter().enumerate() {
            if sources[..index].iter().any(|other| other.name == source.name) {
                let message = format!("two models are called {:?}; give one another name (NAME=MODEL)", source.name);
                return Err(ServeError::new(ErrorKind::Validation, message));
            }
        }
        let loading = |source: &ModelSource| ModelStatus {
            name: source.name.clone(),
            state: ModelState::Loading(Instant::now()),
            reload_error: None,
        };
        let slots = RwLock::new(sources.iter().map(loading).collect());
        Ok(Arc::new(Self {
            settings,
            turn: Arc::default(),
            sources,
            slots,
            loading: Mutex::default(),
            tried: watch::Sender::new(false),
        }))
    }

    /// Loads all models in the background, one after the other. [`loaded`](Self::loaded) waits for that.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn load_all(self: &Arc<Self>) -> Result<(), ServeError> {
        let registry = self.clone();
        spawn("ettin-load", move || {
            (0..registry.sources.len()).for_each(|index| registry.load(index));
            registry.tried.send_replace(true);
        })
    }

    /// Waits until all models have been tried.
    ///
    /// # Errors
    /// The first that could not be loaded.
    pub async fn loaded(&self) -> Result<(), ServeError> {
        // The sender is this registry's own.
        let _ = self.tried.subscribe().wait_for(|tried| *tried).await;
        let failed = self.status().into_iter().find_map(|slot| match slot.state {
            ModelState::Failed(error) => Some(not_loaded(&slot.name, &error)),
            _ => None,
        });
        failed.map_or(Ok(()), Err)
    }

    /// [Reloads](Self::reload) all models, one after the other.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn reload_all(self: &Arc<Self>) -> Result<(), ServeError> {
        let registry = self.clone();
        spawn("ettin-load", move || (0..registry.sources.len()).for_each(|index| registry.load(index)))
    }

    /// Loads a model again in the background, and puts it in the place of the one that answers when it is ready. That
    /// one answers what it has begun.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); when no thread can be started.
    pub fn reload(self: &Arc<Self>, name: &str) -> Result<(), ServeError> {
        let Some(index) = self.sources.iter().position(|source| source.name == name) else {
            return Err(self.no_such(name));
        };
        let registry = self.clone();
        spawn("ettin-load", move || registry.load(index))
    }

    fn load(&self, index: usize) {
        let Some(source) = self.sources.get(index) else { return };
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            LoadedModel::load(&source.name, &(source.open)()?, &self.settings, &self.turn)
        }));
        let loaded = loaded.unwrap_or_else(|_| Err(ServeError::internal("loading the model panicked")));
        match &loaded {
            Ok(model) => {
                let (seconds, abilities) = (begun.elapsed().as_secs_f32(), model.abilities.to_string());
                tracing::info!(model = source.name, seconds, abilities, "model is ready");
            }
            Err(error) => tracing::error!(model = source.name, %error, "model cannot be loaded"),
        }
        let mut slots = self.write();
        let Some(slot) = slots.get_mut(index) else { return };
        match loaded {
            Ok(model) => (slot.state, slot.reload_error) = (ModelState::Ready(Arc::new(model)), None),
            Err(error) if matches!(slot.state, ModelState::Ready(_)) => slot.reload_error = Some(error),
            Err(error) => slot.state = ModelState::Failed(error),
        }
        metrics::model_ready(&source.name, matches!(slot.state, ModelState::Ready(_)));
    }

    /// Every model and its state, in the order in which they were named.
    pub fn status(&self) -> Vec<ModelStatus> {
        self.read().clone()
    }

    /// Whether all models answer. It never waits for what is being computed.
    ///
    /// # Errors
    /// [`Unhealthy`](ErrorKind::Unhealthy) with the reason.
    pub fn health(&self) -> Result<(), ServeError> {
        let slots = self.read();
        if let Some((name, error)) = slots.iter().find_map(|slot| match &slot.state {
            ModelState::Failed(error) => Some((&slot.name, error)),
            _ => None,
        }) {
            return Err(not_loaded(name, error));
        }
        let loading: Vec<&str> = slots
            .iter()
            .filter(|slot| matches!(slot.state, ModelState::Loading(_)))
            .map(|slot| slot.name.as_str())
            .collect();
        if !loading.is_empty() {
            return Err(ServeError::unhealthy(format!("loading {}", loading.join(", ")), LOADING_RETRY));
        }
        let failing = |slot: &ModelStatus| match &slot.state {
            ModelState::Ready(model) => model.encoder.check().err().map(|error| (slot.name.clone(), error)),
            _ => None,
        };
        slots
            .iter()
            .find_map(failing)
            .map_or(Ok(()), |(name, error)| Err(ServeError { message: format!("model {name}: {error}"), ..error }))
    }

    /// The model of this name if it can do what is needed; without a name, or with one that no model has, the first one
    /// that can. (Clients of one model's server send all kinds of names.)
    ///
    /// # Errors
    /// [`WrongModel`](ErrorKind::WrongModel) where no model, or not the one named, can do it;
    /// [`Unhealthy`](ErrorKind::Unhealthy) where one that might is not ready.
    pub fn choose(&self, name: Option<&str>, need: Ability) -> Result<Arc<LoadedModel>, ServeError> {
        self.choose_by(name, need.name(), |model| model.abilities.has(need))
    }

    /// The same by any condition, which `need` describes.
    ///
    /// # Errors
    /// As [`choose`](Self::choose).
    pub fn choose_by(
        &self,
        name: Option<&str>,
        need: &str,
        can: impl Fn(&LoadedModel) -> bool,
    ) -> Result<Arc<LoadedModel>, ServeError> {
        let slots = self.read();
        if let Some(slot) = name.and_then(|name| slots.iter().find(|slot| slot.name == name)) {
            return match &slot.state {
                ModelState::Ready(model) if can(model) => Ok(model.clone()),
                ModelState::Ready(model) => Err(ServeError::new(
                    ErrorKind::WrongModel,
                    format!("model {} cannot {need}; it can {}", slot.name, model.abilities),
                )),
                ModelState::Loading(_) => {
                    Err(ServeError::unhealthy(format!("model {} is loading", slot.name), LOADING_RETRY))
                }
                ModelState::Failed(error) => Err(not_loaded(&slot.name, error)),
            };
        }
        let ready = slots.iter().filter_map(|slot| match &slot.state {
            ModelState::Ready(model) => Some(model),
            _ => None,
        });
        // Made for it rather than able to, among other things.
        let mut able: Vec<&Arc<LoadedModel>> = ready.filter(|model| can(model)).collect();
        able.sort_by_key(|model| model.abilities.main().map(Ability::name) != Some(need));
        if let Some(model) = able.first() {
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                tracing::debug!(asked = name, answering = %model.name, "no model has this name");
            }
            return Ok((*model).clone());
        }
        let states = |wanted: fn(&ModelState) -> bool| slots.iter().filter(|slot| wanted(&slot.state)).count();
        if states(|state| matches!(state, ModelState::Loading(_))) > 0 {
            return Err(ServeError::unhealthy("models are loading", LOADING_RETRY));
        }
        if states(|state| matches!(state, ModelState::Ready(_))) == 0 {
            return Err(ServeError::new(ErrorKind::Unhealthy, "no model could be loaded; /health says why"));
        }
        let known: Vec<String> = slots
            .iter()
            .map(|slot| match &slot.state {
                ModelState::Ready(model) => format!("{} ({})", slot.name, model.abilities),
                _ => format!("{} (not loaded)", slot.name),
            })
            .collect();
        let message = format!("no model here can {need}; there is {}", known.join("; "));
        Err(ServeError::new(ErrorKind::WrongModel, message))
    }

    fn no_such(&self, name: &str) -> ServeError {
        let known: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
        ServeError::new(ErrorKind::NotFound, format!("no model is called {name:?}; there is {}", known.join(", ")))
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<ModelStatus>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<ModelStatus>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_loaded(name: &str, error: &ServeError) -> ServeError {
    ServeError::new(ErrorKind::Unhealthy, format!("model {name} could not be loaded: {error}"))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map(drop).map_err(|error| ServeError::internal(format!("a thread cannot be started: {error}")))
}
