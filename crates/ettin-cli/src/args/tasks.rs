//! The commands that run a model on text.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use ettin::quantization::Precision;
use ettin::tasks::SearchSide;

use super::common::count;
use super::{InputArgs, ModelArgs, OutputArgs, RunArgs, ZeroShotArgs};

/// Predict the tokens behind [MASK]
///
/// For each input, the most probable tokens in place of its mask, as transformers' fill-mask pipeline gives
/// them: {score, token, token_str, sequence}, best first. Several masks give a list per mask. The mask is
/// spelled as in the model's tokenizer, [MASK] for Ettin.
#[derive(Debug, Args)]
#[command(after_help = "\
JSONL fields:
  text, id

Examples:
  ettin-run fill-mask \"The capital of France is [MASK].\"
  ettin-run fill-mask -m encoder-150m --top-k 3 \"Water boils at [MASK] degrees.\"
  ettin-run fill-mask -i sentences.txt > filled.jsonl")]
pub(crate) struct FillMask {
    /// Texts, each with at least one mask
    pub(crate) text: Vec<String>,

    /// How many candidates per mask
    #[arg(short = 'k', long, default_value = "5", value_name = "K", value_parser = count)]
    pub(crate) top_k: NonZeroUsize,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Turn texts into vectors
///
/// Models with a sentence-transformers chain (modules.json) are run as it says. Others use mean pooling
/// (encoders) or the last token (decoders), not normalised. Each input gives {index, embedding}; --format npy
/// or safetensors writes one f32 array with a row per input, and a row of NaN for a bad one. With --skip-blank
/// its rows are those of the lines that are left. Late-interaction models (ColBERT, as PyLate saves them) give a
/// vector per token, {index, embedding: [[…], …]}; an array then has a row per token, and offsets beside it: input i
/// has the rows from offsets[i] to offsets[i + 1]. npy holds them as a second array behind the first.
///
/// --precision keeps vectors as integers, those that sentence-transformers' encode(precision=...) gives. int8
/// and uint8 need the lowest and the highest value of each dimension: from --ranges, from the texts of
/// --calibrate, or from all inputs of this run, of which there must be two or more. Only the first two give a
/// text the same integers in every run. Arrays are int8 or uint8, with rows of zeros for bad inputs;
/// safetensors also has the tensor ranges, which --ranges reads.
///
/// Encoders of sparse vectors (SPLADE, CSR) give {index, indices, values}, by ascending index and without zeros;
/// --format npz writes them as a CSR matrix that scipy.sparse.load_npz reads, --format safetensors as its parts:
/// data, indices, indptr and shape. --pooling splade makes them with a masked language model.
///
/// Models with a Router send queries and documents through different modules, such as a table of vectors and a
/// trunk: --as query and --as document choose, and texts of which nothing is said take the default route.
#[derive(Debug, Args)]
#[command(after_help = "\
JSONL fields:
  text, id

Examples:
  ettin-run embed \"A sentence\" \"Another one\"
  ettin-run embed -m encoder-150m --pooling cls --normalize < texts.txt
  ettin-run embed -m encoder-150m -i texts.txt -f npy -o vectors.npy
  ettin-run embed --pooling none -f safetensors -o tokens.safetensors \"A text\"
  ettin-run embed --precision ubinary -i texts.txt -f npy -o bits.npy
  ettin-run embed --precision int8 --calibrate sample.txt -i texts.txt -f jsonl
  ettin-run embed --precision int8 --ranges ranges.npy \"A query\"
  ettin-run embed -m ./my-router --as document -i documents.txt
  ettin-run embed -m ./my-splade --as query --decode \"Who wrote it?\"
  ettin-run embed -m ./my-splade -i texts.txt -f npz -o vectors.npz
  ettin-run embed -m ./my-colbert --as query \"Which planet is red?\"")]
pub(crate) struct Embed {
    /// Texts to embed
    pub(crate) text: Vec<String>,

    /// The side of a search that the texts are on: its route, its prompt, its length limit, its form [default: document
    /// for late interaction, the default route of a model with routes, none for others]
    #[arg(long = "as", value_name = "SIDE")]
    pub(crate) side: Option<SideChoice>,

    /// The route of this task, of a model whose routes are not called query and document; info names them
    #[arg(long, value_name = "TASK", conflicts_with = "side")]
    pub(crate) task: Option<String>,

    /// Give the tokens of sparse vectors, too
    #[arg(long)]
    pub(crate) decode: bool,

    /// Bring alike vectors of a document together, about F of them to one (Ward's method): late interaction alone
    #[arg(long, value_name = "F")]
    pub(crate) pool_factor: Option<f64>,

    /// With --pool-factor, so many leading vectors are left alone
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pool_factor")]
    pub(crate) protected_tokens: usize,

    #[command(flatten)]
    pub(crate) vectors: VectorArgs,

    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// `--as`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SideChoice {
    /// What is looked for
    Query,
    /// What is looked through
    Document,
}

impl From<SideChoice> for SearchSide {
    fn from(choice: SideChoice) -> Self {
        match choice {
            SideChoice::Query => SearchSide::Query,
            SideChoice::Document => SearchSide::Document,
        }
    }
}

/// How a vector is made from hidden states.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Vectors")]
pub(crate) struct VectorArgs {
    /// How token vectors become one; none keeps them all [default: the model's, else mean or last]
    #[arg(long, env = "ETTIN_POOLING", value_name = "POOLING")]
    pub(crate) pooling: Option<PoolingChoice>,

    /// Scale vectors to length 1
    #[arg(long, overrides_with = "no_normalize")]
    pub(crate) normalize: bool,

    /// Leave vectors as they are, also where the model's chain would normalise
    #[arg(long, overrides_with = "normalize")]
    pub(crate) no_normalize: bool,

    /// Keep the first D dimensions (Matryoshka) [default: the model's truncate_dim, else all]; vectors that were
    /// normalised are so again, which truncate_dim does not do
    #[arg(long, value_name = "D", value_parser = count)]
    pub(crate) dimensions: Option<NonZeroUsize>,

    /// Keep the N largest values of a sparse vector [default: the model's max_active_dims, else all]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) max_active_dims: Option<NonZeroUsize>,

    /// Hidden state to use: 0 is the embedding, N the output of layer N [default: the last]
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<usize>,

    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
}

/// Which of a model's prompts is put before texts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompts")]
pub(crate) struct PromptArgs {
    /// Put the model's prompt of this name before each text (of a pair, the first; of a reranker, the query), such as
    /// query or document [default: the model's default_prompt_name, if it has one]
    #[arg(long, value_name = "NAME", overrides_with = "no_prompt")]
    pub(crate) prompt: Option<String>,

    /// Put no prompt before texts, also where the model has a default one
    #[arg(long, overrides_with = "prompt")]
    pub(crate) no_prompt: bool,
}

impl VectorArgs {
    /// `Some` when one of the two flags was given.
    pub(crate) fn normalization(&self) -> Option<bool> {
        match (self.normalize, self.no_normalize) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// `--pooling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolingChoice {
    /// The first token
    Cls,
    /// The mean of all tokens
    Mean,
    /// The last token
    Last,
    /// A mean that weighs later tokens more
    WeightedMean,
    /// The greatest value of each dimension
    Max,
    /// A sparse vector over the vocabulary, of a masked language model (SPLADE)
    Splade,
    /// No pooling: one vector per token
    None,
}

/// What the numbers of vectors are kept as.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Vectors")]
pub(crate) struct PrecisionArgs {
    /// What numbers are kept as: int8 and uint8 in 256 steps, binary and ubinary as the bits of their signs, eight to
    /// a byte, the first in the highest
    #[arg(long, default_value = "float32", value_name = "PRECISION", value_parser = precisions())]
    pub(crate) precision: PrecisionChoice,

    /// The lowest and the highest value of each dimension, [2, dimensions] floats: .npy, safetensors (the tensor
    /// ranges, or the only one) or JSON, two lists
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    pub(crate) ranges: Option<PathBuf>,

    /// Take the ranges from the vectors of the texts in FILE, read as --input is; 100 or more are a stable choice
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<PathBuf>,
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrecisionChoice {
    /// Floats, as they are computed.
    Float32,
    /// Integers.
    Quantized(Precision),
}

fn precisions() -> impl TypedValueParser<Value = PrecisionChoice> {
    let names = Precision::ALL.iter().map(|(_, name)| *name);
    PossibleValuesParser::new(std::iter::once("float32").chain(names)).try_map(|name| match name.as_str() {
        "float32" => Ok(PrecisionChoice::Float32),
        name => name.parse().map(PrecisionChoice::Quantized),
    })
}

/// Compare a text with others
///
/// Gives {index, score} for A against each B, in the order of the Bs: cosine similarity unless the model's
/// own configuration names another function.
#[derive(Debug, Args)]
#[command(after_help = "\
Input:
  With A alone, the lines of --input or stdin are the Bs, or the texts of a JSON
  array or of records {text}; index is the number of the line or record, from 0.
  With no argument, records are read.

JSONL fields:
  a, b (a text or a list of texts), id

Examples:
  ettin-run similarity \"A cat sleeps.\" \"A kitten naps.\" \"Stocks fell.\"
  ettin-run similarity -m encoder-150m \"A cat sleeps.\" -i sentences.txt
  ettin-run similarity --input pairs.jsonl")]
pub(crate) struct Similarity {
    /// Text to compare with each of the others
    pub(crate) a: Option<String>,

    /// Texts compared with A
    pub(crate) b: Vec<String>,

    #[command(flatten)]
    pub(crate) vectors: VectorArgs,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Classify texts or pairs of texts
///
/// Gives [{label, score}], best first, as transformers' text-classification pipeline does: softmax, or sigmoid
/// for multi-label models and models with one label, or the raw value for regression. Needs a model with a
/// classification head.
///
/// With --labels it gives {sequence, labels, scores}, best first, as the zero-shot-classification pipeline does,
/// and needs a classifier of natural language inference.
#[derive(Debug, Args)]
#[command(after_help = "\
Zero-shot:
  A label fits as far as the text entails a sentence about it (--template).
  Entailment is the first name in label2id that begins with \"entail\", else the last
  output.
  Scores sum to 1 over the labels. With --multi-label, and for one label, each is
  that of entailment against contradiction: the first output, or the last where the
  first is entailment. Of a pair that is too long, only the text is ever cut.

JSONL fields:
  text, text_pair, id
  with --labels: text, labels (a list, or a text with commas), id

Examples:
  ettin-run classify -m ./my-classifier \"What a lovely day\"
  ettin-run classify -m ./my-nli-model --pair \"He is outside.\" \"A man runs.\"
  ettin-run classify -m ./my-classifier --top-k 1 -i reviews.txt > labels.jsonl
  ettin-run classify -m ./my-nli-model --labels sports,politics \"A late goal\"
  ettin-run classify -m ./my-nli-model --labels \"rain, wind\" --multi-label \\
    --template \"It is about {}.\" -i reports.txt")]
pub(crate) struct Classify {
    /// Texts to classify
    pub(crate) text: Vec<String>,

    /// Second text, paired with every input that has none of its own
    #[arg(long, value_name = "TEXT")]
    pub(crate) pair: Option<String>,

    /// Only the K best labels [default: all]
    #[arg(short = 'k', long, value_name = "K", value_parser = count)]
    pub(crate) top_k: Option<NonZeroUsize>,

    /// The model's raw outputs, without softmax or sigmoid
    #[arg(long)]
    pub(crate) raw: bool,

    #[command(flatten)]
    pub(crate) zero_shot: ZeroShotArgs,

    #[command(flatten)]
    pub(crate) prompt: PromptArgs,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Label the tokens of texts (named entities and the like)
///
/// Gives {entity, score, index, word, start, end} per token, or {entity_group, score, word, start, end} per
/// group with --aggregation, as transformers' token-classification pipeline does. Offsets count Unicode
/// characters. Needs a model with a token-classification head.
#[derive(Debug, Args)]
#[command(
    after_help = "\
JSONL fields:
  text, id

Examples:
  ettin-run tag -m ./my-ner-model \"Ada Lovelace lived in London.\"
  ettin-run tag -m ./my-ner-model --aggregation simple -f json -i lines.txt",
    visible_alias = "token-classification"
)]
pub(crate) struct Tag {
    /// Texts to label
    pub(crate) text: Vec<String>,

    /// How tokens are grouped into entities
    #[arg(short, long, default_value = "none", value_name = "HOW")]
    pub(crate) aggregation: AggregationChoice,

    /// Also give what is labelled O, outside of any entity
    #[arg(long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// `--aggregation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AggregationChoice {
    /// One entry per token
    None,
    /// Neighbouring tokens of one entity, by their labels
    Simple,
    /// By words: the label of a word's first token
    First,
    /// By words: the label with the best mean score
    Average,
    /// By words: the label of the token with the best score
    Max,
}

/// Find the answer to a question in a text
///
/// Gives {answer, score, start, end}, as transformers' question-answering pipeline does; offsets count Unicode
/// characters of the context. Needs a model with a question-answering head.
#[derive(Debug, Args)]
#[command(
    after_help = "\
Input:
  With QUESTION alone, each line of --input or stdin is a context, or each text of a
  JSON array; records without a question of their own are asked it.
  With no argument, records are read.

JSONL fields:
  question, context, id

Examples:
  ettin-run answer -m ./my-qa-model \"Who wrote it?\" \"Mary Shelley wrote it.\"
  ettin-run answer -m ./my-squad2-model --no-answer \"Who sang it?\" \"Mary wrote it.\"
  ettin-run answer -m ./my-qa-model -i questions.jsonl > answers.jsonl",
    visible_alias = "question-answering"
)]
pub(crate) struct Answer {
    /// The question
    pub(crate) question: Option<String>,

    /// Texts that may hold the answer; each is asked separately
    pub(crate) context: Vec<String>,

    /// Let the text hold no answer, for models trained on such questions (SQuAD 2): where that is likelier than
    /// every span, answer is "" and start and end are 0
    #[arg(long)]
    pub(crate) no_answer: bool,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Sort documents by their relevance to a query
///
/// Gives [{index, score}], best first, where index counts the documents from 0. Needs a reranker: what CrossEncoder of
/// sentence-transformers saves (a chain with one score, a classifier, or a decoder with LogitScore), a plain classifier
/// with one label, an encoder of sparse vectors (SPLADE, CSR), whose similarity is the score, or a late-interaction
/// model, which scores by MaxSim.
#[derive(Debug, Args)]
#[command(after_help = "\
Input:
  With QUERY alone, the lines of --input or stdin are the documents, or the texts of
  a JSON array or of records {text}; index is the number of the line or record,
  from 0.
  With no argument, records are read.

JSONL fields:
  query, documents, id

Examples:
  ettin-run rerank -m cross-encoder/ettin-reranker-32m-v1 \"Who?\" \"Ada.\" \"Pears.\"
  ettin-run rerank -m cross-encoder/ettin-reranker-32m-v1 \"Who?\" -i documents.txt
  ettin-run rerank -m cross-encoder/ettin-reranker-32m-v1 -i queries.jsonl")]
pub(crate) struct Rerank {
    /// What is looked for
    pub(crate) query: Option<String>,

    /// Texts to sort
    pub(crate) document: Vec<String>,

    /// What is done to the model's output [default: as the model's configuration says]
    #[arg(long, value_name = "FUNCTION")]
    pub(crate) activation: Option<ActivationChoice>,

    /// Score by the sparse vectors that a masked language model gives (SPLADE)
    #[arg(long, value_name = "POOLING")]
    pub(crate) pooling: Option<RerankPooling>,

    #[command(flatten)]
    pub(crate) prompt: PromptArgs,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// `rerank --pooling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RerankPooling {
    /// As embed --pooling splade makes vectors
    Splade,
}

/// `--activation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationChoice {
    /// The output as it is
    Raw,
    /// Squashed between 0 and 1
    Sigmoid,
}

/// Log-probability and perplexity of texts
///
/// Gives {method, tokens: [{token, token_str, logprob}], sum, count, perplexity} with natural logarithms. With a
/// context only the continuation is scored. Decoders score left to right (causal); encoders by masking each token
/// once (pll) or as the Ettin paper does (left-to-right).
#[derive(Debug, Args)]
#[command(after_help = "\
Context:
  White space at the end of the context moves to the text. The two are then encoded
  each for itself, as the Ettin paper does, so that the tokens scored are the text's
  own. With --join they are encoded as one string, of which what is behind as many
  tokens as the context has alone is scored, as lm-evaluation-harness does: a token
  may then span their border. Both agree where the tokenizer splits at the border,
  as before a space; they differ where it does not, as in \"The ca\" and \"t sat\".

JSONL fields:
  text, context, id

Examples:
  ettin-run score \"The cat sat on the mat.\"
  ettin-run score -m decoder-150m --context \"The capital of France is\" \" Paris\"
  ettin-run score -m encoder-150m --method left-to-right -i sentences.txt")]
pub(crate) struct Score {
    /// Texts to score
    pub(crate) text: Vec<String>,

    /// Text that comes before every input that has no context of its own; it is read, not scored
    #[arg(long, value_name = "TEXT")]
    pub(crate) context: Option<String>,

    /// Encode context and text as one string, as evaluation harnesses do, and split the tokens where the
    /// context's own end
    #[arg(long)]
    pub(crate) join: bool,

    /// How to score [default: causal for decoders, pll for encoders]
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<MethodChoice>,

    /// Do not put the model's beginning-of-sequence token first
    #[arg(long)]
    pub(crate) no_bos: bool,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodChoice {
    /// Each token given those before it (decoders)
    Causal,
    /// Pseudo log-likelihood: each token masked once, given all others (encoders)
    Pll,
    /// Each token given those before it and three masks (encoders)
    LeftToRight,
}

/// Show how a text becomes tokens
///
/// Gives {ids, tokens, offsets}; offsets count Unicode characters.
#[derive(Debug, Args)]
#[command(after_help = "\
JSONL fields:
  text, text_pair, id

Examples:
  ettin-run tokenize \"Hello, world!\"
  ettin-run tokenize -m encoder-150m --no-special-tokens -i texts.txt
  ettin-run tokenize --tokenizer ./tokenizer.json \"Hello\"")]
pub(crate) struct Tokenize {
    /// Texts to tokenize
    pub(crate) text: Vec<String>,

    /// Second text, paired with every input that has none of its own
    #[arg(long, value_name = "TEXT")]
    pub(crate) pair: Option<String>,

    /// Use this tokenizer.json instead of a model's
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Leave out [CLS], [SEP] and what else the tokenizer's template adds
    #[arg(long)]
    pub(crate) no_special_tokens: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use crate::args::{Command, parse};

    #[test]
    fn last_normalisation_flag_wins() {
        let normalization = |flags: &[&str]| {
            let mut arguments = vec!["ettin-run", "embed", "text"];
            arguments.extend(flags);
            match parse(arguments).unwrap().command {
                Command::Embed(embed) => embed.vectors.normalization(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(normalization(&[]), None);
        assert_eq!(normalization(&["--normalize"]), Some(true));
        assert_eq!(normalization(&["--normalize", "--no-normalize"]), Some(false));
        assert_eq!(normalization(&["--no-normalize", "--normalize"]), Some(true));
    }

    #[test]
    fn a_count_of_zero_is_named_as_such() {
        for arguments in [
            &["embed", "--dimensions", "0"][..],
            &["embed", "--batch-tokens", "0"],
            &["embed", "--max-length", "0"],
            &["fill-mask", "-k", "0"],
            &["classify", "-k", "0"],
            &["generate", "-n", "0"],
            &["generate", "--top-k", "0"],
            &["bench", "--repetitions", "0"],
            &["bench", "--batch-tokens", "0"],
        ] {
            let error = parse([&["ettin-run"], arguments].concat()).expect_err("an error").to_string();
            assert!(error.contains("must be 1 or more"), "{error}");
        }
    }
}
