//! Which layer sees what: both dialects' layer patterns, windows and RoPE bases become one entry per layer.

use super::keys::Keys;
use super::{LayerSpec, Objective, Span};
use crate::Result;

/// transformers' defaults, the same for encoders and decoders.
const GLOBAL_THETA: f32 = 160_000.0;
const LOCAL_THETA: f32 = 10_000.0;
const LOCAL_ATTENTION: usize = 128;
const GLOBAL_EVERY: usize = 3;

/// No published window comes near it; it keeps sums of positions far from overflow.
const MAX_WINDOW: usize = 1 << 24;

const FULL: &str = "full_attention";
/// What early files of the newer dialect call it; transformers still reads that.
const FULL_BEFORE: &str = "attention";
const SLIDING: &str = "sliding_attention";

/// The span and RoPE base of each of `count` layers.
pub(super) fn layers(keys: &Keys<'_>, objective: Objective, count: usize) -> Result<Vec<LayerSpec>> {
    let (global_theta, local_theta) = thetas(keys)?;
    let global = LayerSpec { span: objective.global_span(), rope_theta: global_theta };
    let local = LayerSpec { span: objective.local_span(half_window(keys)?), rope_theta: local_theta };
    let every = keys.size("global_attn_every_n_layers", GLOBAL_EVERY, MAX_WINDOW)?;
    let Some(types) = keys.texts("layer_types")? else {
        let layer = |i| if i % every == 0 { global } else { local };
        return Ok((0..count).map(layer).collect());
    };
    if types.len() != count {
        let rule = format!("{} entries do not describe {count} layers (`num_hidden_layers`)", types.len());
        return Err(keys.refuse("layer_types", rule));
    }
    let layer = |name: &&str| match *name {
        FULL | FULL_BEFORE => Ok(global),
        SLIDING => Ok(local),
        other => Err(keys.error(format!("`layer_types` names \"{other}\"; supported: \"{FULL}\", \"{SLIDING}\""))),
    };
    types.iter().map(layer).collect()
}

impl Objective {
    /// What a global layer sees.
    pub fn global_span(self) -> Span {
        Span {
            left: None,
            right: match self {
                Objective::Encoder => None,
                Objective::Decoder => Some(0),
            },
        }
    }

    /// What a local layer of half window `half` (64 in Ettin, at least 1) sees: an encoder `half` to both sides, a
    /// decoder itself and `half − 1` to the left (transformers 5.23 counts the token itself).
    pub fn local_span(self, half: usize) -> Span {
        match self {
            Objective::Encoder => Span { left: Some(half), right: Some(half) },
            Objective::Decoder => Span { left: Some(half.saturating_sub(1)), right: Some(0) },
        }
    }
}

/// Half of the local window. `local_attention` is the whole of it; `sliding_window`, where present, the half, and it
/// counts: transformers sets it last, and saves both when a decoder's window was changed.
fn half_window(keys: &Keys<'_>) -> Result<usize> {
    let whole = keys.size("local_attention", LOCAL_ATTENTION, MAX_WINDOW)?;
    match keys.stated_size("sliding_window", MAX_WINDOW / 2)? {
        Some(half) => Ok(half),
        None if whole < 2 => Err(keys.refuse("local_attention", "supported: 2 or more, the whole width of the window")),
        None => Ok(whole / 2),
    }
}

/// RoPE bases of global and local layers.
fn thetas(keys: &Keys<'_>) -> Result<(f32, f32)> {
    refuse_scaling(keys)?;
    let nested = keys.object("rope_parameters")?;
    if let Some(nested) = &nested
        && let Some(other) = nested.names().find(|name| ![FULL, SLIDING].contains(name))
    {
        let rule = format!("supported: one object each for `{FULL}` and `{SLIDING}`");
        return Err(nested.refuse(other, rule));
    }
    let theta = |layer_type, older_key, default| -> Result<f32> {
        let newer = match &nested {
            Some(nested) => nested.object(layer_type)?.as_ref().map(rope_theta).transpose()?.flatten(),
            None => None,
        };
        let older = keys.positive(older_key)?;
        match (newer, older) {
            (Some(newer), Some(older)) if newer != older => Err(keys.refuse(
                older_key,
                format_args!("`rope_parameters.{layer_type}.rope_theta` says {newer}; one of the two must go"),
            )),
            _ => Ok(newer.or(older).unwrap_or(default)),
        }
    };
    let (global, local) =
        (theta(FULL, "global_rope_theta", GLOBAL_THETA)?, theta(SLIDING, "local_rope_theta", LOCAL_THETA)?);
    match keys.positive("rope_theta")? {
        Some(base) if base != global || base != local => Err(keys.refuse(
            "rope_theta",
            format_args!("this model type has one base per kind of layer, here {global} (global) and {local} (local)"),
        )),
        _ => Ok((global, local)),
    }
}

/// The base of one kind of layer, when its parameters state one.
fn rope_theta(parameters: &Keys<'_>) -> Result<Option<f32>> {
    for name in parameters.names() {
        match name {
            "rope_theta" | "original_max_position_embeddings" => {}
            "rope_type" | "type" | "factor" => refuse_scaled(parameters, name)?,
            "partial_rotary_factor" => refuse_partial(parameters)?,
            other => {
                return Err(parameters.refuse(other, "supported: `rope_type` \"default\" and `rope_theta`"));
            }
        }
    }
    parameters.positive("rope_theta")
}

/// Anything that would stretch or bend the rotary positions.
fn refuse_scaling(keys: &Keys<'_>) -> Result<()> {
    refuse_partial(keys)?;
    let Some(scaling) = keys.object("rope_scaling")? else {
        return Ok(());
    };
    for name in scaling.names() {
        match name {
            "rope_type" | "type" | "factor" => refuse_scaled(&scaling, name)?,
            other => return Err(scaling.refuse(other, "RoPE scaling is not supported")),
        }
    }
    Ok(())
}

/// Refuses `name`, a type or a factor, unless positions stay as they are: linear scaling divides them by its factor.
fn refuse_scaled(keys: &Keys<'_>, name: &str) -> Result<()> {
    let factor = keys.positive("factor")?;
    if name == "factor" {
        return match factor {
            None | Some(1.0) => Ok(()),
            Some(_) => Err(keys.refuse(name, "supported: 1, RoPE scaling by no factor")),
        };
    }
    match keys.text(name)? {
        Some("default") => Ok(()),
        Some("linear") if factor == Some(1.0) => Ok(()),
        _ => Err(keys.refuse(name, "supported: \"default\", or \"linear\" with a `factor` of 1")),
    }
}

fn refuse_partial(keys: &Keys<'_>) -> Result<()> {
    match keys.positive("partial_rotary_factor")? {
        None | Some(1.0) => Ok(()),
        Some(_) => Err(keys.refuse("partial_rotary_factor", "supported: 1, rotation of the whole head")),
    }
}
