//! An engine with the texts of its sequences: prompts that are known beforehand in, pieces of text out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::draft::Draft;
use super::event::{Event, FinishReason, Finished, Flow, Handle};
use super::model::CausalModel;
use super::text::TextSequence;
use super::{Engine, GenerateRequest, Piece, Request};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A finished text.
#[derive(Debug)]
pub(crate) struct Completion {
    /// The continuation's text.
    pub(crate) text: String,
    /// Why it ended.
    pub(crate) reason: FinishReason,
    /// What the engine says of it.
    pub(crate) finished: Finished,
}

/// A result with the index of its output.
pub(crate) type Completed = (usize, Result<Completion>);

/// Who hears of new text; a break ends the run.
type OnPiece<'a> = dyn FnMut(Piece<'_>) -> ControlFlow<()> + 'a;

/// Prompts that are continued by one request.
pub(crate) struct TextRun<'a, M: CausalModel, D: Draft> {
    engine: Engine<M, D>,
    tokenizer: &'a Tokenizer,
    /// For any prompt.
    request: Request,
    stop: Arc<[String]>,
    first_index: usize,
    texts: Texts<'a>,
}

impl<'a, M: CausalModel, D: Draft> TextRun<'a, M, D> {
    /// # Errors
    /// [`Error::Input`] for settings out of range.
    pub(crate) fn new(engine: Engine<M, D>, tokenizer: &'a Tokenizer, request: &GenerateRequest) -> Result<Self> {
        request.check()?;
        let stop: Arc<[String]> = request.stop.clone().into();
        TextSequence::new(tokenizer, &[], stop.clone())?;
        let first_index = request.first_index;
        let mut request = request.to_request([], tokenizer);
        // One seed for all.
        request.sampling.seed = engine.rules(&request)?.chooser.seed().or(request.sampling.seed);
        Ok(Self { engine, tokenizer, request, stop, first_index, texts: Texts::default() })
    }

    /// The seed in use; none when nothing is drawn.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.request.sampling.seed.filter(|_| self.request.sampling.temperature > 0.0)
    }

    /// Adds a prompt whose first output has this index; its other samples follow.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub(crate) fn submit(&mut self, ids: Vec<u32>, output: usize) -> Result<()> {
        let text = TextSequence::new(self.tokenizer, &ids, self.stop.clone())?;
        let first_sample = self.first_index.saturating_add(output) as u64;
        let request = self.request.clone().with_ids(ids).with_first_sample(first_sample);
        let handle = self.engine.submit(request)?;
        self.texts.outputs.insert(handle, output);
        for output in output..output + self.request.samples {
            self.texts.open.insert(output, OpenText::new(text.clone()));
        }
        Ok(())
    }

    /// Whether all prompts are continued.
    pub(crate) fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// One step of the engine. After a break, only [`cancel`](Self::cancel) makes sense.
    ///
    /// # Errors
    /// Failures of the engine. A sequence that fails alone has its error in its place.
    pub(crate) fn step(&mut self, on_piece: &mut OnPiece<'_>) -> Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        let mut say = |piece: Piece<'_>| {
            if flow.is_continue() {
                flow = on_piece(piece);
            }
            flow
        };
        self.engine.step_with(&mut |event| self.texts.take(event, &mut say))?;
        Ok(flow)
    }

    /// Ends what has not ended.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub(crate) fn cancel(&mut self) -> Result<()> {
        let handles: Vec<Handle> = self.texts.outputs.keys().copied().collect();
        for handle in handles {
            for finished in self.engine.cancel(handle) {
                self.texts.cancelled(finished)?;
            }
        }
        Ok(())
    }

    /// What has ended since the last call, in the order of ends.
    pub(crate) fn take_done(&mut self) -> Vec<Completed> {
        std::mem::take(&mut self.texts.done)
    }

    /// Continues all prompts.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub(crate) fn run(mut self, on_piece: &mut OnPiece<'_>) -> Result<Vec<Completed>> {
        while !self.is_idle() {
            if self.step(on_piece)?.is_break() {
                self.cancel()?;
            }
        }
        Ok(self.take_done())
    }
}

/// The texts of a run.
#[derive(Default)]
struct Texts<'a> {
    /// The first output of every request.
    outputs: BTreeMap<Handle, usize>,
    /// Texts that have not ended.
    open: BTreeMap<usize, OpenText<'a>>,
    done: Vec<Completed>,
}

/// A text in progress.
struct OpenText<'a> {
    sequence: TextSequence<'a>,
    text: String,
    finish: Option<FinishReason>,
    failure: Option<Error>,
}

impl<'a> OpenText<'a> {
    fn new(sequence: TextSequence<'a>) -> Self {
        Self { sequence, text: String::new(), finish: None, failure: None }
    }
}

impl Texts<'_> {
    /// The output of a sample.
    fn output(&self, handle: Handle, sample: usize) -> usize {
        self.outputs.get(&handle).map_or(sample, |first| first + sample)
    }

    /// Turns an event into text, and says how the engine is to go on.
    fn take(&mut self, event: Event, say: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>) -> Flow {
        let mut broken = false;
        let mut stopped = false;
        match event {
            Event::Prompt(_) => {}
            Event::Token(token) => {
                let index = self.output(token.handle, token.sample);
                let Some(open) = self.open.get_mut(&index) else {
                    return Flow::Stop;
                };
                match open.sequence.push(token.id, token.finish) {
                    Err(error) => {
                        open.failure = Some(error);
                        stopped = true;
                    }
                    Ok(said) => {
                        open.text += &said.text;
                        open.finish = said.finish;
                        stopped = said.finish.is_some();
                        if stopped || !said.text.is_empty() {
                            broken = say(Piece { index, text: &said.text, finish: said.finish }).is_break();
                        }
                    }
                }
            }
            Event::Finished(finished) => {
                let index = self.output(finished.handle, finished.sample);
                if let Some(open) = self.open.remove(&index) {
                    if open.finish.is_none() && open.failure.is_none() {
                        // It never had a token.
                        broken = say(Piece { index, text: "", finish: Some(finished.reason) }).is_break();
                    }
                    self.done.push((index, open.completion(finished)));
                }
            }
            Event::Failed(failed) => {
                let index = self.output(failed.handle, failed.sample);
                self.open.remove(&index);
                self.done.push((index, Err(failed.error)));
            }
        }
        match (broken, stopped) {
            (true, _) => Flow::Halt,
            (false, true) => Flow::Stop,
            (false, false) => Flow::Continue,
        }
    }

    /// Ends a text that the engine no longer continues.
    fn cancelled(&mut self, finished: Finished) -> Result<()> {
        let index = self.output(finished.handle, finished.sample);
        if let Some(mut open) = self.open.remove(&index) {
            if open.finish.is_none() {
                open.text += &open.sequence.finish(finished.reason)?.text;
            }
            self.done.push((index, open.completion(finished)));
        }
        Ok(())
    }
}

impl OpenText<'_> {
    fn completion(self, finished: Finished) -> Result<Completion> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(Completion { text: self.text, reason: self.finish.unwrap_or(finished.reason), finished }),
        }
    }
}

impl Completion {
    /// Until the prompt's last logits, in milliseconds.
    pub(crate) fn prompt_ms(&self) -> f64 {
        milliseconds(self.finished.times.prompt)
    }

    /// From there on, in milliseconds.
    pub(crate) fn generate_ms(&self) -> f64 {
        milliseconds(self.finished.times.generate)
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
