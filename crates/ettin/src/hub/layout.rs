//! Which files of a repository this engine reads.

use crate::Result;
use crate::identity::TELLING;
use crate::metadata::{BESIDE, CONFIG, ShardIndex};

/// Everything but weights that a model may have at its root, or a sentence-transformers module in its folder.
pub(super) fn metadata() -> impl Iterator<Item = &'static str> {
    [CONFIG].into_iter().chain(BESIDE).chain(TELLING)
}

/// The shards that an index lists, each once, in order of their names.
pub(super) fn shards(name: &str, index: &[u8]) -> Result<Vec<String>> {
    Ok(ShardIndex::parse(name, index)?.files().into_iter().map(str::to_owned).collect())
}
