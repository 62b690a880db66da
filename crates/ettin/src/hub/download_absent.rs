//! Stands in for downloads in a build without the feature `hub`: the cache is all there is.

use std::convert::Infallible;

use super::HubOptions;
use super::cache::RepoCache;
use crate::{Error, Result};

pub(super) const REASON: Option<&str> =
    Some("this build cannot download (it lacks the feature `hub`): fetch the model with another tool first");

/// Never constructed: every way to a download is refused for [`REASON`] first.
#[derive(Debug)]
pub(super) struct Download(Infallible);

impl Download {
    pub(super) fn start(_: &RepoCache, id: &str, revision: &str, options: &HubOptions) -> Result<Self> {
        Err(Error::NotCached {
            model: id.to_owned(),
            what: revision.to_owned(),
            cache: options.cache.clone(),
            reason: REASON.unwrap_or_default(),
        })
    }

    pub(super) fn commit(&self) -> &str {
        match self.0 {}
    }

    pub(super) fn listing(&self) -> Option<Vec<String>> {
        match self.0 {}
    }

    pub(super) fn fetch(&self, _: &str) -> Result<bool> {
        match self.0 {}
    }

    pub(super) fn fetch_all(&self) -> Result<()> {
        match self.0 {}
    }
}
