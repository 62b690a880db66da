//! `embed --precision`: vectors as integers.

use std::path::{Path, PathBuf};

use ettin::quantization::{Integers, Precision, Quantizer, Ranges, RunningRanges};
use ettin::tasks::{EmbedRequest, Embedding, Outcome, Outcomes, TextEmbedder, TextVectors};
use serde::Serialize;

use super::driver::{self, Numbered, Slot};
use crate::args::{PrecisionArgs, PrecisionChoice};
use crate::exit::{Status, Usage};
use crate::input::{self, ExtraFields, Input, InputFormat, Source, Text, Texts};
use crate::output::{Answered, ArrayRow, ArrayWriter, Format, Payload, Printer, Sink, written};
use crate::plan::{Output, Plan};
use crate::say::Notes;

/// Ranges of fewer vectors than these are told to be unstable, as sentence-transformers tells.
const MIN_STABLE: usize = 100;

/// Quantised vectors that were asked for.
#[derive(Debug)]
pub(super) struct Quantized {
    precision: Precision,
    scale: ScaleSource,
}

/// Where the ranges come from.
#[derive(Debug)]
enum ScaleSource {
    /// From a file, or there are none to be had.
    Known(Option<Ranges>),
    /// From the vectors of texts in a file.
    Texts(PathBuf),
    /// From the vectors of all inputs.
    Inputs,
}

/// Embeds texts.
pub(super) trait EmbedTexts: Fn(&[Numbered<'_, Text>]) -> anyhow::Result<Outcomes<Embedding>> {}

impl<F: Fn(&[Numbered<'_, Text>]) -> anyhow::Result<Outcomes<Embedding>>> EmbedTexts for F {}

/// What embeds.
pub(super) struct Embedder<'a, R: EmbedTexts> {
    pub(super) task: &'a TextEmbedder,
    pub(super) request: &'a EmbedRequest,
    pub(super) run: &'a R,
}

impl Quantized {
    /// What the flags ask for, with the ranges of `--ranges` read: before a model is loaded.
    pub(super) fn wanted(args: &PrecisionArgs) -> anyhow::Result<Option<Self>> {
        let flag = [("--ranges", &args.ranges), ("--calibrate", &args.calibrate)];
        let flag = flag.into_iter().find_map(|(flag, file)| file.as_ref().map(|_| flag));
        let precision = match (args.precision, flag) {
            (PrecisionChoice::Quantized(precision), _) if precision.has_ranges() => precision,
            (PrecisionChoice::Float32, Some(flag)) => {
                return Err(Usage::error(format!("{flag} is for --precision int8 or uint8; choose one of them")));
            }
            (PrecisionChoice::Quantized(precision), Some(flag)) => {
                return Err(Usage::error(format!("{flag}: {precision} keeps signs alone and has no ranges")));
            }
            (PrecisionChoice::Quantized(precision), None) => {
                return Ok(Some(Quantized { precision, scale: ScaleSource::Known(None) }));
            }
            (PrecisionChoice::Float32, None) => return Ok(None),
        };
        let scale = match (&args.ranges, &args.calibrate) {
            (Some(file), _) => ScaleSource::Known(Some(Ranges::read(file)?)),
            (None, Some(file)) => ScaleSource::Texts(file.clone()),
            (None, None) => ScaleSource::Inputs,
        };
        Ok(Some(Quantized { precision, scale }))
    }

    /// Embeds and quantises all texts.
    pub(super) fn run<R: EmbedTexts>(
        self,
        texts: Texts<Text>,
        plan: &Plan,
        sink: Sink,
        embedder: &Embedder<'_, R>,
    ) -> anyhow::Result<Status> {
        let (precision, output) = (self.precision, &plan.output);
        let single = texts.is_single();
        let texts =
            if QuantizedWriter::is_text(output.format) { texts.reserving(QuantizedEmbedding::KEYS) } else { texts };
        let ranges = match self.scale {
            ScaleSource::Known(ranges) => ranges,
            ScaleSource::Texts(file) => Some(calibrated(&file, plan, embedder.run)?),
            ScaleSource::Inputs => return from_inputs(precision, texts, plan, sink, embedder),
        };
        let quantizer = Quantizer::new(precision, ranges)?;
        let per_token = embedder.request.per_token;
        let mut writer = QuantizedWriter::new(sink, output, single, per_token, precision, quantizer.ranges());
        let run = |records: &[Numbered<'_, Text>]| {
            let quantize = |outcome: ettin::Result<Outcome<Embedding>>| -> anyhow::Result<_> {
                Ok(match outcome {
                    Ok(Outcome { value, truncated }) => {
                        Ok(Outcome { value: QuantizedEmbedding::new(&value, &quantizer)?, truncated })
                    }
                    Err(error) => Err(error),
                })
            };
            (embedder.run)(records)?.into_iter().map(quantize).collect()
        };
        let status = driver::each_chunk(texts, plan.chunk_size(), output, run, |slots| writer.write(slots))?;
        writer.finish(embedder, precision)?;
        Ok(status)
    }
}

/// Quantises when all texts are embedded: their vectors have the ranges.
fn from_inputs<R: EmbedTexts>(
    precision: Precision,
    texts: Texts<Text>,
    plan: &Plan,
    sink: Sink,
    embedder: &Embedder<'_, R>,
) -> anyhow::Result<Status> {
    let (single, output) = (texts.is_single(), &plan.output);
    let mut seen = RunningRanges::default();
    let mut all: Vec<Slot<Embedding>> = Vec::new();
    let status = driver::each_chunk(texts, plan.chunk_size(), output, embedder.run, |slots| {
        let answers = slots.iter().filter_map(|(_, answer)| answer.as_ref());
        answers.map(|answer| &answer.payload).try_for_each(|embedding| add(embedding, &mut seen))?;
        all.extend(slots);
        Ok(())
    })?;
    let per_token = embedder.request.per_token;
    if seen.count() == 0 {
        let mut writer = QuantizedWriter::new(sink, output, single, per_token, precision, None);
        writer.write(all.into_iter().map(|(index, _)| (index, None)).collect())?;
        writer.finish(embedder, precision)?;
        return Ok(status);
    }
    let quantizer = Quantizer::new(precision, seen.own(precision)?)?;
    output.notes.note(format_args!(
        "the ranges of {precision} are those of these {} vectors, and others in another run; --ranges and --calibrate set \
         them",
        seen.count()
    ));
    say_unstable(seen.count(), output.notes);
    let mut writer = QuantizedWriter::new(sink, output, single, per_token, precision, quantizer.ranges());
    let quantize = |(index, answer): Slot<Embedding>| -> anyhow::Result<Slot<QuantizedEmbedding>> {
        let Some(Answered { id, extra, payload, truncated }) = answer else {
            return Ok((index, None));
        };
        let payload = QuantizedEmbedding::new(&payload, &quantizer)?;
        Ok((index, Some(Answered { id, extra, payload, truncated })))
    };
    writer.write(all.into_iter().map(quantize).collect::<anyhow::Result<_>>()?)?;
    writer.finish(embedder, precision)?;
    Ok(status)
}

/// The ranges of the vectors of the texts in a file. One bad text fails them all: ranges of fewer are others.
fn calibrated(file: &Path, plan: &Plan, run: &impl EmbedTexts) -> anyhow::Result<Ranges> {
    let input = Input {
        named: Some(file.to_owned()),
        source: Some(Source::File(file.to_owned())),
        format: InputFormat::Auto,
        extra: ExtraFields::Ignore,
        skip_blank: plan.input.skip_blank,
    };
    let texts = input::texts(Vec::new(), &input, "TEXT", Text::new)?;
    let mut seen = RunningRanges::default();
    for chunk in texts.chunks(plan.chunk_size())? {
        let chunk = chunk?;
        let bad = |place, error: String| anyhow::anyhow!("--calibrate {}: {place}: {error}", file.display());
        let mut records = Vec::with_capacity(chunk.len());
        for item in &chunk {
            records.push((item.index, item.record.as_ref().map_err(|error| bad(item.place, error.clone()))?));
        }
        for (item, outcome) in chunk.iter().zip(run(&records)?) {
            let outcome = outcome.map_err(|error| bad(item.place, crate::advice::told(&error)))?;
            add(&outcome.value, &mut seen)?;
        }
    }
    if seen.count() == 0 {
        anyhow::bail!("--calibrate {}: the file has no texts", file.display());
    }
    say_unstable(seen.count(), plan.output.notes);
    Ok(seen.ranges()?)
}

fn add(embedding: &Embedding, seen: &mut RunningRanges) -> ettin::Result<()> {
    match &embedding.embedding {
        TextVectors::Pooled(vector) => seen.add(vector),
        TextVectors::Tokens(vectors) => vectors.iter().try_for_each(|vector| seen.add(vector)),
        TextVectors::Sparse(_) => Err(sparse()),
    }
}

/// A model with sparse vectors is refused before any is made.
fn sparse() -> ettin::Error {
    ettin::Error::Unsupported("integers of sparse vectors".to_owned())
}

fn say_unstable(count: usize, notes: Notes) {
    if count < MIN_STABLE {
        notes.note(format_args!("ranges of {count} vectors: those of {MIN_STABLE} or more are more stable"));
    }
}

/// Where integers go: texts as they come, or one array at the end.
enum QuantizedWriter {
    Text(Printer),
    Array(ArrayWriter, Format, Sink),
}

impl QuantizedWriter {
    fn is_text(format: Format) -> bool {
        !matches!(format, Format::Npy | Format::Safetensors)
    }

    fn new(
        sink: Sink,
        output: &Output,
        single: bool,
        per_token: bool,
        precision: Precision,
        ranges: Option<&Ranges>,
    ) -> Self {
        match output.format {
            format if Self::is_text(format) => QuantizedWriter::Text(Printer::new(sink, format, !single)),
            format => QuantizedWriter::Array(ArrayWriter::quantized(per_token, precision, ranges), format, sink),
        }
    }

    fn write(&mut self, slots: Vec<Slot<QuantizedEmbedding>>) -> anyhow::Result<()> {
        match self {
            QuantizedWriter::Text(printer) => {
                let answers: Vec<_> = slots.into_iter().filter_map(|(index, answer)| Some((index, answer?))).collect();
                printer.print(&answers)
            }
            QuantizedWriter::Array(array, ..) => {
                for (_, answer) in slots {
                    match answer.map(|answer| answer.payload.embedding) {
                        Some(QuantizedRows::Pooled(integers)) => array.push(ArrayRow::QuantizedPooled(&integers)),
                        Some(QuantizedRows::Tokens(rows)) => array.push(ArrayRow::QuantizedTokens(&rows)),
                        None => array.skip(),
                    }
                }
                Ok(())
            }
        }
    }

    fn finish<R: EmbedTexts>(self, embedder: &Embedder<'_, R>, precision: Precision) -> anyhow::Result<()> {
        match self {
            QuantizedWriter::Text(printer) => printer.finish(),
            QuantizedWriter::Array(mut array, format, mut sink) => {
                if array.needs_width()
                    && let Some(dimensions) = super::width(embedder.task, embedder.request)?
                {
                    array.set_width(precision.width(dimensions));
                }
                written(array.write(format, &mut sink))?;
                sink.finish()
            }
        }
    }
}

/// The quantised embedding of one input.
#[derive(Debug, Serialize)]
struct QuantizedEmbedding {
    index: usize,
    embedding: QuantizedRows,
}

/// Integers of a text, or of each of its tokens.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum QuantizedRows {
    Pooled(Integers),
    Tokens(Vec<Integers>),
}

impl QuantizedEmbedding {
    fn new(embedding: &Embedding, quantizer: &Quantizer) -> ettin::Result<Self> {
        let rows = match &embedding.embedding {
            TextVectors::Pooled(vector) => QuantizedRows::Pooled(quantizer.quantize_one(vector)?),
            TextVectors::Tokens(vectors) => {
                let rows = vectors.iter().map(|vector| quantizer.quantize_one(vector));
                QuantizedRows::Tokens(rows.collect::<ettin::Result<_>>()?)
            }
            TextVectors::Sparse(_) => return Err(sparse()),
        };
        Ok(QuantizedEmbedding { index: embedding.index, embedding: rows })
    }
}

impl Payload for QuantizedEmbedding {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = Embedding::KEYS;
    const HEADS: &'static [&'static str] = &["index", "integers", "embedding"];

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |integers: &Integers| {
            const SHOWN: usize = 8;
            let mut values: Vec<String> = integers.numbers().take(SHOWN).map(|value| value.to_string()).collect();
            if integers.len() > SHOWN {
                values.push("…".into());
            }
            vec![self.index.to_string(), integers.len().to_string(), values.join(" ")]
        };
        match &self.embedding {
            QuantizedRows::Pooled(integers) => vec![row(integers)],
            QuantizedRows::Tokens(rows) => rows.iter().map(row).collect(),
        }
    }
}
