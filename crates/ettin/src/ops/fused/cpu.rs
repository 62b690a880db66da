//! What everything of one model on the CPU shares: instruction set, number format, threads, and memory for the next
//! forward.

use std::sync::{Arc, Mutex, PoisonError};

use ettin_kernels::{Isa, KvFormat, PackedWeight, Precision, ReadingOrder, Scheme, Sharing, Team};

use super::super::{Matrix, ropes::Ropes};
use super::rows::Memory;
use crate::{Error, Result};

/// The instruction set, the number format and the threads that everything of one model runs on.
#[derive(Debug, Clone)]
pub(super) struct Cpu {
    pub(super) isa: Isa,
    pub(super) scheme: Scheme,
    /// Whether weights may choose the number format.
    pub(super) auto: bool,
    /// How keys and values are kept, by a cache or for the time of a layer.
    pub(super) kv: KvFormat,
    /// Whether it was said how; else that follows the number format.
    pub(super) kv_given: bool,
    pub(super) team: Team,
    pub(super) ropes: Ropes,
    /// What forwards of few rows worked in, for the next one.
    pub(super) spare: Arc<Mutex<Vec<Memory>>>,
    /// Weights in the order that they are built in, which is that of a forward.
    pub(super) order: Arc<ReadingOrder>,
}

/// Floating-point operations of a forward pass, some tens of microseconds' worth, from which waking threads pays.
pub(super) const SHARED_WORK: usize = 1 << 22;

/// The same on AMX, which is done with few rows by the time that another thread is awake and has read what it needs
/// from this one: bytes of weights and operations of half a millisecond (measured: 16 tokens of the smallest model
/// take a third longer on two threads than on one, 128 tokens a little less).
pub(super) const SHARED_ON_AMX: (usize, usize) = (12 << 20, 1 << 29);

/// Inputs of a product in int8: what [`PackedWeight::pack`] takes.
pub(super) const MAX_INPUTS_OF_BYTES: usize = 1 << 16;

/// Memory that is kept, beside one for each thread; a forward and its heads take three at once.
pub(super) const MAX_SPARE_BUFFERS: usize = 8;

impl Cpu {
    /// Whether a pass of `tokens` rows over so many weights is worth waking threads for.
    pub(super) fn shares(&self, tokens: usize, weights: usize) -> bool {
        let work = 2 * tokens * weights;
        let bytes = match self.scheme {
            Scheme::Bf16 => 2,
            Scheme::Bf16x3 => 4,
            Scheme::Bf16x6 => 6,
            Scheme::Int8 => 1,
            Scheme::F32 | Scheme::W8 | Scheme::W4 => return work >= SHARED_WORK,
        };
        match self.isa {
            Isa::Amx => bytes * weights >= SHARED_ON_AMX.0 || work >= SHARED_ON_AMX.1,
            _ => work >= SHARED_WORK,
        }
    }

    pub(super) fn pack(&self, matrix: Matrix<'_>, scheme: Scheme, sharing: Sharing) -> Result<PackedWeight> {
        let inputs = matrix.inputs();
        if scheme == Scheme::Int8 && inputs > MAX_INPUTS_OF_BYTES {
            return Err(Error::Unsupported(format!(
                "dtype int8 for a matrix of {inputs} inputs; its sums hold {MAX_INPUTS_OF_BYTES} products: use bf16 or \
                 w8"
            )));
        }
        let packed = matrix.pack(self.isa, scheme, &self.team)?;
        self.order.push(&packed, sharing);
        Ok(packed)
    }

    /// Memory with undefined contents.
    pub(super) fn memory(&self) -> Memory {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps memory for later, in the order of size: a forward takes the largest. It would let another one grow to its
    /// size if it took what a readout of few rows left.
    pub(super) fn keep(&self, mut memory: Memory) {
        memory.largest = memory.largest.max(memory.hidden.len());
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE_BUFFERS + self.team.threads() {
            let place = spare.partition_point(|kept| kept.largest <= memory.largest);
            spare.insert(place, memory);
        }
    }

    /// In which numbers attention multiplies.
    pub(super) fn precision(&self) -> Precision {
        if self.scheme.rounds_activations() { Precision::Bf16 } else { Precision::F32 }
    }

    /// How token vectors and the output matrix are kept: rounding them to bytes with the activations would cost most
    /// and gain least.
    pub(super) fn table_scheme(&self) -> Scheme {
        match self.scheme {
            Scheme::Int8 => Scheme::Bf16,
            scheme => scheme,
        }
    }
}

/// Keys and values lose no more than what is multiplied with them, or than the weights that they come from.
pub(super) fn default_kv(scheme: Scheme) -> KvFormat {
    match scheme {
        Scheme::F32 | Scheme::Bf16x3 | Scheme::Bf16x6 => KvFormat::F32,
        Scheme::Bf16 | Scheme::Int8 | Scheme::W8 | Scheme::W4 => KvFormat::Bf16,
    }
}
