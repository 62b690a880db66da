#!/bin/sh
# Merging a LoRA adapter of a tied output matrix changes the token embedding too, and so every result.
#
# Version:   peft 0.21.2 with transformers 5.23.0 and torch 2.15.0 (an install of some 3 GB).
# Guess:     merge_and_unload() gives a model that computes what the adapted one did.
# Behaviour: it does not where the adapter is on `decoder`, the output of a masked language model that shares its matrix with the token
#            embedding (tie_word_embeddings, the default). Beside the model the adapter changes the output alone. Merged, its update is
#            added to the one matrix in place: tokens are embedded by other vectors, and all logits differ. Only a general
#            warning on tied layers is given. To merge by hand, untie first: add the update to a copy.
# Output seen:
#   beside the model: the embedding is unchanged
#   merged: the matrix is still shared, the embedding is changed, logits are off by more than a tenth of the largest
#
# Exit 0: as described. Anything else: changed, or could not be run.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 transformers==5.23.0 torch==2.15.0
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TRANSFORMERS_NO_ADVISORY_WARNINGS=1

"$work/venv/bin/python" -W ignore - >"$work/output" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import ModernBertConfig, ModernBertForMaskedLM

torch.manual_seed(0)
ids = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = ModernBertForMaskedLM(ModernBertConfig(**sizes, **ids)).eval()
assert model.decoder.weight is model.model.embeddings.tok_embeddings.weight
before = model.model.embeddings.tok_embeddings.weight.detach().clone()
adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["decoder"])).eval()
for name, parameter in adapted.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.5)


def changed(model) -> str:
    return "unchanged" if torch.equal(model.model.embeddings.tok_embeddings.weight, before) else "changed"


batch = {"input_ids": torch.tensor([[3, 7, 9, 4]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
with torch.no_grad():
    beside = adapted(**batch).logits
    print(f"beside the model: the embedding is {changed(model)}")
    merged = adapted.merge_and_unload()
    shared = "still shared" if merged.decoder.weight is merged.model.embeddings.tok_embeddings.weight else "a copy"
    difference = (merged(**batch).logits - beside).abs().max() / beside.abs().max()
off = "off by more than a tenth of the largest" if difference > 0.1 else "the same" if difference < 1e-5 else "nearly the same"
print(f"merged: the matrix is {shared}, the embedding is {changed(merged)}, logits are {off}")
PYTHON
cat "$work/output"
cat >"$work/expected" <<'EXPECTED'
beside the model: the embedding is unchanged
merged: the matrix is still shared, the embedding is changed, logits are off by more than a tenth of the largest
EXPECTED
diff "$work/expected" "$work/output"
