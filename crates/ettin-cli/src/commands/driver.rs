//! What all commands on texts share: inputs in chunks, bad ones reported and left out, results in order.

use ettin::tasks::{Outcome, Outcomes};

use crate::advice;
use crate::exit::Status;
use crate::input::{ChunkSize, Item, Record, Texts};
use crate::output::{Answered, Payload, Printer, Sink};
use crate::plan::Output;
use crate::progress::Inputs;
use crate::say;

/// A good record with its input's number.
pub(super) type Numbered<'a, T> = (usize, &'a T);

/// Outcomes with the numbers of their inputs: the library counts within a call, the contract counts all inputs.
pub(super) fn numbered<V, T>(
    mut outcomes: Outcomes<V>,
    records: &[Numbered<'_, T>],
    index: impl Fn(&mut V) -> &mut usize,
) -> Outcomes<V> {
    for (outcome, (number, _)) in outcomes.iter_mut().zip(records) {
        if let Ok(outcome) = outcome {
            *index(&mut outcome.value) = *number;
        }
    }
    outcomes
}

/// An input's number and its answer; none for a bad one.
pub(super) type Slot<P> = (usize, Option<Answered<P>>);

/// Keeps a model for as long as the process runs: what it holds goes back with the process, and handing it back piece
/// by piece, as a drop does, can take longer than the answer to a short text.
pub(super) fn until_exit<T>(model: T) -> &'static T {
    Box::leak(Box::new(model))
}

/// Answers all texts and prints the results as text formats do.
pub(super) fn answer<T: Record, P: Payload>(
    texts: Texts<T>,
    size: ChunkSize,
    output: &Output,
    sink: Sink,
    run: impl FnMut(&[Numbered<'_, T>]) -> anyhow::Result<Outcomes<P>>,
) -> anyhow::Result<Status> {
    let mut printer = Printer::new(sink, output.format, !texts.is_single());
    let texts = texts.reserving(P::KEYS);
    let status = each_chunk(texts, size, output, run, |slots| {
        let answers: Vec<_> = slots.into_iter().filter_map(|(index, answer)| Some((index, answer?))).collect();
        printer.print(&answers)
    })?;
    printer.finish()?;
    Ok(status)
}

/// Runs all texts chunk by chunk and hands on what came of each, in order.
pub(super) fn each_chunk<T: Record, P>(
    texts: Texts<T>,
    size: ChunkSize,
    output: &Output,
    mut run: impl FnMut(&[Numbered<'_, T>]) -> anyhow::Result<Outcomes<P>>,
    mut consume: impl FnMut(Vec<Slot<P>>) -> anyhow::Result<()>,
) -> anyhow::Result<Status> {
    let mut progress: Option<Inputs> = None;
    let (mut seen, mut bad, mut bad_blank, mut cut) = (0, 0, 0, 0);
    for chunk in texts.chunks(size)? {
        let mut chunk = chunk?;
        seen += chunk.len();
        let results = run(&good(&chunk))?;
        let mut results = results.into_iter();
        let mut slots = Vec::with_capacity(chunk.len());
        for item in &mut chunk {
            let result = match std::mem::replace(&mut item.record, Err(String::new())) {
                Ok(_) => match results.next() {
                    Some(Ok(outcome)) => Ok(outcome),
                    Some(Err(error)) => Err(advice::told(&error)),
                    None => Err("no result".into()),
                },
                Err(error) => Err(error),
            };
            let answer = match result {
                Ok(Outcome { value, truncated }) => {
                    cut += usize::from(truncated);
                    let (id, extra) = (item.id.take(), item.extra.take());
                    Some(Answered { id, extra, payload: value, truncated })
                }
                Err(error) => {
                    bad += 1;
                    bad_blank += usize::from(item.blank);
                    let report = || say::error(format_args!("{}: {error}", item.place));
                    match &progress {
                        Some(progress) => progress.suspend(report),
                        None => report(),
                    }
                    None
                }
            };
            slots.push((item.index, answer));
        }
        consume(slots)?;
        // Drawn from the second chunk on: short work needs no count.
        match &mut progress {
            Some(progress) => progress.add(chunk.len()),
            None => progress = Some(Inputs::new(output.notes, output.on_terminal(), chunk.len())),
        }
    }
    drop(progress);
    if seen == 0 {
        output.notes.note("there were no inputs");
    }
    match cut {
        0 => {}
        1 => output.notes.note("1 input was cut to the length limit"),
        cut => output.notes.note(format_args!("{cut} inputs were cut to the length limit")),
    }
    if bad_blank > 0 {
        output.notes.note("a blank line is an empty text; --skip-blank passes over them");
    }
    Ok(match bad {
        0 => Status::Done,
        bad => Status::BadRecords(bad),
    })
}

fn good<T>(chunk: &[Item<T>]) -> Vec<Numbered<'_, T>> {
    chunk.iter().filter_map(|item| Some((item.index, item.record.as_ref().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Text;
    use crate::output::Format;
    use crate::say::Notes;

    const SIZE: ChunkSize = ChunkSize { inputs: 2, ..ChunkSize::LIGHT };

    fn texts(texts: &[&str]) -> Texts<Text> {
        let text = |text: &&str| Text::new((*text).to_owned());
        Texts::Arguments(texts.iter().map(text).collect())
    }

    /// Lengths of the texts; "bad" is bad and "long" is cut.
    fn lengths(inputs: &[&str]) -> (Status, Vec<Slot<usize>>) {
        let output = Output { format: Format::Jsonl, path: None, notes: Notes::new(true) };
        let mut all = Vec::new();
        let run = |records: &[Numbered<'_, Text>]| {
            let length = |(_, record): &Numbered<'_, Text>| match record.text.as_str() {
                "bad" => Err(ettin::Error::input("it is bad")),
                text => Ok(Outcome { value: text.len(), truncated: text == "long" }),
            };
            Ok(records.iter().map(length).collect())
        };
        let status = each_chunk(texts(inputs), SIZE, &output, run, |slots| {
            all.extend(slots);
            Ok(())
        });
        (status.unwrap(), all)
    }

    #[test]
    fn bad_records_leave_their_place_empty() {
        let (status, slots) = lengths(&["a", "bad", "ccc", "long", "bad"]);
        assert_eq!(status, Status::BadRecords(2));
        let said: Vec<_> = slots
            .iter()
            .map(|(index, answer)| {
                let answer = answer.as_ref();
                (*index, answer.map(|a| (a.payload, a.truncated)))
            })
            .collect();
        assert_eq!(said, [(0, Some((1, false))), (1, None), (2, Some((3, false))), (3, Some((4, true))), (4, None)]);
    }

    #[test]
    fn nothing_is_no_failure() {
        assert_eq!(lengths(&[]).0, Status::Done);
    }
}
