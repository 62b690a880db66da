#!/bin/sh
# Naming a token that the vocabulary has already changes how ordinary words are split.
#
# Version:   transformers 5.23.0 with tokenizers 0.23.3.
# Guess:     `"cls_token": "sea"` in tokenizer_config.json says which of the vocabulary's tokens begins a text, and no more.
# Behaviour: a named token that tokenizer.json does not list among its added tokens becomes one when the folder is loaded. Added tokens
#            are cut out of a text before it is split into words, inside of words as well: "seaside" was one unknown word, and is "sea"
#            and an unknown rest now. So tokenizer.json alone, as the tokenizers library reads it, gives other ids than the folder.
# Output seen:
#   tokenizer.json alone: [1, 0, 4]
#   with cls_token "sea": [1, 4, 0, 4]
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/packages" transformers==5.23.0 tokenizers==0.23.3
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

PYTHONPATH="$work/packages" python3 - "$work/model" >"$work/output" <<'PYTHON'
import json
import pathlib
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

folder = pathlib.Path(sys.argv[1])
folder.mkdir()
words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3, "sea": 4}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
words.save(str(folder / "tokenizer.json"))
settings = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "sea"}
(folder / "tokenizer_config.json").write_text(json.dumps(settings))
(folder / "config.json").write_text(json.dumps({"model_type": "modernbert"}))
text = "a seaside sea"
print(f"tokenizer.json alone: {Tokenizer.from_file(str(folder / 'tokenizer.json')).encode(text).ids}")
print(f'with cls_token "sea": {AutoTokenizer.from_pretrained(folder)(text)["input_ids"]}')
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
tokenizer.json alone: [1, 0, 4]
with cls_token "sea": [1, 4, 0, 4]
EXPECTED
diff "$work/expected" "$work/output"
