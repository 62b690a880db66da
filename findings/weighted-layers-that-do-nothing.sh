#!/bin/sh
# WeightedLayerPooling does nothing, without a word, unless config.json asks for hidden states.
#
# Version:   sentence-transformers 6.2.0 with transformers 5.23.0 and torch 2.15.0 (an install of some 3 GB).
# Guess:     the module gets the layers that it weighs, or fails where there are none.
# Behaviour: the transformer module passes hidden states on only where config.json has `output_hidden_states: true`. Without it the
#            weighted pooling leaves the last layer as it is: the saved chain lists the module with its trained weights, and gives the
#            vectors of a chain without it.
# Output seen:
#   output_hidden_states False: the vectors of a chain without the module
#   output_hidden_states True: other vectors
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
sizes = {"vocab_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
ModernBertModel(ModernBertConfig(**sizes, **ids)).save_pretrained(work / "trunk")

trunk, pooling = models.Transformer(str(work / "trunk")), models.Pooling(8)
plain = SentenceTransformer(modules=[trunk, pooling], device="cpu").encode("sea ship")
weights = torch.nn.Parameter(torch.tensor([5.0, 1.0]))
weighted = models.WeightedLayerPooling(8, num_hidden_layers=2, layer_start=1, layer_weights=weights)
SentenceTransformer(modules=[trunk, weighted, pooling], device="cpu").save(str(work / "saved"))
for wanted in (False, True):
    config = json.loads((work / "saved" / "config.json").read_text()) | {"output_hidden_states": wanted}
    (work / "saved" / "config.json").write_text(json.dumps(config))
    model = SentenceTransformer(str(work / "saved"), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "WeightedLayerPooling", "Pooling"]
    same = numpy.allclose(model.encode("sea ship"), plain, atol=1e-5)
    print(f"output_hidden_states {wanted}: {'the vectors of a chain without the module' if same else 'other vectors'}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
output_hidden_states False: the vectors of a chain without the module
output_hidden_states True: other vectors
EXPECTED
diff "$work/expected" "$work/output"
