//! What stands beside `tokenizer.json` and changes what it does: the keys of `tokenizer_config.json`,
//! `special_tokens_map.json` and `added_tokens.json` that transformers 5.23 honours for this model type (docs/KEYS.md).
//!
//! Tokens are added in its order, so that new ones get its ids: first those of `added_tokens_decoder` by id, then the
//! named ones, then the extra ones. A `special_tokens_map.json` and an `added_tokens.json` count only where there is no
//! `added_tokens_decoder`, and the map then precedes `tokenizer_config.json`. A key that is `null` is absent, but for
//! the two keys of extra tokens, where it is an empty list that others do not fill.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, ModelWrapper, Tokenizer as Inner};

use crate::files::FileSource;
use crate::metadata::{self, ADDED_TOKENS as ADDED, SPECIAL_TOKENS as MAP, TOKENIZER, TOKENIZER_CONFIG as CONFIG};
use crate::{Error, Result};

/// The names that every tokenizer may give, in the order in which their tokens are added.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The key of further special tokens, and what it was before transformers 5.
const EXTRA: &str = "extra_special_tokens";
const EXTRA_BEFORE: &str = "additional_special_tokens";

/// Keys of cleaning up.
const CLEAN_UP: &str = "clean_up_tokenization_spaces";
const CLEAN_UP_BPE: &str = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";

/// How a file says that an object is a token.
const TYPE: &str = "__type";
const ADDED_TOKEN: &str = "AddedToken";

/// Classes that read `tokenizer.json` as it is, whether or not there is code beside it.
const PLAIN: [&str; 3] = ["PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"];

/// Settings that `tokenizer.json` does not hold.
#[derive(Debug, Default)]
pub(super) struct TokenizerSettings {
    /// Tokens of `added_tokens_decoder` or the files that were before it, by id.
    added: BTreeMap<i64, Token>,
    /// Tokens of `added_tokens.json` that lost their id to another one: none of them is added unless a file names it,
    /// and then it has the flags that it had there.
    displaced: Vec<Token>,
    /// Tokens by name: those of [`NAMES`] in that order, then others as the files name them.
    named: Vec<(String, Token)>,
    /// Special tokens without a name.
    extra: Vec<Token>,
    /// Whether special tokens written in a text are text.
    split_special_tokens: bool,
    /// Whether decoded text is cleaned up of spaces before punctuation, and whether that of BPE is, too.
    clean_up: (bool, bool),
}

/// An added token as the files write it: a flag that is not written depends on what the token turns out to be.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: Option<bool>,
    special: bool,
}

impl Token {
    /// A token that is named by its text alone.
    fn special(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: true,
        }
    }

    fn added(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl From<AddedToken> for Token {
    fn from(token: AddedToken) -> Self {
        let AddedToken { content, single_word, lstrip, rstrip, normalized, special } = token;
        Self { content, single_word, lstrip, rstrip, normalized: Some(normalized), special }
    }
}

impl TokenizerSettings {
    /// Reads the files; `inner` is what `tokenizer.json` alone says, `pad` the token that its padding names.
    ///
    /// # Errors
    /// [`Error::Config`] for malformed files, and naming a key that asks for what is not supported.
    pub(super) fn load(files: &dyn FileSource, inner: &Inner, pad: Option<&str>) -> Result<Self> {
        let mut config = stated(metadata::tokenizer_config(files)?);
        refuse(&config)?;
        let is_true = |key: &str| config.get(key) == Some(&Value::Bool(true));
        let mut settings = Self {
            split_special_tokens: flag(&config, "split_special_tokens")?,
            clean_up: (is_true(CLEAN_UP), is_true(CLEAN_UP_BPE)),
            ..Self::default()
        };
        let mut explicit = explicit(&mut config);
        match config.get("added_tokens_decoder") {
            Some(Value::Object(decoder)) => settings.decoder(decoder)?,
            Some(other) => return Err(refusal(CONFIG, "added_tokens_decoder", other, "an object of tokens by id")),
            None => {
                let map = stated(metadata::special_tokens(files)?);
                let special = told_special(&config, &map);
                merge(&mut config, &mut explicit, map)?;
                settings.before_decoders(&stated(metadata::added_tokens(files)?), &special, inner)?;
            }
        }
        settings.name(config, &explicit, pad)?;
        Ok(settings)
    }

    /// Whether decoded text is cleaned up of spaces before punctuation: where the model's files ask for it, but not for
    /// BPE, unless they insist. As transformers 5.23, whose default is no.
    pub(super) fn cleans_up(&self, inner: &Inner) -> bool {
        let (asked, insists) = self.clean_up;
        asked && (insists || !matches!(inner.get_model(), ModelWrapper::BPE(_)))
    }

    /// `added_tokens_decoder`: tokens by id.
    fn decoder(&mut self, decoder: &Map<String, Value>) -> Result<()> {
        for (id, value) in decoder {
            let fail = |rule| refusal(CONFIG, &format!("added_tokens_decoder.{id}"), value, rule);
            let number = id.parse().map_err(|_| fail("a token under its id"))?;
            let token = flagged(value).ok_or_else(|| fail("an object with `content` and flags"))?;
            self.added.insert(number, token);
        }
        Ok(())
    }

    /// What transformers before 4.34 wrote instead: `added_tokens.json`, completed by `tokenizer.json` itself. Its
    /// tokens have no flags: those of `special` are special and the others normalized.
    fn before_decoders(&mut self, file: &Map<String, Value>, special: &HashSet<String>, inner: &Inner) -> Result<()> {
        for (content, id) in file {
            let id = id.as_i64().ok_or_else(|| refusal(ADDED, content, id, "an id"))?;
            let special = special.contains(content);
            // A name makes it special later, but does not change how it is matched.
            let token = Token { special, normalized: Some(!special), ..Token::special(content) };
            self.displaced.extend(self.added.insert(id, token));
        }
        // What tokenizer.json has under an id counts; under different ids, the token of the highest one.
        for (id, token) in inner.get_added_tokens_decoder() {
            self.displaced.extend(self.added.insert(i64::from(id), token.into()));
        }
        Ok(())
    }

    /// The named and the extra tokens.
    fn name(&mut self, mut config: Map<String, Value>, explicit: &[(String, Value)], pad: Option<&str>) -> Result<()> {
        for key in NAMES {
            let token = config.get(key).map(|value| token(CONFIG, key, value)).transpose()?;
            let displaced = |token: &Token| self.displaced.iter().find(|other| other.content == token.content).cloned();
            let token = token.map(|token| displaced(&token).unwrap_or(token));
            let token = token.or_else(|| pad.filter(|_| key == "pad_token").map(Token::special));
            self.named.extend(token.map(|token| (key.to_owned(), token)));
        }
        let own = config.iter().filter(|(key, value)| is_own_name(key) && (value.is_string() || is_typed(value)));
        for (key, value) in own.chain(explicit.iter().map(|(key, value)| (key, value))) {
            put(&mut self.named, key, token(CONFIG, key, value)?);
        }
        let before = config.shift_remove(EXTRA_BEFORE);
        match config.shift_remove(EXTRA).or(before) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Array(tokens)) => {
                self.extra = tokens.iter().map(|value| token(CONFIG, EXTRA, value)).collect::<Result<_>>()?;
                Ok(())
            }
            Some(other) => Err(refusal(CONFIG, EXTRA, &other, "a list of tokens, or tokens by name")),
        }
    }

    /// Adds the tokens that `inner` lacks or has with other flags, and sets how it reads special ones.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokens contradict one another.
    pub(super) fn apply(&self, inner: &mut Inner) -> Result<()> {
        let known = inner.get_added_tokens_decoder().into_values().map(|token| (token.content.clone(), token));
        let mut known: HashMap<String, AddedToken> = known.collect();
        let mut tokens: Vec<Token> = Vec::new();
        let is_named = |token: &Token| self.named.iter().any(|(_, named)| named.content == token.content);
        let named_special = |token: &Token| Token { special: token.special || is_named(token), ..token.clone() };
        for token in self.added.values().map(named_special) {
            let added = token.added();
            if known.get(&token.content) != Some(&added) {
                known.insert(token.content.clone(), added);
                tokens.push(token);
            }
        }
        let new = |token: &&Token| !known.contains_key(&token.content);
        let named = self.named.iter().map(|(_, token)| token);
        tokens.extend(named.chain(&self.extra).filter(new).map(named_special));
        if !tokens.is_empty() {
            inner.add_tokens(tokens.iter().map(Token::added)).map_err(super::tokenizer_error)?;
        }
        inner.set_encode_special_tokens(self.split_special_tokens);
        Ok(())
    }

    /// The token under a name, as in `mask_token`.
    pub(super) fn token(&self, key: &str) -> Option<&str> {
        let found = self.named.iter().find(|(name, _)| name == key);
        found.map(|(_, token)| token.content.as_str())
    }
}

/// Keys that ask for another tokenizer than the one in `tokenizer.json`.
fn refuse(config: &Map<String, Value>) -> Result<()> {
    for (key, value) in config {
        let rule = match key.as_str() {
            "fast_tokenizer_files" if names_another(value) => {
                "tokenizers by version are not supported; name the one to use tokenizer.json"
            }
            "post_processor" | "tokenizer_object" => "parts of the tokenizer stand in tokenizer.json",
            "auto_map" if has_code(value) && !is_plain(config.get("tokenizer_class")) => {
                "a tokenizer with code of its own is not supported"
            }
            _ => continue,
        };
        return Err(refusal(CONFIG, key, value, rule));
    }
    Ok(())
}

fn names_another(files: &Value) -> bool {
    files.as_array().is_none_or(|files| files.iter().any(|file| file != TOKENIZER))
}

/// Whether `auto_map` names code for the tokenizer: under its key, or as the list that older files have in its place.
fn has_code(map: &Value) -> bool {
    map.is_array() || map.get("AutoTokenizer").is_some_and(|code| !code.is_null())
}

fn is_plain(class: Option<&Value>) -> bool {
    class.is_none_or(|class| class.as_str().is_some_and(|class| PLAIN.contains(&class)))
}

/// Takes a model's own named tokens out of `tokenizer_config.json`: keys that end in `_token`, and extra tokens by
/// name; where there are none, those that stand there under a key of their own.
fn explicit(config: &mut Map<String, Value>) -> Vec<(String, Value)> {
    if is_empty(config.get(EXTRA))
        && let Some(before) = config.shift_remove(EXTRA_BEFORE)
    {
        config.insert(EXTRA.to_owned(), before);
    }
    let own = |(key, value): &(&String, &Value)| is_own_name(key) && value.is_string();
    let mut named: Vec<(String, Value)> =
        config.iter().filter(own).map(|(key, value)| (key.clone(), value.clone())).collect();
    config.retain(|key, value| !own(&(key, value)));
    if let Some(Value::Object(by_name)) = config.get(EXTRA) {
        by_name.iter().for_each(|(key, value)| put(&mut named, key, value.clone()));
        config.shift_remove(EXTRA);
    }
    match config.shift_remove("model_specific_special_tokens") {
        Some(Value::Object(stated)) if named.is_empty() => stated.into_iter().collect(),
        _ => named,
    }
}

/// The tokens that `tokenizer_config.json` and the map over it name as special, as transformers sees them when it reads
/// `added_tokens.json`: in `tokenizer_config.json` it knows only texts by then, and no objects.
fn told_special(config: &Map<String, Value>, map: &Map<String, Value>) -> HashSet<String> {
    let named = NAMES.iter().filter_map(|key| match map.get(*key) {
        Some(value) => text(value),
        None => config.get(*key)?.as_str(),
    });
    let listed = |file: &Map<String, Value>| file.get(EXTRA).and_then(Value::as_array).cloned().unwrap_or_default();
    let (of_config, of_map) = (listed(config), listed(map));
    let of_config = match map.get(EXTRA) {
        None | Some(Value::Array(_)) => of_config,
        Some(_) => Vec::new(),
    };
    let extra = of_config.iter().filter_map(Value::as_str).chain(of_map.iter().filter_map(text));
    named.chain(extra).map(str::to_owned).collect()
}

/// `special_tokens_map.json` over `tokenizer_config.json`; lists of extra tokens follow one another.
fn merge(config: &mut Map<String, Value>, explicit: &mut Vec<(String, Value)>, map: Map<String, Value>) -> Result<()> {
    for (key, value) in map {
        if key.ends_with("_token") {
            token(MAP, &key, &value)?;
        }
        match (key.as_str(), value) {
            (EXTRA, Value::Array(tokens)) => {
                let mut list = match config.shift_remove(EXTRA) {
                    Some(Value::Array(list)) => list,
                    _ => Vec::new(),
                };
                list.extend(tokens.into_iter().map(special));
                config.insert(key, Value::Array(list));
            }
            (EXTRA, Value::Object(by_name)) => {
                config.shift_remove(EXTRA);
                by_name.into_iter().for_each(|(key, value)| put(explicit, &key, value));
            }
            (_, value) => drop(config.insert(key, special(value))),
        }
    }
    Ok(())
}

/// A token of `special_tokens_map.json`: an object there has neither a type nor to say that it is special.
fn special(mut value: Value) -> Value {
    if let Value::Object(token) = &mut value {
        token.insert(TYPE.to_owned(), ADDED_TOKEN.into());
        token.insert("special".to_owned(), true.into());
    }
    value
}

/// Puts an entry at the place of its key in [`NAMES`], at the place of the one that it replaces, or last.
fn put<T>(named: &mut Vec<(String, T)>, key: &str, value: T) {
    if let Some((_, old)) = named.iter_mut().find(|(name, _)| name == key) {
        *old = value;
        return;
    }
    let rank = |name: &str| NAMES.iter().position(|known| *known == name).unwrap_or(NAMES.len());
    let place = named.iter().position(|(name, _)| rank(name) > rank(key)).unwrap_or(named.len());
    named.insert(place, (key.to_owned(), value));
}

fn is_empty(extra: Option<&Value>) -> bool {
    match extra {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// Whether a key names a token of this model, not one of those that every tokenizer may name.
fn is_own_name(key: &str) -> bool {
    key.ends_with("_token") && !NAMES.contains(&key)
}

/// A JSON file of the model without its nulls, but for those of extra tokens; an empty object where there is no file.
fn stated(object: Option<Map<String, Value>>) -> Map<String, Value> {
    let mut map = object.unwrap_or_default();
    map.retain(|key, value| !value.is_null() || [EXTRA, EXTRA_BEFORE].contains(&key.as_str()));
    map
}

fn flag(config: &Map<String, Value>, key: &str) -> Result<bool> {
    match config.get(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(refusal(CONFIG, key, other, "true or false")),
    }
}

/// A token as its text or as an object with flags.
fn token(file: &str, key: &str, value: &Value) -> Result<Token> {
    let plain = value.as_str().map(Token::special);
    plain
        .or_else(|| flagged(value))
        .ok_or_else(|| refusal(file, key, value, "a token, or an object with its `content` and flags"))
}

/// The text of a token in either form.
fn text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn is_typed(value: &Value) -> bool {
    value.get(TYPE).is_some_and(|kind| kind == ADDED_TOKEN)
}

/// A token as an object: `content` and those of the five flags that are written.
fn flagged(value: &Value) -> Option<Token> {
    let flag = |key: &str| match value.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(flag) => flag.as_bool().map(Some),
    };
    Some(Token {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word")?.unwrap_or(false),
        lstrip: flag("lstrip")?.unwrap_or(false),
        rstrip: flag("rstrip")?.unwrap_or(false),
        normalized: flag("normalized")?,
        special: flag("special")?.unwrap_or(false),
    })
}

fn refusal(file: &str, key: &str, value: &Value, rule: &str) -> Error {
    Error::Config { file: file.to_owned(), message: format!("`{key}` is {value}; expected {rule}") }
}
