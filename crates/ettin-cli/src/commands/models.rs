//! `models`.

use ettin::hub::{Cached, HubOptions, cached};
use ettin::suite::{Entry, Suite};
use serde::Serialize;

use crate::args;
use crate::exit::Status;
use crate::output::{Answered, Payload, Printer};
use crate::plan::Output;

pub(super) fn run(args: args::Models) -> anyhow::Result<Status> {
    let output = Output::resolve(&args.output);
    let mut options = HubOptions::from_env();
    if let Some(cache) = args.cache_dir {
        options.cache = cache;
    }
    let mut printer = Printer::new(output.open()?, output.format, false);
    let rows: Vec<_> = Suite::get()
        .iter()
        .enumerate()
        .map(|(index, entry)| (index, Answered::plain(ModelRow::new(entry, &options))))
        .collect();
    printer.print(&rows)?;
    printer.finish()?;
    output.notes.plain(format_args!("cache: {}", options.cache.display()));
    Ok(Status::Done)
}

/// One model of the suite.
#[derive(Serialize)]
struct ModelRow {
    name: &'static str,
    hub_id: &'static str,
    aliases: &'static [String],
    objective: &'static str,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    parameters: u64,
    cached: Option<InCache>,
}

/// What the cache holds of it.
#[derive(Serialize)]
struct InCache {
    revision: String,
    complete: bool,
    bytes: u64,
}

impl ModelRow {
    fn new(entry: &'static Entry, options: &HubOptions) -> Self {
        let dimensions = entry.dimensions();
        ModelRow {
            name: entry.name(),
            hub_id: entry.hub_id(),
            aliases: entry.aliases(),
            objective: entry.objective().as_str(),
            layers: dimensions.layers,
            hidden: dimensions.hidden,
            intermediate: dimensions.intermediate,
            heads: dimensions.heads,
            parameters: dimensions.parameters,
            cached: cached(entry, None, options).map(InCache::from),
        }
    }
}

impl From<Cached> for InCache {
    fn from(cached: Cached) -> Self {
        InCache { revision: cached.commit, complete: cached.complete, bytes: cached.bytes }
    }
}

impl Payload for ModelRow {
    const LIST: bool = false;
    // No record is behind a row.
    const KEYS: &'static [&'static str] = &[];
    const HEADS: &'static [&'static str] =
        &["name", "layers", "hidden", "intermediate", "heads", "parameters", "cached"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cached = match &self.cached {
            Some(cached) => {
                let part = if cached.complete { "" } else { ", incomplete" };
                let revision: String = cached.revision.chars().take(8).collect();
                format!("{revision} ({} MB{part})", cached.bytes / 1_000_000)
            }
            None => String::new(),
        };
        vec![vec![
            self.aliases.first().map_or(self.name, String::as_str).to_owned(),
            self.layers.to_string(),
            self.hidden.to_string(),
            self.intermediate.to_string(),
            self.heads.to_string(),
            format!("{:.1}M", self.parameters as f64 / 1e6),
            cached,
        ]]
    }
}
