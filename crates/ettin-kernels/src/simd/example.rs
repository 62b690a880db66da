use super::{Kernel, LANES, Lanes, Portable, Simd};

struct Polynomial<'a>(&'a mut [f32]);

impl Kernel for Polynomial<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (three, mut total) = (s.splat(3.0), s.zero());
        // The last vector may be short: its other lanes are zero, and so is the polynomial there.
        for x in self.0.chunks_mut(LANES) {
            let v = s.load_part(x);
            let y = s.mul_add(v, v, s.mul(three, v));
            s.store_part(y, x);
            total = s.add(total, y);
        }
        s.sum(total)
    }
}

#[test]
fn every_token_runs_it() {
    let results = || {
        let mut x = [1.0, 2.0, 3.0];
        (Portable.run(Polynomial(&mut x)), x)
    };
    assert_eq!(results(), (32.0, [4.0, 10.0, 18.0]));
    // A token that proves a capability is an `Option`: no token, no such instructions.
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = super::Avx2::new() {
        let mut x = [1.0; 37];
        assert_eq!(token.run(Polynomial(&mut x)), 37.0 * 4.0);
    }
}
