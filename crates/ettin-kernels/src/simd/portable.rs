//! Plain Rust lanes: every CPU runs them, and the others are compared with them.

use super::{LANES, Lanes, Task};

/// The token that needs no capability.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Lane by lane; a loop over a fixed length, which the compiler vectorises for the baseline CPU.
macro_rules! lanewise {
    (|$($x:ident),+| $value:expr) => {{
        let mut out = [0.0; LANES];
        for i in 0..LANES {
            $(let $x = $x[i];)+
            out[i] = $value;
        }
        out
    }};
}

#[inline(always)]
fn fold(mut v: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            v[i] = f(v[i], v[i + half]);
        }
        half /= 2;
    }
    v[0]
}

/// 2^n for integral n in −126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

impl Lanes for Portable {
    type V = [f32; LANES];

    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        task.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // `f32::mul_add` would call a library routine on CPUs without FMA.
        lanewise!(|a, b, c| a * b + c)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn where_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        lanewise!(|a, b, then, otherwise| if a < b { then } else { otherwise })
    }
    #[inline(always)]
    fn scale(self, v: Self::V, n: Self::V) -> Self::V {
        // Two factors, each a normal number; the first product is exact, the second rounds.
        lanewise!(|v, n| {
            let n = n as i32;
            let half = n >> 1;
            v * power_of_two(half) * power_of_two(n - half)
        })
    }
    #[inline(always)]
    fn scale_normal(self, v: Self::V, n: Self::V) -> Self::V {
        lanewise!(|v, n| v * f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32))
    }
    #[inline(always)]
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
        let mut out = [[0.0; LANES]; 2];
        for i in 0..LANES {
            out[i / (LANES / 2)][2 * i % LANES] = a[i];
            out[i / (LANES / 2)][2 * i % LANES + 1] = b[i];
        }
        out
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        fold(v, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        fold(v, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
}
