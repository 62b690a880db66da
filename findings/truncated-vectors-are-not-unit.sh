#!/bin/sh
# A truncate_dim in a model's files gives vectors that are not of unit length, though its chain ends in Normalize.
#
# Version:   sentence-transformers 6.2.0 with transformers 5.23.0 and torch 2.15.0 (an install of some 3 GB).
# Guess:     a chain that ends in Normalize gives unit vectors, so dot products are cosines, also with a truncate_dim (Matryoshka).
# Behaviour: dimensions are cut off behind the last module. Dot products of such vectors are smaller than cosines, and differ in order.
#            Only normalize_embeddings=True scales after the cut.
# Output seen:
#   modules: Transformer, Pooling, Normalize; truncate_dim 4
#   4 dimensions, unit length: False
#   4 dimensions, unit length: True (normalize_embeddings=True)
#   8 dimensions, unit length: True (truncate_dim=8)
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
words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "sea": 2, "ship": 3}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(work / "trunk")
ids = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
sizes = {"vocab_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
ModernBertModel(ModernBertConfig(**sizes, **ids)).save_pretrained(work / "trunk")

chain = [models.Transformer(str(work / "trunk")), models.Pooling(8), models.Normalize()]
SentenceTransformer(modules=chain, truncate_dim=4, device="cpu").save(str(work / "saved"))
settings = json.loads((work / "saved" / "config_sentence_transformers.json").read_text())
model = SentenceTransformer(str(work / "saved"), device="cpu")
print(f"modules: {', '.join(type(module).__name__ for module in model)}; truncate_dim {settings['truncate_dim']}")
scaled, whole = {"normalize_embeddings": True}, {"truncate_dim": 8}
for said, options in (("", {}), (" (normalize_embeddings=True)", scaled), (" (truncate_dim=8)", whole)):
    vector = model.encode("sea ship", **options)
    unit = abs(float(numpy.linalg.norm(vector)) - 1) < 1e-5
    print(f"{len(vector)} dimensions, unit length: {unit}{said}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
modules: Transformer, Pooling, Normalize; truncate_dim 4
4 dimensions, unit length: False
4 dimensions, unit length: True (normalize_embeddings=True)
8 dimensions, unit length: True (truncate_dim=8)
EXPECTED
diff "$work/expected" "$work/output"
