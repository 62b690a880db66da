#!/usr/bin/env bash
# Plants faults in copies of the sources, one at a time, and sees that `ettin-run info --check` finds each: exit status 1, and a
# layer's name. Each fault builds the kernels once more, so this takes minutes; it is no part of test.sh.
#
#   scripts/check_mutations.sh [NAME]      # all, or the one of that name
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents --no-dereference -t "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/mutations

# name | file | what is there | what is put in its place
faults='
rope-sign|crates/ettin-kernels/src/rope.rs|s.mul(negate(s, b), sin)|s.mul(b, sin)
norm-mean|crates/ettin-kernels/src/norm.rs|s.mul(s.sub(s.load(&xs[i]), mean), scale)|s.mul(s.load(&xs[i]), scale)
softmax-rescale|crates/ettin-kernels/src/attention/register_tile.rs|s.mul(s.load(&out[c]), s.load(&correction[c]))|s.load(&out[c])
'
missed=0
while IFS='|' read -r name file there instead; do
    if [ -z "$name" ] || [ "${1:-$name}" != "$name" ]; then continue; fi
    THERE=$there INSTEAD=$instead python3 - "$copy/$file" <<'PYTHON' || { echo "$name: $file has changed, and the fault no longer fits" >&2 && exit 2; }
import os, sys
text = open(sys.argv[1]).read()
if os.environ["THERE"] not in text:
    sys.exit(1)
open(sys.argv[1], "w").write(text.replace(os.environ["THERE"], os.environ["INSTEAD"]))
PYTHON
    (cd "$copy" && cargo build --quiet --workspace --features hub --bins)
    status=0
    verdict=$("$CARGO_TARGET_DIR/debug/ettin-run" info --check --quiet -m "$PWD/models/nano-decoder" --dtype f32 --format jsonl 2>&1 >"$copy/report") || status=$?
    if [ "$status" = 1 ] && grep -q 'failed: \(layer\|the embeddings\|the final norm\)' <<<"$verdict"; then
        echo "$name: found ($verdict)"
    else
        echo "$name: MISSED (status $status, $verdict)"
        missed=1
    fi
    cp "$file" "$copy/$file"
done <<<"$faults"
exit "$missed"
