//! `answer`.

use ettin::tasks::{self, AnswerRequest, Answerer, Question};

use super::driver;
use crate::args;
use crate::exit::Status;
use crate::input::{self, Input, QuestionContext, Texts};
use crate::output::{Payload, number, shortened};
use crate::plan::{self, Plan, Suited};

pub(super) fn run(args: args::Answer) -> anyhow::Result<Status> {
    let texts = texts(args.question, args.context, &plan::input(&args.run.input))?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("a question-answering head"))?;
    let job = plan.open()?;
    let task = driver::until_exit(Answerer::load(&job.files, &plan.options)?);
    let request = AnswerRequest::default().with_no_answer(args.no_answer);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let questions: Vec<Question<'_>> = records
            .iter()
            .map(|(_, record)| Question { question: record.question(), context: &record.context })
            .collect();
        Ok(task.run(&questions, &request)?)
    })
}

fn texts(question: Option<String>, contexts: Vec<String>, input: &Input) -> anyhow::Result<Texts<QuestionContext>> {
    match question {
        None => input::records(input, "QUESTION"),
        Some(question) => Ok(input::parts(contexts, input, "CONTEXT", QuestionContext::new)?.asked(question)),
    }
}

impl Payload for tasks::Answer {
    const LIST: bool = false;
    const KEYS: &'static [&'static str] = &["answer", "score", "start", "end", "truncated"];
    const HEADS: &'static [&'static str] = &["score", "answer", "start", "end"];

    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![number(self.score.into()), shortened(&self.answer), self.start.to_string(), self.end.to_string()]]
    }
}
