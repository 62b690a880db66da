"""Writes what three generations of transformers and sentence-transformers save, and what they answer from it.

    python scripts/make_version_fixtures.py [--venvs FOLDER] [--unpack FOLDER]

Each generation is a virtual environment below FOLDER with the pins of `scripts/requirements-<generation>.txt`, made if it is not there
yet. One set of tiny weights goes through every kind of `version_kinds.py` in each of them; the newest generation then reads
the folders of the older ones. Most folders have most files in common, so files lie in one pool, `models/tiny-versions`, and
`tests/fixtures/versions/<generation>.json` says which folder has which, and what was answered. `--unpack FOLDER` lays them out as
they were saved. See tests/fixtures/README.md for the schema.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from make_fixtures import CLASSES, CONFIGS, DECODER, ENCODER, FIXTURES, MODELS, ROOT, SPECIAL_IDS
from make_pipeline_fixtures import small_tokenizer
from reference import randomise

GENERATIONS = ("st3", "st5", "st6")
POOL = MODELS / "tiny-versions"
ANSWERS = FIXTURES / "versions"
VOCABULARY = 264
SEED = 20261130
# max_position_embeddings is above the tokenizer's own limit, so that both show.
CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "local_attention": 16,
    "max_position_embeddings": 64,
    **SPECIAL_IDS,
}
LIMIT = 48
SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "encoder-lm": (ENCODER, "lm", {}),
    "encoder-untied": (ENCODER, "lm", {"tie_word_embeddings": False}),
    "encoder-sequence-1": (ENCODER, "sequence", {"num_labels": 1}),
    "encoder-sequence-3": (ENCODER, "sequence", {"num_labels": 3}),
    "encoder-token": (ENCODER, "token", {"num_labels": 5}),
    "encoder-answer": (ENCODER, "answer", {"num_labels": 2}),
    "decoder-lm": (DECODER, "lm", {}),
    "decoder-sequence-1": (DECODER, "sequence", {"num_labels": 1}),
    "decoder-sequence-3": (DECODER, "sequence", {"num_labels": 3}),
}


def write_sources(folder: Path) -> None:
    """Weights in values that bf16 holds exactly: the narrowed folders then have the same answers, and files compress."""
    for name, (kind, task, extra) in SOURCES.items():
        model = CLASSES[kind, task](CONFIGS[kind](**CONFIG, **extra)).eval()
        randomise(model, SEED)
        state = {name: tensor.bfloat16().float().contiguous() for name, tensor in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            state.pop("decoder.weight", None)
        save_file(state, folder / f"{name}.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    settings = json.loads((MODELS / "nano-encoder" / "tokenizer_config.json").read_text())
    for name, limit in (("tokenizer", {"model_max_length": LIMIT}), ("tokenizer-unlimited", {})):
        (folder / name).mkdir()
        text = json.dumps(small_tokenizer(merges_as_text=False, size=VOCABULARY), ensure_ascii=False)
        (folder / name / "tokenizer.json").write_text(text)
        settings.pop("model_max_length", None)
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings | limit))


def python(venvs: Path, generation: str) -> Path:
    """The interpreter of a generation's environment, which is made if need be."""
    program = venvs / generation / "bin" / "python"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", venvs / generation], check=True)
        requirements = ROOT / "scripts" / f"requirements-{generation}.txt"
        subprocess.run([program, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return program


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def differs(ours: Any, theirs: Any) -> bool:
    """Whether two answers differ by more than rounding."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() != theirs.keys() or any(differs(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) != len(theirs) or any(differs(a, b) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) > 1e-5 * max(1.0, abs(theirs))
    return ours != theirs


def scrub(folder: Path) -> None:
    """Takes paths of the making out of what the libraries wrote."""
    for file in folder.rglob("*.json"):
        file.write_text(re.sub(rf'"{re.escape(tempfile.gettempdir())}/[^"]*"', '"base"', file.read_text()))


def pooled(file: Path) -> str:
    """Moves a file to the pool, unless it is there already; returns its name there."""
    name = f"{file.stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}{file.suffix}"
    shutil.move(file, POOL / name)
    (POOL / name).chmod(0o644)
    return name


def keep(generation: str, made: Path) -> None:
    """Moves a generation's files and answers to where the tests find them."""
    listing = json.loads((made / "listing.json").read_text())
    for entry in listing["folders"]:
        folder = made / entry["kind"]
        scrub(folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in ("README.md", ".gitattributes"))
        entry["files"] = {file.relative_to(folder).as_posix(): pooled(file) for file in files}
        for case in entry.get("cases", []):
            newest = case.pop("newest", case["output"])
            if differs(case["output"], newest):
                case["newest"] = newest
    head = json.dumps(listing["provenance"])
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in listing["folders"])
    (ANSWERS / f"{generation}.json").write_text(f'{{"provenance": {head},\n"folders": [\n{lines}\n]}}\n', encoding="utf-8")


def unpack(target: Path) -> None:
    """Every folder as it was saved, in `target/<generation>/<kind>`."""
    for generation in GENERATIONS:
        for entry in json.loads((ANSWERS / f"{generation}.json").read_text())["folders"]:
            for path, name in entry["files"].items():
                file = target / generation / entry["kind"] / path
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(POOL / name, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venvs", type=Path, default=ROOT / ".venv" / "generations", help="where the virtual environments are")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="make nothing, lay out the committed folders")
    arguments = parser.parse_args()
    if arguments.unpack:
        unpack(arguments.unpack)
        return
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    scripts, venvs = Path(__file__).parent, arguments.venvs.resolve()
    for folder in (POOL, ANSWERS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "sources").mkdir()
        write_sources(work / "sources")
        newest = python(venvs, GENERATIONS[-1])
        for generation in GENERATIONS:
            made = work / generation
            subprocess.run([python(venvs, generation), scripts / "version_kinds.py", generation, work / "sources", made], check=True)
            if generation != GENERATIONS[-1]:
                subprocess.run([newest, scripts / "version_answers.py", made / "listing.json"], check=True)
            keep(generation, made)


if __name__ == "__main__":
    main()
