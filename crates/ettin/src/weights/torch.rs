//! torch's zip archives.
use super::{FileData, Found};
use crate::{Error, Result};
pub(super) fn looks_like_torch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}
pub(super) fn read(file: &FileData) -> Result<Vec<Found>> {
    Err(Error::Weights {
        file: file.name().into(),
        message: "torch files come next".into(),
    })
}
