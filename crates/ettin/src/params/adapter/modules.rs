//! Which modules of a model an adapter is for, by PEFT's rules of matching names.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use crate::Result;
use crate::config::Keys;

/// A regular expression of a user's file may take this much memory compiled, and as much while it matches; it takes time
/// in proportion to the name, whatever it is. Names of modules are ASCII: as bytes, classes stay small.
const MAX_COMPILED: usize = 1 << 17;

/// What PEFT takes to stand for every linear layer, before it is spelled out in a saved file.
const ALL_LINEAR: &str = "all-linear";

/// A regular expression for whole names of modules.
pub(super) struct ModulePattern(Regex);

impl ModulePattern {
    /// One that is written to fit a whole name.
    fn whole(expression: &str) -> Result<Self, String> {
        Self::compiled(&format!("^(?:{expression})$"))
    }

    /// One that is written to fit the end of a name from some part of it on.
    pub(super) fn of_a_name(expression: &str) -> Result<Self, String> {
        Self::compiled(&format!(r"^(?:.*\.)?(?:{expression})$"))
    }

    fn compiled(expression: &str) -> Result<Self, String> {
        let compiled =
            RegexBuilder::new(expression).unicode(false).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
        compiled.map(Self).map_err(|error| {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("no regular expression that is supported here ({reason})")
        })
    }

    /// Whether the name of a module is one of those meant.
    pub(super) fn fits(&self, module: &str) -> bool {
        self.0.is_match(module.as_bytes())
    }
}

/// Modules by name.
enum Names {
    /// Those that are called so, or whose names end so from some part on.
    Listed(Vec<String>),
    /// Those whose whole names fit.
    Fitting(ModulePattern),
    /// Every linear layer.
    AllLinear,
}

impl Names {
    fn read(keys: &Keys<'_>, key: &str) -> Result<Option<Self>> {
        match keys.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.eq_ignore_ascii_case(ALL_LINEAR) => Ok(Some(Names::AllLinear)),
            Some(Value::String(expression)) => {
                let pattern = ModulePattern::whole(expression).map_err(|reason| keys.refuse(key, reason))?;
                Ok(Some(Names::Fitting(pattern)))
            }
            Some(_) => {
                let names = keys.texts(key)?.unwrap_or_default();
                Ok(Some(Names::Listed(names.into_iter().map(str::to_owned).collect())))
            }
        }
    }

    fn have(&self, module: &str) -> bool {
        match self {
            Names::Listed(names) => names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
            Names::Fitting(pattern) => pattern.fits(module),
            Names::AllLinear => true,
        }
    }
}

/// The modules that an adapter changes or replaces.
pub(super) struct Modules {
    targets: Names,
    excluded: Option<Names>,
    /// Numbers of the layers that are changed; all where there is none.
    layers: Vec<u64>,
    /// What gives a layer's number, in order.
    layers_patterns: Vec<Regex>,
    saved: Vec<String>,
}

impl Modules {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let Some(targets) = Names::read(keys, "target_modules")? else {
            return Err(keys.refuse("target_modules", "expected names of modules or a regular expression"));
        };
        Ok(Self {
            targets,
            excluded: Names::read(keys, "exclude_modules")?,
            layers: layers(keys)?,
            layers_patterns: layers_patterns(keys)?,
            saved: keys.texts("modules_to_save")?.unwrap_or_default().into_iter().map(str::to_owned).collect(),
        })
    }

    /// Whether a module gets a low-rank update.
    pub(super) fn adapt(&self, module: &str) -> bool {
        let excluded = self.excluded.as_ref().is_some_and(|names| match names {
            Names::AllLinear => false,
            names => names.have(module),
        });
        if excluded || !self.targets.have(module) {
            return false;
        }
        match self.targets {
            // Only names are narrowed to layers.
            Names::Listed(_) if !self.layers.is_empty() => {
                let found = self.layers_patterns.iter().find_map(|pattern| pattern.captures(module.as_bytes())?.get(1));
                let number = found.and_then(|number| std::str::from_utf8(number.as_bytes()).ok()?.parse().ok());
                number.is_some_and(|number| self.layers.contains(&number))
            }
            _ => true,
        }
    }

    /// Whether a module, or one that it is a part of, is replaced as a whole. PEFT looks at the ends of names, parts
    /// or not: `head` means `lm_head`, too.
    pub(super) fn replace(&self, module: &str) -> bool {
        let ends = module.match_indices('.').map(|(end, _)| end).chain([module.len()]);
        ends.into_iter().any(|end| self.saved.iter().any(|name| module[..end].ends_with(name.as_str())))
    }
}

/// Numbers of layers; none for all.
fn layers(keys: &Keys<'_>) -> Result<Vec<u64>> {
    let key = "layers_to_transform";
    let numbers = match keys.get(key) {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(Value::as_u64).collect(),
        Some(value) => value.as_u64().map(|number| vec![number]),
    };
    numbers.ok_or_else(|| keys.refuse(key, "expected a whole number or a list of them"))
}

/// What finds a layer's number in a module's name: the first number that is a part of it, or the one behind a word.
fn layers_patterns(keys: &Keys<'_>) -> Result<Vec<Regex>> {
    let key = "layers_pattern";
    let words = match keys.get(key) {
        None => Vec::new(),
        Some(Value::String(word)) if word.is_empty() => Vec::new(),
        Some(Value::String(word)) => vec![word.as_str()],
        Some(_) => keys.texts(key)?.unwrap_or_default(),
    };
    let expressions = match words.as_slice() {
        [] => vec![r"^.*?\.[^.]*\.(\d+)\.".to_owned()],
        words => words.iter().map(|word| format!(r"^(?:.*?\.)??(?:{word})\.(\d+)\.")).collect(),
    };
    let compiled = expressions.iter().map(|expression| {
        let pattern = ModulePattern::compiled(expression).map_err(|reason| keys.refuse(key, reason))?;
        Ok(pattern.0)
    });
    compiled.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn modules(settings: &Value) -> Result<Modules> {
        Modules::read(&Keys::new(settings.as_object().unwrap(), "adapter_config.json"))
    }

    /// What PEFT's `check_target_module_exists` says of the modules of a decoder with eleven layers.
    #[test]
    fn targets_are_those_of_peft() {
        let have = |settings: Value, names: &[&str], others: &[&str]| {
            let read = modules(&settings).unwrap();
            names.iter().for_each(|name| assert!(read.adapt(name), "{settings} has {name}"));
            others.iter().for_each(|name| assert!(!read.adapt(name), "{settings} has not {name}"));
        };
        have(
            json!({"target_modules": ["Wo", "lm_head.dense"]}),
            &["model.layers.0.attn.Wo", "layers.9.mlp.Wo", "Wo", "lm_head.dense"],
            &["model.layers.0.attn.xWo", "head.dense", "model.layers.0.attn.Wo.x"],
        );
        have(
            json!({"target_modules": r".*layers\.(1|10)\.attn\.[qv]_proj"}),
            &["model.layers.1.attn.q_proj", "model.layers.10.attn.v_proj"],
            &["model.layers.1.attn.k_proj", "model.layers.1.attn.q_proj.x"],
        );
        have(
            json!({"target_modules": ["Wo"], "layers_to_transform": [1], "exclude_modules": ["mlp.Wo"]}),
            &["model.layers.1.attn.Wo"],
            // Without a part before `layers` PEFT finds no number.
            &["model.layers.10.attn.Wo", "model.layers.1.mlp.Wo", "layers.1.attn.Wo"],
        );
        have(
            json!({"target_modules": ["Wo"], "layers_to_transform": 1, "layers_pattern": "layers"}),
            &["model.layers.1.attn.Wo", "layers.1.attn.Wo"],
            &["layers.0.attn.Wo", "Wo"],
        );
        have(json!({"target_modules": "ALL-linear", "exclude_modules": ".*Wi"}), &["head.dense"], &["x.Wi"]);
    }

    #[test]
    fn replaced_are_the_modules_that_end_so_and_their_parts() {
        let read = modules(&json!({"target_modules": ["Wo"], "modules_to_save": ["classifier", "head"]})).unwrap();
        for name in ["classifier", "head.dense", "lm_head.norm", "x.head"] {
            assert!(read.replace(name), "{name}");
        }
        for name in ["headless", "decoder", "class"] {
            assert!(!read.replace(name), "{name}");
        }
    }

    #[test]
    fn expressions_that_explode_elsewhere_take_no_time_or_are_refused() {
        let exploding = modules(&json!({"target_modules": "(a+)+(b|a|ab)*c"})).unwrap();
        assert!(!exploding.adapt(&"a".repeat(100_000)));
        for (expression, reason) in [
            ("(?=a)b", "look-around"),
            (r"(a)\1", "backreferences"),
            ("(a{1000}){1000}", "size"),
            ("(", "unclosed group"),
        ] {
            let error = modules(&json!({ "target_modules": expression })).err().unwrap().to_string();
            assert!(error.contains("target_modules") && error.contains(reason), "{error}");
        }
    }
}
