//! The packed product in every scheme: accuracy against f64, and bit equality under every cut.

mod common;

use common::{Random, bits, relative_error};
use ettin_kernels::{
    Isa, PackedActivations, PackedWeight, Quantization, QuantizedRow, Scheme, Store, Team, gemm,
    rounded as rounded_rows,
    testing::{each_isa, tolerance},
};
use half::bf16;

/// Magnitude of the largest activation of `w8` and `w4` where these are in fixed point.
const LARGEST: f32 = 32_639.0;

fn in_fixed_point(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    let there = std::arch::is_x86_feature_detected!("avx512vnni") && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let there = false;
    there && isa >= Isa::Avx512
}

fn each(mut test: impl FnMut(Isa, Scheme)) {
    each_isa(|isa| Scheme::ALL.into_iter().for_each(|scheme| test(isa, scheme)));
}

fn pack(isa: Isa, scheme: Scheme, team: &Team, w: &[f32], n: usize, k: usize) -> PackedWeight {
    PackedWeight::pack(isa, scheme, team, n, k, &|row, out| out.copy_from_slice(&w[row * k..(row + 1) * k]))
}

fn multiply(team: &Team, x: &[f32], m: usize, w: &PackedWeight, bias: Option<&[f32]>, store: Store, out: &mut [f32]) {
    let (mut operand, k) = (PackedActivations::new(), w.k());
    operand.produce(team, w, m, &|rows, out| out.copy_from_slice(&x[rows.start * k..rows.end * k]));
    gemm(team, &operand, w, bias, store, out);
}

fn product(team: &Team, x: &[f32], w: &PackedWeight, m: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.n()];
    multiply(team, x, m, w, None, Store::Write, &mut out);
    out
}

/// The activations that a scheme multiplies.
fn rounded(isa: Isa, scheme: Scheme, x: &[f32], k: usize) -> Vec<f64> {
    let integers = |x: &[f32], largest: f32| -> Vec<f64> {
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = if most > 0.0 { largest / most } else { 0.0 };
        x.iter().map(|x| f64::from((x * scale).round_ties_even()) * f64::from(most / largest)).collect()
    };
    let row = |x: &[f32]| -> Vec<f64> {
        match scheme {
            Scheme::Bf16 => x.iter().map(|&x| bf16::from_f32(x).to_f64()).collect(),
            Scheme::Int8 => integers(x, 127.0),
            Scheme::W8 | Scheme::W4 if in_fixed_point(isa) => x.chunks(64).flat_map(|x| integers(x, LARGEST)).collect(),
            _ => x.iter().map(|&x| f64::from(x)).collect(),
        }
    };
    x.chunks(k.max(1)).flat_map(row).collect()
}

fn oracle(x: &[f32], w: &PackedWeight, bias: &[f32], before: &[f32]) -> Vec<f64> {
    let (n, k) = (w.n(), w.k());
    let x = rounded(w.isa(), w.scheme(), x, k);
    let mut stored = vec![vec![0.0f32; k]; n];
    for (row, out) in stored.iter_mut().enumerate() {
        w.row(row, out);
    }
    let dot = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a * f64::from(b)).sum::<f64>();
    (0..before.len())
        .map(|i| {
            let (row, column) = (i / n, i % n);
            dot(&x[row * k..(row + 1) * k], &stored[column]) + f64::from(bias[column]) + f64::from(before[i])
        })
        .collect()
}

#[test]
fn agrees_with_f64_for_odd_shapes() {
    each(|isa, scheme| {
        let mut random = Random::new(1);
        let team = Team::single();
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 29, 33] {
            for n in [1, 15, 16, 17, 33, 64, 130] {
                for k in [1, 2, 3, 31, 33, 256, 257, 700] {
                    let (x, w) = (random.vector(m * k), random.vector(n * k));
                    let (bias, before) = (random.vector(n), random.vector(m * n));
                    let packed = pack(isa, scheme, &team, &w, n, k);
                    let zeros = vec![0.0; m * n];
                    let no_bias = vec![0.0; n];
                    for (bias, store) in [
                        (None, Store::Write),
                        (Some(&bias), Store::Write),
                        (None, Store::Add),
                        (Some(&bias), Store::Add),
                    ] {
                        let start = if store == Store::Add { &before } else { &zeros };
                        let mut out = if store == Store::Add { before.clone() } else { vec![f32::NAN; m * n] };
                        multiply(&team, &x, m, &packed, bias.map(|b| &b[..]), store, &mut out);
                        let want = oracle(&x, &packed, bias.unwrap_or(&no_bias), start);
                        // Of a few outputs, all may happen to be small.
                        let size = 0.3 * (k as f64).sqrt();
                        let most = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                        let error = relative_error(&out, &want) * most / most.max(size);
                        assert!(error <= tolerance(isa, scheme), "{isa} {scheme} {m}x{n}x{k} {store:?}: {error:e}");
                    }
                }
            }
        }
    });
}

#[test]
fn agrees_with_f64_for_long_sums() {
    each(|isa, scheme| {
        let mut random = Random::new(2);
        let (m, n, k) = (17, 40, 4096);
        let (x, w) = (random.vector(m * k), random.vector(n * k));
        let w = pack(isa, scheme, &Team::single(), &w, n, k);
        let out = product(&Team::single(), &x, &w, m);
        let error = relative_error(&out, &oracle(&x, &w, &vec![0.0; n], &vec![0.0; m * n]));
        println!("{isa} {scheme}: {error:e}");
        assert!(error <= tolerance(isa, scheme), "{isa} {scheme}: {error:e}");
    });
}

#[test]
fn empty_shapes_are_fine() {
    each(|isa, scheme| {
        let team = Team::single();
        assert!(product(&team, &[], &pack(isa, scheme, &team, &[1.0; 6], 2, 3), 0).is_empty());
        assert!(product(&team, &[1.0; 3], &pack(isa, scheme, &team, &[], 0, 3), 1).is_empty());
        // Without inputs the sum is empty.
        assert_eq!(product(&team, &[], &pack(isa, scheme, &team, &[], 5, 0), 2), [0.0; 10]);
    });
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    each(|isa, scheme| {
        let mut random = Random::new(3);
        let team = Team::single();
        for (n, k) in [(100, 300), (64, 64), (33, 1000), (100, 1100)] {
            let m = 100;
            let (x, w) = (random.vector(m * k), random.vector(n * k));
            let packed = pack(isa, scheme, &team, &w, n, k);
            let whole = product(&team, &x, &packed, m);
            for group in (1..=17).chain([28, 29, 31, 32, 33, 40, 48]) {
                for first in (0..m).step_by(group) {
                    let rows = first..(first + group).min(m);
                    let part = product(&team, &x[rows.start * k..rows.end * k], &packed, rows.len());
                    let want = &whole[rows.start * n..rows.end * n];
                    assert_eq!(bits(&part), bits(want), "{isa} {scheme}: rows {rows:?} of {m}x{n}x{k}");
                }
            }
        }
    });
}

#[test]
fn columns_do_not_depend_on_their_neighbours() {
    each(|isa, scheme| {
        let mut random = Random::new(4);
        let team = Team::single();
        let (m, n, k) = (9, 200, 520);
        let (x, w) = (random.vector(m * k), random.vector(n * k));
        let whole = product(&team, &x, &pack(isa, scheme, &team, &w, n, k), m);
        for columns in [0..1, 0..200, 3..40, 31..33, 100..197, 199..200] {
            let part = &w[columns.start * k..columns.end * k];
            let out = product(&team, &x, &pack(isa, scheme, &team, part, columns.len(), k), m);
            for row in 0..m {
                let want = &whole[row * n..][columns.clone()];
                assert_eq!(bits(&out[row * columns.len()..][..columns.len()]), bits(want), "{isa} {columns:?}");
            }
        }
    });
}

#[test]
fn threads_change_no_bit() {
    let teams = [Team::with_threads(2).unwrap(), Team::with_threads(3).unwrap()];
    each(|isa, scheme| {
        let mut random = Random::new(5);
        for (m, n, k) in [(1, 2000, 700), (3, 777, 512), (50, 300, 300), (700, 100, 90), (500, 65, 257)] {
            let (x, w) = (random.vector(m * k), random.vector(n * k));
            let alone = product(&Team::single(), &x, &pack(isa, scheme, &Team::single(), &w, n, k), m);
            for team in &teams {
                let out = product(team, &x, &pack(isa, scheme, team, &w, n, k), m);
                assert_eq!(bits(&out), bits(&alone), "{isa}, {} threads, {m}x{n}x{k}", team.threads());
            }
        }
    });
}

#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    let mut random = Random::new(6);
    let (m, n, k) = (23, 90, 777);
    let (x, w) = (random.vector(m * k), random.vector(n * k));
    for scheme in Scheme::ALL {
        // Products of bf16 are exact in f32, and sums of bytes are exact.
        let portable_too = !matches!(scheme, Scheme::F32 | Scheme::W8 | Scheme::W4);
        let split = matches!(scheme, Scheme::Bf16 | Scheme::Bf16x3 | Scheme::Bf16x6);
        let wide = matches!(scheme, Scheme::W8 | Scheme::W4);
        let mut first: [Option<(Isa, Vec<f32>)>; 2] = [None, None];
        each_isa(|isa| {
            if isa == Isa::Amx && split {
                return; // it adds in another order
            }
            let out = product(&Team::single(), &x, &pack(isa, scheme, &Team::single(), &w, n, k), m);
            // With VNNI, these are computed in another way.
            let first = &mut first[usize::from(wide && in_fixed_point(isa))];
            match first {
                Some((other, want)) if isa.has_fma() || portable_too => {
                    assert!(bits(&out) == bits(want), "{scheme} {isa} and {other}")
                }
                Some(_) => {}
                None => *first = Some((isa, out)),
            }
        });
    }
}

/// `w8` and `w4` with VNNI, number by number: a block's exact sum of integers, rounded, times the scales, added in f32.
#[test]
fn fixed_point_products_are_what_their_definition_says() {
    let mut random = Random::new(19);
    let (m, n, k) = (9, 50, 200);
    let (x, w) = (random.vector(m * k), random.vector(n * k));
    for (scheme, quantization) in [(Scheme::W8, Quantization::W8), (Scheme::W4, Quantization::W4)] {
        let mut want = vec![0.0f32; m * n];
        for (i, want) in want.iter_mut().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let (mut codes, mut scales) = (vec![0; quantization.code_bytes(k)], vec![0; quantization.scale_bytes(k)]);
            quantization.quantize(w, &mut codes, &mut scales);
            let block = if scheme == Scheme::W8 { 64 } else { 32 };
            let weight = |i: usize| match scheme {
                Scheme::W8 => i64::from(codes[i] as i8),
                _ => i64::from(codes[i / 2] >> (4 * (i % 2)) & 15) - 8,
            };
            let mut sum = 0.0f32;
            for first in (0..k).step_by(block) {
                let group = &x[first / 64 * 64..k.min(first / 64 * 64 + 64)];
                let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let integer = |x: f32| i64::from((x * (LARGEST / most)).round_ties_even() as i32);
                let inputs = x.iter().enumerate().take(first + block).skip(first);
                let number = inputs.map(|(i, &x)| integer(x) * weight(i)).sum::<i64>() as f32;
                let row = most / LARGEST;
                let factor = match scheme {
                    Scheme::W8 => row,
                    _ => row * bf16::from_le_bytes([scales[first / 16], scales[first / 16 + 1]]).to_f32(),
                };
                sum = number.mul_add(factor, sum);
            }
            *want = match scheme {
                Scheme::W8 => sum * f32::from_le_bytes(scales[..4].try_into().unwrap()),
                _ => sum,
            };
        }
        each_isa(|isa| {
            if in_fixed_point(isa) {
                let out = product(&Team::single(), &x, &pack(isa, scheme, &Team::single(), &w, n, k), m);
                let differs = bits(&out).iter().zip(bits(&want)).position(|(a, b)| *a != b);
                assert_eq!(differs, None, "{isa} {scheme}");
            }
        });
    }
}

#[test]
fn nothing_is_read_or_written_outside() {
    each(|isa, scheme| {
        let mut random = Random::new(7);
        let team = Team::single();
        for (m, n, k) in [(1, 33, 40), (7, 5, 9), (14, 47, 30), (5, 129, 17)] {
            let (x, w) = (random.vector(m * k), random.vector(n * k));
            let packed = pack(isa, scheme, &team, &w, n, k);
            let want = product(&team, &x, &packed, m);
            for shift in 0..5 {
                let mut around = vec![f32::NAN; shift];
                around.extend(&x);
                around.push(f32::NAN);
                let mut out = vec![7.0; shift + m * n + 1];
                multiply(&team, &around[shift..][..m * k], m, &packed, None, Store::Write, &mut out[shift..][..m * n]);
                assert_eq!(bits(&out[shift..][..m * n]), bits(&want), "{isa} shift {shift}");
                assert!(out[..shift].iter().chain(&out[shift + m * n..]).all(|&x| x == 7.0));
            }
        }
    });
}

#[test]
fn a_row_comes_back_as_well_as_the_scheme_keeps_it() {
    each(|isa, scheme| {
        let mut random = Random::new(8);
        let (n, k) = (75, 130);
        let w = random.vector(n * k);
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let packed = PackedWeight::pack(isa, scheme, &Team::with_threads(2).unwrap(), n, k, &|row, out| {
            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            out.copy_from_slice(&w[row * k..(row + 1) * k]);
        });
        assert_eq!(calls.into_inner(), n, "each row is read once");
        assert_eq!((packed.n(), packed.k(), packed.isa(), packed.scheme()), (n, k, isa, scheme));
        let (bits, error) = match scheme {
            Scheme::F32 => (32.0, 0.0),
            Scheme::Bf16 => (16.0, 2f32.powi(-9)),
            Scheme::Bf16x3 => (32.0, 2f32.powi(-17)),
            Scheme::Bf16x6 => (48.0, 2f32.powi(-25)),
            Scheme::Int8 | Scheme::W8 => (8.0, 0.5 / 127.0),
            // A step and more: of the two ends of the range, only one fits.
            Scheme::W4 => (4.5, 0.16),
        };
        let full = (packed.bytes() * 8) as f32 / bits;
        // Whole panels of 32 outputs, and whole AMX tiles of 64 inputs.
        assert!(full >= (n * k) as f32 && full <= ((n + 32) * (k + 70)) as f32, "{scheme} {}", packed.bytes());
        let mut row = vec![0.0; k];
        for n in 0..n {
            packed.row(n, &mut row);
            for (got, want) in row.iter().zip(&w[n * k..]) {
                assert!((got - want).abs() <= error, "{isa} {scheme}: {got} for {want}");
            }
        }
    });
}

#[test]
fn rows_are_rounded_to_what_packing_keeps_of_them() {
    each(|isa, scheme| {
        let mut random = Random::new(18);
        for (n, k) in [(1, 64), (16, 130), (37, 33), (3, 1)] {
            let mut w = random.vector(n * k);
            let packed = pack(isa, scheme, &Team::single(), &w, n, k);
            let mut kept = vec![0.0; n * k];
            let ids: Vec<u32> = (0..n as u32).collect();
            packed.rows(&ids, &mut kept);
            rounded_rows(isa, scheme, k, &mut w);
            assert_eq!(bits(&w), bits(&kept), "{isa}, {scheme}, [{n}, {k}]");
        }
        rounded_rows(isa, scheme, 5, &mut []);
    });
}

#[test]
fn four_bits_keep_most_of_a_weight() {
    let mut random = Random::new(9);
    let (n, k) = (64, 512);
    let w = random.vector(n * k);
    let packed = pack(Isa::Portable, Scheme::W4, &Team::single(), &w, n, k);
    let (mut error, mut row) = (0.0, vec![0.0; k]);
    for n in 0..n {
        packed.row(n, &mut row);
        error += row.iter().zip(&w[n * k..]).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    }
    // A uniform weight rounded to sixteen even steps of 1/8 errs by 1/8 / √12.
    let error = (error / (n * k) as f32).sqrt();
    assert!(error < 0.04, "{error}");
}

#[test]
fn what_is_not_finite_is_not_hidden() {
    each(|isa, scheme| {
        let team = Team::single();
        let (m, n, k) = (3, 40, 70);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![0.5; m * k];
            x[k + 7] = bad;
            let out = product(&team, &x, &pack(isa, scheme, &team, &vec![0.25; n * k], n, k), m);
            assert!(out[..n].iter().chain(&out[2 * n..]).all(|x| x.is_finite()), "{isa} {scheme}");
            assert!(out[n..2 * n].iter().all(|x| !x.is_finite()), "{isa} {scheme}");
            let mut w = vec![0.25; n * k];
            w[5 * k + 7] = bad;
            let out = product(&team, &vec![0.5; m * k], &pack(isa, scheme, &team, &w, n, k), m);
            for (i, x) in out.iter().enumerate() {
                assert_eq!(x.is_finite(), i % n != 5, "{isa} {scheme} {bad} {i}");
            }
        }
    });
}

#[test]
#[should_panic(expected = "out is not [2, 3]")]
fn a_ragged_output_is_refused() {
    let w = pack(Isa::best(), Scheme::F32, &Team::single(), &[0.0; 6], 3, 2);
    multiply(&Team::single(), &[0.0; 4], 2, &w, None, Store::Write, &mut [0.0; 5]);
}

#[test]
#[should_panic(expected = "another scheme")]
fn rows_of_another_scheme_are_refused() {
    let team = Team::single();
    let (a, b) = (
        pack(Isa::best(), Scheme::F32, &team, &[0.0; 6], 3, 2),
        pack(Isa::best(), Scheme::Bf16, &team, &[0.0; 6], 3, 2),
    );
    let mut operand = PackedActivations::new();
    operand.encode(&team, &a, &[0.0; 4]);
    gemm(&team, &operand, &b, None, Store::Write, &mut [0.0; 6]);
}

#[test]
fn stored_rows_pack_as_the_weights_they_were_made_of() {
    let team = Team::with_threads(2).unwrap();
    for (quantization, scheme) in [(Quantization::W8, Scheme::W8), (Quantization::W4, Scheme::W4)] {
        for (n, k) in [(1, 1), (5, 31), (33, 32), (40, 67), (64, 160)] {
            let w = Random::new(3).vector(n * k);
            let (code_bytes, scale_bytes) = (quantization.code_bytes(k), quantization.scale_bytes(k));
            let (mut codes, mut scales) = (vec![0; n * code_bytes], vec![0; n * scale_bytes]);
            for row in 0..n {
                let codes = &mut codes[row * code_bytes..][..code_bytes];
                quantization.quantize(&w[row * k..][..k], codes, &mut scales[row * scale_bytes..][..scale_bytes]);
            }
            assert!(quantization.is_finite(&scales));
            let row = |row: usize| QuantizedRow {
                codes: &codes[row * code_bytes..][..code_bytes],
                scales: &scales[row * scale_bytes..][..scale_bytes],
            };
            each_isa(|isa| {
                let what = format!("{isa}, {scheme}, [{n}, {k}]");
                let packed = pack(isa, scheme, &team, &w, n, k);
                let stored = PackedWeight::pack_quantized(isa, quantization, &team, n, k, &row);
                let x = Random::new(4).vector(3 * k);
                assert_eq!(product(&team, &x, &packed, 3), product(&team, &x, &stored, 3), "{what}");
                let (mut ours, mut theirs) = (vec![0.0; k], vec![0.0; k]);
                for i in 0..n {
                    packed.row(i, &mut ours);
                    quantization.dequantize(row(i), &mut theirs);
                    assert_eq!(ours, theirs, "{what}, row {i}");
                }
            });
        }
    }
}

#[test]
fn stored_rows_show_that_a_weight_was_not_finite() {
    for quantization in [Quantization::W8, Quantization::W4] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = Random::new(5).vector(70);
            row[40] = bad;
            let (mut codes, mut scales) = (vec![0; quantization.code_bytes(70)], vec![0; quantization.scale_bytes(70)]);
            quantization.quantize(&row, &mut codes, &mut scales);
            assert!(!quantization.is_finite(&scales), "{quantization:?}, {bad}");
        }
    }
}
