//! This engine's worker for the comparison of heads with their libraries: our half of `scripts/heads_speed.py`.
//!
//! Speaks the protocol of `scripts/peers/README.md`, with work of its own. `ETTIN_ISA` and `RAYON_NUM_THREADS` are
//! followed as everywhere.
//!
//! ```sh
//! cargo run --release -p ettin-bench --example heads -- --head multi-vector|sparse|zero-shot --model DIR --dtype f32
//! cargo run --release -p ettin-bench --example heads -- --head maxsim
//! ```

use std::{
    error::Error,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use ettin::{
    files::ModelFiles,
    tasks::{
        EmbedRequest, MultiVectorEncoder, Options, SearchSide, TextEmbedder, TextVectors, ZeroShotClassifier,
        ZeroShotInput, ZeroShotRequest,
    },
};
use ettin_kernels::{
    DocumentVectors, Isa, MaxSimQueries, Scheme, Team, max_sim,
    roofline::{self, Operands},
};
use serde::Deserialize;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One piece of work; fields that belong to other heads are ignored.
#[derive(Deserialize)]
struct Work {
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    labels: Vec<String>,
    /// Files of f32: the vectors of a query, and of documents of `length` vectors each.
    #[serde(default)]
    query: PathBuf,
    #[serde(default)]
    documents: PathBuf,
    #[serde(default)]
    length: usize,
    #[serde(default)]
    size: usize,
    #[serde(default = "once")]
    repeat: usize,
    /// Where the numbers of the last repetition go, as f32.
    #[serde(default)]
    output: Option<PathBuf>,
}

fn once() -> usize {
    1
}

#[derive(Deserialize)]
struct Request {
    work: Work,
}

/// What computes a head.
enum Worker {
    MultiVector(Box<MultiVectorEncoder>),
    Sparse(Box<TextEmbedder>),
    ZeroShot(Box<ZeroShotClassifier>),
    MaxSim { isa: Isa, team: Team, last: Option<Vectors> },
}

/// The vectors of a query and of documents, kept from one work to the next.
struct Vectors {
    paths: [PathBuf; 2],
    query: Vec<f32>,
    documents: Vec<f32>,
}

/// What one repetition took and gave: numbers, where each text's begin, and the end of the last.
struct Done {
    seconds: f64,
    values: Vec<f32>,
    offsets: Vec<usize>,
}

impl Worker {
    fn load(head: &str, model: Option<&Path>, options: &Options) -> Result<Self> {
        if head == "maxsim" {
            return Ok(Worker::MaxSim { isa: Isa::select()?, team: Team::global(), last: None });
        }
        let files = ModelFiles::folder(model.ok_or("--model DIR is missing")?)?;
        Ok(match head {
            "multi-vector" => Worker::MultiVector(Box::new(MultiVectorEncoder::load(&files, options)?)),
            "sparse" => Worker::Sparse(Box::new(TextEmbedder::load(&files, options)?)),
            "zero-shot" => Worker::ZeroShot(Box::new(ZeroShotClassifier::load(&files, options)?)),
            _ => return Err(format!("unknown head {head:?}").into()),
        })
    }

    /// Who works: number format, instruction set, threads.
    fn describe(&self) -> String {
        match self {
            Worker::MultiVector(task) => task.model().trunk().backend().describe(),
            Worker::Sparse(task) => {
                task.model().map_or("looked up".to_owned(), |model| model.trunk().backend().describe())
            }
            Worker::ZeroShot(task) => task.model().trunk().backend().describe(),
            Worker::MaxSim { isa, team, .. } => format!("max_sim, {isa}, {} thread(s)", team.threads()),
        }
    }

    fn run(&mut self, work: &Work) -> Result<Done> {
        let texts: Vec<&str> = work.texts.iter().map(String::as_str).collect();
        let labels: Vec<&str> = work.labels.iter().map(String::as_str).collect();
        match self {
            Worker::MultiVector(task) => {
                let started = Instant::now();
                let vectors = task.encode(&texts, SearchSide::Document)?;
                let seconds = started.elapsed().as_secs_f64();
                Ok(Done::of(seconds, vectors.into_iter().map(|vectors| vectors.values)))
            }
            Worker::Sparse(task) => {
                let size = task.model().ok_or("vectors that are looked up")?.config().vocab_size;
                let started = Instant::now();
                let outcomes = task.run(&texts, &EmbedRequest::default())?;
                let seconds = started.elapsed().as_secs_f64();
                let mut rows = Vec::new();
                for outcome in outcomes {
                    let TextVectors::Sparse(vector) = outcome?.value.embedding else {
                        return Err("the vectors are not sparse".into());
                    };
                    // Only where they are compared: thousands of rows are memory that the work does not take.
                    if work.output.is_some() {
                        let mut row = vec![0.0; size];
                        vector.indices.iter().zip(&vector.values).for_each(|(&i, &value)| row[i as usize] = value);
                        rows.push(row);
                    }
                }
                Ok(Done::of(seconds, rows.into_iter()))
            }
            Worker::ZeroShot(task) => {
                let started = Instant::now();
                let mut answers = Vec::new();
                // A text is a call, as the pipeline is asked.
                for text in &texts {
                    let input = ZeroShotInput { text, labels: labels.clone() };
                    answers.extend(task.run(&[input], &ZeroShotRequest::default())?);
                }
                let seconds = started.elapsed().as_secs_f64();
                let mut rows = Vec::new();
                for answer in answers {
                    let answer = answer?.value;
                    let score = |label| answer.labels.iter().position(|found| found == label).map(|i| answer.scores[i]);
                    rows.push(labels.iter().filter_map(score).collect());
                }
                Ok(Done::of(seconds, rows.into_iter()))
            }
            Worker::MaxSim { isa, team, last } => {
                let paths = [work.query.clone(), work.documents.clone()];
                if last.as_ref().is_none_or(|last| last.paths != paths) {
                    let [query, documents] = [numbers(&paths[0])?, numbers(&paths[1])?];
                    *last = Some(Vectors { paths, query, documents });
                }
                let Vectors { query, documents, .. } = last.as_ref().ok_or("no vectors")?;
                let count = documents.len() / (work.length * work.size);
                let offsets: Vec<usize> = (0..=count).map(|document| document * work.length).collect();
                let mut scores = vec![0.0; count];
                let started = Instant::now();
                let ends = [0, query.len() / work.size];
                let packed = MaxSimQueries::pack(*isa, Scheme::F32, team, query, work.size, &ends);
                max_sim(team, &packed, DocumentVectors::F32(documents), &offsets, &mut scores);
                let seconds = started.elapsed().as_secs_f64();
                Ok(Done::of(seconds, [scores].into_iter()))
            }
        }
    }

    fn answer(&mut self, work: &Work) -> Result<Value> {
        let runs = (0..work.repeat).map(|_| self.run(work)).collect::<Result<Vec<_>>>()?;
        let last = runs.last().ok_or("repeat must be at least 1")?;
        if let Some(path) = &work.output {
            std::fs::write(path, last.values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        let mut answer = json!({
            "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
            "offsets": if work.output.is_some() { &last.offsets[..] } else { &[] },
            "peak_rss": peak_rss(),
        });
        if let Worker::MaxSim { isa, team, .. } = self {
            // Behind the clock, as the machine is at this moment.
            answer["peak_flops"] = json!(roofline::peak(*isa, team, Operands::F32));
        }
        Ok(answer)
    }
}

impl Done {
    fn of(seconds: f64, rows: impl Iterator<Item = Vec<f32>>) -> Self {
        let mut done = Done { seconds, values: Vec::new(), offsets: vec![0] };
        for row in rows {
            done.values.extend(row);
            done.offsets.push(done.values.len());
        }
        done
    }
}

/// A file of f32.
fn numbers(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

/// Peak resident memory of this process in bytes, where Linux tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn main() -> Result<()> {
    let (mut model, mut head, mut options) = (None, String::new(), Options::default());
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--head" => head = value,
            "--model" => model = Some(PathBuf::from(value)),
            "--dtype" => options.dtype = value.parse()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let mut worker = Worker::load(&head, model.as_deref(), &options)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", json!({"ready": format!("ettin-run, {}", worker.describe())}))?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = worker.answer(&request.work).unwrap_or_else(|error| json!({"error": error.to_string()}));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}
