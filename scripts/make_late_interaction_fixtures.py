"""Writes fixtures of late interaction: what PyLate makes of its folders.

    python -m venv .venv-pylate && .venv-pylate/bin/pip install -r scripts/requirements-pylate.txt
    .venv-pylate/bin/python scripts/make_late_interaction_fixtures.py

The trunk, a tiny random model whose vocabulary PyLate has grown by its prefixes, goes to `models/tiny-text-late-interaction`. A case
is that trunk with other files laid over it; the vectors of each text go to `tests/fixtures/pipelines/late_interaction.json`, together
with those files (weights and vectors as hexadecimal digits). Texts are encoded one at a time; longer ones are cut, as the library does.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pylate import models
from safetensors.torch import save

from overlay import MODEL_FILES, Files, lay_over, weights
from reference import provenance

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "models" / "tiny-text-late-interaction"
SEED = ROOT / "models" / "tiny-text-chain-mean"
OUTPUT = ROOT / "tests" / "fixtures" / "pipelines" / "late_interaction.json"
HIDDEN = 32

QUERIES = ["Where was the ball?", "x", "  What, about spaces? \n", ""]
DOCUMENTS = [
    "The cat sat on the mat.",
    "A kitten rested on the rug, and it was happy , too!",
    "Café crème costs 3 € at Zoë's — naïve, isn't it? [UNK] [MASK]",
    "  Two leading spaces and  a double  one inside. ",
    "",
]
LONG = " ".join(DOCUMENTS[:2] * 6)


def hexadecimal(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}


def dense(number: int, inputs: int, outputs: int, *, bias: bool = False, activation: str = "linear.Identity", residual: bool | None = False) -> Files:
    """A Dense module of PyLate; a residual of None leaves its key out, as older saves do."""
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": bias,
        "activation_function": f"torch.nn.modules.{activation}",
        "use_residual": residual,
    }
    tensors = {"linear.weight": weights(number, outputs, inputs)}
    if bias:
        tensors["linear.bias"] = weights(10 + number, outputs)
    if residual and inputs != outputs:
        tensors["residual.weight"] = weights(20 + number, outputs, inputs)
    folder = f"{number}_Dense"
    return {
        f"{folder}/config.json": {key: value for key, value in config.items() if value is not None},
        f"{folder}/model.safetensors": hexadecimal(save(tensors)),
    }


def pylate(*modules: Files, bert: Any = None, **settings: Any) -> Files:
    """A folder of PyLate; a setting of None is left out."""
    folders = [next(iter(files)).split("/")[0] for files in modules]
    listing = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    listing += [
        {"idx": i, "name": str(i), "path": path, "type": "pylate.models.Dense.Dense"} for i, path in enumerate(folders, 1)
    ]
    root = {
        "model_type": "ColBERT",
        "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.15.0"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 24,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        "do_query_expansion": False,
    } | settings
    files: Files = {
        "modules.json": listing,
        "sentence_bert_config.json": bert or {"max_seq_length": 7, "do_lower_case": False},
        # A default prompt of null is written by the library.
        "config_sentence_transformers.json": {key: value for key, value in root.items() if value is not None or key == "default_prompt_name"},
    }
    for module in modules:
        files |= module
    return files


def cases() -> list[tuple[str, Files, dict[str, Any]]]:
    """Name, files, and how to encode."""
    one = dense(1, HIDDEN, 8)
    missing = dict.fromkeys(
        ("model_type", "query_prefix", "document_prefix", "query_length", "document_length", "attend_to_expansion_tokens",
         "skiplist_words", "do_query_expansion"))  # fmt: skip
    return [
        ("no expansion", pylate(one), {}),
        ("expansion that nobody sees", pylate(one, do_query_expansion=True), {}),
        ("expansion far behind the text", pylate(one, do_query_expansion=True, query_length=40), {}),
        ("expansion that is attended to", pylate(one, do_query_expansion=True, attend_to_expansion_tokens=True), {}),
        ("attended to without expansion", pylate(one, attend_to_expansion_tokens=True), {}),
        ("every key missing", pylate(dense(1, HIDDEN, 8, residual=None), **missing), {}),
        ("three layers with residuals", pylate(
            dense(1, HIDDEN, HIDDEN, residual=True, bias=True, activation="activation.GELU"),
            dense(2, HIDDEN, 16, residual=True, activation="activation.Tanh"),
            dense(3, 16, 8, bias=True)), {}),
        ("lower case", pylate(one, bert={"max_seq_length": 7, "do_lower_case": True}), {}),
        ("no prefixes and no skiplist", pylate(one, query_prefix="", document_prefix="", skiplist_words=[]), {}),
        ("prefixes that are common tokens", pylate(one, query_prefix="[MASK]", document_prefix="[D] "), {}),
        ("skipped words, one of which is no token", pylate(one, skiplist_words=["the", "Ġthe", "no such token"]), {}),
        ("prompts", pylate(one, prompts={"query": "Find: ", "document": " Text "}, default_prompt_name="query"), {}),
        ("prompts by name", pylate(one, prompts={"query": "Find: ", "document": " Text "}), {"prompt_name": "document"}),
        ("pooled by arguments", pylate(one), {"pool_factor": 3, "protected_tokens": 2, "texts": [*DOCUMENTS, LONG, "The cat.", "a b", "x"]}),
        ("cut", pylate(one, do_query_expansion=True), {"texts": [LONG, LONG.upper()]}),
    ]  # fmt: skip


def write_base() -> None:
    """The trunk with a vocabulary that has the prefixes."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        seed = Path(place) / "seed"
        seed.mkdir()
        for name in MODEL_FILES:
            shutil.copy(SEED / name, seed / name)
        model = models.ColBERT(str(seed), embedding_size=8, query_prefix="[Q] ", document_prefix="[D] ", device="cpu")
        saved = Path(place) / "saved"
        model.save_pretrained(str(saved))
        BASE.mkdir(exist_ok=True)
        for name in MODEL_FILES:
            shutil.copy(saved / name, BASE / name)


def encoded(model: Any, text: str, is_query: bool, options: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in options.items() if key != "texts"}
    vectors = model.encode([text], is_query=is_query, show_progress_bar=False, **kept)[0]
    return {"shape": list(vectors.shape), "hex": vectors.astype("<f4").tobytes().hex()}


def main() -> None:
    torch.set_num_threads(1)
    write_base()
    written = []
    for name, files, options in cases():
        with tempfile.TemporaryDirectory() as place:
            lay_over(BASE, files, Path(place))
            model = models.ColBERT(place, device="cpu")
            queries, documents = options.get("texts", QUERIES), options.get("texts", DOCUMENTS)
            query_vectors = [encoded(model, text, True, options) for text in queries]
            document_vectors = [encoded(model, text, False, options) for text in documents]
        case = {
            "name": name,
            "files": files,
            "options": {key: value for key, value in options.items() if key != "texts"},
            "queries": [{"text": text} | vectors for text, vectors in zip(queries, query_vectors, strict=True)],
            "documents": [{"text": text} | vectors for text, vectors in zip(documents, document_vectors, strict=True)],
        }
        written.append(case)
        print(name, [case["shape"] for case in case["queries"] + case["documents"]])
    head = provenance(pylate=version("pylate"), sentence_transformers=version("sentence-transformers"), dtype="f32")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
