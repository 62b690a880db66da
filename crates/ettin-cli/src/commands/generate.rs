//! `generate`.

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ettin::generate::{FinishReason, GenerateRequest, Piece, Sampling, draw_seed};
use ettin::tasks::{Drafted, Generated, Generator, Options, Outcomes, Timings};

use super::driver::{self, Numbered};
use super::stream::Stream;
use crate::args::{self, DraftChoice, SamplingArgs};
use crate::exit::Status;
use crate::input::{self, Prompt};
use crate::nano::Nano;
use crate::output::{Format, Payload, shortened, written};
use crate::plan::{Plan, Suited};
use crate::say::Notes;

pub(super) fn run(args: args::Generate) -> anyhow::Result<Status> {
    let texts = input::texts(args.prompt, &args.run.input, "PROMPT", Prompt::new)?;
    let plan = Plan::new(&args.run, Suited::Nano(Nano::Decoder))?;
    let job = plan.open()?;
    let mut task = Generator::load(&job.files, &plan.options)?;
    if let Some(choice) = &args.speculation.draft {
        task = match choice {
            DraftChoice::Lookup => task.with_lookup(),
            DraftChoice::Format(dtype) => {
                task.with_draft_model(&job.files, &Options { dtype: *dtype, ..plan.options.clone() })?
            }
            DraftChoice::Model(name) => {
                let files = plan.second_model(name, &args.run.model.hub, Suited::Nano(Nano::Decoder))?;
                task.with_draft_model(&files, &plan.options)?
            }
        };
    }
    let task = driver::until_exit(task);
    let mut request = GenerateRequest {
        max_new_tokens: args.max_new_tokens.get(),
        sampling: sampling(&args.sampling),
        stop: args.stop,
        ignore_eos: args.ignore_eos,
        bos: !args.no_bos,
        draft_tokens: args.speculation.draft_tokens,
        ..GenerateRequest::default()
    };
    let notes = plan.output.notes;
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

/// One call: all prompts of a chunk, their text shown by `show` as it comes. The request is then that of the next chunk.
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
            "{prompt_tokens} prompt tokens at {:.1} tokens/s, {generated_tokens} generated at {:.1} tokens/s, finished by {}",
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

/// What the flags ask for. A cut of the distribution without a temperature samples at temperature 1.
fn sampling(args: &SamplingArgs) -> Sampling {
    let cut = args.top_k.is_some() || args.top_p.is_some() || args.min_p.is_some();
    Sampling {
        temperature: args.temperature.unwrap_or(if cut { 1.0 } else { 0.0 }),
        top_k: args.top_k.map(NonZeroUsize::get),
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty.unwrap_or(1.0),
        seed: args.seed,
    }
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
        let sampled = |flags: &[&str]| {
            let mut arguments = vec!["ettin-run", "generate", "x"];
            arguments.extend(flags);
            match parse(arguments).unwrap().command {
                Command::Generate(args) => sampling(&args.sampling).temperature,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(sampled(&[]), 0.0);
        assert_eq!(sampled(&["--seed", "1", "--repetition-penalty", "1.2"]), 0.0);
        assert_eq!(sampled(&["--top-p", "0.9"]), 1.0);
        assert_eq!(sampled(&["--min-p", "0.1", "--temperature", "0"]), 0.0);
        assert_eq!(sampled(&["--temperature", "0.7"]), 0.7);
    }
}
