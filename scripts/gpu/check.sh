#!/usr/bin/env bash
# Type-checks the Rust of the GPU features on a machine that has neither CUDA nor Metal. Needs the crate registry and git.
# Nothing is linked, and no kernel is compiled: the kernels' own tests (crates/ettin-gpu/tests) do that.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
target=$root/target/gpu-check
mkdir -p "$target"

# candle-flash-attn wants a checkout of CUTLASS at this commit; of an empty one it reads the name only.
commit=7d49e6c7e2f8896c47f586706e67e1fb215529dc
cutlass=$target/cudaforge/git/checkouts/cutlass-${commit:0:16}
mkdir -p "$cutlass/include"
[ -d "$cutlass/.git" ] || git init --quiet "$cutlass"
echo "$commit" >"$cutlass/.git/HEAD"

check() { cargo check --quiet --locked --lib --target-dir "$target" -p ettin-gpu -p ettin -p ettin-cli "$@"; }

echo "CUDA and FlashAttention"
env NVCC="$root/scripts/gpu/bin/nvcc" PATH="$root/scripts/gpu/bin:$PATH" CUDAFORGE_HOME="$target/cudaforge" \
    CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=13000 RUSTFLAGS="-D warnings" \
    bash -c "$(declare -f check); target='$target'; check --features ettin-cli/cuda,ettin-cli/flash-attn"

# Metal's bindings type-check with GNUstep's Objective-C, except that they name a framework to link whatever the system.
# The workspace is checked through a folder of links, so that the patch stays out of its manifest and lock file.
echo "Metal"
version=$(sed -n '/^name = "objc2-metal"$/{n;s/version = "\(.*\)"/\1/p;}' Cargo.lock)
cargo fetch --quiet --locked
source=$(find "${CARGO_HOME:-$HOME/.cargo}"/registry/src -maxdepth 2 -name "objc2-metal-$version" | head -n 1)
[ -n "$source" ] || { echo "objc2-metal $version is not among the fetched crates" >&2 && exit 1; }
overlay=$target/overlay
rm -rf "$overlay"
mkdir -p "$overlay"
for entry in crates models src benches tests README.md; do ln -s "$root/$entry" "$overlay/$entry"; done
cp -r "$source" "$overlay/objc2-metal"
sed -i 's/^#\[link(name = "Metal", kind = "framework")\]/#[cfg_attr(target_vendor = "apple", link(name = "Metal", kind = "framework"))]/' \
    "$overlay/objc2-metal/src/generated/mod.rs"
grep -q 'target_vendor = "apple", link' "$overlay/objc2-metal/src/generated/mod.rs" || { echo "the patch of objc2-metal does not apply" >&2 && exit 1; }
sed -i -E '/^\[dependencies\.(objc2|block2)\]/,/^$/s/features = \["(std|alloc)"\]/features = ["\1", "gnustep-2-1"]/' "$overlay/objc2-metal/Cargo.toml"
cp Cargo.lock "$overlay/"
{ cat Cargo.toml && printf '\n[patch.crates-io]\nobjc2-metal = { path = "objc2-metal" }\n'; } >"$overlay/Cargo.toml"
cd "$overlay"
RUSTFLAGS="-D warnings" cargo check --quiet --lib --target-dir "$target" -p ettin-gpu -p ettin -p ettin-cli --features ettin-cli/metal
