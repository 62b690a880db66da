//! `answer`.

use ettin::tasks::{self, AnswerRequest, Answerer, Question};

use super::driver;
use crate::args;
use crate::exit::Status;
use crate::input::{self, InputFormat, QuestionContext, Texts};
use crate::output::{Payload, number, shortened};
use crate::plan::{Plan, Suited};

pub(super) fn run(args: args::Answer) -> anyhow::Result<Status> {
    let texts = texts(args.question, args.context, &args.run.input)?;
    let plan = Plan::new(&args.run, Suited::NeedsHead("a question-answering head"))?;
    let job = plan.open()?;
    let task = driver::until_exit(Answerer::load(&job.files, &plan.options)?);
    driver::answer(texts, plan.chunk_size(), &plan.output, job.sink, |records| {
        let questions: Vec<Question<'_>> = records
            .iter()
            .map(|(_, record)| Question { question: &record.question, context: &record.context })
            .collect();
        Ok(task.run(&questions, &AnswerRequest::default())?)
    })
}

fn texts(
    question: Option<String>,
    contexts: Vec<String>,
    input: &args::InputArgs,
) -> anyhow::Result<Texts<QuestionContext>> {
    let Some(question) = question else {
        return input::records(input, "QUESTION");
    };
    let asked = move |context| QuestionContext { id: None, question: question.clone(), context };
    if contexts.is_empty() {
        let source = input::plain_source(input, "CONTEXT")?;
        return Ok(Texts::lines(source, InputFormat::Text, Some(Box::new(asked))));
    }
    input::refuse_both(input, "CONTEXT")?;
    Ok(Texts::Arguments(contexts.into_iter().map(asked).collect()))
}

impl Payload for tasks::Answer {
    const LIST: bool = false;
    const HEADS: &'static [&'static str] = &["score", "answer", "start", "end"];

    fn rows(&self) -> Vec<Vec<String>> {
        vec![vec![number(self.score.into()), shortened(&self.answer), self.start.to_string(), self.end.to_string()]]
    }
}
