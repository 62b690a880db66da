//! Text generation.

mod stream;

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

pub use stream::{GenerationStream, StreamPiece};

use super::limit::Bounds;
use super::spec::TaskSpec;
use super::{Options, Outcome, Outcomes, Preprocessor};
use crate::files::ModelFiles;
use crate::generate::{
    AnyDraft, Completion, Engine, EngineSettings, FinishReason, GenerateRequest, Piece, Request, TextRun,
};
use crate::heads::LanguageModel;
use crate::tokenizer::{Side, Tokenizer};
use crate::{Error, Objective, Result, metadata};

/// Continues prompts with a causal language model.
///
/// Prompts are encoded without special tokens behind the bos token. The limit (the model's positions, or `max_length`)
/// holds for prompt and continuation together; a longer prompt is cut so that `max_new_tokens` fit behind it, or half
/// the limit where that is less.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
/// use ettin::files::ModelFiles;
/// use ettin::generate::GenerateRequest;
/// use ettin::tasks::{Generator, Options};
///
/// let generator = Generator::load(&ModelFiles::folder(folder)?, &Options::default())?;
/// let request = GenerateRequest::default().with_max_new_tokens(16);
/// for outcome in generator.generate(&["Once upon a time"], &request)?.outputs {
///     assert!(outcome?.value.text.starts_with(", there was a little girl"));
/// }
/// // The text as it comes; `run` does the same for several prompts at once.
/// for piece in generator.stream("The cat", &request)? {
///     print!("{}", piece?.text);
/// }
/// # Ok(())
/// # }
/// ```
///
/// A draft proposes tokens ahead, which the model then verifies together: faster where proposals are cheap and often
/// right, and always the same result, token for token.
///
/// What it is made of is public as well: an [`Engine`] that takes and gives token ids, and a
/// [`TextSequence`](crate::generate::TextSequence) for each of its sequences.
#[derive(Debug)]
pub struct Generator {
    name: String,
    model: Arc<LanguageModel>,
    preprocessor: Preprocessor,
    draft: Speculation,
    /// Why the tokens that end a text cannot be read in `generation_config.json`.
    no_ends: Option<Error>,
}

/// What proposes tokens ahead of a generator's model.
#[derive(Debug)]
enum Speculation {
    None,
    Lookup,
    Model(Box<LanguageModel>),
}

/// One call's engine, with its texts.
type GeneratorRun<'a> = TextRun<'a, &'a LanguageModel, AnyDraft<&'a LanguageModel>>;

/// How long a generation took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timings {
    /// Tokens of the prompt, bos included.
    pub prompt_tokens: usize,
    /// From the start until the prompt's last logits, in milliseconds.
    pub prompt_ms: f64,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// From the prompt's last logits until the end, in milliseconds.
    pub generate_ms: f64,
    /// What a draft proposed; none without a draft.
    #[serde(flatten)]
    pub draft: Option<Drafted>,
}

/// What a draft proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Drafted {
    /// Tokens proposed.
    pub drafted_tokens: usize,
    /// Those of them that proved right.
    pub accepted_tokens: usize,
}

/// One continued prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generated {
    /// The prompt as given.
    pub prompt: String,
    /// The continuation, without the prompt, the stop string and special tokens: its tokens decoded as a text of their
    /// own, with the space in front that stands between it and the prompt.
    pub text: String,
    /// The continuation's token ids, with the final eos or the tokens that completed the stop string.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// How long it took.
    pub timings: Timings,
}

/// What [`Generator::run`] returns.
#[derive(Debug)]
pub struct Generations {
    /// The seed used: the one asked for, or the one drawn; none when nothing is drawn (greedy).
    pub seed: Option<u64>,
    /// One result per prompt, in order; `samples` of them in a row per prompt when several were asked for.
    pub outputs: Outcomes<Generated>,
}

impl Generator {
    /// Loads a causal language model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an encoder; what loading the model's files can meet.
    pub fn load(files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "generate", objective: Some(Objective::Decoder) };
        let (model, preprocessor) = spec.load(files, options, LanguageModel::load, Bounds::positions)?;
        let no_ends = match metadata::ends_of_files(files) {
            Ok(_) => None,
            // A request may name its own.
            Err(error @ Error::Config { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        Ok(Self { name: files.name().to_owned(), no_ends, ..Self::new(model, preprocessor)? })
    }

    /// A generator of parts. What ends a text is what a request and the tokenizer's special tokens say.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an encoder.
    pub fn new(model: impl Into<Arc<LanguageModel>>, preprocessor: Preprocessor) -> Result<Self> {
        let model = model.into();
        if model.config().objective != Objective::Decoder {
            return Err(Error::Unsupported("generation with an encoder, which sees what follows".to_owned()));
        }
        let name = "the model".to_owned();
        Ok(Self { name, model, preprocessor, draft: Speculation::None, no_ends: None })
    }

    /// Proposes tokens by looking up how the text's last words went on earlier in it: free, and good for texts that
    /// quote.
    pub fn with_lookup(self) -> Self {
        Self { draft: Speculation::Lookup, ..self }
    }

    /// Proposes tokens with another model of the same vocabulary: a smaller one, or the same one in a cheaper number
    /// format.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an encoder or another vocabulary; what loading the model's files can meet.
    pub fn with_draft_model(self, files: &ModelFiles, options: &Options) -> Result<Self> {
        let spec = TaskSpec { task: "generate", objective: Some(Objective::Decoder) };
        let (draft, tokenizer) = spec.load_parts(files, options, LanguageModel::load)?;
        let ours = (self.model.config().vocab_size, &*self.preprocessor.tokenizer);
        let theirs = (draft.config().vocab_size, &tokenizer);
        if let Some(difference) = difference(ours, theirs) {
            let (name, draft) = (&self.name, files.name());
            return Err(Error::Unsupported(format!(
                "{draft} cannot draft for {name}, as their vocabularies differ: {difference}; choose a draft with the \
                 tokenizer of {name}"
            )));
        }
        Ok(Self { draft: Speculation::Model(Box::new(draft)), ..self })
    }

    /// The model.
    pub fn model(&self) -> &Arc<LanguageModel> {
        &self.model
    }

    /// The tokenizer and the limit of prompt and continuation together.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// What an [`Engine`] of one's own is asked for, to continue a prompt as [`run`](Self::run) does, and whether the
    /// prompt was cut. A [`TextSequence`](crate::generate::TextSequence) then finds the stop strings.
    ///
    /// # Errors
    /// Those of the prompt; [`Error::Config`] as `run`.
    pub fn prepare(&self, prompt: &str, request: &GenerateRequest) -> Result<(Request, bool)> {
        self.check_ends(request)?;
        let (ids, cut) = self.encode(prompt, request)?;
        Ok((request.to_request(ids, &self.preprocessor.tokenizer), cut))
    }

    /// The same for a prompt of token ids, which are taken as they are: no bos token is put before them.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_ids(&self, ids: &[u32], request: &GenerateRequest) -> Result<(Request, bool)> {
        self.check_ends(request)?;
        let (ids, cut) = self.cut(ids.to_vec(), None, request)?;
        Ok((request.to_request(ids, &self.preprocessor.tokenizer), cut))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.preprocessor.tokenizer
    }

    /// Continues every prompt.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn generate(&self, prompts: &[&str], request: &GenerateRequest) -> Result<Generations> {
        self.run(prompts, request, &mut |_| ControlFlow::Continue(()))
    }

    /// Continues a prompt, and gives its text as it comes. Dropping the iterator ends the generation.
    ///
    /// # Errors
    /// As [`run`](Self::run), and those of the prompt itself.
    pub fn stream(&self, prompt: &str, request: &GenerateRequest) -> Result<GenerationStream<'_>> {
        let mut run = self.start(request)?;
        let (ids, _) = self.encode(prompt, request)?;
        run.submit(ids, 0)?;
        Ok(GenerationStream::new(run))
    }

    /// Continues every prompt. `on_piece` sees the text as it comes; when it breaks, generation ends at once and
    /// the unfinished prompts have the finish reason `cancelled`.
    ///
    /// # Errors
    /// [`Error::Input`] for settings out of range and ids beyond the vocabulary; [`Error::Config`] where
    /// `generation_config.json` is to say what ends a text and cannot be read; failures of the engine. A prompt's own
    /// failure is in its place.
    pub fn run(
        &self,
        prompts: &[&str],
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Generations> {
        let mut run = self.start(request)?;
        let seed = run.seed();
        let mut truncated = vec![false; prompts.len()];
        let mut outputs: Vec<Option<Result<Outcome<Generated>>>> = places(prompts.len(), request.samples)?;
        let encoded = self.preprocessor.encode_all(prompts, |prompt| self.encode(prompt, request));
        for (index, encoded) in encoded.into_iter().enumerate() {
            let output = index * request.samples;
            let submitted = encoded.and_then(|(ids, cut)| {
                truncated[index] = cut;
                run.submit(ids, output)
            });
            if let Err(error) = submitted {
                outputs[output..output + request.samples].fill_with(|| Some(Err(error.clone())));
            }
        }
        for (output, completed) in run.run(on_piece)? {
            let index = output / request.samples;
            outputs[output] = Some(completed.map(|completion| Outcome {
                value: self.generated(prompts[index], completion),
                truncated: truncated[index],
            }));
        }
        let missing = || Err(Error::internal("a prompt was not continued"));
        let outputs = outputs.into_iter().map(|output| output.unwrap_or_else(missing)).collect();
        Ok(Generations { seed, outputs })
    }

    /// An engine for one call.
    fn start(&self, request: &GenerateRequest) -> Result<GeneratorRun<'_>> {
        self.check_ends(request)?;
        let draft = match &self.draft {
            Speculation::None => AnyDraft::None,
            Speculation::Lookup => AnyDraft::Lookup,
            Speculation::Model(model) => AnyDraft::model(&**model),
        };
        let settings = EngineSettings::default().with_max_context(self.preprocessor.limit.tokens);
        TextRun::new(Engine::with_draft(&*self.model, draft, settings)?, &self.preprocessor.tokenizer, request)
    }

    /// Fails where the model's files are to say what ends a text and cannot.
    ///
    /// # Errors
    /// [`Error::Config`] then.
    pub fn check_ends(&self, request: &GenerateRequest) -> Result<()> {
        match self.no_ends.as_ref().filter(|_| request.eos.is_none() && !request.ignore_eos) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn generated(&self, prompt: &str, completion: Completion) -> Generated {
        let (prompt_ms, generate_ms) = (completion.prompt_ms(), completion.generate_ms());
        let Completion { text, reason, finished } = completion;
        Generated {
            prompt: prompt.to_owned(),
            text,
            finish_reason: reason,
            timings: Timings {
                prompt_tokens: finished.prompt_tokens,
                prompt_ms,
                generated_tokens: finished.tokens.len(),
                generate_ms,
                draft: match self.draft {
                    Speculation::None => None,
                    _ => Some(Drafted { drafted_tokens: finished.drafted, accepted_tokens: finished.accepted }),
                },
            },
            tokens: finished.tokens,
        }
    }

    /// The prompt's tokens, and whether it was cut.
    fn encode(&self, prompt: &str, request: &GenerateRequest) -> Result<(Vec<u32>, bool)> {
        let tokenizer = &self.preprocessor.tokenizer;
        let bos = match (request.bos, tokenizer.special().bos) {
            (false, _) => None,
            (true, Some(bos)) => Some(bos),
            (true, None) => {
                return Err(Error::Tokenizer("the model's files name no bos token; leave it out".to_owned()));
            }
        };
        self.cut(tokenizer.ids(prompt)?, bos, request)
    }

    /// A prompt's tokens as they fit behind the bos token, and whether it was cut.
    fn cut(&self, mut ids: Vec<u32>, bos: Option<u32>, request: &GenerateRequest) -> Result<(Vec<u32>, bool)> {
        let limit = self.preprocessor.limit;
        let tokens = ids.len() + usize::from(bos.is_some());
        if let Some(most) = request.max_length.filter(|&most| tokens >= most) {
            return Err(Error::input(format!(
                "the prompt has {tokens} tokens, and prompt and continuation together may have {most} (max_length); \
                 limit the continuation alone instead (max_new_tokens)"
            )));
        }
        let cut = tokens > limit.tokens;
        if cut {
            let room = limit.tokens.saturating_sub(request.max_new_tokens).max(limit.tokens / 2);
            let kept = room.saturating_sub(usize::from(bos.is_some()));
            match limit.cut() {
                None => return Err(limit.too_long(tokens)),
                Some(Side::Right) => ids.truncate(kept),
                Some(Side::Left) => drop(ids.drain(..ids.len() - kept)),
            }
        }
        let ids: Vec<u32> = bos.into_iter().chain(ids).collect();
        match ids.is_empty() {
            true => Err(Error::input("an empty prompt can only be continued behind the bos token")),
            false => Ok((ids, cut)),
        }
    }
}

/// A place for every result of a call.
///
/// # Errors
/// [`Error::Input`] where there are more than memory can hold.
fn places<T>(prompts: usize, samples: usize) -> Result<Vec<Option<T>>> {
    let mut places = Vec::new();
    let count = prompts.checked_mul(samples).filter(|&count| places.try_reserve_exact(count).is_ok());
    let count = count.ok_or_else(|| {
        Error::input(format!(
            "{samples} samples of each of {prompts} prompts are more than memory holds; ask for fewer at a time"
        ))
    })?;
    places.resize_with(count, || None);
    Ok(places)
}

/// How two vocabularies differ, each with the rows of its model's output.
fn difference(ours: (usize, &Tokenizer), theirs: (usize, &Tokenizer)) -> Option<String> {
    if ours.0 != theirs.0 {
        return Some(format!("{} tokens there and {} here", theirs.0, ours.0));
    }
    let tokens = (0..ours.0 as u32).map(|id| (id, ours.1.token(id), theirs.1.token(id)));
    let spelled = |token: Option<String>| token.map_or("nothing".to_owned(), |token| format!("{token:?}"));
    tokens
        .into_iter()
        .find(|(_, ours, theirs)| ours != theirs)
        .map(|(id, ours, theirs)| format!("token {id} is {} there and {} here", spelled(theirs), spelled(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_results_than_memory_holds_are_refused() {
        assert_eq!(places::<u64>(3, 2).unwrap(), [None; 6]);
        assert!(places::<u64>(0, 5).unwrap().is_empty());
        for (prompts, samples) in [(usize::MAX, 2), (1 << 40, 1 << 40), (usize::MAX / 8, 1)] {
            let told = places::<u64>(prompts, samples).unwrap_err().to_string();
            assert!(told.contains("ask for fewer"), "{told}");
        }
    }
}
