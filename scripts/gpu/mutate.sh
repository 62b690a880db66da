#!/usr/bin/env bash
# Edits the GPU kernels' sources, one edit at a time, and sees that their tests notice each. The edits of the mask are made
# by every test run; these are the others. Needs a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec cargo test --workspace --features hub --test kernels -- --ignored
