//! Modules that look vectors up, token by token, in the place of a trunk: `StaticEmbedding`, and
//! `SparseStaticEmbedding` (`IDF` in older saves).

use serde_json::Map;

use super::Class;
use super::keys::{join, object, only};
use crate::config::Keys;
use crate::files::{FileSource, Subfolder, check_name};
use crate::json::read_object;
use crate::metadata::CONFIG as FILE;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The first module of a chain without a trunk.
#[derive(Debug, Clone)]
pub(crate) struct LookupModule {
    /// One of the two.
    pub(crate) class: Class,
    pub(crate) folder: String,
}

/// A `SparseStaticEmbedding` module: one weight for each token of the vocabulary.
#[derive(Debug)]
pub(crate) struct SparseLookup {
    /// The file of its weights by token, where they are not in its tensors.
    pub(crate) by_token: Option<String>,
}

impl SparseLookup {
    /// Reads the module in `folder`.
    ///
    /// The library opens a `path` that ends in `.json` as it stands, in the working directory or on the Hub. Here it
    /// is a file of the model or nothing: beside the module's settings, else at the top.
    pub(crate) fn load(files: &dyn FileSource, folder: &str) -> Result<Self> {
        let file = join(folder, FILE);
        let mut map = object(files, &file)?;
        if folder.is_empty() && map.contains_key("model_type") {
            // A trunk's beside it.
            map = Map::new();
        }
        let keys = Keys::new(&map, &file);
        // The first matters in training alone.
        only(&keys, &["frozen", "path"])?;
        let Some(path) = keys.text("path")?.filter(|path| path.ends_with(".json")) else {
            return Ok(Self { by_token: None });
        };
        let outside = || {
            keys.refuse(
                "path",
                "a file outside the model, or none; put the weights by token beside this file, or save the module anew, \
                 which writes them as a tensor",
            )
        };
        check_name(path).map_err(|_| outside())?;
        for place in [join(folder, path), path.to_owned()] {
            if files.get(&place)?.is_some() {
                return Ok(Self { by_token: Some(place) });
            }
        }
        Err(outside())
    }

    /// The weights of a file of weights by token: as in the library, a token that the vocabulary lacks writes its weight
    /// to the unknown token, and the last one stays.
    pub(crate) fn of_tokens(files: &dyn FileSource, folder: &str, file: &str) -> Result<Vec<f32>> {
        let tokenizer = Tokenizer::load_in(&Subfolder { files, folder })?;
        let fail = |message: String| Error::Config { file: file.to_owned(), message };
        let map = read_object(files, file)?.unwrap_or_default();
        let mut weights = vec![0.0; tokenizer.vocab_size()];
        for (token, weight) in &map {
            let number = weight.as_f64().map(|weight| weight as f32).filter(|weight| weight.is_finite());
            let number = number.ok_or_else(|| fail(format!("the weight of {token:?} is no finite number")))?;
            let id = tokenizer.id(token).or(tokenizer.special().unk).map(|id| id as usize);
            match id.and_then(|id| weights.get_mut(id)) {
                Some(weight) => *weight = number,
                None => return Err(fail(format!("{token:?} is no token of the vocabulary, which has no unknown one"))),
            }
        }
        Ok(weights)
    }
}
