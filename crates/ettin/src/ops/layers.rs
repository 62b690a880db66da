//! Single layers whose backend is not known by type: what heads outside the trunk are made of.

use std::{fmt, sync::Arc};

use super::{Compute, Hidden, LinearParams, NormParams, compute::refuse_training, hidden::check_size};
use crate::Result;

/// A dense layer `x · Wᵀ + b`; [`Backend::linear`](crate::Backend::linear) makes one.
#[derive(Debug)]
pub struct Linear {
    layer: Box<dyn BoundLayer>,
    inputs: usize,
}

/// Layer normalisation (weight, optional bias); [`Backend::norm`](crate::Backend::norm) makes one.
#[derive(Debug)]
pub struct Norm {
    layer: Box<dyn BoundLayer>,
    size: usize,
}

/// A dense layer on every row.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) for rows of another size than the layer's inputs.
pub fn linear(hidden: &Hidden, linear: &Linear) -> Result<Hidden> {
    check_size(hidden, linear.inputs)?;
    linear.layer.forward(hidden)
}

/// Normalises every row.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) for rows of another size than the norm's.
pub fn norm(hidden: &Hidden, norm: &Norm) -> Result<Hidden> {
    check_size(hidden, norm.size)?;
    norm.layer.forward(hidden)
}

impl Linear {
    pub(crate) fn new<C: Compute>(compute: Arc<C>, params: LinearParams<'_>) -> Result<Self> {
        params.check()?;
        refuse_training(&*compute, params.is_trainable())?;
        let inputs = params.weight.inputs();
        let linear = compute.linear(params)?;
        Ok(Self { layer: Box::new(BoundLinear { compute, linear }), inputs })
    }
}

impl Norm {
    pub(crate) fn new<C: Compute>(compute: Arc<C>, params: NormParams) -> Result<Self> {
        let size = params.check()?;
        refuse_training(&*compute, params.is_trainable())?;
        let norm = compute.norm(params)?;
        Ok(Self { layer: Box::new(BoundNorm { compute, norm }), size })
    }
}

/// A layer with what computes it.
trait BoundLayer: fmt::Debug + Send + Sync {
    fn forward(&self, hidden: &Hidden) -> Result<Hidden>;
}

#[derive(Debug)]
struct BoundLinear<C: Compute> {
    compute: Arc<C>,
    linear: C::Linear,
}

impl<C: Compute> BoundLayer for BoundLinear<C> {
    fn forward(&self, hidden: &Hidden) -> Result<Hidden> {
        hidden.within(&*self.compute, |own| Ok(Hidden::new(self.compute.apply_linear(own, &self.linear)?)))
    }
}

#[derive(Debug)]
struct BoundNorm<C: Compute> {
    compute: Arc<C>,
    norm: C::Norm,
}

impl<C: Compute> BoundLayer for BoundNorm<C> {
    fn forward(&self, hidden: &Hidden) -> Result<Hidden> {
        hidden.within(&*self.compute, |own| Ok(Hidden::new(self.compute.apply_norm(own, &self.norm)?)))
    }
}
