"""Writes the text-level fixtures: what the pipelines of transformers and sentence-transformers answer.

    python scripts/make_pipeline_fixtures.py [--only NAME …]

Models are the nano pair and tiny random ones with a 512-token cut of the nano tokenizer (`models/tiny-text-*`); answers go to
`tests/fixtures/pipelines/*.json`, described in tests/fixtures/README.md. Eager attention, f32 arithmetic, one text at a
time, so that no padding enters the reference.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import nn

from make_fixtures import CLASSES, CONFIGS, DECODER, ENCODER, FIXTURES, MODELS, ROOT, SPECIAL_IDS, labels, rope
from question_answering import answer_question
from reference import provenance, randomise

OUTPUT = FIXTURES / "pipelines"
VOCABULARY = 512
Case = dict[str, Any]

TEXTS = [
    "The cat sat on the mat.",
    "A kitten rested on the rug, and it was happy.",
    "  Two leading spaces and  a double  one inside.",
    "Café crème costs 3 € at Zoë's — naïve, isn't it?",
    "日本語のテキスト and some English 🙂🚀 mixed with emoji 👩‍👩‍👧.",
    "e\u0301 is a decomposed é; NFC joins it.",
    "x",
    "One day, a little girl named Lily went to the park to play with her toys. She saw a big, red ball, "
    "and she said to her mother that she wanted to play with it, because it was the most beautiful ball in the town.",
]
PAIRS = [
    ("Where was the ball?", "The ball was in the park."),
    ("", "An empty first text."),
    (" Wo wohnt Zoë? 🙂", "Zoë lives in  Zürich."),
]


# ---------------------------------------------------------------------------------------------------------------------
# Models


def small_tokenizer(merges_as_text: bool, size: int = VOCABULARY) -> dict[str, Any]:
    """The first entries of the nano tokenizer: specials, bytes and the earliest merges."""
    tokenizer = json.loads((MODELS / "nano-encoder" / "tokenizer.json").read_text())
    model = tokenizer["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < size}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    if merges_as_text:  # the older spelling
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    return tokenizer


def write_tokenizer(folder: Path, merges_as_text: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(small_tokenizer(merges_as_text), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text)
    settings = json.loads((MODELS / "nano-encoder" / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def tiny_config(kind: str, **extra: Any) -> transformers.PretrainedConfig:
    return CONFIGS[kind](
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        local_attention=16,
        max_position_embeddings=512,
        rope_parameters=rope(160000.0, 160000.0),
        attn_implementation="eager",
        **SPECIAL_IDS,
        **extra,
    )


def write_model(name: str, kind: str, task: str, seed: int, **extra: Any) -> Path:
    """A tiny random model with its tokenizer in `models/<name>`."""
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    config = tiny_config(kind, **extra)
    trunk = {ENCODER: transformers.ModernBertModel, DECODER: transformers.ModernBertDecoderModel}
    model = (trunk[kind] if task == "trunk" else CLASSES[kind, task])(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(folder, merges_as_text=seed % 2 == 0)
    return folder


def load(folder: Path, cls: Any) -> tuple[Any, Any]:
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = cls.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    return model, tokenizer


def name_of(folder: Path) -> str:
    return folder.relative_to(ROOT).as_posix()


def plain(value: Any) -> Any:
    """numpy and torch values as Python ones; f32 arrays in the shortest form that gives the same f32 back."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim == 1:
        return [float(str(number)) for number in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value


def write(name: str, cases: list[Case], **extra: Any) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    head = provenance(sentence_transformers=sentence_transformers.__version__, attention="eager", dtype="f32", **extra)
    lines = ",\n".join(json.dumps(plain(case), ensure_ascii=False) for case in cases)
    text = f'{{"provenance": {json.dumps(head)},\n"cases": [\n{lines}\n]}}\n'
    json.loads(text)
    (OUTPUT / f"{name}.json").write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# One function per task


def fill_mask() -> None:
    folder = MODELS / "nano-encoder"
    model, tokenizer = load(folder, transformers.ModernBertForMaskedLM)
    pipe = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
    texts = [
        ("The capital of France is [MASK].", 5),
        ("Once upon a time there was a little [MASK] who lived in a house.", 3),
        ("[MASK]", 2),
        ("Paris is the [MASK] of [MASK].", 5),
        ("The [MASK]  sat on[MASK] the mat [MASK].", 2),
        ("  Zoë drank a café   [MASK] 🙂 in 日本.", 4),
        ("The sun rises in the [MASK].", 1),
    ]
    cases = [
        {"model": name_of(folder), "options": {"top_k": top_k}, "input": text, "output": pipe(text, top_k=top_k)} for text, top_k in texts
    ]
    write("fill_mask", cases)


def classify() -> None:
    three = labels("negative", "neutral", "positive")
    models = [
        write_model("tiny-text-classify-single", ENCODER, "sequence", 100, classifier_pooling="mean", **three),
        write_model("tiny-text-classify-multi", ENCODER, "sequence", 101, problem_type="multi_label_classification", **three),
        write_model("tiny-text-classify-regression", ENCODER, "sequence", 102, problem_type="regression", **labels("low", "high")),
        write_model("tiny-text-classify-one", ENCODER, "sequence", 103, **labels("LABEL_0")),
        write_model("tiny-text-classify-decoder", DECODER, "sequence", 104, **three),
    ]
    cases = []
    for folder in models:
        model, tokenizer = load(folder, transformers.AutoModelForSequenceClassification)
        pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
        for options in ({}, {"top_k": None}, {"top_k": 2}, {"top_k": None, "function_to_apply": "none"}):
            for text in TEXTS:
                # Without top_k the pipeline answers with the best label alone: a list of one here, as with top_k 1.
                answer = pipe(text, **(options | {"top_k": options.get("top_k", 1)}))
                cases.append({"model": name_of(folder), "options": options, "input": {"text": text}, "output": answer})
        for text, pair in PAIRS:
            given = {"text": text, "text_pair": pair}
            cases.append({"model": name_of(folder), "options": {"top_k": None}, "input": given, "output": pipe(given, top_k=None)})
    write("classify", cases)


def tag() -> None:
    names = labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    folder = write_model("tiny-text-tag", ENCODER, "token", 110, **names)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][0] += 3.0  # otherwise almost nothing is O
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, tokenizer = load(folder, transformers.ModernBertForTokenClassification)
    pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)
    cases = []
    for strategy in ("none", "simple", "first", "average", "max"):
        for ignored in (["O"], []):
            for text in TEXTS:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    output = pipe(text, aggregation_strategy=strategy, ignore_labels=ignored)
                options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
                cases.append({"model": name_of(folder), "options": options, "input": text, "output": output})
    write("tag", cases)


def answer() -> None:
    """The pipeline left transformers with version 5; its algorithm, as of its last release 4.57, in our own words."""
    folder = write_model("tiny-text-answer", ENCODER, "answer", 120, **labels("LABEL_0", "LABEL_1"))
    model, tokenizer = load(folder, transformers.ModernBertForQuestionAnswering)
    questions = [
        ("Where was the ball?", TEXTS[7]),
        ("What costs 3 €?", TEXTS[3]),
        ("  Which emoji 🙂?", TEXTS[4]),
        ("Who?", TEXTS[2]),
        ("What is joined?", TEXTS[5]),
    ]
    options = [
        {},
        {"top_k": 4},
        {"top_k": 3, "max_answer_len": 3},
        {"top_k": 2, "handle_impossible_answer": True},
        {"align_to_words": False},
    ]
    cases = [
        {
            "model": name_of(folder),
            "options": given,
            "input": {"question": question, "context": context},
            "output": answer_question(model, tokenizer, question, context, **given),
        }
        for given in options
        for question, context in questions
    ]
    long = " ".join(TEXTS[:5] + TEXTS[7:] + TEXTS[::-1] + TEXTS)
    cases.append(
        {
            "model": name_of(folder),
            "options": {"top_k": 3},
            "input": {"question": "Where was the ball?", "context": long},
            "windows": "the context is longer than 384 tokens: overlapping windows of 384, 128 tokens shared",
            "output": answer_question(model, tokenizer, "Where was the ball?", long, top_k=3),
        }
    )
    write("answer", cases, algorithm="question-answering pipeline of transformers 4.57 (gone in 5), reimplemented")


def generate() -> None:
    folder = MODELS / "nano-decoder"
    model, tokenizer = load(folder, transformers.ModernBertDecoderForCausalLM)
    prompts = ["Once upon a time", "The capital of Japan is", "A dog is", "", "Zoë said: “I like 日本 🙂", "  Two  spaces"]
    cases = []
    for options in ({"max_new_tokens": 40}, {"max_new_tokens": 40, "repetition_penalty": 1.3}):
        for prompt in prompts:
            ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
            result = model.generate(
                torch.tensor([ids]),
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )
            tokens = result.sequences[0, len(ids) :].tolist()
            stopped = tokens[-1] == tokenizer.eos_token_id
            kept = tokens[:-1] if stopped else tokens
            margins = [float(-np.diff(torch.topk(scores[0], 2).values)[0]) for scores in result.scores]
            cases.append(
                {
                    "model": name_of(folder),
                    "options": options,
                    "input": prompt,
                    "prompt_ids": ids,
                    "output": {
                        "tokens": tokens,
                        "text": tokenizer.decode(kept, clean_up_tokenization_spaces=False),
                        "finish_reason": "eos" if stopped else "length",
                    },
                    "smallest_margin": min(margins),
                }
            )
    write("generate", cases)


@torch.no_grad()
def pooled() -> None:
    """Plain models without modules.json: every pooling over the last hidden state (behind `final_norm`), [CLS] and [SEP] included."""
    cases = []
    for folder in (MODELS / "nano-encoder", MODELS / "nano-decoder"):
        model, tokenizer = load(folder, transformers.AutoModel)
        for text in TEXTS:
            ids = tokenizer(text)["input_ids"]
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            weights = torch.arange(1, len(ids) + 1, dtype=torch.float32)[:, None]
            vectors = {
                "cls": hidden[0],
                "mean": hidden.mean(dim=0),
                "last": hidden[-1],
                "weighted-mean": (hidden * weights).sum(dim=0) / weights.sum(),
                "max": hidden.max(dim=0).values,
            }
            cases.append({"model": name_of(folder), "input": text, "ids": ids, "output": vectors})
    write("embed_plain", cases)


def chains() -> None:
    """sentence-transformers folders in the three generations of class paths, with every module and pooling."""
    builders: dict[str, Callable[[Path], dict[str, Any]]] = {
        "tiny-text-chain-mean": chain_mean,
        "tiny-text-chain-cls": chain_cls,
        "tiny-text-chain-max-dense": chain_max_dense,
        "tiny-text-chain-weighted": chain_weighted,
        "tiny-text-chain-last": chain_last,
        "tiny-text-chain-two-poolings": chain_two_poolings,
    }
    cases = []
    for seed, (name, build) in enumerate(builders.items(), start=130):
        kind = DECODER if build is chain_last else ENCODER
        folder = write_model(name, kind, "trunk", seed)
        notes = build(folder)
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
        assert model[0].model.config._attn_implementation == "eager"
        requests: list[dict[str, Any]] = [{}]
        requests += [{"prompt_name": prompt} for prompt in model.prompts if model.prompts[prompt] is not None]
        requests += [{"truncate_dim": 8}, {"normalize_embeddings": True}]
        for options in requests:
            vectors = model.encode(TEXTS, batch_size=1, show_progress_bar=False, **options)
            for text, vector in zip(TEXTS, vectors, strict=True):
                cases.append({"model": name_of(folder), "options": options, "input": text, "output": vector, **notes})
        similarity = model.similarity(model.encode(TEXTS[:1], show_progress_bar=False), model.encode(TEXTS, batch_size=1))
        cases.append(
            {
                "model": name_of(folder),
                "options": {"similarity": model.similarity_fn_name},
                "input": {"a": TEXTS[0], "b": TEXTS},
                "output": similarity[0],
                **notes,
            }
        )
    write("embed_chains", cases)


def write_chain(folder: Path, modules: list[tuple[str, str, dict[str, Any] | None]], root: dict[str, Any]) -> None:
    """modules.json and the modules' configs; `modules` are (path, class, config), `root` is config_sentence_transformers.json."""
    listing = []
    for index, (path, cls, config) in enumerate(modules):
        listing.append({"idx": index, "name": str(index), "path": path, "type": cls})
        if path:
            (folder / path).mkdir(exist_ok=True)
        if path and config is not None:
            (folder / path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "modules.json").write_text(json.dumps(listing, indent=2) + "\n")
    (folder / "sentence_bert_config.json").write_text('{\n  "max_seq_length": 128,\n  "do_lower_case": false\n}\n')
    (folder / "config_sentence_transformers.json").write_text(json.dumps(root, indent=2) + "\n")


def old_pooling(**on: bool) -> dict[str, Any]:
    """1_Pooling/config.json with booleans, as before pooling_mode."""
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 32} | {f"pooling_mode_{mode}": on.get(mode, False) for mode in modes}


def weights(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape).normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))


OLD = "sentence_transformers.models"


def chain_mean(folder: Path) -> dict[str, Any]:
    """The layout that most published chains have."""
    modules = [("", f"{OLD}.Transformer", None), ("1_Pooling", f"{OLD}.Pooling", old_pooling(mean_tokens=True))]
    write_chain(folder, modules, {"__version__": {"sentence_transformers": "3.0.1"}, "prompts": {}, "default_prompt_name": None})
    return {"generation": "sentence_transformers.models.X"}


def chain_cls(folder: Path) -> dict[str, Any]:
    """As sentence-transformers 6.2 saves it; dot product; a default prompt."""
    temporary = folder / "saved"
    transformer = Transformer(str(folder), max_seq_length=128, model_kwargs={"attn_implementation": "eager"})
    model = SentenceTransformer(
        modules=[transformer, Pooling(32, pooling_mode="cls"), Normalize()],
        prompts={"query": "query: ", "document": ""},
        default_prompt_name="query",
        similarity_fn_name="dot",
        device="cpu",
    )
    model.save(str(temporary), create_model_card=False)
    for path in temporary.iterdir():
        target = folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        elif path.name not in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(path, target)
    shutil.rmtree(temporary)
    return {"generation": "as saved by sentence-transformers 6.2"}


def chain_max_dense(folder: Path) -> dict[str, Any]:
    """Max pooling, a projection with tanh and bias stored as .bin, normalised."""
    dense = {"in_features": 32, "out_features": 16, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    modules = [
        ("", f"{OLD}.Transformer", None),
        ("1_Pooling", f"{OLD}.Pooling", old_pooling(max_tokens=True)),
        ("2_Dense", f"{OLD}.Dense", dense),
        ("3_Normalize", f"{OLD}.Normalize", None),
    ]
    write_chain(folder, modules, {"__version__": {"sentence_transformers": "2.2.2"}})
    torch.save({"linear.weight": weights(1, (16, 32)), "linear.bias": weights(2, (16,))}, folder / "2_Dense" / "pytorch_model.bin")
    return {"generation": "sentence_transformers.models.X"}


def chain_weighted(folder: Path) -> dict[str, Any]:
    """Position-weighted mean without the prompt's tokens; a default prompt."""
    new = "sentence_transformers.sentence_transformer.modules"
    pooling = {"embedding_dimension": 32, "pooling_mode": "weightedmean", "include_prompt": False}
    modules = [("", "sentence_transformers.base.modules.transformer.Transformer", None), ("1_Pooling", f"{new}.pooling.Pooling", pooling)]
    root = {"prompts": {"query": "Find: ", "passage": " Zoë 🙂 says:"}, "default_prompt_name": "query", "similarity_fn_name": "euclidean"}
    write_chain(folder, modules, root)
    return {"generation": "sentence_transformers.base.modules.x.X"}


def chain_last(folder: Path) -> dict[str, Any]:
    """A decoder pooled at its last token, LayerNorm, a projection without bias or activation."""
    dense = {"in_features": 32, "out_features": 24, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    modules = [
        ("", f"{OLD}.Transformer", None),
        ("1_Pooling", f"{OLD}.Pooling", old_pooling(lasttoken=True) | {"include_prompt": True}),
        ("2_LayerNorm", f"{OLD}.LayerNorm", {"dimension": 32}),
        ("3_Dense", f"{OLD}.Dense", dense),
    ]
    write_chain(folder, modules, {"prompts": {}, "similarity_fn_name": "manhattan"})
    norm = {"norm.weight": weights(3, (32,)) + 1.0, "norm.bias": weights(4, (32,))}
    save_file(norm, folder / "2_LayerNorm" / "model.safetensors")
    save_file({"linear.weight": weights(5, (24, 32))}, folder / "3_Dense" / "model.safetensors")
    return {"generation": "sentence_transformers.models.X"}


def chain_two_poolings(folder: Path) -> dict[str, Any]:
    """Two poolings side by side: [cls | mean], 64 numbers; no config_sentence_transformers.json, as in version 1."""
    modules = [
        ("", f"{OLD}.Transformer", None),
        ("1_Pooling", f"{OLD}.Pooling", old_pooling(cls_token=True, mean_tokens=True)),
    ]
    write_chain(folder, modules, {})
    (folder / "config_sentence_transformers.json").unlink()
    return {"generation": "sentence_transformers.models.X"}


def rerank() -> None:
    """The ettin-reranker chain and one-label classifiers, through CrossEncoder."""
    query = "Where was the ball?"
    documents = [TEXTS[7], TEXTS[0], "The ball was in the park.", "", TEXTS[4], TEXTS[2]]
    folders = [reranker_chain(), *one_label_rerankers()]
    cases = []
    for folder in folders:
        model = CrossEncoder(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
        pairs = [(query, document) for document in documents]
        raw = model.predict(pairs, batch_size=1, activation_fn=nn.Identity(), show_progress_bar=False)
        scores = model.predict(pairs, batch_size=1, show_progress_bar=False)
        for options, values in (({}, scores), ({"activation": "raw"}, raw)):
            order = sorted(range(len(documents)), key=lambda i: -values[i])
            cases.append(
                {
                    "model": name_of(folder),
                    "options": options,
                    "activation": type(model.activation_fn).__name__,
                    "input": {"query": query, "documents": documents},
                    "output": [{"index": i, "score": float(values[i])} for i in order],
                }
            )
    write("rerank", cases)


def reranker_chain() -> Path:
    """Pooling(cls) → Dense(H→H, GELU, no bias) → LayerNorm → Dense(H→1), saved by sentence-transformers itself."""
    folder = write_model("tiny-text-rerank-chain", ENCODER, "trunk", 140)
    temporary = folder / "saved"
    transformer = Transformer(str(folder), max_seq_length=128, model_kwargs={"attn_implementation": "eager"})
    norm = LayerNorm(32)
    with torch.no_grad():
        norm.norm.weight.copy_(weights(6, (32,)) + 1.0)
        norm.norm.bias.copy_(weights(7, (32,)))
    modules = [
        transformer,
        Pooling(32, pooling_mode="cls"),
        Dense(32, 32, bias=False, activation_function=nn.GELU(), init_weight=weights(8, (32, 32))),
        norm,
        Dense(
            32,
            1,
            activation_function=nn.Identity(),
            init_weight=weights(9, (1, 32)),
            init_bias=weights(10, (1,)),
            module_output_name="scores",
        ),
    ]
    CrossEncoder(modules=modules, activation_fn=nn.Identity(), device="cpu").save_pretrained(str(temporary), create_model_card=False)
    for path in temporary.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif path.name not in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(path, folder / path.name)
    shutil.rmtree(temporary)
    return folder


def one_label_rerankers() -> list[Path]:
    """One-label classifiers: sigmoid by default, the identity by the newer and by the legacy key."""
    identity = "torch.nn.modules.linear.Identity"
    keys: dict[str, dict[str, Any]] = {
        "tiny-text-rerank-sigmoid": {},
        "tiny-text-rerank-identity": {"sentence_transformers": {"activation_fn": identity, "version": "4.1.0"}},
        "tiny-text-rerank-legacy": {"sbert_ce_default_activation_function": identity},
    }
    folders = []
    for name, extra in keys.items():
        folder = write_model(name, ENCODER, "sequence", 141, **labels("LABEL_0"))
        config = json.loads((folder / "config.json").read_text()) | extra
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        folders.append(folder)
    return folders


def tokenize() -> None:
    folder = MODELS / "nano-encoder"
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    cases = []
    for special in (True, False):
        for given in [{"text": text} for text in [*TEXTS, "", "a[MASK] b [SEP]"]] + [
            {"text": text, "text_pair": pair} for text, pair in PAIRS
        ]:
            encoded = tokenizer(**given, add_special_tokens=special, return_offsets_mapping=True)
            output = {
                "ids": encoded["input_ids"],
                "tokens": tokenizer.convert_ids_to_tokens(encoded["input_ids"]),
                "offsets": encoded["offset_mapping"],
            }
            cases.append({"model": name_of(folder), "options": {"special_tokens": special}, "input": given, "output": output})
    write("tokenize", cases)


# ---------------------------------------------------------------------------------------------------------------------
# Scoring and held-out figures: plain forward passes


@torch.no_grad()
def log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)


def causal_score(model: Any, tokenizer: Any, text: list[int], context: list[int], bos: bool) -> list[float | None]:
    """log p of each token given all before it; None for a first token with nothing before it."""
    before = ([tokenizer.bos_token_id] if bos else []) + context
    logs = log_probabilities(model, before + text)
    positions = range(len(before), len(before) + len(text))
    return [logs[p - 1, token].item() if p > 0 else None for p, token in zip(positions, text, strict=True)]


def pll_score(model: Any, tokenizer: Any, text: list[int], context: list[int]) -> list[float | None]:
    """Pseudo-log-likelihood: each token of the text masked once, everything else visible."""
    ids = [tokenizer.cls_token_id, *context, *text, tokenizer.sep_token_id]
    scores = []
    for i, token in enumerate(text, start=1 + len(context)):
        masked = ids[:i] + [tokenizer.mask_token_id] + ids[i + 1 :]
        scores.append(log_probabilities(model, masked)[i, token].item())
    return scores


def left_to_right_score(model: Any, tokenizer: Any, text: list[int], context: list[int]) -> list[float | None]:
    """The paper's: [CLS] context text[:t] [MASK][MASK][MASK][SEP], read at the first mask; the closing [SEP] is scored too."""
    scores = []
    text = [*text, tokenizer.sep_token_id]
    for t, token in enumerate(text):
        ids = [tokenizer.cls_token_id, *context, *text[:t], *[tokenizer.mask_token_id] * 3, tokenizer.sep_token_id]
        scores.append(log_probabilities(model, ids)[1 + len(context) + t, token].item())
    return scores


def scored(model: Any, tokenizer: Any, ids: list[int], before: list[int], method: str, bos: bool) -> dict[str, Any]:
    """The tokens `ids` behind the tokens `before`, by one method."""
    if method == "causal":
        logs = causal_score(model, tokenizer, ids, before, bos=bos)
    elif method == "pll":
        logs = pll_score(model, tokenizer, ids, before)
    else:
        logs = left_to_right_score(model, tokenizer, ids, before)
        ids = [*ids, tokenizer.sep_token_id]
    known = [log for log in logs if log is not None]
    total = float(np.sum(known))
    return {
        "method": method,
        "tokens": [{"token": token, "token_str": tokenizer.decode([token]), "logprob": log} for token, log in zip(ids, logs, strict=True)],
        "sum": total,
        "count": len(known),
        "perplexity": float(np.exp(-total / len(known))) if known else None,
    }


def score() -> None:
    inputs: list[dict[str, str]] = [{"text": text} for text in (TEXTS[0], TEXTS[2], TEXTS[4], "x")]
    inputs += [
        {"context": "The capital of France is", "text": " Paris."},
        {"context": "The capital of France is ", "text": "Paris."},
        {"context": "Zoë lives in  ", "text": "Zürich 🙂"},
    ]
    cases = []
    for kind, methods in (("decoder", ("causal", "causal-no-bos")), ("encoder", ("pll", "left-to-right"))):
        folder = MODELS / f"nano-{kind}"
        model, tokenizer = load(folder, transformers.AutoModelForMaskedLM if kind == "encoder" else transformers.AutoModelForCausalLM)
        for method in methods:
            for given in inputs:
                text, context = given["text"], given.get("context", "")
                # Trailing spaces of the context move to the continuation.
                bare = context.rstrip(" ")
                text, context = context[len(bare) :] + text, bare
                ids, before = (tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in (text, context))
                options = {"method": method.removesuffix("-no-bos"), "bos": method != "causal-no-bos"}
                output = scored(model, tokenizer, ids, before, **options)
                cases.append({"model": name_of(folder), "options": options, "input": given, "output": output})
    write("score", cases)


@torch.no_grad()
def score_join() -> None:
    """Context and text encoded as one string and split by the number of the context's own tokens: `_encode_pair` of lm-evaluation-harness
    0.4.13 (`lm_eval/api/model.py`), with the nano tokenizer's special tokens put around the result as `score` does."""
    inputs = [
        {"context": "The capital of France is", "text": " Paris."},
        {"context": "The capital of France is \t", "text": "Paris."},
        {"context": "The capi", "text": "tal of France is Paris."},
        {"context": "In the year 19", "text": "45 and 1946"},
        {"context": "Zoë lives in Zü", "text": "rich 🙂"},
        {"context": "She said: \"", "text": "\"Never.\""},
        {"context": "One day", "text": "\n\nIt rained."},
        {"context": "  ", "text": "x"},
        {"text": "The cat sat on the mat."},
    ]
    cases = []
    for kind, methods in (("decoder", ("causal", "causal-no-bos")), ("encoder", ("pll", "left-to-right"))):
        folder = MODELS / f"nano-{kind}"
        model, tokenizer = load(folder, transformers.AutoModelForMaskedLM if kind == "encoder" else transformers.AutoModelForCausalLM)
        for method in methods:
            for given in inputs:
                before, ids = encode_pair(tokenizer, given.get("context", ""), given["text"])
                options = {"method": method.removesuffix("-no-bos"), "bos": method != "causal-no-bos"}
                output = scored(model, tokenizer, ids, before, **options)
                cases.append({"model": name_of(folder), "options": options, "input": given, "before": before, "output": output})
    write("score_join", cases, pairs="as lm-evaluation-harness 0.4.13 encodes them")


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """`_encode_pair`, without special tokens; an empty context has no tokens."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole, alone = encode(context + continuation), encode(context)
    return alone, whole[len(alone) :]


def held_out() -> None:
    """Masked top-1 accuracy and perplexity of the nano pair on valid_sample.jsonl, with the masked positions listed.

    ids = the tokens of [CLS] text [SEP], cut to 256 from the left end. Encoder: 15 % of the positions between, all replaced by
    [MASK]. Decoder: every token but the first is predicted, the closing [SEP] included where it was not cut.
    """
    encoder, tokenizer = load(MODELS / "nano-encoder", transformers.ModernBertForMaskedLM)
    decoder, _ = load(MODELS / "nano-decoder", transformers.ModernBertDecoderForCausalLM)
    rng = random.Random(7)
    documents = []
    for line in (FIXTURES / "valid_sample.jsonl").read_text(encoding="utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"])["input_ids"][:256]
        inner = [i for i, token in enumerate(ids) if token not in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
        masked = sorted(rng.sample(inner, max(1, round(0.15 * len(inner)))))
        documents.append((ids, masked))

    counts = np.bincount([token for ids, _ in documents for token in ids], minlength=tokenizer.vocab_size)
    commonest = int(counts.argmax())
    hits = unigram_hits = masks = 0
    entropy = nll = 0.0
    predicted = 0
    cases = []
    for ids, masked in documents:
        given = [tokenizer.mask_token_id if i in set(masked) else token for i, token in enumerate(ids)]
        logs = log_probabilities(encoder, given)
        right = sum(int(logs[i].argmax()) == ids[i] for i in masked)
        hits += right
        unigram_hits += sum(ids[i] == commonest for i in masked)
        masks += len(masked)
        entropy -= sum(logs[i, ids[i]].item() for i in masked)
        logs = log_probabilities(decoder, ids)
        document_nll = -logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].double().sum().item()
        nll += document_nll
        predicted += len(ids) - 1
        cases.append({"tokens": len(ids), "masked": masked, "right": right, "nll": document_nll})
    frequencies = counts / counts.sum()
    unigram_nll = -sum(np.log(frequencies[token]) for ids, _ in documents for token in ids[1:])
    summary = {
        "masked": masks,
        "masked_top1": hits / masks,
        "masked_cross_entropy": entropy / masks,
        "unigram_masked_top1": unigram_hits / masks,
        "predicted": predicted,
        "perplexity": float(np.exp(nll / predicted)),
        "unigram_perplexity": float(np.exp(unigram_nll / predicted)),
    }
    write("held_out", cases, summary=summary, unigram="frequencies of the sample itself: the best any unigram model can do")
    print("held out:", json.dumps(summary))


TASKS = {
    "fill_mask": fill_mask,
    "classify": classify,
    "tag": tag,
    "answer": answer,
    "generate": generate,
    "embed_plain": pooled,
    "embed_chains": chains,
    "rerank": rerank,
    "tokenize": tokenize,
    "score": score,
    "score_join": score_join,
    "held_out": held_out,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in parser.parse_args().only:
        TASKS[name]()


if __name__ == "__main__":
    main()
