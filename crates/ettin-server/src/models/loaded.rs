//! One model, ready to answer.

use std::sync::Arc;
use std::time::SystemTime;

use ettin::files::ModelFiles;
use ettin::heads::Embedder;
use ettin::tasks::{
    Answerer, Classifier, FillMask, Generator, MultiVectorEncoder, Options, Preprocessor, Profile, Reranker, Scorer,
    Tagger, TextEmbedder, Truncate, ZeroShotClassifier,
};
use ettin::tokenizer::Tokenizer;
use ettin::{Backend, Config, Error};

use super::{Abilities, Ability};
use crate::error::{ErrorKind, ServeError};
use crate::scheduler::{Admission, DecoderQueue, DecoderSettings, EncoderQueue, EncoderSettings, Turn};

/// How models are loaded and run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelSettings {
    /// The options of every task.
    pub options: Options,
    /// How batches are formed.
    pub encoder: EncoderSettings,
    /// How streams run.
    pub decoder: DecoderSettings,
    /// The most tokens that may wait for a model's sequences, and as many again for its streams.
    pub max_queue_tokens: usize,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            options: Options::default(),
            encoder: EncoderSettings::default(),
            decoder: DecoderSettings::default(),
            max_queue_tokens: 1 << 18,
        }
    }
}

/// The tasks of a model. They share weights and tokenizer where one file holds what both need.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ModelTasks {
    /// Vectors, dense or sparse.
    pub embed: Option<Arc<TextEmbedder>>,
    /// Vectors of tokens.
    pub multi_vector: Option<Arc<MultiVectorEncoder>>,
    /// Ranking by a score; late interaction ranks by [`multi_vector`](Self::multi_vector).
    pub rerank: Option<Arc<Reranker>>,
    /// Labels of texts.
    pub classify: Option<Arc<Classifier>>,
    /// Labels of a caller's own.
    pub zero_shot: Option<Arc<ZeroShotClassifier>>,
    /// Labels of tokens.
    pub tag: Option<Arc<Tagger>>,
    /// Answers.
    pub answer: Option<Arc<Answerer>>,
    /// Masks.
    pub fill_mask: Option<Arc<FillMask>>,
    /// Continuations.
    pub generate: Option<Arc<Generator>>,
    /// Log-probabilities.
    pub score: Option<Arc<Scorer>>,
}

/// What a model is, for those who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelDescription {
    /// What its files are called.
    pub id: String,
    /// Their revision, where one is known.
    pub revision: Option<String>,
    /// The number format that it computes in.
    pub dtype: String,
    /// What it computes on: `cpu`, `cuda` or `metal`.
    pub device: &'static str,
    /// The most tokens of a text, special tokens included.
    pub max_input_length: usize,
    /// How tokens become one vector: `cls`, `mean`, `last_token`, … as TEI calls them.
    pub pooling: Option<String>,
    /// The labels of a classifier, by the number of their output.
    pub labels: Vec<String>,
    /// What turns a classifier's or reranker's logits into scores: `identity`, `sigmoid`, `softmax`, ….
    pub activation: Option<String>,
}

/// A model with its tasks, its queues and its threads, which go when it goes.
#[derive(Debug)]
#[non_exhaustive]
pub struct LoadedModel {
    /// The name that it is asked for by.
    pub name: Arc<str>,
    /// When it was loaded.
    pub loaded: SystemTime,
    /// What it is.
    pub description: ModelDescription,
    /// What it can do.
    pub abilities: Abilities,
    /// By which tasks.
    pub tasks: ModelTasks,
    /// The tokenizer of its texts.
    pub tokenizer: Arc<Tokenizer>,
    /// What may wait for the encoder.
    pub admission: Arc<Admission>,
    /// What may wait for streams.
    pub stream_admission: Arc<Admission>,
    /// Computes sequences.
    pub encoder: EncoderQueue,
    /// Continues prompts, of a model that generates.
    pub decoder: Option<DecoderQueue>,
}

impl LoadedModel {
    /// Loads all that a model can do, and starts its threads.
    ///
    /// # Errors
    /// What loading the files meets; where they hold nothing that can be run.
    pub fn load(
        name: &str,
        files: &ModelFiles,
        settings: &ModelSettings,
        turn: &Arc<Turn>,
    ) -> Result<Self, ServeError> {
        let profile = Profile::read(files)?;
        let (tasks, abilities) = ModelTasks::load(files, &profile, &settings.options)?;
        let preprocessor = tasks.preprocessor().ok_or_else(nothing_to_run)?;
        let tokenizer = preprocessor.tokenizer().clone();
        let description = ModelDescription {
            id: files.name().to_owned(),
            revision: files.revision().map(str::to_owned),
            dtype: tasks.dtype().unwrap_or_else(|| settings.options.dtype.to_string()),
            device: tasks.device(),
            max_input_length: preprocessor.limit_for(Some(Truncate::Model)).tokens,
            pooling: tasks.pooling(),
            labels: if abilities.has(Ability::Classify) { tasks.labels() } else { Vec::new() },
            activation: tasks.activation(),
        };
        let admission = Admission::new(settings.max_queue_tokens);
        let stream_admission = Admission::new(settings.max_queue_tokens);
        let encoder = EncoderQueue::start(name, settings.encoder, turn.clone(), admission.clone())?;
        if let Some(probe) = tasks.probe() {
            encoder.probe_with(probe);
        }
        let decoder = tasks.generate.as_ref().map(|generator| {
            let mut settings = settings.decoder.clone();
            settings.engine.max_context =
                settings.engine.max_context.min(generator.preprocessor().limit_for(Some(Truncate::Model)).tokens);
            let (model, tokenizer) = (generator.model().clone(), generator.preprocessor().tokenizer().clone());
            DecoderQueue::start(name, model, tokenizer, settings, turn.clone(), stream_admission.clone())
        });
        let decoder = decoder.transpose()?;
        let (name, loaded) = (name.into(), SystemTime::now());
        Ok(Self {
            name,
            loaded,
            description,
            abilities,
            tasks,
            tokenizer,
            admission,
            stream_admission,
            encoder,
            decoder,
        })
    }
}

impl ModelTasks {
    /// What the files hold, what they are made for first.
    fn load(files: &ModelFiles, profile: &Profile, options: &Options) -> Result<(Self, Abilities), ServeError> {
        if MultiVectorEncoder::fits(files)? {
            let multi_vector = Some(Arc::new(MultiVectorEncoder::load(files, options)?));
            return Ok((
                Self { multi_vector, ..Self::default() },
                Abilities(vec![Ability::EmbedMulti, Ability::Rerank]),
            ));
        }
        if profile.chain.is_some() || profile.refused.is_some() {
            return Self::of_chain(files, options);
        }
        let Some(config) = &profile.config else { return Self::of_chain(files, options) };
        let class = config.architecture().unwrap_or_default();
        let is = |end: &str| class.ends_with(end);
        if is("ForSequenceClassification") {
            return Self::of_classifier(files, config, options);
        }
        if is("ForTokenClassification") {
            let tag = Some(Arc::new(Tagger::load(files, options)?));
            return Ok((Self { tag, ..Self::default() }, Abilities(vec![Ability::Tag])));
        }
        if is("ForQuestionAnswering") {
            let answer = Some(Arc::new(Answerer::load(files, options)?));
            return Ok((Self { answer, ..Self::default() }, Abilities(vec![Ability::Answer])));
        }
        if is("ForCausalLM") {
            return Self::of_decoder(files, config, options);
        }
        if is("ForMaskedLM") {
            return Self::of_encoder(files, options);
        }
        // Files that name no class: whatever can be loaded.
        match config.objective {
            ettin::Objective::Decoder => Self::of_decoder(files, config, options),
            ettin::Objective::Encoder => Self::of_encoder(files, options),
        }
        .or_else(|error| match error.kind {
            ErrorKind::Backend | ErrorKind::WrongModel => Self::of_embedder(files, options),
            _ => Err(error),
        })
    }

    /// A masked language model; its trunk embeds, too.
    fn of_encoder(files: &ModelFiles, options: &Options) -> Result<(Self, Abilities), ServeError> {
        let fill_mask = FillMask::load(files, options)?;
        let embedder = Embedder::of_trunk(fill_mask.model().trunk().clone());
        let embed = Some(Arc::new(TextEmbedder::new(embedder, fill_mask.preprocessor().clone())));
        let fill_mask = Some(Arc::new(fill_mask));
        Ok((Self { fill_mask, embed, ..Self::default() }, Abilities(vec![Ability::Embed, Ability::FillMask])))
    }

    /// A causal language model; its trunk embeds, too.
    fn of_decoder(files: &ModelFiles, config: &Config, options: &Options) -> Result<(Self, Abilities), ServeError> {
        let generator = Generator::load(files, options)?;
        let embedder = Embedder::of_trunk(generator.model().trunk().clone());
        // The limit of texts that are embedded is another than that of texts that are continued.
        let embed = Some(Arc::new(TextEmbedder::new(embedder, Preprocessor::load(files, config, options)?)));
        let score = Some(Arc::new(Scorer::new(generator.model().clone(), generator.preprocessor().clone())));
        let generate = Some(Arc::new(generator));
        let abilities = Abilities(vec![Ability::Generate, Ability::Score, Ability::Embed]);
        Ok((Self { generate, score, embed, ..Self::default() }, abilities))
    }

    fn of_embedder(files: &ModelFiles, options: &Options) -> Result<(Self, Abilities), ServeError> {
        let embedder = TextEmbedder::load(files, options)?;
        let sparse = embedder.is_sparse();
        let embed = Some(Arc::new(embedder));
        if !sparse {
            return Ok((Self { embed, ..Self::default() }, Abilities(vec![Ability::Embed])));
        }
        let rerank = Some(Arc::new(Reranker::load(files, options)?));
        let abilities = Abilities(vec![Ability::EmbedSparse, Ability::Rerank]);
        Ok((Self { embed, rerank, ..Self::default() }, abilities))
    }

    /// A repository of sentence-transformers: what it is, loading finds out.
    fn of_chain(files: &ModelFiles, options: &Options) -> Result<(Self, Abilities), ServeError> {
        let embedder = match Self::of_embedder(files, options) {
            Err(error) if error.kind == ErrorKind::WrongModel => error,
            loaded => return loaded,
        };
        match Reranker::load(files, options) {
            Ok(reranker) => {
                let rerank = Some(Arc::new(reranker));
                Ok((Self { rerank, ..Self::default() }, Abilities(vec![Ability::Rerank])))
            }
            Err(Error::Unsupported(_)) => match Classifier::load(files, options) {
                Ok(classifier) => {
                    let classify = Some(Arc::new(classifier));
                    Ok((Self { classify, ..Self::default() }, Abilities(vec![Ability::Classify])))
                }
                Err(_) => Err(embedder),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn of_classifier(files: &ModelFiles, config: &Config, options: &Options) -> Result<(Self, Abilities), ServeError> {
        let classifier = Classifier::load(files, options)?;
        let mut tasks = Self::default();
        let mut abilities = vec![Ability::Classify];
        if let (1, Some(model)) = (config.labels.len(), classifier.model()) {
            let strict = Preprocessor::load(files, config, options)?;
            tasks.rerank = Some(Arc::new(Reranker::new(model.clone(), strict)?));
            abilities.insert(0, Ability::Rerank);
        }
        if config.labels.iter().any(|label| label.to_lowercase().starts_with("entail"))
            && let Some(model) = classifier.model()
        {
            let strict = Preprocessor::load(files, config, options)?;
            tasks.zero_shot = Some(Arc::new(ZeroShotClassifier::new(model.clone(), strict)?));
            abilities.push(Ability::ZeroShot);
        }
        tasks.classify = Some(Arc::new(classifier));
        Ok((tasks, Abilities(abilities)))
    }

    /// The preprocessor of what the model is made for.
    fn preprocessor(&self) -> Option<&Preprocessor> {
        let Self { embed, multi_vector, rerank, classify, zero_shot, tag, answer, fill_mask, generate, score } = self;
        None.or(generate.as_ref().map(|task| task.preprocessor()))
            .or(rerank.as_ref().map(|task| task.preprocessor()))
            .or(classify.as_ref().map(|task| task.preprocessor()))
            .or(zero_shot.as_ref().map(|task| task.preprocessor()))
            .or(tag.as_ref().map(|task| task.preprocessor()))
            .or(answer.as_ref().map(|task| task.preprocessor()))
            .or(fill_mask.as_ref().map(|task| task.preprocessor()))
            .or(embed.as_ref().map(|task| task.preprocessor()))
            .or(multi_vector.as_ref().map(|task| task.preprocessor()))
            .or(score.as_ref().map(|task| task.preprocessor()))
    }

    /// What computes.
    fn backend(&self) -> Option<&Backend> {
        let trunk = None
            .or(self.embed.as_ref().and_then(|task| task.model()).map(|model| model.trunk()))
            .or(self.multi_vector.as_ref().map(|task| task.model().trunk()))
            .or(self.classify.as_ref().and_then(|task| task.model()).map(|model| model.trunk()))
            .or(self.tag.as_ref().map(|task| task.model().trunk()))
            .or(self.answer.as_ref().map(|task| task.model().trunk()));
        trunk.map(|trunk| trunk.backend())
    }

    /// The number format that products are computed in.
    fn dtype(&self) -> Option<String> {
        self.backend().map(|backend| backend.dtype().to_string())
    }

    fn device(&self) -> &'static str {
        match self.backend().map(Backend::device) {
            Some(device) if device.is_cuda() => "cuda",
            Some(device) if device.is_metal() => "metal",
            _ => "cpu",
        }
    }

    fn activation(&self) -> Option<String> {
        let of_reranker = self.rerank.as_ref().and_then(|reranker| reranker.activation_name().map(str::to_owned));
        of_reranker.or_else(|| self.classify.as_ref().map(|classifier| classifier.function().to_string()))
    }

    fn pooling(&self) -> Option<String> {
        let embedder = self.embed.as_ref().filter(|embedder| !embedder.is_sparse())?;
        let pooling = embedder.unconfigured_pooling()?.to_string();
        Some(if pooling == "last" { "last_token".to_owned() } else { pooling })
    }

    fn labels(&self) -> Vec<String> {
        self.classify.as_ref().map(|classifier| classifier.labels().to_vec()).unwrap_or_default()
    }
}

fn nothing_to_run() -> ServeError {
    ServeError::new(ErrorKind::WrongModel, "the files hold nothing that can be run")
}
