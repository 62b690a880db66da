//! Reductions of logits: accuracy, order, special values; and that chunks of rows give what all rows give.

mod common;

use common::{Random, bits};
use ettin_kernels::{
    Isa, PackedActivations, PackedWeight, Scheme, Store, Team, gemm,
    testing::each_isa,
    vocabulary::{log_sum_exp, log_sum_exps, relu_max, relu_max_products, top_k},
};

fn exact(row: &[f32]) -> f64 {
    let largest = row.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(f64::from(x)));
    largest + row.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

#[test]
fn log_sum_exp_agrees_with_f64() {
    each_isa(|isa| {
        let mut random = Random::new(6);
        let mut worst = 0.0f64;
        for len in (1..=70).chain([512, 1000, 50_368]) {
            for gain in [1.0, 20.0, 200.0] {
                let mut x: Vec<f32> = vec![f32::NAN; 3];
                x.extend(random.vector(len).iter().map(|x| x * gain));
                // From any address.
                for shift in 0..4 {
                    x.rotate_left(usize::from(shift > 0));
                    let row = &x[3 - shift..][..len];
                    let error = (log_sum_exp(isa, row) - exact(row)).abs();
                    worst = worst.max(error);
                    assert!(error <= 2e-7, "{isa} length {len} gain {gain}: {error:e}");
                }
            }
        }
        println!("{isa}: {worst:e}");
    });
}

#[test]
fn log_sum_exp_of_special_rows() {
    each_isa(|isa| {
        let infinite = f32::INFINITY;
        assert_eq!(log_sum_exp(isa, &[]), f64::NEG_INFINITY);
        assert!((log_sum_exp(isa, &[-infinite, 1.0, -infinite, 1.0]) - (1.0 + 2f64.ln())).abs() < 1e-7);
        assert!((log_sum_exp(isa, &[1e4, 1e4, -1e4]) - (1e4 + 2f64.ln())).abs() < 1e-7);
        // Among few, and in whole vectors.
        for special in [[-infinite; 3], [0.0, f32::NAN, 1.0], [infinite, 0.0, 1.0]] {
            assert!(log_sum_exp(isa, &special).is_nan(), "{isa} {special:?}");
            assert!(log_sum_exp(isa, &special.repeat(40)).is_nan(), "{isa} {special:?}");
        }
    });
}

#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    let x: Vec<f32> = Random::new(9).vector(5 * 391).iter().map(|x| x * 5.0).collect();
    let mut first = None;
    each_isa(|isa| {
        if isa.has_fma() {
            let got = log_sum_exp(isa, &x).to_bits();
            assert_eq!(*first.get_or_insert(got), got, "{isa}");
        }
    });
}

/// A sort of everything.
fn sorted(row: &[f32], k: usize) -> Vec<(usize, u32)> {
    let mut all: Vec<_> = row.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.into_iter().take(k).map(|(place, value)| (place, value.to_bits())).collect()
}

#[test]
fn top_k_is_a_sort_cut_short() {
    let mut random = Random::new(7);
    for len in [0, 1, 2, 15, 16, 17, 100, 1000] {
        for k in [0, 1, 2, 5, 16, 17, 2000] {
            for levels in [3.0, 1e6] {
                // Few levels make many ties, and zeros of both signs.
                let mut row: Vec<f32> = random.vector(len).iter().map(|x| (x * levels).round()).collect();
                if len > 10 {
                    row[3] = f32::NAN;
                    row[5] = -f32::NAN;
                    row[7] = f32::NEG_INFINITY;
                    row[len - 1] = f32::INFINITY;
                }
                let got: Vec<_> = top_k(&row, k).into_iter().map(|(place, value)| (place, value.to_bits())).collect();
                assert_eq!(got, sorted(&row, k), "length {len}, k {k}");
            }
        }
    }
    assert_eq!(top_k(&[1.0, 3.0, 3.0, 2.0, 3.0], 4), [(1, 3.0), (2, 3.0), (4, 3.0), (3, 2.0)]);
}

#[test]
fn the_largest_of_columns_is_at_least_zero() {
    let team = Team::with_threads(3).unwrap();
    each_isa(|isa| {
        for (rows, size) in [(0, 5), (1, 1), (3, 17), (40, 1023), (7, 1025), (2, 3000), (4, 0)] {
            let x = Random::new(8).vector(rows * size);
            let mut want = vec![0.0f32; size];
            for row in x.chunks_exact(size.max(1)) {
                want.iter_mut().zip(row).for_each(|(most, &x)| *most = most.max(x));
            }
            for chunk in [1, 3, 100] {
                let mut got = vec![0.0; size];
                for rows in x.chunks((chunk * size).max(1)) {
                    relu_max(isa, &team, rows, &mut got);
                }
                assert_eq!(bits(&got), bits(&want), "{isa} [{rows}, {size}] by {chunk}");
            }
        }
    });
}

#[test]
fn what_is_no_number_stays_in_its_column() {
    each_isa(|isa| {
        for size in [3, 35] {
            let mut x = vec![1.0; 3 * size];
            (x[0], x[1], x[2]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
            let mut out = vec![0.0; size];
            for row in x.chunks(size) {
                relu_max(isa, &Team::single(), row, &mut out);
            }
            assert!(out[0].is_nan() && out[1].is_nan(), "{isa}: {out:?}");
            assert!(out[2..].iter().all(|&x| x == 1.0), "{isa}: {out:?}");
        }
    });
}

/// Every reduction of the logits of `rows` rows, computed `chunk` rows at a time.
fn reduced(isa: Isa, team: &Team, w: &PackedWeight, x: &[f32], bias: &[f32], chunk: usize) -> Vec<u64> {
    let (mut all, mut most) = (Vec::new(), vec![0.0; w.n()]);
    let mut operand = PackedActivations::default();
    for x in x.chunks(chunk * w.k()) {
        let rows = x.len() / w.k();
        let mut logits = vec![f32::NAN; rows * w.n()];
        operand.encode(team, w, x);
        gemm(team, &operand, w, Some(bias), Store::Write, &mut logits);
        let mut sums = vec![0.0; rows];
        log_sum_exps(isa, team, &logits, w.n(), &mut sums);
        for (row, sum) in logits.chunks_exact(w.n()).zip(sums) {
            assert_eq!(sum.to_bits(), log_sum_exp(isa, row).to_bits());
            all.push(sum.to_bits());
            all.extend(top_k(row, 5).into_iter().flat_map(|(place, value)| [place as u64, value.to_bits().into()]));
        }
        relu_max(isa, team, &logits, &mut most);
    }
    all.extend(most.iter().map(|x| u64::from(x.to_bits())));
    all
}

#[test]
fn rows_in_chunks_give_what_all_rows_give() {
    let (n, k) = (1100, 80);
    let mut random = Random::new(11);
    let (weight, bias) = (random.vector(n * k), random.vector(n));
    let teams = [Team::single(), Team::with_threads(3).unwrap()];
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&weight[row * k..(row + 1) * k]);
            let w = PackedWeight::pack(isa, scheme, &teams[0], n, k, &fill);
            for rows in [1, 2, 7, 31, 32, 33, 40] {
                let x = random.vector(rows * k);
                let whole = reduced(isa, &teams[0], &w, &x, &bias, rows);
                for chunk in [1, 8, 32] {
                    for team in &teams {
                        assert_eq!(
                            reduced(isa, team, &w, &x, &bias, chunk),
                            whole,
                            "{isa} {scheme}, {rows} rows by {chunk}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn the_largest_products_are_those_of_products_in_memory() {
    let (n, k, lengths) = (1101, 80, [5, 0, 1, 40, 17, 0]);
    let mut random = Random::new(12);
    let (weight, bias) = (random.vector(n * k), random.vector(n));
    let offsets: Vec<usize> = (0..=lengths.len()).map(|end| lengths[..end].iter().sum()).collect();
    let rows = offsets[lengths.len()];
    let mut x = random.vector(rows * k);
    x[3 * k] = f32::NAN;
    let teams = [Team::single(), Team::with_threads(3).unwrap()];
    each_isa(|isa| {
        for scheme in Scheme::ALL {
            let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&weight[row * k..(row + 1) * k]);
            let w = PackedWeight::pack(isa, scheme, &teams[0], n, k, &fill);
            for bias in [None, Some(&bias[..])] {
                let mut operand = PackedActivations::default();
                operand.encode(&teams[0], &w, &x);
                let mut logits = vec![0.0; rows * n];
                gemm(&teams[0], &operand, &w, bias, Store::Write, &mut logits);
                let mut want = vec![0.0; lengths.len() * n];
                for (ends, want) in offsets.windows(2).zip(want.chunks_exact_mut(n)) {
                    relu_max(isa, &teams[0], &logits[ends[0] * n..ends[1] * n], want);
                }
                for team in &teams {
                    let mut got = vec![0.0; lengths.len() * n];
                    relu_max_products(team, &operand, &w, bias, &offsets, &mut got);
                    let same =
                        got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                    assert!(same, "{isa} {scheme}");
                }
            }
        }
    });
}
