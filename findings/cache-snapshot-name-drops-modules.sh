#!/bin/sh
# A sentence-transformers model in a Hugging Face cache loses its modules when the snapshot's folder has no commit hash for a name.
#
# Version:   sentence-transformers 6.2.0 with transformers 5.23.0 and torch 2.15.0 (an install of some 3 GB).
# Guess:     a cache that was laid out by hand, with `refs/main` naming the snapshot "v1", either loads as any other or not at all.
# Behaviour: it loads, with another model on top. Under a snapshot of 40 hexadecimal digits the saved chain is Transformer, Pooling (max),
#            Normalize. Under "v1" modules.json is passed over, and the fallback for plain transformers models takes its
#            place: Transformer and a mean. The vectors differ, and no warning says so.
# Output seen:
#   snapshot aaaa…: Transformer, Pooling, Normalize; pooling max
#   snapshot v1: Transformer, Pooling; pooling mean
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/packages" \
    sentence-transformers==6.2.0 transformers==5.23.0 torch==2.15.0
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

PYTHONPATH="$work/packages" python3 - "$work/models" >"$work/output" <<'PYTHON'
import pathlib
import shutil
import sys

import torch
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

torch.manual_seed(0)
work = pathlib.Path(sys.argv[1])
words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "sea": 2, "ship": 3}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
tokenizer.save_pretrained(work / "trunk")
ids = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
sizes = {"vocab_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
ModernBertModel(ModernBertConfig(**sizes, **ids)).save_pretrained(work / "trunk")
chain = [models.Transformer(str(work / "trunk")), models.Pooling(8, pooling_mode="max"), models.Normalize()]
SentenceTransformer(modules=chain).save(str(work / "saved"))
for snapshot, name in (("a" * 40, "aaaa…"), ("v1", "v1")):
    cache = work / f"cache-{snapshot}"
    repository = cache / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot)
    shutil.copytree(work / "saved", repository / "snapshots" / snapshot)
    model = SentenceTransformer("org/name", cache_folder=str(cache), local_files_only=True)
    modules = ", ".join(type(module).__name__ for module in model)
    print(f"snapshot {name}: {modules}; pooling {model[1].get_config_dict()['pooling_mode']}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
snapshot aaaa…: Transformer, Pooling, Normalize; pooling max
snapshot v1: Transformer, Pooling; pooling mean
EXPECTED
diff "$work/expected" "$work/output"
