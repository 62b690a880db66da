//! Autoregressive generation.
//!
//! [`Engine`] is the loop: token ids in, token ids out, any number of requests at once, with sampling, speculation and
//! limits of their own. Text stands one layer up: a [`TextSequence`] turns the tokens of one sequence into pieces of
//! text and finds stop strings. [`tasks::Generator`](crate::tasks::Generator) is both of them with a tokenizer.

mod clock;
mod defaults;
mod draft;
mod engine;
mod event;
mod logprobs;
mod model;
mod prefix_cache;
mod random;
mod request;
mod running;
mod sampler;
mod sampling;
mod sequence;
mod settings;
mod shaping;
mod stop;
#[cfg(test)]
mod tests;
mod text;
mod text_request;
mod text_run;
mod warpers;

pub use clock::Times;
pub use defaults::GenerationDefaults;
pub use draft::{AnyDraft, Draft, DraftRequest, Lookup, ModelDraft, NoDraft};
pub use engine::Engine;
pub use event::{Event, Failed, FinishReason, Finished, Flow, Handle, NewToken, ScoredPrompt};
pub use logprobs::Logprobs;
pub use model::{Cache, CausalModel, STEP_ROWS};
pub use random::draw_seed;
pub use request::{MAX_SAMPLES, Request};
pub use sampler::{Sampler, Scratch};
pub use sampling::Sampling;
pub use settings::{EngineSettings, MAX_DRAFTED};
pub use shaping::Shaping;
pub use text::{Text, TextSequence};
pub use text_request::{GenerateRequest, Piece};
pub(crate) use text_run::{Completion, TextRun};
