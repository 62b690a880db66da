//! Span attention: accuracy against f64, and bit equality however the queries and keys are laid out.

mod common;

use std::ops::Range;

use common::{Random, bits, relative_error};
use ettin_kernels::{
    Attention, Isa, KEY_BLOCK, KvBlocks, KvFormat, KvRows, KvWrite, Precision, Sequence, Span, Team, attention,
    attention::store, testing::each_isa,
};

/// Weights in 0..1, a few hundred keys: measured 1e-6 at worst.
const TOLERANCE: f64 = 2e-6;

/// One sequence's q, k and v, `[len, heads, dim]` each.
struct Input {
    heads: usize,
    dim: usize,
    len: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Input {
    fn new(seed: u64, heads: usize, dim: usize, len: usize) -> Self {
        let mut random = Random::new(seed);
        let mut side = |gain: f32| random.vector(len * heads * dim).iter().map(|x| x * gain).collect();
        // Gains that make the softmax peaked, so that maxima change along the row.
        Self { heads, dim, len, q: side(3.0), k: side(3.0), v: side(1.0) }
    }

    fn width(&self) -> usize {
        self.heads * self.dim
    }

    fn row(&self, row: usize) -> Range<usize> {
        row * self.width()..(row + 1) * self.width()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Storage that holds everything, with NaN wherever nothing was written.
    fn storage(&self) -> KvBlocks {
        let mut kv = poisoned(self.heads, self.dim, self.len);
        (0..self.len).for_each(|i| kv.write(i, &self.k[self.row(i)], &self.v[self.row(i)]));
        kv
    }

    fn args<'a>(&'a self, span: Span, sequences: &'a [Sequence<'a>]) -> Attention<'a> {
        Attention {
            q: &self.q,
            q_stride: self.width(),
            heads: self.heads,
            head_dim: self.dim,
            span,
            scale: self.scale(),
            precision: Precision::F32,
            sequences,
        }
    }

    /// All queries at once.
    fn whole(&self, isa: Isa, team: &Team, span: Span) -> Vec<f32> {
        let kv = self.storage();
        let mut out = vec![f32::NAN; self.len * self.width()];
        let sequences = [Sequence { rows: 0..self.len, start: 0, len: self.len, kv: &kv }];
        attention(isa, team, self.args(span, &sequences), &mut out);
        out
    }

    /// One query against any storage and length.
    fn one(&self, isa: Isa, span: Span, query: usize, len: usize, kv: &KvBlocks) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.width()];
        let sequences = [Sequence { rows: 0..1, start: query, len, kv }];
        let args = Attention { q: &self.q[self.row(query)], ..self.args(span, &sequences) };
        attention(isa, &Team::single(), args, &mut out);
        out
    }

    fn oracle(&self, span: Span) -> Vec<f64> {
        let mut out = vec![0.0; self.len * self.width()];
        let at = |x: &[f32], i: usize, h: usize| {
            x[self.row(i)][h * self.dim..(h + 1) * self.dim].iter().map(|&x| f64::from(x)).collect::<Vec<_>>()
        };
        for query in 0..self.len {
            for head in 0..self.heads {
                let q = at(&self.q, query, head);
                let keys: Vec<usize> = (0..self.len).filter(|&key| span.contains(query, key)).collect();
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&key| {
                        let k = at(&self.k, key, head);
                        q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale())
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                let out = &mut out[self.row(query)][head * self.dim..(head + 1) * self.dim];
                for (key, score) in keys.iter().zip(&scores) {
                    let weight = (score - largest).exp() / sum;
                    out.iter_mut().zip(at(&self.v, *key, head)).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
        out
    }
}

/// Storage whose every element is NaN.
fn poisoned(heads: usize, dim: usize, capacity: usize) -> KvBlocks {
    let mut kv = KvBlocks::new(heads, dim, capacity, KvFormat::F32);
    let nan = vec![f32::NAN; heads * dim];
    (0..kv.capacity()).for_each(|i| kv.write(i, &nan, &nan));
    kv
}

fn spans() -> Vec<Span> {
    let mut spans = vec![Span::FULL, Span::CAUSAL, Span { left: Some(0), right: Some(0) }];
    for window in [1, 7, 31, 32, 33, 63, 64] {
        spans.push(Span { left: Some(window), right: Some(0) });
        spans.push(Span { left: Some(window), right: Some(window) });
    }
    spans.push(Span { left: None, right: Some(5) });
    spans.push(Span { left: Some(5), right: None });
    spans
}

#[test]
fn agrees_with_f64_for_every_span_and_head_size() {
    each_isa(|isa| {
        let mut worst = 0.0f64;
        for (heads, dim, len) in [(1, 64, 1), (2, 64, 150), (3, 32, 97), (2, 16, 64), (1, 6, 40), (1, 40, 70)] {
            let input = Input::new(len as u64, heads, dim, len);
            for span in spans() {
                let error = relative_error(&input.whole(isa, &Team::single(), span), &input.oracle(span));
                worst = worst.max(error);
                assert!(error <= TOLERANCE, "{isa} heads {heads} dim {dim} len {len} {span:?}: {error:e}");
            }
        }
        println!("{isa}: worst {worst:e}");
    });
}

/// Keys at w − 1, w and w + 1 from the query: the first two count, the third must not.
#[test]
fn the_window_ends_where_it_should() {
    each_isa(|isa| {
        for window in [1usize, 31, 32, 63, 64] {
            let span = Span { left: Some(window), right: Some(window) };
            let input = Input::new(9, 1, 16, 200);
            let base = input.whole(isa, &Team::single(), span);
            for (distance, seen) in [(window - 1, true), (window, true), (window + 1, false)] {
                for side in [-1i64, 1] {
                    let key = (100 + side * distance as i64) as usize;
                    let mut changed = Input::new(9, 1, 16, 200);
                    changed.v[key * 16] += 100.0;
                    let out = changed.whole(isa, &Team::single(), span);
                    let row = input.row(100);
                    assert_eq!(bits(&out[row.clone()]) != bits(&base[row]), seen, "{isa} {window} {side} {distance}");
                }
            }
        }
    });
}

#[test]
fn a_query_alone_equals_the_whole() {
    each_isa(|isa| {
        let input = Input::new(11, 2, 64, 170);
        let kv = input.storage();
        for span in spans() {
            let whole = input.whole(isa, &Team::single(), span);
            for query in 0..input.len {
                let alone = input.one(isa, span, query, input.len, &kv);
                assert_eq!(bits(&alone), bits(&whole[input.row(query)]), "{isa} {span:?} query {query}");
            }
        }
    });
}

#[test]
fn chunks_equal_the_whole() {
    each_isa(|isa| {
        let input = Input::new(12, 2, 32, 190);
        for span in [Span::CAUSAL, Span { left: Some(63), right: Some(0) }, Span { left: Some(20), right: Some(0) }] {
            let whole = input.whole(isa, &Team::single(), span);
            for chunk in [1, 2, 5, 31, 32, 33, 48, 49, 100] {
                // Keys are stored as they come; what is not yet there is NaN.
                let mut kv = poisoned(2, 32, input.len);
                let mut out = vec![f32::NAN; input.len * input.width()];
                for start in (0..input.len).step_by(chunk) {
                    let end = (start + chunk).min(input.len);
                    (start..end).for_each(|i| kv.write(i, &input.k[input.row(i)], &input.v[input.row(i)]));
                    let sequences = [Sequence { rows: start..end, start, len: end, kv: &kv }];
                    attention(isa, &Team::single(), input.args(span, &sequences), &mut out);
                }
                assert_eq!(bits(&out), bits(&whole), "{isa} {span:?} chunks of {chunk}");
            }
        }
    });
}

#[test]
fn a_ring_equals_unbounded_storage_at_every_phase() {
    each_isa(|isa| {
        for (left, step) in [(63, 1), (63, 4), (31, 1), (32, 7), (0, 1), (5, 3)] {
            let span = Span { left: Some(left), right: Some(0) };
            let input = Input::new(13, 1, 16, 330);
            let whole = input.whole(isa, &Team::single(), span);
            let mut ring = poisoned(1, 16, left + step);
            assert!(ring.capacity() < input.len, "the ring must wrap");
            for start in (0..input.len).step_by(step) {
                let end = (start + step).min(input.len);
                (start..end).for_each(|i| ring.write(i, &input.k[input.row(i)], &input.v[input.row(i)]));
                for query in start..end {
                    let out = input.one(isa, span, query, end, &ring);
                    assert_eq!(bits(&out), bits(&whole[input.row(query)]), "{isa} {span:?} step {step} query {query}");
                }
            }
        }
    });
}

#[test]
fn packed_sequences_equal_lone_ones_on_any_team() {
    let teams = [Team::single(), Team::with_threads(2).unwrap(), Team::with_threads(3).unwrap()];
    each_isa(|isa| {
        let (heads, dim) = (3, 32);
        let inputs: Vec<_> =
            [5, 0, 1, 200, 33, 97].iter().map(|&len| Input::new(len as u64, heads, dim, len)).collect();
        let width = heads * dim;
        let total: usize = inputs.iter().map(|input| input.len).sum();
        // One buffer [tokens, q | k | v].
        let mut qkv = Vec::new();
        for input in &inputs {
            for i in 0..input.len {
                for side in [&input.q, &input.k, &input.v] {
                    qkv.extend(&side[input.row(i)]);
                }
            }
        }
        for span in [Span::FULL, Span { left: Some(20), right: Some(20) }, Span::CAUSAL] {
            for team in &teams {
                let mut storage: Vec<_> = inputs.iter().map(|input| poisoned(heads, dim, input.len)).collect();
                let mut first = 0;
                let rows: Vec<_> = inputs
                    .iter()
                    .map(|input| {
                        first += input.len;
                        first - input.len..first
                    })
                    .collect();
                let source = KvRows { k: &qkv[width..], v: &qkv[2 * width..], stride: 3 * width };
                let mut writes: Vec<_> = storage
                    .iter_mut()
                    .zip(&rows)
                    .map(|(kv, rows)| KvWrite { kv, position: 0, rows: rows.clone() })
                    .collect();
                store(team, source, &mut writes);
                let sequences: Vec<_> = storage
                    .iter()
                    .zip(&rows)
                    .map(|(kv, rows)| Sequence { rows: rows.clone(), start: 0, len: rows.len(), kv })
                    .collect();
                let args = Attention {
                    q: &qkv,
                    q_stride: 3 * width,
                    heads,
                    head_dim: dim,
                    span,
                    scale: inputs[0].scale(),
                    precision: Precision::F32,
                    sequences: &sequences,
                };
                let mut out = vec![f32::NAN; total * width];
                attention(isa, team, args, &mut out);
                let lone: Vec<f32> = inputs.iter().flat_map(|i| i.whole(isa, &Team::single(), span)).collect();
                assert_eq!(bits(&out), bits(&lone), "{isa} {span:?} {} threads", team.threads());
            }
        }
    });
}

/// `storage` fills unused slots with NaN already; infinities and old finite values must not matter either.
#[test]
fn what_lies_beyond_the_sequence_does_not_leak() {
    each_isa(|isa| {
        let input = Input::new(14, 1, 64, 45);
        let kv = input.storage();
        for span in spans() {
            let want = input.one(isa, span, 40, 41, &kv);
            for stale in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30] {
                let mut dirty = kv.clone();
                (41..dirty.capacity()).for_each(|i| dirty.write(i, &[stale; 64], &[stale; 64]));
                assert_eq!(bits(&input.one(isa, span, 40, 41, &dirty)), bits(&want), "{isa} {span:?} {stale}");
            }
            assert!(want.iter().all(|x| x.is_finite()));
        }
    });
}

/// A NaN inside the sequence but outside a row's window must stay out of that row, though not of its neighbours.
#[test]
fn a_nan_key_reaches_only_the_queries_that_see_it() {
    each_isa(|isa| {
        for span in [Span { left: Some(10), right: Some(10) }, Span::CAUSAL, Span { left: Some(33), right: Some(2) }] {
            let clean = Input::new(15, 1, 32, 140);
            let mut dirty = Input::new(15, 1, 32, 140);
            let bad = dirty.row(70);
            dirty.k[bad.clone()].fill(f32::NAN);
            dirty.v[bad].fill(f32::NAN);
            let (clean, dirty_out) = (clean.whole(isa, &Team::single(), span), dirty.whole(isa, &Team::single(), span));
            for query in 0..140 {
                let row = dirty.row(query);
                if span.contains(query, 70) {
                    assert!(dirty_out[row].iter().all(|x| x.is_nan()), "{isa} {span:?} query {query}");
                } else {
                    assert_eq!(bits(&dirty_out[row.clone()]), bits(&clean[row]), "{isa} {span:?} query {query}");
                }
            }
        }
    });
}

#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    let input = Input::new(16, 2, 64, 130);
    let mut first: Option<Vec<f32>> = None;
    each_isa(|isa| {
        let out = input.whole(isa, &Team::single(), Span { left: Some(64), right: Some(64) });
        match &first {
            Some(want) if isa.fused() => assert_eq!(bits(&out), bits(want), "{isa}"),
            Some(_) => {}
            None => first = Some(out),
        }
    });
}

#[test]
fn a_query_without_keys_gets_zeros() {
    each_isa(|isa| {
        let input = Input::new(17, 2, 16, 10);
        assert_eq!(input.one(isa, Span::CAUSAL, 3, 0, &KvBlocks::new(2, 16, 0, KvFormat::F32)), [0.0; 32]);
        assert_eq!(input.one(isa, Span { left: Some(2), right: Some(0) }, 9, 4, &input.storage()), [0.0; 32]);
    });
}

#[test]
fn huge_scores_stay_finite() {
    each_isa(|isa| {
        let mut input = Input::new(18, 1, 16, 100);
        input.q.iter_mut().for_each(|q| *q *= 1e4);
        let out = input.whole(isa, &Team::single(), Span::FULL);
        assert!(relative_error(&out, &input.oracle(Span::FULL)) < 1e-2); // scores of 1e5 have few digits left
    });
}

#[test]
fn storage_reads_back_and_grows() {
    let (heads, dim) = (2, 6);
    let mut random = Random::new(19);
    let rows: Vec<_> = (0..100).map(|_| (random.vector(heads * dim), random.vector(heads * dim))).collect();
    let mut kv = KvBlocks::new(heads, dim, 10, KvFormat::F32);
    for (i, (k, v)) in rows.iter().enumerate() {
        kv.grow((i + 1).next_power_of_two());
        kv.write(i, k, v);
    }
    let (mut k, mut v) = (vec![0.0; heads * dim], vec![0.0; heads * dim]);
    for (i, row) in rows.iter().enumerate() {
        kv.read(i, &mut k, &mut v);
        assert_eq!((&k, &v), (&row.0, &row.1), "position {i}");
    }
    let mut copy = kv.clone();
    copy.write(3, &rows[50].0, &rows[50].1);
    kv.read(3, &mut k, &mut v);
    assert_eq!((&k, &v), (&rows[3].0, &rows[3].1), "a clone is apart");
}

#[test]
fn any_run_of_the_asked_capacity_fits() {
    for capacity in 1..200 {
        let kv = KvBlocks::new(1, 2, capacity, KvFormat::F32);
        for first in 0..KEY_BLOCK {
            let blocks = (first + capacity - 1) / KEY_BLOCK - first / KEY_BLOCK + 1;
            assert!(blocks * KEY_BLOCK <= kv.capacity(), "{capacity} from {first}");
        }
    }
}

#[test]
#[should_panic(expected = "a ring of keys cannot grow")]
fn a_ring_cannot_grow() {
    let mut kv = KvBlocks::new(1, 2, 10, KvFormat::F32);
    kv.write(kv.capacity(), &[0.0; 2], &[0.0; 2]);
    kv.grow(1000);
}

#[test]
#[should_panic(expected = "not all stored")]
fn keys_that_were_overwritten_are_refused() {
    let input = Input::new(20, 1, 16, 200);
    input.one(Isa::best(), Span::CAUSAL, 199, 200, &KvBlocks::new(1, 16, 64, KvFormat::F32));
}
