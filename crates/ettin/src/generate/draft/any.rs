//! A draft chosen at run time.

use super::{Draft, DraftRequest, Lookup, ModelDraft};
use crate::Result;
use crate::generate::model::CausalModel;

/// One of the drafts there are, so that one type of engine serves them all.
#[derive(Debug)]
pub enum AnyDraft<M> {
    /// Plain decoding.
    None,
    /// What stands earlier in the text.
    Lookup,
    /// What another model would say.
    Model(Box<ModelDraft<M>>),
}

impl<M: CausalModel> AnyDraft<M> {
    /// A draft by `model`.
    pub fn model(model: M) -> Self {
        AnyDraft::Model(Box::new(ModelDraft::new(model)))
    }
}

impl<M: CausalModel> Draft for AnyDraft<M> {
    /// A cache where a model drafts.
    type State = Option<M::Cache>;

    fn state(&self) -> Result<Self::State> {
        match self {
            AnyDraft::Model(model) => model.state().map(Some),
            AnyDraft::None | AnyDraft::Lookup => Ok(None),
        }
    }

    fn fork(&self, state: &Self::State) -> Self::State {
        match (self, state) {
            (AnyDraft::Model(model), Some(cache)) => Some(model.fork(cache)),
            _ => None,
        }
    }

    fn propose(&mut self, requests: &mut [DraftRequest<'_, Self::State>]) -> Result<()> {
        let model = match self {
            AnyDraft::None => return Ok(()),
            AnyDraft::Lookup => {
                Lookup::look_up(requests);
                return Ok(());
            }
            AnyDraft::Model(model) => model,
        };
        let with_cache = requests.iter_mut().filter_map(|request| {
            let DraftRequest { tokens, wanted, vocabulary, state, place, chooser, failure } = request;
            let (wanted, vocabulary, state, place) = (*wanted, *vocabulary, state.as_mut()?, *place);
            Some(DraftRequest { tokens, wanted, vocabulary, state, place, chooser, failure })
        });
        model.propose(&mut with_cache.collect::<Vec<_>>())
    }

    fn is_off(&self) -> bool {
        matches!(self, AnyDraft::None)
    }

    fn bytes_per_token(&self) -> usize {
        match self {
            AnyDraft::Model(model) => model.bytes_per_token(),
            AnyDraft::None | AnyDraft::Lookup => 0,
        }
    }
}
