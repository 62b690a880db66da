#!/bin/sh
# The zero-shot pipeline compares entailment with the first class, whatever that is called.
#
# Version:   transformers 5.23.0 with tokenizers 0.23.3 and torch 2.15.0 (an install of some 3 GB).
# Guess:     with one label, or with multi_label=True, a score is softmax over "entailment" and "contradiction", both found by their
#            names in id2label.
# Behaviour: only a name that begins with "entail" is looked up. The other class is number 0 (the last, where entailment is 0). A model
#            whose classes are neutral, contradiction, entailment is thus scored against neutral. No warning says so.
# Output seen:
#   contradiction, neutral, entailment: entailment against contradiction
#   neutral, contradiction, entailment: entailment against neutral
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 torch==2.15.0
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

"$work/venv/bin/python" - >"$work/output" <<'PYTHON'
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import ModernBertConfig, ModernBertForSequenceClassification, PreTrainedTokenizerFast, pipeline

words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "sea", "ship", "land", "this", "is"]
tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **names)
ids = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
sizes = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
for labels in (["contradiction", "neutral", "entailment"], ["neutral", "contradiction", "entailment"]):
    torch.manual_seed(0)
    classes = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    model = ModernBertForSequenceClassification(ModernBertConfig(**sizes, **ids, **classes)).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    score = classify("sea ship", ["land"], hypothesis_template="this is {}")["scores"][0]
    with torch.no_grad():
        logits = model(**tokenizer("sea ship", "this is land", return_tensors="pt")).logits[0]

    def against(name: str) -> float:
        return logits[[labels.index("entailment"), labels.index(name)]].softmax(0)[0].item()

    assert abs(against("contradiction") - against("neutral")) > 0.01
    found = [name for name in ("contradiction", "neutral") if abs(score - against(name)) < 1e-5]
    print(f"{', '.join(labels)}: entailment against {' and '.join(found)}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
contradiction, neutral, entailment: entailment against contradiction
neutral, contradiction, entailment: entailment against neutral
EXPECTED
diff "$work/expected" "$work/output"
