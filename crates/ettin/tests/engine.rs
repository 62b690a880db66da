//! The engine of generation through its public API: whatever comes, runs and goes beside a request, its tokens are
//! those it has alone.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use common::{backend, model};
use ettin::generate::{
    AnyDraft, Cache, CausalModel, Draft, Engine, EngineSettings, Event, Failed, FinishReason, Finished, Flow, Handle,
    Logprobs, Lookup, ModelDraft, NewToken, NoDraft, Request, Sampling, Shaping, TextSequence,
};
use ettin::heads::LanguageModel;
use ettin::tasks::{Options, ScoreInput, ScoreRequest, Scorer};
use ettin::tokenizer::Tokenizer;
use ettin::{Dtype, Error, KvCache, PackedBatch, Result};

fn nano() -> LanguageModel {
    LanguageModel::load(&model("nano-decoder"), &backend()).unwrap()
}

fn settings() -> EngineSettings {
    EngineSettings::default()
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }
}

/// Requests that agree in nothing.
fn requests() -> Vec<Request> {
    let tokenizer = Tokenizer::load(&model("nano-decoder")).unwrap();
    let ids = |text: &str| tokenizer.ids(text).unwrap();
    let long = "The cat sat on the mat and looked at the dog. ".repeat(9);
    let drawn = |temperature, seed| Sampling::default().with_temperature(temperature).with_seed(Some(seed));
    let end = ids(".")[0];
    vec![
        Request::new(ids("Once upon a time")).with_max_new_tokens(12),
        Request::new(ids("The dog")).with_sampling(drawn(0.7, 3)).with_max_new_tokens(20).with_eos([end]),
        Request::new(ids("The dog")).with_sampling(drawn(1.3, 4)).with_max_new_tokens(9).with_first_sample(7),
        Request::new(ids(&long)).with_max_new_tokens(15).with_draft_tokens(3),
        Request::new(ids(&(long.clone() + "She was")))
            .with_sampling(drawn(0.9, 5).with_top_p(Some(0.9)).with_top_k(Some(40)))
            .with_samples(3)
            .with_max_new_tokens(8),
        Request::new(ids(&(long.clone() + "They")))
            .with_sampling(drawn(1.0, 6).with_repetition_penalty(1.3))
            .with_eos([end, 3])
            .with_max_new_tokens(25)
            .with_draft_tokens(0),
        Request::new(ids("One day, a little girl named"))
            .with_shaping(Shaping::default().with_no_repeat(Some(2)).with_suppress(ids(" Lily")))
            .with_max_length(Some(30)),
        Request::new(ids("A"))
            .with_sampling(drawn(2.0, 9))
            .with_samples(2)
            .with_max_new_tokens(6)
            .with_logprobs(Some(2)),
        Request::new(ids("No room")).with_max_new_tokens(0),
        Request::new(ids(&(long.clone() + "She was"))).with_prompt_logprobs(Some(2)).with_max_new_tokens(5),
        Request::new(ids(&(long.clone() + "He"))).with_prompt_logprobs(Some(0)).with_max_new_tokens(0),
        Request::new(ids(&(long + "It")))
            .with_prompt_logprobs(Some(1))
            .with_sampling(drawn(1.0, 8))
            .with_samples(2)
            .with_max_new_tokens(4),
        Request::new(vec![510]).with_prompt_logprobs(Some(1)).with_max_new_tokens(2),
    ]
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    tokens: Vec<u32>,
    reason: FinishReason,
    logprobs: Vec<(f32, Vec<(u32, f32)>)>,
    /// Those of the prompt.
    prompt: Vec<Logprobs>,
}

/// What is told of the requests of an engine, checked for its order.
#[derive(Default)]
struct Told {
    tokens: HashMap<(Handle, usize), Vec<NewToken>>,
    prompts: HashMap<Handle, Vec<Logprobs>>,
    done: BTreeMap<(Handle, usize), Finished>,
    failed: BTreeMap<(Handle, usize), Error>,
}

impl Told {
    fn take(&mut self, event: Event) {
        let key = |handle, sample| (handle, sample);
        match event {
            Event::Prompt(scored) => {
                assert!(!self.tokens.contains_key(&(scored.handle, 0)), "a token before its prompt");
                let prompt = self.prompts.entry(scored.handle).or_default();
                assert_eq!(prompt.len() + 1, scored.from);
                prompt.extend(scored.logprobs);
            }
            Event::Token(token) => {
                let key = key(token.handle, token.sample);
                assert!(!self.done.contains_key(&key) && !self.failed.contains_key(&key), "a token after the end");
                self.tokens.entry(key).or_default().push(token);
            }
            Event::Finished(finished) => {
                let key = key(finished.handle, finished.sample);
                let tokens = self.tokens.get(&key).map_or(&[][..], Vec::as_slice);
                assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), finished.tokens);
                assert_eq!(tokens.iter().filter(|token| token.drafted).count(), finished.accepted);
                assert!(finished.accepted <= finished.drafted);
                assert!(self.done.insert(key, finished).is_none(), "two ends");
            }
            Event::Failed(Failed { handle, sample, error, .. }) => {
                assert!(self.failed.insert(key(handle, sample), error).is_none(), "two ends");
            }
            other => panic!("{other:?}"),
        }
    }

    fn of(&self, handle: Handle) -> Vec<Outcome> {
        let samples = self.done.range((handle, 0)..=(handle, usize::MAX));
        let outcome = |(key, finished): (&(Handle, usize), &Finished)| {
            let tokens = self.tokens.get(key).map_or(&[][..], Vec::as_slice);
            let logprobs = tokens.iter().filter_map(|token| token.logprobs.clone());
            Outcome {
                tokens: finished.tokens.clone(),
                reason: finished.reason,
                logprobs: logprobs.map(|logprobs| (logprobs.token, logprobs.top)).collect(),
                prompt: self.prompts.get(&handle).cloned().unwrap_or_default(),
            }
        };
        samples.map(outcome).collect()
    }
}

fn drain<M: CausalModel, D: Draft>(engine: &mut Engine<M, D>, told: &mut Told) {
    while !engine.is_idle() {
        engine.step().unwrap().into_iter().for_each(|event| told.take(event));
    }
}

/// What each request comes to by itself, decoded plainly.
fn alone(model: &LanguageModel, requests: &[Request]) -> Vec<Vec<Outcome>> {
    let outcomes = requests.iter().map(|request| {
        let (mut engine, mut told) = (Engine::new(model, settings()).unwrap(), Told::default());
        let handle = engine.submit(request.clone()).unwrap();
        drain(&mut engine, &mut told);
        let outcomes = told.of(handle);
        assert_eq!(outcomes.len(), request.samples);
        outcomes
    });
    outcomes.collect()
}

/// Submits requests at random steps and cancels some on the way; those that end must be what they are alone.
fn in_any_company<D: Draft>(
    what: &str,
    seed: u64,
    mut engine: Engine<&LanguageModel, D>,
    requests: &[Request],
    expected: &[Vec<Outcome>],
) -> usize {
    let (mut numbers, mut told) = (Numbers(seed), Told::default());
    let mut submitted: Vec<(Handle, usize)> = Vec::new();
    let mut cancelled = Vec::new();
    let mut left = 24;
    while left > 0 || !engine.is_idle() {
        match numbers.below(10) {
            0..4 if left > 0 => {
                left -= 1;
                let index = numbers.below(requests.len());
                submitted.push((engine.submit(requests[index].clone()).unwrap(), index));
            }
            4 if !submitted.is_empty() => {
                let (handle, index) = submitted[numbers.below(submitted.len())];
                for finished in engine.cancel(handle) {
                    assert_eq!((finished.handle, finished.reason), (handle, FinishReason::Cancelled));
                    // What it had is a beginning of what it has alone.
                    let whole = &expected[index][finished.sample].tokens;
                    assert!(whole.starts_with(&finished.tokens), "{what}: {whole:?} {:?}", finished.tokens);
                }
                cancelled.push(handle);
            }
            _ => {
                let before = (engine.running(), engine.waiting());
                engine.step().unwrap().into_iter().for_each(|event| told.take(event));
                assert!(before != (0, 0) || engine.is_idle());
            }
        }
    }
    let mut whole = 0;
    for (handle, index) in submitted {
        let outcomes = told.of(handle);
        if !cancelled.contains(&handle) {
            assert_eq!(outcomes, expected[index], "{what}: request {index}");
            whole += 1;
        }
    }
    assert!(told.failed.is_empty());
    whole
}

#[test]
fn a_request_has_the_tokens_it_has_alone() {
    let model = nano();
    let requests = requests();
    let expected = alone(&model, &requests);
    let (tight, tiny) = (
        settings().with_max_running(3).with_step_rows(8).with_max_drafted(6),
        settings().with_max_running(1).with_step_rows(2).with_prefix_caches(0),
    );
    let mut whole = 0;
    for (seed, settings) in (0..).zip([settings(), settings(), tight.clone(), tight, tiny, settings()]) {
        let what = format!("schedule {seed}");
        let plain = Engine::new(&model, settings.clone()).unwrap();
        whole += in_any_company(&format!("{what}, plain"), seed, plain, &requests, &expected);
        let lookup = Engine::with_draft(&model, Lookup, settings.clone()).unwrap();
        whole += in_any_company(&format!("{what}, lookup"), seed, lookup, &requests, &expected);
        let draft = ModelDraft::new(&model);
        let drafted = Engine::with_draft(&model, draft, settings.clone()).unwrap();
        whole += in_any_company(&format!("{what}, model"), seed, drafted, &requests, &expected);
        let any = Engine::with_draft(&model, AnyDraft::model(&model), settings).unwrap();
        whole += in_any_company(&format!("{what}, any"), seed + 100, any, &requests, &expected);
    }
    assert!(whole > 200, "{whole} requests were compared");
}

#[test]
fn a_request_may_come_at_any_step_of_another() {
    let model = nano();
    let requests = requests();
    let expected = alone(&model, &requests[..4]);
    for arrival in 0..18 {
        let mut engine = Engine::with_draft(&model, Lookup, settings().with_step_rows(40)).unwrap();
        let mut told = Told::default();
        let first = engine.submit(requests[3].clone()).unwrap();
        let cancelled = engine.submit(requests[0].clone()).unwrap();
        for _ in 0..arrival {
            engine.step().unwrap().into_iter().for_each(|event| told.take(event));
        }
        let second = engine.submit(requests[1].clone()).unwrap();
        engine.step().unwrap().into_iter().for_each(|event| told.take(event));
        engine.cancel(cancelled);
        let third = engine.submit(requests[2].clone()).unwrap();
        drain(&mut engine, &mut told);
        for (handle, index) in [(first, 3), (second, 1), (third, 2)] {
            assert_eq!(told.of(handle), expected[index], "arrival at step {arrival}, request {index}");
        }
    }
}

#[test]
fn drafts_of_a_model_in_another_format_change_no_token() {
    let target = nano();
    let draft = LanguageModel::load(
        &model("nano-decoder"),
        &ettin::Backend::new(&candle_core::Device::Cpu, Dtype::Bf16).unwrap(),
    );
    // Not every backend has the format.
    let Ok(draft) = draft else { return };
    let requests = requests();
    let expected = alone(&target, &requests);
    let engine = Engine::with_draft(&target, ModelDraft::new(Arc::new(draft)), settings()).unwrap();
    in_any_company("bf16", 5, engine, &requests, &expected);
}

#[test]
fn an_engine_owns_or_shares_its_model() {
    fn lives<T: 'static>(_: &T) {}
    let owned = Engine::new(nano(), settings()).unwrap();
    let shared = Arc::new(nano());
    let with_draft = Engine::with_draft(shared.clone(), ModelDraft::new(shared), settings()).unwrap();
    lives(&owned);
    lives(&with_draft);
    let worker = std::thread::spawn(move || {
        let mut engine = owned;
        engine.submit(Request::new([5, 6]).with_max_new_tokens(2)).unwrap();
        engine.step().unwrap().len()
    });
    assert_eq!(worker.join().unwrap(), 1);
    assert_eq!(with_draft.bytes_per_token(), 2 * with_draft.model().bytes_per_token());
}

#[test]
fn bytes_per_token_are_those_of_a_cache() {
    for dtype in common::dtypes() {
        let backend = ettin::Backend::new(&candle_core::Device::Cpu, dtype).unwrap();
        let model = LanguageModel::load(&model("nano-decoder"), &backend).unwrap();
        let rows = |count: usize| {
            let mut cache = model.cache(512).unwrap();
            let ids: Vec<u32> = (0..count as u32).map(|id| 5 + id).collect();
            let batch = PackedBatch::new(&[ids]).unwrap();
            model.step(&batch, &mut [&mut cache], &[]).unwrap();
            cache.bytes()
        };
        // Rings have their size from the start, and global layers grow to powers of two.
        let global = model.config().layers.iter().filter(|layer| layer.span.left.is_none()).count();
        // The smaller first: what it leaves is used again.
        let small = rows(128);
        let grown = rows(256) - small;
        let per_layer = CausalModel::bytes_per_token(&model) / model.config().layers.len();
        assert_eq!(grown, 128 * global * per_layer, "{dtype}");
    }
}

#[test]
fn logprobs_are_the_log_softmax_of_the_raw_logits() {
    let model = nano();
    let requests: Vec<Request> =
        requests().into_iter().map(|request| request.with_logprobs(Some(3)).with_max_new_tokens(5)).collect();
    let mut engine = Engine::with_draft(&model, Lookup, settings()).unwrap();
    let mut told = Told::default();
    let handles: Vec<Handle> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    drain(&mut engine, &mut told);
    let mut compared = 0;
    for (handle, request) in handles.into_iter().zip(&requests) {
        for outcome in told.of(handle) {
            assert_eq!(outcome.logprobs.len(), outcome.tokens.len());
            for (count, (&token, (logprob, top))) in outcome.tokens.iter().zip(&outcome.logprobs).enumerate() {
                let ids = [&request.ids[..], &outcome.tokens[..count]].concat();
                let batch = PackedBatch::new(std::slice::from_ref(&ids)).unwrap();
                let logits = model.logits(&batch, &[ids.len() - 1]).unwrap();
                let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
                let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
                let exact = |id: u32| f64::from(logits[id as usize]) - max - sum.ln();
                assert!((f64::from(*logprob) - exact(token)).abs() < 1e-5, "{logprob} {}", exact(token));
                assert_eq!(top.len(), 3);
                for (place, &(id, logprob)) in top.iter().enumerate() {
                    assert!((f64::from(logprob) - exact(id)).abs() < 1e-5);
                    let better = logits.iter().filter(|&&logit| logit > logits[id as usize]).count();
                    assert!(better <= place, "{id} is not number {place}");
                }
                // One number for one token.
                assert!(top.iter().all(|&(id, other)| id != token || other == *logprob));
                compared += 1;
            }
        }
    }
    assert!(compared > 30, "{compared}");
}

/// A model that counts what it is asked, and fails when it is told to.
struct Watched<'a> {
    model: &'a LanguageModel,
    /// Sequences and rows of every step.
    steps: RefCell<Vec<(usize, usize)>>,
    /// Steps after which one fails.
    fails_in: Cell<Option<usize>>,
    /// A token after which logits are no numbers.
    poison: Option<u32>,
}

impl<'a> Watched<'a> {
    fn new(model: &'a LanguageModel) -> Self {
        Self { model, steps: RefCell::default(), fails_in: Cell::new(None), poison: None }
    }
}

impl CausalModel for Watched<'_> {
    type Cache = KvCache;

    fn positions(&self) -> usize {
        self.model.positions()
    }

    fn vocabulary(&self) -> usize {
        self.model.vocabulary()
    }

    fn bytes_per_token(&self) -> usize {
        self.model.bytes_per_token()
    }

    fn cache(&self, max_step: usize) -> Result<KvCache> {
        self.model.cache(max_step)
    }

    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut KvCache],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.steps.borrow_mut().push((batch.sequences(), batch.tokens()));
        self.model.step_into(batch, caches, rows, logits)?;
        match self.fails_in.get() {
            Some(0) => {
                self.fails_in.set(None);
                return Err(Error::Unsupported("a device that has gone".to_owned()));
            }
            left => self.fails_in.set(left.map(|left| left - 1)),
        }
        let size = logits.len() / rows.len().max(1);
        for (index, &row) in rows.iter().enumerate() {
            if self.poison == Some(batch.ids()[row]) {
                logits[index * size..][..size].fill(f32::NAN);
            }
        }
        Ok(())
    }
}

#[test]
fn a_prompts_logprobs_are_those_of_the_scorer_bit_for_bit() {
    let scorer = Scorer::load(&model("nano-decoder"), &Options::default()).unwrap();
    let tokenizer = Tokenizer::load(&model("nano-decoder")).unwrap();
    // More tokens than one step scores, and so few that there is nothing to score.
    let texts = ["The little girl went to the park and saw a cat. ".repeat(40), "The cat".to_owned(), "A".to_owned()];
    for bos in [true, false] {
        let request = ScoreRequest::default().with_bos(bos);
        let inputs: Vec<_> = texts.iter().map(|text| ScoreInput { text, context: None }).collect();
        let expected = scorer.run(&inputs, &request).unwrap();
        let (mut engine, mut told) = (Engine::new(nano(), settings()).unwrap(), Told::default());
        let handles = texts.each_ref().map(|text| {
            let bos = tokenizer.special().bos.filter(|_| bos);
            let ids: Vec<u32> = bos.into_iter().chain(tokenizer.ids(text).unwrap()).collect();
            engine.submit(Request::new(ids).with_max_new_tokens(0).with_prompt_logprobs(Some(3))).unwrap()
        });
        drain(&mut engine, &mut told);
        for (handle, expected) in handles.into_iter().zip(expected) {
            let scored = told.prompts.remove(&handle).unwrap_or_default();
            let expected = expected.unwrap().value.tokens;
            let expected: Vec<u32> = expected.iter().filter_map(|one| Some(one.logprob?.to_bits())).collect();
            assert_eq!(scored.iter().map(|one| one.token.to_bits()).collect::<Vec<_>>(), expected);
            assert!(scored.iter().all(|one| one.top.len() == 3 && one.top[0].1 >= one.token));
            let finished = &told.done[&(handle, 0)];
            assert_eq!((finished.tokens.len(), finished.reason), (0, FinishReason::Length));
        }
    }
}

#[test]
fn limits_are_kept_and_the_queue_is_fair() {
    let model = nano();
    let watched = Watched::new(&model);
    let settings = settings().with_max_running(4).with_step_rows(20).with_max_drafted(5);
    let mut engine = Engine::with_draft(&watched, Lookup, settings).unwrap();
    let (mut told, mut order) = (Told::default(), Vec::new());
    let prompts = (0..30).map(|own| (0..1 + own % 37).map(|id| 5 + (id * 31 + own) % 900).collect::<Vec<u32>>());
    let handles: Vec<Handle> =
        prompts.map(|ids| engine.submit(Request::new(ids).with_max_new_tokens(6)).unwrap()).collect();
    assert_eq!((engine.waiting(), engine.running()), (30, 0));
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if !order.contains(&event.handle()) {
                order.push(event.handle());
            }
            told.take(event);
        }
        assert!(engine.running() <= 4);
    }
    assert!(watched.steps.borrow().iter().all(|&(sequences, rows)| sequences <= 4 && rows <= 20));
    assert!(watched.steps.borrow().iter().any(|&(sequences, _)| sequences == 4));
    assert_eq!(told.done.len(), 30);
    assert!(handles.iter().all(|&handle| told.of(handle)[0].tokens.len() == 6));
    // Nobody is overtaken by one that came four places later or more.
    for (place, handle) in order.iter().enumerate() {
        let came = handles.iter().position(|other| other == handle).unwrap();
        assert!(came.abs_diff(place) < 4, "{came} began as number {place}");
    }
}

#[test]
fn more_samples_than_may_run_run_alone() {
    let model = nano();
    let watched = Watched::new(&model);
    let mut engine = Engine::new(&watched, settings().with_max_running(2).with_step_rows(16)).unwrap();
    let drawn = Sampling::default().with_temperature(1.0).with_seed(Some(2));
    let request = |samples| Request::new([5, 6, 7]).with_sampling(drawn.clone()).with_samples(samples);
    let mut told = Told::default();
    let many = engine.submit(request(5).with_max_new_tokens(3)).unwrap();
    let one = engine.submit(request(1).with_max_new_tokens(3)).unwrap();
    drain(&mut engine, &mut told);
    assert_eq!((told.of(many).len(), told.of(one).len()), (5, 1));
    assert_eq!(told.of(many)[0], told.of(one)[0]);
    assert_eq!(*watched.steps.borrow(), [(1, 3), (5, 5), (5, 5), (1, 3), (1, 1), (1, 1)]);
}

#[test]
fn memory_is_a_limit() {
    let model = nano();
    let watched = Watched::new(&model);
    let bytes = 40 * model.bytes_per_token();
    let mut engine = Engine::new(&watched, settings().with_max_cache_bytes(Some(bytes))).unwrap();
    // 20 tokens each at most: two at a time.
    let submit = |engine: &mut Engine<_>, new| engine.submit(Request::new([5; 10]).with_max_new_tokens(new)).unwrap();
    for _ in 0..5 {
        submit(&mut engine, 10);
    }
    while !engine.is_idle() {
        engine.step().unwrap();
        assert!(engine.running() <= 2);
    }
    assert!(watched.steps.borrow().iter().any(|&(sequences, _)| sequences == 2));
    // One that never fits runs alone.
    let (large, small) = (submit(&mut engine, 50), submit(&mut engine, 3));
    let mut told = Told::default();
    watched.steps.borrow_mut().clear();
    drain(&mut engine, &mut told);
    assert_eq!((told.of(large)[0].tokens.len(), told.of(small)[0].tokens.len()), (50, 3));
    assert!(watched.steps.borrow().iter().all(|&(sequences, _)| sequences == 1));
}

#[test]
fn a_request_can_be_cancelled_in_every_phase() {
    let model = nano();
    let watched = Watched::new(&model);
    let mut engine = Engine::new(&watched, settings().with_max_running(2).with_step_rows(8)).unwrap();
    let long: Vec<u32> = (5..45).collect();
    let submit = |engine: &mut Engine<_>, ids: &[u32]| engine.submit(Request::new(ids)).unwrap();
    let generating = submit(&mut engine, &[5, 6]);
    engine.step().unwrap();
    let reading = submit(&mut engine, &long);
    let waiting = engine.submit(Request::new([7]).with_samples(2)).unwrap();
    engine.step().unwrap();
    assert_eq!((engine.running(), engine.waiting()), (2, 2));
    let counts = |cancelled: Vec<Finished>| {
        cancelled.into_iter().map(|one| (one.sample, one.prompt_tokens, one.tokens.len())).collect::<Vec<_>>()
    };
    assert_eq!(counts(engine.cancel(waiting)), [(0, 1, 0), (1, 1, 0)]);
    assert_eq!((engine.running(), engine.waiting()), (2, 0));
    assert_eq!(counts(engine.cancel(reading)), [(0, 40, 0)]);
    assert_eq!(counts(engine.cancel(generating)), [(0, 2, 2)]);
    assert!(engine.is_idle() && engine.step().unwrap().is_empty());
    let steps = watched.steps.borrow().len();
    // What has ended is no longer there.
    assert!([generating, reading, waiting].into_iter().all(|handle| engine.cancel(handle).is_empty()));
    let finished = engine.submit(Request::new([7]).with_max_new_tokens(1)).unwrap();
    engine.step().unwrap();
    assert!(engine.cancel(finished).is_empty() && engine.is_idle());
    assert_eq!(watched.steps.borrow().len(), steps + 1);
}

#[test]
fn one_of_many_that_wait_is_cancelled_without_a_look_at_the_others() {
    const MANY: usize = 100_000;
    let model = nano();
    let mut engine = Engine::new(&model, settings().with_max_running(2)).unwrap();
    let handles: Vec<Handle> = (0..MANY).map(|_| engine.submit(Request::new([5])).unwrap()).collect();
    engine.step().unwrap();
    assert_eq!((engine.running(), engine.waiting()), (2, MANY - 2));
    // From the middle outwards: from neither end.
    let (front, back) = handles[2..].split_at(MANY / 2);
    let start = std::time::Instant::now();
    for (one, other) in front.iter().rev().zip(back) {
        assert_eq!((engine.cancel(*one).len(), engine.cancel(*other).len()), (1, 1));
    }
    let took = start.elapsed();
    let left: Vec<Handle> = handles.into_iter().filter(|&handle| !engine.cancel(handle).is_empty()).collect();
    assert_eq!(left.len(), 4, "the two that ran and the two of the longer half");
    assert!(engine.is_idle());
    // Tenths of a second; minutes where each is looked for among all.
    assert!(took.as_secs() < 10, "{took:?}");
}

#[test]
fn what_cannot_be_computed_is_refused_when_it_is_submitted() {
    let model = nano();
    let (vocabulary, positions) = (model.vocabulary() as u32, model.positions());
    let mut engine = Engine::new(&model, settings()).unwrap();
    let good = || Request::new([5]);
    let sampling = |sampling| good().with_sampling(sampling);
    for (request, says) in [
        (Request::new([]), "empty"),
        (Request::new([5, vocabulary]), "vocabulary"),
        (good().with_samples(0), "sample"),
        (sampling(Sampling::default().with_temperature(-1.0)), "temperature"),
        (sampling(Sampling::default().with_top_p(Some(1.5))), "top-p"),
        (good().with_shaping(Shaping::default().with_forced_bos(Some(vocabulary))), "forced_bos"),
    ] {
        match engine.submit(request) {
            Err(Error::Input(message)) => assert!(message.contains(says), "{message}"),
            other => panic!("{says}: {other:?}"),
        }
    }
    let long = engine.submit(Request::new(vec![5; positions + 1]));
    assert!(matches!(long, Err(Error::TooLong { tokens, limit, .. }) if (tokens, limit) == (positions + 1, positions)));
    assert!(engine.is_idle());
    assert!(Engine::new(&model, settings().with_max_running(0)).is_err());
    assert!(Engine::new(&model, settings().with_max_running(9).with_step_rows(9)).is_err());
    // Nothing of that stays behind.
    let handle = engine.submit(good().with_max_new_tokens(1)).unwrap();
    let mut told = Told::default();
    drain(&mut engine, &mut told);
    assert_eq!(told.of(handle).len(), 1);
}

#[test]
fn a_step_that_fails_loses_no_request() {
    let model = nano();
    let requests = requests();
    let expected = alone(&model, &requests);
    for fails_in in 0..25 {
        let watched = Watched::new(&model);
        watched.fails_in.set(Some(fails_in));
        let mut engine = Engine::with_draft(&watched, Lookup, settings().with_max_running(5)).unwrap();
        let mut told = Told::default();
        let handles: Vec<Handle> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        let mut failures = 0;
        while !engine.is_idle() {
            let open = engine.running() + engine.waiting() + told.done.len();
            let stepped = engine.step_with(&mut |event| {
                told.take(event);
                Flow::Continue
            });
            if let Err(error) = stepped {
                failures += 1;
                assert!(matches!(error, Error::Unsupported(_)));
                // All wait again.
                assert_eq!((engine.running(), engine.waiting() + told.done.len()), (0, open));
            }
        }
        assert_eq!(failures, 1, "{fails_in}");
        for (handle, expected) in handles.into_iter().zip(&expected) {
            assert_eq!(told.of(handle), *expected, "failure in step {fails_in}");
        }
    }
}

#[test]
fn a_request_that_fails_alone_ends_alone() {
    let model = nano();
    let requests = requests();
    let expected = alone(&model, &requests);
    let watched = Watched { poison: Some(1234), ..Watched::new(&model) };
    let mut engine = Engine::new(&watched, settings()).unwrap();
    let mut told = Told::default();
    let bad = engine.submit(Request::new([5, 1234]).with_samples(2)).unwrap();
    let handles: Vec<Handle> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    drain(&mut engine, &mut told);
    assert!(told.failed.values().all(|error| matches!(error, Error::NotFinite { .. })));
    assert_eq!(told.failed.keys().copied().collect::<Vec<_>>(), [(bad, 0), (bad, 1)]);
    for (handle, expected) in handles.into_iter().zip(&expected) {
        assert_eq!(told.of(handle), *expected);
    }
}

#[test]
fn a_draft_that_fails_for_a_request_ends_it_alone() {
    let model = nano();
    let broken = Watched { poison: Some(1234), ..Watched::new(&model) };
    let mut engine = Engine::with_draft(&model, ModelDraft::new(&broken), settings()).unwrap();
    let mut told = Told::default();
    // Forced as its first token, which the draft then reads.
    let forced = Shaping::default().with_forced_bos(Some(1234));
    let bad = engine.submit(Request::new([5]).with_shaping(forced)).unwrap();
    let good = engine.submit(Request::new([5, 6]).with_max_new_tokens(4)).unwrap();
    drain(&mut engine, &mut told);
    let error = told.failed.remove(&(bad, 0)).unwrap().to_string();
    assert!(error.contains("of the draft"), "{error}");
    assert_eq!(told.of(good)[0].tokens.len(), 4);
}

#[test]
fn a_sequence_stops_at_the_token_where_it_is_told_to() {
    let model = nano();
    let request = Request::new([5, 6, 7]).with_max_new_tokens(20).with_draft_tokens(9);
    let whole = alone(&model, std::slice::from_ref(&request)).remove(0).remove(0).tokens;
    for stop in 1..=20 {
        let mut engine = Engine::with_draft(&model, ModelDraft::new(&model), settings()).unwrap();
        let (handle, beside) = (engine.submit(request.clone()).unwrap(), engine.submit(request.clone()).unwrap());
        let (mut told, mut seen) = (Told::default(), 0);
        while !engine.is_idle() {
            let stepped = engine.step_with(&mut |event| {
                let mine = event.handle() == handle && matches!(event, Event::Token(_));
                told.take(event);
                seen += usize::from(mine);
                if mine && seen == stop { Flow::Stop } else { Flow::Continue }
            });
            stepped.unwrap();
        }
        let (stopped, beside) = (told.of(handle).remove(0), told.of(beside).remove(0));
        let reason = if stop == 20 { FinishReason::Length } else { FinishReason::Stop };
        assert_eq!((&stopped.tokens[..], stopped.reason), (&whole[..stop], reason));
        assert_eq!((&beside.tokens, beside.reason), (&whole, FinishReason::Length));
    }
}

#[test]
fn a_halt_between_tokens_changes_none() {
    let model = nano();
    let requests = requests();
    let expected = alone(&model, &requests);
    for every in [1, 2, 7] {
        let mut engine = Engine::with_draft(&model, ModelDraft::new(&model), settings()).unwrap();
        let (mut told, mut count) = (Told::default(), 0);
        let handles: Vec<Handle> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        while !engine.is_idle() {
            let stepped = engine.step_with(&mut |event| {
                told.take(event);
                count += 1;
                if count % every == 0 { Flow::Halt } else { Flow::Continue }
            });
            stepped.unwrap();
        }
        for (handle, expected) in handles.into_iter().zip(&expected) {
            assert_eq!(told.of(handle), *expected, "a halt after every {every}");
        }
    }
}

#[test]
fn a_seed_that_is_drawn_is_told_and_repeats() {
    let model = nano();
    let sampling = |seed| Sampling::default().with_temperature(1.5).with_seed(seed);
    let run = |sampling| {
        let mut engine = Engine::with_draft(&model, NoDraft, settings()).unwrap();
        engine.submit(Request::new([5, 6]).with_sampling(sampling).with_max_new_tokens(8)).unwrap();
        let mut told = Told::default();
        drain(&mut engine, &mut told);
        told.done.into_values().next().unwrap()
    };
    let drawn = run(sampling(None));
    assert!(drawn.seed.is_some());
    assert_eq!(run(sampling(drawn.seed)).tokens, drawn.tokens);
    assert_eq!(run(Sampling::default()).seed, None);
}

/// A model of one layer of arithmetic, whose caches can be counted.
#[derive(Default)]
struct Toy {
    caches: Rc<()>,
    rows: Cell<usize>,
}

struct ToyCache {
    ids: Vec<u32>,
    alive: Rc<()>,
}

impl Cache for ToyCache {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.ids.truncate(len);
        Ok(())
    }

    fn fork(&self) -> Self {
        Self { ids: self.ids.clone(), alive: self.alive.clone() }
    }
}

impl CausalModel for Toy {
    type Cache = ToyCache;

    fn positions(&self) -> usize {
        1000
    }

    fn vocabulary(&self) -> usize {
        50
    }

    fn bytes_per_token(&self) -> usize {
        4
    }

    fn cache(&self, _: usize) -> Result<ToyCache> {
        Ok(ToyCache { ids: Vec::new(), alive: self.caches.clone() })
    }

    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut ToyCache],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.rows.set(self.rows.get() + batch.tokens());
        logits.clear();
        for (index, cache) in caches.iter_mut().enumerate() {
            assert_eq!(batch.start(index), cache.len());
            for row in batch.rows(index) {
                cache.ids.push(batch.ids()[row]);
                if rows.contains(&row) {
                    let sum: u32 = cache.ids.iter().zip(1..).map(|(id, place)| id * place).sum();
                    logits.extend((0..50).map(|id| ((sum + 7 * id) % 50) as f32 / 9.0));
                }
            }
        }
        Ok(())
    }
}

/// Prompts that begin alike.
fn alike(count: u32) -> Vec<Request> {
    let prompts = (0..count).map(|own| (0..200).map(|id| id % 50).chain([own % 50, 3, own / 50]).collect::<Vec<_>>());
    prompts.map(|ids| Request::new(ids).with_max_new_tokens(2)).collect()
}

#[test]
fn beginnings_are_shared_as_far_as_the_settings_let_them() {
    for (kept, rows) in [(4, 200 + 40 * 4), (1, 200 + 40 * 4), (0, 40 * 204)] {
        let mut engine = Engine::new(Toy::default(), settings().with_prefix_caches(kept)).unwrap();
        alike(40).into_iter().for_each(|request| drop(engine.submit(request)));
        drain(&mut engine, &mut Told::default());
        assert_eq!(engine.model().rows.get(), rows, "{kept} caches kept");
    }
}

#[test]
fn nothing_is_left_of_what_has_ended() {
    for cancelled_after in 0..30 {
        let settings = settings().with_max_running(3).with_step_rows(50);
        let mut engine = Engine::with_draft(Toy::default(), ModelDraft::new(Toy::default()), settings).unwrap();
        let handles: Vec<Handle> = alike(9).into_iter().map(|request| engine.submit(request).unwrap()).collect();
        for _ in 0..cancelled_after {
            engine.step().unwrap();
            // Those that run, and the beginnings that others wait for.
            assert!(Rc::strong_count(&engine.model().caches) <= 1 + 3 + 4);
        }
        handles.into_iter().for_each(|handle| drop(engine.cancel(handle)));
        assert!(engine.is_idle());
        assert_eq!(Rc::strong_count(&engine.model().caches), 1, "cancelled after {cancelled_after} steps");
    }
    let mut engine = Engine::new(Toy::default(), settings()).unwrap();
    alike(9).into_iter().for_each(|request| drop(engine.submit(request)));
    drain(&mut engine, &mut Told::default());
    assert_eq!(Rc::strong_count(&engine.model().caches), 1);
}

#[test]
fn texts_are_made_of_the_tokens_of_requests_that_come_and_go() {
    let (model, tokenizer) = (nano(), Tokenizer::load(&common::model("nano-decoder")).unwrap());
    let mut engine = Engine::with_draft(&model, Lookup, settings()).unwrap();
    let prompts = [("Once upon a time", "girl"), ("The cat", "\n"), ("One day", "zzz")];
    let mut texts: HashMap<Handle, (TextSequence<'_>, String, Option<FinishReason>)> = HashMap::new();
    let mut handles = Vec::new();
    for (prompt, stop) in prompts {
        let ids = tokenizer.ids(prompt).unwrap();
        let text = TextSequence::new(&tokenizer, &ids, [stop.to_owned()].into()).unwrap();
        let handle = engine.submit(Request::new(ids).with_max_new_tokens(20)).unwrap();
        texts.insert(handle, (text, String::new(), None));
        handles.push(handle);
        engine.step_with(&mut |event| heard(event, &mut texts)).unwrap();
    }
    while !engine.is_idle() {
        engine.step_with(&mut |event| heard(event, &mut texts)).unwrap();
    }
    let (_, text, finish) = &texts[&handles[0]];
    assert_eq!((text.as_str(), *finish), (", there was a little ", Some(FinishReason::Stop)));
    for (handle, (_, stop)) in handles.iter().zip(prompts) {
        assert!(texts[handle].2.is_some() && !texts[handle].1.contains(stop));
    }
    assert!(TextSequence::new(&tokenizer, &[5], [String::new()].into()).is_err());
}

/// What a server does with an event.
fn heard(event: Event, texts: &mut HashMap<Handle, (TextSequence<'_>, String, Option<FinishReason>)>) -> Flow {
    let (sequence, text, finish) = texts.get_mut(&event.handle()).unwrap();
    let Event::Token(token) = event else { return Flow::Continue };
    let said = sequence.push(token.id, token.finish).unwrap();
    *text += &said.text;
    *finish = said.finish;
    if said.finish.is_some() { Flow::Stop } else { Flow::Continue }
}
