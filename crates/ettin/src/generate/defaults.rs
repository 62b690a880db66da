//! What a model's own files ask of a generation: `generation_config.json`, or the same keys of `config.json` where
//! there is none.
//!
//! Names and meaning are those of `generate()` of transformers 5.23. Every key is obeyed, without effect on the text
//! here as there, or refused by its name.

use serde_json::{Map, Value};

use super::{GenerateRequest, Sampling, Shaping};
use crate::files::ModelFiles;
use crate::metadata::generation::{DO_WITHOUT, REMEDY, ends, generation, id, tokens, whole};
use crate::metadata::{self, CONFIG, GENERATION as FILE};
use crate::{Error, Result};

/// `generate()` samples from so many tokens unless told otherwise.
const TOP_K: usize = 50;

/// Keys that are obeyed, besides `eos_token_id`.
const OBEYED: [&str; 26] = [
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "stop_strings",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "force_bos_token_to_be_generated",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
];

/// Keys that change the text and are not implemented, each with the value that turns it off.
const REFUSED: [(&str, Off); 14] = [
    ("num_beams", Off::Most(1.0)),
    ("num_beam_groups", Off::Most(1.0)),
    ("num_return_sequences", Off::Most(1.0)),
    ("penalty_alpha", Off::Most(0.0)),
    ("guidance_scale", Off::Is(1.0)),
    ("constraints", Off::Null),
    ("force_words_ids", Off::Null),
    ("dola_layers", Off::Null),
    ("watermarking_config", Off::Null),
    ("assistant_ensemble_weight", Off::Null),
    ("max_time", Off::Null),
    ("token_healing", Off::False),
    ("use_mtp", Off::False),
    ("cache_implementation", Off::Not("quantized")),
];

/// Keys without an effect on the text: other tokens than the ends, beams that are not used, the speed, what else is
/// returned, proposals that are checked, and what every file has.
const HARMLESS: [&str; 41] = [
    "_from_model_config",
    "_commit_hash",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    // Of a quantised cache, which is refused.
    "cache_config",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "diversity_penalty",
    "early_stopping",
    "eos_token_id",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    // Logits that are not finite are an error.
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
    "use_model_defaults",
    "assistant_tokenizer",
    "tokenizer_class",
    "sep_token_id",
    "cls_token_id",
    "speculation_type",
];

/// Keys that count only where tokens are drawn. Their values are then checked, and not in greedy decoding.
const OF_SAMPLING: [&str; 8] =
    ["temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"];

/// Numbers that mean what a missing key does to `generate()`; files of transformers 4 spell them all out. Its
/// `max_length` of 20 is missing, as a text without a limit of its own is longer here.
const USUAL: [(&str, f64); 12] = [
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("temperature", 1.0),
    ("top_k", TOP_K as f64),
    ("top_p", 1.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("repetition_penalty", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
];

/// Which value of a key asks for nothing. Null always does.
#[derive(Debug, Clone, Copy)]
enum Off {
    /// None but null.
    Null,
    /// What is no yes.
    False,
    /// A number up to this.
    Most(f64),
    /// This number.
    Is(f64),
    /// Any other word.
    Not(&'static str),
}

impl Off {
    fn fits(self, value: &Value) -> bool {
        match self {
            Off::Null => false,
            Off::False => !is_true(value),
            Off::Most(most) => value.as_f64().is_some_and(|value| value <= most),
            Off::Is(off) => value.as_f64() == Some(off),
            Off::Not(word) => value.as_str().is_some_and(|value| value != word),
        }
    }
}

/// Settings of a generation in a model's files.
///
/// ```no_run
/// # fn main() -> ettin::Result<()> {
/// use ettin::files::ModelFiles;
/// use ettin::generate::GenerationDefaults;
///
/// let defaults = GenerationDefaults::load(&ModelFiles::folder("model")?)?;
/// let request = defaults.request()?.with_draft_tokens(4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    file: &'static str,
    /// Without nulls, which ask for nothing.
    settings: Map<String, Value>,
    /// The vocabulary's size, where config.json states one.
    vocabulary: Option<usize>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`, or where the model has none the keys of the same names in `config.json`, where
    /// older models keep them.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that is no JSON object; what reading files can meet.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let mut config = metadata::config(files)?.unwrap_or_default();
        let vocabulary = config.get("vocab_size").and_then(count);
        let (file, mut settings) = match generation(files)? {
            Some(settings) => (FILE, settings),
            None => {
                // Other keys there are the model's.
                config.retain(|key, _| OBEYED.contains(&key.as_str()) || REFUSED.iter().any(|(name, _)| name == key));
                (CONFIG, config)
            }
        };
        settings.retain(|_, value| !value.is_null());
        Ok(Self { file, settings, vocabulary })
    }

    /// The settings without these keys: those that a caller decides about. The file's values for them are then not even
    /// checked.
    pub fn without(mut self, keys: &[&str]) -> Self {
        self.settings.retain(|key, _| !keys.contains(&key.as_str()));
        self
    }

    /// The file that the settings are from.
    pub fn file(&self) -> &str {
        self.file
    }

    /// Whether there is nothing that a request would differ by.
    pub fn is_empty(&self) -> bool {
        self.settings().next().is_none()
    }

    /// Keys and values that have an effect here or in transformers, those left out that say what a missing key means
    /// there.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.known().filter(|(key, value)| !is_usual(key, value))
    }

    /// Those of the [`settings`](Self::settings) that count where tokens are drawn, or where they are not.
    pub fn settings_for(&self, sampled: bool) -> impl Iterator<Item = (&str, &Value)> {
        self.known().filter(move |&(key, value)| match OF_SAMPLING.contains(&key) {
            // A caller who draws unasked has no cut at 50 but by the file.
            true => sampled && (key == "top_k" || !is_usual(key, value)),
            false => !is_usual(key, value),
        })
    }

    fn known(&self) -> impl Iterator<Item = (&str, &Value)> {
        let settings = self.settings.iter().map(|(key, value)| (key.as_str(), value));
        settings.filter(|(key, value)| OBEYED.contains(key) || is_refused(key, value))
    }

    /// The value of a key; none where it is null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.settings.get(key)
    }

    /// Keys that neither this engine nor transformers knows, where they hold anything.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let known = |key: &str| {
            OBEYED.contains(&key) || HARMLESS.contains(&key) || REFUSED.iter().any(|&(name, _)| name == key)
        };
        let held = self.settings.iter().filter(|(_, value)| !is_empty(value));
        held.map(|(key, _)| key.as_str()).filter(move |key| !known(key))
    }

    /// Whether an error is about these settings, so that generating without them helps.
    pub fn are_refused_by(error: &Error) -> bool {
        match error {
            Error::Config { message, .. } => message.ends_with(REMEDY),
            Error::Unsupported(message) => message.ends_with(DO_WITHOUT),
            _ => false,
        }
    }

    /// The request that the files ask for; what they leave open is as in [`GenerateRequest::default`]. Values of
    /// sampling are looked at only where the files ask for it (`do_sample`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a setting that is not implemented; [`Error::Config`] for a value out of range, an id
    /// that the vocabulary does not hold where one must be chosen or biased, or ends that are no token ids.
    pub fn request(&self) -> Result<GenerateRequest> {
        let refused: Vec<String> = self
            .settings
            .iter()
            .filter(|(key, value)| is_refused(key, value))
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        if !refused.is_empty() {
            return Err(Error::Unsupported(format!("{} of {}; {DO_WITHOUT}", refused.join(", "), self.file)));
        }
        if self.file == FILE {
            ends(&self.settings)?;
        }
        let base = GenerateRequest::default();
        let new = self.count("max_new_tokens")?;
        if new == Some(0) {
            return Err(self.wrong("max_new_tokens", "a number above 0"));
        }
        let total = self.count("max_length")?;
        Ok(GenerateRequest {
            // A limit of the new tokens takes the place of one of all.
            max_length: total.filter(|_| new.is_none()),
            max_new_tokens: new.unwrap_or(if total.is_some() { usize::MAX } else { base.max_new_tokens }),
            sampling: self.sampling()?,
            shaping: self.shaping()?,
            stop: self.stop()?,
            ..base
        })
    }

    /// Cuts and temperature that hold when tokens are drawn, whether or not the files ask for drawing (`do_sample`).
    ///
    /// # Errors
    /// [`Error::Config`] for a value that transformers refuses to draw with; one that turns a cut off there does here,
    /// too.
    pub fn sampled(&self) -> Result<Sampling> {
        let temperature = self.number("temperature", "above 0", |t| t > 0.0)?.unwrap_or(1.0);
        let top_p = self.number("top_p", "0 or more", |p| p >= 0.0)?.filter(|&p| p <= 1.0);
        let min_p = self.number("min_p", "between 0 and 1", |p| (0.0..=1.0).contains(&p))?;
        let top_h = self.number("top_h", "above 0 and at most 1", |h| h > 0.0 && h <= 1.0)?;
        let typical_p = self.number("typical_p", "above 0", |p| p > 0.0)?.filter(|&p| p < 1.0);
        let cutoff = |key| Ok(self.number(key, "", |_| true)?.filter(|&cut| cut > 0.0 && cut < 1.0));
        let (epsilon, eta): (Result<_>, Result<_>) = (cutoff("epsilon_cutoff"), cutoff("eta_cutoff"));
        let single = |number: Option<f64>| number.map(|number| number as f32);
        Ok(Sampling {
            temperature: temperature as f32,
            top_k: self.count("top_k")?.filter(|&k| k > 0),
            top_p: single(top_p),
            min_p: single(min_p),
            top_h: single(top_h),
            typical_p: single(typical_p),
            epsilon_cutoff: single(epsilon?),
            eta_cutoff: single(eta?),
            repetition_penalty: self.repetition_penalty()?,
            seed: None,
        })
    }

    fn sampling(&self) -> Result<Sampling> {
        if self.flag("do_sample") {
            let sampled = self.sampled()?;
            let top_k = if self.settings.contains_key("top_k") { sampled.top_k } else { Some(TOP_K) };
            return Ok(Sampling { top_k, ..sampled });
        }
        Ok(Sampling { repetition_penalty: self.repetition_penalty()?, ..Sampling::default() })
    }

    fn repetition_penalty(&self) -> Result<f32> {
        Ok(self.penalty("repetition_penalty")?.unwrap_or(1.0) as f32)
    }

    fn shaping(&self) -> Result<Shaping> {
        let size = |key| self.least(key).map(|size| size.filter(|&size| size > 0));
        let min_new_tokens = self.least("min_new_tokens")?;
        let mut forced_bos = self.id("forced_bos_token_id")?;
        if self.flag("force_bos_token_to_be_generated") && self.file != FILE {
            forced_bos = forced_bos.or(self.id("bos_token_id")?);
        }
        let shaping = Shaping {
            sequence_bias: self.sequence_bias()?,
            prompt_boost: self.penalty("encoder_repetition_penalty")?.filter(|&penalty| penalty != 1.0),
            no_repeat: size("no_repeat_ngram_size")?,
            no_repeat_of_prompt: size("encoder_no_repeat_ngram_size")?,
            bad_words: self.bad_words()?,
            // A minimum of the new tokens takes the place of one of all.
            min_length: if min_new_tokens.is_some() { 0 } else { self.least("min_length")?.unwrap_or(0) },
            min_new_tokens: min_new_tokens.unwrap_or(0),
            forced_bos,
            forced_eos: self.ids("forced_eos_token_id")?,
            end_growth: self.end_growth()?,
            suppress: self.tokens("suppress_tokens")?,
            begin_suppress: self.tokens("begin_suppress_tokens")?,
            // `generate()` has no such penalties.
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        };
        match self.vocabulary.and_then(|size| Some((size, shaping.beyond(size)?))) {
            Some((size, (key, _))) => Err(self.wrong(key, &format!("ids below {size}, the vocabulary's size"))),
            None => Ok(shaping),
        }
    }

    fn stop(&self) -> Result<Vec<String>> {
        let wrong = || self.wrong("stop_strings", "a text or a list of texts, none of them empty");
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(wrong);
        match self.settings.get("stop_strings") {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(text).collect(),
            Some(one) => Ok(vec![text(one)?]),
        }
    }

    fn bad_words(&self) -> Result<Vec<Vec<u32>>> {
        let wrong = || self.wrong("bad_words_ids", "a list of lists of token ids, none of them empty");
        let list = |value: &Value| id_list(value).filter(|ids| !ids.is_empty()).ok_or_else(wrong);
        match self.settings.get("bad_words_ids") {
            None => Ok(Vec::new()),
            Some(Value::Array(words)) if !words.is_empty() => words.iter().map(list).collect(),
            Some(_) => Err(wrong()),
        }
    }

    fn sequence_bias(&self) -> Result<Vec<(Vec<u32>, f32)>> {
        let wrong = || self.wrong("sequence_bias", "a list of pairs of token ids and a number, as [[[5, 6], -1.5]]");
        let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
            Some([ids, bias]) => {
                let ids = id_list(ids).filter(|ids| !ids.is_empty());
                Some((ids?, bias.as_f64()? as f32))
            }
            _ => None,
        };
        let mut biases: Vec<(Vec<u32>, f32)> = Vec::new();
        match self.settings.get("sequence_bias") {
            None => {}
            Some(Value::Array(list)) if !list.is_empty() => {
                for value in list {
                    let (ids, bias) = pair(value).ok_or_else(wrong)?;
                    // The last of equals counts, as in a dictionary.
                    match biases.iter_mut().find(|(other, _)| *other == ids) {
                        Some(known) => known.1 = bias,
                        None => biases.push((ids, bias)),
                    }
                }
            }
            Some(_) => return Err(wrong()),
        }
        // One token's biases are summed in this order.
        biases.sort_by_key(|(ids, _)| ids.len());
        Ok(biases)
    }

    fn end_growth(&self) -> Result<Option<(usize, f64)>> {
        const KEY: &str = "exponential_decay_length_penalty";
        let Some(value) = self.settings.get(KEY) else {
            return Ok(None);
        };
        let pair = match value.as_array().map(Vec::as_slice) {
            Some([start, factor]) => count(start).zip(factor.as_f64().filter(|&factor| factor > 0.0)),
            _ => None,
        };
        pair.map(Some).ok_or_else(|| self.wrong(KEY, "a number of tokens and a factor above 0, as [10, 1.05]"))
    }

    fn penalty(&self, key: &str) -> Result<Option<f64>> {
        self.number(key, "above 0", |penalty| penalty > 0.0)
    }

    fn number(&self, key: &str, range: &str, holds: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(value) = self.settings.get(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|&number| holds(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &format!("a number {range}"))),
        }
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.settings.get(key) else {
            return Ok(None);
        };
        count(value).map(Some).ok_or_else(|| self.wrong(key, "a whole number, 0 or more"))
    }

    /// As [`count`](Self::count) for a minimum or a size: what is below 0 asks for nothing.
    fn least(&self, key: &str) -> Result<Option<usize>> {
        match self.settings.get(key).and_then(whole) {
            Some(number) if number < 0 => Ok(Some(0)),
            _ => self.count(key),
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(is_true)
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        match self.settings.get(key) {
            None => Ok(None),
            Some(value) => id(value).map(Some).ok_or_else(|| self.wrong(key, "a token id")),
        }
    }

    /// One id or a list of them. Numbers below 0 are no tokens.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let tokens = self.settings.get(key).map_or(Some(Vec::new()), tokens);
        tokens.ok_or_else(|| self.wrong(key, "a token id or a list of them"))
    }

    /// One id or a list of them.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        match self.settings.get(key) {
            None => Ok(Vec::new()),
            Some(value) => {
                let one = id(value).map(|id| vec![id]);
                one.or_else(|| id_list(value)).ok_or_else(|| self.wrong(key, "a token id or a list of them"))
            }
        }
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let value = self.settings.get(key).unwrap_or(&Value::Null);
        Error::Config {
            file: self.file.to_owned(),
            message: format!("{key} is {value}, expected {expected}; {REMEDY}"),
        }
    }
}

fn is_refused(key: &str, value: &Value) -> bool {
    REFUSED.iter().any(|&(name, off)| name == key && !off.fits(value))
}

/// Whether it means what a missing key does.
fn is_usual(key: &str, value: &Value) -> bool {
    match key {
        "do_sample" | "force_bos_token_to_be_generated" => !is_true(value),
        "stop_strings" | "suppress_tokens" | "begin_suppress_tokens" => value.as_array().is_some_and(Vec::is_empty),
        _ => USUAL.iter().any(|&(name, usual)| name == key && value.as_f64() == Some(usual)),
    }
}

/// Whether it is true to Python, which is what `generate()` asks: any number but 0 and any text but the empty one are,
/// "false" too.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        other => !is_empty(other),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn count(value: &Value) -> Option<usize> {
    usize::try_from(whole(value)?).ok()
}

fn id_list(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metadata::ends_of_files;

    fn defaults(settings: Value) -> GenerationDefaults {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), settings.to_string()).unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"repetition_penalty": 9.0}"#).unwrap();
        GenerationDefaults::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap()
    }

    fn request(settings: Value) -> GenerateRequest {
        defaults(settings).request().unwrap()
    }

    #[test]
    fn what_libraries_save_by_themselves_asks_for_nothing() {
        let saved = defaults(json!({
            "_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2, "output_attentions": false,
            "output_hidden_states": false, "pad_token_id": 3, "transformers_version": "5.23.0", "use_cache": true,
            "temperature": null, "num_beams": 1, "guidance_scale": 1.0, "cache_implementation": "dynamic"
        }));
        assert!(saved.is_empty());
        assert_eq!(saved.unknown().count(), 0);
        assert_eq!(saved.request().unwrap(), GenerateRequest::default());
    }

    #[test]
    fn sampling_needs_do_sample_and_then_has_the_librarys_top_k() {
        let cuts = json!({"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 2});
        let greedy = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(request(cuts.clone()).sampling, greedy);
        assert_eq!(defaults(cuts).sampled().unwrap().top_p, Some(0.9));
        let drawn = Sampling { temperature: 1.0, top_k: Some(50), ..Sampling::default() };
        assert_eq!(request(json!({"do_sample": true})).sampling, drawn);
        assert_eq!(request(json!({"do_sample": true, "top_k": 0})).sampling.top_k, None);
    }

    #[test]
    fn new_tokens_win_over_all_tokens() {
        let lengths = |value| {
            let request = request(value);
            (request.max_new_tokens, request.max_length, request.shaping.min_length, request.shaping.min_new_tokens)
        };
        assert_eq!(lengths(json!({"max_length": 9, "min_length": 5})), (usize::MAX, Some(9), 5, 0));
        let all = json!({"max_length": 9, "max_new_tokens": 7, "min_length": 5, "min_new_tokens": 2});
        assert_eq!(lengths(all), (7, None, 0, 2));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (key, value) in [
            ("num_beams", json!(4)),
            ("num_return_sequences", json!(2)),
            ("penalty_alpha", json!(0.6)),
            ("guidance_scale", json!(1.5)),
            ("dola_layers", json!("low")),
            ("max_time", json!(3.0)),
            ("token_healing", json!(true)),
            ("cache_implementation", json!("quantized")),
        ] {
            let defaults = defaults(json!({key: value}));
            assert!(!defaults.is_empty());
            let error = defaults.request().unwrap_err();
            assert!(GenerationDefaults::are_refused_by(&error), "{error}");
            let error = error.to_string();
            assert!([key, FILE, DO_WITHOUT].iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_errors_with_their_key() {
        for (key, value) in [
            ("repetition_penalty", json!("high")),
            ("repetition_penalty", json!(0.0)),
            ("max_new_tokens", json!(9.5)),
            ("max_length", json!(-1)),
            ("max_new_tokens", json!(0)),
            ("stop_strings", json!([""])),
            ("bad_words_ids", json!([])),
            ("sequence_bias", json!({"5": 1.0})),
            ("exponential_decay_length_penalty", json!([1])),
            ("suppress_tokens", json!([1, "x"])),
            ("eos_token_id", json!("</s>")),
            ("eos_token_id", json!([2, "</s>"])),
            ("eos_token_id", json!({"id": 2})),
        ] {
            let error = defaults(json!({key: value})).request().unwrap_err();
            assert!(matches!(&error, Error::Config { message, .. } if message.starts_with(key)), "{key}: {error}");
        }
    }

    // What transformers 5.23 does with each of these values: draws or not, and refuses or not.
    #[test]
    fn values_of_sampling_are_judged_only_where_tokens_are_drawn() {
        for (key, value) in [
            ("temperature", json!(0.0)),
            ("temperature", json!(0)),
            ("temperature", json!(-1.0)),
            ("temperature", json!("0.7")),
            ("top_k", json!(-1)),
            ("top_k", json!("5")),
            ("top_p", json!(-0.5)),
            ("top_p", json!("0.9")),
            ("min_p", json!(2.0)),
            ("typical_p", json!(0.0)),
            ("top_h", json!(0.0)),
            ("top_h", json!(1.5)),
        ] {
            assert_eq!(request(json!({key: value, "do_sample": false})), GenerateRequest::default(), "{key} {value}");
            assert_eq!(request(json!({key: value})), GenerateRequest::default(), "{key} {value}");
            let error = defaults(json!({key: value, "do_sample": true})).request().unwrap_err();
            assert!(matches!(&error, Error::Config { message, .. } if message.starts_with(key)), "{key}: {error}");
            assert!(defaults(json!({key: value})).sampled().is_err(), "{key} {value}");
        }
        let drawn = request(json!({"do_sample": true}));
        for (key, value) in [
            ("top_k", json!(50.0)),
            ("top_p", json!(1.5)),
            ("typical_p", json!(1.5)),
            ("epsilon_cutoff", json!(1.5)),
            ("epsilon_cutoff", json!(-1)),
            ("eta_cutoff", json!(2.0)),
            ("eta_cutoff", json!(-1)),
            ("temperature", json!(1)),
        ] {
            assert_eq!(request(json!({key: value, "do_sample": true})), drawn, "{key} {value}");
        }
    }

    // The values of `do_sample` with which transformers 5.23 draws, and those with which it does not.
    #[test]
    fn do_sample_is_what_is_true_to_python() {
        let draws = |value: Value| request(json!({"do_sample": value})).sampling.temperature > 0.0;
        for yes in
            [json!(true), json!(1), json!(1.0), json!(2), json!("true"), json!("false"), json!("yes"), json!([1])]
        {
            assert!(draws(yes.clone()), "{yes}");
        }
        for no in [json!(false), json!(0), json!(0.0), json!(""), json!([]), json!(null)] {
            assert!(!draws(no.clone()), "{no}");
        }
    }

    #[test]
    fn values_that_a_caller_replaces_do_not_count() {
        for (file, replaced) in [
            (json!({"temperature": 0.0, "do_sample": true}), &["temperature"][..]),
            (json!({"top_k": -1, "do_sample": true}), &["top_k"]),
            (json!({"top_k": -1, "do_sample": true}), &["do_sample"]),
            (json!({"repetition_penalty": 0}), &["repetition_penalty"]),
            (json!({"max_new_tokens": 0, "max_length": "x"}), &["max_new_tokens", "max_length"]),
            (json!({"stop_strings": [""]}), &["stop_strings"]),
            (json!({"eos_token_id": "</s>"}), &["eos_token_id"]),
        ] {
            let defaults = defaults(file.clone());
            assert!(defaults.request().is_err(), "{file}");
            assert!(defaults.without(replaced).request().is_ok(), "{file}");
        }
        let kept = defaults(json!({"top_p": 7, "no_repeat_ngram_size": 2})).without(&["top_p"]);
        assert_eq!(kept.settings().collect::<Vec<_>>(), [("no_repeat_ngram_size", &json!(2))]);
    }

    #[test]
    fn whole_numbers_may_be_floats_and_minima_below_zero_ask_for_nothing() {
        assert_eq!(request(json!({"max_length": 30.0})), request(json!({"max_length": 30})));
        let floats = json!({"max_new_tokens": 9.0, "no_repeat_ngram_size": 2.0, "forced_eos_token_id": [5.0]});
        let whole = json!({"max_new_tokens": 9, "no_repeat_ngram_size": 2, "forced_eos_token_id": [5]});
        assert_eq!(request(floats), request(whole));
        for key in ["min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"] {
            assert_eq!(request(json!({key: -1})), GenerateRequest::default(), "{key}");
        }
        assert_eq!(request(json!({"suppress_tokens": [-1], "cache_config": {}})), GenerateRequest::default());
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_errors_that_name_file_and_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"vocab_size": 426}"#).unwrap();
        let asked = |settings: Value| {
            std::fs::write(folder.path().join(FILE), settings.to_string()).unwrap();
            GenerationDefaults::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap().request()
        };
        for (key, value) in [
            ("forced_eos_token_id", json!(426)),
            ("forced_eos_token_id", json!([5, 99999])),
            ("forced_bos_token_id", json!(99999)),
            ("bad_words_ids", json!([[5, 99999]])),
            ("sequence_bias", json!([[[99999, 5], 1.0]])),
        ] {
            let error = asked(json!({key: value})).unwrap_err().to_string();
            assert!([key, FILE, "426"].iter().all(|word| error.contains(word)), "{error}");
        }
        // What is no token is not chosen anyway.
        assert!(
            asked(json!({"suppress_tokens": [99999], "begin_suppress_tokens": [426], "eos_token_id": 99999})).is_ok()
        );
        assert!(asked(json!({"forced_eos_token_id": 425})).is_ok());
    }

    #[test]
    fn a_file_that_spells_out_what_is_usual_has_nothing_to_tell() {
        let old = json!({
            "min_length": 0, "do_sample": false, "early_stopping": false, "num_beams": 1, "num_beam_groups": 1,
            "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
            "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0,
            "encoder_no_repeat_ngram_size": 0,
            "num_return_sequences": 1, "remove_invalid_values": false, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
            "encoder_repetition_penalty": 1.0, "token_healing": false, "suppress_tokens": [], "generation_kwargs": {}
        });
        let old = defaults(old);
        assert!(old.is_empty() && old.unknown().next().is_none());
        assert_eq!(old.settings_for(false).count(), 0);
        // Drawn unasked, it would have no such cut but for the file.
        assert_eq!(old.settings_for(true).collect::<Vec<_>>(), [("top_k", &json!(50))]);
        let limited = defaults(json!({"max_length": 20, "top_p": 0.5}));
        assert_eq!(limited.settings().count(), 2);
        assert_eq!(limited.settings_for(false).collect::<Vec<_>>(), [("max_length", &json!(20))]);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_how_to_do_without() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["junk", "", "[]", "null"] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let files = ModelFiles::folder(folder.path()).unwrap();
            for error in [GenerationDefaults::load(&files).unwrap_err(), ends_of_files(&files).unwrap_err()] {
                assert!(GenerationDefaults::are_refused_by(&error), "{error}");
                let error = error.to_string();
                assert!(error.contains(FILE) && error.contains(REMEDY), "{error}");
            }
        }
    }

    #[test]
    fn older_models_keep_settings_in_config_json() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            r#"{"repetition_penalty": 3.0, "min_length": null, "hidden_size": 8, "tie_word_embeddings": true}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let defaults = GenerationDefaults::load(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
        assert_eq!(defaults.file(), "config.json");
        assert_eq!(defaults.settings().collect::<Vec<_>>(), [("repetition_penalty", &json!(3.0))]);
        assert_eq!(defaults.request().unwrap().sampling.repetition_penalty, 3.0);
    }

    #[test]
    fn the_file_alone_says_what_ends_a_text() {
        let ends = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(FILE), text).unwrap();
            ends_of_files(&ModelFiles::folder(folder.path()).unwrap())
        };
        for (text, expected) in [
            (r#"{"eos_token_id": 7}"#, &[7][..]),
            (r#"{"eos_token_id": [9, 7, 7]}"#, &[7, 9]),
            (r#"{"eos_token_id": null}"#, &[]),
            (r#"{"eos_token_id": -1}"#, &[]),
            (r#"{"eos_token_id": [2.0, -1]}"#, &[2]),
            ("{}", &[]),
        ] {
            assert_eq!(ends(text).unwrap().as_deref(), Some(expected), "{text}");
        }
        for text in [r#"{"eos_token_id": "</s>"}"#, r#"{"eos_token_id": [2, null]}"#, r#"{"eos_token_id": true}"#] {
            let error = ends(text).unwrap_err().to_string();
            assert!(error.contains("eos_token_id is") && error.contains(REMEDY), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ends_of_files(&ModelFiles::folder(folder.path()).unwrap()).unwrap(), None);
    }

    #[test]
    fn unknown_keys_are_told() {
        assert_eq!(defaults(json!({"chat_format": "x", "top_p": 0.5})).unknown().collect::<Vec<_>>(), ["chat_format"]);
    }
}
