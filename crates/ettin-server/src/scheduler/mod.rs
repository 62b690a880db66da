//! Who computes what when.
//!
//! # Threads
//!
//! Requests are heard on tokio's reactors, which never compute. Texts are encoded on a small pool
//! ([`TokenizerPool`]). Each model has a thread for its encoder work, and one for its streams where it generates; a
//! thread computes only while it has the process's one [`Turn`], and the kernels' team (rayon's global pool) works for
//! whoever has it. So there is never more than one forward pass at a time, however many models are loaded and
//! connections open, and the team is never shared. Long texts alone are computed beside it, on threads that stand back
//! (`aside.rs`): a pass cannot be interrupted, and short requests would wait for it.
//!
//! Why a thread per model and not one for all: what a model's thread keeps between turns (engine, caches, texts in
//! progress that borrow the tokenizer) lives on its stack, and goes when the model goes. The turn is first come, first
//! served, so models alternate; it costs a lock that is nearly always free.
//!
//! # Encoders
//!
//! Work is counted in sequences, not in requests ([`EncoderQueue`]). A batch is formed when the thread has its turn,
//! from what has arrived by then, and nothing is waited for when idle. Clients take turns by tokens, and a batch is bounded
//! by time.
//!
//! # Admission
//!
//! One rule, in tokens, for requests of any shape: see [`Admission`].

mod admission;
mod aside;
mod compute;
mod decoder;
mod encoder;
mod fair_queue;
mod tokenizer_pool;
mod turn;
mod vitals;
mod work;

pub use admission::{Admission, Reservation};
pub use decoder::{
    DecoderQueue, DecoderSettings, GenerationEvent, GenerationTask, PromptScores, SampleEnd, TokenPiece,
};
pub use encoder::{CallTimes, ComputedCall, EncoderQueue, EncoderSettings};
pub use tokenizer_pool::TokenizerPool;
pub use turn::Turn;
pub use vitals::Probe;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Who asks, and until when an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// The client among which turns are shared: a connection.
    pub client: u64,
    /// When the answer is of no more use.
    pub deadline: Option<Instant>,
}

/// A lock whose holder may have panicked: everything kept behind one is whole between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
