//! `bench`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ettin::DeviceChoice;
use ettin::ops::Dtype;
use ettin_bench::{Workload, numbers, shapes};

use super::common::{HubArgs, QuietArgs, count, dtypes, threads};

/// Measure speed, memory, and how near both come to what this machine can do
///
/// Times encoders (enc), reading prompts (pp) and generating (tg), in tokens per second: mean ± standard deviation
/// after a warm-up. Tokenisation and sampling are not in the times. Short calibrations in the same run measure the peak
/// of arithmetic and of reading memory, and every row says what share of the nearer limit was reached.
///
/// Nothing has to be downloaded: an Ettin model that is not cached gets random weights in its exact shapes, which take
/// the same time, and its records say "random".
#[derive(Debug, Args)]
#[command(after_help = "\
Rows:
  enc B×L        B texts of L tokens to mean-pooled vectors, in one packed batch
  mixed N        N texts of lengths from 8 to 512 (median 81) in packed batches
  ppN ×B @ dD    reading B prompts of N tokens after D cached ones, to first scores
  tgN ×B @ dD    adding N tokens to each of B sequences, one by one
  load           from files (or random numbers) to a model ready to compute

Numbers:
  A list 1,8,32, a range 1-4 or 16-64+16 (steps of 16) or 128-4096*2 (doubling), or
  a list of those. Everything is combined with everything: models, dtypes, threads,
  batches, depths.

Limits:
  arithmetic  multiply-adds per second of all threads, from registers alone
  memory      bytes of weights and cached keys, at the rate this memory can be read
  A row names the one that binds. Counted work is that of the matrix products and of
  attention to the keys inside each span; see benches/protocols/cpu.md.

Examples:
  ettin-run bench
  ettin-run bench -m encoder-150m --enc 1,32x128 --mixed 256
  ettin-run bench -m decoder-150m -p 512 -n 128 -b 1,8 -t 1,2
  ettin-run bench -m encoder-32m --enc 8x16-512*2 --plot length.svg
  ettin-run bench --suite --format jsonl --output suite.jsonl --plot suite.svg
  ettin-run bench --compare before.jsonl")]
pub(crate) struct Bench {
    /// Models, separated by commas: any name --model takes elsewhere; nano is the embedded pair
    /// [default: encoder-17m,decoder-17m]
    #[arg(
        short,
        long = "model",
        env = "ETTIN_MODEL",
        value_name = "MODELS",
        value_delimiter = ',',
        help_heading = "Model"
    )]
    pub(crate) models: Vec<String>,

    /// Encoders and decoders of all six sizes, in place of --model
    #[arg(long, help_heading = "Model")]
    pub(crate) suite: bool,

    /// Random weights even where trained ones are at hand: nothing but a configuration is read
    #[arg(long, help_heading = "Model")]
    pub(crate) random_weights: bool,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    /// Texts x tokens for enc rows, such as 8x128 or 1,32x128-512*2; may be repeated
    /// [default: 1,8x128 and 1x512 on encoders]
    #[arg(long, value_name = "SHAPES", help_heading = "Workloads")]
    pub(crate) enc: Vec<Shapes>,

    /// Numbers of texts for mixed rows
    #[arg(long, value_name = "NUMBERS", help_heading = "Workloads")]
    pub(crate) mixed: Option<Numbers>,

    /// Prompt lengths for pp rows [default: 512 on decoders]
    #[arg(short, long, value_name = "NUMBERS", help_heading = "Workloads")]
    pub(crate) pp: Option<Numbers>,

    /// Numbers of generated tokens for tg rows [default: 32 on decoders]
    #[arg(short = 'n', long, value_name = "NUMBERS", help_heading = "Workloads")]
    pub(crate) tg: Option<Numbers>,

    /// Sequences at once in pp and tg rows
    #[arg(short, long, default_value = "1", value_name = "NUMBERS", help_heading = "Workloads")]
    pub(crate) batch: Numbers,

    /// Tokens in the cache before pp and tg rows begin; 0 is allowed
    #[arg(short, long, default_value = "0", value_name = "NUMBERS", help_heading = "Workloads")]
    pub(crate) depth: Depths,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, env = "ETTIN_DEVICE", default_value = "auto", value_name = "DEVICE", help_heading = "Computation")]
    pub(crate) device: DeviceChoice,

    /// Numeric schemes, separated by commas; one that the device lacks is refused by name
    #[arg(
        long,
        env = "ETTIN_DTYPE",
        default_value = "auto",
        value_name = "DTYPES",
        value_delimiter = ',',
        value_parser = dtypes(),
        help_heading = "Computation"
    )]
    pub(crate) dtype: Vec<Dtype>,

    /// Numbers of threads [default: RAYON_NUM_THREADS, else all cores]
    #[arg(
        short,
        long,
        env = "ETTIN_THREADS",
        value_name = "NUMBERS",
        value_parser = thread_numbers,
        help_heading = "Computation"
    )]
    pub(crate) threads: Option<Numbers>,

    /// Most tokens of one packed batch in mixed rows
    #[arg(long, env = "ETTIN_BATCH_TOKENS", value_name = "N", value_parser = count, help_heading = "Computation")]
    pub(crate) batch_tokens: Option<std::num::NonZeroUsize>,

    /// Least number of repetitions
    #[arg(short, long, default_value = "5", value_name = "N", value_parser = count, help_heading = "Measuring")]
    pub(crate) repetitions: std::num::NonZeroUsize,

    /// Repetitions before those, which do not count
    #[arg(long, default_value = "1", value_name = "N", help_heading = "Measuring")]
    pub(crate) warmup: usize,

    /// Short rows are repeated until so many seconds were measured
    #[arg(long, default_value = "0.3", value_name = "SECONDS", value_parser = seconds, help_heading = "Measuring")]
    pub(crate) min_time: Duration,

    /// Skip the calibrations, and with them the shares
    #[arg(long, help_heading = "Measuring")]
    pub(crate) no_limits: bool,

    /// Output format [default: md on a terminal, else jsonl]
    #[arg(short, long, env = "ETTIN_FORMAT", value_name = "FORMAT", help_heading = "Output")]
    pub(crate) format: Option<BenchFormat>,

    /// Write to FILE instead of stdout; the file appears when it is complete
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,

    /// Set the results beside those of an earlier run (json or jsonl), as the ratio of the mean times of a repetition;
    /// a row that was other work under the same name is refused, rows that the earlier run lacks are named
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) compare: Option<PathBuf>,

    /// Draw tokens/s against size and length as SVG
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) plot: Option<PathBuf>,

    /// Draw bars on stderr
    #[arg(long, help_heading = "Output")]
    pub(crate) chart: bool,

    #[command(flatten)]
    pub(crate) quiet: QuietArgs,
}

/// `bench --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    /// A Markdown table, which a terminal shows as well
    #[value(alias = "table")]
    Md,
    /// A line of heads and a line per row
    Csv,
    /// One JSON array
    Json,
    /// One JSON document per row, as soon as it is measured
    Jsonl,
}

/// A list of positive numbers and ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbers(pub(crate) Vec<usize>);

impl FromStr for Numbers {
    type Err = ettin::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        numbers(text).map(Numbers)
    }
}

/// The same with zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Depths(pub(crate) Vec<usize>);

impl FromStr for Depths {
    type Err = ettin::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |part: &str| if part.trim() == "0" { Ok(vec![0]) } else { numbers(part) };
        Ok(Depths(text.split(',').map(part).collect::<Result<Vec<_>, _>>()?.concat()))
    }
}

/// Batches x lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shapes(pub(crate) Vec<Workload>);

impl FromStr for Shapes {
    type Err = ettin::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        shapes(text).map(Shapes)
    }
}

fn thread_numbers(text: &str) -> Result<Numbers, String> {
    let numbers = numbers(text).map_err(|error| error.to_string())?;
    for number in &numbers {
        threads(&number.to_string())?;
    }
    Ok(Numbers(numbers))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "must be a number of seconds, such as 0.3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn bench(arguments: &[&str]) -> Result<Bench, clap::Error> {
        match parse(["ettin-run", "bench"].iter().chain(arguments))?.command {
            Command::Bench(bench) => Ok(bench),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_and_ranges_of_everything() {
        let args = bench(&[
            "-m",
            "encoder-17m,decoder-17m",
            "--enc",
            "1,8x16-64*2",
            "--enc",
            "2x7",
            "-p",
            "128,512",
            "-n",
            "8-10",
            "-b",
            "1,4",
            "-d",
            "0,1024",
            "-t",
            "1-2",
            "--dtype",
            "auto,f32",
            "--mixed",
            "64",
            "--min-time",
            "0",
        ])
        .unwrap();
        assert_eq!(args.models, ["encoder-17m", "decoder-17m"]);
        let shapes: Vec<usize> = args.enc.iter().map(|shapes| shapes.0.len()).collect();
        assert_eq!(shapes, [6, 1]);
        assert_eq!(args.pp, Some(Numbers(vec![128, 512])));
        assert_eq!(args.tg, Some(Numbers(vec![8, 9, 10])));
        assert_eq!((args.batch, args.depth), (Numbers(vec![1, 4]), Depths(vec![0, 1024])));
        assert_eq!((args.threads, args.dtype.len()), (Some(Numbers(vec![1, 2])), 2));
        assert_eq!(args.min_time, Duration::ZERO);
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            &["--enc", "128"][..],
            &["-p", "0"],
            &["-n", "8-4"],
            &["-t", "0"],
            &["-t", "5000"],
            &["-r", "0"],
            &["--min-time", "-1"],
            &["--min-time", "nan"],
            &["--dtype", "f33"],
            &["--format", "npy"],
            &["-d", "x"],
        ] {
            assert!(bench(wrong).is_err(), "{wrong:?}");
        }
        // What ETTIN_FORMAT says for the other commands is understood.
        assert_eq!(bench(&["--format", "table"]).unwrap().format, Some(BenchFormat::Md));
    }
}
