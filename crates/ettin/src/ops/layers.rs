//! Single layers whose backend is not known by type: what heads outside the trunk are made of.

use std::{fmt, sync::Arc};

use super::{Compute, Hidden, LinearParams, NormParams, compute::refuse_training};
use crate::Result;

/// A dense layer `x · Wᵀ + b`; [`Backend::linear`](crate::Backend::linear) makes one.
#[derive(Debug)]
pub struct Linear(Box<dyn BoundLayer>);

/// Layer normalisation (weight, optional bias); [`Backend::norm`](crate::Backend::norm) makes one.
#[derive(Debug)]
pub struct Norm(Box<dyn BoundLayer>);

/// A dense layer on every row.
pub fn linear(hidden: &Hidden, linear: &Linear) -> Result<Hidden> {
    linear.0.forward(hidden)
}

/// Normalises every row.
pub fn norm(hidden: &Hidden, norm: &Norm) -> Result<Hidden> {
    norm.0.forward(hidden)
}

impl Linear {
    pub(crate) fn new<C: Compute>(compute: Arc<C>, params: LinearParams<'_>) -> Result<Self> {
        refuse_training(&*compute, params.is_trainable())?;
        let linear = compute.linear(params)?;
        Ok(Self(Box::new(BoundLinear { compute, linear })))
    }
}

impl Norm {
    pub(crate) fn new<C: Compute>(compute: Arc<C>, params: NormParams) -> Result<Self> {
        refuse_training(&*compute, params.is_trainable())?;
        let norm = compute.norm(params)?;
        Ok(Self(Box::new(BoundNorm { compute, norm })))
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
