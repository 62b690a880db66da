//! `sentence_bert_config.json`: how the first module turns text into tokens, and what it takes from the trunk.

use super::keys::{count, join, object, only};
use super::late_interaction::Expansion;
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::{CONFIG, SENTENCE_BERT};
use crate::named::Named;
use crate::tokenizer::{Side, Tokenizer};
use crate::{Error, Result};

/// The file's names: all but the first are of version 0 of the library, and looked for in this order by 6.2 as well.
const FILES: [&str; 7] = [
    SENTENCE_BERT,
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// No limit is higher; the library has none that is.
const MAX_LENGTH: usize = 1 << 30;

/// The longest text where none is cut; the library knows no bound. Eight times the positions of the published models:
/// some backends make tables of all positions that are allowed.
const LONGEST_UNCUT: usize = 1 << 16;

/// What the trunk's weights are loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Hidden states, for the modules that follow.
    FeatureExtraction,
    /// A classifier of its own, whose logits are the scores.
    SequenceClassification,
    /// The masked language model's scores over the vocabulary, at every token.
    FillMask,
    /// The causal language model's scores over the vocabulary, at the last token.
    TextGeneration,
}

impl Task {
    /// Whether the prediction head and the output matrix are needed.
    pub(crate) fn scores_vocabulary(self) -> bool {
        matches!(self, Task::FillMask | Task::TextGeneration)
    }
}

impl Named for Task {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Task::FeatureExtraction, "feature-extraction"),
        (Task::SequenceClassification, "sequence-classification"),
        (Task::FillMask, "fill-mask"),
        (Task::TextGeneration, "text-generation"),
    ];
}

/// Which side of a search a text is on: `encode_query` and `encode_document` of sentence-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchSide {
    /// What is looked for.
    Query,
    /// What is looked through.
    Document,
}

impl SearchSide {
    /// The name of its prompt and of its route.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SearchSide::Query => "query",
            SearchSide::Document => "document",
        }
    }
}

/// The first module.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    /// Where its files are; not the top of the repository only in old saves.
    pub(crate) folder: String,
    pub(crate) task: Task,
    /// `max_seq_length`, as versions before 5.4 wrote it.
    pub(crate) max_seq_length: Option<usize>,
    /// `model_max_length` given to the tokenizer when it is loaded; wins over the former.
    pub(crate) model_max_length: Option<usize>,
    /// `truncation_side` given to the tokenizer when it is loaded.
    pub(crate) truncation_side: Option<Side>,
    /// Limits of one side of a search.
    pub(crate) query_length: Option<usize>,
    pub(crate) document_length: Option<usize>,
    /// `max_length` of `processing_kwargs`, which wins over every other limit.
    pub(crate) max_length: Option<usize>,
    /// Whether a longer text is cut at all.
    pub(crate) truncates: bool,
    /// Whether `[CLS]` and `[SEP]` are put around a text.
    pub(crate) special_tokens: bool,
    /// `do_lower_case`: whether texts are brought to lower case before the tokenizer's own normaliser sees them.
    lower_case: bool,
    /// `output_hidden_states` given to the configuration when it is loaded.
    output_hidden_states: Option<bool>,
    /// How queries are made longer: of late interaction alone.
    pub(crate) expansion: Option<Expansion>,
}

impl Transformer {
    /// Reads the module in `folder`, of the task `default` where its file names none.
    pub(super) fn load(files: &dyn FileSource, folder: &str, default: Task) -> Result<Self> {
        let transformer = Self::load_with_expansion(files, folder, default)?;
        match transformer.expansion {
            None => Ok(transformer),
            Some(_) => Err(Error::Unsupported(format!(
                "`query_expansion` of {} in a model that is not one of late interaction",
                join(folder, FILES[0])
            ))),
        }
    }

    /// The same of a late-interaction model, whose queries may be expanded.
    pub(super) fn load_with_expansion(files: &dyn FileSource, folder: &str, default: Task) -> Result<Self> {
        let mut file = join(folder, FILES[0]);
        let mut map = object(files, &file)?;
        for name in &FILES[1..] {
            // The library takes the next where a file is missing or says nothing.
            if map.is_empty() {
                file = join(folder, name);
                map = object(files, &file)?;
            }
        }
        let keys = Keys::new(&map, &file);
        only(
            &keys,
            &[
                "max_seq_length",
                "do_lower_case",
                "transformer_task",
                "modality_config",
                "module_output_name",
                "processing_kwargs",
                "unpad_inputs",
                "query_length",
                "document_length",
                "query_expansion",
                "model_args",
                "model_kwargs",
                "tokenizer_args",
                "processor_kwargs",
                "config_args",
                "config_kwargs",
            ],
        )?;
        // Whether batches are padded: they never are here.
        keys.flag("unpad_inputs", false)?;
        let task = task(&keys, default)?;
        modalities(&keys, task)?;
        for key in ["model_args", "model_kwargs"] {
            loading(&keys, key, &MODEL_ARGUMENTS)?;
        }
        let mut output_hidden_states = None;
        for key in ["config_args", "config_kwargs"] {
            if let Some(arguments) = loading(&keys, key, &CONFIG_ARGUMENTS)?
                && arguments.get("output_hidden_states").is_some()
            {
                output_hidden_states = Some(arguments.flag("output_hidden_states", false)?);
            }
        }
        let mut transformer = Self {
            folder: folder.to_owned(),
            task,
            max_seq_length: count(&keys, "max_seq_length", MAX_LENGTH)?,
            model_max_length: None,
            truncation_side: None,
            query_length: count(&keys, "query_length", MAX_LENGTH)?,
            document_length: count(&keys, "document_length", MAX_LENGTH)?,
            max_length: None,
            truncates: true,
            special_tokens: true,
            lower_case: keys.flag("do_lower_case", false)?,
            output_hidden_states,
            expansion: keys.object("query_expansion")?.map(|keys| expansion(&keys)).transpose()?,
        };
        // The older key is renamed to the newer one, and so wins where both are there.
        for key in ["processor_kwargs", "tokenizer_args"] {
            if let Some(arguments) = loading(&keys, key, &TOKENIZER_ARGUMENTS)? {
                transformer.tokenizer_arguments(&arguments)?;
            }
        }
        if let Some(kwargs) = keys.object("processing_kwargs")? {
            transformer.processing_kwargs(&kwargs)?;
        }
        Ok(transformer)
    }

    fn tokenizer_arguments(&mut self, arguments: &Keys<'_>) -> Result<()> {
        self.model_max_length = count(arguments, "model_max_length", MAX_LENGTH)?;
        self.truncation_side = Side::read(arguments, "truncation_side")?;
        Ok(())
    }

    /// Arguments of the call that tokenizes; those for every modality win over those for text.
    fn processing_kwargs(&mut self, kwargs: &Keys<'_>) -> Result<()> {
        // The others are for inputs that this engine does not take.
        only(kwargs, &["common", "text", "audio", "image", "video", "chat_template"])?;
        for key in ["text", "common"] {
            let Some(arguments) = kwargs.object(key)? else {
                continue;
            };
            only(
                &arguments,
                &[
                    "max_length",
                    "truncation",
                    "add_special_tokens",
                    // What the numbers of a text do not depend on.
                    "padding",
                    "padding_side",
                    "pad_to_multiple_of",
                    "return_tensors",
                    "return_token_type_ids",
                    "return_length",
                    "return_offsets_mapping",
                    "return_special_tokens_mask",
                    "verbose",
                    // Of causal language models alone.
                    "logits_to_keep",
                ],
            )?;
            if let Some(length) = count(&arguments, "max_length", MAX_LENGTH)? {
                self.max_length = Some(length);
            }
            if arguments.get("add_special_tokens").is_some() {
                self.special_tokens = arguments.flag("add_special_tokens", true)?;
            }
            match arguments.get("truncation") {
                None => {}
                Some(value) => {
                    self.truncates = match (value.as_bool(), value.as_str()) {
                        (Some(truncates), _) => truncates,
                        (_, Some("longest_first")) => true,
                        (_, Some("do_not_truncate")) => false,
                        _ => {
                            let rule = "supported: true, false, \"longest_first\", \"do_not_truncate\"";
                            return Err(arguments.refuse("truncation", rule));
                        }
                    };
                }
            }
        }
        Ok(())
    }

    /// The first module where there is no file of it, over a trunk at the top of the repository.
    pub(crate) fn plain(task: Task) -> Self {
        Self {
            folder: String::new(),
            task,
            max_seq_length: None,
            model_max_length: None,
            truncation_side: None,
            query_length: None,
            document_length: None,
            max_length: None,
            truncates: true,
            special_tokens: true,
            lower_case: false,
            output_hidden_states: None,
            expansion: None,
        }
    }

    /// The model's tokenizer as the module uses it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where its tokens cannot be normalised.
    pub(crate) fn tokenizer(&self, tokenizer: Tokenizer) -> Result<Tokenizer> {
        if self.lower_case { tokenizer.lower_cased() } else { Ok(tokenizer) }
    }

    /// Whether modules may read the hidden states behind every layer.
    pub(crate) fn shows_layers(&self, files: &dyn FileSource) -> Result<bool> {
        if let Some(shown) = self.output_hidden_states {
            return Ok(shown);
        }
        let file = join(&self.folder, CONFIG);
        Keys::new(&object(files, &file)?, &file).flag("output_hidden_states", false)
    }

    /// The longest text that these settings let through whole, where they set a limit themselves or say that none is
    /// cut: the library then hands on texts of any length, over the model's positions as well.
    pub(crate) fn longest(&self) -> Option<usize> {
        if !self.truncates {
            return Some(LONGEST_UNCUT);
        }
        let base = self.model_max_length.or(self.max_seq_length);
        [base, self.query_length, self.document_length, self.max_length].into_iter().flatten().max()
    }
}

/// `query_expansion`.
fn expansion(keys: &Keys<'_>) -> Result<Expansion> {
    only(keys, &["strategy", "attend", "token", "length"])?;
    let cuts = match keys.text("strategy")? {
        Some("fixed") => true,
        Some("min") => false,
        _ => return Err(keys.refuse("strategy", "supported: \"fixed\", \"min\"")),
    };
    let length = count(keys, "length", LONGEST_UNCUT)?
        .ok_or_else(|| keys.refuse("length", "the number of tokens with the expansion is expected"))?;
    let token = keys.text("token")?.map(str::to_owned);
    Ok(Expansion { length, cuts, attended: keys.flag("attend", false)?, token })
}

/// Arguments of `AutoModel.from_pretrained` that change no number in f32, or are about how the library computes.
const MODEL_ARGUMENTS: [&str; 10] = [
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "trust_remote_code",
    "device_map",
    "low_cpu_mem_usage",
    "use_safetensors",
    "add_pooling_layer",
    "token",
    "local_files_only",
];

/// Those of `AutoConfig.from_pretrained`.
const CONFIG_ARGUMENTS: [&str; 7] = [
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "trust_remote_code",
    "use_cache",
    "local_files_only",
    // Obeyed.
    "output_hidden_states",
];

/// Those of `AutoTokenizer.from_pretrained`; the first two are obeyed.
const TOKENIZER_ARGUMENTS: [&str; 8] = [
    "model_max_length",
    "truncation_side",
    "padding_side",
    "use_fast",
    "clean_up_tokenization_spaces",
    "trust_remote_code",
    "token",
    "local_files_only",
];

/// Arguments of loading, none of them unknown.
fn loading<'a>(keys: &Keys<'a>, key: &str, known: &[&str]) -> Result<Option<Keys<'a>>> {
    let Some(arguments) = keys.object(key)? else {
        return Ok(None);
    };
    only(&arguments, known)?;
    Ok(Some(arguments))
}

fn task(keys: &Keys<'_>, default: Task) -> Result<Task> {
    let Some(name) = keys.text("transformer_task")? else {
        return Ok(default);
    };
    let unknown = || Error::Unsupported(format!("the transformer_task {name:?} of {}", FILES[0]));
    Task::of_name(name).ok_or_else(unknown)
}

/// What text goes through: `forward` and its usual output, under its usual name.
fn modalities(keys: &Keys<'_>, task: Task) -> Result<()> {
    let (output, name) = match task {
        Task::FeatureExtraction => ("last_hidden_state", "token_embeddings"),
        Task::SequenceClassification => ("logits", "scores"),
        Task::FillMask => ("logits", "token_embeddings"),
        Task::TextGeneration => ("logits", "causal_logits"),
    };
    if keys.text("module_output_name")?.is_some_and(|given| given != name) {
        return Err(keys.refuse("module_output_name", format_args!("supported: {name:?}")));
    }
    let Some(modalities) = keys.object("modality_config")? else {
        return Ok(());
    };
    if modalities.get("message").is_some() {
        return Err(modalities.refuse("message", "texts put through a chat template are not supported"));
    }
    let Some(text) = modalities.object("text")? else {
        return Err(keys.refuse("modality_config", "it has no \"text\", which is all that this engine reads"));
    };
    only(&text, &["method", "method_output_name"])?;
    if text.text("method")?.is_some_and(|method| method != "forward") {
        return Err(text.refuse("method", "supported: \"forward\""));
    }
    if text.get("method_output_name").is_some_and(|given| given.as_str() != Some(output)) {
        return Err(text.refuse("method_output_name", format_args!("supported: {output:?}")));
    }
    Ok(())
}
