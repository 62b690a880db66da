#!/bin/sh
# PyLate's reranker gives a document another score when a longer one stands beside it.
#
# Version:   pylate 1.6.0 with torch 2.15.0 (an install of some 3 GB).
# Guess:     the MaxSim of a query and a document is their own, whatever else is ranked in the call.
# Behaviour: rank.rerank pads the documents of a query with zero vectors to the longest, and masks nothing. A query vector whose best
#            product with a document is negative finds a product of 0 in the padding. So −1 alone becomes 0 beside a longer document,
#            and the order can change. Which scores are right: those of a document alone, or of documents of one length.
# Output seen:
#   alone: a −1.0
#   beside a longer one: a 0.0, b −0.5
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pylate==1.6.0 torch==2.15.0
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

"$work/venv/bin/python" -W ignore - >"$work/output" <<'PYTHON'
import torch
from pylate import rank

query = torch.tensor([[1.0, 0.0]])
a = torch.tensor([[-1.0, 0.0]])
b = torch.tensor([[-0.5, 0.75**0.5], [-1.0, 0.0]])
for said, documents in (("alone", {"a": a}), ("beside a longer one", {"a": a, "b": b})):
    ranked = rank.rerank(
        documents_ids=[list(documents)], queries_embeddings=[query], documents_embeddings=[list(documents.values())], device="cpu"
    )[0]
    print(f"{said}: " + ", ".join(f"{one['id']} {one['score']:.1f}".replace("-", "−") for one in ranked))
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
alone: a −1.0
beside a longer one: a 0.0, b −0.5
EXPECTED
diff "$work/expected" "$work/output"
