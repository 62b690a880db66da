"""Writes what transformers makes of the keys of a model's files: `tests/fixtures/{tokenizer_settings,config_keys}.json`.

    python scripts/make_settings_fixtures.py

A tokenizer's case is a folder of small files around one of three tiny tokenizers (byte-level BPE from `models/tiny-text-tag`, and a
WordPiece and a Unigram one with Metaspace in `tests/fixtures/tokenizers`, which are trained here only where they are missing, as
trainers break ties by chance) and what `AutoTokenizer` answers: ids, offsets, decoded text, named special ids; or the exception it raises.
A configuration's case is a few keys of config.json and the settings that `AutoConfig` reads from them.
docs/KEYS.md is the table that these cases back; the schema is in tests/fixtures/README.md.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from make_fixtures import FIXTURES, MODELS, ROOT
from reference import provenance

TRAINED = FIXTURES / "tokenizers"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
LINES = [
    "The cat isn't here, is it? No: it's on the mat.",
    "We don't know what they've seen . She said ' yes ' and I 'm sure !",
    "An apple , a pear and the [X] mark; they 're new new1 <new> words.",
]
TEXTS: list[tuple[str, str | None]] = [
    ("It isn't [MASK] , a <new> [UNK] <img>", None),
    ("[CLS] new1 anew1; [X] [x] <b>.", None),
    ("mat", "<mask> , <e1> !"),
]
Json = dict[str, Any]


def trained(kind: str) -> Tokenizer:
    """A tokenizer of some two hundred entries."""
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIALS, show_progress=False)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=80, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False
        )
    made.train_from_iterator(LINES, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


def token(content: str, **flags: bool) -> Json:
    """An added token as tokenizer_config.json writes it in `added_tokens_decoder`."""
    off = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    return {"content": content, **off, **flags}


def typed(content: str, **flags: bool) -> Json:
    return {"__type": "AddedToken", **token(content, **flags)}


def cases() -> list[Json]:
    """Name, base and files of each case; `tokenizer` replaces parts of tokenizer.json."""
    out: list[Json] = []

    def case(name: str, settings: Json | None, bases: str = "bytes", tokenizer: Json | None = None, **files: Any) -> None:
        texts = {f"{stem}.json": content for stem, content in files.items()}
        if settings is not None:
            texts["tokenizer_config.json"] = settings
        for base in bases.split():
            out.append({"name": name, "base": base, "tokenizer": tokenizer or {}, "files": texts})

    everything = "bytes wordpiece metaspace"
    case("nothing beside tokenizer.json", None, everything)
    case("names", NAMES, everything)
    case("names that are null", {**dict.fromkeys(NAMES), "added_tokens_decoder": {}, "extra_special_tokens": None})
    case("split_special_tokens", {**NAMES, "split_special_tokens": True}, everything)
    case("clean_up_tokenization_spaces", {**NAMES, "clean_up_tokenization_spaces": True}, everything)
    force = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    case("clean-up forced on BPE", {**NAMES, "clean_up_tokenization_spaces": True, force: True}, everything)
    case("clean-up forced and off", {**NAMES, "clean_up_tokenization_spaces": False, force: True})
    new = {
        "900": token("<new>", special=True),
        "901": token("new1", single_word=True, normalized=True),
        "902": token("[X]", lstrip=True, rstrip=True),
        "40000": token("<b>", normalized=True, lstrip=True),
    }
    case("added_tokens_decoder", {**NAMES, "added_tokens_decoder": new}, everything)
    backwards = {"12": token("<b>"), "9": token("<new>"), "100": token("[X]", normalized=True), "3": token("<img>")}
    case("added_tokens_decoder in another order", {**NAMES, "added_tokens_decoder": backwards}, everything)
    flags = {"4": token("[MASK]", special=True), "3": token("[SEP]"), "2": token("[CLS]", special=True, rstrip=True)}
    case("flags that differ from tokenizer.json's", {**NAMES, "added_tokens_decoder": flags}, everything)
    loose = {"4": token("[MASK]", lstrip=True), "1": token("[UNK]", normalized=True)}
    case("added tokens that a name makes special", {**NAMES, "added_tokens_decoder": loose}, everything)
    short = {"900": {"content": "<new>", "special": True}, "901": {"content": "[X]"}}
    case("added tokens with few flags", {**NAMES, "added_tokens_decoder": short}, everything)
    case("added_tokens.json", NAMES, everything, added_tokens={"<new>": 901, "[X]": 900, "<img>": 902})
    named = {**NAMES, "extra_special_tokens": ["<img>"], "mask_token": "<mask>"}
    case("added_tokens.json with special ones", named, everything, added_tokens={"<img>": 901, "<mask>": 900, "[X]": 899})
    both = {**NAMES, "added_tokens_decoder": {"900": token("<new>")}}
    case("added_tokens.json beside a decoder", both, added_tokens={"[X]": 901})
    case("extra_special_tokens", {**NAMES, "extra_special_tokens": ["<new>", "[X]"]}, everything)
    case("extra_special_tokens by name", {**NAMES, "extra_special_tokens": {"image_token": "<img>", "b": "<b>"}}, everything)
    case("extra tokens with flags", {**NAMES, "extra_special_tokens": [typed("[X]", lstrip=True), "<e1>"]}, everything)
    case("additional_special_tokens", {**NAMES, "additional_special_tokens": ["<new>", "[X]"]}, everything)
    two = {**NAMES, "additional_special_tokens": ["<new>"], "extra_special_tokens": ["[X]"]}
    case("additional beside extra", two)
    case("additional beside no extra", {**two, "extra_special_tokens": []})
    untyped = [token("[X]", lstrip=True)]
    case("additional tokens without a type", {**NAMES, "additional_special_tokens": untyped})
    case("tokens of other names", {**NAMES, "image_token": "<img>", "b_token": typed("<b>", lstrip=True), "x": "<e1>"})
    case("model_specific_special_tokens", {**NAMES, "model_specific_special_tokens": {"img": "<img>"}})
    case("a name that tokenizer.json lacks", {**NAMES, "mask_token": "<mask>", "pad_token": "<b>"}, everything)
    case("a name with flags", {**NAMES, "mask_token": typed("<mask>", lstrip=True, special=True)}, everything)
    case("a name without a type", {**NAMES, "mask_token": {"content": "[UNK]", "lstrip": True}})
    bare = {"added_tokens": []}
    case("names of the vocabulary alone", NAMES, everything, tokenizer=bare)
    case("no added tokens", None, everything, tokenizer=bare)
    mapped = {"mask_token": token("<mask>", lstrip=True), "cls_token": "[CLS]", "additional_special_tokens": ["<new>"]}
    case("special_tokens_map.json", None, everything, special_tokens_map=mapped)
    case("special_tokens_map.json before tokenizer_config.json", NAMES, everything, special_tokens_map=mapped)
    case("special_tokens_map.json beside a decoder", both, special_tokens_map=mapped)
    loose = {"content": "[X]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    extra = {"extra_special_tokens": ["<new>", loose]}
    case("extra tokens of special_tokens_map.json", {**NAMES, "extra_special_tokens": ["<b>"]}, special_tokens_map=extra)
    kept = {"additional_special_tokens": [token("[X]", lstrip=True)]}
    case("additional tokens of special_tokens_map.json with flags", NAMES, special_tokens_map=kept)
    named = {"extra_special_tokens": {"image_token": "<img>"}}
    case("extra tokens by name of special_tokens_map.json", NAMES, special_tokens_map=named)
    padding = {
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": 8,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<b>",
    }
    truncation = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    case("padding of tokenizer.json names the pad token", None, tokenizer={"padding": padding})
    case("padding of tokenizer.json beside a name", NAMES, tokenizer={"padding": padding, "truncation": truncation})
    case("no post-processor", NAMES, everything, tokenizer={"post_processor": None})
    case("add_bos_token without a post-processor", {**NAMES, "add_bos_token": True}, tokenizer={"post_processor": None})
    ignored = {
        **{"add_bos_token": True, "add_eos_token": True, "add_prefix_space": True, "do_lower_case": True},
        **{"strip_accents": True, "tokenize_chinese_chars": False, "trim_offsets": False, "legacy": False},
        **{"padding_side": "left", "pad_to_multiple_of": 8, "pad_token_type_id": 3, "use_fast": False},
        **{"vocab_file": "vocab.txt", "tokenizer_file": "other.json", "merges_file": "m.txt", "name_or_path": "x"},
        **{"backend": "sentencepiece", "is_local": True, "local_files_only": True, "processor_class": "P"},
        **{"model_input_names": ["input_ids"], "init_inputs": [1], "verbose": False, "chat_template": "{{ 1 }}"},
        **{"from_slow": True, "sp_model_kwargs": {}, "max_length": 3, "stride": 1, "truncation_strategy": "only_first"},
        **{"fix_mistral_regex": True, "files_loaded": ["x"], "response_template": None, "word_delimiter": "|"},
    }
    case("keys without effect", {**NAMES, **ignored}, everything)
    for name in ("BertTokenizer", "RobertaTokenizerFast", "LlamaTokenizer", "GPT2TokenizerFast", "T5Tokenizer", "NoSuchOne"):
        base = "wordpiece" if name == "BertTokenizer" else "metaspace" if name == "T5Tokenizer" else "bytes"
        case(f"tokenizer_class {name}", {**NAMES, "tokenizer_class": name}, base)
    own = [typed("<e1>", lstrip=True, normalized=True), typed("[X]", single_word=True, special=True), "<e1>"]
    case("extra tokens that are not special", {**NAMES, "extra_special_tokens": own}, everything)
    several = {"z_token": "<e1>", "a_token": "<b>", "extra_special_tokens": {"m_token": "<new>", "c": "<img>"}}
    case("new tokens in the order of their keys", {**NAMES, "bos_token": "[X]", "eos_token": "<mask>", **several})
    own = {"own_token": "<e1>", "b_token": token("<b>", lstrip=True), "extra_special_tokens": ["[X]"]}
    case("own names of special_tokens_map.json", {**NAMES, "a_token": "<img>"}, special_tokens_map=own)
    case("added_tokens.json that repeats tokenizer.json", NAMES, added_tokens={"[MASK]": 4, "[SEP]": 900, "<new>": 3})
    twice = {**NAMES, "z_token": "<e1>", "a_token": "<b>", "extra_special_tokens": {"c": "<new>", "a_token": "<img>"}}
    twice["extra_special_tokens"] |= {"z_token": "[X]", "mask_token": "<mask>"}
    case("extra tokens by names that are there already", twice)
    again = {"extra_special_tokens": {"z_token": "[X]", "sep_token": "<b>"}}
    case("extra tokens by names again", {**NAMES, "z_token": "<e1>", "y_token": "<new>"}, special_tokens_map=again)
    case("extra tokens by name in place of a list", {**NAMES, "extra_special_tokens": ["[X]"]}, special_tokens_map=named)
    listed = {"additional_special_tokens": ["<new>", "[X]"]}
    for key in ("extra_special_tokens", "additional_special_tokens"):
        case(f"additional tokens of special_tokens_map.json beside {key} null", {**NAMES, key: None}, special_tokens_map=listed)
        two = {"additional_special_tokens": ["<b>"], "extra_special_tokens": ["<img>"], key: None}
        case(f"extra tokens where {key} is null", {**NAMES, **two})
    nothing = {"extra_special_tokens": None}
    case("extra tokens null in special_tokens_map.json", {**NAMES, "extra_special_tokens": ["[X]"]}, special_tokens_map=nothing | listed)
    by_name = {"extra_special_tokens": {"image_token": "<img>"}, "additional_special_tokens": None}
    case("extra tokens by name beside null", {**NAMES, **by_name}, special_tokens_map=listed)
    flagged = {"additional_special_tokens": [typed("[X]", lstrip=True, special=True), "<new>"]}
    plainly = {"[X]": 901, "<new>": 900, "<mask>": 902}
    case("added_tokens.json beside extra tokens with flags", {**NAMES, **flagged}, everything, added_tokens=plainly)
    flagged_names = {"mask_token": typed("<mask>", lstrip=True, special=True), "cls_token": typed("<img>", normalized=True)}
    less = {"<img>": 900, "<mask>": 902}
    case("added_tokens.json beside names with flags", {**NAMES, **flagged_names}, everything, added_tokens=less)
    flagged = {"mask_token": token("<mask>", lstrip=True), "extra_special_tokens": [{"content": "[X]", "rstrip": True}]}
    case("added_tokens.json beside a map with flags", NAMES, everything, special_tokens_map=flagged, added_tokens=plainly)
    prepended = {"normalizer": {"type": "Prepend", "prepend": "▁"}}
    lost = {"mask_token": typed("[X]", lstrip=True, special=True), "bos_token": "<img>"}
    taken = {"[X]": 4, "<img>": 900, "<new>": 900}
    case("names of tokens that lost their ids", {**NAMES, **lost}, everything, added_tokens=taken)
    case("names with flags under a normalizer", {**NAMES, **flagged_names}, "metaspace", tokenizer=prepended, added_tokens=less)
    case("tokens of added_tokens.json that tokenizer.json has", NAMES, everything, added_tokens={"[MASK]": 899, "[UNK]": 899})
    high = {"added_tokens": [{"id": i, **token(name, special=True, lstrip=True)} for i, name in enumerate(SPECIALS)]}
    high["added_tokens"][4] |= {"special": False}
    case("a name of a token that is not special", NAMES, everything, tokenizer=high)
    case("tokenizer.json's token under a higher id", NAMES, everything, tokenizer=high, added_tokens={"[MASK]": -1, "[SEP]": 60})
    case("split_special_tokens with new tokens", {**NAMES, "added_tokens_decoder": new, "split_special_tokens": True}, everything)
    case("max_len and sides", {**NAMES, "max_len": 3, "model_max_length": 4, "truncation_side": "left"})
    case("tokenizer_class of config.json", NAMES, config={"tokenizer_class": "BertTokenizer"})
    code = {"AutoTokenizer": ["t.Slow", "t.Fast"]}
    for name in ("PreTrainedTokenizerFast", "GPTNeoXTokenizerFast", "BertTokenizer", None):
        settings = {**NAMES, "auto_map": code, "tokenizer_class": name}
        case(f"auto_map beside {name}", settings, "bytes wordpiece")
    case("fast_tokenizer_files", {**NAMES, "fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.0.json"]})
    case("post_processor", {**NAMES, "post_processor": "x"})
    case("a special token that is no text", {**NAMES, "mask_token": 4})
    return out


def read_by_transformers(folder: Path) -> Json:
    """What transformers makes of the folder's tokenizer."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        texts = []
        for text, pair in TEXTS:
            encoded = tokenizer(text, pair, return_offsets_mapping=True)
            ids = encoded["input_ids"]
            texts.append(
                {
                    "ids": ids,
                    "offsets": encoded["offset_mapping"],
                    "bare": tokenizer(text, add_special_tokens=False)["input_ids"],
                    "decoded": tokenizer.decode(ids),
                    "skipped": tokenizer.decode(ids, skip_special_tokens=True),
                }
            )
    except Exception as error:  # whatever it is, the folder does not load
        return {"refused": f"{type(error).__name__}: {error}".split("\n")[0][:120].replace(str(folder), "FOLDER")}
    names = ("pad", "unk", "cls", "sep", "mask", "bos")
    return {"size": len(tokenizer), "special": {name: getattr(tokenizer, f"{name}_token_id") for name in names}, "texts": texts}


def in_folder(files: dict[str, Any], read: Any) -> Json:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, ensure_ascii=False))
        return read(folder)


def write(name: str, head: Json, cases: list[Json], **lists: list[Json]) -> None:
    """One entry a line."""
    parts = [f'"provenance": {json.dumps(provenance())}', *(f'"{key}": {json.dumps(value)}' for key, value in head.items())]
    for key, entries in {"cases": cases, **lists}.items():
        body = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in entries)
        parts.append(f'"{key}": [\n{body}\n]')
    text = "{" + ",\n".join(parts) + "}\n"
    json.loads(text)
    (FIXTURES / f"{name}.json").write_text(text)


def tokenizers() -> None:
    TRAINED.mkdir(exist_ok=True)
    bases = {"bytes": MODELS / "tiny-text-tag" / "tokenizer.json"}
    for kind in ("wordpiece", "metaspace"):
        bases[kind] = TRAINED / f"{kind}.json"
        if not bases[kind].exists():
            text = json.dumps(json.loads(trained(kind).to_str()), ensure_ascii=False, separators=(",", ":"))
            bases[kind].write_text(text + "\n")
    made: list[Json] = []
    answers: list[Json] = []  # many settings change nothing
    for case in cases():
        tokenizer = {**json.loads(bases[case["base"]].read_text()), **case["tokenizer"]}
        files = {"config.json": {}, **case["files"], "tokenizer.json": tokenizer}
        files["config.json"] = {"model_type": "modernbert", **files["config.json"]}
        answer = in_folder(files, read_by_transformers)
        if answer not in answers:
            answers.append(answer)
        made.append({**case, "answer": answers.index(answer)})
        print(case["base"], case["name"], answers.index(answer), answer.get("refused", ""), flush=True)
    paths = {kind: path.relative_to(ROOT).as_posix() for kind, path in bases.items()}
    write("tokenizer_settings", {"bases": paths, "inputs": TEXTS}, made, answers=answers)


# ---------------------------------------------------------------------------------------------------------------------
# config.json


SIZES = {
    **{"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}
KINDS = ["full_attention", "sliding_attention"]


def config_changes() -> list[Json]:
    nested = {"hidden_size": 8, "model_type": "bert"}
    foreign = ["transformers.js_config", "training_config", "vision_config", "encoder", "task_specific_params", "generation_config"]
    parts = ["decoder", "generator", "text_config"]
    nullable = ["layer_types", "rope_parameters", "rope_theta", "rope_scaling", "id2label", "problem_type", "quantization_config"]
    return [
        {},
        *({key: None} for key in nullable),
        *({key: nested} for key in foreign + parts),
        {"sliding_window": 8},
        {"local_attention": 16},
        {"local_attention": 17},
        {"local_attention": 16, "sliding_window": 4},
        {"layer_types": ["attention", "sliding_attention", "full_attention"]},
        {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
        {"layer_types": ["full_attention"]},
        {"global_attn_every_n_layers": 2},
        {"global_rope_theta": 5.0, "local_rope_theta": 7.0},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5.0}}},
        {"rope_parameters": {kind: {"rope_theta": 3.0 + i} for i, kind in enumerate(KINDS)}, "global_attn_every_n_layers": 2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 1.0}},
        {"rope_parameters": {kind: {"rope_type": "linear", "factor": 1.0, "rope_theta": 3.0} for kind in KINDS}},
        {"norm_eps": 0.1},
        {"tie_word_embeddings": False, "norm_bias": True, "mlp_bias": True, "attention_bias": True, "classifier_bias": True},
        {"bos_token_id": 70, "cls_token_id": -1, "eos_token_id": [2, 99]},
        {"id2label": {"0": 1, "1": 2.5, "2": "c"}},
        {"id2label": {"1": "b", "0": "a"}, "label2id": {"z": 9}},
        {"num_labels": 3},
        {"torch_dtype": "float16"},
        {"dtype": "bfloat16", "torch_dtype": "float16"},
        {"output_hidden_states": True, "use_cache": False, "is_decoder": True, "add_cross_attention": True, "chunk_size_feed_forward": 2},
        {"max_length": 5, "do_sample": True, "tokenizer_class": "X", "auto_map": {"AutoModel": "m.M"}, "_name_or_path": "x"},
    ]


def config_of_transformers(folder: Path) -> Json:
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        decoder = config.model_type == "modernbert-decoder"
        model = (transformers.AutoModelForCausalLM if decoder else transformers.AutoModelForMaskedLM).from_config(config)
        model(torch.tensor([[1, 5, 2]]))
    except Exception as error:  # whatever it is, the folder does not load
        return {"refused": f"{type(error).__name__}: {error}".split("\n")[0][:120]}
    flags = ("tie_word_embeddings", "norm_bias", "mlp_bias", "attention_bias", "classifier_bias")
    return {
        "layer_types": config.layer_types,
        "thetas": [config.rope_parameters[kind]["rope_theta"] for kind in KINDS],
        "half_window": config.sliding_window,
        "norm_eps": config.norm_eps,
        "flags": {name: getattr(config, name) for name in flags},
        "ids": {name: getattr(config, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")},
        "labels": [str(config.id2label[i]) for i in range(config.num_labels)],
        "dtype": config.dtype and str(config.dtype).removeprefix("torch."),
    }


def configurations() -> None:
    made: list[Json] = []
    answers: list[Json] = []
    for kind in ("modernbert", "modernbert-decoder"):
        for changes in config_changes():
            answer = in_folder({"config.json": {"model_type": kind, **SIZES, **changes}}, config_of_transformers)
            if answer not in answers:
                answers.append(answer)
            made.append({"model_type": kind, "changes": changes, "answer": answers.index(answer)})
            print(kind, changes, answer.get("refused", ""), flush=True)
    write("config_keys", {"base": SIZES}, made, answers=answers)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    tokenizers()
    configurations()
