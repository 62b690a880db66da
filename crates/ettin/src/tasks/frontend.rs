//! What every task does before and after its model: encode under the length limit, pack, explain failures.

use super::batching::{Item, encode_all, run_encodings};
use super::{Options, Outcomes, TextInput};
use crate::files::ModelFiles;
use crate::tokenizer::{Encoding, Limit, Tokenizer};
use crate::{Backend, Config, Error, Objective, PackedBatch, Result};

/// A tokenizer with the limits of a task.
#[derive(Debug)]
pub(super) struct Frontend {
    pub(super) tokenizer: Tokenizer,
    pub(super) limit: Limit,
    pub(super) batch_tokens: usize,
}

impl Frontend {
    /// `max_seq_length` is a limit of the model's files beside its positions.
    pub(super) fn new(tokenizer: Tokenizer, options: &Options, config: &Config, max_seq_length: Option<usize>) -> Self {
        let limits = [max_seq_length, options.max_length];
        let tokens = limits.into_iter().flatten().fold(config.max_position_embeddings, usize::min);
        let limit = Limit { tokens, truncate: options.truncate };
        Self { tokenizer, limit, batch_tokens: options.batch_tokens }
    }

    pub(super) fn encode(&self, input: TextInput<'_>) -> Result<Encoding> {
        self.tokenizer.encode_within(input.text, input.pair, self.limit)
    }

    /// Encodes and computes inputs of one sequence each; see [`run_encodings`].
    pub(super) fn run<I: Sync, T>(
        &self,
        inputs: &[I],
        encode: impl Fn(&I) -> Result<Encoding> + Sync + Send,
        compute: impl FnMut(&PackedBatch, &[Item<'_>]) -> Result<Vec<Result<T>>>,
    ) -> Result<Outcomes<T>> {
        run_encodings(encode_all(inputs, encode), self.batch_tokens, compute)
    }
}

/// What a task needs of a model, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// The task's name on the command line.
    pub(super) task: &'static str,
    /// The objective that it needs, if only one serves.
    pub(super) objective: Option<Objective>,
}

impl Need {
    /// Loads the task's model and its tokenizer, or says what the model is and what fits it. The tokenizer is read meanwhile:
    /// alone, it would take longer than the weights of a small model.
    pub(super) fn load<T>(
        self,
        files: &ModelFiles,
        options: &Options,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<T>,
    ) -> Result<(T, Tokenizer)> {
        std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::load(files));
            let model = self.load_model(files, options, load)?;
            Ok((model, tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?))
        })
    }

    fn load_model<T>(
        self,
        files: &ModelFiles,
        options: &Options,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<T>,
    ) -> Result<T> {
        // An embedder's configuration may lie in a folder of its own; the head then reports what is wrong.
        let config = match Config::load(files) {
            Err(Error::MissingFile { .. }) => None,
            config => Some(config?),
        };
        if let Some(config) = &config {
            self.check(files.name(), config)?;
        }
        let mut backend = Backend::new(&options.device, options.dtype)?;
        if let Some(kv) = options.kv_dtype {
            backend = backend.with_kv(kv)?;
        }
        load(files, &backend).map_err(|error| match (error, config) {
            (Error::Tensors { file, message }, Some(config)) => Error::Tensors {
                file,
                message: match self.hint(&config) {
                    Some(hint) => format!("{message}; {hint}"),
                    None => message,
                },
            },
            (error, _) => error,
        })
    }

    fn check(self, name: &str, config: &Config) -> Result<()> {
        if let Some(class) = config.architecture().filter(|class| class.ends_with("ForMultipleChoice")) {
            return Err(Error::Unsupported(format!("multiple choice: {name} is a {class}")));
        }
        match self.objective {
            Some(objective) if objective != config.objective => Err(Error::Unsupported(format!(
                "{} needs {}, and {name} is {}; {}",
                self.task,
                described(objective),
                described(config.objective),
                match config.objective {
                    Objective::Encoder => "try fill-mask, embed or score",
                    Objective::Decoder => "try generate, embed or score",
                },
            ))),
            _ => Ok(()),
        }
    }

    /// What a model of another class is for.
    fn hint(self, config: &Config) -> Option<String> {
        const FITS: [(&str, &[&str]); 5] = [
            ("ForMaskedLM", &["fill-mask", "embed", "score"]),
            ("ForCausalLM", &["generate", "embed", "score"]),
            ("ForSequenceClassification", &["classify", "rerank", "embed"]),
            ("ForTokenClassification", &["tag", "embed"]),
            ("ForQuestionAnswering", &["answer", "embed"]),
        ];
        let class = config.architecture()?;
        let fits = FITS.iter().find(|(end, _)| class.ends_with(end)).map_or(&["embed"][..], |(_, tasks)| tasks);
        (!fits.contains(&self.task))
            .then(|| format!("the model is a {class}, which fits {}, not {}", fits.join(", "), self.task))
    }
}

fn described(objective: Objective) -> &'static str {
    match objective {
        Objective::Encoder => "an encoder (masked language model)",
        Objective::Decoder => "a decoder (causal language model)",
    }
}
