//! What the modules of a chain do, in a few words each: for descriptions.

use super::keys::{join, object};
use super::parts::MAX_FEATURES;
use super::{
    AutoEncoderConfig, Class, DenseConfig, LogitScoreConfig, Module, NormalizeConfig, PoolingConfig, RouteChain, Slot,
    SpladeConfig, Transformer, WeightedLayersConfig, WordWeightsConfig,
};
use crate::Result;
use crate::config::Keys;
use crate::files::FileSource;
use crate::metadata::CONFIG;
use crate::named::Named;

impl RouteChain {
    /// The classes of all modules, in order.
    pub(crate) fn classes(&self) -> Vec<String> {
        let first = match self {
            RouteChain::Trunk(_) => Class::Transformer,
            RouteChain::Lookup(chain) => chain.lookup.class,
        };
        let rest = self.modules().iter().map(|module| module.class);
        std::iter::once(first).chain(rest).map(|class| class.to_string()).collect()
    }

    /// Every module with its settings, in order: `Dense (768 → 128, Tanh)`.
    ///
    /// # Errors
    /// What reading the settings finds wrong; whether modules fit each other is not looked at.
    pub(crate) fn described(&self, files: &dyn FileSource) -> Result<Vec<String>> {
        let transformer = self.trunk().map(|repository| &repository.transformer);
        let mut all = vec![match self {
            RouteChain::Trunk(repository) => format!("{} ({})", Class::Transformer, repository.transformer.task.name()),
            RouteChain::Lookup(chain) => chain.lookup.class.to_string(),
        }];
        for module in self.modules() {
            all.push(match settings_of(files, module, transformer)? {
                said if said.is_empty() => module.class.to_string(),
                said => format!("{} ({})", module.class, said.join(", ")),
            });
        }
        Ok(all)
    }
}

/// What the settings of a module say that tells it from others of its class.
fn settings_of(
    files: &dyn FileSource,
    Module { class, folder }: &Module,
    transformer: Option<&Transformer>,
) -> Result<Vec<String>> {
    // A module's own word on the width of what it reads.
    let stated = |names: &[&str]| {
        let file = join(folder, CONFIG);
        let map = object(files, &file)?;
        let keys = Keys::new(&map, &file);
        let stated = names.iter().find_map(|name| keys.stated_size(name, MAX_FEATURES).transpose());
        Ok::<_, crate::Error>(stated.transpose()?.unwrap_or(1))
    };
    const WIDTH: [&str; 2] = ["embedding_dimension", "word_embedding_dimension"];
    let read = |slot: Slot| (slot != Slot::Sentence).then(|| format!("of {}", slot.name()));
    Ok(match class {
        Class::Transformer
        | Class::MlmTransformer
        | Class::LayerNorm
        | Class::Dropout
        | Class::Router
        | Class::StaticEmbedding
        | Class::SparseStaticEmbedding => Vec::new(),
        Class::Pooling => {
            let config = PoolingConfig::load(files, folder, stated(&WIDTH)?)?;
            let mut said: Vec<String> = config.modes.iter().map(ToString::to_string).collect();
            said.extend((!config.include_prompt).then(|| "without the prompt".to_owned()));
            said
        }
        Class::Dense => {
            let config = DenseConfig::load(files, folder)?;
            let activation = config.activation.as_deref().unwrap_or("Tanh");
            let mut said = vec![format!("{} → {}", config.inputs, config.outputs)];
            said.push(activation.rsplit('.').next().unwrap_or(activation).to_owned());
            said.extend(config.residual.then(|| "residual".to_owned()));
            said.extend(read(config.input));
            said.extend((config.output != config.input).then(|| format!("to {}", config.output.name())));
            said
        }
        Class::Normalize => read(NormalizeConfig::load(files, folder)?.input).into_iter().collect(),
        Class::WeightedLayerPooling => {
            let config = WeightedLayersConfig::load(files, folder, stated(&WIDTH)?)?;
            let mut said = vec![format!("hidden states from {} on", config.start)];
            if !transformer.is_some_and(|transformer| transformer.shows_layers(files).unwrap_or(false)) {
                said.push("without effect: no output_hidden_states in config.json".to_owned());
            }
            said
        }
        Class::WordWeights => vec![format!("{} tokens", WordWeightsConfig::load(files, folder)?.weights.len())],
        Class::SpladePooling => {
            let SpladeConfig { sum, twice } = SpladeConfig::load(files, folder, stated(&WIDTH)?)?;
            let (strategy, activation) = (if sum { "sum" } else { "max" }, if twice { "log1p_relu" } else { "relu" });
            vec![strategy.to_owned(), activation.to_owned()]
        }
        Class::SparseAutoEncoder => {
            let config = AutoEncoderConfig::load(files, folder, stated(&["input_dim"])?)?;
            vec![format!("{} → {}", config.inputs, config.features), format!("the {} largest", config.kept)]
        }
        Class::LogitScore => {
            let LogitScoreConfig { wanted, unwanted } = LogitScoreConfig::load(files, folder, MAX_FEATURES)?;
            let less = unwanted.map(|token| format!(" less token {token}")).unwrap_or_default();
            vec![format!("token {wanted}{less}")]
        }
    })
}
