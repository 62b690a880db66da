//! The key-value cache: decoding equals prefill bit for bit, at every ring phase, after truncation and forking.

mod common;

use candle_core::Device;
use common::{Fixture, assert_same, dtypes, model, values};
use ettin::{Backend, Dtype, KvCache, PackedBatch, heads::LanguageModel};

fn load(name: &str, dtype: Dtype) -> LanguageModel {
    LanguageModel::load(&model(name), &Backend::new(&Device::Cpu, dtype).unwrap()).unwrap()
}

/// The model in every number format.
fn all(name: &str) -> impl Iterator<Item = (Dtype, LanguageModel)> {
    dtypes().into_iter().map(move |dtype| (dtype, load(name, dtype)))
}

fn sequence(name: &str, len: usize) -> Vec<u32> {
    let longest = Fixture::load(name).sequences().into_iter().max_by_key(Vec::len).unwrap();
    longest.iter().cycle().take(len).copied().collect()
}

/// Logits of every row of one sequence, computed whole.
fn whole(model: &LanguageModel, ids: &[u32]) -> Vec<Vec<f32>> {
    let batch = PackedBatch::new(&[ids]).unwrap();
    let logits = model.logits(&batch, &(0..ids.len()).collect::<Vec<_>>()).unwrap();
    values(&logits).chunks(model.config().vocab_size).map(<[f32]>::to_vec).collect()
}

/// Feeds rows to a cache and returns their logits.
fn feed(model: &LanguageModel, cache: &mut KvCache, ids: &[u32]) -> Vec<Vec<f32>> {
    let batch = PackedBatch::continuing(&[ids], &[cache.len()]).unwrap();
    let rows: Vec<usize> = (0..ids.len()).collect();
    let logits = model.step(&batch, &mut [cache], &rows).unwrap();
    values(&logits).chunks(model.config().vocab_size).map(<[f32]>::to_vec).collect()
}

#[test]
fn any_chunking_equals_the_whole() {
    for name in ["tiny-decoder", "tiny-decoder-biases", "tiny-decoder-older"] {
        for (dtype, model) in all(name) {
            let ids = sequence(name, 120);
            let reference = whole(&model, &ids);
            for chunk in [1, 2, 3, 7, 31, 32, 33, 64, 120] {
                let mut cache = model.cache(chunk).unwrap();
                for (index, rows) in ids.chunks(chunk).enumerate() {
                    for (offset, logits) in feed(&model, &mut cache, rows).iter().enumerate() {
                        let position = index * chunk + offset;
                        let what = format!("{name}, {dtype}, chunks of {chunk}, position {position}");
                        assert_same(&what, logits, &reference[position]);
                    }
                }
                assert_eq!(cache.len(), ids.len());
            }
        }
    }
}

#[test]
fn rejected_rows_leave_no_trace_at_any_ring_phase() {
    let name = "tiny-decoder";
    let ids = sequence(name, 120);
    for (dtype, model) in all(name) {
        let reference = whole(&model, &ids);
        for drafts in 1..=9 {
            // All wrong at every position, or wrong from a different one on each time.
            for accepted in [|_, _| 0, |position: usize, drafts: usize| position * 7 % drafts] {
                let mut cache = model.cache(drafts + 1).unwrap();
                let mut position = 0;
                while position + drafts < ids.len() {
                    let right = 1 + accepted(position, drafts);
                    let mut rows = ids[position..position + right].to_vec();
                    rows.extend((right..=drafts).map(|draft| 100 + (position + draft) as u32 % 50));
                    let logits = feed(&model, &mut cache, &rows);
                    for (logits, position) in logits[..right].iter().zip(position..) {
                        let what = format!("{dtype}, {drafts} drafts, {right} right, position {position}");
                        assert_same(&what, logits, &reference[position]);
                    }
                    position += right;
                    cache.truncate(position).unwrap();
                    assert_eq!(cache.len(), position);
                }
            }
        }
    }
}

#[test]
fn memory_of_an_ended_sequence_leaves_no_trace_in_the_next() {
    let name = "tiny-decoder";
    for (dtype, model) in all(name) {
        let ids = sequence(name, 100);
        let reference = whole(&model, &ids[30..]);
        let mut cache = model.cache(16).unwrap();
        ids.chunks(16).for_each(|rows| drop(feed(&model, &mut cache, rows)));
        let held = cache.bytes();
        let fork = cache.fork();
        drop((cache, fork));
        // Twice, as two were dropped; another width of steps has rings of another size.
        for step in [16, 16, 7] {
            let mut cache = model.cache(step).unwrap();
            assert!(cache.is_empty());
            assert_eq!(cache.bytes() >= held, step == 16, "{dtype}: {} bytes", cache.bytes());
            for (index, rows) in ids[30..].chunks(step).enumerate() {
                for (offset, logits) in feed(&model, &mut cache, rows).iter().enumerate() {
                    let position = index * step + offset;
                    assert_same(&format!("{dtype}, position {position}"), logits, &reference[position]);
                }
            }
            std::mem::forget(cache);
        }
    }
}

#[test]
fn forks_go_on_independently() {
    let name = "tiny-decoder";
    for (_, model) in all(name) {
        fork_and_go_on(name, &model);
    }
}

fn fork_and_go_on(name: &str, model: &LanguageModel) {
    let shared = sequence(name, 40);
    let mut trunk = model.cache(40).unwrap();
    feed(model, &mut trunk, &shared);
    let mut forks = [trunk.fork(), trunk.fork(), trunk];
    for (index, fork) in forks.iter_mut().enumerate() {
        let mut all = shared.clone();
        for step in 0..20 {
            let next = 10 + (index * 31 + step * 7) as u32 % 200;
            all.push(next);
            let logits = feed(model, fork, &[next]);
            assert_same("a fork", &logits[0], whole(model, &all).last().unwrap());
        }
    }
}

#[test]
fn sequences_of_different_lengths_decode_together() {
    let name = "tiny-decoder";
    for (_, model) in all(name) {
        decode_together(name, &model);
    }
}

fn decode_together(name: &str, model: &LanguageModel) {
    let prompts: Vec<Vec<u32>> = [1, 9, 40, 77].map(|len| sequence(name, len)).to_vec();
    let mut caches: Vec<KvCache> = prompts.iter().map(|_| model.cache(77).unwrap()).collect();
    let mut texts = prompts.clone();
    let mut next = prompts;
    for step in 0..12 {
        let starts: Vec<usize> = caches.iter().map(KvCache::len).collect();
        let batch = PackedBatch::continuing(&next, &starts).unwrap();
        let last: Vec<usize> = (0..batch.sequences()).map(|index| batch.rows(index).end - 1).collect();
        let mut borrowed: Vec<&mut KvCache> = caches.iter_mut().collect();
        let logits = model.step(&batch, &mut borrowed, &last).unwrap();
        for (index, text) in texts.iter_mut().enumerate() {
            let ours = values(&logits.narrow(0, index, 1).unwrap());
            assert_same("a batched step", &ours, whole(model, text).last().unwrap());
            let token = 5 + (index * 13 + step * 29) as u32 % 240;
            text.push(token);
            next[index] = vec![token];
        }
    }
}

#[test]
fn misuse_is_refused_and_changes_nothing() {
    let model = load("tiny-decoder", Dtype::F32);
    let mut cache = model.cache(4).unwrap();
    let ids = sequence("tiny-decoder", 12);
    for chunk in ids.chunks(4) {
        feed(&model, &mut cache, chunk);
    }
    assert!(cache.truncate(13).is_err(), "longer than it is");
    assert!(cache.truncate(2).is_err(), "further back than local layers remember");
    let batch = PackedBatch::continuing(&[[1u32; 5]], &[12]).unwrap();
    assert!(model.step(&batch, &mut [&mut cache], &[]).is_err(), "more rows than a step allows");
    let batch = PackedBatch::continuing(&[[1u32; 1]], &[11]).unwrap();
    assert!(model.step(&batch, &mut [&mut cache], &[]).is_err(), "a gap before the step");
    let reference = whole(&model, &[ids.clone(), vec![77]].concat());
    assert_same("after misuse", &feed(&model, &mut cache, &[77])[0], &reference[12]);
    cache.truncate(0).unwrap();
    assert!(cache.is_empty());
    assert_same("after clearing", &feed(&model, &mut cache, &ids[..1])[0], &reference[0]);
    assert!(load("tiny-encoder", Dtype::F32).cache(4).is_err(), "encoders have no cache");
}

#[test]
fn the_models_last_position_is_the_limit() {
    let model = load("tiny-decoder", Dtype::F32);
    let limit = model.config().max_position_embeddings;
    let ids = sequence("tiny-decoder", limit);
    let mut cache = model.cache(limit).unwrap();
    feed(&model, &mut cache, &ids);
    let batch = PackedBatch::continuing(&[[7u32]], &[limit]).unwrap();
    let error = model.step(&batch, &mut [&mut cache], &[]).unwrap_err();
    assert!(error.to_string().contains(&limit.to_string()), "{error}");
}
