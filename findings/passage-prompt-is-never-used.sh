#!/bin/sh
# encode_document never uses a prompt that is saved as "passage".
#
# Version:   sentence-transformers 6.2.0 with transformers 5.23.0 and torch 2.15.0 (an install of some 3 GB).
# Guess:     encode_document takes the first prompt there is of "document", "passage" and "corpus", as its documentation says; so a model
#            that was saved with {"query": …, "passage": …} puts the passage prompt before documents.
# Behaviour: whatever is saved, the model gets the prompts {"query": "", "document": ""} beneath, so "document" is always there, and empty.
#            encode_document puts nothing before the text. prompt_name="passage" is the only way to the saved prompt.
# Output seen:
#   saved prompts: query, passage
#   encode_document is encode with no prompt: True; with the passage prompt: False
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check sentence-transformers==6.2.0 transformers==5.23.0 torch==2.15.0
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

"$work/venv/bin/python" - "$work/models" >"$work/output" <<'PYTHON'
import json
import pathlib
import sys

import numpy
import torch
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

torch.manual_seed(0)
work = pathlib.Path(sys.argv[1])
words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "sea": 2, "passage": 3, "query": 4}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(work / "trunk")
ids = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
sizes = {"vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
ModernBertModel(ModernBertConfig(**sizes, **ids)).save_pretrained(work / "trunk")

chain = [models.Transformer(str(work / "trunk")), models.Pooling(8)]
SentenceTransformer(modules=chain, device="cpu").save(str(work / "saved"))
# As a folder of an older version says it, which knew no prompts of its own.
settings = work / "saved" / "config_sentence_transformers.json"
saved = json.loads(settings.read_text()) | {"prompts": {"query": "query ", "passage": "passage "}}
settings.write_text(json.dumps(saved))
print(f"saved prompts: {', '.join(saved['prompts'])}")

model = SentenceTransformer(str(work / "saved"), device="cpu")
document = model.encode_document("sea")
bare, passage = model.encode("sea", prompt=""), model.encode("sea", prompt_name="passage")
assert not numpy.allclose(bare, passage, atol=1e-3)
same = [numpy.allclose(document, other, atol=1e-6) for other in (bare, passage)]
print(f"encode_document is encode with no prompt: {same[0]}; with the passage prompt: {same[1]}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
saved prompts: query, passage
encode_document is encode with no prompt: True; with the passage prompt: False
EXPECTED
diff "$work/expected" "$work/output"
