//! Models by name: the Hugging Face cache, shared with Python, and downloads from the Hub.
//!
//! [`resolve`] turns what a user types into [`ModelFiles`](crate::files::ModelFiles). Reading the cache is plain
//! file-system code and always compiled; downloading is behind the feature `hub` (blocking, rustls: no async runtime,
//! no OpenSSL).
//!
//! # When the network is used
//! **A cached model never touches the network.** A revision is looked up once: a 40-digit commit stands for itself,
//! a branch or tag for the commit in the cache's `refs`. A suite model without a revision stands for the commit that
//! `models/suite.toml` knows, or else for `main`; asked for as `main`, a known commit that is cached will do too.
//!
//! A file is then answered, in this order, from
//! 1. the snapshot of that commit;
//! 2. what the cache knows to be absent (`.no_exist` markers and tree listings, Python's and ours);
//! 3. a complete snapshot: if configuration, tokenizer and one whole form of the weights are cached, another file is
//!    one that the model does not have. [`ModelFiles::require`](crate::files::ModelFiles::require) goes on, since
//!    such a file is called for by name;
//! 4. the Hub. The first question to the Hub fetches the list of files and everything but the weights, and marks
//!    what the repository lacks; weights follow when they are asked for. So an interrupted download is never
//!    taken for a complete snapshot.
//!
//! # Caches of others
//! Whatever Python finds offline is found: snapshots that were laid out by hand under names that are no commit, through
//! a ref or by their own name (`main`), real files in the place of links, `SENTENCE_TRANSFORMERS_HOME`. Such a snapshot
//! is taken as it is: nothing of the Hub is added to it.
//!
//! # Connections
//! Proxies ([`Proxies`]) and certificate authorities ([`CertificateSource`]) are those of the environment, as Python's
//! hub client reads it; without a word on certificates the system's store counts.
//!
//! # Downloads
//! A file arrives in `blobs/<etag>.incomplete` under a lock shared between processes, is checked (length; SHA-256 for
//! files in large-file storage) and renamed; killing the process at any point leaves the cache valid. Large files
//! resume where they stopped.

mod cache;
#[cfg(feature = "hub")]
mod certificates;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod connections;
#[cfg_attr(not(feature = "hub"), path = "download_absent.rs")]
mod download;
mod layout;
mod options;
mod proxies;
#[cfg(feature = "hub")]
mod proxy;
mod repo;
mod source;
#[cfg(feature = "hub")]
mod store;
#[cfg(feature = "hub")]
mod transfer;

pub use options::{CertificateSource, HubOptions, Progress, ProgressFn};
pub use proxies::{Proxies, Proxy};
pub(crate) use repo::HubFiles;
pub use repo::{Cached, cached};
pub use source::resolve;
