//! NEON lanes: four registers of four.
//!
//! SAFETY, for every block in this file: the intrinsics need NEON and nothing else, and `self` was built by `new`,
//! which has asked the CPU. Memory is touched through references of sixteen lanes.
#![allow(clippy::undocumented_unsafe_blocks)] // the one argument above serves for all
#![allow(unused_unsafe)] // where the build's baseline already has the instruction set

use std::{arch::aarch64::*, arch::is_aarch64_feature_detected, array};

use super::{LANES, Lanes, Task};

/// Proof that the CPU has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// Lanes 0..4, 4..8, 8..12, 12..16.
type Quad = [float32x4_t; 4];

impl Lanes for Neon {
    type V = Quad;

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        #[target_feature(enable = "neon")]
        fn compiled<T: Task<Neon>>(simd: Neon, task: T) -> T::Output {
            task.run(simd)
        }
        unsafe { compiled(self, task) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Quad {
        array::from_fn(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) })
    }
    #[inline(always)]
    fn store(self, v: Quad, out: &mut [f32; LANES]) {
        for (i, v) in v.into_iter().enumerate() {
            unsafe { vst1q_f32(out.as_mut_ptr().add(4 * i), v) }
        }
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        array::from_fn(|i| unsafe { vaddq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        array::from_fn(|i| unsafe { vsubq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        array::from_fn(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        array::from_fn(|i| unsafe { vdivq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn mul_add(self, a: Quad, b: Quad, c: Quad) -> Quad {
        array::from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn max(self, a: Quad, b: Quad) -> Quad {
        // Not `vmaxq_f32`, which gives NaN if either operand is one.
        array::from_fn(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    fn min(self, a: Quad, b: Quad) -> Quad {
        array::from_fn(|i| unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    fn where_less(self, a: Quad, b: Quad, then: Quad, otherwise: Quad) -> Quad {
        array::from_fn(|i| unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), then[i], otherwise[i]) })
    }
    #[inline(always)]
    fn scale(self, v: Quad, n: Quad) -> Quad {
        // Two factors, each a normal number; the first product is exact, the second rounds.
        array::from_fn(|i| unsafe {
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            let n = vcvtq_s32_f32(n[i]);
            let first = vshrq_n_s32::<1>(n);
            vmulq_f32(vmulq_f32(v[i], power(first)), power(vsubq_s32(n, first)))
        })
    }
    #[inline(always)]
    fn scale_normal(self, v: Quad, n: Quad) -> Quad {
        array::from_fn(|i| unsafe {
            let n = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
            vmulq_f32(v[i], vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
        })
    }
    #[inline(always)]
    fn zip(self, a: Quad, b: Quad) -> [Quad; 2] {
        unsafe {
            let half = |i: usize| {
                [
                    vzip1q_f32(a[i], b[i]),
                    vzip2q_f32(a[i], b[i]),
                    vzip1q_f32(a[i + 1], b[i + 1]),
                    vzip2q_f32(a[i + 1], b[i + 1]),
                ]
            };
            [half(0), half(2)]
        }
    }
    #[inline(always)]
    fn sum(self, v: Quad) -> f32 {
        unsafe {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }
    #[inline(always)]
    fn largest(self, v: Quad) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = if lanes[i] > lanes[i + half] { lanes[i] } else { lanes[i + half] };
            }
            half /= 2;
        }
        lanes[0]
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {} // no stable intrinsic
}
