//! The embedded models: a tiny trained pair, so that the binary answers with nothing downloaded.

use ettin::files::{EmbeddedFiles, ModelFiles};

/// One of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nano {
    /// The masked language model.
    Encoder,
    /// The causal language model.
    Decoder,
}

macro_rules! files {
    ($folder:literal) => {
        &[
            ("config.json", include_bytes!(concat!("../../../models/", $folder, "/config.json"))),
            ("model.safetensors", include_bytes!(concat!("../../../models/", $folder, "/model.safetensors"))),
            ("tokenizer.json", include_bytes!(concat!("../../../models/", $folder, "/tokenizer.json"))),
            ("tokenizer_config.json", include_bytes!(concat!("../../../models/", $folder, "/tokenizer_config.json"))),
        ]
    };
}

static ENCODER: EmbeddedFiles = files!("nano-encoder");
static DECODER: EmbeddedFiles = files!("nano-decoder");

impl Nano {
    /// Both, the encoder first.
    pub(crate) const ALL: [Nano; 2] = [Nano::Encoder, Nano::Decoder];

    /// The name it is asked for by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Nano::Encoder => "nano-encoder",
            Nano::Decoder => "nano-decoder",
        }
    }

    /// The one of that name; `nano` is the one that suits the task.
    pub(crate) fn named(name: &str, suited: Nano) -> Option<Nano> {
        if name == "nano" {
            return Some(suited);
        }
        Nano::ALL.into_iter().find(|nano| nano.name() == name)
    }

    /// Its files.
    pub(crate) fn files(self) -> ModelFiles {
        ModelFiles::embedded(
            self.name(),
            match self {
                Nano::Encoder => ENCODER,
                Nano::Decoder => DECODER,
            },
        )
    }
}
