"""Writes fixtures of sentence-transformers repositories: what the library makes of the keys of their files.

    python scripts/make_sentence_fixtures.py

A case is a tiny model of `models/` with other files laid over it; what the library answers goes to
`tests/fixtures/pipelines/sentence_transformers.json`, together with those files (weights as hexadecimal digits). The files are
what the library saves, or, for layouts that it writes no longer, written here. The answers are those of a repository put together
from the fixture, one text at a time, eager attention, f32.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling
from torch import nn

from make_fixtures import FIXTURES, MODELS, ROOT
from make_pipeline_fixtures import PAIRS, TEXTS, plain, weights
from overlay import MODEL_FILES, Files, lay_over
from reference import provenance

OUTPUT = FIXTURES / "pipelines" / "sentence_transformers.json"
TRUNK = MODELS / "tiny-text-chain-mean"
ONE_LABEL = MODELS / "tiny-text-rerank-sigmoid"
THREE_LABELS = MODELS / "tiny-text-classify-single"
TAGGER = MODELS / "tiny-text-tag"

OLD = "sentence_transformers.models"
QUERY = "Where was the ball?"
DOCUMENTS = [TEXTS[7], TEXTS[0], "The ball was in the park.", "", TEXTS[4]]
INPUTS = [TEXTS[0], TEXTS[7], TEXTS[4], TEXTS[6]]
EAGER = {"attn_implementation": "eager"}
Run = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------------
# Repositories


def saved(base: Path, model: Any) -> Files:
    """What `model.save_pretrained` writes, but for what `base` holds already."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model.save_pretrained(place, create_model_card=False)
        files: Files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if name in ("model.safetensors", "tokenizer.json"):
                continue  # the same values as in `base`
            files[name] = {"hex": path.read_bytes().hex()} if path.suffix == ".safetensors" else json.loads(path.read_text())
        return files


def listing(*modules: tuple[str, str]) -> list[dict[str, Any]]:
    """modules.json of (path, class) pairs."""
    return [{"idx": i, "name": str(i), "path": path, "type": cls} for i, (path, cls) in enumerate(modules)]


def old_chain(bert: Any = None, root: Any = None, pooling: Any = None, **more: Any) -> Files:
    """Transformer and mean pooling as versions before 5.4 laid them out."""
    mean = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    files: Files = {
        "modules.json": listing(("", f"{OLD}.Transformer"), ("1_Pooling", f"{OLD}.Pooling")),
        "1_Pooling/config.json": pooling or mean,
        "sentence_bert_config.json": bert if bert is not None else {"max_seq_length": 128, "do_lower_case": False},
        "config_sentence_transformers.json": root if root is not None else {"__version__": {"sentence_transformers": "3.4.1"}},
    }
    return files | more


def tokenizer_settings(base: Path, **changes: Any) -> dict[str, Any]:
    settings = json.loads((base / "tokenizer_config.json").read_text()) | changes
    return {key: value for key, value in settings.items() if value is not None}


def json_truncation(direction: str) -> dict[str, Any]:
    """tokenizer.json with a truncation of its own, as transformers leaves it behind."""
    tokenizer = json.loads((TRUNK / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": direction, "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    return tokenizer


# ---------------------------------------------------------------------------------------------------------------------
# Answers of the library


def embedder(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", model_kwargs=dict(EAGER))


def embed(folder: Path, texts: list[str], role: str = "", **options: Any) -> Run:
    """`role` is query or document (encode_query, encode_document); options are those of encode."""
    model = embedder(folder)
    encode = {"": model.encode, "query": model.encode_query, "document": model.encode_document}[role]
    vectors = [encode([text], show_progress_bar=False, **options)[0] for text in texts]
    given = {"prompt": role} if role else {"prompt": options["prompt_name"]} if "prompt_name" in options else {}
    given |= {key: options[key] for key in ("normalize_embeddings", "truncate_dim") if key in options}
    given |= {"no_prompt": True} if options.get("prompt") == "" else {}
    if options.get("output_value"):
        given["per_token"] = True
    return {"task": "embed", "options": given, "input": texts, "output": vectors}


def similarity(folder: Path) -> Run:
    model = embedder(folder)
    vectors = [model.encode([text], show_progress_bar=False) for text in INPUTS]
    scores = [model.similarity(vectors[0], vector).item() for vector in vectors[1:]]
    return {"task": "similarity", "options": {}, "input": {"a": INPUTS[0], "b": INPUTS[1:]}, "output": scores}


def rerank(folder: Path, documents: list[str] = DOCUMENTS, query: str = QUERY, **options: Any) -> Run:
    model = CrossEncoder(str(folder), device="cpu", model_kwargs=dict(EAGER))
    scores = [float(model.predict([(query, document)], show_progress_bar=False, **options)[0]) for document in documents]
    given = {"prompt": options["prompt_name"]} if "prompt_name" in options else {}
    given |= {"no_prompt": True} if options.get("prompt") == "" else {}
    given |= {"activation": "raw"} if isinstance(options.get("activation_fn"), nn.Identity) else {}
    order = sorted(range(len(documents)), key=lambda i: -scores[i])
    ranked = [{"index": i, "score": scores[i]} for i in order]
    return {"task": "rerank", "options": given, "input": {"query": query, "documents": documents}, "output": ranked}


def classify(folder: Path, **options: Any) -> Run:
    """Logits of CrossEncoder, which a classifier reports as raw scores."""
    model = CrossEncoder(str(folder), device="cpu", model_kwargs=dict(EAGER))
    names = model.config.id2label
    inputs = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    answers = []
    for given in inputs:
        logits = model.predict([tuple(given.values())], activation_fn=nn.Identity(), show_progress_bar=False, **options)[0]
        order = sorted(range(len(names)), key=lambda i: -logits[i])
        answers.append([{"label": names[i], "score": float(logits[i])} for i in order])
    given = {"prompt": options["prompt_name"]} if "prompt_name" in options else {}
    return {"task": "classify", "options": given | {"raw": True}, "input": inputs, "output": answers}


def tag(folder: Path) -> Run:
    """The pipeline of transformers, which cuts to model_max_length unasked."""
    pipe = transformers.pipeline("token-classification", model=str(folder), ignore_labels=[], model_kwargs=dict(EAGER))
    return {"task": "tag", "options": {}, "input": INPUTS, "output": [pipe(text) for text in INPUTS]}


def cut(run: Run, truncate: str = "right") -> Run:
    """An answer that needs texts to be cut."""
    return run | {"truncate": truncate}


# ---------------------------------------------------------------------------------------------------------------------
# Cases: a base, files over it, and what to ask

Case = tuple[str, Path, Files, list[Callable[[Path], Run]]]


def length_cases() -> list[Case]:
    """Where a limit may be."""
    embed_cut: list[Callable[[Path], Run]] = [lambda f: cut(embed(f, INPUTS))]
    left: list[Callable[[Path], Run]] = [lambda f: cut(embed(f, INPUTS), "model")]
    short = {"max_seq_length": 12, "do_lower_case": False}
    limited = {"tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=12)}
    new = saved(TRUNK, SentenceTransformer(modules=[Transformer(str(TRUNK), max_seq_length=12), Pooling(32, "mean")], device="cpu"))
    spacious = json.loads((TRUNK / "config.json").read_text()) | {"max_position_embeddings": 12}
    lengths = {"query_length": 8, "document_length": 16}
    role_prompts = {"prompts": {"query": "q: ", "document": "d: "}}
    both: list[Callable[[Path], Run]] = [
        lambda f: cut(embed(f, INPUTS, "query")),
        lambda f: cut(embed(f, INPUTS, "document")),
        lambda f: embed(f, INPUTS),
    ]
    left_side = {"tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=12, truncation_side="left")}
    left_json = {"tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=12), "tokenizer.json": json_truncation("Left")}
    left_both = {**left_json, "tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=12, truncation_side="right")}
    kwargs = lambda **text: {"processing_kwargs": {"text": text}}  # noqa: E731
    return [
        ("max_seq_length of the older layout", TRUNK, old_chain(short), embed_cut),
        ("model_max_length where the older layout has no limit", TRUNK, old_chain({}, **limited), embed_cut),
        ("model_max_length under a max_seq_length of null", TRUNK, old_chain({"max_seq_length": None}, **limited), embed_cut),
        ("max_len, the older name of model_max_length", TRUNK,
         old_chain({}, **{"tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=None, max_len=12)}), embed_cut),
        ("max_seq_length over model_max_length", TRUNK, old_chain({"max_seq_length": 20}, **limited), embed_cut),
        ("max_seq_length over the model's positions", TRUNK, old_chain({"max_seq_length": 20}, **{"config.json": spacious}), embed_cut),
        ("positions where nothing else limits", TRUNK, old_chain({}, **{
            "config.json": spacious, "tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=int(1e30))}), embed_cut),
        ("max_seq_length as 6.2 saves it", TRUNK, new, embed_cut),
        ("no sentence_bert_config.json", TRUNK, old_chain(**limited) | {"sentence_bert_config.json": None}, embed_cut),
        ("the name of the file in version 0", TRUNK,
         old_chain() | {"sentence_bert_config.json": None, "sentence_roberta_config.json": short}, embed_cut),
        ("model_max_length among the tokenizer's arguments", TRUNK,
         old_chain({"max_seq_length": 30, "tokenizer_args": {"model_max_length": 12}}), embed_cut),
        ("query_length and document_length", TRUNK, old_chain(lengths, role_prompts), both),
        ("processing_kwargs over query_length", TRUNK,
         old_chain(lengths | kwargs(max_length=10), role_prompts),
         [lambda f: cut(embed(f, INPUTS, "query")), lambda f: cut(embed(f, INPUTS))]),
        ("processing_kwargs in common over those of text", TRUNK,
         old_chain({"processing_kwargs": {"text": {"max_length": 10}, "common": {"max_length": 6}}}), embed_cut),
        ("processing_kwargs that do not truncate", TRUNK, old_chain(short | kwargs(truncation=False)), [lambda f: embed(f, INPUTS)]),
        ("processing_kwargs that do not truncate, over the model's positions", TRUNK,
         old_chain({"max_seq_length": None} | kwargs(truncation=False), **{"config.json": spacious}), [lambda f: embed(f, INPUTS)]),
        ("no special tokens", TRUNK, old_chain(kwargs(add_special_tokens=False)), [lambda f: embed(f, INPUTS)]),
        ("no special tokens and a limit", TRUNK, old_chain(kwargs(add_special_tokens=False, max_length=9)), embed_cut),
        ("truncation_side", TRUNK, old_chain({}, **left_side), left),
        ("truncation_side of tokenizer.json alone, whose max_length counts nowhere", TRUNK, old_chain({}, **left_json), left),
        ("truncation_side of tokenizer_config.json over that of tokenizer.json", TRUNK, old_chain({}, **left_both), left),
        ("truncation_side among the tokenizer's arguments", TRUNK,
         old_chain({"max_seq_length": 12, "tokenizer_args": {"truncation_side": "left"}}), left),
        ("a plain embedder's model_max_length", TRUNK, limited, embed_cut),
        ("a plain classifier's model_max_length", ONE_LABEL,
         {"tokenizer_config.json": tokenizer_settings(ONE_LABEL, model_max_length=16)}, [lambda f: cut(rerank(f))]),
        ("a plain classifier's truncation_side", ONE_LABEL,
         {"tokenizer_config.json": tokenizer_settings(ONE_LABEL, model_max_length=16, truncation_side="left")},
         [lambda f: cut(rerank(f), "model")]),
        ("a plain tagger's model_max_length", TAGGER,
         {"tokenizer_config.json": tokenizer_settings(TAGGER, model_max_length=16)}, [lambda f: cut(tag(f))]),
    ]


def reranker_cases() -> list[Case]:
    """Layouts of CrossEncoder, activations and prompts."""
    asks: list[Callable[[Path], Run]] = [rerank, lambda f: rerank(f, activation_fn=nn.Identity())]
    prompts: dict[str, Any] = {"prompts": {"web": "Find what answers this: ", "none": ""}, "default_prompt_name": "web"}
    prompted: list[Callable[[Path], Run]] = [
        rerank,
        lambda f: rerank(f, prompt_name="none"),
        lambda f: rerank(f, prompt_name="web", activation_fn=nn.Identity()),
        lambda f: rerank(f, prompt=""),
    ]

    def one(**arguments: Any) -> Files:
        return saved(ONE_LABEL, CrossEncoder(str(ONE_LABEL), device="cpu", **arguments))

    def config(files: Files, **changes: Any) -> Files:
        return files | {"config.json": json.loads((ONE_LABEL / "config.json").read_text()) | changes}

    def root(files: Files, **changes: Any) -> Files:
        name = "config_sentence_transformers.json"
        return files | {name: {key: value for key, value in (files[name] | changes).items() if value is not None}}

    identity, sigmoid = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
    default = one()
    three = saved(THREE_LABELS, CrossEncoder(str(THREE_LABELS), device="cpu", **prompts))
    return [
        ("one module", ONE_LABEL, default, asks),
        ("one module, identity", ONE_LABEL, one(activation_fn=nn.Identity()), asks),
        ("one module, tanh", ONE_LABEL, one(activation_fn=nn.Tanh()), asks),
        ("one module, prompts", ONE_LABEL, one(**prompts), prompted),
        ("one module, max_length", ONE_LABEL, one(max_length=16), [lambda f: cut(rerank(f))]),
        ("one module, max_length and a prompt", ONE_LABEL, one(max_length=16, **prompts), [lambda f: cut(rerank(f))]),
        ("one module, activation of config.json", ONE_LABEL,
         config(root(default, activation_fn=None), sentence_transformers={"activation_fn": identity, "version": "4.1.0"}), asks),
        ("one module, its own activation over that of config.json", ONE_LABEL,
         config(root(default, activation_fn=sigmoid), sentence_transformers={"activation_fn": identity}), asks),
        ("one module, an activation from elsewhere, and the next source", ONE_LABEL,
         config(root(default, activation_fn="custom.Score"), sbert_ce_default_activation_function=identity), asks),
        ("no module, an activation from elsewhere", ONE_LABEL, config({}, sentence_transformers={"activation_fn": "custom.Score"}), asks),
        ("no module, both keys of config.json", ONE_LABEL,
         config({}, sentence_transformers={"activation_fn": sigmoid}, sbert_ce_default_activation_function=identity), asks),
        ("no module, so that config_sentence_transformers.json counts nowhere", ONE_LABEL,
         {"config_sentence_transformers.json": {"activation_fn": identity, "model_type": "CrossEncoder", **prompts}}, [rerank]),
        ("three labels", THREE_LABELS, three, [classify, lambda f: classify(f, prompt_name="none")]),
    ]


def scores(width: int) -> Dense:
    return Dense(width, 1, activation_function=nn.Identity(), module_output_name="scores",
                 init_weight=weights(9, (1, width)), init_bias=weights(10, (1,)))  # fmt: skip


def chain_cases() -> list[Case]:
    """Modules and settings of chains."""

    def embedding(*modules: Any, **arguments: Any) -> Files:
        model = SentenceTransformer(modules=[Transformer(str(TRUNK)), *modules], device="cpu", **arguments)
        return saved(TRUNK, model)

    def reranking(*modules: Any, **arguments: Any) -> Files:
        return saved(TRUNK, CrossEncoder(modules=[Transformer(str(TRUNK)), *modules], device="cpu", **arguments))

    def dense(inputs: int, outputs: int, **arguments: Any) -> Dense:
        module = Dense(inputs, outputs, init_weight=weights(1, (outputs, inputs)), init_bias=weights(2, (outputs,)), **arguments)
        if hasattr(module, "residual"):
            module.residual.weight = nn.Parameter(weights(3, (outputs, inputs)))
        return module

    tokens = {"module_input_name": "token_embeddings"}
    asks: list[Callable[[Path], Run]] = [lambda f: embed(f, INPUTS)]
    per_token: list[Callable[[Path], Run]] = [*asks, lambda f: embed(f, ["x", "A cat."], output_value="token_embeddings")]
    cut_width: list[Callable[[Path], Run]] = [
        *asks,
        similarity,
        lambda f: embed(f, INPUTS, normalize_embeddings=True),
        lambda f: embed(f, INPUTS, truncate_dim=20, normalize_embeddings=True),
    ]
    norm = LayerNorm(32)
    with torch.no_grad():
        norm.norm.weight.copy_(weights(6, (32,)) + 1.0)
        norm.norm.bias.copy_(weights(7, (32,)))
    prompts: dict[str, Any] = {"prompts": {"query": "Find: ", "passage": "P"}, "default_prompt_name": "query"}
    renamed = embedding(Pooling(32, "mean"), dense(32, 8))
    renamed["modules.json"][2]["path"] = "2.Dense"
    for name in list(renamed):
        if name.startswith("2_Dense/"):
            renamed[f"2.Dense/{name.removeprefix('2_Dense/')}"] = renamed.pop(name)
    reranked: list[Callable[[Path], Run]] = [rerank, lambda f: rerank(f, prompt="")]
    return [
        ("truncate_dim behind Normalize", TRUNK, embedding(Pooling(32, "mean"), Normalize(), truncate_dim=12), cut_width),
        ("truncate_dim without Normalize", TRUNK, embedding(Pooling(32, "mean"), truncate_dim=12), cut_width),
        ("truncate_dim over the width", TRUNK, embedding(Pooling(32, "mean"), Normalize(), truncate_dim=100), asks),
        ("Normalize on token_embeddings behind Pooling", TRUNK, embedding(Pooling(32, "mean"), Normalize(**tokens)), per_token),
        ("Normalize on token_embeddings before Pooling", TRUNK, embedding(Normalize(**tokens), Pooling(32, "mean")), per_token),
        ("Normalize of scores that are not there", TRUNK, embedding(Pooling(32, "mean"), Normalize(module_input_name="scores")), asks),
        ("Dense on token_embeddings", TRUNK, embedding(dense(32, 24, **tokens), Pooling(24, "max")), per_token),
        ("Dropout", TRUNK, embedding(Pooling(32, "mean"), Dropout(0.5), dense(32, 8)), asks),
        ("residual of one width", TRUNK, embedding(Pooling(32, "mean"), dense(32, 32, use_residual=True)), asks),
        ("residual of two widths", TRUNK,
         embedding(Pooling(32, "cls"), dense(32, 12, use_residual=True, activation_function=nn.GELU()), Normalize()), asks),
        ("include_prompt false with a special token at the prompt's end", TRUNK,
         embedding(Pooling(32, "mean", include_prompt=False), prompts={"query": "Find[SEP]"}, default_prompt_name="query"), asks),
        ("a folder called 2.Dense", TRUNK, renamed, asks),
        ("a default prompt that every embedder has", TRUNK, old_chain(root={"default_prompt_name": "query", "prompts": {}}), asks),
        ("a similarity of another kind of model", TRUNK, old_chain(root={"similarity_fn_name": "maxsim"}), asks),
        ("null everywhere", TRUNK, old_chain(
            {"max_seq_length": None, "do_lower_case": False, "query_length": None, "query_expansion": None},
            {"truncate_dim": None, "default_prompt_name": None, "similarity_fn_name": None, "prompts": {}}), asks),
        ("a reranker's chain with a default prompt", TRUNK, reranking(Pooling(32, "cls"), norm, scores(32), **prompts), reranked),
        ("a reranker's chain that does not pool the prompt", TRUNK,
         reranking(Pooling(32, "mean", include_prompt=False), scores(32), **prompts), reranked),
        ("a reranker's chain with Dropout and a residual", TRUNK,
         reranking(Pooling(32, "mean"), Dropout(0.1), dense(32, 32, use_residual=True), scores(32)), [rerank]),
        ("a reranker's chain without an activation", TRUNK, {
            name: {"model_type": "CrossEncoder"} if name == "config_sentence_transformers.json" else content
            for name, content in reranking(Pooling(32, "mean"), scores(32)).items()}, [rerank]),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------


def main() -> None:
    torch.set_num_threads(1)
    cases = []
    for name, base, files, asks in [*length_cases(), *reranker_cases(), *chain_cases()]:
        with tempfile.TemporaryDirectory() as place:
            lay_over(base, files, Path(place))
            runs = [ask(Path(place)) for ask in asks]
        cases.append({"name": name, "base": base.relative_to(ROOT).as_posix(), "files": files, "runs": runs})
        print(name)
    head = provenance(sentence_transformers=sentence_transformers.__version__, attention="eager", dtype="f32")
    lines = ",\n".join(json.dumps(plain(case), ensure_ascii=False) for case in cases)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
