//! What a model is that is not run: its kind, and why.

use ettin::files::ModelFiles;
use ettin::identity::{self, Foreign};
use serde::Serialize;

/// The description of a model of another kind.
#[derive(Serialize)]
pub(super) struct Other {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// What it is.
    kind: String,
    /// Always false: says in so many words that no task takes it.
    supported: bool,
    /// Which file says so.
    evidence: String,
    /// What to do.
    advice: String,
}

impl Other {
    /// What the model's files say it is, if that is nothing that is run.
    pub(super) fn read(files: &ModelFiles) -> anyhow::Result<Option<Self>> {
        let foreign = identity::describe(files)?;
        Ok(foreign.map(|Foreign { kind, evidence, advice, .. }| Other {
            name: files.name().to_owned(),
            revision: files.revision().map(str::to_owned),
            kind,
            supported: false,
            evidence,
            advice,
        }))
    }

    /// For people.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("", String::new()), ("model", self.name.clone())];
        rows.extend(self.revision.iter().map(|revision| ("revision", revision.clone())));
        rows.extend([
            ("kind", format!("{}: {}", self.kind, self.evidence)),
            ("supported", format!("no: {}", self.advice)),
        ]);
        rows
    }
}
