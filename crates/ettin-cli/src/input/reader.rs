//! Inputs in chunks, read and parsed on a thread of their own while the model computes.
//!
//! Chunks keep the input's order. A chunk ends when it is large enough to fill batches, or when nothing more
//! has arrived for a moment, so that a slow pipe is answered line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail};
use ettin::json::non_finite_at;
use serde::de::IgnoredAny;

use super::detect::{Plain, detect};
use super::elements::{Element, Elements};
use super::fields::ExtraFields;
use super::lines::Lines;
use super::records::{Further, Record, explained, parse};
use super::{InputFormat, Place, Source};
use crate::record::{Extra, Id};

/// How long a chunk that is not full waits for more: unnoticed by a person, plenty for a file.
const PATIENCE: Duration = Duration::from_millis(20);

/// What reads a text that merely looks like JSON.
const AS_TEXT: &str = "--input-format text reads lines as they are";

/// Inputs read ahead.
const QUEUE: usize = 1024;

/// One input.
#[derive(Debug)]
pub(crate) struct Item<T> {
    /// Its number from 0: of its line in plain text, else among all inputs, bad ones included.
    pub(crate) index: usize,
    /// Where it stood.
    pub(crate) place: Place,
    /// Whether it was a blank line.
    pub(crate) blank: bool,
    /// The record's `id`.
    pub(crate) id: Option<Id>,
    /// What else is kept of it.
    pub(crate) extra: Option<Extra>,
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
    /// They are in a file or in stdin.
    Source(Reading<T>),
}

/// How a file or stdin becomes inputs.
pub(crate) struct Reading<T> {
    source: Source,
    how: How,
    from_text: Option<FromText<T>>,
    complete: Option<Complete<T>>,
    reserved: &'static [&'static str],
}

/// What the flags say about reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// The format; `Auto` looks at the beginning.
    pub(crate) format: InputFormat,
    /// What becomes of fields beyond those of the task.
    pub(crate) extra: ExtraFields,
    /// Whether blank lines are no texts.
    pub(crate) skip_blank: bool,
    /// Whether the texts go with an argument. A line in braces is then taken for a record only if it looks like one.
    pub(crate) parts: bool,
}

impl<T: Record> Texts<T> {
    /// Whether there is exactly one, so that results need no number.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self, Texts::Arguments(arguments) if arguments.len() == 1)
    }

    /// The inputs in a source; `from_text` is `None` where only records make sense.
    pub(crate) fn read(source: Source, how: How, from_text: Option<FromText<T>>) -> Self {
        Texts::Source(Reading { source, how, from_text, complete: None, reserved: &[] })
    }

    /// Refuses to keep fields of these names: they are keys of the output.
    pub(crate) fn reserving(self, reserved: &'static [&'static str]) -> Self {
        match self {
            Texts::Source(reading) => Texts::Source(Reading { reserved, ..reading }),
            arguments => arguments,
        }
    }

    /// Gives every input what was said once for all of them.
    pub(crate) fn complete(self, complete: impl Fn(&mut T) + Send + 'static) -> Self {
        match self {
            Texts::Arguments(mut arguments) => {
                arguments.iter_mut().for_each(complete);
                Texts::Arguments(arguments)
            }
            Texts::Source(reading) => Texts::Source(Reading { complete: Some(Box::new(complete)), ..reading }),
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
                        let found = Found { index, place: Place::Argument(index + 1), blank: false };
                        if !found.send(&sender, Ok((record, None))) {
                            return;
                        }
                    }
                })?;
            }
            Texts::Source(reading) => {
                let reader = open(&reading.source)?;
                spawn(move || {
                    if let Err(error) = reading.send_all(reader, &sender) {
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

fn open(source: &Source) -> anyhow::Result<Box<dyn BufRead + Send>> {
    Ok(match source {
        Source::Stdin => Box::new(BufReader::new(std::io::stdin())),
        Source::File(path) => {
            let cannot = || format!("cannot read {}", path.display());
            let file = File::open(path).with_context(cannot)?;
            if file.metadata().with_context(cannot)?.is_dir() {
                bail!("{} is a folder, not a file of inputs", path.display());
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

/// A record with what is kept of it beside its task's fields, or what is wrong with it.
type Parsed<T> = Result<(T, Option<Extra>), String>;

/// An input's place.
struct Found {
    index: usize,
    place: Place,
    blank: bool,
}

impl Found {
    /// Hands an input over; false when nobody wants more.
    fn send<T: Record>(self, sender: &SyncSender<Sent<T>>, parsed: Parsed<T>) -> bool {
        let Found { index, place, blank } = self;
        let (record, extra) = match parsed {
            Ok((record, extra)) => (Ok(record), extra),
            Err(error) => (Err(error), None),
        };
        let mut record = record.and_then(|record| match record.missing() {
            Some(field) => Err(format!("missing field `{field}`")),
            None => Ok(record),
        });
        let id = record.as_mut().ok().and_then(Record::take_id);
        sender.send(Ok(Item { index, place, blank, id, extra, record })).is_ok()
    }
}

impl<T: Record> Reading<T> {
    fn send_all(&self, mut reader: impl BufRead, sender: &SyncSender<Sent<T>>) -> anyhow::Result<()> {
        let plain = match (&self.from_text, self.how.parts) {
            (None, _) => Plain::Never,
            (Some(_), false) => Plain::Texts,
            (Some(_), true) => Plain::Parts,
        };
        let (format, taken) = match self.how.format {
            InputFormat::Auto => detect(&mut reader, plain)?,
            format => (format, Vec::new()),
        };
        let reader = Cursor::new(taken).chain(reader);
        match format {
            InputFormat::Json => self.send_elements(reader, sender),
            _ => self.send_lines(reader, format, sender),
        }
    }

    /// Plain text and JSONL. A blank line is an empty text in the one and nothing in the other.
    fn send_lines(
        &self,
        reader: impl BufRead,
        format: InputFormat,
        sender: &SyncSender<Sent<T>>,
    ) -> anyhow::Result<()> {
        let mut lines = Lines::new(reader);
        let mut records = 0;
        // A line behind a first record that is cut off.
        let mut ahead = None;
        while let Some((number, line)) = match ahead.take() {
            Some(line) => Some(line),
            None => lines.next()?,
        } {
            let place = Place::Line(number);
            let blank = line.as_ref().is_ok_and(|line| line.trim().is_empty());
            let (index, parsed) = match &self.from_text {
                Some(from_text) if format != InputFormat::Jsonl => {
                    if blank && self.how.skip_blank {
                        continue;
                    }
                    (number as usize - 1, line.map(|line| (from_text(line), None)))
                }
                _ if blank => continue,
                _ => {
                    let mut parsed =
                        line.as_ref().map_err(Clone::clone).and_then(|line| parse(line, self.further(), None));
                    // What is wrong with the first record is, as a rule, wrong with all.
                    if let (0, Err(message), Ok(line)) = (records, &mut parsed, &line) {
                        match Flaw::of(line) {
                            Flaw::CutOff => {
                                ahead = behind(&mut lines)?;
                                if ahead.as_ref().is_some_and(|(_, line)| goes_on(line)) {
                                    bail!(
                                        "line {number}: the object does not end in its line. JSONL has one object per \
                                         line (`jq -c .` writes it so); objects over several lines are read in an \
                                         array (`jq -s .`)"
                                    );
                                }
                            }
                            Flaw::NoJson if self.how.format == InputFormat::Auto && self.from_text.is_some() => {
                                message.push_str("; ");
                                message.push_str(AS_TEXT);
                            }
                            Flaw::NoJson | Flaw::Other => {}
                        }
                    }
                    records += 1;
                    (records - 1, parsed)
                }
            };
            if !(Found { index, place, blank }).send(sender, self.completed(parsed)) {
                break;
            }
        }
        Ok(())
    }

    /// The elements of a JSON array: objects are records, strings are texts.
    fn send_elements(&self, reader: impl BufRead, sender: &SyncSender<Sent<T>>) -> anyhow::Result<()> {
        let mut elements = Elements::new(reader);
        while let Some(Element { number, at, text }) = elements.next()? {
            let place = Place::Record { number, line: at.line };
            let parsed = text.and_then(|text| match (text.as_bytes().first(), &self.from_text) {
                (Some(b'"'), Some(from_text)) => match serde_json::from_str(&text) {
                    Ok(text) => Ok((from_text(text), None)),
                    Err(error) => Err(explained(&error, &text, Some(at))),
                },
                (Some(b'{'), _) | (_, None) => parse(&text, self.further(), Some(at)),
                _ if serde_json::from_str::<IgnoredAny>(&text).is_ok() => {
                    Err("neither a JSON object nor a text".into())
                }
                _ => Err(format!("neither a JSON object nor a text, nor JSON at all; {AS_TEXT}")),
            });
            let found = Found { index: number as usize - 1, place, blank: false };
            if !found.send(sender, self.completed(parsed)) {
                break;
            }
        }
        Ok(())
    }

    fn further(&self) -> Further {
        Further { rule: self.how.extra, reserved: self.reserved }
    }

    fn completed(&self, mut parsed: Parsed<T>) -> Parsed<T> {
        if let (Ok((record, _)), Some(complete)) = (&mut parsed, &self.complete) {
            complete(record);
        }
        parsed
    }
}

/// What is wrong with a line of JSONL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// It ends too early.
    CutOff,
    /// It is not JSON.
    NoJson,
    /// It is JSON, or Python's, of another kind than is wanted.
    Other,
}

impl Flaw {
    fn of(line: &str) -> Self {
        match serde_json::from_str::<IgnoredAny>(line) {
            Err(error) if error.is_eof() => Flaw::CutOff,
            Err(error) if non_finite_at(line.as_bytes(), &error).is_none() => Flaw::NoJson,
            _ => Flaw::Other,
        }
    }
}

type Line = (u64, Result<String, String>);

/// The next line that is not blank.
fn behind(lines: &mut Lines<impl BufRead>) -> anyhow::Result<Option<Line>> {
    loop {
        match lines.next()? {
            Some((_, Ok(line))) if line.trim().is_empty() => {}
            other => return Ok(other),
        }
    }
}

/// Whether a line goes on with the object of the line before it: it begins with a key, or ends the object.
fn goes_on(line: &Result<String, String>) -> bool {
    line.as_ref().is_ok_and(|line| line.trim_start().starts_with(['"', '}', ']', ',']))
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

    const AUTO: How = How { format: InputFormat::Auto, extra: ExtraFields::Error, skip_blank: false, parts: false };

    /// All inputs, and the error that ended them.
    fn read(bytes: &'static [u8], how: How) -> (Vec<Item<Text>>, Option<String>) {
        let (sender, receiver) = sync_channel(1);
        let Texts::Source(reading) = Texts::read(Source::Stdin, how, Some(Box::new(Text::new))) else {
            unreachable!("a source is a source")
        };
        spawn(move || {
            if let Err(error) = reading.send_all(bytes, &sender) {
                sender.send(Err(error)).unwrap();
            }
        })
        .unwrap();
        let (mut items, mut end) = (Vec::new(), None);
        for chunk in (Chunks { receiver, size: SIZE, kept: None }) {
            match chunk {
                Ok(chunk) => items.extend(chunk),
                Err(error) => end = Some(error.to_string()),
            }
        }
        (items, end)
    }

    fn lines(bytes: &'static [u8], format: InputFormat) -> Vec<Item<Text>> {
        let (items, error) = read(bytes, How { format, ..AUTO });
        assert_eq!(error, None);
        items
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
                (1, Place::Line(2), Some("")),
                (2, Place::Line(3), Some("long enough to be alone")),
                (3, Place::Line(4), Some("b")),
                (4, Place::Line(5), Some("c")),
                (5, Place::Line(6), Some("d")),
                (6, Place::Line(7), Some("e")),
            ]
        );
    }

    #[test]
    fn skipped_blank_lines_keep_their_number() {
        let text = b"\n\na\n \t\r\nb\n\n";
        let blank: Vec<bool> = lines(text, InputFormat::Auto).iter().map(|item| item.blank).collect();
        assert_eq!(blank, [true, true, false, true, false, true]);
        let (items, _) = read(text, How { skip_blank: true, ..AUTO });
        assert_eq!(said(&items), [(2, Place::Line(3), Some("a")), (4, Place::Line(5), Some("b"))]);
        // An empty text is no blank line.
        let (items, _) = read(b"{\"text\":\"\"}\n\n{\"text\":\"b\"}", How { skip_blank: true, ..AUTO });
        assert_eq!(said(&items), [(0, Place::Line(1), Some("")), (1, Place::Line(3), Some("b"))]);
    }

    #[test]
    fn elements_of_an_array_are_records_and_texts() {
        let items = lines(b"\n[{\"text\":\"a\",\"id\":1},\n\"b\\n\", 3,\n\n {\"txt\":\"c\"}]\n", InputFormat::Auto);
        let place = |number, line| Place::Record { number, line };
        assert_eq!(
            said(&items),
            [
                (0, place(1, 2), Some("a")),
                (1, place(2, 3), Some("b\n")),
                (2, place(3, 3), None),
                (3, place(4, 5), None)
            ]
        );
        assert!(items[0].id.is_some());
        assert_eq!(items[3].place.to_string(), "record 4 (line 5)");
        assert!(items[3].record.as_ref().unwrap_err().contains("unknown field `txt`"));
        assert!(lines(b"[]", InputFormat::Auto).is_empty());
    }

    #[test]
    fn an_array_that_is_cut_off_is_an_error_behind_its_records() {
        let (items, error) = read(b"[{\"text\":\"a\"},\n{\"text\":", AUTO);
        assert_eq!(said(&items), [(0, Place::Record { number: 1, line: 1 }, Some("a"))]);
        assert!(error.unwrap().contains("line 2: the input ends before"));
        let (_, error) = read(b"text", How { format: InputFormat::Json, ..AUTO });
        assert!(error.unwrap().contains("no JSON array"));
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
    fn objects_over_several_lines_are_named_once() {
        for text in [
            &b"{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n"[..],
            b"\n{\"text\":\n\n \"a\"}",
            b"{ \"text\": \"a\"\n, \"id\": 1 }\n",
        ] {
            for format in [InputFormat::Auto, InputFormat::Jsonl] {
                let (items, error) = read(text, How { format, ..AUTO });
                assert!(items.is_empty());
                let error = error.unwrap();
                assert!(error.contains("one object per line") && error.contains("jq -c"), "{error}");
            }
        }
        // One line that is cut off loses no other.
        let items = lines(b"{\"text\":\"a\n\n{\"text\":\"b\"}\n", InputFormat::Auto);
        assert_eq!(said(&items), [(0, Place::Line(1), None), (1, Place::Line(3), Some("b"))]);
        assert_eq!(said(&lines(b"{\"text\":", InputFormat::Auto)), [(0, Place::Line(1), None)]);
    }

    #[test]
    fn a_first_line_in_braces_that_is_no_json_may_be_text() {
        let hints = |text, format| {
            let items = lines(text, format);
            let hint =
                |item: &Item<Text>| item.record.as_ref().is_err_and(|error| error.contains("--input-format text"));
            items.iter().map(hint).collect::<Vec<_>>()
        };
        assert_eq!(hints(b"{hello} world\n{more}\n", InputFormat::Auto), [true, false]);
        assert_eq!(hints(b"{\"hello\"} world\n", InputFormat::Auto), [true]);
        assert_eq!(hints(b"{hello} world\n", InputFormat::Jsonl), [false]);
        assert_eq!(hints(b"{\"txt\":\"a\"}\n", InputFormat::Auto), [false]);
        assert_eq!(hints(b"{\"text\":NaN}\n", InputFormat::Auto), [false]);
    }

    #[test]
    fn chunks_have_bounds() {
        let arguments = ["a", "b", "c", "d", "0123456789ab", "e"];
        let texts = Texts::Arguments(arguments.map(|a| Text::new(a.into())).into());
        let chunks: Vec<usize> = texts.chunks(SIZE).unwrap().map(|chunk| chunk.unwrap().len()).collect();
        assert_eq!(chunks, [3, 1, 1, 1]);
    }

    #[test]
    fn missing_file_and_folder_are_named() {
        for (path, what) in [("no/such/file", "no/such/file"), (".", "folder")] {
            let source = Source::File(path.into());
            let texts = Texts::read(source, AUTO, Some(Box::new(Text::new)));
            let error = texts.chunks(SIZE).err().expect(path);
            assert!(format!("{error:#}").contains(what), "{error:#}");
        }
    }
}
