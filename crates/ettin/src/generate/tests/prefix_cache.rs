//! Beginnings that prompts share are read once, and change nothing.

use super::*;

/// Prompts of `shared` equal tokens and some of their own.
fn prompts(count: u32, shared: u32) -> Vec<Vec<u32>> {
    (0..count).map(|own| (5..5 + shared).chain([4000 + own, 4100 + own, 4200]).collect()).collect()
}

fn tokens(runs: Vec<Result<Run>>) -> Vec<Vec<u32>> {
    runs.into_iter().map(|run| run.unwrap().tokens).collect()
}

fn alone(request: &GenerateRequest, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let samples = request.samples;
    let runs = prompts.iter().enumerate().flat_map(|(index, prompt)| {
        let request = GenerateRequest { first_index: index * samples, ..request.clone() };
        run(&Scripted::noise(), &request, std::slice::from_ref(prompt), 4096)
    });
    tokens(runs.collect())
}

#[test]
fn a_shared_beginning_is_read_once() {
    let prompts = prompts(100, 700);
    for samples in [1, 3] {
        let request = GenerateRequest { samples, ..sampled(4, 4) };
        let (model, draft) = (Scripted::noise(), Scripted::noise());
        let runs = drafted(ModelDraft::new(&draft), &model, &request, &prompts, 4096);
        assert_eq!(tokens(runs), alone(&request, &prompts));
        // The beginning, the own tokens of each, and per sample one generated token and two proposals.
        let rows = 700 + 100 * 3;
        for model in [&model, &draft] {
            let read: usize = model.steps.borrow().iter().sum();
            assert!((rows..=rows + 100 * samples * 3).contains(&read), "{read} rows");
        }
    }
}

#[test]
fn beginnings_within_beginnings_are_shared_too() {
    let mut all = prompts(6, 300);
    let deeper: Vec<u32> = (5..205).chain(6000..6200).collect();
    all.extend((0..6).map(|own| [&deeper[..], &[own + 50; 3]].concat()));
    all.insert(3, vec![9; 90]);
    let model = Scripted::noise();
    assert_eq!(tokens(run(&model, &greedy(1), &all, 4096)), alone(&greedy(1), &all));
    let read: usize = model.steps.borrow().iter().sum();
    // The first leaves a copy of 200 tokens, as most share that many; the second of each group one of its own
    // beginning.
    assert_eq!(read, (200 + 103) + (100 + 3) + 4 * 3 + 90 + (200 + 3) + 5 * 3);
}

#[test]
fn equal_prompts_are_read_once_but_for_their_last_token() {
    let prompts = vec![vec![7; 500]; 9];
    let model = Scripted::noise();
    let runs = run(&model, &sampled(4, 1), &prompts, 4096);
    assert_eq!(model.steps.borrow().iter().sum::<usize>(), 499 + 9);
    let tokens = tokens(runs);
    assert_eq!(tokens, alone(&sampled(4, 1), &prompts));
    assert!(tokens.iter().any(|one| *one != tokens[0]), "each has random numbers of its own");
}

#[test]
fn prompts_at_the_limit_share_as_well() {
    // Some are full, some have room for one token, some are longer than what they share.
    let mut all = prompts(3, 200);
    all.extend([(5..205).collect(), (5..204).collect(), (5..205).chain(1..9).collect()]);
    all.extend(prompts(2, 200));
    for context in [199, 200, 201, 203, 204, 300] {
        let together = run(&Scripted::noise(), &greedy(3), &all, context);
        for (prompt, together) in all.iter().zip(together) {
            let alone = run(&Scripted::noise(), &greedy(3), std::slice::from_ref(prompt), context).remove(0);
            let (alone, together) = (alone.unwrap(), together.unwrap());
            assert_eq!((alone.tokens, alone.reason), (together.tokens, together.reason));
        }
    }
}
