//! Loads a server and measures its answers, or measures the library without one: our half of
//! `scripts/serving/speed.py`.
//!
//! JSON on stdin says what to do ([`Work`]), JSON on stdout what came of it. Threads that block on their own
//! connections are the lightest client there is: the kernel wakes the one whose answer is there, and nothing polls.
//!
//! ```sh
//! cargo run --release -p ettin-server --example load < WORK.json
//! ```

mod clients;
mod connection;
mod library;

use std::error::Error;
use std::io;

use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What to do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    /// Requests to a server.
    Load(clients::Load),
    /// Calls of the library in this process.
    Library(library::Calls),
}

fn main() -> Result<()> {
    let answer = match serde_json::from_reader(io::stdin().lock())? {
        Work::Load(load) => clients::run(load)?,
        Work::Library(calls) => library::run(&calls)?,
    };
    println!("{answer}");
    Ok(())
}

/// Times of calls in seconds: their number, quantiles and mean.
fn summary(mut seconds: Vec<f64>) -> serde_json::Value {
    seconds.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| seconds.get(((seconds.len().max(1) - 1) as f64 * share).round() as usize);
    let mean = seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
    serde_json::json!({
        "count": seconds.len(), "mean": mean,
        "median": at(0.5), "p90": at(0.9), "p99": at(0.99), "most": at(1.0),
    })
}
