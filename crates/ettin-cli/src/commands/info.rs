//! `info`: a doctor for this machine and this binary, and a description of a model.

mod machine;
mod model;

use serde::Serialize;

use crate::args;
use crate::exit::Status;
use crate::nano::Nano;
use crate::output::{Answered, Payload, Printer};
use crate::plan::{Model, Output, Suited, hub_options, set_threads};

pub(super) fn run(args: args::Info) -> anyhow::Result<Status> {
    let output = Output::resolve(&args.output);
    set_threads(args.engine.threads)?;
    let hub = hub_options(&args.model.hub, output.notes);
    let asked = args
        .model
        .model
        .as_deref()
        .is_some_and(|name| !name.is_empty());
    let model = if asked {
        let model = Model::resolve(&args.model, Suited::Nano(Nano::Encoder), output.notes)?;
        Some(model::Model::read(&model.open(output.notes)?)?)
    } else {
        None
    };
    let info = Info {
        machine: machine::Machine::look(&args.engine, &hub)?,
        model,
    };
    let mut printer = Printer::new(output.open()?, output.format, false);
    printer.print(&[(0, Answered::plain(info))])?;
    printer.finish()?;
    Ok(Status::Done)
}

/// Everything there is to say.
#[derive(Serialize)]
struct Info {
    #[serde(flatten)]
    machine: machine::Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<model::Model>,
}

impl Payload for Info {
    const LIST: bool = false;
    const HEADS: &'static [&'static str] = &[];

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = self.machine.rows();
        rows.extend(self.model.iter().flat_map(model::Model::rows));
        rows.into_iter()
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect()
    }
}
