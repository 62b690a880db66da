//! Inputs in chunks, read and parsed on a thread of their own while the model computes.
//!
//! Chunks keep the input's order. A chunk ends when it is large enough to fill batches, or when nothing more
//! has arrived for a moment, so that a slow pipe is answered line by line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context;

use super::lines::Lines;
use super::records::{Id, Record, parse};
use super::{InputFormat, Place, Source};

/// How long a chunk that is not full waits for more: unnoticed by a person, plenty for a file.
const PATIENCE: Duration = Duration::from_millis(20);

/// Inputs read ahead.
const QUEUE: usize = 1024;

/// One input.
#[derive(Debug)]
pub(crate) struct Item<T> {
    /// Its number among all inputs, bad ones included, from 0.
    pub(crate) index: usize,
    /// Where it stood.
    pub(crate) place: Place,
    /// The record's `id`.
    pub(crate) id: Option<Id>,
    /// What it says, or what is wrong with it.
    pub(crate) record: Result<T, String>,
}

/// How much is answered at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkSize {
    /// Most inputs.
    pub(crate) inputs: usize,
    /// Most bytes of text, unless a single input has more.
    pub(crate) bytes: usize,
    /// How long a chunk that is not full waits for more.
    pub(crate) patience: Duration,
}

impl ChunkSize {
    /// Texts that cost little.
    pub(crate) const LIGHT: ChunkSize = ChunkSize { inputs: QUEUE, bytes: 1 << 20, patience: PATIENCE };

    /// Enough text for a few batches, so that inputs of like length can be put together.
    pub(crate) fn for_batches(batch_tokens: usize) -> Self {
        const BATCHES: usize = 4;
        const BYTES_PER_TOKEN: usize = 4;
        ChunkSize { inputs: QUEUE, bytes: batch_tokens.saturating_mul(BATCHES * BYTES_PER_TOKEN), patience: PATIENCE }
    }
}

/// What a line of plain text means.
pub(crate) type FromText<T> = Box<dyn Fn(String) -> T + Send>;

/// What every record is given once it is read.
type Complete<T> = Box<dyn Fn(&mut T) + Send>;

/// The inputs of a command, before any is read.
pub(crate) enum Texts<T> {
    /// They were arguments.
    Arguments(Vec<T>),
    /// They are lines.
    Lines(Reading<T>),
}

/// How lines become inputs.
pub(crate) struct Reading<T> {
    source: Source,
    format: InputFormat,
    from_text: Option<FromText<T>>,
    complete: Option<Complete<T>>,
}

impl<T: Record> Texts<T> {
    /// Whether there is exactly one, so that results need no number.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self, Texts::Arguments(arguments) if arguments.len() == 1)
    }

    /// The lines of a source; `from_text` is `None` where only JSONL makes sense.
    pub(crate) fn lines(source: Source, format: InputFormat, from_text: Option<FromText<T>>) -> Self {
        Texts::Lines(Reading { source, format, from_text, complete: None })
    }

    /// Gives every input what was said once for all of them.
    pub(crate) fn complete(self, complete: impl Fn(&mut T) + Send + 'static) -> Self {
        match self {
            Texts::Arguments(mut arguments) => {
                arguments.iter_mut().for_each(complete);
                Texts::Arguments(arguments)
            }
            Texts::Lines(reading) => Texts::Lines(Reading { complete: Some(Box::new(complete)), ..reading }),
        }
    }

    /// Starts reading.
    pub(crate) fn chunks(self, size: ChunkSize) -> anyhow::Result<Chunks<T>> {
        let (sender, receiver) = sync_channel(size.inputs.min(QUEUE));
        match self {
            Texts::Arguments(arguments) => {
                spawn(move || {
                    let items = arguments.into_iter().enumerate();
                    for (index, record) in items {
                        let place = Place::Argument(index + 1);
                        if !send(&sender, index, place, Ok(record)) {
                            return;
                        }
                    }
                })?;
            }
            Texts::Lines(reading) => {
                let lines = open(&reading.source)?;
                spawn(move || {
                    if let Err(error) = reading.send_all(lines, &sender) {
                        let error = error.context(format!("cannot read {}", reading.source));
                        // A receiver that has gone no longer wants to know.
                        let _ = sender.send(Err(error));
                    }
                })?;
            }
        }
        Ok(Chunks { receiver, size, kept: None })
    }
}

/// All lines of a source as plain texts: the documents of one query.
///
/// # Errors
/// Names the first line that is no text. One line less would number all that follow differently.
pub(crate) fn collect_lines(source: &Source) -> anyhow::Result<Vec<String>> {
    let mut lines = Lines::new(open(source)?);
    let mut texts = Vec::new();
    while let Some((number, line)) = lines.next().with_context(|| format!("cannot read {source}"))? {
        texts.push(line.map_err(|error| anyhow::anyhow!("{source}: line {number}: {error}"))?);
    }
    Ok(texts)
}

fn open(source: &Source) -> anyhow::Result<Box<dyn BufRead + Send>> {
    Ok(match source {
        Source::Stdin => Box::new(BufReader::new(std::io::stdin())),
        Source::File(path) => {
            let cannot = || format!("cannot read {}", path.display());
            let file = File::open(path).with_context(cannot)?;
            if file.metadata().with_context(cannot)?.is_dir() {
                anyhow::bail!("{} is a folder, not a file of inputs", path.display());
            }
            Box::new(BufReader::new(file))
        }
    })
}

fn spawn(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("input".into())
        .spawn(work)
        .context("cannot start the thread that reads inputs")?;
    Ok(())
}

type Sent<T> = anyhow::Result<Item<T>>;

/// Hands an input over; false when nobody wants more.
fn send<T: Record>(sender: &SyncSender<Sent<T>>, index: usize, place: Place, mut record: Result<T, String>) -> bool {
    let id = record.as_mut().ok().and_then(Record::take_id);
    let item = Item { index, place, id, record };
    sender.send(Ok(item)).is_ok()
}

impl<T: Record> Reading<T> {
    fn send_all(&self, reader: impl BufRead, sender: &SyncSender<Sent<T>>) -> anyhow::Result<()> {
        let mut lines = Lines::new(reader);
        let mut format = self.format;
        let mut index = 0;
        while let Some((number, line)) = lines.next()? {
            if format == InputFormat::Auto {
                format = guess(line.as_deref().unwrap_or_default());
            }
            let record = match (&self.from_text, line) {
                (_, Err(error)) => Err(error),
                (Some(from_text), Ok(line)) if format == InputFormat::Text => Ok(from_text(line)),
                (_, Ok(line)) if line.trim().is_empty() => continue,
                (_, Ok(line)) => parse(&line),
            };
            let record = record.map(|mut record| {
                if let Some(complete) = &self.complete {
                    complete(&mut record);
                }
                record
            });
            if !send(sender, index, Place::Line(number), record) {
                return Ok(());
            }
            index += 1;
        }
        Ok(())
    }
}

fn guess(first_line: &str) -> InputFormat {
    if first_line.trim_start().starts_with('{') { InputFormat::Jsonl } else { InputFormat::Text }
}

/// An iterator over chunks of inputs, in order.
pub(crate) struct Chunks<T> {
    receiver: Receiver<Sent<T>>,
    size: ChunkSize,
    /// An input, or the end by an error, that came after a chunk was full.
    kept: Option<Sent<T>>,
}

impl<T: Record> Iterator for Chunks<T> {
    type Item = anyhow::Result<Vec<Item<T>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.kept.take() {
            Some(first) => first,
            None => self.receiver.recv().ok()?,
        };
        let first = match first {
            Ok(item) => item,
            Err(error) => return Some(Err(error)),
        };
        let mut bytes = first.bytes();
        let mut chunk = vec![first];
        while chunk.len() < self.size.inputs && bytes < self.size.bytes {
            match self.receiver.recv_timeout(self.size.patience) {
                Ok(Ok(item)) => {
                    bytes += item.bytes();
                    if bytes > self.size.bytes {
                        self.kept = Some(Ok(item));
                        break;
                    }
                    chunk.push(item);
                }
                // What was read before the error is still answered.
                Ok(Err(error)) => {
                    self.kept = Some(Err(error));
                    break;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        Some(Ok(chunk))
    }
}

impl<T: Record> Item<T> {
    fn bytes(&self) -> usize {
        self.record.as_ref().map_or(0, Record::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Text;
    use super::*;

    const SIZE: ChunkSize = ChunkSize { inputs: 3, bytes: 10, patience: PATIENCE };

    fn text(text: String) -> Text {
        Text { id: None, text }
    }

    fn lines(bytes: &'static [u8], format: InputFormat) -> Vec<Item<Text>> {
        let (sender, receiver) = sync_channel(1);
        let Texts::Lines(reading) = Texts::lines(Source::Stdin, format, Some(Box::new(text))) else {
            unreachable!("lines are lines")
        };
        spawn(move || reading.send_all(bytes, &sender).unwrap()).unwrap();
        let chunks = Chunks { receiver, size: SIZE, kept: None };
        chunks.flat_map(Result::unwrap).collect()
    }

    fn said(items: &[Item<Text>]) -> Vec<(usize, Place, Option<&str>)> {
        items
            .iter()
            .map(|item| {
                let text = item.record.as_ref().ok().map(|record| record.text.as_str());
                (item.index, item.place, text)
            })
            .collect()
    }

    #[test]
    fn order_and_places_survive_chunking() {
        let items = lines(b"a\n\nlong enough to be alone\nb\nc\nd\ne\n", InputFormat::Auto);
        assert_eq!(
            said(&items),
            [
                (0, Place::Line(1), Some("a")),
                (1, Place::Line(3), Some("long enough to be alone")),
                (2, Place::Line(4), Some("b")),
                (3, Place::Line(5), Some("c")),
                (4, Place::Line(6), Some("d")),
                (5, Place::Line(7), Some("e")),
            ]
        );
    }

    #[test]
    fn jsonl_is_recognised_and_can_be_refused() {
        let items = lines(b"\n {\"text\":\"a\",\"id\":1}\n \nplain\n", InputFormat::Auto);
        assert_eq!(said(&items), [(0, Place::Line(2), Some("a")), (1, Place::Line(4), None)]);
        assert!(items[0].id.is_some());
        let items = lines(b"{braces}\n", InputFormat::Text);
        assert_eq!(said(&items), [(0, Place::Line(1), Some("{braces}"))]);
    }

    #[test]
    fn chunks_have_bounds() {
        let arguments = ["a", "b", "c", "d", "0123456789ab", "e"];
        let texts = Texts::Arguments(arguments.map(|a| text(a.into())).into());
        let chunks: Vec<usize> = texts.chunks(SIZE).unwrap().map(|chunk| chunk.unwrap().len()).collect();
        assert_eq!(chunks, [3, 1, 1, 1]);
    }

    #[test]
    fn missing_file_and_folder_are_named() {
        for (path, what) in [("no/such/file", "no/such/file"), (".", "folder")] {
            let source = Source::File(path.into());
            let texts = Texts::lines(source, InputFormat::Auto, Some(Box::new(text)));
            let error = texts.chunks(SIZE).err().expect(path);
            assert!(format!("{error:#}").contains(what), "{error:#}");
        }
    }
}
