#!/bin/sh
# The ids that tokenizer_config.json writes beside added tokens are not the ids that the tokenizer gives them.
#
# Version:   transformers 5.23.0 with tokenizers 0.23.3.
# Guess:     `added_tokens_decoder: {"10": {"content": "<x>"}}` makes `<x>` token 10, as the file says.
# Behaviour: of tokens that tokenizer.json lacks only the order of these ids counts. The tokens get the next free ids: in a
#            vocabulary of five, 7 and 10 become 5 and 6. A model whose embedding has a gap before its added tokens is thus fed other
#            rows than the file names, without a word.
# Output seen:
#   written <x> 10, <y> 7; given <x> 6, <y> 5
#   "a <x>" is [1, 6]
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
words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3, "d": 4}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
words.save(str(folder / "tokenizer.json"))
flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
added = {"10": {"content": "<x>", **flags}, "7": {"content": "<y>", **flags}}
settings = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added}
(folder / "tokenizer_config.json").write_text(json.dumps(settings))
(folder / "config.json").write_text(json.dumps({"model_type": "modernbert"}))
tokenizer = AutoTokenizer.from_pretrained(folder)
x, y = tokenizer.convert_tokens_to_ids(["<x>", "<y>"])
print(f"written <x> 10, <y> 7; given <x> {x}, <y> {y}")
print(f'"a <x>" is {tokenizer("a <x>")["input_ids"]}')
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
written <x> 10, <y> 7; given <x> 6, <y> 5
"a <x>" is [1, 6]
EXPECTED
diff "$work/expected" "$work/output"
