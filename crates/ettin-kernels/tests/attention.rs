//! Span attention: accuracy against f64, and bit equality however the queries and keys are laid out.

mod common;

use std::ops::Range;

use common::{Random, bits, relative_error};
use ettin_kernels::{
    Attention, Isa, KEY_BLOCK, KvBlocks, KvFormat, KvRows, KvWrite, Precision, Sequence, Span, Team, attention,
    attention::store, testing::each_isa,
};
use half::bf16;

/// f32 products, a few hundred keys: measured 2.3e-6 at worst.
const TOLERANCE: f64 = 3e-6;

/// bf16 products, of queries that are rounded already: what rounding weights to eight bits makes at most.
const BF16_TOLERANCE: f64 = 1.0 / 256.0;

/// How keys and values are kept, and how they are multiplied.
const NUMBERS: [(KvFormat, Precision); 5] = [
    (KvFormat::F32, Precision::F32),
    (KvFormat::Bf16, Precision::F32),
    (KvFormat::Int8, Precision::F32),
    (KvFormat::Bf16, Precision::Bf16),
    (KvFormat::Int8, Precision::Bf16),
];

/// Calls `test` for each instruction set and each of [`NUMBERS`].
fn each(mut test: impl FnMut(Isa, (KvFormat, Precision))) {
    each_isa(|isa| NUMBERS.into_iter().for_each(|numbers| test(isa, numbers)));
}

/// One sequence's q, k and v, `[len, heads, dim]` each.
struct Input {
    format: KvFormat,
    precision: Precision,
    heads: usize,
    dim: usize,
    len: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Input {
    fn new((format, precision): (KvFormat, Precision), seed: u64, heads: usize, dim: usize, len: usize) -> Self {
        let mut random = Random::new(seed);
        let mut side = |gain: f32| random.vector(len * heads * dim).iter().map(|x| x * gain).collect();
        // Gains that make the softmax peaked, so that maxima change along the row.
        Self { format, precision, heads, dim, len, q: side(3.0), k: side(3.0), v: side(1.0) }
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
        let mut kv = poisoned(self.format, self.heads, self.dim, self.len);
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
            precision: self.precision,
            sequences,
        }
    }

    /// All queries at once.
    fn whole(&self, isa: Isa, team: &Team, span: Span) -> Vec<f32> {
        let kv = self.storage();
        let mut out = vec![f32::NAN; self.len * self.width()];
        let sequences = [Sequence { rows: 0..self.len, start: 0, len: self.len, kv: kv.view() }];
        attention(isa, team, self.args(span, &sequences), &mut out);
        out
    }

    /// One query against any storage and length.
    fn one(&self, isa: Isa, span: Span, query: usize, len: usize, kv: &KvBlocks) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.width()];
        let sequences = [Sequence { rows: 0..1, start: query, len, kv: kv.view() }];
        let args = Attention { q: &self.q[self.row(query)], ..self.args(span, &sequences) };
        attention(isa, &Team::single(), args, &mut out);
        out
    }

    /// What the storage keeps of keys and values, and the queries as they are multiplied (by scale · log₂ e too).
    fn as_kept(&self) -> [Vec<f32>; 3] {
        let kv = self.storage();
        let scale = self.scale() * std::f32::consts::LOG2_E;
        let round = |x: f32| if self.precision == Precision::Bf16 { bf16::from_f32(x).to_f32() } else { x };
        let q = self.q.iter().map(|q| round(q * scale)).collect();
        let (mut k, mut v) = (self.k.clone(), self.v.clone());
        (0..self.len).for_each(|i| kv.read(i, &mut k[self.row(i)], &mut v[self.row(i)]));
        [q, k, v]
    }

    fn tolerance(&self) -> f64 {
        if self.precision == Precision::Bf16 { BF16_TOLERANCE } else { TOLERANCE }
    }

    fn oracle(&self, span: Span) -> Vec<f64> {
        let mut out = vec![0.0; self.len * self.width()];
        let [all_q, all_k, all_v] = self.as_kept();
        let at = |x: &[f32], i: usize, h: usize| {
            x[self.row(i)][h * self.dim..(h + 1) * self.dim].iter().map(|&x| f64::from(x)).collect::<Vec<_>>()
        };
        for query in 0..self.len {
            for head in 0..self.heads {
                let q = at(&all_q, query, head);
                let keys: Vec<usize> = (0..self.len).filter(|&key| span.contains(query, key)).collect();
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&key| {
                        let k = at(&all_k, key, head);
                        q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>()
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - largest).exp2()).sum();
                let out = &mut out[self.row(query)][head * self.dim..(head + 1) * self.dim];
                for (key, score) in keys.iter().zip(&scores) {
                    let weight = (score - largest).exp2() / sum;
                    out.iter_mut().zip(at(&all_v, *key, head)).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
        out
    }
}

/// Storage whose every element is NaN.
fn poisoned(format: KvFormat, heads: usize, dim: usize, capacity: usize) -> KvBlocks {
    let mut kv = KvBlocks::new(heads, dim, capacity, format);
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
    each(|isa, numbers| {
        let mut worst = 0.0f64;
        for (heads, dim, len) in [(1, 64, 1), (2, 64, 150), (3, 32, 97), (2, 16, 64), (1, 6, 40), (1, 40, 70)] {
            let input = Input::new(numbers, len as u64, heads, dim, len);
            for span in spans() {
                let error = relative_error(&input.whole(isa, &Team::single(), span), &input.oracle(span));
                worst = worst.max(error);
                assert!(
                    error <= input.tolerance(),
                    "{isa} {numbers:?} heads {heads} dim {dim} len {len} {span:?}: {error:e}"
                );
            }
        }
        println!("{isa} {numbers:?}: worst {worst:e}");
    });
}

/// Keys at w − 1, w and w + 1 from the query: the first two count, the third must not.
#[test]
fn the_window_ends_where_it_should() {
    each(|isa, numbers| {
        for window in [1usize, 31, 32, 63, 64] {
            let span = Span { left: Some(window), right: Some(window) };
            let input = Input::new(numbers, 9, 1, 16, 200);
            let base = input.whole(isa, &Team::single(), span);
            for (distance, seen) in [(window - 1, true), (window, true), (window + 1, false)] {
                for side in [-1i64, 1] {
                    let key = (100 + side * distance as i64) as usize;
                    let mut changed = Input::new(numbers, 9, 1, 16, 200);
                    changed.v[key * 16] += 100.0;
                    let out = changed.whole(isa, &Team::single(), span);
                    let row = input.row(100);
                    assert_eq!(
                        bits(&out[row.clone()]) != bits(&base[row]),
                        seen,
                        "{isa} {numbers:?} {window} {side} {distance}"
                    );
                }
            }
        }
    });
}

#[test]
fn a_query_alone_equals_the_whole() {
    each(|isa, numbers| {
        let input = Input::new(numbers, 11, 2, 64, 170);
        let kv = input.storage();
        for span in spans() {
            let whole = input.whole(isa, &Team::single(), span);
            for query in 0..input.len {
                let alone = input.one(isa, span, query, input.len, &kv);
                assert!(bits(&alone) == bits(&whole[input.row(query)]), "{isa} {numbers:?} {span:?} query {query}");
            }
        }
    });
}

/// Windows and sequences that end about a multiple of 128, where AMX corrects its sums.
#[test]
fn stretches_of_keys_end_where_they_should() {
    each(|isa, numbers| {
        let windows = [(127, 0), (128, 0), (129, 1), (64, 64), (0, 127), (1, 128), (255, 129)];
        let windows = windows.map(|(left, right)| Span { left: Some(left), right: Some(right) });
        for len in [127, 128, 129, 255, 257, 300] {
            let input = Input::new(numbers, 25 + len as u64, 1, 64, len);
            let kv = input.storage();
            for span in windows.into_iter().chain([Span::FULL, Span::CAUSAL]) {
                let whole = input.whole(isa, &Team::single(), span);
                let error = relative_error(&whole, &input.oracle(span));
                assert!(error <= input.tolerance(), "{isa} {numbers:?} {len} {span:?}: {error:e}");
                for query in [0, 1, 63, 64, 95, 126, 127, 128, 129, 191, 192, 254, 255, 256, 299] {
                    if query < len {
                        let alone = input.one(isa, span, query, len, &kv);
                        assert!(bits(&alone) == bits(&whole[input.row(query)]), "{isa} {numbers:?} {span:?} {query}");
                    }
                }
            }
        }
    });
}

/// What is hidden from some queries of a tile, on both sides of a multiple of 128, keys and values apart.
#[test]
fn hidden_numbers_that_are_not_finite_stay_hidden() {
    each(|isa, numbers| {
        for span in [Span::CAUSAL, Span { left: Some(64), right: Some(64) }, Span { left: Some(128), right: Some(3) }] {
            let clean = Input::new(numbers, 26, 2, 64, 290).whole(isa, &Team::single(), span);
            for (position, bad, in_keys) in
                [(127, f32::NAN, false), (128, f32::INFINITY, false), (128, f32::NAN, true), (260, f32::NAN, false)]
            {
                let mut input = Input::new(numbers, 26, 2, 64, 290);
                let row = input.row(position);
                let side = if in_keys { &mut input.k } else { &mut input.v };
                side[row].fill(bad);
                let out = input.whole(isa, &Team::single(), span);
                for query in 0..290 {
                    let row = input.row(query);
                    if span.contains(query, position) {
                        assert!(
                            out[row].iter().all(|x| !x.is_finite()),
                            "{isa} {numbers:?} {span:?} {position} {query}"
                        );
                    } else {
                        assert!(
                            bits(&out[row.clone()]) == bits(&clean[row]),
                            "{isa} {numbers:?} {span:?} {position} {query}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn chunks_equal_the_whole() {
    each(|isa, numbers| {
        let input = Input::new(numbers, 12, 2, 32, 190);
        for span in [Span::CAUSAL, Span { left: Some(63), right: Some(0) }, Span { left: Some(20), right: Some(0) }] {
            let whole = input.whole(isa, &Team::single(), span);
            for chunk in [1, 2, 5, 31, 32, 33, 48, 49, 100] {
                // Keys are stored as they come; what is not yet there is NaN.
                let mut kv = poisoned(numbers.0, 2, 32, input.len);
                let mut out = vec![f32::NAN; input.len * input.width()];
                for start in (0..input.len).step_by(chunk) {
                    let end = (start + chunk).min(input.len);
                    (start..end).for_each(|i| kv.write(i, &input.k[input.row(i)], &input.v[input.row(i)]));
                    let sequences = [Sequence { rows: start..end, start, len: end, kv: kv.view() }];
                    attention(isa, &Team::single(), input.args(span, &sequences), &mut out);
                }
                assert!(bits(&out) == bits(&whole), "{isa} {numbers:?} {span:?} chunks of {chunk}");
            }
        }
    });
}

#[test]
fn a_ring_equals_unbounded_storage_at_every_phase() {
    each(|isa, numbers| {
        for (left, step) in [(63, 1), (63, 4), (31, 1), (32, 7), (0, 1), (5, 3), (127, 1), (128, 5), (200, 3)] {
            let span = Span { left: Some(left), right: Some(0) };
            let input = Input::new(numbers, 13, 1, 16, 330);
            let whole = input.whole(isa, &Team::single(), span);
            let mut ring = poisoned(numbers.0, 1, 16, left + step);
            assert!(ring.capacity() < input.len, "the ring must wrap");
            for start in (0..input.len).step_by(step) {
                let end = (start + step).min(input.len);
                (start..end).for_each(|i| ring.write(i, &input.k[input.row(i)], &input.v[input.row(i)]));
                for query in start..end {
                    let out = input.one(isa, span, query, end, &ring);
                    assert!(
                        bits(&out) == bits(&whole[input.row(query)]),
                        "{isa} {numbers:?} {span:?} step {step} query {query}"
                    );
                }
            }
        }
    });
}

#[test]
fn packed_sequences_equal_lone_ones_on_any_team() {
    let teams = [Team::single(), Team::with_threads(2).unwrap(), Team::with_threads(3).unwrap()];
    each(|isa, numbers| {
        let (heads, dim) = (3, 32);
        let inputs: Vec<_> =
            [5, 0, 1, 200, 33, 97].iter().map(|&len| Input::new(numbers, len as u64, heads, dim, len)).collect();
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
                let mut storage: Vec<_> =
                    inputs.iter().map(|input| poisoned(numbers.0, heads, dim, input.len)).collect();
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
                store(isa, team, source, &mut writes);
                let sequences: Vec<_> = storage
                    .iter()
                    .zip(&rows)
                    .map(|(kv, rows)| Sequence { rows: rows.clone(), start: 0, len: rows.len(), kv: kv.view() })
                    .collect();
                let args = Attention {
                    q: &qkv,
                    q_stride: 3 * width,
                    heads,
                    head_dim: dim,
                    span,
                    scale: inputs[0].scale(),
                    precision: numbers.1,
                    sequences: &sequences,
                };
                let mut out = vec![f32::NAN; total * width];
                attention(isa, team, args, &mut out);
                let lone: Vec<f32> = inputs.iter().flat_map(|i| i.whole(isa, &Team::single(), span)).collect();
                assert!(bits(&out) == bits(&lone), "{isa} {numbers:?} {span:?} {} threads", team.threads());
            }
        }
    });
}

/// `storage` fills unused slots with NaN already; infinities and old finite values must not matter either.
#[test]
fn what_lies_beyond_the_sequence_does_not_leak() {
    each(|isa, numbers| {
        let input = Input::new(numbers, 14, 1, 64, 45);
        let kv = input.storage();
        for span in spans() {
            let want = input.one(isa, span, 40, 41, &kv);
            for stale in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30] {
                let mut dirty = kv.clone();
                (41..dirty.capacity()).for_each(|i| dirty.write(i, &[stale; 64], &[stale; 64]));
                assert!(
                    bits(&input.one(isa, span, 40, 41, &dirty)) == bits(&want),
                    "{isa} {numbers:?} {span:?} {stale}"
                );
            }
            assert!(want.iter().all(|x| x.is_finite()));
        }
    });
}

/// A NaN inside the sequence but outside a row's window must stay out of that row, though not of its neighbours.
#[test]
fn a_nan_key_reaches_only_the_queries_that_see_it() {
    each(|isa, numbers| {
        for span in [Span { left: Some(10), right: Some(10) }, Span::CAUSAL, Span { left: Some(33), right: Some(2) }] {
            let clean = Input::new(numbers, 15, 1, 32, 140);
            let mut dirty = Input::new(numbers, 15, 1, 32, 140);
            let bad = dirty.row(70);
            dirty.k[bad.clone()].fill(f32::NAN);
            dirty.v[bad].fill(f32::NAN);
            let (clean, dirty_out) = (clean.whole(isa, &Team::single(), span), dirty.whole(isa, &Team::single(), span));
            for query in 0..140 {
                let row = dirty.row(query);
                if span.contains(query, 70) {
                    assert!(dirty_out[row].iter().all(|x| x.is_nan()), "{isa} {numbers:?} {span:?} query {query}");
                } else {
                    assert!(
                        bits(&dirty_out[row.clone()]) == bits(&clean[row]),
                        "{isa} {numbers:?} {span:?} query {query}"
                    );
                }
            }
        }
    });
}

/// So does one that is infinite in its value alone: weight 0 times ∞ would be NaN.
#[test]
fn an_infinite_value_reaches_only_the_queries_that_see_it() {
    each(|isa, numbers| {
        for span in [Span { left: Some(10), right: Some(10) }, Span::CAUSAL] {
            let clean = Input::new(numbers, 21, 1, 32, 140);
            let mut dirty = Input::new(numbers, 21, 1, 32, 140);
            let bad = dirty.row(71);
            dirty.v[bad].fill(f32::INFINITY);
            let (clean, dirty_out) = (clean.whole(isa, &Team::single(), span), dirty.whole(isa, &Team::single(), span));
            for query in 0..140 {
                let row = dirty.row(query);
                let same = bits(&dirty_out[row.clone()]) == bits(&clean[row]);
                assert_eq!(same, !span.contains(query, 71), "{isa} {numbers:?} {span:?} query {query}");
            }
        }
    });
}

/// Products too small for an f32 leave zeros whose sign must not tell whether a neighbour saw more keys.
#[test]
fn vanishing_values_give_the_same_zeros_alone() {
    each(|isa, numbers| {
        let mut input = Input::new(numbers, 24, 1, 16, 70);
        input.q.fill(1.0);
        input.k.fill(0.0);
        input.v.fill(-1.5 * f32::MIN_POSITIVE);
        input.k[..16].fill(4.0);
        input.v[..16].fill(0.0);
        let kv = input.storage();
        let whole = input.whole(isa, &Team::single(), Span::CAUSAL);
        for query in 0..70 {
            let alone = input.one(isa, Span::CAUSAL, query, 70, &kv);
            assert!(bits(&alone) == bits(&whole[input.row(query)]), "{isa} {numbers:?} query {query}");
        }
    });
}

#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    for numbers in NUMBERS {
        let input = Input::new(numbers, 16, 2, 64, 130);
        let mut first: Option<Vec<f32>> = None;
        each_isa(|isa| {
            let out = input.whole(isa, &Team::single(), Span { left: Some(64), right: Some(64) });
            if isa == Isa::Amx && numbers.1 == Precision::Bf16 {
                return; // in an order of its own, as near to f64 as the others
            }
            match &first {
                Some(want) if isa.has_fma() => assert!(bits(&out) == bits(want), "{isa} {numbers:?}"),
                Some(_) => {}
                None => first = Some(out),
            }
        });
    }
}

#[test]
fn keys_kept_in_f32_are_multiplied_in_f32() {
    each_isa(|isa| {
        let [want, got] = [Precision::F32, Precision::Bf16].map(|precision| {
            let input = Input::new((KvFormat::F32, precision), 22, 2, 32, 70);
            input.whole(isa, &Team::single(), Span::CAUSAL)
        });
        assert!(bits(&got) == bits(&want), "{isa}");
    });
}

#[test]
fn a_query_without_keys_gets_zeros() {
    each(|isa, numbers| {
        let input = Input::new(numbers, 17, 2, 16, 10);
        assert_eq!(input.one(isa, Span::CAUSAL, 3, 0, &KvBlocks::new(2, 16, 0, numbers.0)), [0.0; 32]);
        assert_eq!(input.one(isa, Span { left: Some(2), right: Some(0) }, 9, 4, &input.storage()), [0.0; 32]);
    });
}

#[test]
fn huge_scores_stay_finite() {
    each(|isa, numbers| {
        let mut input = Input::new(numbers, 18, 1, 16, 100);
        input.q.iter_mut().for_each(|q| *q *= 1e4);
        let out = input.whole(isa, &Team::single(), Span::FULL);
        let error = relative_error(&out, &input.oracle(Span::FULL));
        assert!(error < 1e-2, "{isa} {numbers:?}: {error:e}"); // scores of 1e5 have few digits left
    });
}

#[test]
fn storage_reads_back_and_grows() {
    let (heads, dim) = (2, 7);
    let mut random = Random::new(19);
    let rows: Vec<_> = (0..100).map(|_| (random.vector(heads * dim), random.vector(heads * dim))).collect();
    for format in KvFormat::ALL {
        let kept = |x: &[f32]| -> Vec<f32> {
            x.chunks(dim)
                .flat_map(|x| {
                    let scale = x.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
                    x.iter().map(move |&x| match format {
                        KvFormat::F32 => x,
                        KvFormat::Bf16 => bf16::from_f32(x).to_f32(),
                        KvFormat::Int8 => (x / scale).round() * scale,
                    })
                })
                .collect()
        };
        let mut kv = KvBlocks::new(heads, dim, 10, format);
        for (i, (k, v)) in rows.iter().enumerate() {
            kv.grow((i + 1).next_power_of_two());
            kv.write(i, k, v);
        }
        let (mut k, mut v) = (vec![0.0; heads * dim], vec![0.0; heads * dim]);
        for (i, row) in rows.iter().enumerate() {
            kv.read(i, &mut k, &mut v);
            assert_eq!((&k, &v), (&kept(&row.0), &kept(&row.1)), "{format} position {i}");
        }
        let mut copy = kv.clone();
        copy.write(3, &rows[50].0, &rows[50].1);
        kv.read(3, &mut k, &mut v);
        assert_eq!((&k, &v), (&kept(&rows[3].0), &kept(&rows[3].1)), "{format}: a clone is apart");
        copy.write(2, &rows[51].0, &rows[51].1);
        copy.read(3, &mut k, &mut v);
        assert_eq!((&k, &v), (&kept(&rows[50].0), &kept(&rows[50].1)), "{format}: neighbours are apart");
    }
}

#[test]
fn positions_are_kept_alike_one_by_one_and_together() {
    each_isa(|isa| {
        for (heads, dim) in [(2, 7), (1, 64), (3, 80), (2, 130)] {
            let (tokens, width) = (101, heads * dim);
            let source = Random::new(20).vector(tokens * 2 * width);
            let source = KvRows { k: &source, v: &source[width..], stride: 2 * width };
            for format in KvFormat::ALL {
                let stored = |cuts: &[usize]| {
                    let mut kv = KvBlocks::new(heads, dim, tokens, format);
                    for cut in cuts.windows(2) {
                        let mut write = [KvWrite { kv: &mut kv, position: cut[0], rows: cut[0]..cut[1] }];
                        store(isa, &Team::single(), source, &mut write);
                    }
                    let (mut k, mut v) = (vec![0.0; width], vec![0.0; width]);
                    let read = |position| {
                        kv.read(position, &mut k, &mut v);
                        [bits(&k), bits(&v)]
                    };
                    (0..tokens).map(read).collect::<Vec<_>>()
                };
                let singly = stored(&(0..=tokens).collect::<Vec<_>>());
                for cuts in [&[0, tokens][..], &[0, 1, 32, 63, tokens], &[0, 40, 64, 77, tokens]] {
                    assert_eq!(stored(cuts), singly, "{isa} {format} {heads}x{dim}: {cuts:?}");
                }
            }
        }
    });
}

#[test]
fn what_is_not_finite_spoils_its_own_vector_only() {
    let mut kv = KvBlocks::new(2, 4, 10, KvFormat::Int8);
    for bad in [f32::NAN, f32::INFINITY] {
        kv.write(0, &[0.0, bad, 0.0, 0.0, 1.0, -2.0, 0.5, 0.0], &[0.0; 8]);
        let (mut k, mut v) = ([1.0; 8], [1.0; 8]);
        kv.read(0, &mut k, &mut v);
        assert!(k[..4].iter().all(|k| k.is_nan()), "{k:?}");
        assert!(k[4..].iter().all(|k| k.is_finite()) && k[5] == -2.0, "{k:?}");
        assert_eq!(v, [0.0; 8]);
    }
}

#[test]
fn memory_follows_the_format() {
    let [f32, bf16, int8] = KvFormat::ALL.map(|format| KvBlocks::new(12, 64, 4096, format).bytes());
    assert_eq!(f32, (4096 + KEY_BLOCK) * 12 * 2 * 64 * 4);
    assert_eq!(bf16 * 2, f32);
    assert_eq!(int8, f32 / 4 + (4096 + KEY_BLOCK) * 12 * 2 * 4);
}

#[test]
fn names_of_formats_round_trip() {
    for format in KvFormat::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    let error = "int4".parse::<KvFormat>().unwrap_err().to_string();
    assert!(error.contains("int4") && error.contains("f32, bf16, int8"), "{error}");
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
    let input = Input::new(NUMBERS[0], 20, 1, 16, 200);
    input.one(Isa::best(), Span::CAUSAL, 199, 200, &KvBlocks::new(1, 16, 64, KvFormat::F32));
}
