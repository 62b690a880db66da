"""Writes fixtures of sentence-transformers' MultiVectorEncoder: what the library makes of the folders that it saves.

    python scripts/make_multi_vector_fixtures.py

Of the form of `make_late_interaction_fixtures.py`, whose trunk they stand on; they go to
`tests/fixtures/pipelines/multi_vector.json`. Queries are encoded by `encode_query`, documents by `encode_document`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from torch import nn

from overlay import MODEL_FILES, Files, lay_over, weights
from reference import provenance

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "models" / "tiny-text-late-interaction"
OUTPUT = ROOT / "tests" / "fixtures" / "pipelines" / "multi_vector.json"
HIDDEN = 32
TOKENS = {"module_input_name": "token_embeddings"}
PROMPTS = {"query": "[Q] ", "document": "[D] "}
QUERIES = ["Where was the ball?", "x", "  What, about spaces? \n", "", "Where was the ball, and what did the cat on the mat do with it all day?"]
DOCUMENTS = [
    "The cat sat on the mat.",
    "A kitten rested on the rug, and it was happy , too!",
    "Café crème costs 3 € at Zoë's — naïve, isn't it? [UNK] [MASK]",
    "",
]


def dense(inputs: int = HIDDEN, outputs: int = 8, **arguments: Any) -> Dense:
    given = TOKENS | {"bias": False, "activation_function": nn.Identity()} | arguments
    module = Dense(inputs, outputs, init_weight=weights(1, outputs, inputs), **given)
    if hasattr(module, "residual"):
        module.residual.weight = nn.Parameter(weights(3, outputs, inputs))
    return module


def saved(*modules: Any, bert: Files | None = None, **arguments: Any) -> Files:
    """What the library writes of a model of these modules, but for the trunk; `bert` is put over its settings."""
    transformer = Transformer(str(BASE))
    model = MultiVectorEncoder(modules=[transformer, *modules], device="cpu", **({"prompts": PROMPTS} | arguments))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model.save_pretrained(place, create_model_card=False)
        files: Files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if name in (*MODEL_FILES, "README.md"):
                continue
            files[name] = {"hex": path.read_bytes().hex()} if path.suffix == ".safetensors" else json.loads(path.read_text())
    files["sentence_bert_config.json"] |= bert or {}
    return files


def expanded(strategy: str, length: int, attend: bool = False, token: str | None = None, **more: Any) -> Files:
    return {"query_expansion": {"strategy": strategy, "attend": attend, "token": token, "length": length}} | more


def cases() -> list[tuple[str, Files]]:
    mask, unit = MultiVectorMask(list("!,.?")), Normalize(**TOKENS)
    plain = (dense(), mask, unit)
    return [
        ("as saved", saved(*plain)),
        ("lengths", saved(*plain, bert={"query_length": 6, "document_length": 9})),
        ("fixed expansion", saved(*plain, bert=expanded("fixed", 14, query_length=20))),
        ("fixed expansion far behind the text", saved(*plain, bert=expanded("fixed", 40))),
        ("fixed expansion that is attended to", saved(*plain, bert=expanded("fixed", 14, attend=True))),
        ("fixed expansion with another token", saved(*plain, bert=expanded("fixed", 14, token="Ġthe"))),
        ("minimal expansion", saved(*plain, bert=expanded("min", 10))),
        ("minimal expansion under a ceiling", saved(*plain, bert=expanded("min", 10, query_length=13))),
        ("expansion tokens in the skiplist of queries",
         saved(dense(), MultiVectorMask(["[MASK]", ",", "nowhere"], skiplist_tasks=["query", "document"]), unit, bert=expanded("fixed", 14))),
        ("only some ids of documents", saved(dense(), MultiVectorMask([","], keep_only_token_ids=[2, 16, 265]), unit)),
        ("no mask, no scaling", saved(dense(HIDDEN, 16, use_residual=True, activation_function=nn.GELU()), dense(16, 8, bias=True))),
        ("layers behind the scaling", saved(unit, dense(HIDDEN, 8), mask)),
        ("pooled", saved(*plain, HierarchicalTokenPooling(3.0))),
        ("pooled by a fraction, unprotected and not scaled",
         saved(*plain, HierarchicalTokenPooling(1.5, num_protected_tokens=0, normalize_embeddings=False))),
        ("pooled on both sides", saved(*plain, HierarchicalTokenPooling(2.0, num_protected_tokens=3, tasks=["query", "document"]))),
        ("a factor of 1 that scales", saved(dense(), mask, HierarchicalTokenPooling(1.0))),
        ("the mean of the best products", saved(*plain, similarity_fn_name="meanmaxsim")),
    ]  # fmt: skip


def recorded(text: str, vectors: Any) -> dict[str, Any]:
    return {"text": text, "shape": list(vectors.shape), "hex": vectors.float().numpy().astype("<f4").tobytes().hex()}


def main() -> None:
    torch.set_num_threads(1)
    written = []
    for name, files in cases():
        with tempfile.TemporaryDirectory() as place:
            lay_over(BASE, files, Path(place))
            model = MultiVectorEncoder(place, device="cpu")
            queries = [model.encode_query([text], show_progress_bar=False)[0] for text in QUERIES]
            documents = [model.encode_document([text], show_progress_bar=False)[0] for text in DOCUMENTS]
            scores = [[float(model.similarity([query], [document])) for document in documents] for query in queries]
        written.append({
            "name": name,
            "files": files,
            "options": {},
            "queries": [recorded(text, vectors) for text, vectors in zip(QUERIES, queries, strict=True)],
            "documents": [recorded(text, vectors) for text, vectors in zip(DOCUMENTS, documents, strict=True)],
            "scores": scores,
        })  # fmt: skip
        print(name, [list(vectors.shape) for vectors in queries + documents])
    head = provenance(sentence_transformers=sentence_transformers.__version__, dtype="f32")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
