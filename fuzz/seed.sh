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
seed torch_bin "$models"/tiny-layouts/*/pytorch_model*.bin
seed tokenizer "$models"/tiny-text-*/tokenizer.json
