"""Writes the fixture of quantised embeddings: what sentence-transformers makes of vectors, and finds among them.

    python scripts/make_quantization_fixtures.py    # with scripts/requirements-quantization.txt

`tests/fixtures/quantization.json`: `quantize_embeddings` on vectors that show every rule of rounding, files of ranges as NumPy and
safetensors write them, `semantic_search_faiss` and `semantic_search_usearch` (exact), and `encode(precision=…)` of tiny models.
Values of models stand clear of the edges of steps, so that the last bits of another instruction set change no integer.
"""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import faiss
import numpy as np
import sentence_transformers
import torch
import usearch
from safetensors.numpy import save
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss, semantic_search_usearch

from make_fixtures import FIXTURES, MODELS
from make_pipeline_fixtures import TEXTS
from reference import provenance

OUTPUT = FIXTURES / "quantization.json"
PRECISIONS = ("int8", "uint8", "binary", "ubinary")
SCALED = ("int8", "uint8")
Case = dict[str, Any]


def numbers(array: np.ndarray) -> Any:
    """Lists of the shortest numbers that are these values."""
    if array.ndim:
        return [numbers(row) for row in array]
    return float(str(array)) if array.dtype.kind == "f" else int(array)


# ---------------------------------------------------------------------------------------------------------------------
# quantize_embeddings


def case(name: str, vectors: np.ndarray, precision: str, **given: np.ndarray) -> Case:
    """`given` is ranges or calibration."""
    arguments = {"calibration_embeddings" if key == "calibration" else key: value for key, value in given.items()}
    made: Case = {"name": name, "precision": precision, "vectors": numbers(vectors)}
    made |= {key: numbers(value) for key, value in given.items()}
    try:
        output = quantize_embeddings(vectors, precision=precision, **arguments)
    except ValueError as error:
        return made | {"refused": str(error)}
    assert output.dtype == (np.int8 if precision in ("int8", "binary") else np.uint8), output.dtype
    return made | {"output": numbers(output)}


def quantize_cases() -> list[Case]:
    random = np.random.default_rng(20)
    vectors = random.standard_normal((9, 28)).astype(np.float32)
    scaled = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cases = []
    for precision in PRECISIONS:
        cases.append(case("its own ranges", vectors, precision))
        cases.append(case("unit length", scaled, precision))
        cases.append(case("one vector", vectors[:1], precision))
        cases.append(case("none", vectors[:0], precision))
        for dimensions in (1, 7, 8, 9):
            cases.append(case(f"{dimensions} dimensions", vectors[:3, :dimensions], precision))
        # Zeros of both signs, the smallest numbers and the largest.
        odd = np.array([0.0, -0.0, 1e-45, -1e-45, 1.2e-38, 1.0, -1.0, 1.5e38, -1.5e38], dtype=np.float32)
        cases.append(case("odd values", np.stack([odd, np.roll(odd, 1), np.abs(odd)]), precision))
    # The lowest value and every step above it, to the bit and next to it, in dimensions of several extents.
    low = np.array([-1.0, -0.3, 0.0, 0.017, -123.4, 1e-40], dtype=np.float32)
    high = np.array([1.0, 0.7, 255.0, 0.019, 77.7, 3e-40], dtype=np.float32)
    ranges = np.stack([low, high])
    at = low + np.arange(256, dtype=np.float32)[:, None] * ((high - low) / 255)
    for precision in SCALED:
        cases.append(case("every step", at[::3].astype(np.float32), precision, ranges=ranges))
        cases.append(case("below every step", np.nextafter(at, -np.inf)[1::3].astype(np.float32), precision, ranges=ranges))
        beyond = np.stack([low - 1, high + 1, low - 1e30, high + 1e30, low, high]).astype(np.float32)
        cases.append(case("beyond the ranges", beyond, precision, ranges=ranges))
        flat = vectors[:4, :3].copy()
        flat[:, 1] = 0.25
        cases.append(case("a dimension without extent", flat, precision))
        level = np.array([[0.5, 0.25, 1.0], [0.5, 0.25, 1.0]], dtype=np.float32)
        cases.append(case("beyond a dimension without extent", 300 * vectors[:4, :3], precision, ranges=level))
        # The step is below the smallest number: 0, and thus 1.
        tiny = np.array([[0.0], [1e-43]], dtype=np.float32)
        cases.append(case("an extent that no step can have", tiny, precision, ranges=tiny))
        cases.append(case("one vector, ranges", vectors[:1], precision, ranges=np.stack([vectors.min(0), vectors.max(0)])))
        cases.append(case("calibration", vectors[:4], precision, calibration=vectors[3:]))
        cases.append(case("one vector, calibration", vectors[:1], precision, calibration=vectors[3:]))
        cases.append(case("a calibration of one", 3 * vectors[:3], precision, calibration=vectors[3:4]))
        # Ranges of 64 bits are rounded before anything is computed.
        wide = np.stack([vectors.min(0), vectors.max(0)]).astype(np.float64) * (1 + 1e-9)
        cases.append(case("ranges of 64 bits", vectors, precision, ranges=wide))
    return cases


# ---------------------------------------------------------------------------------------------------------------------
# Files of ranges


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def file_cases() -> list[Case]:
    random = np.random.default_rng(21)
    low = random.standard_normal(5)
    ranges = np.stack([low, low + 1])
    files = {
        "f4": npy(ranges.astype("<f4")),
        "f8": npy(ranges.astype("<f8")),
        "f2": npy(ranges.astype("<f2")),
        "big-endian f4": npy(ranges.astype(">f4")),
        "big-endian f8": npy(ranges.astype(">f8")),
        "Fortran order": npy(np.asfortranarray(ranges.astype("<f4"))),
        "transposed": npy(np.stack([low, low + 1], axis=1).astype("<f4").T),
        "version 2": npy(ranges.astype("<f4"), (2, 0)),
        "version 3": npy(ranges.astype("<f4"), (3, 0)),
        "safetensors f4": save({"ranges": ranges.astype("<f4"), "embeddings": np.zeros((2, 5), np.int8)}),
        "safetensors f8, one tensor": save({"anything": ranges.astype("<f8")}),
        "safetensors f2": save({"ranges": ranges.astype("<f2")}),
        "JSON": json.dumps(ranges.tolist()).encode(),
    }
    read = {name: np.load(io.BytesIO(data)) for name, data in files.items() if data.startswith(b"\x93NUMPY")}
    half = ranges.astype("<f2")
    read |= {name: half if "f2" in name else ranges for name in files if name not in read}
    return [{"name": name, "hex": data.hex(), "ranges": numbers(read[name].astype("<f4"))} for name, data in files.items()]


# ---------------------------------------------------------------------------------------------------------------------
# Search


def search_cases() -> list[Case]:
    random = np.random.default_rng(22)
    corpus = random.standard_normal((40, 28)).astype(np.float32)
    queries = (corpus[:8] + random.standard_normal((8, 28)).astype(np.float32)).astype(np.float32)
    ranges = np.stack([corpus.min(0), corpus.max(0)])
    cases = []
    for precision, search in (
        ("int8", semantic_search_usearch),
        ("binary", semantic_search_usearch),
        ("uint8", semantic_search_faiss),
        ("ubinary", semantic_search_faiss),
    ):
        quantized = quantize_embeddings(corpus, precision=precision, ranges=ranges)
        integers = quantize_embeddings(queries, precision=precision, ranges=ranges)
        for options in ({"top_k": 4}, {"top_k": 3, "rescore_multiplier": 5}, {"top_k": 5, "rescore": False}, {"top_k": 60}):
            found, _ = search(
                queries, quantized, corpus_precision=precision, ranges=ranges if precision in SCALED else None, **options
            )
            for query, integer, hits in zip(queries, integers, found, strict=True):
                made: Case = {"precision": precision, "options": options, "query": numbers(query)}
                wanted = options["top_k"] * (options.get("rescore_multiplier", 2) if options.get("rescore", True) else 1)
                tied = not clear(precision, quantized, integer, wanted, ordered=not options.get("rescore", True))
                if tied and options.get("rescore", True):
                    continue  # which of equal candidates are scored again is not said by the libraries
                made |= {"tied": True} if tied else {}
                scores = [hit["score"] for hit in hits]
                if not options.get("rescore", True):
                    # Distances there; the products of usearch are 1 less, with the sign turned.
                    scores = {"uint8": scores, "int8": [1 - score for score in scores]}.get(precision, [-score for score in scores])
                rows = [{} if tied else {"index": hit["corpus_id"]} for hit in hits]
                made["output"] = [row | {"score": score} for row, score in zip(rows, scores, strict=True)]
                cases.append(made)
    kinds = {(made["precision"], json.dumps(made["options"])) for made in cases}
    print("searches:", {kind: sum((m["precision"], json.dumps(m["options"])) == kind for m in cases) for kind in sorted(kinds)})
    return [{"corpus": numbers(corpus), "ranges": numbers(ranges), "cases": cases}]


def clear(precision: str, corpus: np.ndarray, query: np.ndarray, wanted: int, ordered: bool) -> bool:
    """Whether no two rows tie where the candidates end; or, with `ordered`, anywhere before."""
    if precision in SCALED:
        scores = corpus.astype(int) @ query.astype(int)
    else:
        bits = np.unpackbits(corpus.astype(np.uint8) ^ query.astype(np.uint8), axis=1)
        scores = -bits.sum(1).astype(int)
    best = np.sort(scores)[::-1]
    if wanted >= len(best):
        return True
    return bool((np.diff(best[: wanted + 1]) != 0).all()) if ordered else bool(best[wanted - 1] != best[wanted])


# ---------------------------------------------------------------------------------------------------------------------
# encode(precision=…)

MARGIN = 2e-3
"""Steps that the value of a model keeps from the edge of its own."""


def margins(vectors: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    steps = (vectors.astype(np.float64) - ranges[0]) / ((ranges[1] - ranges[0]) / 255)
    return np.abs(steps - np.round(steps))


def embed_cases() -> list[Case]:
    name = "tiny-text-chain-mean"
    model = SentenceTransformer(str(MODELS / name), device="cpu", model_kwargs={"attn_implementation": "eager"})
    random = np.random.default_rng(23)
    cases = []

    def encode(texts: list[str], **options: Any) -> Any:
        return model.encode(texts, batch_size=1, show_progress_bar=False, **options)

    for options in ({}, {"truncate_dim": 28}, {"truncate_dim": 28, "normalize_embeddings": True}):
        vectors = encode(TEXTS, **options)
        while True:
            low = vectors.min(0) + random.uniform(-0.1, 0.1, vectors.shape[1]).astype(np.float32) * np.abs(vectors).max()
            high = low + random.uniform(1.0, 1.2) * np.ptp(vectors, axis=0)
            ranges = np.stack([low, high]).astype(np.float32)
            if margins(vectors, ranges).min() > MARGIN:
                break
        assert np.abs(vectors).min() > 1e-5 * np.abs(vectors).max()
        for precision in PRECISIONS:
            made: Case = {"model": f"models/{name}", "options": options, "precision": precision, "input": TEXTS}
            if precision in SCALED:
                made["ranges"] = numbers(ranges)
                output = quantize_embeddings(vectors, precision=precision, ranges=ranges)
            else:
                output = encode(TEXTS, precision=precision, **options)
            cases.append(made | {"output": numbers(output)})
    # The inputs' own ranges: a highest value is 254 or 255, as its last bits have it; the others stand clear.
    while True:
        chosen = sorted(random.choice(len(TEXTS), 4, replace=False))
        dimensions = int(random.integers(9, 15))
        texts = [TEXTS[i] for i in chosen]
        vectors = encode(texts, truncate_dim=dimensions)
        ranges = np.stack([vectors.min(0), vectors.max(0)])
        inside = (vectors != ranges[0]) & (vectors != ranges[1])
        if margins(vectors, ranges)[inside].min() > MARGIN:
            break
    made = {"model": f"models/{name}", "options": {"truncate_dim": dimensions}, "precision": "int8", "input": texts, "own": True}
    cases.append(made | {"output": numbers(encode(texts, precision="int8", truncate_dim=dimensions))})
    tokens = encode(TEXTS[:2], output_value="token_embeddings", precision="binary")
    made = {"model": f"models/{name}", "options": {"per_token": True}, "precision": "binary", "input": TEXTS[:2]}
    cases.append(made | {"output": [numbers(np.asarray(rows)) for rows in tokens]})
    return cases


def main() -> None:
    assert sentence_transformers.__version__ == "6.2.0", sentence_transformers.__version__
    logging.disable(logging.WARNING)  # ranges of few vectors are what is tested
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    versions = {
        "numpy": np.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "faiss": faiss.__version__,
        "usearch": usearch.__version__,
    }
    parts = {"quantize": quantize_cases(), "files": file_cases(), "search": search_cases(), "embed": embed_cases()}
    head = json.dumps(provenance(attention="eager", dtype="f32", command="python scripts/make_quantization_fixtures.py", **versions))
    body = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(made, ensure_ascii=False) for made in cases) + "\n]" for name, cases in parts.items()
    )
    text = f'{{"provenance": {head},\n{body}\n}}\n'
    json.loads(text)
    OUTPUT.write_text(text, encoding="utf-8")
    print({name: len(cases) for name, cases in parts.items()}, len(text), "bytes")


if __name__ == "__main__":
    main()
