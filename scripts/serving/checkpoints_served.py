"""Checkpoints that both servers load: exact dimensions of the published sizes, random weights, the real tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from checkpoints import build  # noqa: E402
from heads_models import add_tokenizer, write_json  # noqa: E402
from suite import SIZES  # noqa: E402

LONGEST = 512
"""Tokens of a text that the peer cuts at; ours reads what the model can."""


def config(size: str, architecture: str) -> dict[str, Any]:
    """The dialect of transformers 4, which infinity's generation reads, and this engine as well."""
    shape = SIZES[size]
    return {
        "architectures": [architecture],
        "model_type": "modernbert",
        "vocab_size": 50368,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "hidden_activation": "gelu",
        "max_position_embeddings": 7999,
        "norm_eps": 1e-5,
        "layer_norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 160000.0,
        "local_attention": 128,
        "pad_token_id": 50283,
        "bos_token_id": 50281,
        "eos_token_id": 50282,
        "cls_token_id": 50281,
        "sep_token_id": 50282,
        "classifier_pooling": "mean",
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "torch_dtype": "float32",
        "transformers_version": "4.57.6",
    }


def embedder(size: str, folder: Path) -> None:
    """A folder of sentence-transformers: a trunk and its mean."""
    build(size, "encoder", 7).model.save_pretrained(folder)
    write_json(folder / "config.json", config(size, "ModernBertModel"))
    write_json(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ])  # fmt: skip
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": LONGEST, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
    pooling = {"word_embedding_dimension": SIZES[size].hidden, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)


def long_embedder(size: str, folder: Path) -> None:
    """The same for texts of any length that the model reads."""
    embedder(size, folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 7999, "do_lower_case": False})


def reranker(size: str, folder: Path) -> None:
    """A classifier of one label."""
    encoder = build(size, "encoder", 7)
    own = encoder.config
    own.id2label, own.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    torch.manual_seed(0)
    model = transformers.ModernBertForSequenceClassification(own).eval()
    model.model.load_state_dict(encoder.model.state_dict())
    model.save_pretrained(folder)
    named = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "classifier_pooling": own.classifier_pooling}
    write_json(folder / "config.json", config(size, "ModernBertForSequenceClassification") | named)


def decoder(size: str, folder: Path) -> None:
    """A causal language model."""
    build(size, "decoder", 7).save_pretrained(folder)


KINDS = {"embed": embedder, "long": long_embedder, "rerank": reranker, "decode": decoder}


def folder_of(workdir: Path, kind: str, size: str) -> Path:
    """The checkpoint of a kind, made if it is not there."""
    folder = workdir / f"serve-{kind}-{size}"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        transformers.utils.logging.disable_progress_bar()
        KINDS[kind](size, folder)
        add_tokenizer(folder)
    return folder
