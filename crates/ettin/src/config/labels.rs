//! A classifier's labels and what its outputs mean.

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::{Config, ProblemType};
use crate::Result;

/// transformers' `num_labels` where a file says nothing.
const DEFAULT_LABELS: usize = 2;
const MAX_LABELS: usize = 1 << 20;

const LABEL: &str = "a label is a string or a number";

/// Label names by index: `id2label`, or `LABEL_i` for `num_labels` of them.
pub(super) fn labels(keys: &Keys<'_>) -> Result<Vec<String>> {
    let stated = keys.stated_size("num_labels", MAX_LABELS)?;
    let Some(named) = keys.object("id2label")? else {
        return Ok(numbered(stated.unwrap_or(DEFAULT_LABELS)));
    };
    if let Some(key) = named.null() {
        return Err(named.refuse(key, LABEL));
    }
    let count = named.names().count();
    if stated.is_some_and(|stated| stated != count) {
        return Err(keys.refuse("num_labels", format_args!("`id2label` names {count}; one of the two must go")));
    }
    if count == 0 {
        return Err(keys.refuse("id2label", "it names no label"));
    }
    let mut labels = vec![None; count];
    for key in named.names() {
        let slot = key.parse::<usize>().ok().and_then(|index| labels.get_mut(index));
        match (slot, named.get(key).and_then(name)) {
            (Some(slot @ None), Some(name)) => *slot = Some(name),
            (_, None) => return Err(named.refuse(key, LABEL)),
            _ => {
                let rule = format!("{count} labels are numbered 0 to {} without gaps", count - 1);
                return Err(named.refuse(key, rule));
            }
        }
    }
    // `count` keys, each in a slot of its own: none is empty.
    Ok(labels.into_iter().flatten().collect())
}

/// `label2id` in its order, where it says something else than [`numbers`] of the labels. An entry of which the value is
/// no whole number has none.
///
/// transformers writes its own where `id2label` is missing.
pub(super) fn label_ids(keys: &Keys<'_>, labels: &[String]) -> Option<Vec<(String, Option<i64>)>> {
    keys.get("id2label")?;
    let ids = keys.get("label2id")?.as_object()?;
    let said = !ids.iter().eq(numbers(labels).iter());
    said.then(|| ids.iter().map(|(name, id)| (name.clone(), id.as_i64())).collect())
}

/// The `label2id` of labels in order; of several of one name, the last counts.
pub(super) fn numbers(labels: &[String]) -> Map<String, Value> {
    labels.iter().enumerate().map(|(index, label)| (label.clone(), json!(index))).collect()
}

impl Config {
    /// Gives `count` labels numbers for names where the file says nothing of labels, or no more than that.
    pub(crate) fn number_labels(&mut self, count: usize) {
        if (1..=MAX_LABELS).contains(&count) && self.labels == unnamed() {
            self.labels = numbered(count);
        }
    }
}

/// The labels of a model whose file says nothing of them.
pub(super) fn unnamed() -> Vec<String> {
    numbered(DEFAULT_LABELS)
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("LABEL_{i}")).collect()
}

/// A label's name: numbers and booleans (ratings, yes or no) are kept by transformers, and are their JSON here.
fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// `problem_type`, where the file states it; `labels` is how many there are, if that is known.
pub(super) fn problem_type(keys: &Keys<'_>, labels: Option<usize>) -> Result<Option<ProblemType>> {
    match keys.text("problem_type")? {
        None => Ok(None),
        Some("regression") => Ok(Some(ProblemType::Regression)),
        Some("single_label_classification") if labels == Some(1) => {
            Err(keys.refuse("problem_type", "one label alone is a regression or multi-label"))
        }
        Some("single_label_classification") => Ok(Some(ProblemType::SingleLabel)),
        Some("multi_label_classification") => Ok(Some(ProblemType::MultiLabel)),
        Some(_) => Err(keys.refuse(
            "problem_type",
            "supported: \"regression\", \"single_label_classification\", \"multi_label_classification\"",
        )),
    }
}
