//! This engine's worker for the comparison with other engines: our half of `scripts/peers/`.
//!
//! Speaks the protocol of `scripts/peers/README.md` on standard input and output. `ETTIN_ISA` and `RAYON_NUM_THREADS`
//! are followed as everywhere.
//!
//! ```sh
//! cargo run --release -p ettin-bench --example peer -- --model DIR --dtype f32 [--device cuda]
//! # The number formats that this machine's CPU backend takes, and why not the others:
//! cargo run --release -p ettin-bench --example peer -- --dtypes
//! ```

use std::{
    cell::OnceCell,
    error::Error,
    io::{BufRead, Write},
    ops::ControlFlow,
    path::PathBuf,
    time::Instant,
};

use candle_core::Device;
use ettin::{
    Backend, DeviceChoice, Dtype, KvCache, PackedBatch,
    files::ModelFiles,
    generate::{GenerateRequest, Sampler, Sampling, Scratch},
    heads::{EmbedOptions, Embedder, LanguageModel},
    tasks::{EmbedRequest, Generator, Options, TextEmbedder, TextVectors},
    tokenizer::Tokenizer,
};
use ettin_bench::{Bound, Calibration, Workload, pass_weights};
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
    /// What guesses ahead: `lookup`, or the same model in the number format of that name.
    #[serde(default)]
    draft: Option<String>,
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
    generated: Option<Generated>,
}

/// The tokens of a generation, how many a draft guessed, and how many of those were right.
#[derive(Default)]
struct Generated {
    ids: Vec<u32>,
    drafted: usize,
    accepted: usize,
}

/// A model in the forms that work asks for, each loaded when it is first needed.
struct Peer {
    files: ModelFiles,
    options: Options,
    embedder: OnceCell<Embedder>,
    text: OnceCell<TextEmbedder>,
    tokenizer: OnceCell<Tokenizer>,
    language: OnceCell<LanguageModel>,
    /// With the draft that the first work of this kind asked for.
    generator: OnceCell<Generator>,
}

impl Peer {
    fn new(files: ModelFiles, options: Options) -> Self {
        Self {
            files,
            options,
            embedder: OnceCell::new(),
            text: OnceCell::new(),
            tokenizer: OnceCell::new(),
            language: OnceCell::new(),
            generator: OnceCell::new(),
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
            "generate" => generate(loaded(&self.generator, || self.load_generator(work))?, work),
            kind => {
                let model = loaded(&self.language, || Ok(LanguageModel::load(&self.files, &self.backend()?)?))?;
                let sequences: Vec<&[u32]> = work.sequences.iter().map(Vec::as_slice).collect();
                match kind {
                    "prefill" => timed(|| {
                        Ok((
                            count(&sequences),
                            Decoding::start(model, &sequences)?.rows().map(<[f32]>::to_vec).collect(),
                        ))
                    }),
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
                            Ok((count(&sequences), decoding.rows().map(<[f32]>::to_vec).collect()))
                        })
                    }
                    _ => Err(format!("unknown kind of work {kind:?}").into()),
                }
            }
        }
    }

    fn load_generator(&self, work: &Work) -> Result<Generator> {
        let plain = Generator::load(&self.files, &self.options)?;
        Ok(match work.draft.as_deref() {
            None => plain,
            Some("lookup") => plain.with_lookup(),
            Some(dtype) => plain.with_draft_model(&self.files, &self.options.clone().with_dtype(dtype.parse()?))?,
        })
    }

    /// The least seconds that this machine, as it is at this moment, needs for `work`, why, and the bytes of the
    /// weights that one pass over the model reads; none for other than decoders' work.
    fn limit(&self, work: &Work) -> Result<Option<(f64, Bound, f64)>> {
        let batch = work.sequences.len();
        let length = work.sequences.first().map_or(0, Vec::len);
        let workload = match work.kind.as_str() {
            "prefill" => Workload::Prefill { tokens: length, batch, depth: 0 },
            "decode" => Workload::Decode { tokens: work.new_tokens, batch, depth: length },
            _ => return Ok(None),
        };
        let Some(model) = self.language.get() else { return Ok(None) };
        let weights = pass_weights(model.config());
        let limits = Calibration::default().limits(model.trunk().backend(), weights)?;
        Ok(limits.map(|limits| {
            let (seconds, bound) = limits.of(&workload.cost(model.config(), self.options.batch_tokens));
            (seconds, bound, weights * limits.weight_bytes)
        }))
    }

    /// The same for an answer.
    fn limit_fields(&self, work: &Work) -> Result<serde_json::Map<String, Value>> {
        let fields = self.limit(work)?.map(|(seconds, bound, weight_bytes)| {
            [("limit_seconds", json!(seconds)), ("bound", json!(bound)), ("weight_bytes", json!(weight_bytes))]
        });
        Ok(fields.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The limit of work that passed it, or the peak of arithmetic, measured once more.
    fn limit_again(&self, work: &Work) -> Result<Value> {
        let mut fields = self.limit_fields(work)?;
        if fields.is_empty() {
            fields.insert("peak_flops".to_owned(), json!(peak_flops(&self.backend()?)?));
        }
        Ok(Value::Object(fields))
    }

    fn answer(&self, work: &Work) -> Result<Value> {
        if work.repeat == 0 {
            return self.limit_again(work);
        }
        let runs = (0..work.repeat).map(|_| self.run(work)).collect::<Result<Vec<_>>>()?;
        let last = runs.last().ok_or("repeat must be at least 1")?;
        let mut answer = json!({
            "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
            "tokens": last.tokens,
            "peak_rss": peak_rss(),
        });
        answer.as_object_mut().ok_or("an object")?.extend(self.limit_fields(work)?);
        if let Some(Generated { ids, drafted, accepted }) = &last.generated {
            answer["generated"] = json!({"ids": ids, "drafted": drafted, "accepted": accepted});
        }
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
    Ok(Done { seconds: started.elapsed().as_secs_f64(), tokens, vectors, generated: None })
}

/// Greedy text behind one prompt after another, from its last logits on; beyond the end of text, so that all have one
/// length.
fn generate(generator: &Generator, work: &Work) -> Result<Done> {
    let request = GenerateRequest::default().with_max_new_tokens(work.new_tokens).with_ignore_eos(true);
    let (mut seconds, mut generated) = (0.0, Generated::default());
    for prompt in &work.texts {
        for outcome in generator.run(&[prompt], &request, &mut |_| ControlFlow::Continue(()))?.outputs {
            let (tokens, timings) = outcome.map(|outcome| (outcome.value.tokens, outcome.value.timings))?;
            seconds += timings.generate_ms / 1000.0;
            generated.ids.extend(tokens);
            if let Some(draft) = timings.draft {
                generated.drafted += draft.drafted_tokens;
                generated.accepted += draft.accepted_tokens;
            }
        }
    }
    Ok(Done { seconds, tokens: generated.ids.len(), vectors: Vec::new(), generated: Some(generated) })
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
        TextVectors::Pooled(vector) => Ok(vector),
        _ => Err("pooled vectors were asked for".into()),
    });
    Ok((0, vectors.collect::<Result<_>>()?))
}

/// Sequences with their caches and the logits behind each.
struct Decoding<'a> {
    model: &'a LanguageModel,
    caches: Vec<KvCache>,
    batch: PackedBatch,
    /// `[sequences, vocabulary]`; empty before the prompts' ends.
    logits: Vec<f32>,
}

impl<'a> Decoding<'a> {
    /// Reads prompts of one length.
    fn start(model: &'a LanguageModel, prompts: &[&[u32]]) -> Result<Self> {
        let caches = prompts.iter().map(|_| model.cache(STEP)).collect::<ettin::Result<_>>()?;
        let mut decoding = Self { model, caches, batch: PackedBatch::default(), logits: Vec::new() };
        let length = prompts.first().ok_or("no prompts")?.len();
        if prompts.iter().any(|prompt| prompt.len() != length) {
            return Err("prompts must have one length".into());
        }
        for start in (0..length).step_by(STEP) {
            let end = length.min(start + STEP);
            decoding.feed(prompts.iter().map(|prompt| &prompt[start..end]), end == length)?;
        }
        Ok(decoding)
    }

    fn feed<'t>(&mut self, tokens: impl Iterator<Item = &'t [u32]>, wanted: bool) -> Result<()> {
        self.batch.clear();
        let mut rows = Vec::with_capacity(self.caches.len());
        for (tokens, cache) in tokens.zip(&self.caches) {
            self.batch.push(tokens, cache.len())?;
            rows.extend(wanted.then(|| self.batch.tokens() - 1));
        }
        let mut caches: Vec<&mut KvCache> = self.caches.iter_mut().collect();
        Ok(self.model.step_into(&self.batch, &mut caches, &rows, &mut self.logits)?)
    }

    /// The logits of each sequence.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.model.config().vocab_size)
    }

    /// Adds one token to each sequence.
    fn step(&mut self, next: &[u32]) -> Result<()> {
        self.feed(next.iter().map(std::slice::from_ref), true)
    }

    /// Adds the most likely token, `steps` times; returns how many tokens that were.
    fn greedy(&mut self, steps: usize) -> Result<usize> {
        let (sampler, mut scratch) = (Sampler::new(&Sampling::default())?, Scratch::default());
        for _ in 0..steps {
            let next = self.rows().map(|logits| sampler.choose(logits, &[], 0, &mut scratch));
            let next = next.collect::<ettin::Result<Vec<_>>>()?;
            self.step(&next)?;
        }
        Ok(steps * self.caches.len())
    }
}

/// The peak of arithmetic in the backend's number format, as this machine is at this moment.
fn peak_flops(backend: &Backend) -> Result<Option<f64>> {
    Ok(Calibration::default().limits(backend, 1e6)?.map(|limits| limits.flops))
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
    let (mut model, mut options) = (None, Options::default());
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        if flag == "--dtypes" {
            println!("{}", dtypes());
            return Ok(());
        }
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--model" => model = Some(PathBuf::from(value)),
            "--dtype" => options.dtype = value.parse()?,
            "--device" => options.device = value.parse::<DeviceChoice>()?.open()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let peer = Peer::new(ModelFiles::folder(&model.ok_or("--model DIR is missing")?)?, options);
    let mut output = std::io::stdout().lock();
    let backend = peer.backend()?;
    let peak_flops = peak_flops(&backend)?;
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
