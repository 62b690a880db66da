//! `bench`.

mod subjects;
mod writer;

use std::fmt;
use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use ettin_bench::{self as bench, Baseline, Build, Event, Machine, Plan, Settings};

use crate::args;
use crate::device;
use crate::exit::Status;
use crate::output::{Sink, written};
use crate::plan::device_name;
use crate::progress::spinner;
use crate::say::{self, Notes};

use writer::Writer;

/// The commit that this binary was built from; see `build.rs`.
const COMMIT: Option<&str> = option_env!("ETTIN_COMMIT");

pub(super) fn run(args: args::Bench) -> anyhow::Result<Status> {
    let notes = Notes::new(args.quiet.quiet);
    let baseline = args.compare.as_deref().map(read_baseline).transpose()?;
    let plan = plan(&args, notes)?;
    say::plan(&Described(&plan));
    plan.check()?;
    if let Some(baseline) = &baseline {
        baseline.check(&plan)?;
        if let lacking @ [_, ..] = &baseline.lacks(&plan)[..] {
            notes.note(format_args!("the earlier run has nothing to compare with {}", lacking.join(", ")));
        }
    }
    let plot = args.plot.as_deref().map(|path| Sink::open(Some(path))).transpose()?;
    let mut writer = Writer::open(args.format, args.output.as_deref())?;
    warn(notes);

    let progress = spinner(notes, String::new());
    let (mut records, mut failure) = (Vec::new(), None);
    bench::run(&plan, &Build::new(COMMIT), &mut |event| match event {
        Event::Begins(model, test) => {
            if let Some(bar) = &progress {
                bar.set_message(format!("{model}: {test}"));
            }
            ControlFlow::Continue(())
        }
        Event::Measured(record) => {
            let mut record = record.clone();
            record.earlier = baseline.as_ref().and_then(|baseline| baseline.find(&record));
            let mut write = || writer.record(&record);
            let result = match &progress {
                Some(bar) => bar.suspend(write),
                None => write(),
            };
            records.push(record);
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        }
    })?;
    if let Some(bar) = progress {
        bar.finish_and_clear();
    }
    if let Some(error) = failure {
        return Err(error);
    }
    writer.finish(&records)?;
    let unsure = records.iter().filter(|record| record.limit.as_ref().is_some_and(|limit| !limit.trusted)).count();
    if unsure > 0 {
        notes.note(format_args!(
            "{unsure} of the rows were faster than the limit that was measured for them, again and again (`unsure`): \
             something else took the machine's time then; measure on an idle one"
        ));
    }
    if let Some(mut sink) = plot {
        written(sink.write_all(bench::plot(&records).as_bytes()))?;
        sink.finish()?;
    }
    if args.chart {
        say::asked(bench::chart(&records, terminal_width()).trim_end());
    }
    Ok(Status::Done)
}

fn plan(args: &args::Bench, notes: Notes) -> anyhow::Result<Plan> {
    let device = device::resolve(args.device, notes)?;
    let defaults = Settings::default();
    Ok(Plan {
        subjects: subjects::resolve(args, notes)?,
        device_name: device_name(&device),
        device,
        dtypes: args.dtype.clone(),
        threads: args.threads.as_ref().map(|threads| threads.0.clone()).unwrap_or_default(),
        settings: Settings {
            repetitions: args.repetitions.get(),
            warmup: args.warmup,
            min_time: args.min_time,
            batch_tokens: args.batch_tokens.map_or(defaults.batch_tokens, NonZeroUsize::get),
            limits: !args.no_limits,
        },
    })
}

fn read_baseline(path: &Path) -> anyhow::Result<Baseline> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Baseline::parse(&text, &path.display().to_string())?)
}

/// What makes times worthless, said before any are taken.
fn warn(notes: Notes) {
    if cfg!(debug_assertions) {
        notes.note("this is a debug build: its times say nothing; build with --release");
    }
    let machine = Machine::look();
    // A core's worth of other work on a larger machine leaves some cores alone; a busy tenth of it disturbs all.
    match machine.load_average {
        Some(load) if load > 0.5 && load > 0.1 * machine.cores as f64 => notes.note(format_args!(
            "the machine was not idle in the last minute (load average {load}): expect times that vary and are too long"
        )),
        _ => {}
    }
}

fn terminal_width() -> usize {
    const ELSEWHERE: usize = 100;
    comfy_table::Table::new().width().map_or(ELSEWHERE, usize::from)
}

/// A plan in words.
struct Described<'a>(&'a Plan);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { subjects, device_name, dtypes, threads, settings, .. } = self.0;
        for subject in subjects {
            let workloads: Vec<String> = subject.workloads.iter().map(ToString::to_string).collect();
            write!(f, "{} ({}): {}; ", subject.name, subjects::origin(subject), workloads.join(", "))?;
        }
        let dtypes: Vec<String> = dtypes.iter().map(ToString::to_string).collect();
        write!(f, "device {device_name}, dtypes {}, threads {threads:?}; {settings:?}", dtypes.join(", "))
    }
}
