"""Writes fixtures of sentence-transformers models with routes, and of those that look vectors up instead of running a trunk.

    python scripts/make_route_fixtures.py

A case is the files of a folder that the library saved, or that was written here in a form that it reads and writes no longer. A file
is JSON, hexadecimal digits (`hex`), one of `pool`, which holds what several cases have, or one of a tiny model of `models/` (`of`, a
path there). The library's answers to every task go to `tests/fixtures/pipelines/routes.json`, one text at a time, f32; where they are
those of an earlier case, that one is named (`same`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentence_transformers
import tokenizers
import torch
import transformers
from safetensors.torch import save
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from torch import nn

from reference import provenance

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
OUTPUT = ROOT / "tests" / "fixtures" / "pipelines" / "routes.json"
TRUNK = MODELS / "tiny-text-chain-mean"
HIDDEN = 32
MODEL_FILES = ("model.safetensors", "tokenizer.json")
TEXTS = ["The cat sat on the mat, the cat.", "x", "", " Where was the ball?", "Café crème costs 3 € [MASK]"]
Files = dict[str, Any]


def weights(seed: int, *shape: int) -> torch.Tensor:
    return torch.empty(shape).normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))


def dense(inputs: int, outputs: int, seed: int, **arguments: Any) -> Dense:
    return Dense(inputs, outputs, bias=False, init_weight=weights(seed, outputs, inputs), **arguments)


def tokenizer(base: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))


def table(seed: int, size: int, cut: int | None = None) -> StaticEmbedding:
    """Vectors of all tokens; with a tokenizer that cuts texts itself."""
    words = tokenizer(TRUNK)
    if cut:
        words.enable_truncation(cut)
    return StaticEmbedding(words, embedding_weights=weights(seed, words.get_vocab_size(), size))


def idf(**arguments: Any) -> SparseStaticEmbedding:
    words = transformers.AutoTokenizer.from_pretrained(TRUNK)
    for key, value in arguments.items():
        setattr(words, key, value)
    values = weights(9, len(words)).abs()
    values[7] = 0.0
    return SparseStaticEmbedding(words, weight=values, frozen=True)


def trunk() -> Transformer:
    return Transformer(str(TRUNK))


def splade(**arguments: Any) -> list[Any]:
    """A masked language model of one narrow layer, with the trunk's tokenizer."""
    config = transformers.AutoConfig.from_pretrained(TRUNK)
    config.update({"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 1})
    config.layer_types = config.layer_types[:1]
    model = transformers.ModernBertForMaskedLM(config)
    for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
        spread = weights(100 + number, *parameter.shape)
        parameter.data = 1.0 + spread / 3 if parameter.ndim == 1 and parameter.mean() == 1.0 else spread
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        transformers.AutoTokenizer.from_pretrained(TRUNK).save_pretrained(place)
        return [Transformer(place, transformer_task="fill-mask"), SpladePooling(**arguments)]


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def content(path: Path, known: dict[bytes, str]) -> Any:
    data = path.read_bytes()
    if data in known:
        return {"of": known[data]}
    return json.loads(data) if path.suffix == ".json" else {"hex": data.hex()}


def listed(folder: Path) -> Files:
    known = {(TRUNK / name).read_bytes(): f"{TRUNK.name}/{name}" for name in MODEL_FILES}
    return {path.relative_to(folder).as_posix(): content(path, known) for path in sorted(folder.rglob("*")) if path.is_file()}


def put(files: Files, folder: Path) -> None:
    for name, entry in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match entry:
            case {"hex": digits}:
                path.write_bytes(bytes.fromhex(digits))
            case {"of": source}:
                path.write_bytes((MODELS / source).read_bytes())
            case _:
                path.write_text(json.dumps(entry, indent=2) + "\n")


def saved(model: Any) -> Files:
    """What the library saves."""
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place, create_model_card=False)
        files = listed(Path(place))
    for name, entry in files.items():
        # The trunk's tensors, in another order.
        if isinstance(entry, dict) and "hex" in entry and len(entry["hex"]) > 200_000:
            assert name.endswith("model.safetensors"), name
            files[name] = {"of": f"{TRUNK.name}/model.safetensors"}
    return files


def pooled(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Takes the larger files out of the cases."""
    pool: dict[str, Any] = {}
    for case in cases:
        for name, entry in case["files"].items():
            text = json.dumps(entry, sort_keys=True)
            if len(text) > 1_000 and "of" not in entry:
                key = hashlib.sha256(text.encode()).hexdigest()[:8]
                pool[key] = entry
                case["files"][name] = {"pool": key}
    return pool


def moved(files: Files, old: str, new: str) -> Files:
    """The folder `old` of a router under another id."""
    rename = lambda name: (new + name[len(old) :]).lstrip("/") if name.startswith(old + "/") else name
    router = json.loads(json.dumps(files["router_config.json"]).replace(f'"{old}"', json.dumps(new)))
    return {rename(name): entry for name, entry in files.items()} | {"router_config.json": router}


def routed(*tail: Any, query: list[Any], document: list[Any], **arguments: Any) -> list[Any]:
    return [Router({"query": query, "document": document}, **arguments), *tail]


def embedder(modules: list[Any], **arguments: Any) -> Files:
    return saved(SentenceTransformer(modules=modules, device="cpu", **arguments))


def sparse(modules: list[Any], **arguments: Any) -> Files:
    return saved(SparseEncoder(modules=modules, device="cpu", **arguments))


def shared() -> Files:
    """One trunk for both routes; the document route begins with a module of the query route."""
    own = trunk()
    return embedder(routed(Normalize(), query=[own, Pooling(HIDDEN, "mean")], document=[own, Pooling(HIDDEN, "cls"), dense(HIDDEN, HIDDEN, 2)]))


def static_query() -> list[Any]:
    return routed(query=[table(4, 16)], document=[trunk(), Pooling(HIDDEN, "mean"), dense(HIDDEN, 16, 5)], default_route="document")


def rules() -> Files:
    own = trunk()
    heads = {"short": [own, Pooling(HIDDEN, "cls")], "long": [own, Pooling(HIDDEN, "max")], "text": [own, Pooling(HIDDEN, "mean")]}
    mappings = {("query", "text"): "short", ("passage", None): "long", ("it's", ("image", "text")): "short"}
    return embedder([Router(heads, default_route="long", route_mappings=mappings)])


def older_asym(files: Files) -> Files:
    """As version 3 laid it out: `2_Asym/config.json`, ids by address, no default route."""
    router = files.pop("2_Router/router_config.json")
    ids = {old: f"1403{number}_Dense" for number, old in enumerate(router["types"])}
    text = json.dumps(router)
    for old, new in ids.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    router = json.loads(text)
    router["types"] = dict.fromkeys(router["types"], "sentence_transformers.models.Dense.Dense")
    router["parameters"] = {"allow_empty_key": True}
    files["2_Asym/config.json"] = router
    for name in [name for name in files if name.startswith("2_Router/")]:
        _, old, rest = name.split("/")
        files[f"2_Asym/{ids[old]}/{rest}"] = files.pop(name)
    for entry in files["modules.json"]:
        if entry["path"] == "2_Router":
            entry |= {"path": "2_Asym", "type": "sentence_transformers.models.Asym.Asym"}
    return files


def model2vec(**tensors: torch.Tensor) -> Files:
    """A folder as model2vec saves it, its own config.json included."""
    return {
        "config.json": {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True},
        "config_sentence_transformers.json": {"prompts": {}, "similarity_fn_name": "cosine"},
        "modules.json": [
            {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
            {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "model.safetensors": {"hex": save(tensors).hex()},
        "tokenizer.json": {"of": "tiny-text-chain-mean/tokenizer.json"},
    }


def with_idf_by_token(files: Files) -> Files:
    """The weights of queries in a file by token, one of them no token."""
    files = dict(files)
    files.pop("query_0_SparseStaticEmbedding/model.safetensors")
    files["query_0_SparseStaticEmbedding/config.json"] = {"path": "idf.json", "frozen": True}
    files["idf.json"] = {"the": 1.5, "nowhere-to-be-found": 0.25, "Ġcat": 2.5, ".": 0.5, "at": 0.75, "x": 3.0}
    return files


def old_paths(files: Files) -> Files:
    """Class paths of the first generation."""
    router = json.loads(json.dumps(files["router_config.json"]))
    short = {
        "SparseStaticEmbedding": "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding",
        "Transformer": "sentence_transformers.sparse_encoder.models.MLMTransformer",
        "SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling",
    }
    router["types"] = {name: short[path.rsplit(".", 1)[1]] for name, path in router["types"].items()}
    modules = [dict(entry) for entry in files["modules.json"]]
    modules[0]["type"] = "sentence_transformers.models.Router"
    return files | {"router_config.json": router, "modules.json": modules}


def cases() -> list[tuple[str, Callable[[str], Any], Files, list[str | None]]]:
    """Name, class, files and tasks; a task of none is `encode` without one."""
    sides = [None, "query", "document"]
    prompts = {"query": "query: ", "document": "passage: "}
    free = lambda **arguments: routed(query=[idf()], document=splade(), default_route="document", **arguments)
    inference_free = sparse(free())
    vocabulary = tokenizer(TRUNK).get_vocab_size()
    mapping = torch.arange(vocabulary) % 50
    return [
        ("router static query", SentenceTransformer, embedder(static_query()), sides),
        ("router static query with prompts", SentenceTransformer, embedder(static_query(), prompts=prompts, truncate_dim=10), sides),
        ("router shared backbone", SentenceTransformer, shared(), sides),
        ("router with rules", SentenceTransformer, rules(), [None, "query", "document", "passage", "long"]),
        ("router of two trunks", SentenceTransformer,
         embedder(routed(query=[trunk(), Pooling(HIDDEN, "mean")], document=[trunk(), Pooling(HIDDEN, "max")])), sides),
        ("router of heads", SentenceTransformer,
         embedder([trunk(), Pooling(HIDDEN, "mean"), Router({"query": [dense(HIDDEN, 8, 6)], "doc": [dense(HIDDEN, 8, 7)]}), Normalize()]),
         [None, "query", "doc"]),
        ("router of a head and none", SentenceTransformer,
         embedder([trunk(), Pooling(HIDDEN, "mean"), Router({"query": [dense(HIDDEN, HIDDEN, 6)], "document": []})]), sides),
        ("asym legacy", SentenceTransformer,
         older_asym(embedder([trunk(), Pooling(HIDDEN, "mean"), Router({"query": [dense(HIDDEN, 8, 6)], "doc": [dense(HIDDEN, 8, 7)]})])),
         [None, "query", "doc"]),
        ("static alone", SentenceTransformer, embedder([table(8, 12)]), [None]),
        ("static with modules", SentenceTransformer,
         embedder([table(8, 12), dense(12, 6, 3, activation_function=nn.GELU()), Normalize()], similarity_fn_name="dot"), [None]),
        ("static that cuts", SentenceTransformer, embedder([table(8, 4, cut=5)]), [None]),
        ("model2vec", SentenceTransformer, model2vec(embeddings=weights(1, vocabulary, 6)), [None]),
        ("model2vec with mapping and weights", SentenceTransformer,
         model2vec(embeddings=weights(1, 50, 6), mapping=mapping, weights=weights(2, vocabulary).double()), [None]),
        ("model2vec in halves", SentenceTransformer,
         model2vec(embeddings=weights(1, 50, 6).half(), mapping=mapping.int(), weights=weights(2, vocabulary)), [None]),
        ("splade inference-free", SparseEncoder, inference_free, sides),
        ("splade inference-free at root", SparseEncoder, moved(inference_free, "document_0_Transformer", ""), sides),
        ("splade inference-free of old paths", SparseEncoder, old_paths(inference_free), sides),
        ("splade inference-free by token", SparseEncoder, with_idf_by_token(inference_free), ["query"]),
        ("splade inference-free that cuts", SparseEncoder,
         sparse(routed(query=[idf(model_max_length=4)], document=splade(activation_function="log1p_relu")), max_active_dims=5), sides),
        ("sparse static alone", SparseEncoder, sparse([idf()]), [None]),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Answers


def recorded(vector: Any) -> Any:
    if isinstance(vector, torch.Tensor) and vector.is_sparse:
        vector = vector.coalesce()
        kept = [(int(place), float(value)) for place, value in zip(vector.indices()[0], vector.values(), strict=True) if value != 0]
        return {"indices": [place for place, _ in kept], "hex": torch.tensor([value for _, value in kept]).numpy().tobytes().hex()}
    return {"hex": torch.as_tensor(vector).float().numpy().astype("<f4").tobytes().hex()}


def encoder(model: Any, task: str | None) -> Callable[[str], Any]:
    """As a user calls it: the two sides of a search have methods of their own."""
    encode = {"query": model.encode_query, "document": model.encode_document}.get(task or "", model.encode)
    named = {} if task in (None, "query", "document") else {"task": task}
    return lambda text: encode([text], show_progress_bar=False, **named)


def answers(cls: Any, files: Files, tasks: list[str | None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        put(files, Path(place))
        if "idf.json" in files:
            # The library opens it in the working directory.
            os.chdir(place)
        model = cls(place, device="cpu", model_kwargs={"torch_dtype": torch.float32})
        vectors = {task: [encoder(model, task)(text) for text in TEXTS] for task in tasks}
        one, other = tasks[0], tasks[0]
        if {"query", "document"} <= set(tasks):
            one, other = "query", "document"
        scores = [float(model.similarity(vectors[one][0], vector)) for vector in vectors[other]]
        os.chdir(ROOT)
    return {
        "runs": [{"task": task, "vectors": [recorded(vector[0]) for vector in vectors[task]]} for task in tasks],
        "similarity": scores,
    }


def main() -> None:
    torch.set_num_threads(1)
    written = []
    for name, cls, files, tasks in cases():
        found = answers(cls, files, tasks)
        same = next((case["name"] for case in written if {key: case.get(key) for key in found} == found), None)
        entry = {"name": name, "files": files, **({"same": same} if same else found)}
        written.append(entry)
        print(name, sorted(files)[:3], len(json.dumps(entry)))
    pool = pooled(written)
    head = provenance(sentence_transformers=sentence_transformers.__version__, dtype="f32")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
    texts = json.dumps(TEXTS, ensure_ascii=False)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"texts": {texts},\n"pool": {json.dumps(pool, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
