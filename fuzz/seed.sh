#!/bin/sh
# Fills fuzz/corpus with small real files to start from.
set -eu
cd "$(dirname "$0")"
models=../models
seed() { # target, files…
    target=$1
    shift
    mkdir -p "corpus/$target"
    for file in "$@"; do
        cp "$file" "corpus/$target/$(echo "${file#"$models"/}" | tr / -)"
    done
}
seed config "$models"/tiny-*/config.json "$models"/tiny-layouts/decoder/config.json
seed safetensors "$models"/tiny-layouts/*/model*.safetensors
# Weights in few bits, as `ettin-run convert` writes them.
for dtype in w8 w4; do
    out=$(mktemp -d)
    cargo run --quiet --manifest-path ../Cargo.toml -- \
        convert "$models/tiny-layouts/safetensors" --dtype "$dtype" --output "$out" --quiet
    mv "$out/model.safetensors" "corpus/safetensors/$dtype.safetensors"
    rm -r "$out"
done
seed torch_bin "$models"/tiny-layouts/*/pytorch_model*.bin
mkdir -p corpus/ranges
fixture=../tests/fixtures/quantization.json
grep -o '"hex": "[0-9a-f]*"' "$fixture" | cut -d'"' -f4 | nl | while read -r number hex; do
    echo "$hex" | xxd -r -p > "corpus/ranges/$number"
done
seed tokenizer "$models"/tiny-text-*/tokenizer.json
