//! What a task needs of a model: loading it, or saying what the model is and what fits it.

use super::limit::Bounds;
use super::{Options, Preprocessor};
use crate::files::ModelFiles;
use crate::heads::{Reported, TaskHead};
use crate::metadata::MODULES;
use crate::sentence_transformers::{ModelType, RouteChain, Routes, Task, Transformer};
use crate::tokenizer::Tokenizer;
use crate::{Backend, Config, Error, Objective, Result, identity};

/// What a task needs of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskSpec {
    /// The task's name in messages.
    pub(super) task: &'static str,
    /// The objective that it needs, if only one serves.
    pub(super) objective: Option<Objective>,
}

impl TaskSpec {
    /// Loads the task's model, and its preprocessor within `bounds`.
    pub(super) fn load<T: TaskHead>(
        self,
        files: &ModelFiles,
        options: &Options,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<T>,
        bounds: impl FnOnce(&ModelFiles, &Config) -> Result<Bounds>,
    ) -> Result<(T, Preprocessor)> {
        let (model, tokenizer) = self.load_parts(files, options, load)?;
        let bounds = bounds(files, model.trunk().config())?;
        Ok((model, Preprocessor::within(bounds, tokenizer, options)))
    }

    /// The same for a repository of sentence-transformers and texts on no side of a search.
    pub(super) fn load_repository<T: TaskHead>(
        self,
        files: &ModelFiles,
        options: &Options,
        transformer: &Transformer,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<T>,
    ) -> Result<(T, Preprocessor)> {
        let (model, tokenizer) = self.load_parts(files, options, load)?;
        let preprocessor = of_repository(files, tokenizer, options, transformer, model.trunk().config())?;
        Ok((model, preprocessor))
    }

    /// Loads the task's model and its tokenizer, or says what the model is and what fits it. The tokenizer is read
    /// meanwhile: alone, it would take longer than the weights of a small model.
    pub(super) fn load_parts<T: Reported>(
        self,
        files: &ModelFiles,
        options: &Options,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<T>,
    ) -> Result<(T, Tokenizer)> {
        self.load_with(files, options, load, || Tokenizer::load(files))
    }

    /// The same with what reads the tokenizer.
    pub(super) fn load_with<T: Reported, K: Send>(
        self,
        files: &ModelFiles,
        options: &Options,
        load: impl FnOnce(&ModelFiles, &Backend) -> Result<T>,
        tokenizer: impl FnOnce() -> Result<K> + Send,
    ) -> Result<(T, K)> {
        std::thread::scope(|scope| {
            let tokenizer = scope.spawn(tokenizer);
            let model = self.load_model(files, options, load)?;
            let noticed = model.reports().into_iter().flat_map(|report| report.sentences());
            for sentence in noticed.chain(identity::code_left_out(files)?) {
                options.notices.tell(&format!("{}: {sentence}", files.name()));
            }
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
            // Beside vectors that are looked up, it may be of any kind of model.
            Err(_) if self.runs_chains() && looks_up_at_the_top(files) => None,
            config => Some(config.map_err(|error| identity::explained(files, error))?),
        };
        if let Some(config) = &config {
            self.check(files, config)?;
        }
        load(files, &options.backend()?).map_err(|error| match (error, config) {
            (Error::Tensors { file, message }, Some(config)) => Error::Tensors {
                file,
                message: match self.chain_hint(files).or_else(|| self.hint(&config)) {
                    Some(hint) => format!("{message}; {hint}"),
                    None => message,
                },
            },
            // A trunk that lies in a folder of its own belongs to its chain.
            (error @ Error::MissingFile { .. }, None) => match self.chain_hint(files) {
                Some(hint) => Error::Unsupported(format!("{} with {}: {hint}", self.task, files.name())),
                None => error,
            },
            (error, _) => error,
        })
    }

    /// Whether it takes chains for what they are.
    fn runs_chains(self) -> bool {
        ["embed", "rerank"].contains(&self.task)
    }

    /// What fits a chain of sentence-transformers, where this task does not run it as one: its `config.json` says
    /// nothing of it.
    fn chain_hint(self, files: &ModelFiles) -> Option<String> {
        if self.runs_chains() {
            return None;
        }
        let routes = Routes::load(files).ok().flatten()?;
        let Some(repository) = routes.trunk() else {
            return Some(format!(
                "modules.json describes static embeddings, which fit embed and similarity, not {}",
                self.task
            ));
        };
        let scores = repository.scores(files).ok().flatten();
        match (repository.transformer.task, scores) {
            (Task::SequenceClassification, _) => None,
            (_, Some(scores)) => Some(format!("modules.json describes {}", of_scores(scores))),
            _ if repository.settings.model_type == Some(ModelType::SparseEncoder) => Some(format!(
                "modules.json describes an encoder of sparse vectors, which fits embed, similarity and rerank, not {}",
                self.task
            )),
            (_, None) if repository.settings.model_type == Some(ModelType::CrossEncoder) => None,
            (_, None) => {
                Some(format!("modules.json describes an embedder, which fits embed and similarity, not {}", self.task))
            }
        }
    }

    fn check(self, files: &ModelFiles, config: &Config) -> Result<()> {
        let name = files.name();
        // Their heads have tensors of the same names, so that each could be computed as another. A chain takes the
        // trunk alone.
        const LABELLED: [&str; 4] =
            ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"];
        if config.architecture().is_some_and(|class| LABELLED.iter().any(|end| class.ends_with(end)))
            && let Some(hint) = self.hint(config)
            && files.peek(MODULES)?.is_none()
        {
            identity::check(files, identity::Use::Head)?;
            return Err(Error::Unsupported(format!("{} with {name}: {hint}", self.task)));
        }
        match self.objective {
            Some(objective) if objective != config.objective => Err(Error::Unsupported(format!(
                "{} needs {}, and {name} is {}; {}",
                self.task,
                described(objective),
                described(config.objective),
                match (self.chain_hint(files), config.objective) {
                    (Some(hint), _) => hint,
                    (None, Objective::Encoder) => "try fill-mask, embed or score".to_owned(),
                    (None, Objective::Decoder) => "try generate, embed or score".to_owned(),
                },
            ))),
            _ => Ok(()),
        }
    }

    /// What a model of another class is for.
    fn hint(self, config: &Config) -> Option<String> {
        let (class, fits) = (config.architecture()?, fitting(config));
        (!fits.contains(&self.task))
            .then(|| format!("the model is a {class}, which fits {}, not {}", fits.join(", "), self.task))
    }
}

/// Whether a chain begins with vectors that are looked up in a table at the top of the model.
fn looks_up_at_the_top(files: &ModelFiles) -> bool {
    let routes = Routes::load(files).ok().flatten();
    let at_top = |chain: &RouteChain| chain.folder().is_empty() && chain.trunk().is_none();
    routes.is_some_and(|routes| routes.chains.iter().any(at_top))
}

/// The tasks that fit the class of transformers that a configuration names; none where it names none.
pub(super) fn fitting(config: &Config) -> &'static [&'static str] {
    const FITS: [(&str, &[&str]); 6] = [
        ("ForMaskedLM", &["fill-mask", "embed", "score"]),
        ("ForCausalLM", &["generate", "embed", "score"]),
        ("ForSequenceClassification", &["classify", "rerank", "embed"]),
        ("ForTokenClassification", &["tag", "embed"]),
        ("ForQuestionAnswering", &["answer", "embed"]),
        ("ForMultipleChoice", &["choose", "embed"]),
    ];
    let Some(class) = config.architecture() else {
        return &[];
    };
    FITS.iter().find(|(end, _)| class.ends_with(end)).map_or(&["embed"], |(_, tasks)| tasks)
}

/// The preprocessor of a repository of sentence-transformers, for texts on no side of a search.
pub(super) fn of_repository(
    files: &ModelFiles,
    tokenizer: Tokenizer,
    options: &Options,
    transformer: &Transformer,
    config: &Config,
) -> Result<Preprocessor> {
    let bounds = Bounds::sentence_transformers(files, transformer, config, None)?;
    let tokenizer = transformer.tokenizer(tokenizer)?;
    Ok(Preprocessor::within(bounds, tokenizer, options).with_special_tokens(transformer.special_tokens))
}

/// A cross-encoder whose modules give so many scores for a pair of texts, and what fits it.
pub(super) fn of_scores(scores: usize) -> String {
    match scores {
        1 => "a reranker with one score per pair, which fits rerank".to_owned(),
        _ => format!("a cross-encoder with {scores} scores per pair, which fits classify"),
    }
}

fn described(objective: Objective) -> &'static str {
    match objective {
        Objective::Encoder => "an encoder (masked language model)",
        Objective::Decoder => "a decoder (causal language model)",
    }
}
