//! `convert`.

use std::path::Path;

use anyhow::Context;
use ettin::identity;
use ettin::weights::{self, ConvertOptions, StoredDtype};

use crate::args;
use crate::exit::{Status, Usage};
use crate::nano::Nano;
use crate::plan::{hub_options, with_adapters};
use crate::progress;
use crate::say::Notes;

pub(super) fn run(args: args::Convert) -> anyhow::Result<Status> {
    let notes = Notes::new(args.quiet.quiet);
    refuse_full(&args.output)?;
    let nano = if Path::new(&args.model).exists() { None } else { Nano::named(&args.model, Nano::Encoder) };
    let hub = hub_options(&args.hub, notes);
    let files = match nano {
        Some(nano) => nano.files(),
        None => ettin::hub::resolve(&args.model, args.hub.revision.as_deref(), &hub)?,
    };
    let files = with_adapters(files, &args.adapters, &hub)?;
    let dtype = match args.dtype {
        args::StoredDtype::F32 => StoredDtype::F32,
        args::StoredDtype::F16 => StoredDtype::F16,
        args::StoredDtype::Bf16 => StoredDtype::BF16,
        args::StoredDtype::W8 => StoredDtype::W8,
        args::StoredDtype::W4 => StoredDtype::W4,
    };
    if let Some(told) = identity::before_conversion(&files)? {
        notes.note(told);
    }
    let bar = progress::spinner(notes, format!("converting {}", files.name()));
    let options = ConvertOptions::default().with_dtype(dtype).with_strip_prefix(args.strip_prefix.as_deref());
    let converted = weights::convert(&files, &args.output, options, &mut |file| {
        if let Some(bar) = &bar {
            bar.set_message(format!("writing {file}"));
        }
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let converted = converted.map_err(|error| identity::explained(&files, error))?;
    for name in &converted.dropped {
        notes.note(format_args!("{name} repeats another tensor and is stored once"));
    }
    notes.plain(format_args!(
        "{}: {} tensors, {} parameters in {}",
        args.output.display(),
        converted.tensors,
        converted.parameters,
        dtype.name()
    ));
    Ok(Status::Done)
}

/// Converting onto something else could mix two models, or destroy the one that is read.
fn refuse_full(folder: &Path) -> anyhow::Result<()> {
    let full = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write into {}", folder.display()));
        }
    };
    if full {
        return Err(Usage::error(format!("--output {}: the folder is not empty; choose a new one", folder.display())));
    }
    Ok(())
}
