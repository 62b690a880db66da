//! `info`: a doctor for this machine and this binary, and a description of a model, or a check of it.

mod check;
mod foreign;
mod lookup;
mod machine;
mod model;

use std::io::{self, Write};

use ettin::tasks::Profile;
use serde::Serialize;

use crate::args;
use crate::exit::{ClosedPipe, Status, Usage};
use crate::nano::Nano;
use crate::output::{Format, line, table, written};
use crate::plan::{Model, Output, Suited, hub_options, set_threads};

pub(super) fn run(args: args::Info) -> anyhow::Result<Status> {
    let output = Output::resolve(&args.output);
    set_threads(args.engine.threads)?;
    let hub = hub_options(&args.model.hub, output.notes);
    let asked = args.model.model.as_deref().is_some_and(|name| !name.is_empty());
    if args.check && !asked {
        return Err(Usage::error("--check needs a model: choose one with --model"));
    }
    // Before the work: a place that cannot be written to is told at once.
    let mut sink = output.open()?;
    let mut check = None;
    let model = if asked {
        let model = Model::resolve(&args.model, Suited::Nano(Nano::Encoder), output.notes)?;
        let files = model.open(output.notes)?;
        if args.check {
            check = Some(check::Check::run(&files, &args.engine, output.notes)?);
        }
        Some(match foreign::Other::read(&files)? {
            Some(other) => Description::Other(other),
            None => {
                let mut profile = Profile::read(&files)?;
                match profile.config.take() {
                    Some(config) => Description::Model(Box::new(model::ModelRecord::read(&files, profile, config)?)),
                    None => Description::Lookup(Box::new(lookup::LookupRecord::read(&files, profile)?)),
                }
            }
        })
    } else {
        None
    };
    let info = InfoRecord {
        machine: machine::Machine::look(&args.engine, &hub, model.as_ref().and_then(Description::quantization))?,
        model,
        check,
    };
    // One thing is described, so `json` is an object here and no array.
    let printed = match output.format {
        Format::Table => sink.write_all(table(&[], &info.rows()).as_bytes()),
        Format::Json => pretty(&mut sink, &info),
        _ => line(&mut sink, &info),
    };
    let told = written(printed).and_then(|()| sink.finish());
    match info.check.as_ref().and_then(check::Check::failure) {
        // A reader that has gone away does not turn a failed check into a success.
        Some(failure) if told.as_ref().map_or_else(|error| error.is::<ClosedPipe>(), |_| true) => {
            Ok(Status::CheckFailed(failure.to_owned()))
        }
        _ => told.map(|_| Status::Done),
    }
}

/// Everything there is to say.
#[derive(Serialize)]
struct InfoRecord {
    #[serde(flatten)]
    machine: machine::Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Description>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<check::Check>,
}

/// A model, or what else the name stands for.
#[derive(Serialize)]
#[serde(untagged)]
enum Description {
    Model(Box<model::ModelRecord>),
    Lookup(Box<lookup::LookupRecord>),
    Other(foreign::Other),
}

impl Description {
    fn quantization(&self) -> Option<ettin::Quantization> {
        match self {
            Description::Model(model) => model.quantization(),
            Description::Lookup(_) | Description::Other(_) => None,
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        match self {
            Description::Model(model) => model.rows(),
            Description::Lookup(model) => model.rows(),
            Description::Other(other) => other.rows(),
        }
    }
}

impl InfoRecord {
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = self.machine.rows();
        rows.extend(self.model.iter().flat_map(Description::rows));
        rows.extend(self.check.iter().flat_map(check::Check::rows));
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
    }
}

fn pretty(out: &mut impl Write, info: &InfoRecord) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, info)?;
    out.write_all(b"\n")
}
