//! This engine's worker for the comparison with other engines: our half of `scripts/peers/`.
//!
//! Speaks the protocol of `scripts/peers/README.md` on standard input and output. `ETTIN_ISA` and `RAYON_NUM_THREADS` are
//! followed as everywhere.
//!
//! ```sh
//! cargo run --release -p ettin --example peer -- --model DIR --dtype f32
//! cargo run --release -p ettin --example peer -- --dtypes     # those this machine's CPU backend takes, and why not the others
//! ```

use std::{
    cell::OnceCell,
    error::Error,
    io::{BufRead, Write},
    path::PathBuf,
    time::Instant,
};

use candle_core::Device;
use ettin::{
    Backend, Dtype, KvCache, PackedBatch,
    bench::Calibration,
    files::ModelFiles,
    heads::{EmbedOptions, Embedder, LanguageModel},
    tasks::{EmbedRequest, Options, TextEmbedder, Vector},
    tokenizer::Tokenizer,
};
use serde::Deserialize;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows of a prompt that one step reads.
const STEP: usize = 512;

/// One piece of work; fields that belong to other kinds are ignored.
#[derive(Deserialize)]
struct Work {
    kind: String,
    /// Token ids: inputs, or prompts of one length.
    #[serde(default)]
    sequences: Vec<Vec<u32>>,
    #[serde(default)]
    texts: Vec<String>,
    /// Greedy tokens per prompt.
    #[serde(default)]
    new_tokens: usize,
    /// Tokens of each sequence that are read at once; the others follow one by one.
    #[serde(default)]
    prefill: usize,
    #[serde(default = "once")]
    repeat: usize,
    /// Whether the answer holds what was computed.
    #[serde(default)]
    vectors: bool,
}

fn once() -> usize {
    1
}

#[derive(Deserialize)]
struct Request {
    work: Work,
}

/// What one repetition took and gave.
struct Done {
    seconds: f64,
    tokens: usize,
    vectors: Vec<Vec<f32>>,
}

/// A model in the three forms that work asks for, each loaded when it is first needed.
struct Peer {
    files: ModelFiles,
    options: Options,
    embedder: OnceCell<Embedder>,
    text: OnceCell<TextEmbedder>,
    tokenizer: OnceCell<Tokenizer>,
    language: OnceCell<LanguageModel>,
}

impl Peer {
    fn new(files: ModelFiles, dtype: Dtype) -> Self {
        Self {
            files,
            options: Options { dtype, ..Options::default() },
            embedder: OnceCell::new(),
            text: OnceCell::new(),
            tokenizer: OnceCell::new(),
            language: OnceCell::new(),
        }
    }

    fn backend(&self) -> Result<Backend> {
        Ok(Backend::new(&self.options.device, self.options.dtype)?)
    }

    fn run(&self, work: &Work) -> Result<Done> {
        match work.kind.as_str() {
            "embed" => {
                let model = loaded(&self.embedder, || Ok(Embedder::load(&self.files, &self.backend()?)?))?;
                timed(|| embed(model, &work.sequences, self.options.batch_tokens))
            }
            "text" => {
                let model = loaded(&self.text, || Ok(TextEmbedder::load(&self.files, &self.options)?))?;
                let mut done = timed(|| embed_texts(model, &work.texts))?;
                // Counted outside the clock: the task does not report it.
                let tokenizer = loaded(&self.tokenizer, || Ok(Tokenizer::load(&self.files)?))?;
                let counts = work.texts.iter().map(|text| Ok(tokenizer.encode(text, None, true)?.ids.len()));
                done.tokens = counts.sum::<Result<usize>>()?;
                Ok(done)
            }
            kind => {
                let model = loaded(&self.language, || Ok(LanguageModel::load(&self.files, &self.backend()?)?))?;
                let sequences: Vec<&[u32]> = work.sequences.iter().map(Vec::as_slice).collect();
                match kind {
                    "prefill" => timed(|| Ok((count(&sequences), Decoding::start(model, &sequences)?.logits))),
                    "decode" => {
                        let mut decoding = Decoding::start(model, &sequences)?;
                        timed(|| decoding.greedy(work.new_tokens).map(|tokens| (tokens, Vec::new())))
                    }
                    "logits" => {
                        let begin: Vec<&[u32]> = sequences.iter().map(|ids| &ids[..work.prefill]).collect();
                        timed(|| {
                            let mut decoding = Decoding::start(model, &begin)?;
                            for position in work.prefill..sequences.iter().map(|ids| ids.len()).min().unwrap_or(0) {
                                let next: Vec<u32> = sequences.iter().map(|ids| ids[position]).collect();
                                decoding.step(&next)?;
                            }
                            Ok((count(&sequences), decoding.logits))
                        })
                    }
                    _ => Err(format!("unknown kind of work {kind:?}").into()),
                }
            }
        }
    }

    fn answer(&self, work: &Work) -> Result<Value> {
        let runs = (0..work.repeat).map(|_| self.run(work)).collect::<Result<Vec<_>>>()?;
        let last = runs.last().ok_or("repeat must be at least 1")?;
        let mut answer = json!({
            "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
            "tokens": last.tokens,
            "peak_rss": peak_rss(),
        });
        if work.vectors {
            answer["vectors"] = json!(last.vectors);
        }
        Ok(answer)
    }
}

fn loaded<T>(cell: &OnceCell<T>, load: impl FnOnce() -> Result<T>) -> Result<&T> {
    if cell.get().is_none() {
        let _ = cell.set(load()?);
    }
    Ok(cell.get().expect("just set"))
}

fn timed(work: impl FnOnce() -> Result<(usize, Vec<Vec<f32>>)>) -> Result<Done> {
    let started = Instant::now();
    let (tokens, vectors) = work()?;
    Ok(Done { seconds: started.elapsed().as_secs_f64(), tokens, vectors })
}

fn count(sequences: &[&[u32]]) -> usize {
    sequences.iter().map(|ids| ids.len()).sum()
}

/// Mean-pooled vectors in the order given: longest first, packed up to the tokens that a batch holds by default.
fn embed(model: &Embedder, sequences: &[Vec<u32>], batch_tokens: usize) -> Result<(usize, Vec<Vec<f32>>)> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sequences[index].len()));
    let mut vectors = vec![Vec::new(); sequences.len()];
    let mut rest = &order[..];
    let mut total = 0;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|&&index| {
            tokens += sequences[index].len();
            tokens <= batch_tokens
        });
        let (group, behind) = rest.split_at(fitting.count().max(1));
        rest = behind;
        let batch = PackedBatch::new(&group.iter().map(|&index| &sequences[index][..]).collect::<Vec<_>>())?;
        total += batch.tokens();
        let pooled = model.embed(&batch, &EmbedOptions::default())?.to_vec2()?;
        group.iter().zip(pooled).for_each(|(&index, vector)| vectors[index] = vector);
    }
    Ok((total, vectors))
}

/// The same from texts; tokens are not counted.
fn embed_texts(model: &TextEmbedder, texts: &[String]) -> Result<(usize, Vec<Vec<f32>>)> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let outcomes = model.run(&texts, &EmbedRequest::default())?;
    let vectors = outcomes.into_iter().map(|outcome| match outcome?.value.embedding {
        Vector::Pooled(vector) => Ok(vector),
        Vector::Tokens(_) => Err("pooled vectors were asked for".into()),
    });
    Ok((0, vectors.collect::<Result<_>>()?))
}

/// Sequences with their caches and the logits behind each.
struct Decoding<'a> {
    model: &'a LanguageModel,
    caches: Vec<KvCache>,
    logits: Vec<Vec<f32>>,
}

impl<'a> Decoding<'a> {
    /// Reads prompts of one length.
    fn start(model: &'a LanguageModel, prompts: &[&[u32]]) -> Result<Self> {
        let caches = prompts.iter().map(|_| model.cache(STEP)).collect::<ettin::Result<_>>()?;
        let mut decoding = Self { model, caches, logits: Vec::new() };
        let length = prompts.first().ok_or("no prompts")?.len();
        if prompts.iter().any(|prompt| prompt.len() != length) {
            return Err("prompts must have one length".into());
        }
        for start in (0..length).step_by(STEP) {
            let end = length.min(start + STEP);
            decoding.feed(&prompts.iter().map(|prompt| &prompt[start..end]).collect::<Vec<_>>(), end == length)?;
        }
        Ok(decoding)
    }

    fn feed(&mut self, tokens: &[&[u32]], wanted: bool) -> Result<()> {
        let starts: Vec<usize> = self.caches.iter().map(KvCache::len).collect();
        let batch = PackedBatch::continuing(tokens, &starts)?;
        let rows: Vec<usize> =
            (0..batch.sequences()).filter(|_| wanted).map(|sequence| batch.rows(sequence).end - 1).collect();
        let mut caches: Vec<&mut KvCache> = self.caches.iter_mut().collect();
        self.logits = self.model.step(&batch, &mut caches, &rows)?.to_vec2()?;
        Ok(())
    }

    /// Adds one token to each sequence.
    fn step(&mut self, next: &[u32]) -> Result<()> {
        self.feed(&next.iter().map(std::slice::from_ref).collect::<Vec<_>>(), true)
    }

    /// Adds the most likely token, `steps` times; returns how many tokens that were.
    fn greedy(&mut self, steps: usize) -> Result<usize> {
        for _ in 0..steps {
            let next: Vec<u32> = self.logits.iter().map(|logits| most_likely(logits)).collect();
            self.step(&next)?;
        }
        Ok(steps * self.caches.len())
    }
}

fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

/// Peak resident memory of this process in bytes, where Linux tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Every number format by name, with the reason where this machine's CPU backend refuses it.
fn dtypes() -> Value {
    let tried = Dtype::ALL.iter().map(|&(dtype, name)| {
        let refusal = Backend::new(&Device::Cpu, dtype).err().map(|error| error.to_string());
        (name.to_owned(), json!(refusal))
    });
    Value::Object(tried.collect())
}

fn main() -> Result<()> {
    let (mut model, mut dtype) = (None, Dtype::Auto);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        if flag == "--dtypes" {
            println!("{}", dtypes());
            return Ok(());
        }
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--model" => model = Some(PathBuf::from(value)),
            "--dtype" => dtype = value.parse()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let peer = Peer::new(ModelFiles::folder(&model.ok_or("--model DIR is missing")?)?, dtype);
    let mut output = std::io::stdout().lock();
    let backend = peer.backend()?;
    let peak_flops = Calibration::default().limits(&backend, 1e6)?.map(|limits| limits.flops);
    writeln!(output, "{}", json!({"ready": format!("ettin-run, {}", backend.describe()), "peak_flops": peak_flops}))?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = peer.answer(&request.work).unwrap_or_else(|error| json!({"error": error.to_string()}));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}
