//! What a folder says it is, where that is not a model this engine runs.
//!
//! A trunk can be computed out of many folders that are more, or something else, than a trunk: a late-interaction
//! model, an adapter's base, a class of the repository's own code. Their own files say so; here it is read, and named
//! instead of a vector that means nothing. Settings of a kind that is supported are judged where they are used.

mod classes;
mod contents;

use std::fmt;

use serde_json::{Map, Value};

use crate::config::Objective;
use crate::files::ModelFiles;
use crate::files::Subfolder;
use crate::gliner::{GLINER_CONFIG, GLINER2_TYPE, GlinerConfig, schema_trunk};
use crate::json::parse_object;
use crate::metadata::{ADAPTER_CONFIG, ARTIFACT, CONFIG, MODULES, ROUTER, SENTENCE_TRANSFORMERS};
use crate::sentence_transformers::{LateInteraction, trunk_folder};
use crate::{Error, Result};

pub(crate) use contents::of_file;

/// Files at a model's root that are looked at only to tell what it is.
pub(crate) const TELLING: [&str; 4] = [GLINER_CONFIG, ROUTER, ARTIFACT, ADAPTER_CONFIG];

/// A kind of model that this engine does not run, as the model's own files name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// What it is, with its article: `a GLiNER model`.
    pub kind: String,
    /// Which file says so, and by what.
    pub evidence: String,
    /// What to do.
    pub advice: String,
    /// Whether a conversion copies all that it consists of.
    pub convertible: bool,
}

impl Foreign {
    fn new(kind: impl Into<String>, evidence: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { kind: kind.into(), evidence: evidence.into(), advice: advice.into(), convertible: true }
    }

    /// One of which a conversion would leave parts behind, or find no weights.
    fn whole_alone(self) -> Self {
        Self { convertible: false, ..self }
    }

    /// The refusal to run it.
    pub fn refusal(&self, name: &str) -> Error {
        Error::Unsupported(format!("{name} is {self}"))
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind, self.evidence, self.advice)
    }
}

/// What a model's files are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// One vector per text, or one score: everything that `modules.json` describes counts.
    Vectors,
    /// A vector for every token, as late interaction compares them; its modules have been read by then.
    Tokens,
    /// A head of `config.json`: a chain beside it does not matter.
    Head,
}

/// Refuses what says that it is something else than what is about to be run.
pub(crate) fn check(files: &ModelFiles, purpose: Use) -> Result<()> {
    match identify(files, purpose)? {
        Some(foreign) => Err(foreign.refusal(files.name())),
        None => Ok(()),
    }
}

/// What a model is, if it is of a kind that is not run; for descriptions, so everything that its files say counts.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn describe(files: &ModelFiles) -> Result<Option<Foreign>> {
    if let Some(foreign) = identify(files, Use::Vectors)? {
        return Ok(Some(foreign).filter(|_| !runs(files) && !classifies_by_schema(files)));
    }
    contents(files)
}

/// What to tell before a model is converted: of another kind than those that are run, it is converted none the less
/// where the copy is whole, and then of the same kind.
///
/// # Errors
/// [`Error::Unsupported`] for a kind that would lose parts: routes, code, or weights that lie elsewhere; when a file is
/// there and cannot be read.
pub fn before_conversion(files: &ModelFiles) -> Result<Option<String>> {
    match identify(files, Use::Vectors)? {
        None => Ok(None),
        Some(_) if runs(files) => Ok(None),
        Some(foreign) if !foreign.convertible => {
            Err(Error::Unsupported(format!("convert: {} is {foreign}", files.name())))
        }
        Some(Foreign { kind, evidence, .. }) => Ok(Some(format!(
            "{} is {kind} ({evidence}): its tensors are converted and its settings copied, and the copy is of the same \
             kind, which this program does not run",
            files.name()
        ))),
    }
}

/// Whether a model that gives no single vector per text is run as what it is.
fn runs(files: &ModelFiles) -> bool {
    if let Ok(Some(_)) = GlinerConfig::load(files) {
        return true;
    }
    let late = LateInteraction::load(files);
    late.is_ok_and(|late| late.is_some()) && identify(files, Use::Tokens).is_ok_and(|foreign| foreign.is_none())
}

/// Whether a model that is run for less than it is made for, and by files that no other model has, can be described.
fn classifies_by_schema(files: &ModelFiles) -> bool {
    schema_trunk(files).is_ok_and(|trunk| trunk.is_some())
}

/// What a folder holds in the place of weights; of no interest where a weights file was named.
fn contents(files: &ModelFiles) -> Result<Option<Foreign>> {
    if files.weights_file().is_some() {
        return Ok(None);
    }
    let names = files.listing()?;
    let trunk = Subfolder { files, folder: &first_folder(files, Use::Vectors) };
    match contents::USUAL.iter().any(|usual| names.contains(&trunk.path(usual))) {
        true => Ok(None),
        false => Ok(contents::of_listing(&names)),
    }
}

/// A failure to load told by what the model is, where its files say or show it; else the failure as it was.
pub fn explained(files: &ModelFiles, error: Error) -> Error {
    let missing = matches!(error, Error::MissingFile { .. });
    if !missing && !matches!(error, Error::Config { .. }) {
        return error;
    }
    let told = identify(files, Use::Vectors).ok().flatten().filter(|_| !runs(files));
    let shown = || contents(files).ok().flatten().filter(|_| missing);
    match told.or_else(shown) {
        Some(foreign) => foreign.refusal(files.name()),
        None => error,
    }
}

/// Files that are asked for here bring a download on its way, with all that tells; the rest is looked at where it is
/// there, so that a model whose use needs no more than is cached stays off the network.
fn identify(files: &ModelFiles, purpose: Use) -> Result<Option<Foreign>> {
    files.get(CONFIG)?;
    if purpose == Use::Vectors {
        files.get(MODULES)?;
    }
    if files.peek(GLINER_CONFIG)?.is_some() {
        let advice = match GlinerConfig::load(files) {
            Ok(_) => "it finds entities, which fits extract".to_owned(),
            Err(error) => format!("it is not run: {error}"),
        };
        return Ok(Some(Foreign::new("a GLiNER model", format!("it has a {GLINER_CONFIG}"), advice)));
    }
    let modules = classes::modules(files)?;
    if purpose == Use::Vectors {
        if let Some(foreign) = modules.iter().find_map(|module| module.foreign()) {
            return Ok(Some(foreign));
        }
        if let Some(foreign) = model_type(files)? {
            return Ok(Some(foreign));
        }
        if modules.is_empty() && files.peek(ROUTER)?.is_some() {
            return Ok(Some(classes::routed("it has a router_config.json and no modules.json")));
        }
    }
    if purpose != Use::Tokens && modules.is_empty() && files.peek(ARTIFACT)?.is_some() {
        return Ok(Some(classes::stanford("it has an artifact.metadata")));
    }
    let trunk = Subfolder { files, folder: &first_folder(files, purpose) };
    let file = trunk.path(CONFIG);
    if let Some(config) = object(files, &file)?
        && let Some(foreign) = by_configuration(&config, &file, !modules.is_empty(), purpose)
    {
        return Ok(Some(foreign));
    }
    adapter(files, &trunk)
}

/// Old sentence-transformers, and routes, keep the trunk in a folder of its own. What cannot be read is told by whoever
/// needs it.
fn first_folder(files: &ModelFiles, purpose: Use) -> String {
    match purpose {
        Use::Vectors | Use::Tokens => trunk_folder(files).unwrap_or_default(),
        Use::Head => String::new(),
    }
}

/// What to tell of a repository that offers code of its own for a class that transformers has: the library's class is
/// computed, as transformers does it unless it is told to trust that code.
///
/// # Errors
/// When a file is there and cannot be read.
pub(crate) fn code_left_out(files: &ModelFiles) -> Result<Option<String>> {
    let file = Subfolder { files, folder: &first_folder(files, Use::Vectors) }.path(CONFIG);
    let config = object(files, &file)?;
    let code = config.as_ref().and_then(|config| config.get("auto_map")).and_then(Value::as_object);
    let code = code.and_then(|code| code.iter().find(|(auto, _)| auto.starts_with("AutoModel")));
    Ok(code.map(|(auto, code)| {
        let code = code.as_str().unwrap_or("code");
        format!("`auto_map` of {file} offers {code} for {auto}, which is not run: the library's own class is computed")
    }))
}

/// `config_sentence_transformers.json` names the class that saved the model.
fn model_type(files: &ModelFiles) -> Result<Option<Foreign>> {
    let file = SENTENCE_TRANSFORMERS;
    let config = object(files, file)?;
    let kind = config.as_ref().and_then(|config| config.get("model_type")).and_then(Value::as_str);
    let evidence = |kind: &str| format!("`model_type` of {file} is {kind}");
    Ok(match kind {
        Some(kind @ ("MultiVectorEncoder" | "ColBERT")) => Some(classes::late_interaction(&evidence(kind))),
        _ => None,
    })
}

/// What `config.json` says of the class that the weights belong to. A chain beside it takes the trunk whatever class it
/// was saved from.
fn by_configuration(config: &Map<String, Value>, file: &str, chain: bool, purpose: Use) -> Option<Foreign> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if model_type == GLINER2_TYPE {
        return Some(
            Foreign::new(
                "a GLiNER2 model",
                format!("`model_type` of {file} is {GLINER2_TYPE}"),
                "it classifies by labels that are given with the text; its entities, structures and relations are not \
                 supported: run those with the Python package `gliner2`",
            )
            .whole_alone(),
        );
    }
    if ![Objective::Encoder, Objective::Decoder].iter().any(|objective| objective.model_type() == model_type) {
        // The configuration itself is refused, by that name.
        return None;
    }
    let class = config.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
    let class = class.filter(|class| !classes::is_known(class));
    let class = class.filter(|class| !chain || classes::is_stanford(class));
    let class = class.filter(|class| chain || purpose != Use::Tokens || !classes::is_stanford(class));
    class.map(|class| classes::architecture(class, file))
}

/// How the refusal of an adapter without its base ends.
const ON_TOP: &str = "and this folder as an adapter on it";

/// Whether an error is the refusal of an adapter that was named as a model.
pub fn lacks_its_base(error: &Error) -> bool {
    matches!(error, Error::Unsupported(message) if message.ends_with(ON_TOP))
}

/// An adapter without the weights that it is for. Who names a weights file wants that one.
fn adapter(files: &ModelFiles, trunk: &Subfolder<'_>) -> Result<Option<Foreign>> {
    let file = trunk.path(ADAPTER_CONFIG);
    if files.weights_file().is_some() {
        return Ok(None);
    }
    let Some(config) = object(files, &file)? else {
        return Ok(None);
    };
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let method = text("peft_type").unwrap_or("PEFT");
    let base = text("base_model_name_or_path").unwrap_or("the base model");
    let names = files.listing()?;
    if contents::USUAL.iter().any(|usual| names.contains(&trunk.path(usual))) {
        // Opening the weights puts it on them, or says why it cannot.
        return Ok(None);
    }
    let advice = format!("name {base} as the model, {ON_TOP}");
    Ok(Some(Foreign::new(format!("a {method} adapter of {base}"), format!("it has an {file}"), advice).whole_alone()))
}

/// A JSON object of a model, or nothing where it is none: whoever needs the file says what is wrong with it.
fn object(files: &ModelFiles, file: &str) -> Result<Option<Map<String, Value>>> {
    Ok(files.peek(file)?.and_then(|data| parse_object(&data, file).ok()))
}
