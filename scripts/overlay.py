"""Small files laid over a model of `models/`: how fixtures describe a repository, without a copy of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

Files = dict[str, Any]
"""By name: what JSON says, or {"hex": digits} for bytes, or None for a file that is not there."""

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def lay_over(base: Path, files: Files, folder: Path) -> None:
    """The model in `base` with `files` over it."""
    for name in MODEL_FILES:
        shutil.copy(base / name, folder / name)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        elif isinstance(content, dict) and list(content) == ["hex"]:
            path.write_bytes(bytes.fromhex(content["hex"]))
        else:
            path.write_text(json.dumps(content, indent=2) + "\n")


def weights(seed: int, *shape: int) -> torch.Tensor:
    return torch.empty(shape).normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))
