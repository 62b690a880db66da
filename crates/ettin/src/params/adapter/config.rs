//! `adapter_config.json` as PEFT writes it: which modules an adapter changes, and by how much.

use serde_json::Value;

use super::modules::{ModulePattern, Modules};
use crate::config::Keys;
use crate::json::parse_object;
use crate::{Error, Result};

/// PEFT's defaults of `r` and `lora_alpha`.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;

/// More than any matrix has rows.
const MAX_RANK: usize = 1 << 20;

/// Each pattern is compiled; a model has a few hundred modules.
const MAX_PATTERNS: usize = 1024;

/// Keys that are obeyed.
const READ: [&str; 14] = [
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "bias",
    "init_lora_weights",
    "ensure_weight_tying",
];

/// Keys that change nothing once an adapter is trained. `fan_in_fan_out` is about layers that store their weights
/// transposed; a model of this type has none, and PEFT turns it off there.
const IGNORED: [&str; 19] = [
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    // Of features that are off unless another key turns them on.
    "megatron_core",
    "qalora_group_size",
    // Of older versions.
    "merge_weights",
    "enable_lora",
    "layer_pattern",
    "adapter_layers",
];

/// Ways to begin that leave the base's weights as they are. Others take a part out of them, so that the adapter fits
/// weights which no file holds.
const KEEPING_THE_BASE: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What an adapter's configuration says.
pub(super) struct LoraConfig {
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    rank_pattern: Vec<(ModulePattern, usize)>,
    alpha_pattern: Vec<(ModulePattern, f64)>,
    /// Whether biases are saved with it.
    pub(super) biases: bool,
    /// Whether an adapter of the embedding is one of the output matrix, too.
    pub(super) ties: bool,
    pub(super) modules: Modules,
    /// The model that it was trained on.
    pub(super) base: Option<String>,
    pub(super) task: Option<String>,
}

impl LoraConfig {
    /// From the bytes of the file; `file` is its name in messages.
    pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let map = parse_object(bytes, file)?;
        let keys = Keys::new(&map, file);
        match keys.text("peft_type")? {
            Some("LORA") => {}
            Some(other) => {
                let message = format!("`peft_type` {other:?} of {file}; adapters of the type \"LORA\" are");
                return Err(Error::Unsupported(message));
            }
            None => return Err(keys.refuse("peft_type", "expected \"LORA\"")),
        }
        check_unread(&keys)?;
        check_beginning(&keys)?;
        let biases = match keys.text("bias")? {
            None | Some("none") => false,
            Some("all" | "lora_only") => true,
            Some(_) => return Err(keys.refuse("bias", "supported: \"none\", \"all\", \"lora_only\"")),
        };
        Ok(Self {
            rank: keys.size("r", DEFAULT_RANK, MAX_RANK)?,
            alpha: keys.get("lora_alpha").map_or(Ok(DEFAULT_ALPHA), |value| alpha(value, &keys, "lora_alpha"))?,
            rank_stabilized: keys.flag("use_rslora", false)?,
            rank_pattern: patterns(&keys, "rank_pattern", |inner, key| inner.size(key, DEFAULT_RANK, MAX_RANK))?,
            alpha_pattern: patterns(&keys, "alpha_pattern", |inner, key| {
                inner.get(key).map_or(Ok(DEFAULT_ALPHA), |value| alpha(value, inner, key))
            })?,
            biases,
            ties: keys.flag("ensure_weight_tying", false)?,
            modules: Modules::read(&keys)?,
            base: keys.text("base_model_name_or_path")?.filter(|base| !base.is_empty()).map(str::to_owned),
            task: keys.text("task_type")?.map(str::to_owned),
        })
    }

    /// The rank of a module's update. Of several patterns that fit the first counts.
    pub(super) fn rank(&self, module: &str) -> usize {
        let own = self.rank_pattern.iter().find(|(pattern, _)| pattern.fits(module));
        own.map_or(self.rank, |(_, rank)| *rank)
    }

    /// What `B · A` of a module is multiplied by.
    pub(super) fn scale(&self, module: &str) -> f64 {
        let own = self.alpha_pattern.iter().find(|(pattern, _)| pattern.fits(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// A finite number: JSON has no others.
fn alpha(value: &Value, keys: &Keys<'_>, key: &str) -> Result<f64> {
    let number = value.as_f64().filter(|number| (*number as f32).is_finite());
    number.ok_or_else(|| keys.refuse(key, "supported: finite numbers"))
}

/// An object of values by module, in the order of the file.
fn patterns<T>(
    keys: &Keys<'_>,
    key: &str,
    value: impl Fn(&Keys<'_>, &str) -> Result<T>,
) -> Result<Vec<(ModulePattern, T)>> {
    let Some(inner) = keys.object(key)? else {
        return Ok(Vec::new());
    };
    if inner.names().count() > MAX_PATTERNS {
        return Err(keys.refuse(key, format_args!("supported: at most {MAX_PATTERNS} patterns")));
    }
    let read = inner.names().map(|name| {
        let pattern = ModulePattern::of_a_name(name).map_err(|reason| inner.refuse(name, reason))?;
        Ok((pattern, value(&inner, name)?))
    });
    read.collect()
}

/// A key that is not read must say nothing: what it would turn on changes numbers, for all that is known here.
fn check_unread(keys: &Keys<'_>) -> Result<()> {
    let unread = keys.names().find(|key| {
        let says_nothing = match keys.get(key) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        };
        !says_nothing && !READ.contains(key) && !IGNORED.contains(key)
    });
    match unread {
        Some(key) => Err(keys.refuse(
            key,
            "this changes what an adapter computes, or is unknown, and is not supported; merge the adapter in Python \
             (`peft`: merge_and_unload, then save_pretrained) where that is possible",
        )),
        None => Ok(()),
    }
}

fn check_beginning(keys: &Keys<'_>) -> Result<()> {
    let keeps = match keys.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => true,
        Some(Value::String(way)) => KEEPING_THE_BASE.contains(&&**way),
        Some(_) => false,
    };
    match keeps {
        true => Ok(()),
        false => Err(keys.refuse(
            "init_lora_weights",
            "the adapter belongs to a base whose weights that way of beginning has changed, and they are not in any \
             file; save it with `path_initial_model_for_weight_conversion` of PEFT",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<LoraConfig> {
        LoraConfig::parse(json.as_bytes(), "adapter_config.json")
    }

    /// A configuration with these keys on top of what every one has.
    fn with(keys: &str) -> Result<LoraConfig> {
        parsed(&format!("{{\"peft_type\": \"LORA\", \"target_modules\": [\"Wqkv\"], {keys}}}"))
    }

    #[test]
    fn scales_follow_patterns_in_their_order() {
        let config = with(
            r#""r": 4, "lora_alpha": 8, "rank_pattern": {"attn.Wo": 2, "Wo": 16},
            "alpha_pattern": {"0\\.mlp\\.Wi": 3}"#,
        )
        .unwrap();
        let scales = ["model.layers.0.attn.Wo", "model.layers.0.mlp.Wo", "layers.0.mlp.Wi", "model.layers.10.mlp.Wi"]
            .map(|module| config.scale(module));
        // A pattern begins where a part of the name does: `10.mlp.Wi` is not `0.mlp.Wi`.
        assert_eq!(scales, [4.0, 0.5, 0.75, 2.0]);
        let stabilized = with(r#""r": 16, "lora_alpha": 8, "use_rslora": true"#).unwrap();
        assert_eq!(stabilized.scale("model.layers.0.attn.Wqkv"), 2.0);
        assert_eq!(with(r#""bias": "none""#).unwrap().scale("x"), 1.0, "PEFT's defaults");
    }

    #[test]
    fn what_changes_numbers_is_refused_by_its_key() {
        for (key, value) in [
            ("use_dora", "true"),
            ("use_qalora", "true"),
            ("lora_bias", "true"),
            ("megatron_config", "{\"a\": 1}"),
            ("layer_replication", "[[0, 2]]"),
            ("alora_invocation_tokens", "[1, 2]"),
            ("target_parameters", "[\"x\"]"),
            ("trainable_token_indices", "[3]"),
            ("arrow_config", "{\"top_k\": 3}"),
            ("use_bdlora", "{\"nblocks\": 2}"),
            ("kasa_config", "{\"beta\": 1}"),
            ("a_key_of_tomorrow", "1"),
            ("bias", "\"some\""),
            ("init_lora_weights", "\"pissa_niter_4\""),
            ("init_lora_weights", "\"loftq\""),
            ("r", "0"),
            ("r", "1e30"),
            ("r", "99999999999"),
            ("rank_pattern", "{\"Wo\": 0}"),
            ("lora_alpha", "1e300"),
            ("lora_alpha", "\"8\""),
            ("alpha_pattern", "{\"(\": 1}"),
            ("use_rslora", "1"),
            ("layers_to_transform", "[-1]"),
        ] {
            let error = with(&format!("\"{key}\": {value}")).err().unwrap_or_else(|| panic!("{key}: {value}"));
            assert!(error.to_string().contains(key), "{key}: {error}");
        }
        for nothing in ["\"use_dora\": false", "\"megatron_config\": null", "\"layer_replication\": []"] {
            with(nothing).unwrap();
        }
        assert!(with("\"lora_alpha\": NaN").err().unwrap().to_string().contains("NaN"));
        let other = parsed(r#"{"peft_type": "IA3"}"#).err().unwrap().to_string();
        assert!(other.contains("peft_type") && other.contains("IA3"), "{other}");
        assert!(parsed("{}").err().unwrap().to_string().contains("peft_type"));
    }
}
