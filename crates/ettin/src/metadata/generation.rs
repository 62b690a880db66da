//! `generation_config.json`: its reader, and the tokens that it ends a text with, which the tokenizer and generation
//! both need.

use serde_json::{Map, Value};

use super::GENERATION as FILE;
use crate::files::FileSource;
use crate::{Error, Result, json};

/// What helps against a file that cannot be obeyed.
pub(crate) const REMEDY: &str = "correct it, or generate without the file's settings";

/// What helps against a setting that is not implemented.
pub(crate) const DO_WITHOUT: &str = "generate without its settings";

/// `generation_config.json` as an object; `None` where there is none.
///
/// # Errors
/// As [`json::parse_object`], with what helps.
pub(crate) fn generation(files: &dyn FileSource) -> Result<Option<Map<String, Value>>> {
    json::read_object(files, FILE).map_err(|error| match error {
        Error::Config { file, message } => Error::Config { file, message: format!("{message}; {REMEDY}") },
        other => other,
    })
}

/// The tokens that end a text by `generation_config.json`, where the model has that file: none where it names none. Ids
/// that are no tokens (−1 in some files) end nothing.
///
/// # Errors
/// [`Error::Config`] for a file that is no JSON object or names no ids; what reading files can meet.
pub(crate) fn ends_of_files(files: &dyn FileSource) -> Result<Option<Vec<u32>>> {
    generation(files)?.map(|settings| ends(&settings)).transpose()
}

/// The same of the file's object.
///
/// # Errors
/// [`Error::Config`] where it names no ids.
pub(crate) fn ends(settings: &Map<String, Value>) -> Result<Vec<u32>> {
    let value = settings.get("eos_token_id").unwrap_or(&Value::Null);
    let ends = if value.is_null() { Some(Vec::new()) } else { tokens(value) };
    let mut ends = ends.ok_or_else(|| Error::Config {
        file: FILE.to_owned(),
        message: format!("eos_token_id is {value}, expected a token id, a list of them, or null; {REMEDY}"),
    })?;
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// The tokens among one whole number or a list of them; none where anything else is there.
pub(crate) fn tokens(value: &Value) -> Option<Vec<u32>> {
    let listed = match value {
        Value::Array(list) => list,
        one => std::slice::from_ref(one),
    };
    let numbers: Option<Vec<i64>> = listed.iter().map(whole).collect();
    Some(numbers?.into_iter().filter_map(|number| u32::try_from(number).ok()).collect())
}

/// A token id.
pub(crate) fn id(value: &Value) -> Option<u32> {
    u32::try_from(whole(value)?).ok()
}

/// A whole number, which may be written as 50.0.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    /// From here on not every whole number is an f64.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
    value.as_i64().or_else(|| float().map(|float| float as i64))
}
