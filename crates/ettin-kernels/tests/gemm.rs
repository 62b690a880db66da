//! The packed product: accuracy against f64, and bit equality under every cut.

mod common;

use common::{Random, bits, relative_error};
use ettin_kernels::{Isa, PackedMatrix, Store, Team, gemm, testing::each_isa};

/// Blocks of 256 chained multiply-adds on data in −1..1: measured 1e-6 at worst; one chain of 4096 gives 3e-6.
const TOLERANCE: f64 = 1.5e-6;

fn pack(isa: Isa, team: &Team, w: &[f32], n: usize, k: usize) -> PackedMatrix {
    PackedMatrix::pack(isa, team, n, k, &|row, out| out.copy_from_slice(&w[row * k..(row + 1) * k]))
}

fn product(team: &Team, x: &[f32], w: &PackedMatrix, m: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.n()];
    gemm(team, x, w, None, Store::Write, &mut out);
    out
}

fn oracle(x: &[f32], w: &[f32], bias: &[f32], before: &[f32], n: usize, k: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    (0..before.len())
        .map(|i| {
            let (row, column) = (i / n, i % n);
            dot(&x[row * k..(row + 1) * k], &w[column * k..(column + 1) * k])
                + f64::from(bias[column])
                + f64::from(before[i])
        })
        .collect()
}

#[test]
fn agrees_with_f64_for_odd_shapes() {
    each_isa(|isa| {
        let mut random = Random::new(1);
        let team = Team::single();
        for m in [1, 2, 3, 4, 5, 6, 7, 11, 13, 14, 15, 29] {
            for n in [1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 97, 130, 257] {
                for k in [1, 2, 16, 255, 256, 257, 512, 700] {
                    let (x, w) = (random.vector(m * k), random.vector(n * k));
                    let (bias, before) = (random.vector(n), random.vector(m * n));
                    let packed = pack(isa, &team, &w, n, k);
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
                        gemm(&team, &x, &packed, bias.map(|b| &b[..]), store, &mut out);
                        let want = oracle(&x, &w, bias.unwrap_or(&no_bias), start, n, k);
                        let error = relative_error(&out, &want);
                        assert!(error <= TOLERANCE, "{isa} {m}x{n}x{k} {store:?}: {error:e}");
                    }
                }
            }
        }
    });
}

#[test]
fn agrees_with_f64_for_long_sums() {
    each_isa(|isa| {
        let mut random = Random::new(2);
        let (m, n, k) = (17, 40, 4096);
        let (x, w) = (random.vector(m * k), random.vector(n * k));
        let out = product(&Team::single(), &x, &pack(isa, &Team::single(), &w, n, k), m);
        let error = relative_error(&out, &oracle(&x, &w, &vec![0.0; n], &vec![0.0; m * n], n, k));
        println!("{isa}: {error:e}");
        assert!(error <= TOLERANCE, "{isa}: {error:e}");
    });
}

#[test]
fn empty_shapes_are_fine() {
    each_isa(|isa| {
        let team = Team::single();
        assert!(product(&team, &[], &pack(isa, &team, &[1.0; 6], 2, 3), 0).is_empty());
        assert!(product(&team, &[1.0; 3], &pack(isa, &team, &[], 0, 3), 1).is_empty());
        // Without inputs the sum is empty.
        assert_eq!(product(&team, &[], &pack(isa, &team, &[], 5, 0), 2), [0.0; 10]);
    });
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    each_isa(|isa| {
        let mut random = Random::new(3);
        let team = Team::single();
        for (n, k) in [(100, 300), (64, 64), (33, 1000)] {
            let m = 300;
            let (x, w) = (random.vector(m * k), random.vector(n * k));
            let packed = pack(isa, &team, &w, n, k);
            let whole = product(&team, &x, &packed, m);
            for group in 1..=40 {
                for first in (0..m).step_by(group) {
                    let rows = first..(first + group).min(m);
                    let part = product(&team, &x[rows.start * k..rows.end * k], &packed, rows.len());
                    let want = &whole[rows.start * n..rows.end * n];
                    assert_eq!(bits(&part), bits(want), "{isa}: rows {rows:?} of {m}x{n}x{k}");
                }
            }
        }
    });
}

#[test]
fn columns_do_not_depend_on_their_neighbours() {
    each_isa(|isa| {
        let mut random = Random::new(4);
        let team = Team::single();
        let (m, n, k) = (9, 200, 520);
        let (x, w) = (random.vector(m * k), random.vector(n * k));
        let whole = product(&team, &x, &pack(isa, &team, &w, n, k), m);
        for columns in [0..1, 0..200, 3..40, 31..33, 100..197, 199..200] {
            let part = &w[columns.start * k..columns.end * k];
            let out = product(&team, &x, &pack(isa, &team, part, columns.len(), k), m);
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
    each_isa(|isa| {
        let mut random = Random::new(5);
        for (m, n, k) in [(1, 2000, 700), (3, 777, 512), (50, 300, 300), (700, 100, 90), (500, 65, 257)] {
            let (x, w) = (random.vector(m * k), random.vector(n * k));
            let alone = product(&Team::single(), &x, &pack(isa, &Team::single(), &w, n, k), m);
            for team in &teams {
                let out = product(team, &x, &pack(isa, team, &w, n, k), m);
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
    let mut first: Option<(Isa, Vec<f32>)> = None;
    each_isa(|isa| {
        let out = product(&Team::single(), &x, &pack(isa, &Team::single(), &w, n, k), m);
        match &first {
            Some((other, want)) if isa.fused() => {
                assert_eq!(bits(&out), bits(want), "{isa} and {other}")
            }
            Some(_) => {}
            None => first = Some((isa, out)),
        }
    });
}

#[test]
fn nothing_is_read_or_written_outside() {
    each_isa(|isa| {
        let mut random = Random::new(7);
        let team = Team::single();
        for (m, n, k) in [(1, 33, 40), (7, 5, 9), (14, 47, 30), (5, 129, 17)] {
            let (x, w) = (random.vector(m * k), random.vector(n * k));
            let packed = pack(isa, &team, &w, n, k);
            let want = product(&team, &x, &packed, m);
            for shift in 0..5 {
                let mut around = vec![f32::NAN; shift];
                around.extend(&x);
                around.push(f32::NAN);
                let mut out = vec![7.0; shift + m * n + 1];
                gemm(&team, &around[shift..][..m * k], &packed, None, Store::Write, &mut out[shift..][..m * n]);
                assert_eq!(bits(&out[shift..][..m * n]), bits(&want), "{isa} shift {shift}");
                assert!(out[..shift].iter().chain(&out[shift + m * n..]).all(|&x| x == 7.0));
            }
        }
    });
}

#[test]
fn a_row_comes_back_as_it_was_packed() {
    each_isa(|isa| {
        let mut random = Random::new(8);
        let (n, k) = (75, 130);
        let w = random.vector(n * k);
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let packed = PackedMatrix::pack(isa, &Team::with_threads(2).unwrap(), n, k, &|row, out| {
            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            out.copy_from_slice(&w[row * k..(row + 1) * k]);
        });
        assert_eq!(calls.into_inner(), n, "each row is read once");
        assert_eq!((packed.n(), packed.k(), packed.isa()), (n, k, isa));
        assert!(packed.bytes() >= 4 * n * k && packed.bytes() <= 4 * (n + 32) * k);
        let mut row = vec![0.0; k];
        for n in 0..n {
            packed.row(n, &mut row);
            assert_eq!(bits(&row), bits(&w[n * k..(n + 1) * k]));
        }
    });
}

#[test]
#[should_panic(expected = "out is not [rows, 3]")]
fn a_ragged_output_is_refused() {
    let w = pack(Isa::best(), &Team::single(), &[0.0; 6], 3, 2);
    gemm(&Team::single(), &[0.0; 4], &w, None, Store::Write, &mut [0.0; 5]);
}
