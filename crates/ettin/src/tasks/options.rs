//! How tasks are loaded.

use std::fmt;
use std::sync::Arc;

use candle_core::Device;

use crate::batching::BATCH_TOKENS;
use crate::ops::Dtype;
use crate::setters::setters;
use crate::tokenizer::Truncate;
use crate::{Backend, KvFormat, Result, Team};

/// How a task is loaded and how it treats its inputs.
///
/// ```
/// use ettin::{Dtype, Team, tasks::{Options, Truncate}};
///
/// let options = Options::default().with_dtype(Dtype::Bf16).with_max_length(512).with_truncate(Truncate::Right);
/// let on_two_threads = options.with_team(Team::with_threads(2)?);
/// # Ok::<(), ettin::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where the model computes.
    pub device: Device,
    /// The number format.
    pub dtype: Dtype,
    /// How keys and values are kept; `None` is what suits the number format.
    pub kv_dtype: Option<KvFormat>,
    /// A length limit in tokens, specials included, below the model's own.
    pub max_length: Option<usize>,
    /// What happens to an input over the limit.
    pub truncate: Truncate,
    /// The most tokens packed into one batch; a single longer input is a batch of its own.
    pub batch_tokens: usize,
    /// The threads that tokenise and compute; `None` for rayon's global pool.
    pub team: Option<Team>,
    /// Told what loading noticed and did not refuse.
    pub notices: Notices,
}

setters!(Options {
    /// On another device.
    with_device(device: Device);
    /// In another number format.
    with_dtype(dtype: Dtype);
    /// With keys and values kept in another format.
    with_kv_dtype(kv_dtype: impl Into<Option<KvFormat>>);
    /// With a length limit of one's own.
    with_max_length(max_length: impl Into<Option<usize>>);
    /// With another fate of inputs over the limit.
    with_truncate(truncate: Truncate);
    /// With batches of another size.
    with_batch_tokens(batch_tokens: usize);
    /// On threads of one's own.
    with_team(team: impl Into<Option<Team>>);
    /// With a listener for what loading notices.
    with_notices(notices: Notices);
});

impl Options {
    /// The backend that they describe.
    pub(super) fn backend(&self) -> Result<Backend> {
        let mut backend = Backend::new(&self.device, self.dtype)?;
        if let Some(kv) = self.kv_dtype {
            backend = backend.with_kv(kv)?;
        }
        Ok(match &self.team {
            Some(team) => backend.on_team(team.clone()),
            None => backend,
        })
    }
}

/// Where loading says what deserves a word and is no error: tensors that are stored and not used, above all.
#[derive(Clone, Default)]
pub struct Notices(Option<Listener>);

type Listener = Arc<dyn Fn(&str) + Send + Sync>;

impl Notices {
    /// Calls `tell` with one sentence at a time, without a full stop.
    pub fn to(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(super) fn tell(&self, sentence: &str) {
        if let Some(tell) = &self.0 {
            tell(sentence);
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Notices(told)" } else { "Notices(unheard)" })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: Dtype::default(),
            kv_dtype: None,
            max_length: None,
            truncate: Truncate::default(),
            batch_tokens: BATCH_TOKENS,
            team: None,
            notices: Notices::default(),
        }
    }
}
