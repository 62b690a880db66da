//! `pull`.

use std::io::Write;
use std::path::Path;

use ettin::files::ModelFiles;

use crate::args;
use crate::exit::{Status, Usage};
use crate::nano::Nano;
use crate::output::{Sink, written};
use crate::plan::hub_options;
use crate::say::Notes;

pub(super) fn run(args: args::Pull) -> anyhow::Result<Status> {
    let notes = Notes::new(args.quiet.quiet);
    let options = hub_options(&args.hub, notes);
    let mut sink = Sink::open(None)?;
    for name in &args.models {
        if Nano::named(name, Nano::Encoder).is_some() {
            return Err(Usage::error(format!("{name} is part of this program: there is nothing to download")));
        }
        if Path::new(name).exists() {
            return Err(Usage::error(format!("{name} is here already: there is nothing to download")));
        }
        let files = ettin::hub::resolve(name, args.hub.revision.as_deref(), &options)?;
        files.download()?;
        written(writeln!(sink, "{}", folder(&files)))?;
        written(sink.flush())?;
    }
    sink.finish()?;
    Ok(Status::Done)
}

/// Where the files are now.
fn folder(files: &ModelFiles) -> String {
    let config = files.path_hint("config.json");
    match Path::new(&config).parent() {
        Some(folder) => folder.display().to_string(),
        None => config,
    }
}
