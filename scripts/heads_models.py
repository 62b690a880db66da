"""Checkpoints with heads at the exact dimensions of the published sizes, random, with the real tokenizer: for heads_speed.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from checkpoints import build
from host import ROOT
from suite import SIZES

VECTOR = 128
"""Elements of a token's vector, as in published ColBERT models."""

ACTIVE = 256
"""Entries of the vocabulary that a SPLADE vector keeps, about: trained ones keep some hundreds."""

NLI = ("contradiction", "neutral", "entailment")


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def add_tokenizer(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "tokenizer" / file, folder / file)


def colbert(size: str, folder: Path) -> None:
    """A folder of PyLate: a trunk, and one layer without bias to `VECTOR` elements."""
    hidden = SIZES[size].hidden
    build(size, "encoder", 7).model.save_pretrained(folder)
    add_tokenizer(folder)
    write_json(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ])  # fmt: skip
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 511, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {
        "model_type": "ColBERT",
        "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.15.0"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 32,
        "document_length": 512,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        "do_query_expansion": False,
    })  # fmt: skip
    write_json(folder / "1_Dense" / "config.json", {
        "in_features": hidden,
        "out_features": VECTOR,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    })  # fmt: skip
    weight = torch.empty(VECTOR, hidden).normal_(0.0, hidden**-0.5, generator=torch.Generator().manual_seed(1))
    save_file({"linear.weight": weight}, folder / "1_Dense" / "model.safetensors")


def splade(size: str, folder: Path) -> None:
    """A folder of SparseEncoder: the largest of each entry, with a bias under which vectors are as sparse as trained ones."""
    model = build(size, "encoder", 7)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "models" / "tokenizer" / "tokenizer.json"))
    lines = (ROOT / "tests" / "fixtures" / "valid_sample.jsonl").read_text().splitlines()[:4]
    largest = []
    with torch.no_grad():
        model.decoder.bias.zero_()
        for line in lines:
            ids = tokenizer(json.loads(line)["text"], return_tensors="pt", truncation=True, max_length=160).input_ids
            largest.append(model(input_ids=ids).logits[0].amax(0))
        # One number for all entries would leave the same ones in every text.
        model.decoder.bias.copy_(-torch.stack(largest).mean(0))
        spread = (torch.stack(largest) + model.decoder.bias).flatten()
        model.decoder.bias -= spread.kthvalue(spread.numel() - ACTIVE * len(lines)).values
    model.save_pretrained(folder)
    add_tokenizer(folder)
    write_json(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
        {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": "sentence_transformers.sparse_encoder.models.SpladePooling"},
    ])  # fmt: skip
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {
        "model_type": "SparseEncoder",
        "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.15.0"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    })  # fmt: skip
    settings = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": 50368}
    write_json(folder / "1_SpladePooling" / "config.json", settings)


def nli(size: str, folder: Path) -> None:
    """A classifier of natural language inference."""
    encoder = build(size, "encoder", 7)
    config = encoder.config
    config.id2label = dict(enumerate(NLI))
    config.label2id = {name: index for index, name in enumerate(NLI)}
    torch.manual_seed(0)
    model = transformers.ModernBertForSequenceClassification(config).eval()
    model.model.load_state_dict(encoder.model.state_dict())
    model.save_pretrained(folder)
    add_tokenizer(folder)


KINDS: dict[str, Callable[[str, Path], None]] = {"multi-vector": colbert, "sparse": splade, "zero-shot": nli}


def folder_of(workdir: Path, head: str, size: str) -> Path:
    """The checkpoint of a head, made if it is not there."""
    folder = workdir / f"{head}-{size}"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        transformers.utils.logging.disable_progress_bar()
        KINDS[head](size, folder)
    return folder
