//! What a model's own files ask of a generation: `generation_config.json`, or the same keys of `config.json` where there is none.
//!
//! Names and meaning are those of `generate()` of transformers 5.23. Every key is obeyed, without effect on the text here
//! as there, or refused by its name.

use serde_json::{Map, Value};

use super::{GenerateRequest, Sampling, Shaping};
use crate::config::parse_object;
use crate::files::ModelFiles;
use crate::weights::FileSource;
use crate::{Error, Result};

const FILE: &str = "generation_config.json";

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
const REFUSED: [(&str, Off); 15] = [
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
    ("cache_config", Off::Null),
];

/// Keys without an effect on the text: other tokens than the ends, beams that are not used, the speed, what else is returned, guesses that
/// are checked, and what every file has.
const HARMLESS: [&str; 40] = [
    "_from_model_config",
    "_commit_hash",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
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

/// Which value of a key asks for nothing. Null always does.
#[derive(Debug, Clone, Copy)]
enum Off {
    /// None but null.
    Null,
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
            Off::False => value == &Value::Bool(false),
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
/// use ettin::generate::{GenerateRequest, GenerationDefaults};
///
/// let defaults = GenerationDefaults::load(&ModelFiles::folder("model")?)?;
/// let request = GenerateRequest { draft_tokens: 4, ..defaults.request()? };
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    file: &'static str,
    /// Without nulls, which ask for nothing.
    settings: Map<String, Value>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`, or where the model has none the keys of the same names in `config.json`, where older models
    /// keep them.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that is no JSON object; what reading files can meet.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let (file, mut settings) = match object(files, FILE)? {
            Some(settings) => (FILE, settings),
            None => {
                let mut config = object(files, "config.json")?.unwrap_or_default();
                // Other keys there are the model's.
                config.retain(|key, _| OBEYED.contains(&key.as_str()) || REFUSED.iter().any(|(name, _)| name == key));
                ("config.json", config)
            }
        };
        settings.retain(|_, value| !value.is_null());
        Ok(Self { file, settings })
    }

    /// The file that the settings are from.
    pub fn file(&self) -> &str {
        self.file
    }

    /// Whether there is nothing that a request would differ by.
    pub fn is_empty(&self) -> bool {
        self.settings().next().is_none()
    }

    /// Keys and values that have an effect here or in transformers.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Value)> {
        let settings = self.settings.iter().map(|(key, value)| (key.as_str(), value));
        settings.filter(|(key, value)| OBEYED.contains(key) || is_refused(key, value))
    }

    /// The value of a key; none where it is null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.settings.get(key)
    }

    /// Keys that neither this engine nor transformers knows.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let known = |key: &str| {
            OBEYED.contains(&key) || HARMLESS.contains(&key) || REFUSED.iter().any(|&(name, _)| name == key)
        };
        self.settings.keys().map(String::as_str).filter(move |key| !known(key))
    }

    /// The request that the files ask for; what they leave open is as in [`GenerateRequest::default`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a setting that is not implemented; [`Error::Config`] for a value out of range.
    pub fn request(&self) -> Result<GenerateRequest> {
        let refused: Vec<String> = self
            .settings
            .iter()
            .filter(|(key, value)| is_refused(key, value))
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        if !refused.is_empty() {
            return Err(Error::Unsupported(format!(
                "{} of {}; generate without its settings (--ignore-generation-config)",
                refused.join(", "),
                self.file
            )));
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
    /// [`Error::Config`] for a value out of range.
    pub fn sampled(&self) -> Result<Sampling> {
        let share = |key| self.number(key, "between 0 and 1", |p| (0.0..=1.0).contains(&p));
        let temperature = self.number("temperature", "above 0", |t| t > 0.0)?.unwrap_or(1.0);
        Ok(Sampling {
            temperature: temperature as f32,
            top_k: self.count("top_k")?.filter(|&k| k > 0),
            top_p: share("top_p")?.map(|p| p as f32),
            min_p: share("min_p")?.map(|p| p as f32),
            top_h: self.number("top_h", "above 0 and at most 1", |h| h > 0.0 && h <= 1.0)?.map(|h| h as f32),
            typical_p: self.number("typical_p", "above 0", |p| p > 0.0)?.filter(|&p| p < 1.0).map(|p| p as f32),
            epsilon_cutoff: share("epsilon_cutoff")?.filter(|&e| e < 1.0).map(|e| e as f32),
            eta_cutoff: share("eta_cutoff")?.filter(|&e| e < 1.0).map(|e| e as f32),
            repetition_penalty: self.penalty("repetition_penalty")?.unwrap_or(1.0) as f32,
            seed: None,
        })
    }

    fn sampling(&self) -> Result<Sampling> {
        let sampled = self.sampled()?;
        if self.flag("do_sample")? {
            let top_k = if self.settings.contains_key("top_k") { sampled.top_k } else { Some(TOP_K) };
            return Ok(Sampling { top_k, ..sampled });
        }
        Ok(Sampling { repetition_penalty: sampled.repetition_penalty, ..Sampling::default() })
    }

    fn shaping(&self) -> Result<Shaping> {
        let size = |key| self.count(key).map(|size| size.filter(|&size| size > 0));
        let min_new_tokens = self.count("min_new_tokens")?;
        let mut forced_bos = self.id("forced_bos_token_id")?;
        if self.flag("force_bos_token_to_be_generated")? && self.file != FILE {
            forced_bos = forced_bos.or(self.id("bos_token_id")?);
        }
        Ok(Shaping {
            sequence_bias: self.sequence_bias()?,
            prompt_boost: self.penalty("encoder_repetition_penalty")?.filter(|&penalty| penalty != 1.0),
            no_repeat: size("no_repeat_ngram_size")?,
            no_repeat_of_prompt: size("encoder_no_repeat_ngram_size")?,
            bad_words: self.bad_words()?,
            // A minimum of the new tokens takes the place of one of all.
            min_length: if min_new_tokens.is_some() { 0 } else { self.count("min_length")?.unwrap_or(0) },
            min_new_tokens: min_new_tokens.unwrap_or(0),
            forced_bos,
            forced_eos: self.ids("forced_eos_token_id")?,
            end_growth: self.end_growth()?,
            suppress: self.ids("suppress_tokens")?,
            begin_suppress: self.ids("begin_suppress_tokens")?,
        })
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

    fn flag(&self, key: &str) -> Result<bool> {
        match self.settings.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        match self.settings.get(key) {
            None => Ok(None),
            Some(value) => id(value).map(Some).ok_or_else(|| self.wrong(key, "a token id")),
        }
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
            message: format!(
                "{key} is {value}, expected {expected}; correct it, or generate without the file's settings \
                 (--ignore-generation-config)"
            ),
        }
    }
}

/// The tokens that end a text by `generation_config.json`, where the model has that file: none where it names none. Ids that are no
/// tokens (−1 in some files) end nothing.
pub(crate) fn ends_of_files(files: &dyn FileSource) -> Result<Option<Vec<u32>>> {
    let Some(settings) = object(files, FILE)? else {
        return Ok(None);
    };
    let listed = match settings.get("eos_token_id") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(list)) => list,
        Some(one) => std::slice::from_ref(one),
    };
    if let Some(wrong) = listed.iter().find(|value| !value.is_i64() && !value.is_u64()) {
        return Err(Error::Config {
            file: FILE.to_owned(),
            message: format!("eos_token_id holds {wrong}, expected a token id, a list of them, or null"),
        });
    }
    let mut ends: Vec<u32> = listed.iter().filter_map(id).collect();
    ends.sort_unstable();
    ends.dedup();
    Ok(Some(ends))
}

fn is_refused(key: &str, value: &Value) -> bool {
    REFUSED.iter().any(|&(name, off)| name == key && !off.fits(value))
}

fn object(files: &dyn FileSource, file: &str) -> Result<Option<Map<String, Value>>> {
    files.get(file)?.map(|bytes| parse_object(&bytes, file)).transpose()
}

fn count(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn id_list(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
            let error = defaults.request().unwrap_err().to_string();
            assert!([key, FILE, "--ignore-generation-config"].iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_errors_with_their_key() {
        for (key, value) in [
            ("temperature", json!(0.0)),
            ("top_p", json!(1.5)),
            ("top_k", json!(-1)),
            ("repetition_penalty", json!("high")),
            ("max_new_tokens", json!(0)),
            ("stop_strings", json!([""])),
            ("bad_words_ids", json!([])),
            ("sequence_bias", json!({"5": 1.0})),
            ("exponential_decay_length_penalty", json!([1])),
            ("suppress_tokens", json!([-1])),
            ("do_sample", json!("yes")),
        ] {
            let error = defaults(json!({key: value})).request().unwrap_err();
            assert!(matches!(&error, Error::Config { message, .. } if message.starts_with(key)), "{key}: {error}");
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
            ("{}", &[]),
        ] {
            assert_eq!(ends(text).unwrap().as_deref(), Some(expected), "{text}");
        }
        assert!(ends(r#"{"eos_token_id": "</s>"}"#).unwrap_err().to_string().contains("</s>"));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ends_of_files(&ModelFiles::folder(folder.path()).unwrap()).unwrap(), None);
    }

    #[test]
    fn unknown_keys_are_told() {
        assert_eq!(defaults(json!({"chat_format": "x", "top_p": 0.5})).unknown().collect::<Vec<_>>(), ["chat_format"]);
    }
}
