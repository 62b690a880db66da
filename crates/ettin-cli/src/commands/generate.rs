//! `generate`.

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ettin::generate::{FinishReason, GenerateRequest, GenerationDefaults, Piece, Sampling, draw_seed};
use ettin::tasks::{Drafted, Generated, Generator, Outcomes, Timings};

use super::driver::{self, Numbered};
use super::stream::Stream;
use crate::args::{self, DraftChoice, SamplingArgs};
use crate::exit::Status;
use crate::input::{self, Prompt};
use crate::nano::Nano;
use crate::output::{Format, Payload, shortened, written};
use crate::plan::{self, Plan, Suited};
use crate::say::Notes;

pub(super) fn run(mut args: args::Generate) -> anyhow::Result<Status> {
    let texts = input::texts(std::mem::take(&mut args.prompt), &plan::input(&args.run.input), "PROMPT", Prompt::new)?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Decoder))?;
    let job = plan.open()?;
    let notes = plan.output.notes;
    let defaults = match args.ignore_generation_config {
        true => GenerationDefaults::default(),
        false => GenerationDefaults::load(&job.files)?.without(&replaced(&args)),
    };
    let mut request = requested(&args, &defaults)?;
    let mut task = Generator::load(&job.files, &plan.options)?;
    if let Some(choice) = &args.speculation.draft {
        task = match choice {
            DraftChoice::Lookup => task.with_lookup(),
            DraftChoice::Format(dtype) => {
                task.with_draft_model(&job.files, &plan.options.clone().with_dtype(*dtype))?
            }
            DraftChoice::Model(name) => {
                let files = plan.second_model(name, &args.run.model.hub, Suited::Nano(Nano::Decoder))?;
                task.with_draft_model(&files, &plan.options)?
            }
        };
    }
    let task = driver::until_exit(task);
    request.eos = args.ignore_generation_config.then(|| task.tokenizer().special().eos_of_model.clone());
    told(&defaults, request.sampling.temperature > 0.0, notes);
    if request.sampling.temperature > 0.0 && request.sampling.seed.is_none() {
        // One for all calls, and told before anything can be interrupted.
        let seed = draw_seed();
        request.sampling.seed = Some(seed);
        notes.note(format_args!("sampled with --seed {seed}"));
    }
    let size = plan.chunk_size();
    let streaming = plan.output.format == Format::Table;
    let mut sink = job.sink;
    if !streaming {
        return driver::answer(texts, size, &plan.output, sink, |records| {
            generate(task, &mut request, &prompts(records), notes, |_| Ok(()))
        });
    }
    let run = |records: &[Numbered<'_, Prompt>]| {
        let prompts = prompts(records);
        let mut stream = Stream::new(&mut sink, &prompts);
        let outcomes = generate(task, &mut request, &prompts, notes, |piece| stream.piece(&piece))?;
        written(stream.finish())?;
        Ok(outcomes)
    };
    // The text has been seen as it came.
    let status = driver::each_chunk(texts, size, &plan.output, run, |_| Ok(()))?;
    sink.finish()?;
    Ok(status)
}

/// One call: all prompts of a chunk, their text shown by `show` as it comes. The request is then that of the next
/// chunk.
fn generate(
    task: &Generator,
    request: &mut GenerateRequest,
    prompts: &[&str],
    notes: Notes,
    mut show: impl FnMut(Piece<'_>) -> io::Result<()>,
) -> anyhow::Result<Outcomes<Generated>> {
    let started = Instant::now();
    let mut failure = None;
    let generations = task.run(prompts, request, &mut |piece| match show(piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        written(Err(error))?;
    }
    // Random numbers go by a prompt's number among all, so that the time at which prompts arrive changes nothing.
    request.first_index += prompts.len();
    let outputs: Vec<&Generated> =
        generations.outputs.iter().filter_map(|outcome| Some(&outcome.as_ref().ok()?.value)).collect();
    notes.note(speed(&outputs, started.elapsed()));
    if let Some(line) = acceptance(&outputs) {
        notes.note(line);
    }
    Ok(generations.outputs)
}

/// How fast it was: phase by phase for one prompt, in all for several that shared the time.
fn speed(outputs: &[&Generated], elapsed: Duration) -> String {
    let rate = |tokens: usize, ms: f64| tokens as f64 / (ms / 1e3).max(1e-9);
    if let [one] = outputs {
        let Timings { prompt_tokens, prompt_ms, generated_tokens, generate_ms, .. } = one.timings;
        // The first token comes with the prompt's logits.
        let steps = generated_tokens.saturating_sub(1);
        return format!(
            "{prompt_tokens} prompt tokens at {:.1} tokens/s, {generated_tokens} generated at {:.1} tokens/s, finished \
             by {}",
            rate(prompt_tokens, prompt_ms),
            rate(steps, generate_ms),
            finish(one.finish_reason),
        );
    }
    let generated: usize = outputs.iter().map(|output| output.timings.generated_tokens).sum();
    let ms = elapsed.as_secs_f64() * 1e3;
    format!("{} prompts, {generated} tokens generated at {:.1} tokens/s in all", outputs.len(), rate(generated, ms))
}

/// What guessing ahead was good for, where there was a draft.
fn acceptance(outputs: &[&Generated]) -> Option<String> {
    let drafts: Vec<Drafted> = outputs.iter().filter_map(|output| output.timings.draft).collect();
    let drafted: usize = drafts.iter().map(|draft| draft.drafted_tokens).sum();
    let accepted: usize = drafts.iter().map(|draft| draft.accepted_tokens).sum();
    (!drafts.is_empty()).then(|| {
        let share = 100.0 * accepted as f64 / drafted.max(1) as f64;
        format!("{accepted} of {drafted} drafted tokens accepted ({share:.0} %)")
    })
}

/// The contract's word for it.
fn finish(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Eos => "eos",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Context => "context",
        FinishReason::Cancelled => "cancelled",
    }
}

/// Says what of the model's files is obeyed, as it changes what flags alone would give.
fn told(defaults: &GenerationDefaults, sampled: bool, notes: Notes) {
    let settings: Vec<String> = defaults.settings_for(sampled).map(|(key, value)| format!("{key} = {value}")).collect();
    if !settings.is_empty() {
        let (file, settings) = (defaults.file(), settings.join(", "));
        notes.note(format_args!("{file}: {settings} (flags win; --ignore-generation-config leaves it out)"));
    }
    let unknown: Vec<&str> = defaults.unknown().collect();
    if !unknown.is_empty() {
        notes.note(format_args!("{}: unknown keys, passed over: {}", defaults.file(), unknown.join(", ")));
    }
}

/// Keys of the files that flags take the place of, so that their values there do not count, not even as errors.
fn replaced(args: &args::Generate) -> Vec<&'static str> {
    let SamplingArgs { temperature, top_k, top_p, min_p, repetition_penalty, .. } = &args.sampling;
    let keys: [(bool, &[&str]); 9] = [
        (args.max_new_tokens.is_some(), &["max_new_tokens", "max_length"]),
        (!args.stop.is_empty(), &["stop_strings"]),
        (args.ignore_eos, &["eos_token_id"]),
        (temperature.is_some(), &["temperature"]),
        // Greedy whatever the files say.
        (*temperature == Some(0.0), &["do_sample"]),
        (top_k.is_some(), &["top_k"]),
        (top_p.is_some(), &["top_p"]),
        (min_p.is_some(), &["min_p"]),
        (repetition_penalty.is_some(), &["repetition_penalty"]),
    ];
    keys.iter().filter(|(given, _)| *given).flat_map(|(_, keys)| keys.iter().copied()).collect()
}

/// What the flags ask for, on top of what the model's files do, [without](replaced) what they take the place of.
fn requested(args: &args::Generate, defaults: &GenerationDefaults) -> anyhow::Result<GenerateRequest> {
    let base = defaults.request()?;
    let (max_new_tokens, max_length) = match args.max_new_tokens {
        Some(tokens) => (tokens.get(), None),
        None => (base.max_new_tokens, base.max_length),
    };
    let sampling = sampling(&args.sampling, &base.sampling, || Ok(defaults.sampled()?))?;
    let stop = if args.stop.is_empty() { base.stop.clone() } else { args.stop.clone() };
    Ok(base
        .with_max_new_tokens(max_new_tokens)
        .with_max_length(max_length)
        .with_sampling(sampling)
        .with_stop(stop)
        .with_ignore_eos(args.ignore_eos)
        .with_bos(!args.no_bos)
        .with_draft_tokens(args.speculation.draft_tokens))
}

/// A cut of the distribution without a temperature samples at that of the files, or at 1, and with the files' other
/// cuts, which are `sampled`.
fn sampling(
    args: &SamplingArgs,
    base: &Sampling,
    sampled: impl FnOnce() -> anyhow::Result<Sampling>,
) -> anyhow::Result<Sampling> {
    let cut = args.top_k.is_some() || args.top_p.is_some() || args.min_p.is_some();
    let mut sampling = match (args.temperature, base.temperature > 0.0) {
        (Some(0.0), _) => Sampling::default().with_repetition_penalty(base.repetition_penalty),
        (temperature, false) if temperature.is_some() || cut => sampled()?,
        _ => base.clone(),
    };
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = args.top_k.map(NonZeroUsize::get).or(sampling.top_k);
    sampling.top_p = args.top_p.or(sampling.top_p);
    sampling.min_p = args.min_p.or(sampling.min_p);
    sampling.repetition_penalty = args.repetition_penalty.unwrap_or(sampling.repetition_penalty);
    sampling.seed = args.seed;
    Ok(sampling)
}

fn prompts<'a>(records: &[Numbered<'a, Prompt>]) -> Vec<&'a str> {
    records.iter().map(|(_, record)| record.prompt.as_str()).collect()
}

impl Payload for Generated {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["prompt", "text", "tokens", "finish_reason", "timings", "truncated"];
    const HEADS: &'static [&'static str] = &["prompt", "text", "finish_reason"];

    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![shortened(&self.prompt), shortened(&self.text), finish(self.finish_reason).into()]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    #[test]
    fn greedy_unless_asked() {
        let base = Sampling::default();
        let sampled = |flags: &[&str]| {
            let mut arguments = vec!["ettin-run", "generate", "x"];
            arguments.extend(flags);
            match parse(arguments).unwrap().command {
                Command::Generate(args) => {
                    sampling(&args.sampling, &base, || Ok(base.clone().with_temperature(1.0))).unwrap().temperature
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(sampled(&[]), 0.0);
        assert_eq!(sampled(&["--seed", "1", "--repetition-penalty", "1.2"]), 0.0);
        assert_eq!(sampled(&["--top-p", "0.9"]), 1.0);
        assert_eq!(sampled(&["--min-p", "0.1", "--temperature", "0"]), 0.0);
        assert_eq!(sampled(&["--temperature", "0.7"]), 0.7);
    }

    #[test]
    fn flags_win_over_the_models_files() {
        let files = Sampling::default()
            .with_temperature(0.5)
            .with_top_k(Some(50))
            .with_top_p(Some(0.8))
            .with_repetition_penalty(2.0);
        let greedy = Sampling::default().with_repetition_penalty(2.0);
        let asked = |base: &Sampling, flags: &[&str]| {
            let mut arguments = vec!["ettin-run", "generate", "x"];
            arguments.extend(flags);
            match parse(arguments).unwrap().command {
                Command::Generate(args) => sampling(&args.sampling, base, || Ok(files.clone())).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        for base in [&files, &greedy] {
            assert_eq!(asked(base, &[]), *base);
            assert_eq!(asked(base, &["--temperature", "0"]), greedy);
            assert_eq!(asked(base, &["--temperature", "0.9"]), files.clone().with_temperature(0.9));
            assert_eq!(asked(base, &["--top-p", "1"]), files.clone().with_top_p(Some(1.0)));
            let unpenalised = base.clone().with_repetition_penalty(1.0);
            assert_eq!(asked(base, &["--repetition-penalty", "1"]), unpenalised);
        }
    }
}
