//! Which models do which workloads: what was typed, and what is at hand.

use std::path::Path;

use ettin::config::Objective;
use ettin::hub::{HubOptions, cached};
use ettin::suite::{Entry, Suite};
use ettin_bench::{Source, Subject, Workload};

use crate::args::{self, AdapterArgs, Bench, ModelArgs};
use crate::exit::Usage;
use crate::nano::Nano;
use crate::plan::{Model, Suited, hub_options};
use crate::say::Notes;

/// What is measured when no model is named: the smallest of each kind, which takes seconds.
const DEFAULT: [&str; 2] = ["encoder-17m", "decoder-17m"];

/// The models with their workloads; the ones that can do nothing of what was asked are left out, and it is said.
pub(super) fn resolve(args: &Bench, notes: Notes) -> anyhow::Result<Vec<Subject>> {
    let typed: Vec<&str> = args.models.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> = if args.suite {
        let mut kinds: Vec<&Entry> = Suite::get().iter().filter(|entry| !entry.is_cross_objective()).collect();
        // Small ones first: what a large one leaves in the allocator would count as the memory of the next.
        kinds.sort_by_key(|entry| entry.dimensions().parameters);
        kinds.into_iter().map(Entry::name).collect()
    } else if typed.is_empty() {
        DEFAULT.to_vec()
    } else {
        typed
    };
    let options = hub_options(&args.hub, notes);
    let mut subjects = Vec::new();
    for name in names {
        subjects.extend(named(name, args, &options, notes)?);
    }
    let random: Vec<&str> = subjects
        .iter()
        .filter(|subject| matches!(subject.source, Source::Random))
        .map(|subject| subject.name.as_str())
        .collect();
    if !random.is_empty() && !args.random_weights {
        notes.note(format_args!(
            "random weights for {}, not cached (`ettin-run pull` fetches them); times are the same",
            random.join(", ")
        ));
    }
    for subject in &mut subjects {
        subject.workloads = workloads(args, subject.config.objective);
        if subject.workloads.is_empty() {
            notes.note(format_args!("{} is left out: pp and tg need a decoder", subject.name));
        }
    }
    subjects.retain(|subject| !subject.workloads.is_empty());
    if subjects.is_empty() {
        return Err(Usage::error("no model is left to measure: pp and tg need a decoder, and enc is for encoders"));
    }
    Ok(subjects)
}

/// The model or models of one name.
fn named(name: &str, args: &Bench, options: &HubOptions, notes: Notes) -> anyhow::Result<Vec<Subject>> {
    let is_path = Path::new(name).exists();
    let nanos: Vec<Nano> = match Nano::named(name, Nano::Encoder) {
        _ if is_path => Vec::new(),
        Some(_) if name == "nano" => Nano::ALL.to_vec(),
        nano => nano.into_iter().collect(),
    };
    let files = if !nanos.is_empty() {
        nanos.into_iter().map(Nano::files).collect()
    } else {
        let (bare, revision) = match name.split_once('@') {
            Some((bare, revision)) => (bare, Some(revision)),
            None => (name, args.hub.revision.as_deref()),
        };
        if let Some(entry) = Suite::get().find(bare).filter(|_| !is_path) {
            // A benchmark fetches nothing that it can do without.
            let complete = cached(entry, revision, options).is_some_and(|cached| cached.complete);
            if args.random_weights || !complete {
                return Ok(vec![Subject::random(entry, Vec::new())?]);
            }
        }
        let model = ModelArgs { model: Some(name.to_owned()), adapters: AdapterArgs::default(), hub: args.hub.clone() };
        vec![Model::resolve(&model, Suited::Nano(Nano::Encoder), notes)?.open(notes)?]
    };
    let subject = |files| {
        let mut subject = Subject::files(files, Vec::new())?;
        if args.random_weights {
            subject.source = Source::Random;
        }
        Ok(subject)
    };
    files.into_iter().map(subject).collect()
}

/// What a model of that objective does: of what was asked for all that it can, else what suits it.
fn workloads(args: &Bench, objective: Objective) -> Vec<Workload> {
    let asked = !args.enc.is_empty() || args.mixed.is_some() || args.pp.is_some() || args.tg.is_some();
    let decoder = objective == Objective::Decoder;
    let enc = args.enc.iter().flat_map(|shapes| shapes.0.iter().copied());
    let mut workloads: Vec<Workload> = if asked || decoder {
        enc.collect()
    } else {
        [(1, 128), (8, 128), (1, 512)].map(|(batch, length)| Workload::Encode { batch, length }).to_vec()
    };
    let list = |numbers: &Option<args::Numbers>, default: usize| match numbers {
        Some(numbers) => numbers.0.clone(),
        None if asked => Vec::new(),
        None => vec![default],
    };
    workloads.extend(args.mixed.iter().flat_map(|texts| &texts.0).map(|&texts| Workload::Mixed { texts }));
    if decoder {
        for &depth in &args.depth.0 {
            for &batch in &args.batch.0 {
                let reads = list(&args.pp, 512).into_iter().map(|tokens| Workload::Prefill { tokens, batch, depth });
                workloads.extend(reads);
                let grows = list(&args.tg, 32).into_iter().map(|tokens| Workload::Decode { tokens, batch, depth });
                workloads.extend(grows);
            }
        }
    }
    workloads
}

/// Where a model's weights come from, in a word.
pub(super) fn origin(subject: &Subject) -> &'static str {
    match subject.source {
        Source::Files(_) => "files",
        Source::Random => "random weights",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn tests_of(arguments: &[&str], objective: Objective) -> Vec<String> {
        match parse(["ettin-run", "bench"].iter().chain(arguments)).unwrap().command {
            Command::Bench(args) => workloads(&args, objective).iter().map(Workload::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_kind_has_its_own_by_default() {
        assert_eq!(tests_of(&[], Objective::Encoder), ["enc 1×128", "enc 8×128", "enc 1×512"]);
        assert_eq!(tests_of(&[], Objective::Decoder), ["pp512", "tg32"]);
        let batches = tests_of(&["-b", "1,8", "-d", "0,64"], Objective::Decoder);
        assert_eq!(
            batches,
            ["pp512", "tg32", "pp512 ×8", "tg32 ×8", "pp512 @ d64", "tg32 @ d64", "pp512 ×8 @ d64", "tg32 ×8 @ d64"]
        );
    }

    #[test]
    fn asked_for_is_all_that_is_done() {
        assert_eq!(tests_of(&["-n", "8"], Objective::Encoder), [""; 0]);
        assert_eq!(tests_of(&["-n", "8"], Objective::Decoder), ["tg8"]);
        for objective in [Objective::Encoder, Objective::Decoder] {
            assert_eq!(tests_of(&["--enc", "2x16", "--mixed", "9"], objective), ["enc 2×16", "mixed 9"]);
        }
    }
}
