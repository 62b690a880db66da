//! Speculation: whatever is proposed, the result is that of plain decoding.

use super::*;

/// Everything but the speed.
fn results(runs: Vec<Result<Run>>) -> Vec<(String, Vec<u32>, FinishReason, usize)> {
    let runs = runs.into_iter().map(Result::unwrap);
    runs.map(|run| {
        assert_eq!(run.text, run.streamed);
        (run.text, run.tokens, run.reason, run.finishes)
    })
    .collect()
}

fn counts(runs: &[Result<Run>]) -> (usize, usize) {
    let runs = || runs.iter().map(|run| run.as_ref().unwrap());
    (runs().map(|run| run.drafted).sum(), runs().map(|run| run.accepted).sum())
}

/// Agrees with [`Scripted::noise`] on some five eighths of all continuations.
fn near() -> Scripted {
    Scripted { off: 3, ..Scripted::noise() }
}

fn prompts() -> Vec<Vec<u32>> {
    [1, 3, 700, 40].map(|len| (0..len).map(|i| 5 + i * 31 % 4000).collect()).to_vec()
}

fn penalised(request: GenerateRequest) -> GenerateRequest {
    let sampling = Sampling { repetition_penalty: 1.3, top_p: Some(0.9), ..request.sampling };
    GenerateRequest { sampling, ..request }
}

#[test]
fn speculative_equals_plain() {
    for request in [greedy(23), sampled(4, 23), penalised(sampled(5, 23)), penalised(greedy(9))] {
        for samples in [1, 3] {
            let request = GenerateRequest { samples, ..request.clone() };
            let model = Scripted::noise();
            let plain = results(run(&model, &request, &prompts(), 715));
            let steps = model.steps.borrow().len();
            for draft_tokens in [1, 2, 5, 64] {
                let request = GenerateRequest { draft_tokens, ..request.clone() };
                let (model, near) = (Scripted::noise(), near());
                let runs = drafted(ModelDraft::new(&near), &model, &request, &prompts(), 715);
                let (proposals, accepted) = counts(&runs);
                assert!(0 < accepted && accepted < proposals, "{accepted} of {proposals}");
                assert!(model.steps.borrow().len() < steps, "no step was saved");
                assert_eq!(results(runs), plain, "{draft_tokens} drafts");
            }
        }
    }
}

#[test]
fn without_tokens_to_draft_it_is_plain() {
    let request = GenerateRequest { draft_tokens: 0, ..greedy(9) };
    let (model, near) = (Scripted::noise(), near());
    let runs = drafted(ModelDraft::new(&near), &model, &request, &prompts(), 1024);
    assert_eq!((counts(&runs), near.steps.borrow().len()), ((0, 0), 0));
    assert_eq!(results(runs), results(run(&model, &request, &prompts(), 1024)));
    let (tokenizer, too_many) = (tokenizer(), GenerateRequest { draft_tokens: MAX_DRAFTED + 1, ..greedy(9) });
    assert!(start(NoDraft, &model, &tokenizer, &too_many, 9).is_err());
}

#[test]
fn a_perfect_draft_is_never_rejected() {
    for request in [greedy(40), sampled(4, 40), penalised(sampled(5, 40))] {
        let (model, same) = (Scripted::noise(), Scripted::noise());
        let runs = drafted(ModelDraft::new(&same), &model, &request, &[vec![2, 7]], 1024);
        let (proposals, accepted) = counts(&runs);
        assert_eq!(proposals, accepted);
        // 2, 4 and then 8 proposals a step, and one token more.
        assert_eq!(*model.steps.borrow(), [2, 3, 5, 9, 9, 9, 4]);
        assert_eq!(results(runs), results(run(&model, &request, &[vec![2, 7]], 1024)));
    }
}

#[test]
fn lookup_quotes_what_was_said_before() {
    let words = tokenizer().ids(" one two three four five six seven").unwrap();
    let script = [&[2], &words[..]].concat();
    let (model, request) = (Scripted::new(&script), greedy(60));
    let plain = results(run(&model, &request, std::slice::from_ref(&script), 1024));
    let plain_steps = model.steps.take().len();
    let runs = drafted(Lookup, &model, &request, std::slice::from_ref(&script), 1024);
    let (proposals, accepted) = counts(&runs);
    assert_eq!(proposals, accepted);
    assert_eq!(results(runs), plain);
    assert!(4 * model.steps.borrow().len() < plain_steps);
    // Where proposals are wrong.
    let model = Scripted { vocabulary: 12, ..Scripted::noise() };
    for request in [greedy(90), sampled(9, 90)] {
        let request = GenerateRequest { ignore_eos: true, ..request };
        let prompt = [9, 8, 7].repeat(9);
        let plain = results(run(&model, &request, std::slice::from_ref(&prompt), 1024));
        let runs = drafted(Lookup, &model, &request, &[prompt], 1024);
        let (proposals, accepted) = counts(&runs);
        assert!(accepted < proposals, "{accepted} of {proposals}");
        assert_eq!(results(runs), plain);
    }
}

#[test]
fn proposals_behind_the_end_are_dropped() {
    let words = tokenizer().ids(" one two three four five six seven").unwrap();
    let text = [&[2], &words[..], &[3]].concat();
    // The draft knows the text to the end and goes on; the model ends at each of its limits.
    let (model, draft) = (Scripted::new(&text), Scripted::new(&text));
    let stop = |stop: &str| GenerateRequest { stop: vec![stop.into()], ..greedy(50) };
    let mut requests: Vec<_> =
        (1..12).map(|length| (GenerateRequest { ignore_eos: true, ..greedy(length) }, 99)).collect();
    requests.extend((2..12).map(|context| (GenerateRequest { ignore_eos: true, ..greedy(50) }, context)));
    requests.extend([(greedy(50), 99), (stop("o thr"), 99), (stop(" four"), 99)]);
    for (request, context) in requests {
        let plain = results(run(&model, &request, &[vec![2]], context));
        let runs = drafted(ModelDraft::new(&draft), &model, &request, &[vec![2]], context);
        assert_eq!(results(runs), plain);
    }
}

#[test]
fn a_draft_with_less_context_falls_silent() {
    for positions in [3, 5, 11, 12] {
        let draft = Scripted { positions, ..Scripted::noise() };
        let prompts = [vec![2, 7, 8, 9], vec![2; 30]];
        let runs = drafted(ModelDraft::new(&draft), &Scripted::noise(), &greedy(20), &prompts, 1024);
        assert_eq!(counts(&runs).0 > 0, positions > 4);
        assert_eq!(results(runs), results(run(&Scripted::noise(), &greedy(20), &prompts, 1024)));
    }
}

#[test]
fn samples_of_a_prompt_share_what_the_draft_has_read() {
    let draft = near();
    let request = GenerateRequest { samples: 8, ..sampled(4, 6) };
    drafted(ModelDraft::new(&draft), &Scripted::noise(), &request, &[vec![7; 300]], 1024);
    assert_eq!(draft.steps.borrow()[0], 300);
    let rest = &draft.steps.borrow()[1..];
    assert!(!rest.is_empty() && rest.iter().all(|&rows| rows <= 2 * 8), "{rest:?}");
}

#[test]
fn a_break_ends_between_the_tokens_of_one_step() {
    let tokenizer = tokenizer();
    let words = tokenizer.ids(" one two three four five six seven").unwrap();
    let (model, request) = (Scripted::new(&words), greedy(50));
    for wanted in 1..20 {
        let mut pieces = 0;
        let mut engine = start(ModelDraft::new(&model), &model, &tokenizer, &request, 1024).unwrap();
        engine.submit(vec![words[0]], 0).unwrap();
        let mut done = engine
            .run(&mut |_| {
                pieces += 1;
                if pieces == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        let Completion { text, reason, finished } = done.pop().unwrap().1.unwrap();
        assert_eq!((pieces, finished.tokens.len(), reason), (wanted, wanted, FinishReason::Cancelled));
        assert_eq!(text, tokenizer.decode(&finished.tokens, true).unwrap());
    }
}

/// Proposes the same tokens every time.
struct Fixed(Vec<u32>);

impl Draft for Fixed {
    type State = ();

    fn state(&self) -> Result<()> {
        Ok(())
    }

    fn fork(&self, (): &()) {}

    fn propose(&mut self, requests: &mut [DraftRequest<'_, ()>]) -> Result<()> {
        for request in requests {
            self.0.iter().for_each(|&token| request.propose(token));
        }
        Ok(())
    }
}

/// Three tokens of a vocabulary of six, drawn 20 000 times, against their exact joint probabilities.
#[test]
fn sampled_texts_have_the_models_distribution() {
    const SIZE: usize = 6;
    const RUNS: usize = 20_000;
    let model = Scripted { vocabulary: SIZE, ..Scripted::noise() };
    let near = Scripted { vocabulary: SIZE, ..near() };
    let sampling = Sampling { temperature: 4.0, seed: Some(11), ..Sampling::default() };
    let request = GenerateRequest { sampling, ignore_eos: true, ..greedy(3) };
    let mut expected = vec![RUNS as f64];
    let mut read = vec![vec![2]];
    for _ in 0..3 {
        let mut next = (Vec::new(), Vec::new());
        for (history, mass) in read.iter().zip(&expected) {
            let weights = model.logits(history).into_iter().map(|logit| f64::from(logit / 4.0).exp());
            let total: f64 = weights.clone().sum();
            next.0.extend((0..SIZE as u32).map(|id| [&history[..], &[id]].concat()));
            next.1.extend(weights.map(|weight| mass * weight / total));
        }
        (read, expected) = next;
    }
    let chi_square = |runs: Vec<Result<Run>>| {
        let mut counts = vec![0.0; SIZE.pow(3)];
        for run in runs {
            counts[run.unwrap().tokens.iter().fold(0, |cell, &id| cell * SIZE + id as usize)] += 1.0;
        }
        expected.iter().zip(counts).map(|(expected, count)| (count - expected).powi(2) / expected).sum::<f64>()
    };
    assert!(expected.iter().all(|&count| count > 5.0));
    // 215 degrees of freedom: five standard deviations beyond the mean.
    let most = 215.0 + 5.0 * 430f64.sqrt();
    let prompts = vec![vec![2]; RUNS];
    let plain = chi_square(run(&model, &request, &prompts, 99));
    let fixed = chi_square(drafted(Fixed(vec![1, 4]), &model, &request, &prompts, 99));
    let by_model = chi_square(drafted(ModelDraft::new(&near), &model, &request, &prompts, 99));
    assert!(plain < most && fixed < most && by_model < most, "{plain} {fixed} {by_model}");
    // The test can tell: the near model's own distribution is another.
    assert!(chi_square(run(&near, &request, &prompts, 99)) > 2.0 * most);
}
