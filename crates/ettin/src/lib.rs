//! Inference for Ettin and ModernBERT-type encoders and decoders: embeddings, fill-mask, classification, tagging,
//! question answering, reranking, scoring and generation. Pure Rust, fast on CPUs, and exact: a text's result does
//! not depend, by a single bit, on what else is in its batch.
//!
//! # Load a model, run a task
//!
//! [`ModelFiles::open`](files::ModelFiles::open) takes a folder, a name of the [suite] (`encoder-150m`) or a Hub id.
//! A model in the Hugging Face cache, which is shared with Python, never touches the network. An adapter (LoRA) goes on
//! top with [`ModelFiles::with_adapter`](files::ModelFiles::with_adapter). Every task loads from there:
//!
//! ```
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! use ettin::files::ModelFiles;
//! use ettin::tasks::{FillMask, Options, TextEmbedder};
//!
//! let files = ModelFiles::open(folder)?; // or "encoder-150m"
//! let vectors = TextEmbedder::load(&files, &Options::default())?.embed(&["A cat.", "A dog."])?;
//! assert_eq!(vectors.shape, [2, 256]);
//! let fill_mask = FillMask::load(&files, &Options::default())?;
//! assert_eq!(fill_mask.fill("The capital of France is [MASK].", 1)?[0][0].token_str, " Paris");
//! # Ok(())
//! # }
//! ```
//!
//! | to | use | plainly | with every option |
//! |---|---|---|---|
//! | embed texts | [`TextEmbedder`](tasks::TextEmbedder) | `embed`, `embed_tokens` | `embed_with`, `run`, `similarity` |
//! | fill masks | [`FillMask`](tasks::FillMask) | `fill` | `run` |
//! | classify texts or pairs | [`Classifier`](tasks::Classifier) | `classify` | `run` |
//! | classify texts by labels of your own | [`ZeroShotClassifier`](tasks::ZeroShotClassifier) | `classify` | `run` |
//! | choose between texts | [`MultipleChoice`](tasks::MultipleChoice) | `choose` | `run` |
//! | label tokens | [`Tagger`](tasks::Tagger) | `tag` | `run` |
//! | find entities by labels of your own | [`EntityExtractor`](tasks::EntityExtractor) | `extract` | `run` |
//! | find answers | [`Answerer`](tasks::Answerer) | `answer` | `run` |
//! | rank documents | [`Reranker`](tasks::Reranker) | `rerank` | `run` |
//! | score texts | [`Scorer`](tasks::Scorer) | `score` | `run` |
//! | continue texts | [`Generator`](tasks::Generator) | `generate`, `stream` | `run` |
//!
//! Vectors are kept as integers, and searched, by [`quantization`].
//!
//! A server continues token ids of requests that come and go with a [`generate::Engine`]. [`check`] compares a model, layer
//! by layer, with the reference path.
//!
//! The plain methods fail with the first input that fails. `run` gives every input a result of its own, and says which
//! inputs were cut to the length limit.
//!
//! # Token ids in, tensors out
//!
//! One level down are the [heads]: models without a tokenizer. They take a [`PackedBatch`] (sequences end to end, no
//! padding) and give [candle] tensors. Under every head is a [`Trunk`], which encoders and decoders share.
//!
//! ```
//! # fn main() -> ettin::Result<()> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano-encoder");
//! use ettin::{Backend, PackedBatch, Pooling, files::ModelFiles, heads::Embedder};
//!
//! let model = Embedder::load(&ModelFiles::open(folder)?, &Backend::cpu()?)?;
//! let batch = PackedBatch::new(&[vec![2, 300, 301, 3], vec![2, 302, 3]])?;
//! let hidden = model.trunk().forward(&batch)?;
//! assert_eq!(hidden.to_tensor()?.dims(), [7, 256]); // [tokens, hidden]
//! assert_eq!(Pooling::Mean.pool(&hidden, &batch, None)?.to_tensor()?.dims(), [2, 256]); // [sequences, hidden]
//! # Ok(())
//! # }
//! ```
//!
//! What is wanted at the end of a forward (chosen rows, the best tokens, log-probabilities, a projection) is a
//! [`readout`]: nothing else is stored.
//!
//! # Parameters of your own
//!
//! [`tensors`] is the tree of a model's tensors by role, and [`tensors::walk`] fills it from any
//! [`Source`](tensors::Source): a checkpoint, candle's variables for training, an adapter on top of either.
//! [`Parameters`] holds such a tree, and every head has a `build` that takes it.
//!
//! # A head of your own, with our batching
//!
//! Whatever can be computed from hidden states can be a head: with candle's operations on tensors, or with the blocks
//! of [`ops`], which run on the same kernels as the trunk. [`batching`] packs sequences of any lengths and brings
//! results back in order; [`Preprocessor`](tasks::Preprocessor) does so from texts. [`Backend::hidden`] brings a tensor
//! back to the blocks. The example `own_head` puts a linear layer on a trunk.
//!
//! Tasks can be made of parts, too: each has a `new` that takes a model, alone or in an [`Arc`](std::sync::Arc) that
//! several tasks share, and a `Preprocessor` with the tokenizer, the limit and the batches of your choice.
//!
//! # Threads
//!
//! Models are `Send + Sync`: keep one in an `Arc` and call it from any thread. A call computes on rayon's global pool
//! (`RAYON_NUM_THREADS`) unless a [`Team`] is given, in [`Options::with_team`](tasks::Options::with_team) or
//! [`Backend::on_team`]. Called from inside a rayon pool, it uses the threads of that pool. There is no async
//! runtime; from one, call in its `spawn_blocking`.
//!
//! # Number formats and devices
//!
//! [`Dtype`] is how weights are multiplied. `auto`, the default, is f32 unless the weights are stored in few bits.
//! `bf16`, `int8`, `w8` and `w4` trade accuracy for speed and memory; `docs/ACCURACY.md` of the repository has
//! numbers. [`KvFormat`] is how a decoder keeps keys and values.
//!
//! [`DeviceChoice`] parses `cpu`, `cuda:0` or `metal` and opens a [candle] device for
//! [`Options::with_device`](tasks::Options::with_device) or [`Backend::new`]. [`Backend::reference`] computes with
//! plain candle operations: it is differentiable, and the oracle that the kernels are tested against.
//!
//! # Errors
//!
//! [`Error`] says what was wrong, in which file, tensor or input, and what to do next. It can be cloned. What is not
//! supported is refused by name and never computed in some other way. [`Error::Internal`] is the one kind that no
//! input should cause.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `hub` | downloads from the Hugging Face Hub (blocking, rustls); without it, cached models are found all the same |
//! | `cuda`, `flash-attn`, `metal` | devices; see `docs/GPU.md` of the repository |
//!
//! The CPU needs none: the kernels for its instruction set ([`Isa`]) are chosen at run time.
//!
//! # Stability
//!
//! Before 1.0 a minor version may break. Option structs are `#[non_exhaustive]`: make them from their default with
//! `with_…`, and an option added later breaks nothing.
//!
//! ```compile_fail
//! use ettin::tasks::EmbedRequest;
//! let request = EmbedRequest { per_token: true, ..EmbedRequest::default() };
//! ```
//!
//! Within a version, a result is the same to the bit for one instruction set and number format, whatever the number
//! of threads and whatever is in the batch.
#![forbid(unsafe_code)]

mod backend;
pub mod batch;
pub mod batching;
pub mod cache;
pub mod check;
pub mod config;
mod dtype;
mod error;
pub mod files;
mod finite;
pub mod generate;
mod gliner;
pub mod heads;
pub mod hub;
pub mod identity;
pub mod json;
mod metadata;
mod model;
mod named;
pub mod ops;
pub mod params;
pub mod pooling;
pub mod quantization;
pub mod readout;
mod sentence_transformers;
mod setters;
pub mod suite;
pub mod tasks;
pub mod tensors;
pub mod tokenizer;
mod trunk;
pub mod weights;

pub use backend::Backend;
pub use batch::PackedBatch;
pub use cache::KvCache;
/// The tensors of this crate's API.
pub use candle_core as candle;
pub use config::{Config, Objective};
pub use error::{Error, Result};
pub use ettin_kernels::{Activation, Isa, KvFormat, MAX_THREADS, Quantization, Scheme, Span, Team};
pub use ops::{DeviceChoice, Dtype};
pub use params::Parameters;
pub use pooling::Pooling;
pub use trunk::Trunk;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
