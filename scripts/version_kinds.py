"""The kinds of folder that one generation of the libraries saves, each written by that generation's own `save`.

Part of `make_version_fixtures.py`, which runs this file in each generation's virtual environment:

    python version_kinds.py GENERATION SOURCES OUTPUT

SOURCES holds a tokenizer and one file of weights per class; OUTPUT gets a folder per kind and `listing.json`, with what the saving
version answers when it reads the folder again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn

from reference import provenance
from version_answers import Case, answers, quiet

ALL, ST5, ST6 = ("st3", "st5", "st6"), ("st5", "st6"), ("st6",)

SHORT = ["The cat sat.", "Café 3 €", "x"]
LONG = (
    "One day, a little girl named Lily went to the park to play with her toys, and there she saw a big, red ball that lay under "
    "the oldest tree; she wanted to play with it, because it was the most beautiful ball in the town, and so she ran."
)
TEXTS = [*SHORT, LONG]
PAIRS = [["Where was it?", text] for text in TEXTS]
MASKED = ["The [MASK] sat.", "[MASK]", "A [MASK] and a [MASK].", "In [MASK] " + LONG]
QUESTIONS = [
    {"question": "Who sat?", "context": SHORT[0]},
    {"question": "What?", "context": SHORT[1]},
    {"question": "Who was it?", "context": LONG},
]
CHOICES = [
    {"context": SHORT[0], "choices": [SHORT[1], SHORT[2]]},
    {"context": SHORT[1], "choices": ["alone"]},
    {"context": LONG, "choices": SHORT},
]


def case(task: str, inputs: list[Any], **options: Any) -> Case:
    return {"task": task, "options": options, "inputs": inputs}


def embedding(**options: Any) -> Case:
    return case("embed", TEXTS, **options)


def sparse_embedding(**options: Any) -> Case:
    return case("embed-sparse", TEXTS, **options)


def filling() -> Case:
    return case("fill-mask", MASKED, top_k=3)


@dataclass
class Kind:
    """One kind of folder. Its `cases` are to give the library's numbers; without any, `task` is to be refused by one of `words`.

    Cases and words: numbers or a refusal, whichever; nothing else.
    """

    name: str
    save: Callable[[Workshop, Path], None]
    cases: list[Case] = field(default_factory=list)
    task: str | None = None
    words: tuple[str, ...] = ()
    generations: tuple[str, ...] = ALL


class Workshop:
    """The classes of the installed versions, and models built from the sources."""

    def __init__(self, generation: str, sources: Path, scratch: Path) -> None:
        self.generation, self.sources, self.scratch = generation, sources, scratch
        self.bases: dict[str, Path] = {}

    def module(self, name: str) -> Any:
        """A module's class by its name, wherever this version has it."""
        places = [
            "sentence_transformers.base.modules",
            "sentence_transformers.sentence_transformer.modules",
            "sentence_transformers.sparse_encoder.modules",
            "sentence_transformers.multi_vector_encoder.modules",
            "sentence_transformers.cross_encoder.modules",
            "sentence_transformers.models",
            "sentence_transformers.sparse_encoder.models",
        ]
        for place in places:
            with contextlib.suppress(ImportError):
                if hasattr(found := importlib.import_module(place), name):
                    return getattr(found, name)
        raise LookupError(name)

    def tokenizer(self, limited: bool = True) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.sources / ("tokenizer" if limited else "tokenizer-unlimited"))

    def model(self, cls: str, source: str, **config: Any) -> Any:
        """A model of this class with the weights of a source, its config made by this version from its own defaults."""
        family = "ModernBertDecoder" if "Decoder" in cls else "ModernBert"
        settings = json.loads((self.sources / "config.json").read_text())
        made = getattr(transformers, cls)(getattr(transformers, family + "Config")(**settings, **config)).eval()
        state = load_file(self.sources / f"{source}.safetensors")
        if cls.endswith("Model"):
            state = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        missing, unexpected = made.load_state_dict(state, strict=False)
        assert set(missing) <= {"decoder.weight"} and not unexpected, (cls, missing, unexpected)
        return made

    def save(self, folder: Path, cls: str, source: str, saving: dict[str, Any] | None = None, limited: bool = True, **config: Any) -> None:
        """A plain transformers folder with its tokenizer."""
        self.model(cls, source, **config).save_pretrained(folder, **(saving or {}))
        self.tokenizer(limited).save_pretrained(folder)

    def base(self, cls: str, source: str, limited: bool = True, **config: Any) -> str:
        """A plain folder for sentence-transformers to begin with; saved once."""
        key = f"{cls}-{source}-{limited}-{len(config) and sorted(config.items())}".replace("/", "")
        if key not in self.bases:
            self.bases[key] = self.scratch / f"base{len(self.bases)}"
            self.save(self.bases[key], cls, source, limited=limited, **config)
        return str(self.bases[key])

    # sentence-transformers

    def transformer(self, *, decoder: bool = False, limited: bool = True, **options: Any) -> Any:
        cls, source = ("ModernBertDecoderModel", "decoder-lm") if decoder else ("ModernBertModel", "encoder-lm")
        return self.module("Transformer")(self.base(cls, source, limited=limited), **options)

    def pooling(self, mode: str = "mean", **options: Any) -> Any:
        """`mode` may be several, joined by a plus."""
        if self.generation == "st6":
            modes = tuple(mode.split("+"))
            return self.module("Pooling")(32, pooling_mode=modes if len(modes) > 1 else modes[0], **options)
        if "+" not in mode:
            return self.module("Pooling")(32, pooling_mode=mode, **options)
        spelled = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
        on = {spelled["mean"]: False} | {spelled[one]: True for one in mode.split("+")}
        return self.module("Pooling")(32, **on, **options)

    def dense(self, inputs: int, outputs: int, **options: Any) -> Any:
        return self.seeded(self.module("Dense")(inputs, outputs, **options))

    def layer_norm(self, size: int = 32) -> Any:
        made = self.seeded(self.module("LayerNorm")(size))
        with torch.no_grad():
            made.norm.weight.abs_().add_(0.5)
        return made

    def seeded(self, module: nn.Module) -> nn.Module:
        """Random values that bf16 holds exactly, so that files compress."""
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dtype == torch.float32:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.3, generator=generator).bfloat16())
        return module

    def chain(self, folder: Path, modules: list[Any], saving: dict[str, Any] | None = None, **options: Any) -> None:
        model = SentenceTransformer(modules=modules, device="cpu", **options)
        model.save(str(folder), create_model_card=False, **(saving or {}))

    def cross_encoder(self, folder: Path, cls: str, source: str, labels: int = 1, **options: Any) -> None:
        if self.generation == "st3" and "activation_fn" in options:
            options["default_activation_function"] = options.pop("activation_fn")
        base = self.base(cls, source, num_labels=labels)
        model = CrossEncoder(base, num_labels=labels, device="cpu", **options)
        model.save_pretrained(str(folder)) if self.generation != "st3" else model.save(str(folder))


ENCODER_LM = ("ModernBertForMaskedLM", "encoder-lm")
DECODER_LM = ("ModernBertDecoderForCausalLM", "decoder-lm")
SEQUENCE = "ModernBertForSequenceClassification"
DECODER_SEQUENCE = "ModernBertDecoderForSequenceClassification"


def names(*labels: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


THREE = names("negative", "neutral", "positive")


# ---------------------------------------------------------------------------------------------------------------------
# transformers


def plain_folder(cls: str, source: str, saving: dict[str, Any] | None = None, **config: Any) -> Callable[[Workshop, Path], None]:
    return lambda workshop, folder: workshop.save(folder, cls, source, saving, **config)


def narrowed(dtype: torch.dtype) -> Callable[[Workshop, Path], None]:
    def save(workshop: Workshop, folder: Path) -> None:
        workshop.model(*ENCODER_LM).to(dtype).save_pretrained(folder)
        workshop.tokenizer().save_pretrained(folder)

    return save


def generation_config(**settings: Any) -> Callable[[Workshop, Path], None]:
    def save(workshop: Workshop, folder: Path) -> None:
        model = workshop.model(*DECODER_LM)
        model.generation_config.update(**settings)
        model.save_pretrained(folder)
        workshop.tokenizer().save_pretrained(folder)

    return save


def untied(workshop: Workshop, folder: Path) -> None:
    workshop.model("ModernBertForMaskedLM", "encoder-untied", tie_word_embeddings=False).bfloat16().save_pretrained(folder)
    workshop.tokenizer().save_pretrained(folder)


def multiple_choice(workshop: Workshop, folder: Path) -> None:
    base = workshop.base("ModernBertModel", "encoder-lm")
    transformers.AutoModelForMultipleChoice.from_pretrained(base).bfloat16().save_pretrained(folder)
    workshop.tokenizer().save_pretrained(folder)


def compiled(workshop: Workshop, folder: Path) -> None:
    """The state dict of a compiled model beside the files of the model itself."""
    model = workshop.model(*ENCODER_LM).bfloat16()
    workshop.tokenizer().save_pretrained(folder)
    model.config.save_pretrained(folder)
    torch.save(torch.compile(model).state_dict(), folder / "pytorch_model.bin")


def compiled_saved(workshop: Workshop, folder: Path) -> None:
    """`save_pretrained` of a compiled model: it is the inner model's own."""
    torch.compile(workshop.model(*ENCODER_LM)).save_pretrained(folder)
    workshop.tokenizer().save_pretrained(folder)


def distributed(workshop: Workshop, folder: Path) -> None:
    model = workshop.model(*ENCODER_LM).bfloat16()
    meeting = workshop.scratch / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    try:
        state = nn.parallel.DistributedDataParallel(model).state_dict()
    finally:
        torch.distributed.destroy_process_group()
    workshop.tokenizer().save_pretrained(folder)
    model.config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin")


def module_state(workshop: Workshop, folder: Path) -> None:
    """The state dict of sentence-transformers' own Transformer module, saved by hand."""
    workshop.tokenizer().save_pretrained(folder)
    shutil.copy(Path(workshop.base("ModernBertModel", "encoder-lm")) / "config.json", folder)
    torch.save(workshop.transformer().bfloat16().state_dict(), folder / "pytorch_model.bin")


def trainer(workshop: Workshop, folder: Path) -> None:
    """A checkpoint of `Trainer` after one step at rate zero, without the optimizer's state."""
    model = workshop.model(SEQUENCE, "encoder-sequence-3", num_labels=3, **THREE)
    rows = [{"input_ids": [2, 40, 50, 3], "attention_mask": [1, 1, 1, 1], "labels": 1}]
    arguments = transformers.TrainingArguments(
        "run", max_steps=1, learning_rate=0.0, weight_decay=0.0, report_to=[], use_cpu=True, save_steps=1
    )
    with contextlib.chdir(workshop.scratch):
        run = transformers.Trainer(model=model, args=arguments, train_dataset=rows, processing_class=workshop.tokenizer())
        run.train()
        checkpoint = next(Path("run").glob("checkpoint-*"))
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (checkpoint / name).unlink(missing_ok=True)
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# Adapters


def adapted(workshop: Workshop) -> Any:
    import peft

    base = workshop.base(*ENCODER_LM)
    model = transformers.AutoModelForMaskedLM.from_pretrained(base)
    adapter = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["Wqkv", "Wo"]))
    adapter.peft_config["default"].base_model_name_or_path = "base"
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.2, generator=generator).bfloat16())
    return adapter.eval()


def adapter_alone(workshop: Workshop, folder: Path) -> None:
    adapted(workshop).save_pretrained(folder)
    workshop.tokenizer().save_pretrained(folder)


def adapter_beside(workshop: Workshop, folder: Path) -> None:
    workshop.save(folder, *ENCODER_LM)
    adapted(workshop).save_pretrained(folder)


def adapter_merged(workshop: Workshop, folder: Path) -> None:
    adapted(workshop).merge_and_unload().save_pretrained(folder)
    workshop.tokenizer().save_pretrained(folder)


def chain_adapter(workshop: Workshop, folder: Path) -> None:
    import peft

    model = SentenceTransformer(modules=[workshop.transformer(), workshop.pooling()], device="cpu")
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["Wqkv"]))
    model.save(str(folder), create_model_card=False)


# ---------------------------------------------------------------------------------------------------------------------
# sentence-transformers


def pooled(mode: str, **transformer: Any) -> Callable[[Workshop, Path], None]:
    def save(workshop: Workshop, folder: Path) -> None:
        workshop.chain(folder, [workshop.transformer(**transformer), workshop.pooling(mode)])

    return save


def chain(*make: Callable[[Workshop], Any], saving: dict[str, Any] | None = None, **options: Any) -> Callable[[Workshop, Path], None]:
    """A mean-pooled chain with further modules."""

    def save(workshop: Workshop, folder: Path) -> None:
        modules = [workshop.transformer(), workshop.pooling(), *(one(workshop) for one in make)]
        workshop.chain(folder, modules, saving, **options)

    return save


def normalize(workshop: Workshop) -> Any:
    return workshop.module("Normalize")()


def implicit(workshop: Workshop, folder: Path) -> None:
    """What `SentenceTransformer(plain folder)` makes of it."""
    model = SentenceTransformer(workshop.base("ModernBertModel", "encoder-lm"), device="cpu")
    model.save(str(folder), create_model_card=False)


def without_prompt(workshop: Workshop, folder: Path) -> None:
    modules = [workshop.transformer(), workshop.pooling(include_prompt=False)]
    workshop.chain(folder, modules, prompts={"query": "find: ", "document": ""}, default_prompt_name="query")


def half_chain(workshop: Workshop, folder: Path) -> None:
    modules = [workshop.transformer(), workshop.pooling(), workshop.dense(32, 16), normalize(workshop)]
    SentenceTransformer(modules=modules, device="cpu").bfloat16().save(str(folder), create_model_card=False)


PROMPTS = {"prompts": {"query": "find: ", "document": "text: "}, "default_prompt_name": "query"}


def cross(source: str = "encoder-sequence-1", labels: int = 1, **options: Any) -> Callable[[Workshop, Path], None]:
    cls = DECODER_SEQUENCE if source.startswith("decoder") else SEQUENCE
    return lambda workshop, folder: workshop.cross_encoder(folder, cls, source, labels, **options)


def modular_reranker(workshop: Workshop, folder: Path) -> None:
    scores = workshop.dense(16, 1, activation_function=nn.Identity(), module_output_name="scores")
    modules = [
        workshop.transformer(),
        workshop.pooling("cls"),
        workshop.dense(32, 16, activation_function=nn.GELU()),
        workshop.layer_norm(16),
    ]
    CrossEncoder(modules=[*modules, scores], device="cpu").save_pretrained(str(folder))


def logit_score(workshop: Workshop, folder: Path) -> None:
    transformer = workshop.module("Transformer")(workshop.base(*DECODER_LM), transformer_task="text-generation")
    model = CrossEncoder(modules=[transformer, workshop.module("LogitScore")(true_token_id=40, false_token_id=41)], device="cpu")
    model.save_pretrained(str(folder))


def logit_of_one_token(workshop: Workshop, folder: Path) -> None:
    transformer = workshop.module("Transformer")(workshop.base(*DECODER_LM), transformer_task="text-generation")
    score = workshop.module("LogitScore")(true_token_id=40)
    model = CrossEncoder(modules=[transformer, score], device="cpu", activation_fn=nn.Identity(), **PROMPTS)
    model.save_pretrained(str(folder))


def modular_labels(workshop: Workshop, folder: Path) -> None:
    scores = workshop.dense(32, 3, activation_function=nn.Identity(), module_output_name="scores")
    CrossEncoder(modules=[workshop.transformer(), workshop.pooling("cls"), scores], device="cpu").save_pretrained(str(folder))


# Sparse vectors


def masked_transformer(workshop: Workshop) -> Any:
    base = workshop.base(*ENCODER_LM)
    if workshop.generation == "st6":
        return workshop.module("Transformer")(base, transformer_task="fill-mask")
    return workshop.module("MLMTransformer")(base)


def sparse(modules: Callable[[Workshop], list[Any]], **options: Any) -> Callable[[Workshop, Path], None]:
    def save(workshop: Workshop, folder: Path) -> None:
        model = sentence_transformers.SparseEncoder(modules=modules(workshop), device="cpu", **options)
        model.save_pretrained(str(folder), create_model_card=False)

    return save


def splade(workshop: Workshop, strategy: str = "max", **options: Any) -> list[Any]:
    return [masked_transformer(workshop), workshop.module("SpladePooling")(strategy, **options)]


def splade_normalized(workshop: Workshop) -> list[Any]:
    return [*splade(workshop), normalize(workshop)]


def csr(workshop: Workshop, **options: Any) -> list[Any]:
    encoder = workshop.seeded(workshop.module("SparseAutoEncoder")(input_dim=32, hidden_dim=64, k=8, **options))
    return [workshop.transformer(), workshop.pooling(), encoder]


def inference_free(workshop: Workshop) -> list[Any]:
    query = workshop.seeded(workshop.module("SparseStaticEmbedding")(workshop.tokenizer()))
    return [workshop.module("Router").for_query_document([query], splade(workshop))]


# Routes


def router(workshop: Workshop, folder: Path) -> None:
    dense = workshop.dense(32, 32)
    routes = workshop.module("Router").for_query_document(
        [workshop.transformer(), workshop.pooling(), dense], [workshop.transformer(), workshop.pooling()]
    )
    workshop.chain(folder, [routes])


def asym(workshop: Workshop, folder: Path) -> None:
    routes = workshop.module("Asym")({"query": [workshop.dense(32, 16)], "doc": [workshop.dense(32, 16)]})
    workshop.chain(folder, [workshop.transformer(), workshop.pooling(), routes])


# Token vectors


def weighted_layers(start: int = 1, **config: Any) -> Callable[[Workshop, Path], None]:
    """The layers count only where the trunk's configuration says that they are shown."""

    def save(workshop: Workshop, folder: Path) -> None:
        base = workshop.base("ModernBertModel", "encoder-lm", **config)
        layers = workshop.seeded(workshop.module("WeightedLayerPooling")(32, num_hidden_layers=2, layer_start=start))
        workshop.chain(folder, [workshop.module("Transformer")(base), layers, workshop.pooling()])

    return save


def convolution(workshop: Workshop, folder: Path) -> None:
    cnn = workshop.seeded(workshop.module("CNN")(32, out_channels=16, kernel_sizes=[1, 3]))
    workshop.chain(folder, [workshop.transformer(), cnn, workshop.module("Pooling")(32)])


def word_weights(mode: str = "mean", **options: Any) -> Callable[[Workshop, Path], None]:
    """A weight for every second token, some by their lower-cased spelling."""

    def save(workshop: Workshop, folder: Path) -> None:
        vocabulary = sorted(workshop.tokenizer().get_vocab().items(), key=lambda item: item[1])
        words = [word for word, _ in vocabulary]
        known = {word.lower(): 0.25 * (place % 7) for place, word in enumerate(words) if place % 2}
        weights = workshop.module("WordWeights")(words, known, unknown_word_weight=1.5)
        workshop.chain(folder, [workshop.transformer(), weights, workshop.pooling(mode)], **options)

    return save


def static_embedding(workshop: Workshop, folder: Path) -> None:
    static = workshop.seeded(workshop.module("StaticEmbedding")(workshop.tokenizer().backend_tokenizer, embedding_dim=8))
    workshop.chain(folder, [static])


def bag_of_words(workshop: Workshop, folder: Path) -> None:
    workshop.chain(folder, [workshop.module("BoW")(["cat", "mat"]), workshop.dense(2, 8)])


def multi_vector(workshop: Workshop, folder: Path) -> None:
    dense = workshop.dense(32, 16, bias=False, activation_function=nn.Identity(), module_input_name="token_embeddings")
    mask, unit = workshop.module("MultiVectorMask")(), workshop.module("Normalize")(module_input_name="token_embeddings")
    model = sentence_transformers.MultiVectorEncoder(modules=[workshop.transformer(), dense, mask, unit], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)


ADAPTER = ("adapter",)
LONG_PAIRS = [*PAIRS, [LONG, SHORT[0]]]


def kinds() -> list[Kind]:
    classify = [case("classify", TEXTS)]
    rerank = [case("rerank", LONG_PAIRS)]
    generate = [case("generate", SHORT, max_new_tokens=12), case("score", SHORT)]
    plain = [
        Kind("encoder-base", plain_folder("ModernBertModel", "encoder-lm"), [embedding()]),
        Kind("encoder-mlm", plain_folder(*ENCODER_LM), [filling(), embedding()]),
        Kind("encoder-mlm-f16", narrowed(torch.float16), [filling()]),
        Kind("encoder-mlm-bf16", narrowed(torch.bfloat16), [filling()]),
        Kind("encoder-mlm-sharded", plain_folder(*ENCODER_LM, {"max_shard_size": "50KB"}), [filling()]),
        Kind("encoder-mlm-bin", plain_folder(*ENCODER_LM, {"safe_serialization": False}), [filling()], generations=("st3",)),
        Kind("encoder-mlm-untied", untied, [filling()]),
        Kind("encoder-sequence-3", plain_folder(SEQUENCE, "encoder-sequence-3", num_labels=3, **THREE), classify),
        Kind("encoder-sequence-mean", plain_folder(SEQUENCE, "encoder-sequence-3", num_labels=3, classifier_pooling="mean"), classify),
        Kind("encoder-sequence-1", plain_folder(SEQUENCE, "encoder-sequence-1", num_labels=1), classify),
        Kind(
            "encoder-sequence-multi",
            plain_folder(SEQUENCE, "encoder-sequence-3", num_labels=3, problem_type="multi_label_classification"),
            classify,
        ),
        Kind(
            "encoder-sequence-regression", plain_folder(SEQUENCE, "encoder-sequence-1", num_labels=1, problem_type="regression"), classify
        ),
        Kind(
            "encoder-token",
            plain_folder("ModernBertForTokenClassification", "encoder-token", **names("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
            [case("tag", TEXTS, aggregation_strategy=how) for how in ("none", "simple")],
        ),
        Kind("encoder-answer", plain_folder("ModernBertForQuestionAnswering", "encoder-answer"), [case("answer", QUESTIONS)]),
        Kind("decoder-base", plain_folder("ModernBertDecoderModel", "decoder-lm"), [embedding()]),
        Kind("decoder-lm", plain_folder(*DECODER_LM), generate),
        Kind("decoder-generation-ends", generation_config(eos_token_id=[3, *range(60, 120)]), generate[:1]),
        Kind("decoder-generation-penalty", generation_config(repetition_penalty=1.7), generate[:1]),
        Kind("decoder-generation-lengths", generation_config(min_new_tokens=6, max_new_tokens=9), [case("generate", SHORT)]),
        Kind("decoder-sequence-3", plain_folder(DECODER_SEQUENCE, "decoder-sequence-3", num_labels=3, **THREE), classify),
        Kind("decoder-sequence-1", plain_folder(DECODER_SEQUENCE, "decoder-sequence-1", num_labels=1), classify),
        Kind("encoder-choice", multiple_choice, [case("choose", CHOICES), embedding()], generations=ST6),
        Kind("state-compiled", compiled, task="fill-mask", words=("_orig_mod",), generations=ST6),
        Kind("state-compiled-saved", compiled_saved, [filling()]),
        Kind("state-distributed", distributed, task="fill-mask", words=("module.",), generations=ST6),
        Kind("trainer-checkpoint", trainer, classify, generations=("st3", "st6")),
        Kind("adapter", adapter_alone, task="fill-mask", words=ADAPTER, generations=("st3", "st6")),
        Kind("adapter-beside-weights", adapter_beside, [filling()], generations=("st3", "st6")),
        Kind("adapter-merged", adapter_merged, [filling()], generations=("st3", "st6")),
    ]
    whole = [sparse_embedding(), case("similarity-sparse", [[*SHORT, LONG]]), case("rerank-sparse", PAIRS)]
    both = [embedding(), embedding(prompt_name="document"), case("similarity", [[*SHORT, LONG]])]
    chains = [
        Kind("chain-implicit", implicit, [embedding(), case("similarity", [[*SHORT, LONG]])]),
        Kind("chain-mean", pooled("mean"), [case("embed", [*TEXTS, "  two spaces around  "])]),
        Kind("chain-mean-positions", pooled("mean", limited=False), [embedding()]),
        Kind("chain-limit", pooled("mean", max_seq_length=24), [embedding()]),
        Kind("chain-limit-above", pooled("mean", max_seq_length=4096), [embedding()]),
        Kind("chain-lower-case", pooled("mean", do_lower_case=True), [embedding()], words=("do_lower_case",)),
        Kind("chain-cls", pooled("cls"), [embedding()]),
        Kind("chain-max", pooled("max"), [embedding()]),
        Kind("chain-sqrt", pooled("mean_sqrt_len_tokens"), [embedding()]),
        Kind("chain-weighted", pooled("weightedmean"), [embedding()]),
        Kind("chain-last", pooled("lasttoken", decoder=True), [embedding()]),
        Kind("chain-two-poolings", pooled("cls+mean"), [embedding()]),
        Kind("chain-dense", chain(lambda w: w.dense(32, 16), normalize), [embedding()]),
        Kind("chain-dense-gelu", chain(lambda w: w.dense(32, 16, activation_function=nn.GELU())), [embedding()]),
        Kind("chain-dense-linear", chain(lambda w: w.dense(32, 16, bias=False, activation_function=nn.Identity())), [embedding()]),
        Kind(
            "chain-dense-bin",
            chain(lambda w: w.dense(32, 16), saving={"safe_serialization": False}),
            [embedding()],
            generations=("st3", "st5"),
        ),
        Kind("chain-residual", chain(lambda w: w.dense(32, 16, use_residual=True)), [embedding()], generations=ST6),
        Kind("chain-layer-norm", chain(lambda w: w.layer_norm()), [embedding()]),
        Kind("chain-dropout", chain(lambda w: w.module("Dropout")(0.3), normalize), [embedding()]),
        Kind("chain-prompts", chain(**PROMPTS), both),
        Kind("chain-prompt-left-out", without_prompt, [embedding()]),
        Kind("chain-truncate", chain(normalize, truncate_dim=20), [embedding(), case("similarity", [[*SHORT, LONG]])]),
        Kind("chain-dot", chain(similarity_fn_name="dot"), [case("similarity", [[*SHORT, LONG]])]),
        Kind("chain-manhattan", chain(similarity_fn_name="manhattan"), [case("similarity", [[*SHORT, LONG]])]),
        Kind("chain-bf16", half_chain, [embedding()]),
        Kind("state-chain", module_state, task="embed", words=("auto_model",), generations=("st3",)),
        Kind("state-chain-6", module_state, [embedding()], generations=ST6),
        Kind("chain-adapter", chain_adapter, task="embed", words=ADAPTER, generations=("st3", "st6")),
        Kind("chain-asym", asym, [embedding(), embedding(route="query"), embedding(route="doc")], generations=("st3",)),
        Kind("chain-weighted-layers", weighted_layers(output_hidden_states=True), [embedding()], generations=ST5),
        Kind("chain-weighted-layers-all", weighted_layers(0, output_hidden_states=True), [embedding()], generations=ST6),
        Kind("chain-weighted-layers-hidden", weighted_layers(), [embedding()], generations=ST6),
        Kind("chain-cnn", convolution, task="embed", words=("CNN",)),
        Kind("chain-word-weights", word_weights(), [embedding()]),
        Kind("chain-word-weights-sqrt", word_weights("mean_sqrt_len_tokens"), [embedding()], generations=ST6),
        Kind("chain-word-weights-weighted", word_weights("weightedmean"), [embedding()], generations=ST6),
        Kind("chain-static", static_embedding, [embedding(), case("similarity", [[*SHORT, LONG]])]),
        Kind("chain-bag-of-words", bag_of_words, task="embed", words=("BoW",)),
        Kind("chain-router", router, [embedding(), embedding(route="query"), embedding(route="document")], generations=ST5),
        Kind("sparse-splade", sparse(splade), whole, generations=ST5),
        Kind(
            "sparse-splade-sum",
            sparse(lambda w: splade(w, "sum", activation_function="log1p_relu"), max_active_dims=24, **PROMPTS),
            [sparse_embedding(), sparse_embedding(prompt_name="document"), *whole[1:], sparse_embedding(max_active_dims=5)],
            generations=ST5,
        ),
        Kind(
            "sparse-splade-twice",
            sparse(lambda w: splade(w, activation_function="log1p_relu"), similarity_fn_name="cosine"),
            whole,
            generations=ST6,
        ),
        Kind("sparse-splade-plain-sum", sparse(lambda w: splade(w, "sum"), similarity_fn_name="manhattan"), whole, generations=ST6),
        Kind("sparse-splade-normalized", sparse(splade_normalized, similarity_fn_name="euclidean"), whole, generations=ST6),
        Kind("sparse-csr", sparse(csr), [*whole, sparse_embedding(max_active_dims=3)], generations=ST5),
        Kind("sparse-csr-normalized", sparse(lambda w: csr(w, normalize=True)), whole, generations=ST6),
        Kind(
            "sparse-inference-free",
            sparse(inference_free),
            [sparse_embedding(), sparse_embedding(route="query"), sparse_embedding(route="document"), case("rerank-sparse", LONG_PAIRS)],
            generations=ST5,
        ),
        Kind("multi-vector", multi_vector, task="embed", words=("MultiVectorEncoder", "late interaction"), generations=ST6),
    ]
    rerankers = [
        Kind("rerank-one", cross(), rerank),
        Kind("rerank-identity", cross(activation_fn=nn.Identity()), rerank),
        Kind("rerank-three", cross("encoder-sequence-3", 3), [case("rerank-labels", LONG_PAIRS)]),
        Kind("rerank-limit", cross(max_length=24), rerank),
        Kind("rerank-decoder", cross("decoder-sequence-1"), rerank),
        Kind("rerank-prompts", cross(**PROMPTS), [*rerank, case("rerank", PAIRS, prompt_name="document")], generations=ST6),
        Kind("rerank-modular", modular_reranker, rerank, generations=ST6),
        Kind("rerank-modular-labels", modular_labels, [case("rerank-labels", LONG_PAIRS)], generations=ST6),
        Kind("rerank-logit-score", logit_score, rerank, generations=ST6),
        Kind(
            "rerank-logit-of-one",
            logit_of_one_token,
            [*rerank, case("rerank", PAIRS, prompt_name="document")],
            generations=ST6,
        ),
    ]
    return plain + chains + rerankers


# ---------------------------------------------------------------------------------------------------------------------


def versions() -> dict[str, Any]:
    extra = {}
    with contextlib.suppress(ImportError):
        extra["peft"] = importlib.import_module("peft").__version__
    return provenance(sentence_transformers=sentence_transformers.__version__, dtype="f32", **extra)


def main() -> None:
    quiet()
    generation, sources, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.environ["HF_HUB_OFFLINE"] = "1"
    folders = []
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(generation, sources, Path(scratch))
        for kind in kinds():
            if generation not in kind.generations:
                continue
            folder = output / kind.name
            folder.mkdir(parents=True)
            torch.manual_seed(0)
            kind.save(workshop, folder)
            entry: dict[str, Any] = {"kind": kind.name}
            if kind.cases:
                entry |= {"expected": "numbers", "cases": [one | {"output": answers(folder, one)} for one in kind.cases]}
            if kind.words:
                entry |= {"expected": "either" if kind.cases else "refused", "words": list(kind.words)}
            if kind.task:
                entry |= {"task": kind.task}
            folders.append(entry)
    (output / "listing.json").write_text(json.dumps({"provenance": versions(), "folders": folders}))


if __name__ == "__main__":
    main()
