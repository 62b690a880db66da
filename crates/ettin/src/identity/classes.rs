//! Python class names that say what a model is: `architectures` of config.json, `type` of modules.json.

use super::Foreign;
use crate::Result;
use crate::files::ModelFiles;
use crate::metadata::MODULES;
use crate::sentence_transformers::module_classes;

/// Heads that transformers has for ModernBERT, as the ends of class names.
const HEADS: [&str; 7] = [
    "Model",
    "ForMaskedLM",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
];

/// Whether transformers has a class of that name for this type of model. FSDP2 renames the classes it wraps.
pub(super) fn is_known(class: &str) -> bool {
    let class = class.strip_prefix("FSDP").unwrap_or(class);
    let head = class.strip_prefix("ModernBertDecoder").or_else(|| class.strip_prefix("ModernBert"));
    head.is_some_and(|head| HEADS.contains(&head))
}

/// Whether it is the class that colbert-ai saves its models from.
pub(super) fn is_stanford(class: &str) -> bool {
    class == "HF_ColBERT"
}

/// A model saved from a class that is not transformers' own.
pub(super) fn architecture(class: &str, file: &str) -> Foreign {
    let evidence = format!("`architectures` of {file} names {class}");
    if is_stanford(class) {
        return stanford(&evidence);
    }
    Foreign::new(
        format!("a {class}"),
        evidence,
        "only transformers' own ModernBert classes are computed here; if the weights are those of one, name it in \
         `architectures` (ModernBertModel for the trunk alone)",
    )
}

pub(super) fn stanford(evidence: &str) -> Foreign {
    Foreign::new(
        "a Stanford ColBERT (late interaction)",
        evidence,
        "one pooled vector of it means nothing; it gives a vector per token, as MultiVectorEncoder computes them from its \
         artifact.metadata",
    )
}

pub(super) fn late_interaction(evidence: &str) -> Foreign {
    Foreign::new(
        "a late-interaction model (ColBERT)",
        evidence,
        "one pooled vector of it means nothing; it gives a vector per token, as MultiVectorEncoder computes them",
    )
}

pub(super) fn routed(evidence: &str) -> Foreign {
    Foreign::new(
        "a routed model (Router or Asym)",
        evidence,
        "its modules.json is missing, which says where its routes stand; fetch it as well",
    )
    .whole_alone()
}

pub(super) fn remote_code(code: &str, evidence: &str) -> Foreign {
    Foreign::new(
        format!("a model with code of its own ({code})"),
        evidence,
        "this program runs no code of a repository; if the library's own class computes the same, say so in a copy of \
         that file",
    )
    .whole_alone()
}

/// An entry of `modules.json`.
#[derive(Debug)]
pub(super) struct ModuleClass {
    class: String,
}

impl ModuleClass {
    /// What this module makes of the whole, if it is none of a dense embedder's or a reranker's.
    pub(super) fn foreign(&self) -> Option<Foreign> {
        let class = self.class.as_str();
        let evidence = format!("modules.json has {class}");
        let mut parts = class.split('.');
        let package = parts.next().unwrap_or_default();
        let within = |part: &str| class.split('.').any(|name| name == part);
        match package {
            "pylate" => Some(late_interaction(&evidence)),
            "sentence_transformers" if within("multi_vector_encoder") => Some(late_interaction(&evidence)),
            "sentence_transformers" => None,
            _ => Some(remote_code(class, &evidence)),
        }
    }
}

/// The entries of `modules.json`; none where there is no such file, or none that can be read: the chain says what is
/// wrong.
pub(super) fn modules(files: &ModelFiles) -> Result<Vec<ModuleClass>> {
    let data = files.peek(MODULES)?;
    let modules = data.iter().flat_map(|data| module_classes(data));
    Ok(modules.filter(|(_, class)| !class.is_empty()).map(|(_, class)| ModuleClass { class }).collect())
}
