//! `tokenize`.

use ettin::tasks::{Outcome, Tokenized, tokenize};
use ettin::tokenizer::Tokenizer;

use anyhow::Context;

use super::driver;
use crate::args;
use crate::exit::Status;
use crate::input::{self, ChunkSize, TextPair};
use crate::nano::Nano;
use crate::output::Payload;
use crate::plan::{self, Model, Output, Suited};

pub(super) fn run(args: args::Tokenize) -> anyhow::Result<Status> {
    let texts = input::texts(args.text, &plan::input(&args.input), "TEXT", TextPair::new)?.paired(args.pair);
    let output = Output::resolve(&args.output);
    plan::check_extra(args.input.extra, output.format)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Tokenizer::from_bytes(&bytes).with_context(|| path.display().to_string())?
        }
        None => {
            let model = Model::resolve(&args.model, Suited::Nano(Nano::Encoder), output.notes)?;
            Tokenizer::load(&model.open(output.notes)?)?
        }
    };
    let sink = output.open()?;
    driver::answer(texts, ChunkSize::LIGHT, &output, sink, |records| {
        let outcome = |value| Outcome { value, truncated: false };
        Ok(records
            .iter()
            .map(|(_, record)| tokenize(&tokenizer, record.input(), !args.no_special_tokens).map(outcome))
            .collect())
    })
}

impl Payload for Tokenized {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["ids", "tokens", "offsets"];
    const HEADS: &'static [&'static str] = &["id", "token", "start", "end"];

    fn rows(&self) -> Vec<Vec<String>> {
        let tokens = self.ids.iter().zip(&self.tokens).zip(&self.offsets);
        tokens
            .map(|((id, token), (start, end))| vec![id.to_string(), token.clone(), start.to_string(), end.to_string()])
            .collect()
    }
}
