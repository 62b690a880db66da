//! What a model without a trunk is: one that looks vectors up.

use ettin::files::ModelFiles;
use ettin::tasks::Profile;
use ettin::weights::{Subfolder, Weights};
use serde::Serialize;

use super::model::Chain;

/// The description of a model of static embeddings.
#[derive(Serialize)]
pub(super) struct LookupRecord {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    kind: &'static str,
    tasks: [&'static str; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Chain>,
    /// What is wrong with the files of the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    stored_dtypes: Vec<&'static str>,
    parameters: u64,
}

impl LookupRecord {
    /// Reads the weights' headers.
    pub(super) fn read(files: &ModelFiles, profile: Profile) -> anyhow::Result<Self> {
        let weights = Weights::open(&Subfolder { files, folder: &profile.folder })?;
        let mut stored_dtypes: Vec<_> = weights.views().map(|view| view.dtype().name()).collect();
        stored_dtypes.sort_unstable();
        stored_dtypes.dedup();
        Ok(LookupRecord {
            name: files.name().to_owned(),
            revision: files.revision().map(str::to_owned),
            kind: "static embeddings: vectors are looked up, and no trunk is run",
            tasks: ["embed", "similarity"],
            chain: profile.chain.map(Chain::from),
            refused: profile.refused,
            stored_dtypes,
            parameters: weights.views().map(|view| view.len() as u64).sum(),
        })
    }

    /// For people.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("", String::new()), ("model", self.name.clone())];
        rows.extend(self.revision.iter().map(|revision| ("revision", revision.clone())));
        rows.extend([("kind", self.kind.to_owned()), ("commands", self.tasks.join(", "))]);
        rows.extend(self.chain.iter().flat_map(Chain::rows));
        rows.extend(self.refused.iter().map(|reason| ("refused", reason.clone())));
        rows.push(("parameters", format!("{} stored as {}", self.parameters, self.stored_dtypes.join(", "))));
        rows
    }
}
