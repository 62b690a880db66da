//! Choosing between labels or texts that come with the call.

use clap::Args;
use ettin::tasks::HypothesisTemplate;

use super::RunArgs;

/// Labels that the model was not trained on.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Zero-shot")]
pub(crate) struct ZeroShotArgs {
    /// Classify by these labels, separated by commas, with a model of natural language inference or a GLiNER2 model;
    /// records may have labels of their own
    #[arg(long, value_name = "LABELS", conflicts_with_all = ["pair", "top_k", "raw", "prompt", "no_prompt"])]
    pub(crate) labels: Option<String>,

    /// The sentence about a label that texts are asked to entail, {} being the label [default: This example is {}.]
    #[arg(long, value_name = "TEMPLATE", requires = "labels")]
    pub(crate) template: Option<HypothesisTemplate>,

    /// What is decided, as a GLiNER2 model reads it [default: category]
    #[arg(long, value_name = "TASK", requires = "labels", conflicts_with = "template")]
    pub(crate) task: Option<String>,

    /// Several labels may hold: score each by itself
    #[arg(long, requires = "labels")]
    pub(crate) multi_label: bool,
}

/// Choose the text that goes on from another one, or answers it
///
/// Gives [{index, score, logit}], best first: index counts the choices from 0, score is the softmax of all logits.
/// Needs a multiple-choice model (ModernBertForMultipleChoice).
#[derive(Debug, Args)]
#[command(
    after_help = "\
Input:
  With CONTEXT alone, the lines of --input or stdin are the choices, or the texts of
  a JSON array or of records {text}; index is the number of the line or record,
  from 0.
  With no argument, records are read.

JSONL fields:
  context, choices, id

Examples:
  ettin-run choose -m ./my-swag-model \"She opened the door\" \"and left.\" \"two.\"
  ettin-run choose -m ./my-swag-model -i questions.jsonl > choices.jsonl",
    visible_alias = "multiple-choice"
)]
pub(crate) struct Choose {
    /// The text that every choice follows
    pub(crate) context: Option<String>,

    /// Texts to choose from
    pub(crate) choice: Vec<String>,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}
