"""Writes fixtures of Stanford's ColBERT layout: what colbert-ai makes of its own folders.

    python -m venv .venv-pylate && .venv-pylate/bin/pip install -r scripts/requirements-pylate.txt
    .venv-pylate/bin/python scripts/make_stanford_fixtures.py

A tiny random model, saved by colbert-ai itself, goes to `models/tiny-text-stanford`. A case is that folder with other
settings in its `artifact.metadata`; the vectors of each text go to `tests/fixtures/pipelines/stanford.json` (as
hexadecimal digits). Texts are encoded one at a time, and longer ones are cut, as the library does. PyLate computes every
case as well: `pylate` is the largest difference of its numbers, over texts without outer white space, which it strips.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from colbert.infra import ColBERTConfig
from colbert.modeling.base_colbert import BaseColBERT
from colbert.modeling.checkpoint import Checkpoint
from colbert.modeling.colbert import ColBERT
from pylate import models
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from make_late_interaction_fixtures import BASE as SEED
from make_late_interaction_fixtures import DOCUMENTS, LONG, MODEL_FILES, QUERIES, hexadecimal, weights
from reference import provenance

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "models" / "tiny-text-stanford"
OUTPUT = ROOT / "tests" / "fixtures" / "pipelines" / "stanford.json"
ARTIFACT = "artifact.metadata"
DIM = 8
# What colbert-ai writes of this machine and this moment, and of training and indexing.
KEPT = (
    "query_token_id", "doc_token_id", "query_token", "doc_token", "dim", "doc_maxlen", "mask_punctuation", "query_maxlen",
    "attend_to_mask_tokens", "interaction", "similarity", "nway", "relu", "nbits", "pool_factor", "protected_tokens",
)  # fmt: skip


def settings(**changes: Any) -> ColBERTConfig:
    stated = {"query_token_id": "[Q] ", "doc_token_id": "[D] ", "dim": DIM, "query_maxlen": 12, "doc_maxlen": 24}
    return ColBERTConfig(**(stated | changes))


def write_base() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        seed, saved = Path(place) / "seed", Path(place) / "saved"
        seed.mkdir()
        for name in MODEL_FILES:
            shutil.copy(SEED / name, seed / name)
        # PyLate has saved its own padding, the mask, whose vectors colbert-ai leaves out.
        tokenizer = json.loads((seed / "tokenizer_config.json").read_text()) | {"pad_token": "[PAD]"}
        (seed / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
        # colbert-ai finds the weights under the names that it saves them by.
        trunk = {f"model.{name}": tensor for name, tensor in load_file(seed / "model.safetensors").items()}
        save_file(trunk | {"linear.weight": weights(1, DIM, 32)}, seed / "model.safetensors", {"format": "pt"})
        BaseColBERT(str(seed), settings()).save(str(saved))
        BASE.mkdir(exist_ok=True)
        for name in MODEL_FILES:
            shutil.copyfile(saved / name, BASE / name)
        written = json.loads((saved / ARTIFACT).read_text())
        # Keys of the place it was written at are left out.
        artifact = {key: written[key] for key in KEPT} | {"meta": {"version": written["meta"]["version"]}}
        (BASE / ARTIFACT).write_text(json.dumps(artifact, indent=4) + "\n")
    if json.loads((BASE / "config.json").read_text())["architectures"] != ["HF_ColBERT"]:
        raise SystemExit("the saved model is of another class")


def cases() -> list[tuple[str, dict[str, Any], list[str] | None]]:
    """Name, changes of the artifact, and the texts."""
    spaces = ["[PAD] and [MASK] in a text [PAD]", "x [SEP] y"]
    return [
        ("as saved", {}, None),
        ("attended", {"attend_to_mask_tokens": True}, None),
        ("far behind the text", {"query_maxlen": 40}, None),
        ("cut", {}, [LONG, LONG.upper()]),
        ("special tokens in texts", {}, spaces),
        ("special tokens in texts, attended", {"attend_to_mask_tokens": True}, spaces),
        ("other markers", {"query_token_id": "[MASK]", "doc_token_id": "[SEP]"}, None),
    ]


def encoded(vectors: torch.Tensor) -> dict[str, Any]:
    array = vectors.detach().numpy().astype("<f4")
    return {"shape": list(array.shape), **hexadecimal(array.tobytes())}


def main() -> None:
    torch.set_num_threads(1)
    # The extension scores; vectors need none of it.
    ColBERT.loaded_extensions = True
    # colbert-ai's class leaves out what transformers 5 does when a model has been built; it ties no weights.
    PreTrainedModel.all_tied_weights_keys = {}
    write_base()
    written = []
    for name, changes, texts in cases():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            shutil.copytree(BASE, folder)
            artifact = json.loads((BASE / ARTIFACT).read_text()) | changes
            (folder / ARTIFACT).write_text(json.dumps(artifact))
            checkpoint = Checkpoint(str(folder), ColBERTConfig(), verbose=0)
            pylate = models.ColBERT(str(folder), device="cpu")
            queries, documents = texts or QUERIES, texts or DOCUMENTS
            case = {"name": f"Stanford: {name}", "base": BASE.name, "files": {ARTIFACT: artifact}, "queries": [], "documents": []}
            worst = 0.0
            for key, some in (("queries", queries), ("documents", documents)):
                for text in some:
                    if key == "queries":
                        vectors = checkpoint.queryFromText([text])[0]
                    else:
                        vectors = checkpoint.docFromText([text], keep_dims=False)[0]
                    case[key].append({"text": text} | encoded(vectors))
                    other = pylate.encode([text], is_query=key == "queries", show_progress_bar=False)[0]
                    if text == text.strip() and "[PAD]" not in text:
                        if other.shape != tuple(vectors.shape):
                            raise SystemExit(f"{name}, {text!r}: PyLate gives {other.shape}, colbert-ai {vectors.shape}")
                        worst = max(worst, float(np.abs(other - vectors.numpy()).max(initial=0.0)))
            case["pylate"] = worst
        written.append(case)
        print(name, [entry["shape"] for entry in case["queries"] + case["documents"]], worst)
    versions = {name.replace("-", "_"): version(name) for name in ("colbert-ai", "pylate", "sentence-transformers")}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(provenance(**versions, dtype="f32"))},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
