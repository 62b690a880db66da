//! Writes a model's logits and the hidden states of every layer for given token ids: our half of `scripts/parity.py`.

fn main() {}
