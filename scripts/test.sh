#!/usr/bin/env bash
# Everything that must hold before a change lands: formatting, lints, documentation, tests, the tests that depend on the
# instruction set once more on every lower path, and the types of the GPU features. Needs no network beyond the crate
# registry, no Python, no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "formatting"
cargo fmt --all --check

say "lints"
cargo clippy --workspace --all-targets --features hub -- -D warnings

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features hub --quiet

say "tests"
command -v "${CXX:-c++}" >/dev/null || echo "the GPU kernels will not be run: there is no C++ compiler"
cargo test --workspace --features hub

# Products on AMX: on the CPU's tiles, or through an emulator of the instructions, which stands on AVX-512.
if grep -qw avx512_bf16 /proc/cpuinfo 2>/dev/null && grep -qw avx512_vnni /proc/cpuinfo; then
    say "tests of products on AMX"
    export ETTIN_AMX_EMULATOR=1 ETTIN_REQUIRE_ISA=amx
    cargo test --workspace --features hub --lib -- gemm:: simd:: isa::
    cargo test --workspace --features hub --test gemm --test block
    unset ETTIN_AMX_EMULATOR ETTIN_REQUIRE_ISA
else
    say "tests of products on AMX: skipped, this machine has no AVX-512 with BF16 and VNNI"
fi

# The kernels' own tests walk every path this machine has; the model's tests run on one path at a time. The same packages
# and features as above, so that nothing is built again.
for isa in portable avx2; do
    if [ "$isa" != portable ] && ! grep -qw "$isa" /proc/cpuinfo 2>/dev/null; then
        say "tests of the model on $isa: skipped, this machine has no $isa"
        continue
    fi
    say "tests of the model on $isa"
    ETTIN_ISA=$isa cargo test --workspace --features hub --test parity --test invariance --test cache --test speculation \
        --test finite
done

# Products of bf16 on AVX-512: by the instruction for pairs, or widened. The tests above took the one that is faster here.
if grep -qw avx512_bf16 /proc/cpuinfo 2>/dev/null; then
    for pairs in 0 1; do
        say "tests of the kernels with ETTIN_BF16_PAIRS=$pairs"
        ETTIN_BF16_PAIRS=$pairs cargo test --workspace --features hub --test gemm --test attention --test block --test shapes
    done
fi

say "tests of the model on the reference path"
ETTIN_REFERENCE=1 cargo test --workspace --features hub --test parity

say "types of the GPU features"
scripts/gpu/check.sh

say "all green"
