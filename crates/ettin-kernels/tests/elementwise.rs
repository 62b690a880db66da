//! Norm, activations, RoPE and conversions: accuracy, tails, alignment, threads.

mod common;

use common::{Random, bits, relative_error};
use ettin_kernels::{Activation, Isa, Norm, RopeRows, RopeTable, Team, activate, layer_norm, rope, testing::each_isa};

fn teams() -> [Team; 3] {
    [Team::single(), Team::with_threads(2).unwrap(), Team::with_threads(3).unwrap()]
}

/// Runs `f` on a copy of `x` at several misalignments and checks that the result is the same and stays inside.
fn misaligned(x: &[f32], f: impl Fn(&mut [f32])) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for shift in [0, 1, 3] {
        let mut buffer = vec![7.0; shift];
        buffer.extend(x);
        buffer.push(7.0);
        f(&mut buffer[shift..shift + x.len()]);
        assert!(buffer[..shift].iter().chain(&buffer[shift + x.len()..]).all(|&x| x == 7.0), "wrote outside");
        let got = buffer[shift..shift + x.len()].to_vec();
        match &first {
            Some(first) => assert_eq!(bits(&got), bits(first), "shift {shift}, length {}", x.len()),
            None => first = Some(got),
        }
    }
    first.unwrap()
}

// ---- activations

const ACTIVATIONS: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu];

/// erfc(z) for z ≥ 0 to about 1e-15 relative: the series of erf below 2, a continued fraction above.
fn erfc(z: f64) -> f64 {
    let root_pi = std::f64::consts::PI.sqrt();
    if z < 2.0 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        1.0 - 2.0 / root_pi * sum
    } else {
        let tail = (1..=200).rev().fold(0.0, |tail, i| f64::from(i) / 2.0 / (z + tail));
        (-z * z).exp() / (root_pi * (z + tail))
    }
}

fn exact(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Gelu => {
            let tail = erfc(x.abs() / std::f64::consts::SQRT_2) / 2.0;
            x * if x < 0.0 { tail } else { 1.0 - tail }
        }
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

/// Every 997th f32 of magnitude 2⁻⁴⁰ to 128, both signs: some 800,000 points.
fn dense() -> Vec<f32> {
    let (low, high) = ((2f32).powi(-40).to_bits(), 128f32.to_bits());
    (low..high).step_by(997).map(f32::from_bits).flat_map(|x| [x, -x]).collect()
}

#[test]
fn activations_keep_their_bound() {
    let x = dense();
    for act in ACTIVATIONS {
        let want: Vec<f64> = x.iter().map(|&x| exact(act, f64::from(x))).collect();
        each_isa(|isa| {
            let mut got = x.clone();
            activate(isa, &Team::single(), act, &mut got);
            let (mut worst, mut at) = (0.0, 0.0);
            for ((&x, &got), &want) in x.iter().zip(&got).zip(&want) {
                let error = (f64::from(got) - want).abs() / f64::from(x.abs());
                if error.is_nan() || error > worst {
                    (worst, at) = (error, x);
                }
            }
            println!("{isa} {act:?}: {worst:e} at {at}");
            assert!(worst <= act.max_error(), "{isa} {act:?}: {worst:e} at {at}");
        });
    }
}

#[test]
fn activations_of_special_values() {
    each_isa(|isa| {
        for act in ACTIVATIONS {
            let mut x = [f32::NAN, f32::INFINITY, 0.0, 3e38, -3e38, 1e-45, -1e4, 1e4];
            activate(isa, &Team::single(), act, &mut x);
            assert!(x[0].is_nan(), "{isa} {act:?}");
            assert_eq!(x[1], f32::INFINITY, "{isa} {act:?}");
            assert_eq!(x[2], 0.0);
            assert_eq!(x[3], 3e38);
            assert_eq!(x[4], 0.0);
            assert!(x[5].abs() <= 1e-45);
            assert_eq!((x[6], x[7]), (0.0, 1e4));
        }
    });
}

#[test]
fn activations_of_any_length_and_alignment() {
    each_isa(|isa| {
        for act in ACTIVATIONS {
            let x: Vec<f32> = Random::new(1).vector(33).iter().map(|x| x * 4.0).collect();
            let whole = misaligned(&x, |x| activate(isa, &Team::single(), act, x));
            for len in 0..=33 {
                let part = misaligned(&x[..len], |x| activate(isa, &Team::single(), act, x));
                assert_eq!(bits(&part), bits(&whole[..len]), "{isa} {act:?} length {len}");
            }
        }
    });
}

#[test]
fn activations_are_the_same_on_any_team() {
    let teams = teams();
    each_isa(|isa| {
        for len in [0, 1, 51, 2624, 80_640] {
            for act in ACTIVATIONS {
                let x: Vec<f32> = Random::new(2).vector(len).iter().map(|x| x * 3.0).collect();
                let mut want = x.clone();
                activate(isa, &Team::single(), act, &mut want);
                for team in &teams {
                    let mut out = x.clone();
                    activate(isa, team, act, &mut out);
                    assert_eq!(bits(&out), bits(&want), "{isa} {act:?} {len}");
                }
            }
        }
    });
}

// ---- norm

/// Absolute, for weights up to 1 (results up to about 2): a few roundings of the result, and the rounding of the mean
/// in units of the standard deviation.
const NORM_TOLERANCE: f64 = 4e-7;

/// Largest |x| in units of the standard deviation, over the rows; at least 1.
fn condition_of(x: &[f32], hidden: usize) -> f64 {
    let rows = x.chunks_exact(hidden).map(|row| {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / hidden as f64;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / hidden as f64;
        row.iter().fold(0.0, |a, x| f64::max(a, f64::from(x.abs()))) / (variance + 1e-5).sqrt()
    });
    rows.fold(1.0, f64::max)
}

#[test]
fn layer_norm_agrees_with_f64_for_any_width() {
    each_isa(|isa| {
        let mut random = Random::new(3);
        let mut worst = 0.0f64;
        for hidden in (1..=70).chain([255, 256, 384, 768, 1792]) {
            for (gain, offset) in [(1.0, 0.0), (2e4, 0.0), (1.0, 100.0), (1e-3, 0.0)] {
                let m = 3;
                let x: Vec<f32> = random.vector(m * hidden).iter().map(|x| x * gain + offset).collect();
                let (weight, bias) = (random.vector(hidden), random.vector(hidden));
                for bias in [None, Some(&bias[..])] {
                    let norm = Norm { weight: &weight, bias, eps: 1e-5 };
                    let got = misaligned(&vec![0.0; m * hidden], |out| {
                        layer_norm(isa, &Team::single(), &x, norm, out);
                    });
                    let mut want = Vec::new();
                    for row in x.chunks_exact(hidden) {
                        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / hidden as f64;
                        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / hidden as f64;
                        want.extend(row.iter().enumerate().map(|(i, &x)| {
                            (f64::from(x) - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i])
                                + bias.map_or(0.0, |bias| f64::from(bias[i]))
                        }));
                    }
                    if hidden == 1 {
                        // x − mean is exactly 0: only the bias is left.
                        assert!(got.iter().zip(&want).all(|(&g, &w)| f64::from(g) == w));
                        continue;
                    }
                    // Where the row varies little for its size, so does the mean's rounding count for more.
                    let condition = condition_of(&x, hidden);
                    let size = want.iter().fold(0.0f64, |a, w| a.max(w.abs()));
                    let error = relative_error(&got, &want) * size / condition;
                    worst = worst.max(error);
                    assert!(error <= NORM_TOLERANCE, "{isa} hidden {hidden} gain {gain} offset {offset}: {error:e}");
                }
            }
        }
        println!("{isa}: worst {worst:e}");
    });
}

#[test]
fn layer_norm_rows_are_independent_on_any_team() {
    let teams = teams();
    each_isa(|isa| {
        let mut random = Random::new(4);
        let (m, hidden) = (201, 770);
        let (x, weight) = (random.vector(m * hidden), random.vector(hidden));
        let norm = Norm { weight: &weight, bias: None, eps: 1e-5 };
        let mut alone = vec![0.0; m * hidden];
        for (x, out) in x.chunks_exact(hidden).zip(alone.chunks_exact_mut(hidden)) {
            layer_norm(isa, &Team::single(), x, norm, out);
        }
        for team in &teams {
            let mut out = vec![0.0; m * hidden];
            layer_norm(isa, team, &x, norm, &mut out);
            assert_eq!(bits(&out), bits(&alone), "{isa}");
        }
        layer_norm(isa, &Team::single(), &[], norm, &mut []);
    });
}

// ---- RoPE

/// Distance in units in the last place, through zero.
fn ulps(a: f32, b: f32) -> u32 {
    let order = |x: f32| {
        if x.is_sign_negative() { -((x.to_bits() & 0x7fff_ffff) as i64) } else { x.to_bits() as i64 }
    };
    (order(a) - order(b)).unsigned_abs() as u32
}

#[test]
fn the_table_is_pytorchs() {
    let mut lines = 0;
    for line in include_str!("data/rope.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (theta, kind, position): (f32, _, usize) = (word().parse().unwrap(), word(), word().parse().unwrap());
        let want: Vec<f32> = words.map(|w| f32::from_bits(u32::from_str_radix(w, 16).unwrap())).collect();
        let table = RopeTable::new(theta, 64, 7999);
        assert_eq!((table.positions(), table.head_dim()), (7999, 64));
        let (cos, sin) = table.angles(position);
        match kind {
            "frequency" => assert_eq!(bits(table.frequencies()), bits(&want), "theta {theta}"),
            _ => {
                let got = if kind == "cos" { cos } else { sin };
                for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                    assert!(ulps(got, want) <= 1, "theta {theta} {kind} {position} [{i}]: {got} {want}");
                }
            }
        }
        assert_eq!(want.len(), 32);
        lines += 1;
    }
    assert_eq!(lines, 2 * 13);
}

#[test]
fn a_longer_table_begins_with_a_shorter_one() {
    let (short, long) = (RopeTable::new(10000.0, 16, 300), RopeTable::new(10000.0, 16, 700));
    for position in (0..300).rev() {
        assert_eq!(short.angles(position), long.angles(position));
    }
}

#[test]
#[should_panic(expected = "position 300 of 300")]
fn a_position_past_the_table_is_refused() {
    RopeTable::new(10000.0, 16, 300).angles(300);
}

#[test]
fn rope_rotates_its_columns_only_on_any_team() {
    let teams = teams();
    each_isa(|isa| {
        let mut random = Random::new(5);
        for (dim, heads, offset, extra) in
            [(64, 2, 0, 64), (16, 3, 5, 0), (32, 1, 0, 1), (6, 2, 1, 1), (34, 1, 0, 0), (2, 1, 0, 0)]
        {
            let (stride, m) = (offset + heads * dim + extra, 301);
            let table = RopeTable::new(160_000.0, dim, 600);
            let positions: Vec<u32> = (0..m as u32).map(|i| i * 7 % 600).collect();
            let x = random.vector(m * stride);
            let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            for (row, &position) in positions.iter().enumerate() {
                let (cos, sin) = table.angles(position as usize);
                for head in 0..heads {
                    let start = row * stride + offset + head * dim;
                    for i in 0..dim / 2 {
                        let (a, b) = (f64::from(x[start + i]), f64::from(x[start + dim / 2 + i]));
                        let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
                        want[start + i] = a * cos - b * sin;
                        want[start + dim / 2 + i] = b * cos + a * sin;
                    }
                }
            }
            let mut first: Option<Vec<f32>> = None;
            for team in &teams {
                let got = misaligned(&x, |rows| {
                    rope(isa, team, &table, &positions, RopeRows { rows, stride, offset, heads });
                });
                for (i, (&got, &x)) in got.iter().zip(&x).enumerate() {
                    let column = i % stride;
                    if column < offset || column >= offset + heads * dim {
                        assert_eq!(got, x, "column {column} is not a head's");
                    }
                }
                // Two products and a sum, each rounded: 2 ulp of values below 2.
                assert!(relative_error(&got, &want) <= 2.0e-7, "{isa} dim {dim}");
                assert_eq!(bits(first.get_or_insert(got.clone())), bits(&got));
            }
        }
    });
}

#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    let mut random = Random::new(9);
    let x: Vec<f32> = random.vector(5 * 391).iter().map(|x| x * 5.0).collect();
    let weight = random.vector(391);
    let table = RopeTable::new(10_000.0, 30, 5);
    let run = |isa: Isa| {
        let team = Team::single();
        let mut all = vec![0.0; x.len()];
        layer_norm(isa, &team, &x, Norm { weight: &weight, bias: Some(&weight), eps: 1e-5 }, &mut all);
        for act in ACTIVATIONS {
            let mut y = x.clone();
            activate(isa, &team, act, &mut y);
            all.extend(y);
        }
        let mut y = x.clone();
        rope(isa, &team, &table, &[0, 1, 2, 3, 4], RopeRows { rows: &mut y, stride: 391, offset: 1, heads: 13 });
        all.extend(y);
        bits(&all)
    };
    let mut first = None;
    each_isa(|isa| {
        if isa.has_fma() {
            assert_eq!(first.get_or_insert_with(|| run(isa)), &run(isa), "{isa}");
        }
    });
}
