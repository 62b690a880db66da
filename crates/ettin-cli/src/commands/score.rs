//! `score`.

use ettin::tasks::{ScoreInput, ScoreMethod, ScoreRequest, Scored, Scorer};

use super::driver;
use crate::args::{self, MethodChoice};
use crate::exit::Status;
use crate::input::{self, ContextText};
use crate::nano::Nano;
use crate::output::{Payload, number};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Score) -> anyhow::Result<Status> {
    let texts =
        input::texts(args.text, &plan::input(&args.run.input), "TEXT", ContextText::new)?.in_context(args.context);
    let suited = match args.method {
        None | Some(MethodChoice::Causal) => Nano::Decoder,
        Some(MethodChoice::Pll | MethodChoice::LeftToRight) => Nano::Encoder,
    };
    let plan = Plan::new(&args.run, Suited::Nano(suited))?;
    let job = plan.open()?;
    let task = driver::until_exit(Scorer::load(&job.files, &plan.options)?);
    let method = args.method.map(|method| match method {
        MethodChoice::Causal => ScoreMethod::Causal,
        MethodChoice::Pll => ScoreMethod::Pll,
        MethodChoice::LeftToRight => ScoreMethod::LeftToRight,
    });
    let request = ScoreRequest::default().with_method(method).with_bos(!args.no_bos).with_join(args.join);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let inputs: Vec<ScoreInput<'_>> = records
            .iter()
            .map(|(_, record)| ScoreInput { text: &record.text, context: record.context.as_deref() })
            .collect();
        Ok(task.run(&inputs, &request)?)
    })
}

impl Payload for Scored {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["method", "tokens", "sum", "count", "perplexity", "truncated"];
    const HEADS: &'static [&'static str] = &["logprob", "token", "token_str"];

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = self
            .tokens
            .iter()
            .map(|token| {
                vec![
                    token.logprob.map_or_else(String::new, |logprob| number(logprob.into())),
                    token.token.to_string(),
                    format!("{:?}", token.token_str),
                ]
            })
            .collect();
        let perplexity = self.perplexity.map_or_else(|| "none".into(), number);
        rows.push(vec![number(self.sum), String::new(), format!("sum of {}, perplexity {perplexity}", self.count)]);
        rows
    }
}
