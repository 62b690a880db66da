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
# Folders, each as one file of sections. Cases of fixtures have their files as JSON or as hexadecimal digits.
mkdir -p corpus/adapter corpus/chain
for folder in "$models"/tiny-adapters/*/; do
    for file in adapter_config.json adapter_model.safetensors; do
        printf '=== %s\n' "$file"
        cat "$folder/$file"
        printf '\n'
    done > "corpus/adapter/$(basename "$folder")"
done
python3 - <<'PYTHON'
import json
import pathlib

pipelines = pathlib.Path("../tests/fixtures/pipelines")
for fixture in ("late_interaction", "multi_vector", "sentence_transformers"):
    for number, case in enumerate(json.loads((pipelines / f"{fixture}.json").read_text())["cases"]):
        sections = b""
        for name, content in case["files"].items():
            if content is not None:
                is_bytes = isinstance(content, dict) and list(content) == ["hex"]
                data = bytes.fromhex(content["hex"]) if is_bytes else json.dumps(content).encode()
                sections += f"=== {name}\n".encode() + data + b"\n"
        pathlib.Path(f"corpus/chain/{fixture}-{number}").write_bytes(sections)
PYTHON
