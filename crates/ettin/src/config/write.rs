//! A [`Config`] as JSON, in the newer dialect.

use serde_json::{Map, Value, json};

use super::{Activation, ClassifierPooling, Config, LayerSpec, Objective, ProblemType, labels};
use crate::{Error, Result};

impl Config {
    /// The configuration in the dialect of transformers 5, pretty-printed. Reading it back gives the same `Config`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for layers that the dialect cannot say: windows or bases that differ within one kind of
    /// layer.
    pub fn to_json(&self) -> Result<String> {
        let kinds = Kinds::of(self)?;
        let mut out = json!({
            "architectures": self.architectures,
            "attention_bias": self.attention_bias,
            "bos_token_id": self.bos_token_id,
            "classifier_activation": name(self.classifier_activation),
            "classifier_bias": self.classifier_bias,
            "classifier_pooling": match self.classifier_pooling {
                ClassifierPooling::Cls => "cls",
                ClassifierPooling::Mean => "mean",
            },
            "cls_token_id": self.cls_token_id,
            "decoder_bias": self.decoder_bias,
            "dtype": self.stored_dtype.map(|dtype| dtype.name()),
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [id] => json!(id),
                ids => json!(ids),
            },
            "hidden_activation": name(self.hidden_activation),
            "hidden_size": self.hidden_size,
            "id2label": self.labels.iter().enumerate().map(|(i, label)| (i.to_string(), json!(label)))
                .collect::<Map<_, _>>(),
            "intermediate_size": self.intermediate_size,
            "label2id": self.label_numbers(),
            "layer_types": self.layers.iter().map(|layer| kind(layer)).collect::<Vec<_>>(),
            "local_attention": 2 * kinds.half_window,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": self.objective.model_type(),
            "norm_bias": self.norm_bias,
            "norm_eps": shortest(self.norm_eps),
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers(),
            "pad_token_id": self.pad_token_id,
            "problem_type": self.problem_type.map(|problem| match problem {
                ProblemType::Regression => "regression",
                ProblemType::SingleLabel => "single_label_classification",
                ProblemType::MultiLabel => "multi_label_classification",
            }),
            "rope_parameters": {
                "full_attention": {"rope_theta": shortest(kinds.global_theta), "rope_type": "default"},
                "sliding_attention": {"rope_theta": shortest(kinds.local_theta), "rope_type": "default"},
            },
            "sep_token_id": self.sep_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.vocab_size,
        });
        for (key, id) in [("unk_token_id", self.unk_token_id), ("mask_token_id", self.mask_token_id)] {
            if let Some(id) = id {
                out[key] = json!(id);
            }
        }
        if let Some(activation) = &self.activation_fn {
            out["sentence_transformers"] = json!({ "activation_fn": activation });
        }
        Ok(format!("{out:#}\n"))
    }

    fn label_numbers(&self) -> Map<String, Value> {
        match &self.label_ids {
            Some(ids) => ids.iter().map(|(label, id)| (label.clone(), json!(id))).collect(),
            None => labels::numbers(&self.labels),
        }
    }
}

/// The one global and the one local kind of layer that the dialect can express.
struct Kinds {
    global_theta: f32,
    local_theta: f32,
    half_window: usize,
}

impl Kinds {
    fn of(config: &Config) -> Result<Self> {
        let first = |local: bool| config.layers.iter().find(|layer| layer.span.left.is_some() == local);
        let half_window = match (first(true).and_then(|layer| layer.span.left), config.objective) {
            (None, _) => 64,
            (Some(left), Objective::Encoder) => left,
            (Some(left), Objective::Decoder) => left + 1,
        };
        let kinds = Self {
            global_theta: first(false).map_or(160_000.0, |layer| layer.rope_theta),
            local_theta: first(true).map_or(10_000.0, |layer| layer.rope_theta),
            half_window,
        };
        let expected = |layer: &LayerSpec| match layer.span.left {
            None => (config.objective.global_span(), kinds.global_theta),
            Some(_) => (config.objective.local_span(half_window), kinds.local_theta),
        };
        match config.layers.iter().position(|layer| (layer.span, layer.rope_theta) != expected(layer)) {
            None => Ok(kinds),
            Some(odd) => Err(Error::Unsupported(format!(
                "config.json cannot say layer {odd}'s span or RoPE base beside those of the other layers"
            ))),
        }
    }
}

fn kind(layer: &LayerSpec) -> &'static str {
    match layer.span.left {
        None => "full_attention",
        Some(_) => "sliding_attention",
    }
}

fn name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    }
}

/// The `f64` with the digits that round-trip `value`: 1e-5, not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    let digits = value.to_string().parse().ok();
    digits.filter(|&wide: &f64| wide as f32 == value).unwrap_or(f64::from(value))
}
