//! The generation loop, one step at a time: token ids in, token ids out.

use std::fmt;
use std::sync::Arc;

use super::draft::{Draft, DraftRequest, NoDraft};
use super::event::{Event, Failed, FinishReason, Finished, Flow, Handle, NewToken, ScoredPrompt};
use super::logprobs::Logprobs;
use super::model::{Cache, CausalModel};
use super::prefix_cache::{PrefixCache, worth_keeping};
use super::request::{Request, Rules};
use super::running::{Queue, Running, Waiting};
use super::sampler::Scratch;
use super::sequence::Sequence;
use super::settings::EngineSettings;
use crate::{Error, Isa, PackedBatch, Result};

/// Continues many prompts at once. Requests come ([`submit`](Self::submit)) and go ([`cancel`](Self::cancel)) while
/// others run.
///
/// One [`step`](Self::step) feeds every running sequence what its cache lacks: the last token of one that is generating
/// and the proposals behind it, the next part of a prompt. Sequences that have ended leave, and requests that wait take
/// their place: first come, first served, but that a prompt waits for a beginning that it shares with one being
/// computed, and those behind it wait, too.
///
/// The tokens of a request are those it would have alone, bit for bit, whenever it comes, whatever runs beside it,
/// whatever the draft and the settings, and whoever is cancelled; [`CausalModel`] says what a model must promise for
/// that.
///
/// No begin-of-text is added to a prompt, and no token ends it: [`Request::with_eos`] takes the tokenizer's, and
/// [`GenerateRequest::to_request`](super::GenerateRequest) makes a request as [`Generator`](crate::tasks::Generator) does.
///
/// ```
/// # fn main() -> ettin::Result<()> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
/// use std::sync::Arc;
///
/// use ettin::files::ModelFiles;
/// use ettin::generate::{Engine, EngineSettings, Event, Request, Sampling};
/// use ettin::heads::LanguageModel;
/// use ettin::tokenizer::Tokenizer;
///
/// let files = ModelFiles::folder(folder)?;
/// let model = Arc::new(LanguageModel::load(&files, &ettin::Backend::cpu()?)?);
/// let tokenizer = Tokenizer::load(&files)?;
/// let mut engine = Engine::new(model, EngineSettings::default())?;
///
/// let greedy = engine.submit(Request::new(tokenizer.ids("Once upon a time")?).with_max_new_tokens(8))?;
/// let sampling = Sampling::default().with_temperature(0.8).with_seed(Some(7));
/// let drawn = engine.submit(Request::new(tokenizer.ids("The cat")?).with_sampling(sampling).with_max_new_tokens(8))?;
/// while !engine.is_idle() {
///     for event in engine.step()? {
///         if let Event::Finished(finished) = event {
///             assert!([greedy, drawn].contains(&finished.handle));
///             println!("{}", tokenizer.decode(&finished.tokens, true)?);
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Engine<M: CausalModel, D: Draft = NoDraft> {
    model: M,
    draft: D,
    settings: EngineSettings,
    /// That of log-probabilities.
    isa: Isa,
    /// The handle of the next request.
    next: u64,
    waiting: Queue,
    running: Vec<Running<M::Cache, D::State>>,
    prefixes: PrefixCache<M::Cache, D::State>,
    /// Used again for every step: what is fed, its rows with logits, the logits.
    batch: PackedBatch,
    rows: Vec<usize>,
    logits: Vec<f32>,
    scratch: Scratch,
}

/// Rows of prompts that one step scores at most, all sequences together: the logits of so many rows of the real
/// vocabulary take 25 MiB.
const SCORED_ROWS: usize = 128;

/// Who is told of events, and whether that one has called a halt.
struct Observer<'a> {
    on_event: &'a mut dyn FnMut(Event) -> Flow,
    halted: bool,
}

impl Observer<'_> {
    fn tell(&mut self, event: Event) -> Flow {
        let flow = (self.on_event)(event);
        self.halted |= flow == Flow::Halt;
        flow
    }
}

impl<M: CausalModel> Engine<M> {
    /// An engine that decodes plainly. It owns `model`, or shares what that points to.
    ///
    /// # Errors
    /// [`Error::Input`] for settings that allow nothing to run, and for models without a cache, such as encoders.
    pub fn new(model: M, settings: EngineSettings) -> Result<Self> {
        Self::with_draft(model, NoDraft, settings)
    }
}

impl<M: CausalModel, D: Draft> Engine<M, D> {
    /// An engine with the help of a draft: faster where proposals are cheap and often right, and always the same
    /// tokens.
    ///
    /// # Errors
    /// [`Error::Input`] for settings that allow nothing to run.
    pub fn with_draft(model: M, draft: D, settings: EngineSettings) -> Result<Self> {
        settings.check()?;
        // What cannot be decoded at all is told now, not by the first step.
        model.cache(1)?;
        Ok(Self {
            isa: Isa::select().map_err(|error| Error::Input(error.to_string()))?,
            prefixes: PrefixCache::new(settings.prefix_caches),
            model,
            draft,
            settings,
            next: 0,
            waiting: Queue::new(),
            running: Vec::new(),
            batch: PackedBatch::default(),
            rows: Vec::new(),
            logits: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The limits.
    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// The most tokens of a sequence, prompt included: the model's positions, or fewer by the settings.
    pub fn context(&self) -> usize {
        self.settings.max_context.min(self.model.positions())
    }

    /// Bytes that keys and values of one token take, those of a draft included: times the tokens that a request may
    /// come to and its samples, what it needs.
    pub fn bytes_per_token(&self) -> usize {
        self.model.bytes_per_token().saturating_add(self.draft.bytes_per_token())
    }

    /// Sequences that wait, each sample of a request counted.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(|one| one.samples).sum()
    }

    /// Sequences that run, each sample of a request counted.
    pub fn running(&self) -> usize {
        self.running.iter().map(|one| one.samples).sum()
    }

    /// Whether nothing waits and nothing runs: a step would do nothing.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Puts a request behind those that wait. Nothing is computed yet.
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt without tokens, for ids beyond the vocabulary and for settings out of range;
    /// [`Error::TooLong`] for a prompt of more tokens than the model has positions. A prompt that leaves no room by the
    /// request's or the engine's own limits is none: it ends without a token.
    pub fn submit(&mut self, request: Request) -> Result<Handle> {
        let (vocabulary, positions) = (self.model.vocabulary(), self.model.positions());
        if request.ids.is_empty() {
            return Err(Error::input("the prompt is empty; it needs at least one token to go on from"));
        }
        if let Some(id) = request.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::input(format!(
                "the prompt holds token {id}, and the model's vocabulary has {vocabulary}; name ids below that, made \
                 by the model's own tokenizer"
            )));
        }
        if request.ids.len() > positions {
            return Err(Error::too_long(request.ids.len(), positions));
        }
        let rules = self.rules(&request)?;
        self.next += 1;
        let (handle, samples) = (rules.handle, rules.samples);
        let one = Waiting { sequence: Sequence::new(Arc::new(rules), request.ids), samples };
        self.waiting.insert(one.place(), one);
        Ok(handle)
    }

    /// What a request would go by.
    ///
    /// # Errors
    /// [`Error::Input`] for settings out of range. The prompt's ids are not looked at.
    pub(super) fn rules(&self, request: &Request) -> Result<Rules> {
        Rules::new(Handle(self.next), request, &self.settings, self.model.vocabulary(), self.context())
    }

    /// Takes a request out, whether it waits, computes its prompt or generates. Returns what its samples came to that
    /// had not ended, in order, with the reason [`FinishReason::Cancelled`]; none where it has ended or never was.
    /// There are no further events of it, and nothing of it is kept.
    pub fn cancel(&mut self, handle: Handle) -> Vec<Finished> {
        let mut cancelled = Vec::new();
        let mut cancel = |sequence: &Sequence, samples: usize| {
            cancelled.extend((0..samples).map(|sample| {
                let finished = sequence.finished(FinishReason::Cancelled);
                Finished { sample: finished.sample + sample, ..finished }
            }));
        };
        self.running.retain(|one| {
            let stays = one.sequence.rules.handle != handle;
            if !stays {
                cancel(&one.sequence, one.samples);
            }
            stays
        });
        while let Some((&place, _)) = self.waiting.range((handle, 0)..=(handle, usize::MAX)).next()
            && let Some(one) = self.waiting.remove(&place)
        {
            cancel(&one.sequence, one.samples);
        }
        self.forget_prefixes();
        cancelled.sort_by_key(|finished| finished.sample);
        cancelled
    }

    /// Computes one step and tells what became of requests in it; nothing where there are none.
    ///
    /// # Errors
    /// As [`step_with`](Self::step_with).
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.step_with(&mut |event| {
            events.push(event);
            Flow::Continue
        })?;
        Ok(events)
    }

    /// As [`step`](Self::step), with a say in how it goes on after every event: a sequence can be stopped at a token,
    /// where its text holds a stop string.
    ///
    /// # Errors
    /// What the model or the draft meets. No token is lost then, and no request: all sequences that ran wait again,
    /// before the others, without their caches, and the next step begins to compute them anew. So a step may simply be
    /// tried again, after some requests were cancelled perhaps. What fails for one request alone (logits that are not
    /// finite) is no error of the step, but an [`Event::Failed`].
    pub fn step_with(&mut self, on_event: &mut dyn FnMut(Event) -> Flow) -> Result<()> {
        let stepped = self.advance(&mut Observer { on_event, halted: false });
        if stepped.is_err() {
            self.requeue();
        }
        self.forget_prefixes();
        stepped
    }

    fn advance(&mut self, observer: &mut Observer<'_>) -> Result<()> {
        self.admit(observer)?;
        if observer.halted || self.running.is_empty() {
            return Ok(());
        }
        self.propose(observer)?;
        self.compute()?;
        // Before samples part: each would tell it.
        self.score(observer);
        self.fork()?;
        self.verify(observer)
    }

    /// Moves sequences from waiting to running; those that leave no room for a token end at once.
    fn admit(&mut self, observer: &mut Observer<'_>) -> Result<()> {
        let mut taken = self.running();
        while let Some((_, next)) = self.waiting.first_key_value() {
            let (sequence, samples) = (&next.sequence, next.samples);
            if taken > 0 && (taken + samples > self.settings.max_running || !self.has_memory(sequence, samples)) {
                break;
            }
            // A prompt waits for its beginning, and those behind it with it.
            let scores = !sequence.unscored().is_empty();
            if !scores && self.running.iter().any(|one| one.reads_for(sequence.tokens())) {
                break;
            }
            if let Some(reason) = sequence.is_full().filter(|_| !scores) {
                for sample in 0..samples {
                    let finished = sequence.finished(reason);
                    observer.tell(Event::Finished(Finished { sample: finished.sample + sample, ..finished }));
                }
                self.waiting.pop_first();
                continue;
            }
            let (cache, draft) = match self.prefixes.find(sequence.tokens()).filter(|_| !scores) {
                Some(prefix) => (prefix.cache.fork(), self.draft.fork(&prefix.draft)),
                None => (self.model.cache(self.settings.step_rows)?, self.draft.state()?),
            };
            let Some((_, mut next)) = self.waiting.pop_first() else {
                break;
            };
            let shared = match self.settings.prefix_caches {
                0 => None,
                _ => worth_keeping(next.sequence.tokens(), cache.len(), prompts(&self.waiting)),
            };
            self.forget_prefixes();
            next.sequence.start(cache.len());
            taken += samples;
            self.running.push(Running::new(next, cache, draft, shared));
        }
        Ok(())
    }

    /// Whether the caches of a sequence and its samples fit beside what is there, each as long as it may get.
    fn has_memory(&self, sequence: &Sequence, samples: usize) -> bool {
        let Some(most) = self.settings.max_cache_bytes else {
            return true;
        };
        let running = self.running.iter().map(|one| (&one.sequence, one.samples)).chain([(sequence, samples)]);
        let tokens: usize = running.map(|(sequence, samples)| samples.saturating_mul(sequence.max_tokens())).sum();
        tokens.saturating_add(self.prefixes.tokens()).saturating_mul(self.bytes_per_token()) <= most
    }

    /// Lets the draft propose tokens behind every sequence that is generating.
    fn propose(&mut self, observer: &mut Observer<'_>) -> Result<()> {
        if self.draft.is_off() {
            return Ok(());
        }
        let generating = self.running.iter().filter(|one| !one.sequence.is_reading()).count();
        // Proposals are rows like others: the more sequences share a step, the fewer each has.
        let rows = self.settings.max_drafted.min(self.settings.step_rows.saturating_sub(generating + 1));
        let Some(share) = rows.checked_div(generating) else {
            return Ok(());
        };
        let mut requests = Vec::with_capacity(generating);
        for one in self.running.iter_mut().filter(|one| !one.sequence.is_reading()) {
            let wanted = one.sequence.useful_proposals().min(share);
            if wanted > 0 {
                requests.push(one.sequence.draft_request(wanted, &mut one.draft, &mut one.failure));
            }
        }
        self.draft.propose(&mut requests)?;
        for one in &mut self.running {
            if let Some(error) = one.failure.take() {
                observer.tell(one.failed(error));
            }
        }
        self.running.retain(|one| !one.over);
        Ok(())
    }

    /// Feeds every sequence as much as fits in one step, those that generate first, and computes the logits after what
    /// was fed to those, or after a prompt's last token.
    fn compute(&mut self) -> Result<()> {
        self.batch.clear();
        self.rows.clear();
        let (mut room, mut scorable) = (self.settings.step_rows, SCORED_ROWS);
        let mut fed = Vec::with_capacity(self.running.len());
        if !self.running.is_sorted_by_key(|one| one.sequence.is_reading()) {
            self.running.sort_by_key(|one| one.sequence.is_reading());
        }
        for one in &mut self.running {
            let scores = !one.sequence.unscored().is_empty();
            let rows = one.rows(if scores { room.min(scorable) } else { room });
            (one.fed, one.logits, one.scored) = (rows, 0..0, (0..0, 0));
            if rows == 0 {
                continue;
            }
            room -= rows;
            if scores {
                scorable -= rows;
                let (scored, computed) = (one.sequence.scored_by(rows), one.sequence.computed());
                one.scored = (scored.clone(), self.rows.len());
                let begin = self.batch.tokens();
                self.rows.extend(scored.map(|token| begin + token - 1 - computed));
            }
            self.batch.push(&one.sequence.pending()[..rows], one.sequence.computed())?;
            if rows == one.sequence.pending().len() {
                let end = self.batch.tokens();
                let start = end - 1 - one.sequence.proposals();
                one.logits = self.rows.len()..self.rows.len() + end - start;
                self.rows.extend(start..end);
            }
            fed.push(&mut one.cache);
        }
        if fed.is_empty() {
            return Ok(());
        }
        self.model.step_into(&self.batch, &mut fed, &self.rows, &mut self.logits)?;
        self.running.iter_mut().for_each(|one| one.sequence.advance(one.fed));
        Ok(())
    }

    /// Keeps beginnings that other prompts wait for. Gives the samples of a prompt that was just computed a cache each.
    fn fork(&mut self) -> Result<()> {
        let mut samples = Vec::new();
        for one in &mut self.running {
            let computed = one.sequence.computed();
            let fork = !one.logits.is_empty() && one.samples > 1;
            let keep = one.shared == Some(computed);
            if !fork && !keep {
                continue;
            }
            let tokens = &one.sequence.tokens()[..computed];
            if !self.draft.is_off() {
                let place = one.sequence.place();
                let Rules { chooser, vocabulary, .. } = &*one.sequence.rules;
                let (tokens, state, failure) = (&mut tokens.to_vec(), &mut one.draft, &mut one.failure);
                let (wanted, vocabulary) = (0, *vocabulary);
                self.draft.propose(&mut [DraftRequest {
                    tokens,
                    wanted,
                    vocabulary,
                    state,
                    place,
                    chooser,
                    failure,
                }])?;
            }
            if keep {
                one.shared = None;
                self.prefixes.keep(tokens, one.cache.fork(), self.draft.fork(&one.draft));
            }
            if fork {
                for sample in 1..std::mem::replace(&mut one.samples, 1) {
                    let other = Waiting { sequence: one.sequence.sample(sample), samples: 1 };
                    let (cache, draft) = (one.cache.fork(), self.draft.fork(&one.draft));
                    samples.push(Running { logits: one.logits.clone(), ..Running::new(other, cache, draft, None) });
                }
            }
        }
        self.running.append(&mut samples);
        Ok(())
    }

    /// Tells the log-probabilities of those tokens of prompts that the step's rows predict.
    fn score(&mut self, observer: &mut Observer<'_>) {
        let vocabulary = self.logits.len() / self.rows.len().max(1);
        for one in self.running.iter_mut().filter(|one| !one.scored.0.is_empty()) {
            let (tokens, first) = one.scored.clone();
            let (handle, count) = (one.sequence.rules.handle, one.sequence.rules.prompt_logprobs.unwrap_or(0));
            let logprobs = tokens.clone().zip(first..).map(|(token, row)| {
                let logits = &self.logits[row * vocabulary..][..vocabulary];
                Logprobs::of(self.isa, logits, one.sequence.tokens()[token], count)
            });
            let logprobs: Vec<Logprobs> = logprobs.collect();
            // −∞ is a number here: the model excludes the token.
            if let Some(bad) = logprobs.iter().position(|one| one.token.is_nan() || one.token == f32::INFINITY) {
                let error = self.model.not_finite(&one.sequence.tokens()[..tokens.start + bad]);
                one.over = true;
                for sample in one.sequence.sample..one.sequence.sample + one.samples {
                    observer.tell(Event::Failed(Failed { handle, sample, error: error.clone() }));
                }
                continue;
            }
            observer.tell(Event::Prompt(ScoredPrompt { handle, from: tokens.start, logprobs }));
            one.sequence.scored_until(tokens.end);
        }
        self.running.retain(|one| !one.over);
    }

    /// Adds to every sequence that has logits a token, and one more for every proposal that proves right. Those that
    /// end leave.
    fn verify(&mut self, observer: &mut Observer<'_>) -> Result<()> {
        let vocabulary = self.logits.len() / self.rows.len().max(1);
        for one in self.running.iter_mut().filter(|one| !one.logits.is_empty()) {
            // Its prompt was only to be scored.
            if let Some(reason) = one.sequence.is_full() {
                one.over = true;
                observer.tell(Event::Finished(one.sequence.finished(reason)));
                continue;
            }
            let (drafted, mut accepted) = (one.sequence.proposals(), 0);
            for row in one.logits.clone() {
                if observer.halted {
                    break;
                }
                let logits = &self.logits[row * vocabulary..][..vocabulary];
                let chosen = match one.sequence.accept_next(logits, &mut self.scratch) {
                    Ok(chosen) => chosen,
                    Err(error) => {
                        let error = match error {
                            Error::NotFinite { .. } => self.model.not_finite(one.sequence.accepted()),
                            error => error,
                        };
                        observer.tell(one.failed(error));
                        break;
                    }
                };
                accepted += usize::from(chosen.proposed);
                let rules = &one.sequence.rules;
                let flow = observer.tell(Event::Token(NewToken {
                    handle: rules.handle,
                    sample: one.sequence.sample,
                    id: chosen.token,
                    drafted: chosen.proposed,
                    logprobs: rules.logprobs.map(|count| Logprobs::of(self.isa, logits, chosen.token, count)),
                    finish: chosen.finish,
                }));
                if let Some(reason) = chosen.finish.or((flow == Flow::Stop).then_some(FinishReason::Stop)) {
                    one.sequence.verified(drafted, accepted);
                    one.over = true;
                    observer.tell(Event::Finished(one.sequence.finished(reason)));
                    break;
                }
                if !chosen.proposed {
                    break;
                }
            }
            if !one.over {
                one.sequence.verified(drafted, accepted);
                one.cache.truncate(one.sequence.computed())?;
            }
        }
        self.running.retain(|one| !one.over);
        Ok(())
    }

    /// Lets all that runs wait again, before the others and in the order in which it came, without what was computed.
    fn requeue(&mut self) {
        self.running.retain(|one| !one.over);
        for Running { mut sequence, samples, .. } in self.running.drain(..) {
            sequence.restart();
            let one = Waiting { sequence, samples };
            self.waiting.insert(one.place(), one);
        }
    }

    /// Forgets beginnings that no one waits for.
    fn forget_prefixes(&mut self) {
        self.prefixes.forget(prompts(&self.waiting));
    }
}

impl<M: CausalModel, D: Draft> fmt::Debug for Engine<M, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waiting, running) = (self.waiting(), self.running());
        let mut engine = f.debug_struct("Engine");
        engine.field("settings", &self.settings).field("waiting", &waiting).field("running", &running);
        engine.finish_non_exhaustive()
    }
}

/// The tokens of sequences that wait and could begin with a copy of what another has computed.
fn prompts(waiting: &Queue) -> impl Iterator<Item = &[u32]> + Clone {
    let reads_all = |one: &&Waiting| one.sequence.unscored().is_empty();
    waiting.values().filter(reads_all).map(|one| one.sequence.tokens())
}
