//! Doing it: one function per sub-command.

mod answer;
mod bench;
mod choose;
mod classify;
mod convert;
mod driver;
mod embed;
mod extract;
mod fill_mask;
mod generate;
mod info;
mod man;
mod models;
mod multi_vector;
mod pull;
mod rerank;
mod score;
mod serve;
mod similarity;
mod stream;
mod tag;
mod tokenize;
mod zero_shot;

use crate::args::Command;
use crate::exit::Status;

/// Carries a command out.
pub(crate) fn run(command: Command) -> anyhow::Result<Status> {
    match command {
        Command::FillMask(args) => fill_mask::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Similarity(args) => similarity::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Tag(args) => tag::run(args),
        Command::Extract(args) => extract::run(args),
        Command::Answer(args) => answer::run(args),
        Command::Choose(args) => choose::run(args),
        Command::Rerank(args) => rerank::run(args),
        Command::Score(args) => score::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(args),
        Command::Models(args) => models::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Completions(args) => man::completions(args),
        Command::Man(args) => man::run(args),
    }
}
