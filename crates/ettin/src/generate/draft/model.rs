//! Proposals of another model.

use super::{Draft, DraftRequest};
use crate::generate::model::{Cache, CausalModel, STEP_ROWS};
use crate::generate::sampler::Scratch;
use crate::{Error, PackedBatch, Result};

/// Proposes what another model of the same vocabulary would say, by the settings and the random numbers of each
/// request.
#[derive(Debug)]
pub struct ModelDraft<M> {
    model: M,
    batch: PackedBatch,
    rows: Vec<usize>,
    logits: Vec<f32>,
    scratch: Scratch,
}

impl<M: CausalModel> ModelDraft<M> {
    /// A draft by `model`, or by one that it points to.
    pub fn new(model: M) -> Self {
        let (batch, rows, logits, scratch) = Default::default();
        Self { model, batch, rows, logits, scratch }
    }
}

impl<M: CausalModel> Draft for ModelDraft<M> {
    type State = M::Cache;

    fn state(&self) -> Result<M::Cache> {
        self.model.cache(STEP_ROWS)
    }

    fn fork(&self, state: &M::Cache) -> M::Cache {
        state.fork()
    }

    fn bytes_per_token(&self) -> usize {
        self.model.bytes_per_token()
    }

    fn propose(&mut self, requests: &mut [DraftRequest<'_, M::Cache>]) -> Result<()> {
        let mut open = Vec::with_capacity(requests.len());
        for request in requests {
            // The proposal at the last place, if there was one, may have been wrong.
            let agreed = request.tokens.len() - 1;
            if request.state.len() > agreed {
                request.state.truncate(agreed)?;
            }
            let reads_only = request.wanted == 0;
            open.push((reads_only, request));
        }
        loop {
            open.retain(|(reads_only, request)| {
                let lacks = request.wanted > 0 || *reads_only && request.state.len() < request.tokens.len();
                lacks && request.tokens.len() <= self.model.positions()
            });
            if open.is_empty() {
                return Ok(());
            }
            self.batch.clear();
            self.rows.clear();
            let mut room = STEP_ROWS;
            let (mut caches, mut fed) = (Vec::with_capacity(open.len()), 0);
            for (reads_only, request) in &mut open {
                let pending = &request.tokens[request.state.len()..];
                let rows = pending.len().min(room);
                if rows == 0 {
                    break;
                }
                self.batch.push(&pending[..rows], request.state.len())?;
                if rows == pending.len() && !*reads_only {
                    self.rows.push(self.batch.tokens() - 1);
                }
                room -= rows;
                fed += 1;
                caches.push(&mut *request.state);
            }
            self.model.step_into(&self.batch, &mut caches, &self.rows, &mut self.logits)?;
            if self.rows.is_empty() {
                continue;
            }
            let complete = open[..fed]
                .iter_mut()
                .filter(|(reads_only, request)| !*reads_only && request.state.len() == request.tokens.len());
            let logits = self.logits.chunks_exact(self.logits.len() / self.rows.len());
            for ((_, request), logits) in complete.zip(logits) {
                match request.choose(logits, &mut self.scratch) {
                    Ok(token) => request.propose(token),
                    Err(Error::NotFinite { place, dtype }) => {
                        request.fail(Error::NotFinite { place: format!("{place} of the draft"), dtype });
                    }
                    Err(error) => request.fail(error),
                }
            }
        }
    }
}
