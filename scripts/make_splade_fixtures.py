"""Writes fixtures of SPLADE without a chain, and of `do_lower_case` in every kind of model of sentence-transformers.

    python scripts/make_splade_fixtures.py

`models/tiny-text-masked` is a tiny random masked language model with the tokenizer of the other tiny models. A case is a model of
`models/` with other files laid over it; what `SparseEncoder`, `SentenceTransformer`, `CrossEncoder` and `MultiVectorEncoder` answer
goes to `tests/fixtures/pipelines/splade.json`. Texts are encoded one at a time, eager attention, f32.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers import MultiVectorEncoder, SparseEncoder

from make_fixtures import FIXTURES, MODELS, ROOT
from make_multi_vector_fixtures import BASE as TOKENS
from make_multi_vector_fixtures import cases as multi_vector_cases
from make_pipeline_fixtures import plain
from make_sentence_fixtures import ONE_LABEL, TRUNK, Files, Run, embed, lay_over, listing, old_chain, rerank, tokenizer_settings
from reference import provenance, randomise

MASKED = MODELS / "tiny-text-masked"
OUTPUT = FIXTURES / "pipelines" / "splade.json"
EAGER = {"attn_implementation": "eager"}
# Scores are small, and mostly below 0, so that vectors are sparse.
GAIN, BIAS = 0.25, -4.0

TEXTS = ["The CAT [UNK] sat On THE [MASK] Mat.", "A kitten rested.", "ÀÉÎ ẞ İstanbul ΣΑΣ [SEP] x", "", " A dog, TOO!"]
LOWER = {"do_lower_case": True}


def write_masked() -> None:
    config = transformers.AutoConfig.from_pretrained(TRUNK)
    model = transformers.AutoModelForMaskedLM.from_config(config)
    randomise(model, 7)
    with torch.no_grad():
        model.head.norm.weight *= GAIN
        model.decoder.bias += BIAS
    MASKED.mkdir(exist_ok=True)
    model.save_pretrained(MASKED)
    (MASKED / "generation_config.json").unlink(missing_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TRUNK / name, MASKED / name)
    (MASKED / "model.safetensors").chmod(0o644)


def active(vector: torch.Tensor) -> dict[str, Any]:
    indices = vector.nonzero().flatten()
    return {"indices": indices.tolist(), "values": vector[indices].tolist()}


def sparse(folder: Path, **options: Any) -> Run:
    model = SparseEncoder(str(folder), device="cpu", model_kwargs=dict(EAGER))
    vectors = [model.encode([text], show_progress_bar=False, convert_to_sparse_tensor=False, **options)[0] for text in TEXTS]
    return {"task": "sparse", "options": options, "input": TEXTS, "output": [active(vector) for vector in vectors]}


def sparse_similarity(folder: Path) -> Run:
    model = SparseEncoder(str(folder), device="cpu", model_kwargs=dict(EAGER))
    vectors = [model.encode([text], show_progress_bar=False) for text in TEXTS]
    scores = [model.similarity(vectors[0], vector).item() for vector in vectors[1:]]
    return {"task": "sparse-similarity", "options": {}, "input": {"a": TEXTS[0], "b": TEXTS[1:]}, "output": scores}


def tokens(folder: Path, side: str) -> Run:
    model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs=dict(EAGER))
    encode = {"query": model.encode_query, "document": model.encode_document}[side]
    vectors = [encode([text], show_progress_bar=False)[0].tolist() for text in TEXTS]
    return {"task": f"tokens-{side}", "options": {}, "input": TEXTS, "output": vectors}


def splade(**bert: Any) -> Files:
    return {
        "modules.json": listing(
            ("", "sentence_transformers.base.modules.transformer.Transformer"),
            ("1_SpladePooling", "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"),
        ),
        "sentence_bert_config.json": {"transformer_task": "fill-mask"} | bert,
        "1_SpladePooling/config.json": {"pooling_strategy": "max", "activation_function": "relu"},
        "config_sentence_transformers.json": {"model_type": "SparseEncoder"},
    }


def normalized(*normalizers: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json with another normaliser."""
    tokenizer = json.loads((TRUNK / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": list(normalizers)}
    return tokenizer


def cases() -> list[tuple[str, Path, Files, list[Callable[[Path], Run]]]]:
    embeds: list[Callable[[Path], Run]] = [lambda f: embed(f, TEXTS)]
    sparses: list[Callable[[Path], Run]] = [sparse, sparse_similarity]
    both: list[Callable[[Path], Run]] = [lambda f: tokens(f, "query"), lambda f: tokens(f, "document")]
    vectors = dict(multi_vector_cases())["as saved"]
    one = {
        "modules.json": listing(("", "sentence_transformers.base.modules.transformer.Transformer")),
        "sentence_bert_config.json": {"transformer_task": "sequence-classification"} | LOWER,
        "config_sentence_transformers.json": {"model_type": "CrossEncoder"},
    }
    unread = {"prompts": {"query": "Find: "}, "default_prompt_name": "query", "max_active_dims": 3}
    accents, prepend = {"type": "StripAccents"}, {"type": "Prepend", "prepend": "A"}
    return [
        ("bare", MASKED, {}, [*sparses, lambda f: sparse(f, max_active_dims=5)]),
        ("bare with files of a chain that are not read", MASKED, {"config_sentence_transformers.json": unread,
         "sentence_bert_config.json": LOWER}, sparses),
        ("bare with a limit", MASKED, {"tokenizer_config.json": tokenizer_settings(TRUNK, model_max_length=6)}, [sparse]),
        ("lower case: SPLADE", MASKED, splade(**LOWER), sparses),
        ("lower case: embedder", TRUNK, old_chain(LOWER), embeds),
        ("lower case: embedder with normalisers", TRUNK, old_chain(LOWER, **{"tokenizer.json": normalized(accents, prepend)}), embeds),
        ("lower case: embedder that lowers already", TRUNK, old_chain(LOWER, **{"tokenizer.json": normalized(prepend, {"type": "Lowercase"})}), embeds),
        ("lower case: embedder without a normaliser", TRUNK, old_chain(LOWER, **{
            "tokenizer.json": json.loads((TRUNK / "tokenizer.json").read_text()) | {"normalizer": None}}), embeds),
        ("lower case: reranker", ONE_LABEL, one, [lambda f: rerank(f, TEXTS, "WHERE is The Cat?")]),
        ("lower case: vectors of tokens", TOKENS, vectors | {
            "sentence_bert_config.json": vectors["sentence_bert_config.json"] | LOWER}, both),
    ]  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    write_masked()
    written = []
    for name, base, files, asks in cases():
        with tempfile.TemporaryDirectory() as place:
            lay_over(base, files, Path(place))
            runs = [ask(Path(place)) for ask in asks]
        written.append({"name": name, "base": base.relative_to(ROOT).as_posix(), "files": files, "runs": runs})
        print(name, [len(row["indices"]) for row in runs[0]["output"]] if runs[0]["task"] == "sparse" else "")
    head = provenance(sentence_transformers=sentence_transformers.__version__, attention="eager", dtype="f32")
    lines = ",\n".join(json.dumps(plain(case), ensure_ascii=False) for case in written)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
