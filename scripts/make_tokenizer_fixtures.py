"""Writes fixtures for tokenizers other than Ettin's, and for the settings of generation_config.json.

    python scripts/make_tokenizer_fixtures.py

Small tokenizers of every kind that pieces text together in its own way are trained on a few sentences and go to
`tests/fixtures/tokenizers/<kind>`. Three tiny random models with one vocabulary (`models/tiny-words-*`) serve them all. What
transformers answers goes to `tests/fixtures/tokenizers/{answers,added}.json` and `tests/fixtures/generation.json`, described in
tests/fixtures/README.md. Trainers break ties by chance: a new run may give other tokenizers, with answers that fit them. With
`--added`, only `added.json` is written, from the tokenizers and models that are there.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TypicalLogitsWarper,
)

from make_fixtures import CLASSES, CONFIGS, DECODER, ENCODER, FIXTURES, MODELS, labels, rope
from reference import provenance, randomise

OUTPUT = FIXTURES / "tokenizers"
VOCABULARY = 320
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL_IDS = {"pad_token_id": PAD, "bos_token_id": CLS, "cls_token_id": CLS, "eos_token_id": SEP, "sep_token_id": SEP}
SENTENCES = [
    "Ada Lovelace was born in London and lived near the sea.",
    "The harbour master counted forty small boats before the fog came.",
    "Where was Apple founded? In Los Altos. Pears aren't green, are they?",
    "state-of-the-art tools, U.S. law, e.g. O'Neil's 1,234 tags.",
    "Once upon a time there was a very old steamer, said the girl.",
]
TEXTS = [SENTENCES[0], "Where was Ada's  steamer, in Los Altos?", "Zoë isn't 日本 🙂 old.", "x"]
PROMPTS = ["Once upon a time", "Ada was born in", "the sea, ", "日本 🙂", ""]


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers


def byte_level() -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.BPE())
    made.normalizer, made.decoder = normalizers.NFC(), decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made, trainers.BpeTrainer(
        vocab_size=310, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )


def metaspace(prepend: str) -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(prepend_scheme=prepend), decoders.Metaspace(prepend_scheme=prepend)
    return made, trainers.UnigramTrainer(vocab_size=180, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)


def word_piece(cleanup: bool) -> tuple[Tokenizer, Any]:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=cleanup)
    return made, trainers.WordPieceTrainer(vocab_size=220, special_tokens=SPECIAL, show_progress=False)


def byte_fallback() -> tuple[Tokenizer, Any]:
    """As Llama 2 and Gemma: words begin with a mark, what the vocabulary lacks is spelled in bytes."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    # The trainer knows no bytes: they are put before what it makes.
    return made, trainers.BpeTrainer(
        vocab_size=315, special_tokens=SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)], limit_alphabet=30, show_progress=False
    )


def suffix() -> tuple[Tokenizer, Any]:
    """As CLIP and GPT-1: a word's last token carries the mark."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    return made, trainers.BpeTrainer(vocab_size=220, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False)


def words() -> tuple[Tokenizer, Any]:
    """Whole words and no decoder at all."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)


CLEAN = {"clean_up_tokenization_spaces": True}
KINDS: dict[str, tuple[Callable[[], tuple[Tokenizer, Any]], dict[str, Any]]] = {
    # BPE is not cleaned up, whatever the file says.
    "byte-level": (byte_level, CLEAN),
    "metaspace": (lambda: metaspace("always"), {}),
    "metaspace-clean": (lambda: metaspace("first"), CLEAN),
    "metaspace-never": (lambda: metaspace("never"), {}),
    "word-piece": (lambda: word_piece(cleanup=True), {}),
    "word-piece-clean": (lambda: word_piece(cleanup=False), CLEAN),
    "byte-fallback": (byte_fallback, {}),
    "suffix": (suffix, {}),
    "words": (words, CLEAN),
}


def write_tokenizer(kind: str) -> Path:
    make, settings = KINDS[kind]
    made, trainer = make()
    made.train_from_iterator(SENTENCES * 4, trainer)
    assert [made.token_to_id(token) for token in SPECIAL] == [PAD, UNK, CLS, SEP, MASK], kind
    assert made.get_vocab_size() <= VOCABULARY, kind
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    value = json.loads(made.to_str())
    if kind == "byte-fallback":  # the bytes are tokens of the model, not added ones
        value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] in SPECIAL]
    folder = OUTPUT / kind
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
    names |= {"bos_token": "[CLS]", "eos_token": "[SEP]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | settings, indent=2) + "\n")
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Models


def write_model(name: str, kind: str, task: str, seed: int, **extra: Any) -> Path:
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    config = CONFIGS[kind](
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        local_attention=16,
        max_position_embeddings=128,
        rope_parameters=rope(160000.0, 160000.0),
        attn_implementation="eager",
        **SPECIAL_IDS,
        **extra,
    )
    model = CLASSES[kind, task](config).eval()
    randomise(model, seed)
    if kind == DECODER:  # the mask comes now and then: a special token inside a text
        with torch.no_grad():
            model.decoder.bias[MASK] += MASK_BIAS
            model.decoder.bias[SEP] -= 4.0
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    return folder


MASK_BIAS = 7.0
# Otherwise a random model says one word again and again.
LIVELY = {"max_new_tokens": 24, "repetition_penalty": 1.5}


def lively(tokenizer: Any) -> dict[str, Any]:
    """Settings of a varied text of tokens that the tokenizer knows."""
    return LIVELY | {"suppress_tokens": list(range(len(tokenizer), VOCABULARY)) or None}


def load(model: Path, tokenizer: Path, cls: Any, generation: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Model and tokenizer as transformers loads them from one folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place in (model, tokenizer):
            shutil.copytree(place, folder, dirs_exist_ok=True)
        if generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(generation))
        loaded = cls.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        return loaded, transformers.AutoTokenizer.from_pretrained(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Answers


def decoded(tokenizer: Any, seed: int) -> Iterator[dict[str, Any]]:
    """Random sequences of tokens, and encoded texts, with what the library decodes them to."""
    generator = random.Random(seed)
    size = len(tokenizer)
    for length in (1, 2, 3, 5, 8, 13, 40, 40, 40, 40):
        # Runs of special tokens and of bytes are as likely as words.
        ids = [generator.randrange(size if generator.random() < 0.8 else 12) for _ in range(length)]
        yield {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True), "all": tokenizer.decode(ids)}
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        yield {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True), "all": tokenizer.decode(ids)}


def continuation(tokenizer: Any, prompt: list[int], new: list[int]) -> str:
    """The continuation decoded as transformers' pipelines do, with the space that stands between it and the prompt."""
    text = tokenizer.decode(new, skip_special_tokens=True)
    whole, before = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt + new, prompt))
    behind = whole[len(before) :] if before and whole.startswith(before) else ""
    space = behind.removesuffix(text) if behind.endswith(text) else ""
    return space + text if space.isspace() else text


def generated(model: Any, tokenizer: Any) -> Iterator[dict[str, Any]]:
    for prompt in PROMPTS:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        new = run(model, [CLS, *ids], **lively(tokenizer))
        yield {"prompt": prompt, "tokens": new, "text": continuation(tokenizer, ids, new[:-1] if new[-1] == SEP else new)}


def stopped(model: Any, tokenizer: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Stop strings in, around and across the special tokens that the model writes."""
    for prompt in PROMPTS[:3]:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        free = run(model, [CLS, *ids], eos_token_id=None, **lively(tokenizer))
        text = tokenizer.decode(free)
        at = text.find("[MASK]", 1)
        if at < 0 or SEP in free or UNK in free:
            continue
        stops = {"[MASK]", "ASK]", text[at - 1] + "[MASK]", text[max(at - 3, 0) : at + 4], text[at + 4 : at + 9], text[at : at + 8]}
        # The criterion knows no join (##) of a first token, which stands in the text.
        for stop in sorted(stop for stop in stops if not {"\ufffd", "#"} & set(stop) and stop.strip()):
            try:
                new = run(model, [CLS, *ids], eos_token_id=None, stop_strings=[stop], tokenizer=tokenizer, **lively(tokenizer))
            except ValueError:  # the criterion knows no token that ends so
                continue
            case = {"prompt": prompt, "stop": stop, "tokens": new, "ended": len(new) < 24}
            if kind in ("byte-level", "metaspace-never") and "\ufffd" not in text:  # here pieces simply follow one another
                shown = tokenizer.decode(new)
                found = shown.find(stop)
                cut = shown[:found] if found >= 0 else shown
                case["text"] = visible(cut, shown)
            yield case


def visible(cut: str, shown: str) -> str:
    """What comes before the stop string, without spellings of special tokens, also of those that the stop string cuts."""
    hidden = [(start, start + 6) for start in range(len(shown)) if shown.startswith("[MASK]", start)]
    return "".join(char for place, char in enumerate(cut) if not any(start <= place < end for start, end in hidden))


def run(model: Any, ids: list[int], **settings: Any) -> list[int]:
    given = torch.tensor([ids])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(given, attention_mask=torch.ones_like(given), **settings)
    return out[0, len(ids) :].tolist()


def tokenizers() -> None:
    masked = write_model("tiny-words-masked", ENCODER, "lm", 300)
    tagger = write_model("tiny-words-tagger", ENCODER, "token", 301, **labels("O", "B-PER", "I-PER", "LOC"))
    causal = write_model("tiny-words-causal", DECODER, "lm", 302)
    answers = {}
    for seed, kind in enumerate(KINDS):
        folder = write_tokenizer(kind)
        model, tokenizer = load(masked, folder, transformers.ModernBertForMaskedLM)
        pipe = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
        fills = ["Ada [MASK] born.", "the [MASK] and the [MASK] sea, wasn't it?"]
        entry: dict[str, Any] = {"fill_mask": [{"text": text, "fills": pipe(text, top_k=12)} for text in fills]}
        model, _ = load(tagger, folder, transformers.ModernBertForTokenClassification)
        pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)
        entry["tag"] = []
        for strategy in ("none", "simple", "first", "average", "max"):
            for text in TEXTS:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tags = pipe(text, aggregation_strategy=strategy, ignore_labels=[])
                entry["tag"].append({"strategy": strategy, "text": text, "tags": plain(tags)})
        model, _ = load(causal, folder, transformers.ModernBertDecoderForCausalLM)
        entry["decode"] = list(decoded(tokenizer, seed))
        entry["generate"] = list(generated(model, tokenizer))
        entry["stop"] = list(stopped(model, tokenizer, kind))
        entry["token_str"] = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        answers[kind] = entry
        print(kind, len(tokenizer), "stops", len(entry["stop"]), [case["text"][:30] for case in entry["generate"]])
    assert sum(len(entry["stop"]) for entry in answers.values()) > 30
    lines = ",\n".join(f"{json.dumps(kind)}: {json.dumps(entry, ensure_ascii=False)}" for kind, entry in answers.items())
    head = json.dumps(provenance(attention="eager", dtype="f32"))
    (OUTPUT / "answers.json").write_text(f'{{"provenance": {head},\n"kinds": {{\n{lines}\n}}}}\n', encoding="utf-8")


# Tokens that match more, or something else, than they are spelled: the spaces beside them, and what a normalizer changes.
ADDED = [
    {"content": "[Q] ", "lstrip": True, "rstrip": False, "normalized": False},
    {"content": "<e1>", "lstrip": False, "rstrip": True, "normalized": False},
    {"content": "Boat", "lstrip": False, "rstrip": False, "normalized": True},
]
ADDED_TEXTS = ["Ada [MASK] lived", "the sea  [Q] so <e1>  old", "a BOAT Boat of 日本 zqx"]


def added() -> None:
    """The tokenizers of [`tokenizers`] with added tokens that match otherwise than they are spelled."""
    answers = {}
    for kind in KINDS:
        tokenizer_json = json.loads((OUTPUT / kind / "tokenizer.json").read_text(encoding="utf-8"))
        tokens = tokenizer_json["added_tokens"]
        tokens[MASK]["lstrip"] = True  # as ModernBERT's own
        size = Tokenizer.from_file(str(OUTPUT / kind / "tokenizer.json")).get_vocab_size()
        assert size + len(ADDED) <= VOCABULARY, kind
        tokens += [{"id": size + i, **token, "single_word": False, "special": False} for i, token in enumerate(ADDED)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copytree(OUTPUT / kind, folder, dirs_exist_ok=True)
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json), encoding="utf-8")
            model, tokenizer = load(MODELS / "tiny-words-tagger", folder, transformers.ModernBertForTokenClassification)
        pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)
        entry: dict[str, Any] = {"added_tokens": tokens, "tokenize": [], "tag": []}
        for text in ADDED_TEXTS:
            ids = tokenizer(text)["input_ids"]
            entry["tokenize"].append({"text": text, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)})
            for strategy in ("none", "simple", "first", "max"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tags = plain(pipe(text, aggregation_strategy=strategy, ignore_labels=[]))
                for tag in tags:
                    tag["score"] = round(tag["score"], 6)
                entry["tag"].append({"strategy": strategy, "text": text, "tags": tags})
        answers[kind] = entry
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    lines = ",\n".join(f"{json.dumps(kind)}: {json.dumps(entry, **compact)}" for kind, entry in answers.items())
    head = json.dumps(provenance(attention="eager", dtype="f32"))
    (OUTPUT / "added.json").write_text(f'{{"provenance": {head},\n"kinds": {{\n{lines}\n}}}}\n', encoding="utf-8")


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


# ---------------------------------------------------------------------------------------------------------------------
# generation_config.json

SETTINGS: list[dict[str, Any]] = [
    {},
    {"eos_token_id": None},
    {"eos_token_id": MASK},
    {"eos_token_id": [MASK, 77]},
    {"eos_token_id": -1},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5},
    {"encoder_repetition_penalty": 3.0},
    {"encoder_repetition_penalty": 2.5, "repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2, "repetition_penalty": 0.4},
    {"bad_words_ids": "SEEN"},
    {"bad_words_ids": "SEEN", "eos_token_id": "FIRST"},
    {"sequence_bias": "BIAS"},
    {"min_length": 9, "eos_token_id": "FIRST"},
    {"min_new_tokens": 4, "eos_token_id": "FIRST"},
    {"min_new_tokens": 2, "min_length": 30, "eos_token_id": "FIRST"},
    {"suppress_tokens": "SEEN1"},
    {"begin_suppress_tokens": "SEEN1"},
    {"forced_bos_token_id": 99, "begin_suppress_tokens": "SEEN1"},
    {"forced_eos_token_id": SEP, "max_new_tokens": 7, "eos_token_id": SEP},
    {"forced_eos_token_id": [88, 77], "max_length": 15},
    {"exponential_decay_length_penalty": [3, 1.5], "eos_token_id": 40},
    {"max_length": 14},
    {"max_length": 14, "max_new_tokens": 5},
    {"max_new_tokens": 6, "do_sample": False, "temperature": 0.3, "top_p": 0.2},
    {"num_beams": 1, "length_penalty": 2.0, "early_stopping": True, "renormalize_logits": True, "remove_invalid_values": True},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "suppress_tokens": "SEEN1", "min_new_tokens": 5, "eos_token_id": "FIRST"},
    # Values that would be refused where tokens are drawn.
    {"do_sample": False, "temperature": 0.0},
    {"do_sample": 0, "temperature": -1.0, "top_k": -1, "top_p": 1.5, "min_p": 2.0, "typical_p": 0.0, "epsilon_cutoff": 1.5, "top_h": 0.0},
    {"do_sample": "", "top_p": "0.9", "repetition_penalty": 1.3},
    {"max_length": 14.0, "min_new_tokens": -1, "no_repeat_ngram_size": -2, "cache_config": {}},
    {"suppress_tokens": [-1, 99999], "begin_suppress_tokens": [99999], "eos_token_id": 77.0},
]


def generation() -> None:
    causal, tokenizer = MODELS / "tiny-words-causal", OUTPUT / "byte-level"
    cases = []
    for prompt in ("Once upon a time", "Ada was", ""):
        model, loaded = load(causal, tokenizer, transformers.ModernBertDecoderForCausalLM, {})
        ids = [CLS, *loaded(prompt, add_special_tokens=False)["input_ids"]]
        free = run(model, ids, max_new_tokens=16)
        named = {
            "SEEN": [[free[0]], [free[1], free[2]], [ids[-1], free[0]], [free[4]]],
            "SEEN1": free[:3],
            "FIRST": free[3],
            "BIAS": [[[free[0]], -3.5], [[free[1], free[2]], -9.0], [[free[2]], 1.5], [[ids[-1], 60], 7.0]],
        }
        for settings in SETTINGS:
            given = {key: named.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}
            length = {} if given.keys() & {"max_length", "max_new_tokens"} else {"max_new_tokens": 16}
            model, _ = load(causal, tokenizer, transformers.ModernBertDecoderForCausalLM, given)
            cases.append({"prompt": prompt, "config": given, "flags": length, "tokens": run(model, ids, **length)})
    changed = [case["config"] for case in cases if case["tokens"] != cases[0]["tokens"][: len(case["tokens"])]]
    print("generation", len(cases), "cases,", len(changed), "differ from the plain one")
    logits = torch.tensor([[2.0, 1.9, 1.0, 0.5, 0.2, 0.0, -0.5, -1.0, -2.0, -4.0]])
    warped = [
        ({"top_h": 0.5}, [TopHLogitsWarper(0.5)]),
        ({"top_h": 0.9, "top_k": 4}, [TopHLogitsWarper(0.9), TopKLogitsWarper(4)]),
        ({"top_h": 0.1}, [TopHLogitsWarper(0.1)]),
        ({"typical_p": 0.3}, [TypicalLogitsWarper(0.3)]),
        ({"typical_p": 0.8}, [TypicalLogitsWarper(0.8)]),
        ({"typical_p": 0.6, "top_k": 5}, [TopKLogitsWarper(5), TypicalLogitsWarper(0.6)]),
        ({"epsilon_cutoff": 0.05}, [EpsilonLogitsWarper(0.05)]),
        ({"epsilon_cutoff": 0.9}, [EpsilonLogitsWarper(0.9)]),
        ({"eta_cutoff": 0.1}, [EtaLogitsWarper(0.1)]),
        ({"eta_cutoff": 0.02}, [EtaLogitsWarper(0.02)]),
    ]
    draws = []
    for settings, warpers in warped:
        scores = logits
        for warper in warpers:
            scores = warper(torch.tensor([[0]]), scores)
        draws.append({"config": settings, "probabilities": scores.softmax(-1)[0].tolist()})
    value = {"provenance": provenance(attention="eager", dtype="f32"), "logits": logits[0].tolist()}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    drawn = ",\n".join(json.dumps(draw) for draw in draws)
    text = f'{json.dumps(value)[:-1]},\n"draws": [\n{drawn}\n],\n"cases": [\n{lines}\n]}}\n'
    json.loads(text)
    (FIXTURES / "generation.json").write_text(text, encoding="utf-8")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--added", action="store_true", help="write only added.json, from the tokenizers that are there")
    if not parser.parse_args().added:
        tokenizers()
        generation()
    added()


if __name__ == "__main__":
    main()
