//! The loop against a model whose logits are a known function of the tokens it has read.

mod drafts;
mod prefix_cache;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use super::random::Draws;
use super::*;
use crate::files::ModelFiles;
use crate::tokenizer::Tokenizer;
use crate::{Error, PackedBatch, Result};

const VOCAB: usize = 8192;

fn tokenizer() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-decoder");
    Tokenizer::load(&ModelFiles::folder(folder).unwrap()).unwrap()
}

/// Continues along a script: after token `i` of it comes token `i + 1`; or pseudo-random logits of all tokens read.
/// Cache = the tokens read.
#[derive(Clone)]
struct Scripted {
    script: Vec<u32>,
    noise: bool,
    /// Share of continuations on which it disagrees with itself at 0, in eighths.
    off: u64,
    vocabulary: usize,
    positions: usize,
    steps: RefCell<Vec<usize>>,
    /// A token after which logits are not finite.
    poison: Option<u32>,
    /// How long a step takes at least.
    slow: Duration,
}

impl Scripted {
    fn new(script: &[u32]) -> Self {
        Self {
            script: script.to_vec(),
            noise: false,
            off: 0,
            vocabulary: VOCAB,
            positions: 4096,
            steps: RefCell::default(),
            poison: None,
            slow: Duration::ZERO,
        }
    }

    fn noise() -> Self {
        Self { noise: true, ..Self::new(&[]) }
    }

    fn logits(&self, read: &[u32]) -> Vec<f32> {
        let last = *read.last().unwrap();
        if self.poison == Some(last) {
            return vec![f32::NAN; self.vocabulary];
        }
        let mut logits = vec![0.0; self.vocabulary];
        if self.noise {
            let mut key =
                read.iter().fold(1u64, |key, &id| key.wrapping_mul(6_364_136_223_846_793_005) ^ u64::from(id));
            if key >> 8 & 7 < self.off {
                key += 1;
            }
            for (id, logit) in logits.iter_mut().enumerate() {
                let number = Draws::new(key, 0, 0).quad(id as u32 / 4)[id % 4];
                *logit = number as f32 / u32::MAX as f32 * 8.0;
            }
        } else {
            let next = self.script.iter().position(|&id| id == last).map_or(0, |i| (i + 1) % self.script.len());
            logits[self.script[next] as usize] = 9.0;
        }
        logits
    }
}

impl Cache for Vec<u32> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        assert!(len <= self.len());
        Vec::truncate(self, len);
        Ok(())
    }

    fn fork(&self) -> Vec<u32> {
        self.clone()
    }
}

impl CausalModel for Scripted {
    type Cache = Vec<u32>;

    fn not_finite(&self, ids: &[u32]) -> Error {
        Error::NotFinite { place: format!("{ids:?}"), dtype: "f32".to_owned() }
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn bytes_per_token(&self) -> usize {
        4
    }

    fn cache(&self, _: usize) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn step_into(
        &self,
        batch: &PackedBatch,
        caches: &mut [&mut Vec<u32>],
        rows: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        assert_eq!(batch.sequences(), caches.len());
        assert!(batch.tokens() <= STEP_ROWS && batch.max_len() <= self.positions);
        self.steps.borrow_mut().push(batch.tokens());
        std::thread::sleep(self.slow);
        logits.clear();
        let mut rows = rows.iter().peekable();
        for (index, cache) in caches.iter_mut().enumerate() {
            assert_eq!(batch.start(index), cache.len());
            for row in batch.rows(index) {
                cache.push(batch.ids()[row]);
                if rows.next_if_eq(&&row).is_some() {
                    logits.extend(self.logits(cache));
                }
            }
        }
        assert_eq!(rows.next(), None);
        Ok(())
    }
}

/// An engine with texts, as the task has it.
fn start<'a, D: Draft>(
    draft: D,
    model: &'a Scripted,
    tokenizer: &'a Tokenizer,
    request: &GenerateRequest,
    context: usize,
) -> Result<TextRun<'a, &'a Scripted, D>> {
    let settings = EngineSettings::default().with_max_context(context);
    TextRun::new(Engine::with_draft(model, draft, settings)?, tokenizer, request)
}

struct Run {
    text: String,
    streamed: String,
    tokens: Vec<u32>,
    reason: FinishReason,
    finishes: usize,
    drafted: usize,
    accepted: usize,
}

fn run(model: &Scripted, request: &GenerateRequest, prompts: &[Vec<u32>], context: usize) -> Vec<Result<Run>> {
    drafted(NoDraft, model, request, prompts, context)
}

/// Runs prompts and checks that the streamed text is the text returned.
fn drafted(
    draft: impl Draft,
    model: &Scripted,
    request: &GenerateRequest,
    prompts: &[Vec<u32>],
    context: usize,
) -> Vec<Result<Run>> {
    let tokenizer = tokenizer();
    let mut engine = start(draft, model, &tokenizer, request, context).unwrap();
    let mut pieces: BTreeMap<usize, (String, usize)> = BTreeMap::new();
    for (i, ids) in prompts.iter().enumerate() {
        engine.submit(ids.clone(), i * request.samples).unwrap();
    }
    let mut done = engine
        .run(&mut |piece| {
            let (text, finishes) = pieces.entry(piece.index).or_default();
            assert_eq!(*finishes, 0, "a piece after the last");
            text.push_str(piece.text);
            *finishes += usize::from(piece.finish.is_some());
            ControlFlow::Continue(())
        })
        .unwrap();
    done.sort_by_key(|(output, _)| *output);
    assert!(done.iter().enumerate().all(|(i, (output, _))| i == *output));
    done.into_iter()
        .map(|(output, finished)| {
            let finished = finished?;
            let (streamed, finishes) = pieces.remove(&output).unwrap_or_default();
            let Completion { text, reason, finished } = finished;
            let Finished { tokens, drafted, accepted, .. } = finished;
            Ok(Run { text, streamed, tokens, reason, finishes, drafted, accepted })
        })
        .collect()
}

fn one(model: &Scripted, request: &GenerateRequest, prompt: &[u32]) -> Run {
    let mut runs = run(model, request, &[prompt.to_vec()], 1024);
    let run = runs.remove(0).unwrap();
    assert_eq!((run.streamed.as_str(), run.finishes), (run.text.as_str(), 1));
    run
}

fn greedy(max_new_tokens: usize) -> GenerateRequest {
    GenerateRequest { max_new_tokens, ..GenerateRequest::default() }
}

fn sampled(seed: u64, max_new_tokens: usize) -> GenerateRequest {
    let sampling = Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() };
    GenerateRequest { sampling, ..greedy(max_new_tokens) }
}

#[test]
fn eos_ends_and_is_listed_but_not_text() {
    let script = [[2].to_vec(), tokenizer().ids(" a small cat").unwrap(), vec![3]].concat();
    let run = one(&Scripted::new(&script), &greedy(50), &[2]);
    assert_eq!((run.reason, run.text.as_str()), (FinishReason::Eos, " a small cat"));
    assert_eq!(run.tokens, script[1..]);

    let on = one(&Scripted::new(&script), &GenerateRequest { ignore_eos: true, ..greedy(50) }, &[2]);
    assert_eq!((on.reason, on.tokens.len()), (FinishReason::Length, 50));
    assert!(on.text.starts_with(" a small cat a small cat"));
}

#[test]
fn length_and_context_end() {
    let model = Scripted::noise();
    let run = one(&model, &greedy(7), &[2, 9]);
    assert_eq!((run.reason, run.tokens.len()), (FinishReason::Length, 7));
    let none = one(&model, &greedy(0), &[2, 9]);
    assert_eq!((none.reason, none.tokens.len(), none.text.as_str()), (FinishReason::Length, 0, ""));

    for (context, expected) in [(5, 3), (2, 0), (1, 0)] {
        let runs = self::run(&model, &greedy(7), &[vec![2, 9]], context);
        let run = runs[0].as_ref().unwrap();
        assert_eq!((run.reason, run.tokens.len()), (FinishReason::Context, expected));
        assert_eq!(run.finishes, 1);
    }
}

#[test]
fn stop_strings_across_tokens_are_cut_and_never_streamed() {
    let words = tokenizer().ids(" one two three four").unwrap();
    let script = [[2].to_vec(), words].concat();
    let request = GenerateRequest { stop: vec!["o thr".into(), "zzz".into()], ..greedy(50) };
    let run = one(&Scripted::new(&script), &request, &[2]);
    assert_eq!((run.reason, run.text.as_str()), (FinishReason::Stop, " one tw"));
    assert!(tokenizer().decode(&run.tokens, true).unwrap().contains("o thr"));

    // What might have become a stop string is text after all.
    let request = GenerateRequest { stop: vec![" four five".into()], ..greedy(script.len() - 1) };
    let run = one(&Scripted::new(&script), &request, &[2]);
    assert_eq!((run.reason, run.text.as_str()), (FinishReason::Length, " one two three four"));
}

#[test]
fn incomplete_characters_are_flushed_at_the_end() {
    let rocket = tokenizer().ids("🚀").unwrap();
    assert!(rocket.len() > 1);
    let script = [&[2], &rocket[..1]].concat();
    let run = one(&Scripted::new(&script), &greedy(1), &[2]);
    assert_eq!(run.text, "\u{FFFD}");
}

#[test]
fn in_a_batch_equals_alone() {
    let prompts: Vec<Vec<u32>> = (1..80u32).map(|n| (0..n * 13).map(|i| 5 + (i * 31 + n) % 4000).collect()).collect();
    for mut request in [greedy(9), sampled(4, 9)] {
        let together = run(&Scripted::noise(), &request, &prompts, 4096);
        for (prompt, together) in prompts.iter().zip(together) {
            let alone = &run(&Scripted::noise(), &request, std::slice::from_ref(prompt), 4096)[0];
            request.first_index += 1;
            assert_eq!(alone.as_ref().unwrap().tokens, together.unwrap().tokens);
        }
    }
}

#[test]
fn long_prompts_are_read_in_steps() {
    let model = Scripted::noise();
    one(&model, &greedy(2), &vec![7; 1000]);
    assert_eq!(*model.steps.borrow(), [512, 488, 1]);
}

#[test]
fn samples_of_a_prompt_differ_and_read_it_once() {
    let model = Scripted::noise();
    let request = GenerateRequest { samples: 3, ..sampled(4, 6) };
    let prompts = [vec![2, 7, 8, 9], vec![2, 5]];
    let runs = run(&model, &request, &prompts, 1024);
    let tokens: Vec<_> = runs.into_iter().map(|run| run.unwrap().tokens).collect();
    assert_eq!(tokens.len(), 6);
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2]);
    assert_eq!(model.steps.borrow()[0], 6);
    // Each is what a single one of its index would be.
    for (index, expected) in tokens.iter().enumerate() {
        let request = GenerateRequest { first_index: index, ..sampled(4, 6) };
        assert_eq!(one(&Scripted::noise(), &request, &prompts[index / 3]).tokens, *expected);
    }
    let other = one(&Scripted::noise(), &GenerateRequest { first_index: 3, ..sampled(5, 6) }, &prompts[1]).tokens;
    assert_ne!(other, tokens[3]);
    let many = GenerateRequest { samples: 40, ..sampled(4, 2) };
    assert_eq!(run(&Scripted::noise(), &many, &prompts, 1024).len(), 80);
}

#[test]
fn repetition_is_penalised_in_prompt_and_continuation() {
    let script = [2, 10, 11, 12];
    let sampling = Sampling { repetition_penalty: 1e9, ..Sampling::default() };
    let request = GenerateRequest { sampling, ..greedy(5) };
    // 10 and 11 are in the prompt: their logits vanish, and the first unseen id of all equals follows.
    let run = one(&Scripted::new(&script), &request, &[2, 10, 11]);
    assert_eq!(run.tokens[0], 12);
    let mut sorted = run.tokens.clone();
    sorted.dedup();
    assert_eq!(sorted.len(), run.tokens.len());
}

#[test]
fn reading_and_generating_are_timed_apart() {
    let slow = Duration::from_millis(30);
    let (tokenizer, model, request) = (tokenizer(), Scripted { slow, ..Scripted::noise() }, greedy(3));
    let mut engine = start(NoDraft, &model, &tokenizer, &request, 1024).unwrap();
    engine.submit(vec![7; 600], 0).unwrap();
    let mut done = engine.run(&mut |_| ControlFlow::Continue(())).unwrap();
    let finished = done.pop().unwrap().1.unwrap();
    // Two steps each.
    assert!(finished.prompt_ms() >= 60.0 && finished.generate_ms() >= 60.0, "{finished:?}");
}

#[test]
fn a_sequence_with_broken_logits_does_not_lose_the_others() {
    let model = Scripted { poison: Some(77), ..Scripted::noise() };
    let runs = run(&model, &greedy(3), &[vec![2, 5], vec![2, 77], vec![2, 6]], 1024);
    assert!(matches!(&runs[1], Err(Error::NotFinite { place, .. }) if place == "[2, 77]"));
    assert_eq!(runs[0].as_ref().unwrap().tokens.len(), 3);
    assert_eq!(runs[2].as_ref().unwrap().tokens.len(), 3);
}

#[test]
fn a_break_cancels_what_is_not_finished() {
    let tokenizer = tokenizer();
    let model = Scripted::noise();
    let request = greedy(50);
    let mut engine = start(NoDraft, &model, &tokenizer, &request, 1024).unwrap();
    (0..40).for_each(|i| engine.submit(vec![2, 5 + i as u32], i).unwrap());
    let mut pieces = 0;
    let done = engine
        .run(&mut |_| {
            pieces += 1;
            if pieces == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!((pieces, done.len()), (100, 40));
    for (_, finished) in done {
        let Completion { reason, finished, .. } = finished.unwrap();
        assert_eq!(reason, FinishReason::Cancelled);
        assert!(finished.tokens.len() < 10);
    }
}

#[test]
fn requests_out_of_range_are_refused() {
    let (tokenizer, model) = (tokenizer(), Scripted::noise());
    let refused = |request: GenerateRequest| start(NoDraft, &model, &tokenizer, &request, 9).is_err();
    assert!(refused(GenerateRequest { stop: vec![String::new()], ..greedy(1) }));
    assert!(refused(GenerateRequest { samples: 0, ..greedy(1) }));
    assert!(!refused(greedy(1)));
}
