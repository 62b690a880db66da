#!/bin/sh
# A ModernBERT decoder saved by transformers 4.57.6 comes back from its own folder with another sliding window.
#
# Version:   transformers 4.57.6 writes and reads; 5.23.0 reads the same folder.
# Guess:     save_pretrained and from_pretrained of one version keep a configuration as it is.
# Behaviour: ModernBertDecoderConfig(local_attention=16) computes with sliding_window 8. config.json gets `sliding_window: 8` and no
#            `local_attention`; reading it, 4.57.6 takes the default local_attention (128) and overwrites the window with 64.
#            5.23.0 keeps 8. So a fine-tuned decoder with another window than Ettin's gives other logits in 4.57.6 after a reload, and the
#            right ones in 5.x. In the same file `local_rope_theta` is honoured by 5.23.0, while 4.57.6 has no code that reads
#            it: both of its rotary embeddings take global_rope_theta.
# Output seen:
#   4.57.6 made 8, wrote sliding_window 8 and local_attention None, reads 64
#   4.57.6 mentions of local_rope_theta in modeling_modernbert_decoder.py: 0
#   5.23.0 reads 8, local theta 10000.0
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/four" transformers==4.57.6
python3 -m pip install --quiet --disable-pip-version-check --target "$work/five" transformers==5.23.0
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

PYTHONPATH="$work/four" python3 - "$work/saved" >"$work/output" <<'PYTHON'
import json
import pathlib
import sys

import transformers
from transformers import ModernBertDecoderConfig

made = ModernBertDecoderConfig(local_attention=16, local_rope_theta=10000.0)
made.save_pretrained(sys.argv[1])
wrote = json.loads((pathlib.Path(sys.argv[1]) / "config.json").read_text())
again = ModernBertDecoderConfig.from_pretrained(sys.argv[1])
assert wrote["local_rope_theta"] == 10000.0
print(
    f"{transformers.__version__} made {made.sliding_window}, wrote sliding_window {wrote['sliding_window']} "
    f"and local_attention {wrote.get('local_attention')}, reads {again.sliding_window}"
)
modeling = pathlib.Path(transformers.__file__).parent / "models" / "modernbert_decoder" / "modeling_modernbert_decoder.py"
mentions = modeling.read_text().count("local_rope_theta")
print(f"{transformers.__version__} mentions of local_rope_theta in {modeling.name}: {mentions}")
PYTHON
PYTHONPATH="$work/five" python3 - "$work/saved" >>"$work/output" <<'PYTHON'
import sys

import transformers
from transformers import ModernBertDecoderConfig

read = ModernBertDecoderConfig.from_pretrained(sys.argv[1])
print(f"{transformers.__version__} reads {read.sliding_window}, local theta {read.rope_parameters['sliding_attention']['rope_theta']}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
4.57.6 made 8, wrote sliding_window 8 and local_attention None, reads 64
4.57.6 mentions of local_rope_theta in modeling_modernbert_decoder.py: 0
5.23.0 reads 8, local theta 10000.0
EXPECTED
if ! diff "$work/expected" "$work/output"; then
    echo "changed: see the difference above" >&2
    exit 1
fi
echo "as described"
