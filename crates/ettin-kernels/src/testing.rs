//! Running a test on every instruction set.

use std::env;

use crate::{
    Isa, Scheme,
    gemm::{formats::Microkernel, with_microkernel},
};

/// The environment variable that lists instruction sets whose tests must run.
pub const REQUIRE_VARIABLE: &str = "ETTIN_REQUIRE_ISA";

/// Calls `test` for each instruction set of this CPU and prints which were exercised and which skipped.
///
/// # Panics
/// If `ETTIN_REQUIRE_ISA` (names separated by commas) asks for one that this CPU lacks.
pub fn each_isa(mut test: impl FnMut(Isa)) {
    let required = env::var(REQUIRE_VARIABLE).unwrap_or_default();
    for name in required.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(error) = Isa::forced(name) {
            panic!("{REQUIRE_VARIABLE}={required}: {error}");
        }
    }
    for isa in Isa::ALL.into_iter().rev() {
        if isa.supported() {
            println!("exercised: {isa}");
            test(isa);
        } else {
            println!("skipped: {isa}");
        }
    }
}

/// The largest error of a product of this format beside its largest output, against sums in f64 of products of the
/// numbers that the format stores.
pub fn tolerance(isa: Isa, scheme: Scheme) -> f64 {
    with_microkernel!(scheme, isa, F => F::TOLERANCE)
}
