//! Runs the binary in a clean environment.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

/// A command of the binary without the caller's settings: no model, no cache, no network.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ettin-run"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        // The instruction set stays: the suite may be run once for each.
        let ours = name.starts_with("ETTIN_") && !matches!(&*name, "ETTIN_ISA" | "ETTIN_REFERENCE");
        // Those of text-embeddings-inference are read by `serve`.
        let theirs = matches!(&*name, "MODEL_ID" | "PORT" | "API_KEY" | "REVISION" | "DTYPE" | "POOLING" | "LOG_LEVEL");
        if ours || theirs || name.starts_with("HF_") || matches!(&*name, "RUST_LOG" | "NO_COLOR") {
            command.env_remove(&*name);
        }
    }
    command
        .args(arguments)
        .env("HF_HUB_CACHE", "no-such-cache")
        .env("HF_HUB_OFFLINE", "1")
        .current_dir(repository())
        .stdin(Stdio::null());
    command
}

/// Runs with arguments alone.
pub(crate) fn run(arguments: &[&str]) -> Run {
    finish(command(arguments), b"")
}

/// Runs with something piped in.
pub(crate) fn pipe(arguments: &[&str], input: impl AsRef<[u8]>) -> Run {
    let mut command = command(arguments);
    command.stdin(Stdio::piped());
    finish(command, input.as_ref())
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Run {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that stops reading early is one of the things tested.
            let _ = stdin.write_all(&input);
        }
    });
    let output = child.wait_with_output().expect("the binary ends");
    writer.join().expect("the writer ends");
    let run = Run {
        status: output.status.code(),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(!run.err.contains("panicked"), "{}", run.err);
    run
}

impl Run {
    /// Stdout of a run that must have ended with this status.
    pub(crate) fn text(&self, status: i32) -> &str {
        assert_eq!(self.status, Some(status), "stderr: {}", self.err);
        std::str::from_utf8(&self.out).expect("stdout is UTF-8")
    }

    /// The JSON lines of a run that must have ended with this status.
    pub(crate) fn lines(&self, status: i32) -> Vec<Value> {
        let lines = self.text(status).lines();
        lines.map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read_json(path: impl AsRef<Path>) -> Value {
    let path = repository().join(path);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("fixtures are JSON")
}

/// Equal in structure, key order and text, and nearly so in numbers: kernels differ in the last bits.
pub(crate) fn assert_close(ours: &Value, expected: &Value, what: &str) {
    match (ours, expected) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-5 + 1e-4 * b.abs(), "{what}: {a} is not {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{what}: {ours} is not {expected}");
            if let (Some(a), Some(b)) = (vector(a), vector(b)) {
                return assert_close_vectors(&a, &b, what);
            }
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                assert_close(a, b, &format!("{what}[{index}]"));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "{what}: keys and their order");
            for (key, value) in a {
                assert_close(value, &b[key], &format!("{what}.{key}"));
            }
        }
        _ => assert_eq!(ours, expected, "{what}"),
    }
}

/// A list of floats, with at least one that is no integer.
fn vector(values: &[Value]) -> Option<Vec<f64>> {
    values.iter().any(Value::is_f64).then_some(())?;
    values.iter().map(Value::as_f64).collect()
}

/// max|Δ| / max|reference| is small. The library's tests hold the numerical contract; here a mix-up must show.
pub(crate) fn assert_close_vectors(ours: &[f64], expected: &[f64], what: &str) {
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let scale = most(&mut expected.iter().map(|x| x.abs()));
    let difference = most(&mut ours.iter().zip(expected).map(|(a, b)| (a - b).abs()));
    assert!(difference <= 1e-3 * scale, "{what}: off by {difference} of {scale}");
}
