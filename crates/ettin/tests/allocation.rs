//! Decoding allocates nothing once it runs, whatever the number format, the batch, or the choice of tokens.
//!
//! A binary of its own, with one test: every allocation of the process is counted, on whichever thread.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::model;
use ettin::generate::{Engine, EngineSettings, Flow, Request, Sampler, Sampling, Scratch};
use ettin::{Backend, KvCache, PackedBatch, Scheme, Team, heads::LanguageModel};

/// The system's allocator with a count.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Positions before the steps that count. Global layers grow at the 33rd and have room for 96 then: growing, which
/// happens ever more rarely, is left out.
const WARM: usize = 40;
const COUNTED: usize = 24;

/// Decodes and returns how many allocations the counted steps made. Every token is chosen in each way in turn.
fn decode(model: &LanguageModel, batch_size: usize) -> usize {
    let vocabulary = model.config().vocab_size;
    let samplers = samplings().map(|sampling| Sampler::new(&sampling).unwrap());
    let mut caches: Vec<KvCache> = (0..batch_size).map(|_| model.cache(4).unwrap()).collect();
    let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
    let history = |first: usize| {
        let mut history = Vec::with_capacity(WARM + COUNTED + 1);
        history.push(first as u32 + 5);
        history
    };
    let mut histories: Vec<Vec<u32>> = (0..batch_size).map(history).collect();
    let rows: Vec<usize> = (0..batch_size).collect();
    let (mut batch, mut logits, mut scratch) = (PackedBatch::default(), Vec::new(), Scratch::default());
    let mut before = 0;
    for step in 0..WARM + COUNTED {
        if step == WARM {
            before = COUNT.load(Ordering::Relaxed);
        }
        batch.clear();
        for history in &histories {
            batch.push(&history[step..], step).unwrap();
        }
        model.step_into(&batch, &mut caches, &rows, &mut logits).unwrap();
        for (index, (history, logits)) in histories.iter_mut().zip(logits.chunks_exact(vocabulary)).enumerate() {
            let choices =
                samplers.each_ref().map(|sampler| sampler.choose(logits, history, index as u64, &mut scratch).unwrap());
            history.push(choices[step % choices.len()]);
        }
    }
    COUNT.load(Ordering::Relaxed) - before
}

/// Generates with an engine and returns how many allocations the counted steps made.
fn generate(model: &LanguageModel, batch_size: usize) -> usize {
    let mut engine = Engine::new(model, EngineSettings::default()).unwrap();
    for (first, sampling) in (0..batch_size as u32).zip(samplings().iter().cycle()) {
        let request = Request::new([first + 5]).with_sampling(sampling.clone()).with_max_new_tokens(WARM + COUNTED + 9);
        engine.submit(request).unwrap();
    }
    let (mut before, mut tokens) = (0, 0);
    for step in 0..WARM + COUNTED {
        if step == WARM {
            before = COUNT.load(Ordering::Relaxed);
        }
        engine
            .step_with(&mut |_| {
                tokens += 1;
                Flow::Continue
            })
            .unwrap();
    }
    assert_eq!(tokens, batch_size * (WARM + COUNTED));
    COUNT.load(Ordering::Relaxed) - before
}

fn samplings() -> [Sampling; 3] {
    let drawn = Sampling::default().with_temperature(0.8).with_seed(Some(1));
    let all =
        drawn.clone().with_top_k(Some(40)).with_top_p(Some(0.9)).with_min_p(Some(0.05)).with_repetition_penalty(1.1);
    [Sampling::default(), drawn, all]
}

#[test]
fn decoding_allocates_nothing() {
    let files = model("nano-decoder");
    let isa = ettin::Isa::select().unwrap();
    for scheme in Scheme::ALL {
        let alone = LanguageModel::load(&files, &Backend::fused(isa, scheme, Team::single())).unwrap();
        for batch in [1, 8] {
            assert_eq!(decode(&alone, batch), 0, "{scheme}, {batch} sequences, one thread");
        }
    }
    // An engine's list of the caches of a step, whatever the number format.
    let plain = LanguageModel::load(&files, &Backend::fused(isa, Scheme::ALL[0], Team::single())).unwrap();
    for batch in [1, 8] {
        assert_eq!(generate(&plain, batch), COUNTED, "an engine of {batch} sequences");
    }
    // What waking the others costs: rayon boxes what it hands to a thread, once a step, and its queue takes a block for
    // every 63 of these. The work itself costs nothing, on any thread.
    let threads = 2;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pool = std::sync::Arc::new(pool);
    for scheme in Scheme::ALL {
        let together = LanguageModel::load(&files, &Backend::fused(isa, scheme, Team::on(pool.clone()))).unwrap();
        let alone = LanguageModel::load(&files, &Backend::fused(isa, scheme, Team::single())).unwrap();
        for batch in [1, 8] {
            // A thread has its scratch for good once it has worked, which no one can promise of every one in a few
            // steps.
            pool.broadcast(|_| decode(&alone, batch));
            let count = decode(&together, batch);
            let woken = COUNTED * (threads - 1);
            assert!(count <= woken + woken.div_ceil(63) + 1, "{count}: {scheme}, {batch} sequences");
        }
    }
}
