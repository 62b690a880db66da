//! The same work without a server.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ettin::files::ModelFiles;
use ettin::generate::GenerateRequest;
use ettin::tasks::{EmbedRequest, Generator, Options, TextEmbedder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Result, summary};

/// Calls of a task, one after the other.
#[derive(Debug, Deserialize)]
pub(crate) struct Calls {
    model: PathBuf,
    dtype: String,
    /// A file with a JSON string in each line.
    texts: PathBuf,
    /// For how long.
    seconds: f64,
    /// Continue all texts together by so many tokens, rather than embed one after the other.
    #[serde(default)]
    generate: Option<usize>,
    /// Where the last continuations go, a JSON string in a line.
    #[serde(default)]
    save: Option<PathBuf>,
}

pub(crate) fn run(calls: &Calls) -> Result<Value> {
    let texts = fs::read_to_string(&calls.texts)?;
    let texts = texts.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<String>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let files = ModelFiles::folder(&calls.model)?;
    let options = Options::default().with_dtype(calls.dtype.parse()?);
    match calls.generate {
        None => {
            let embedder = TextEmbedder::load(&files, &options)?;
            let request = EmbedRequest::default().with_normalize(true);
            repeat(calls.seconds, |number| {
                embedder.run(&texts[number % texts.len()..][..1], &request)?.pop().ok_or("no answer")??;
                Ok(1)
            })
        }
        Some(tokens) => {
            let generator = Generator::load(&files, &options)?;
            let request = GenerateRequest::default().with_max_new_tokens(tokens);
            let mut last = Vec::new();
            let result = repeat(calls.seconds, |_| {
                let outputs = generator.generate(&texts, &request)?.outputs;
                last = outputs.into_iter().map(|output| Ok(output?.value)).collect::<Result<Vec<_>>>()?;
                Ok(last.iter().map(|output| output.tokens.len()).sum())
            })?;
            if let Some(path) = &calls.save {
                let lines: String =
                    last.iter().map(|output| format!("{}\n", Value::from(output.text.as_str()))).collect();
                fs::write(path, lines)?;
            }
            Ok(result)
        }
    }
}

/// Calls, once outside the clock, then for so many seconds. Each says how much it did.
fn repeat(seconds: f64, mut call: impl FnMut(usize) -> Result<usize>) -> Result<Value> {
    call(0)?;
    let (begun, mut times, mut done) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed().as_secs_f64() < seconds || times.is_empty() {
        let one = Instant::now();
        done += call(times.len())?;
        times.push(one.elapsed().as_secs_f64());
    }
    Ok(json!({ "done": done, "seconds": begun.elapsed().as_secs_f64(), "latency": summary(times) }))
}
