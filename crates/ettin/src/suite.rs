//! The published Ettin suite: 24 models by name, with their dimensions and known commits.
//!
//! The table is `models/suite.toml`, compiled in. A model is found under its Hub id
//! (`jhu-clsp/ettin-encoder-150m`), its name (`ettin-encoder-150m`), its short name (`encoder-150m`) and, for the
//! cross-objective families, the spelling of the README (`ettin-encoder-from-decoder-17m`) beside the Hub's
//! (`ettin-enc-from-dec-17m`).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, de};

use crate::config::{Config, Objective};
use crate::error::Result;

const TABLE: &str = include_str!("../../../models/suite.toml");

/// Dimensions shared by the four models of one size; heads are 64 wide in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dimensions {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated MLP, per half.
    pub intermediate: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Parameters of the trunk: embeddings, layers and the final norm, without any head.
    pub parameters: u64,
}

/// One published model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: String,
    hub_id: String,
    aliases: Vec<String>,
    size: String,
    objective: Objective,
    dimensions: Dimensions,
    revision: Option<String>,
    safetensors: Option<String>,
}

impl Entry {
    /// The repository's name without its organisation, such as `ettin-encoder-150m`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The repository on the Hub, such as `jhu-clsp/ettin-encoder-150m`.
    pub fn hub_id(&self) -> &str {
        &self.hub_id
    }

    /// Other names under which the model is found, the shortest way to ask for it first.
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// `17m`, `32m`, `68m`, `150m`, `400m` or `1b`.
    pub fn size(&self) -> &str {
        &self.size
    }

    /// Encoder or decoder: what a cross-objective model was converted *to*.
    pub fn objective(&self) -> Objective {
        self.objective
    }

    /// Layers, widths and parameters.
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The configuration as it is published.
    ///
    /// ```
    /// let model = ettin::suite::Suite::get().find("decoder-150m").unwrap();
    /// assert_eq!(model.config()?.num_layers(), 22);
    /// # Ok::<(), ettin::Error>(())
    /// ```
    ///
    /// # Errors
    /// None in practice: the dimensions of the table make a sound configuration.
    pub fn config(&self) -> Result<Config> {
        let Dimensions { layers, hidden, intermediate, heads, .. } = self.dimensions;
        let config = serde_json::json!({
            "model_type": self.objective.model_type(),
            "vocab_size": 50_368,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": 7999,
            "global_attn_every_n_layers": 3,
            "local_attention": 128,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 160_000.0,
        });
        Config::from_json(config.to_string().as_bytes(), &format!("{} of the suite", self.name))
    }

    /// Whether training was continued from the other objective's weights.
    pub fn is_cross_objective(&self) -> bool {
        self.name.contains("-from-")
    }

    /// The commit of `main` this table was checked against, where one is known.
    pub fn commit(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// A commit that holds the same weights as `model.safetensors`, where one is known.
    pub fn safetensors_commit(&self) -> Option<&str> {
        self.safetensors.as_deref()
    }

    /// Every commit known to hold the final weights, the best first.
    pub(crate) fn known_commits(&self) -> impl Iterator<Item = &str> {
        self.commit().into_iter().chain(self.safetensors_commit())
    }

    fn answers_to(&self, name: &str) -> bool {
        self.spellings().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn spellings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// The 24 models, ordered by family and size.
#[derive(Debug)]
pub struct Suite {
    organisation: String,
    entries: Vec<Entry>,
}

impl Suite {
    /// The published suite.
    pub fn get() -> &'static Suite {
        static SUITE: OnceLock<Suite> = OnceLock::new();
        SUITE.get_or_init(|| parse(TABLE).expect("models/suite.toml is part of the build and tested"))
    }

    /// All models, ordered by family and size.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// The model of that name, alias or Hub id; letter case does not matter.
    ///
    /// ```
    /// use ettin::suite::Suite;
    ///
    /// let model = Suite::get().find("ettin-encoder-from-decoder-17m").unwrap();
    /// assert_eq!(model.hub_id(), "jhu-clsp/ettin-enc-from-dec-17m");
    /// ```
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let name = self.without_organisation(name);
        self.iter().find(|entry| entry.answers_to(name))
    }

    /// The spelling closest to a name that was not found, if one is close enough to be a likely typo.
    pub fn suggest(&self, name: &str) -> Option<&str> {
        let name = self.without_organisation(name).to_ascii_lowercase();
        // A quarter of the letters may be wrong; `encoder-999m` is then still answered with something useful.
        let limit = (name.len() / 4).max(2);
        self.iter()
            .flat_map(Entry::spellings)
            .map(|spelling| (edit_distance(&name, spelling), spelling))
            .filter(|&(distance, _)| distance <= limit)
            .min_by_key(|&(distance, _)| distance)
            .map(|(_, spelling)| spelling)
    }

    fn without_organisation<'a>(&self, name: &'a str) -> &'a str {
        match name.split_once('/') {
            Some((organisation, rest)) if organisation.eq_ignore_ascii_case(&self.organisation) => rest,
            _ => name,
        }
    }
}

impl<'a> IntoIterator for &'a Suite {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    organisation: String,
    sizes: BTreeMap<String, Dimensions>,
    models: Vec<SuiteRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteRow {
    name: String,
    aliases: Vec<String>,
    size: String,
    #[serde(deserialize_with = "objective")]
    objective: Objective,
    revision: String,
    safetensors: Option<String>,
}

fn objective<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Objective, D::Error> {
    let word = String::deserialize(deserializer)?;
    [Objective::Encoder, Objective::Decoder]
        .into_iter()
        .find(|objective| objective.as_str() == word)
        .ok_or_else(|| de::Error::custom(format!("no objective {word}")))
}

fn parse(text: &str) -> Result<Suite, String> {
    let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let entry = |row: SuiteRow| {
        let dimensions = *table.sizes.get(&row.size).ok_or_else(|| format!("{}: no size {}", row.name, row.size))?;
        Ok(Entry {
            hub_id: format!("{}/{}", table.organisation, row.name),
            name: row.name,
            aliases: row.aliases,
            size: row.size,
            objective: row.objective,
            dimensions,
            revision: Some(row.revision).filter(|revision| revision != "main"),
            safetensors: row.safetensors,
        })
    };
    let entries = table.models.into_iter().map(entry).collect::<Result<_, String>>()?;
    Ok(Suite { organisation: table.organisation, entries })
}

/// Levenshtein distance, in bytes: model names are ASCII.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_families_in_six_sizes_without_a_shared_name() {
        let suite = Suite::get();
        assert_eq!(suite.iter().count(), 24);
        let mut names: Vec<&str> = suite.iter().flat_map(Entry::spellings).collect();
        let total = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), total);
        assert_eq!(suite.iter().filter(|e| e.objective() == Objective::Encoder).count(), 12);
        assert_eq!(suite.iter().filter(|e| e.is_cross_objective()).count(), 12);
    }

    #[test]
    fn every_spelling_finds_its_model() {
        let suite = Suite::get();
        for (spelling, id, objective) in [
            ("ettin-encoder-150m", "jhu-clsp/ettin-encoder-150m", Objective::Encoder),
            ("encoder-150m", "jhu-clsp/ettin-encoder-150m", Objective::Encoder),
            ("jhu-clsp/ettin-decoder-1b", "jhu-clsp/ettin-decoder-1b", Objective::Decoder),
            ("Ettin-Decoder-1B", "jhu-clsp/ettin-decoder-1b", Objective::Decoder),
            ("ettin-enc-from-dec-17m", "jhu-clsp/ettin-enc-from-dec-17m", Objective::Encoder),
            ("ettin-encoder-from-decoder-17m", "jhu-clsp/ettin-enc-from-dec-17m", Objective::Encoder),
            ("jhu-clsp/ettin-encoder-from-decoder-17m", "jhu-clsp/ettin-enc-from-dec-17m", Objective::Encoder),
            ("enc-from-dec-17m", "jhu-clsp/ettin-enc-from-dec-17m", Objective::Encoder),
            ("ettin-decoder-from-encoder-400m", "jhu-clsp/ettin-dec-from-enc-400m", Objective::Decoder),
            ("dec-from-enc-400m", "jhu-clsp/ettin-dec-from-enc-400m", Objective::Decoder),
        ] {
            let entry = suite.find(spelling).unwrap_or_else(|| panic!("{spelling} not found"));
            assert_eq!((entry.hub_id(), entry.objective()), (id, objective), "{spelling}");
        }
        assert!(suite.find("other-org/ettin-encoder-150m").is_none());
        assert!(suite.find("ettin-encoder-160m").is_none());
        assert!(suite.find("").is_none());
    }

    #[test]
    fn the_parameters_follow_from_the_dimensions() {
        const VOCABULARY: u64 = 50_368;
        for entry in Suite::get() {
            let Dimensions { layers, hidden, intermediate, heads, parameters } = entry.dimensions();
            assert_eq!(hidden, heads * 64, "{}", entry.name());
            let (l, h, i) = (layers as u64, hidden as u64, intermediate as u64);
            // Wqkv 3h², Wo h², Wi 2ih, mlp Wo ih, two norms a layer; the first layer has no attention norm, while the
            // embedding's and the final norm make that up to one more.
            let expected = VOCABULARY * h + l * (4 * h * h + 3 * i * h + 2 * h) + h;
            assert_eq!(parameters, expected, "{}", entry.name());
        }
    }

    #[test]
    fn every_configuration_is_sound_and_of_its_size() {
        for entry in Suite::get() {
            let config = entry.config().unwrap();
            let Dimensions { layers, hidden, intermediate, heads, .. } = entry.dimensions();
            let found = (config.num_layers(), config.hidden_size, config.intermediate_size, config.num_heads);
            assert_eq!(found, (layers, hidden, intermediate, heads), "{}", entry.name());
            assert_eq!((config.objective, config.head_dim()), (entry.objective(), 64), "{}", entry.name());
            assert!(config.layers.iter().all(|layer| layer.rope_theta == 160_000.0));
            let global = config.layers.iter().filter(|layer| layer.span.left.is_none()).count();
            assert_eq!(global, layers.div_ceil(3));
        }
    }

    #[test]
    fn commits_are_whole_hashes_or_unknown() {
        for commit in Suite::get().iter().flat_map(Entry::known_commits) {
            assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{commit}");
        }
        assert_eq!(Suite::get().find("encoder-400m").and_then(Entry::commit), None);
        assert_eq!(Suite::get().find("encoder-17m").map(|e| e.known_commits().count()), Some(2));
    }

    #[test]
    fn a_typo_gets_a_suggestion_and_nonsense_does_not() {
        let suite = Suite::get();
        assert_eq!(suite.suggest("ettin-encodr-150m"), Some("ettin-encoder-150m"));
        assert_eq!(suite.suggest("jhu-clsp/ettin-decoder-1bb"), Some("ettin-decoder-1b"));
        assert_eq!(suite.suggest("ettin-enc-form-dec-32m"), Some("ettin-enc-from-dec-32m"));
        assert_eq!(suite.suggest("bert-base-uncased"), None);
        assert_eq!(suite.suggest(""), None);
    }

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
