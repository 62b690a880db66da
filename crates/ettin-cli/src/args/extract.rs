//! Finding entities.

use std::path::PathBuf;

use clap::Args;

use super::RunArgs;

/// Find entities of kinds that you name
///
/// Gives [{start, end, text, label, score}] by start, as gliner's predict_entities does; offsets count Unicode
/// characters. Needs a GLiNER span model (gliner_config.json) on a ModernBERT trunk, with labels that are encoded apart or
/// with the text.
#[derive(Debug, Args)]
#[command(after_help = "\
Label vectors:
  Where a model's labels are encoded by another kind of model (a BERT), their
  vectors are read from a safetensors file: a tensor for each, called as the label.
  With gliner and safetensors:
    vectors = model.encode_labels(labels)
    save_file({l: v.clone() for l, v in zip(labels, vectors)}, \"labels.safetensors\")

JSONL fields:
  text, id

Examples:
  ettin-run extract -m ./my-gliner --labels person,place \"Ada was born in London.\"
  ettin-run extract -m ./my-gliner --labels date --threshold 0.3 -i texts.txt
  ettin-run extract -m ./my-gliner --labels a,b --label-vectors v.safetensors \"Text\"")]
pub(crate) struct Extract {
    /// Texts to look through
    pub(crate) text: Vec<String>,

    /// Kinds of entities, separated by commas
    #[arg(long, value_name = "LABELS")]
    pub(crate) labels: String,

    /// The score that an entity must have more than
    #[arg(long, default_value_t = 0.5, value_name = "T")]
    pub(crate) threshold: f32,

    /// Let entities lie inside others
    #[arg(long)]
    pub(crate) nested: bool,

    /// Let a span have several labels
    #[arg(long)]
    pub(crate) multi_label: bool,

    /// Read the vectors of labels from FILE (safetensors: a tensor for each label)
    #[arg(long, value_name = "FILE")]
    pub(crate) label_vectors: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}
