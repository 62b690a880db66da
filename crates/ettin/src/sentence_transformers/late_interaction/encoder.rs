//! Folders of the `MultiVectorEncoder` of sentence-transformers (6.0 and newer): every step is a module.

use serde_json::Value;

use super::super::keys::{join, object, only};
use super::super::modules::ModuleEntry;
use super::super::parts::{DenseConfig, NormalizeConfig, Slot};
use super::super::settings::{Settings, prompts};
use super::super::transformer::{SearchSide, Task, Transformer};
use super::{
    FILE, LateInput, LateInteraction, LateModule, TokenMask, TokenPooling, WordLookup, check_default_prompt, refused,
};
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::{CONFIG, MODULES, SENTENCE_BERT};
use crate::{Error, Result};

/// Keys that are read or change nothing here.
const KEYS: [&str; 7] = [
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "__version__",
    "requirements",
    "keep_in_fp32_modules",
];

/// The largest factor of a pooling: a bound on hostile configurations.
const MAX_FACTOR: f64 = 1e9;

pub(super) fn load(files: &dyn FileSource, first: &ModuleEntry, rest: &[ModuleEntry]) -> Result<LateInteraction> {
    let mut transformer = Transformer::load_with_expansion(files, &first.folder, Task::FeatureExtraction)?;
    if transformer.task != Task::FeatureExtraction {
        return Err(Error::Unsupported("the transformer_task of a late-interaction model".to_owned()));
    }
    let (mut modules, mut mask, mut pooling) = (Vec::new(), None, None);
    for entry in rest {
        let ours = entry.path().starts_with("sentence_transformers.");
        if pooling.is_some() {
            return Err(Error::Unsupported(format!("{} behind the pooling of tokens in {MODULES}", entry.path())));
        }
        match entry.name() {
            "Dense" if ours => {
                let config = DenseConfig::load_on_tokens(files, &entry.folder)?;
                if (config.input, config.output) != (Slot::Tokens, Slot::Tokens) {
                    return Err(refused(entry));
                }
                modules.push(LateModule::Dense(entry.folder.clone(), config));
            }
            "Normalize" if ours => {
                let NormalizeConfig { input, output } = NormalizeConfig::load(files, &entry.folder)?;
                // Vectors of texts are never made, so what normalises them does nothing.
                match (input, output) {
                    (Slot::Tokens, Slot::Tokens) => modules.push(LateModule::Normalize),
                    (Slot::Tokens, _) => return Err(refused(entry)),
                    _ => {}
                }
            }
            "MultiVectorMask" if ours && mask.is_none() => mask = Some(token_mask(files, &entry.folder)?),
            "HierarchicalTokenPooling" if ours => pooling = Some(token_pooling(files, &entry.folder)?),
            _ => return Err(refused(entry)),
        }
    }
    let expansion = transformer.expansion.take();
    if expansion.is_some() && mask.is_none() {
        return Err(Error::Unsupported(format!("`query_expansion` without a MultiVectorMask in {MODULES}")));
    }
    if let (Some(expansion), Some(limit)) = (&expansion, transformer.query_length)
        && limit < expansion.length
    {
        return Err(Error::Config {
            file: join(&first.folder, SENTENCE_BERT),
            message: format!("`query_length` is {limit}, less than the {} of `query_expansion`", expansion.length),
        });
    }
    let map = object(files, FILE)?;
    let keys = Keys::new(&map, FILE);
    only(&keys, &KEYS)?;
    let mut settings = Settings {
        prompts: prompts(&keys)?,
        default_prompt_name: keys.text("default_prompt_name")?.map(str::to_owned),
        similarity_fn_name: keys.text("similarity_fn_name")?.map(str::to_owned),
        ..Settings::default()
    };
    for side in [SearchSide::Query, SearchSide::Document] {
        settings.prompts.entry(side.name().to_owned()).or_default();
    }
    check_default_prompt(&keys, &settings)?;
    Ok(LateInteraction {
        folder: first.folder.clone(),
        // Names of other functions are passed over, as the library does.
        mean: settings.similarity_fn_name.as_deref() == Some("meanmaxsim"),
        settings,
        input: LateInput::SentenceTransformers(Box::new(transformer)),
        expansion,
        mask: mask.unwrap_or_default(),
        modules,
        pooling,
    })
}

/// `MultiVectorMask`.
fn token_mask(files: &dyn FileSource, folder: &str) -> Result<TokenMask> {
    let file = join(folder, CONFIG);
    let map = object(files, &file)?;
    let keys = Keys::new(&map, &file);
    only(&keys, &["skiplist_words", "skiplist_tasks", "keep_only_token_ids"])?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let only_ids = match keys.get("keep_only_token_ids") {
        None => None,
        Some(value) => match value.as_array().map(|ids| ids.iter().map(id).collect::<Option<Vec<u32>>>()) {
            Some(Some(ids)) => Some(ids).filter(|ids| !ids.is_empty()),
            _ => return Err(keys.refuse("keep_only_token_ids", "expected a list of token ids")),
        },
    };
    Ok(TokenMask {
        words: keys.texts("skiplist_words")?.unwrap_or_default().into_iter().map(str::to_owned).collect(),
        lookup: WordLookup::Known,
        sides: sides(&keys, "skiplist_tasks")?,
        only: only_ids,
    })
}

/// `HierarchicalTokenPooling`.
fn token_pooling(files: &dyn FileSource, folder: &str) -> Result<TokenPooling> {
    let file = join(folder, CONFIG);
    let map = object(files, &file)?;
    let keys = Keys::new(&map, &file);
    only(&keys, &["pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"])?;
    let factor = match keys.get("pool_factor").map(Value::as_f64) {
        None => 1.0,
        Some(Some(factor)) if (1.0..=MAX_FACTOR).contains(&factor) => factor,
        Some(_) => return Err(keys.refuse("pool_factor", "supported: numbers from 1 on")),
    };
    let protected = match keys.get("num_protected_tokens").map(Value::as_u64) {
        None => 1,
        Some(Some(tokens)) => usize::try_from(tokens).unwrap_or(usize::MAX),
        Some(None) => return Err(keys.refuse("num_protected_tokens", "supported: whole numbers")),
    };
    // What was saved before the key was there has vectors as they are.
    let normalize = keys.flag("normalize_embeddings", false)?;
    Ok(TokenPooling { factor, protected, normalize, sides: sides(&keys, "tasks")? })
}

/// A list of tasks, or the name of one; documents where there is none. Other tasks than the two sides are nobody's.
fn sides(keys: &Keys<'_>, key: &str) -> Result<Vec<SearchSide>> {
    let names = match keys.get(key) {
        None => vec![SearchSide::Document.name()],
        Some(Value::String(name)) => vec![name.as_str()],
        Some(_) => keys.texts(key)?.unwrap_or_default(),
    };
    let all = [SearchSide::Query, SearchSide::Document];
    Ok(all.into_iter().filter(|side| names.contains(&side.name())).collect())
}
