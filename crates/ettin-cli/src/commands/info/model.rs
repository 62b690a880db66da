//! What a model is: its configuration and what its weights take.

use std::collections::BTreeMap;

use ettin::config::{LayerSpec, Objective};
use ettin::files::ModelFiles;
use ettin::generate::GenerationDefaults;
use ettin::params::Adapter;
use ettin::tasks::{ChainProfile, ExtractionProfile, Profile, RouteProfile};
use ettin::weights::{Subfolder, Weights};
use ettin::{Config, Quantization};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::advice;

/// A model's description.
#[derive(Serialize)]
pub(super) struct ModelRecord {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    objective: &'static str,
    architecture: Option<String>,
    /// Commands that fit its class, where it is named and no chain counts.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tasks: &'static [&'static str],
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    heads: usize,
    /// Positions of the trunk.
    max_length: usize,
    /// What a text is cut to.
    length_limit: Option<LengthLimit>,
    /// Where the trunk is, if not at the top.
    #[serde(skip_serializing_if = "String::is_empty")]
    folder: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Chain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extraction: Option<ExtractionRecord>,
    /// What is wrong with the files of the chain or of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    tied_embeddings: bool,
    /// What lies on top of the weights, first to last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adapters: Vec<AdapterRecord>,
    labels: Vec<String>,
    layers: Vec<Layer>,
    stored_dtypes: Vec<&'static str>,
    #[serde(skip)]
    quantization: Option<Quantization>,
    parameters: u64,
    bytes: Bytes,
    /// Settings of generation in the model's files, by key, those left out that change nothing.
    #[serde(skip_serializing_if = "Map::is_empty")]
    generation: Map<String, Value>,
    #[serde(skip)]
    generation_file: String,
    /// Why `generate` would refuse them.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_refused: Option<String>,
}

/// The most tokens of a text, special tokens included, and who says so.
#[derive(Serialize)]
struct LengthLimit {
    tokens: usize,
    from: String,
}

/// What a GLiNER model finds entities with.
#[derive(Serialize)]
struct ExtractionRecord {
    labels: String,
    max_width: usize,
    max_words: usize,
}

impl From<ExtractionProfile> for ExtractionRecord {
    fn from(ExtractionProfile { labels, max_width, max_words }: ExtractionProfile) -> Self {
        Self { labels, max_width, max_words }
    }
}

impl ExtractionRecord {
    fn rows(&self) -> [(&'static str, String); 2] {
        let ExtractionRecord { labels, max_width, max_words } = self;
        [("entities", format!("up to {max_width} words, in texts of up to {max_words}")), ("labels", labels.clone())]
    }
}

/// What the files of sentence-transformers say.
#[derive(Serialize)]
pub(super) struct Chain {
    modules: Vec<String>,
    /// The modules with their settings.
    details: Vec<String>,
    /// Of a model with several: the modules above are those of the default one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteRecord>,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
    truncate_dim: Option<usize>,
    /// Of an encoder of sparse vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_active_dims: Option<usize>,
    /// Of an embedder.
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<String>,
    /// Of a reranker.
    #[serde(skip_serializing_if = "Option::is_none")]
    activation: Option<String>,
}

/// A route of a model.
#[derive(Serialize)]
struct RouteRecord {
    name: String,
    /// Whether texts take it for which nothing is said.
    default: bool,
    /// The sides of a search whose texts take it.
    sides: Vec<&'static str>,
    modules: Vec<String>,
    details: Vec<String>,
}

impl From<RouteProfile> for RouteRecord {
    fn from(route: RouteProfile) -> Self {
        RouteRecord {
            name: route.name,
            default: route.is_default,
            sides: route.sides,
            modules: route.modules,
            details: route.details,
        }
    }
}

impl RouteRecord {
    /// `document, the default: Transformer (feature-extraction), Pooling (mean)`.
    fn describe(&self) -> String {
        let mut told = vec![self.name.clone()];
        told.extend(self.sides.iter().filter(|side| **side != self.name).map(|side| format!("--as {side}")));
        told.extend(self.default.then(|| "the default".to_owned()));
        format!("{}: {}", told.join(", "), self.details.join(", "))
    }
}

impl From<ChainProfile> for Chain {
    fn from(ChainProfile { modules, details, routes, settings, activation }: ChainProfile) -> Self {
        // A function that is not implemented has its name all the same.
        let default = settings.similarity().map(|similarity| similarity.to_string());
        let similarity = settings.similarity_fn_name.or(default.ok()).unwrap_or_default();
        Chain {
            modules,
            details,
            routes: routes.into_iter().map(RouteRecord::from).collect(),
            prompts: settings.prompts,
            default_prompt: settings.default_prompt_name,
            truncate_dim: settings.truncate_dim,
            max_active_dims: settings.max_active_dims,
            similarity: activation.is_none().then_some(similarity),
            activation,
        }
    }
}

impl Chain {
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = match self.routes.is_empty() {
            true => vec![("modules", self.details.join(", "))],
            false => self.routes.iter().map(|route| ("route", route.describe())).collect(),
        };
        for (name, text) in &self.prompts {
            let default = if self.default_prompt.as_ref() == Some(name) { " (the default)" } else { "" };
            rows.push(("prompt", format!("{name}{default}: {text:?}")));
        }
        rows.extend(self.truncate_dim.map(|size| ("truncate_dim", size.to_string())));
        rows.extend(self.max_active_dims.map(|size| ("max_active_dims", size.to_string())));
        rows.extend(self.similarity.iter().map(|name| ("similarity", name.clone())));
        rows.extend(self.activation.iter().map(|name| ("activation", name.clone())));
        rows
    }
}

/// An adapter on the model.
#[derive(Serialize)]
struct AdapterRecord {
    file: String,
    /// What it was trained on, as its configuration calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// Layers that get a low-rank update.
    layers: Vec<String>,
    /// Tensors that are replaced as a whole.
    replaced: Vec<String>,
}

impl From<&Adapter> for AdapterRecord {
    fn from(adapter: &Adapter) -> Self {
        AdapterRecord {
            file: adapter.file().to_owned(),
            base: adapter.base().map(str::to_owned),
            layers: adapter.layers().map(str::to_owned).collect(),
            replaced: adapter.replaced().map(str::to_owned).collect(),
        }
    }
}

impl AdapterRecord {
    fn describe(&self) -> String {
        let trained = self.base.as_ref().map_or(String::new(), |base| format!(", trained on {base}"));
        format!(
            "{}: {} layers changed, {} tensors replaced{trained}",
            self.file,
            self.layers.len(),
            self.replaced.len()
        )
    }
}

/// What one layer sees, and the base of its rotary positions.
#[derive(Serialize, PartialEq)]
struct Layer {
    /// Keys to the left of a token, itself not counted; null sees all.
    left: Option<usize>,
    /// Keys to its right.
    right: Option<usize>,
    rope_theta: f32,
}

/// Memory of the weights in each dtype.
#[derive(Serialize)]
struct Bytes {
    f32: u64,
    bf16: u64,
    f16: u64,
}

impl ModelRecord {
    /// Reads the weights' headers; `config` is the profile's.
    pub(super) fn read(files: &ModelFiles, profile: Profile, config: Config) -> anyhow::Result<Self> {
        let Profile { folder, tasks, limit, chain, extraction, refused, .. } = profile;
        // Every configuration has label names, if only by default; a classifier's may be unusable, as the task then
        // says.
        let classifies = config.architecture().is_some_and(|name| name.contains("Classification"));
        let classifies = classifies && config.check_classifier().is_ok();
        let weights = Weights::open(&Subfolder { files, folder: &folder })?;
        let parameters: u64 = weights.views().map(|view| view.len() as u64).sum();
        let mut stored_dtypes: Vec<_> = weights.views().map(|view| view.dtype().name()).collect();
        stored_dtypes.sort_unstable();
        stored_dtypes.dedup();
        // An encoder generates nothing.
        let generation = match config.objective {
            Objective::Encoder => Ok(GenerationDefaults::default()),
            Objective::Decoder => GenerationDefaults::load(files),
        };
        // Settings that cannot be read are something to say, and the rest is still to be described.
        let generation_refused = generation.as_ref().map_or_else(
            |error| Some(advice::told(error)),
            |generation| generation.request().err().map(|error| advice::told(&error)),
        );
        let generation = generation.unwrap_or_default();
        Ok(ModelRecord {
            name: files.name().to_owned(),
            revision: files.revision().map(str::to_owned),
            objective: match config.objective {
                Objective::Encoder => "encoder",
                Objective::Decoder => "decoder",
            },
            architecture: config.architecture().map(str::to_owned),
            tasks,
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            heads: config.num_heads,
            max_length: config.max_position_embeddings,
            length_limit: limit.map(|limit| LengthLimit { tokens: limit.tokens, from: limit.origin.to_string() }),
            folder: folder.clone(),
            chain: chain.map(Chain::from),
            extraction: extraction.map(ExtractionRecord::from),
            refused,
            tied_embeddings: config.tie_word_embeddings,
            adapters: weights.adapters().map(AdapterRecord::from).collect(),
            layers: config.layers.iter().map(Layer::from).collect(),
            labels: if classifies { config.labels } else { Vec::new() },
            stored_dtypes,
            quantization: weights.quantization(),
            parameters,
            bytes: Bytes { f32: 4 * parameters, bf16: 2 * parameters, f16: 2 * parameters },
            generation: generation
                .get("eos_token_id")
                .map(|ends| ("eos_token_id", ends))
                .into_iter()
                .chain(generation.settings())
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect(),
            generation_file: generation.file().to_owned(),
            generation_refused,
        })
    }

    /// How the matrices are quantised, where they are stored in few bits.
    pub(super) fn quantization(&self) -> Option<Quantization> {
        self.quantization
    }

    /// For people.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("", String::new()), ("model", self.name.clone())];
        rows.extend(self.revision.iter().map(|revision| ("revision", revision.clone())));
        let architecture = self.architecture.as_deref().unwrap_or("architecture not named");
        rows.extend([
            ("objective", format!("{} ({architecture})", self.objective)),
            (
                "dimensions",
                format!(
                    "{} layers, hidden {}, intermediate {}, {} heads, vocabulary {}",
                    self.layers.len(),
                    self.hidden_size,
                    self.intermediate_size,
                    self.heads,
                    self.vocab_size
                ),
            ),
            ("max length", format!("{} tokens", self.max_length)),
        ]);
        if !self.tasks.is_empty() {
            rows.push(("commands", self.tasks.join(", ")));
        }
        let limit = self.length_limit.as_ref();
        rows.extend(limit.map(|limit| ("texts", format!("up to {} tokens: {}", limit.tokens, limit.from))));
        if !self.folder.is_empty() {
            rows.push(("trunk", format!("in the folder {}: for the tasks that run modules.json alone", self.folder)));
        }
        rows.extend(self.chain.iter().flat_map(Chain::rows));
        rows.extend(self.extraction.iter().flat_map(ExtractionRecord::rows));
        rows.extend(self.refused.iter().map(|reason| ("refused", reason.clone())));
        rows.extend(self.adapters.iter().map(|adapter| ("adapter", adapter.describe())));
        if !self.labels.is_empty() {
            rows.push(("labels", self.labels.join(", ")));
        }
        rows.extend(self.spans().into_iter().map(|span| ("layers", span)));
        if !self.generation.is_empty() {
            let settings: Vec<String> = self.generation.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            rows.push(("generation", format!("{} ({})", settings.join(", "), self.generation_file)));
        }
        rows.extend(self.generation_refused.iter().map(|refused| ("generation", refused.clone())));
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        rows.extend([
            ("parameters", format!("{} stored as {}", self.parameters, self.stored_dtypes.join(", "))),
            ("weights", format!("{} in f32, {} in bf16 or f16", megabytes(self.bytes.f32), megabytes(self.bytes.bf16))),
        ]);
        rows
    }

    /// Layers that see the same, together: `0, 3: all keys; θ 160000`.
    fn spans(&self) -> Vec<String> {
        let mut kinds: Vec<(&Layer, Vec<String>)> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            match kinds.iter_mut().find(|(kind, _)| *kind == layer) {
                Some((_, indices)) => indices.push(index.to_string()),
                None => kinds.push((layer, vec![index.to_string()])),
            }
        }
        kinds.into_iter().map(|(layer, indices)| format!("{}: {}", indices.join(" "), layer.describe())).collect()
    }
}

impl Layer {
    fn describe(&self) -> String {
        let side = |bound: Option<usize>, name: &str| match bound {
            None => format!("all to the {name}"),
            Some(0) => format!("none to the {name}"),
            Some(keys) => format!("{keys} to the {name}"),
        };
        format!("{}, {}; theta {}", side(self.left, "left"), side(self.right, "right"), self.rope_theta)
    }
}

impl From<&LayerSpec> for Layer {
    fn from(spec: &LayerSpec) -> Self {
        Layer { left: spec.span.left, right: spec.span.right, rope_theta: spec.rope_theta }
    }
}
