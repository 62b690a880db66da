"""Writes fixtures of gliner and gliner2: entities of span models, and classification by a schema, on a ModernBERT trunk.

    python -m venv .venv-gliner && .venv-gliner/bin/pip install -r scripts/requirements-gliner.txt
    .venv-gliner/bin/python scripts/make_extraction_fixtures.py

Two tiny random models, as gliner saves them, go to `models/tiny-gliner-bi` and `models/tiny-gliner-uni`. A case is one of them with
keys of its `gliner_config.json` replaced; the spans of each text go to `tests/fixtures/pipelines/extraction.json`. Weights are such
that scores lie on both sides of the thresholds and spans overlap. A third, as gliner2 saves it, goes to `models/tiny-gliner2`, and the
probabilities of its labels to `schema_classification.json` beside. Texts are computed one at a time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import gliner2
from gliner import GLiNER
from gliner.config import BiEncoderSpanConfig, UniEncoderSpanConfig
from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER
from gliner2 import GLiNER2, ExtractorConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ModernBertConfig

from reference import provenance

ROOT = Path(__file__).resolve().parents[1]
SEED = ROOT / "models" / "tiny-text-chain-mean"
MODELS = ROOT / "models"
OUTPUT = ROOT / "tests" / "fixtures" / "pipelines" / "extraction.json"
SCHEMA_OUTPUT = OUTPUT.with_name("schema_classification.json")
KEPT = ("gliner_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

TEXTS = [
    "Ada Lovelace was born in London.",
    "  Zoë's café — naïve, well-known_place 3 €  of the Sea! ",
    "The cat sat on the mat, and it was happy , too: \U0001f600 emoji, then e\u0301 and ٣.",
    "x",
    "",
    " \n\t ",
]
LONG = " ".join(TEXTS[:1] * 4)
LABELS = ["person", "place", "a long label of words", "Naïve café"]
"""The last is no ASCII."""


def trunk(hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "modernbert",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "local_attention": 16,
        "global_attn_every_n_layers": 3,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
    }


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Matrices of the spread 1.5 / sqrt(fan in), norms in 0.5..1.5, no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 1.5 / parameter.shape[1] ** 0.5, generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.3, generator=generator)


def scaled(model: Any) -> None:
    """Brings logits to a spread of 1.5 around -0.75, by the labels' last layer and a bias of spans."""
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
        batch = model.prepare_batch(TEXTS[:3], LABELS)
        collated = model.collate_batch(batch["input_x"], batch["entity_types"], label_names=batch["label_names"])
        logits = model.run_batch(collated).logits
        last = model.model.prompt_rep_layer[3]
        factor = 1.5 / logits.std()
        for parameter in (last.weight, last.bias):
            parameter.copy_((parameter * factor).to(torch.bfloat16).float())


def saved(model: Any, name: str) -> None:
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    tensors = {key: value.to(torch.bfloat16) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in KEPT:
            path.unlink()
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "gliner_config.json").read_text())
    for key in ("model_name", "labels_encoder"):
        if config.get(key):
            config[key] = "tiny"
    (folder / "gliner_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in folder.rglob("tokenizer_config.json"):
        settings = json.loads(path.read_text())
        settings["model_max_length"] = 200
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def make_models() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SEED)
    shape = {"model_name": str(SEED), "hidden_size": 24, "max_width": 5, "max_len": 40, "span_mode": "markerV0"}
    bi = BiEncoderSpanConfig(
        **shape,
        encoder_config=trunk(32, 2, len(tokenizer)),
        labels_encoder=str(SEED),
        labels_encoder_config=trunk(16, 1, len(tokenizer)),
    )
    model = BiEncoderSpanGLiNER(bi, tokenizer=tokenizer, labels_tokenizer=tokenizer, backbone_from_pretrained=False)
    model.eval()
    randomise(model.model, 11)
    scaled(model)
    saved(model, "tiny-gliner-bi")

    tokenizer = AutoTokenizer.from_pretrained(SEED)
    uni = UniEncoderSpanConfig(**shape, encoder_config=trunk(24, 2, len(tokenizer)), num_rnn_layers=2)
    model = UniEncoderSpanGLiNER(uni, tokenizer=tokenizer, backbone_from_pretrained=False)
    model._resize_token_embeddings(model, uni, tokenizer)
    model.eval()
    randomise(model.model, 12)
    scaled(model)
    saved(model, "tiny-gliner-uni")


SCHEMA_TEXTS = [
    "The cat sat on the mat",
    "The keeper saved the penalty!",
    "Écris à Zoë@Example.com ou www.Example.com/a?b, @User_1: well-known_place… \u0130STANBUL \u039f\u0394\u039f\u03a3",
    "Is it [SEP_TEXT] or [L]?",
    "e\u0301 हिन्दी \u200d \U0001f600",
    "",
    " ",
    " ".join(["Once more."] * 30),
]
SCHEMAS = [
    ("category", ["sports", "politics", "very bad weather"]),
    ("What is it about?", ["Cat", "dog"]),
    ("category", ["one"]),
    ("a [L] task", ["[L] label", "other", "other"]),
]


def make_schema_model() -> None:
    folder = MODELS / "tiny-gliner2"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(SEED)
    config = ExtractorConfig(model_name="tiny", max_width=4, counting_layer="count_lstm")
    model = GLiNER2(config, encoder_config=ModernBertConfig(**trunk(16, 2, len(tokenizer))), tokenizer=tokenizer)
    model.eval()
    randomise(model, 13)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    model.save_pretrained(str(folder))
    tensors = {key: value.to(torch.bfloat16) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)


def schema_fixture() -> None:
    make_schema_model()
    model = GLiNER2.from_pretrained(str(MODELS / "tiny-gliner2"))
    model.eval()
    runs = []
    for task, labels in SCHEMAS:
        for multi_label in (False, True):
            for text in SCHEMA_TEXTS:
                # Every label, with the probability that it is chosen by.
                rule = {"multi_label": True, "cls_threshold": 0.0, "class_act": "sigmoid" if multi_label else "softmax"}
                found = model.classify_text(text, {task: {"labels": labels, **rule}}, include_confidence=True)[task]
                assert [entry["label"] for entry in found] == labels
                scores = [round(entry["confidence"], 8) for entry in found]
                runs.append({"text": text, "task": task, "labels": labels, "multi_label": multi_label, "scores": scores})
                if not multi_label:
                    best = model.classify_text(text, {task: labels}, include_confidence=True)[task]
                    assert abs(best["confidence"] - max(scores)) < 1e-6, (best, scores)
    print("schema", [run["scores"] for run in runs[:4]])
    head = provenance(gliner2=gliner2.__version__, dtype="f32")
    lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in runs)
    SCHEMA_OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"runs": [\n{lines}\n]}}\n', encoding="utf-8")


def cases() -> list[tuple[str, str, dict[str, Any]]]:
    """Name, model, keys of gliner_config.json."""
    bi, uni = "tiny-gliner-bi", "tiny-gliner-uni"
    return [
        ("as saved", bi, {}),
        ("a word is its last token", bi, {"subtoken_pooling": "last"}),
        ("a word is the mean of its tokens", bi, {"subtoken_pooling": "mean"}),
        ("a word is the largest of its tokens", bi, {"subtoken_pooling": "max"}),
        ("single words", bi, {"max_width": 1}),
        ("wide spans of short texts", bi, {"max_width": 12, "max_len": 9}),
        ("labels in the prompt", uni, {}),
        ("labels in the prompt, short texts", uni, {"max_len": 7, "subtoken_pooling": "mean"}),
        ("labels in the prompt, by their first tokens", uni, {"embed_ent_token": False}),
    ]


def requests(whole: bool) -> list[tuple[list[str], dict[str, Any], list[str]]]:
    """Labels, options and texts; fewer of them where a case is about something else."""
    few = [
        (LABELS, {}, [*TEXTS, LONG]),
        (LABELS, {"threshold": 0.3, "flat_ner": False}, [TEXTS[1], LONG]),
    ]
    if not whole:
        return few
    return [
        *few,
        (LABELS, {"threshold": 0.6, "multi_label": True}, [*TEXTS, LONG]),
        (LABELS, {"threshold": 0.0, "flat_ner": False, "multi_label": True}, [TEXTS[1], TEXTS[3]]),
        (["place", "person", "place"], {}, [*TEXTS, LONG]),
        (["person"], {"threshold": 0.2}, [*TEXTS, LONG]),
    ]


def short(span: dict[str, Any], text: str) -> list[Any]:
    assert span["text"] == text[span["start"] : span["end"]]
    return [span["start"], span["end"], span["label"], round(span["score"], 8)]


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    schema_fixture()
    make_models()
    written = []
    for name, base, keys in cases():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / base
            shutil.copytree(MODELS / base, folder)
            config = json.loads((folder / "gliner_config.json").read_text())
            (folder / "gliner_config.json").write_text(json.dumps(config | keys))
            model = GLiNER.from_pretrained(str(folder), local_files_only=True)
            runs = []
            for labels, options, texts in requests(whole=not keys):
                for text in texts:
                    spans = [short(span, text) for span in model.predict_entities(text, labels, **options)]
                    runs.append({"text": text, "labels": labels, "options": options, "spans": spans})
            case = {"name": name, "base": base, "keys": keys, "runs": runs}
            if base == "tiny-gliner-bi" and not keys:
                vectors = model.encode_labels(LABELS)
                case["label_vectors"] = {
                    label: vector.numpy().astype("<f4").tobytes().hex() for label, vector in zip(LABELS, vectors, strict=True)
                }
        counts = [len(run["spans"]) for run in runs]
        print(name, counts)
        written.append(case)
    head = provenance(gliner=version("gliner"), dtype="f32")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
    OUTPUT.write_text(f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
