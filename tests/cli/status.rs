//! Exit statuses and the messages that go with them: 0, 1 failure, 2 usage, 3 not cached while offline.

use std::process::Stdio;

use crate::support::{Run, command, finish, pipe, run};

fn fails(run: &Run, status: i32, message: &str) {
    assert_eq!(run.status, Some(status), "{}", run.err);
    assert!(run.err.contains(message), "{message:?} is not in {}", run.err);
    assert!(run.out.is_empty(), "{:?}", String::from_utf8_lossy(&run.out));
}

#[test]
fn wrong_usage() {
    for (arguments, message) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["tokenize", "--no-such-flag"], "--no-such-flag"),
        (&["tokenize", "a", "--format", "npy"], "npy"),
        (&["tokenize", "a", "--format", "xml"], "xml"),
        (&["tokenize", "a", "--input", "f"], "choose one"),
        (&["embed", "a", "--device", "gpu"], "choose auto, cpu"),
        (&["embed", "a", "--dtype", "f8"], "f8"),
        (&["embed", "a", "--threads", "0"], "between 1"),
        (&["similarity", "a", "b", "--pooling", "none"], "--pooling none"),
        (&["generate", "a", "--top-p", "7"], "at most 1"),
        (&["classify", "a"], "--model"),
        (&["tag", "a"], "--model"),
        (&["answer", "a", "b"], "--model"),
        (&["rerank", "a", "b"], "--model"),
        (&["rerank", "--input-format", "text"], "QUERY"),
        (&["rerank", "a", "--extra", "keep"], "--extra keep"),
        (&["embed", "--extra", "keep", "--format", "npy"], "--format jsonl"),
        (&["tokenize", "--extra", "keep", "--format", "table"], "--format jsonl"),
        (&["embed", "--extra", "some"], "ignore"),
        (&["embed", "a", "--revision", "main"], "no revisions"),
        (&["info", "--check"], "--model"),
        (&["pull"], "MODEL"),
        (&["pull", "nano-encoder"], "nothing to download"),
        (&["convert", "nano-encoder"], "--output"),
        (&["convert", "nano-encoder", "--output", "models"], "not empty"),
        (&["completions", "nosh"], "nosh"),
    ] {
        fails(&run(arguments), 2, message);
    }
    assert_eq!(run(&[]).status, Some(2));
}

#[test]
#[cfg(not(any(feature = "cuda", feature = "metal")))]
fn devices_that_are_not_built_in_are_refused_by_name() {
    fails(&run(&["embed", "a", "--device", "cuda"]), 2, "--features cuda");
    fails(&run(&["embed", "a", "--device", "cuda:1"]), 2, "--features cuda");
    fails(&run(&["embed", "a", "--device", "metal"]), 2, "--features metal");
    assert_eq!(run(&["embed", "-q", "a", "--device", "auto"]).out, run(&["embed", "-q", "a", "--device", "cpu"]).out);
}

#[test]
fn failures() {
    for (arguments, message) in [
        (&["tokenize", "--input", "no/such/file"][..], "no/such/file"),
        (&["tokenize", "--input", "models"], "folder"),
        (&["tokenize", "a", "--output", "no/such/folder/file"], "no/such/folder/file"),
        (&["tokenize", "a", "--tokenizer", "Cargo.toml"], "Cargo.toml"),
        (&["tokenize", "a", "--model", "./no/such/model"], "no/such/model"),
        (&["embed", "a", "--model", "encodr-17m"], "did you mean encoder-17m"),
        (&["embed", "a", "--model", "scripts"], "config.json"),
        (&["generate", "a", "--model", "nano-encoder"], "decoder"),
        (&["fill-mask", "[MASK]", "--model", "nano-decoder"], ""),
        (&["score", "a", "--model", "nano-encoder", "--method", "causal"], "causal"),
        (&["embed", "a", "--layer", "99"], "99"),
        (&["embed", "a", "--prompt", "nonsense"], "nonsense"),
        (&["classify", "a", "--model", "nano-encoder"], ""),
    ] {
        fails(&run(arguments), 1, message);
    }
}

#[test]
fn not_cached_while_offline() {
    let cold = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env_remove("HF_HUB_OFFLINE");
        finish(command, b"")
    };
    fails(&cold(&["embed", "a", "--model", "encoder-17m", "--offline"]), 3, "offline");
    fails(&cold(&["pull", "decoder-17m", "--offline"]), 3, "no-such-cache");
    fails(&cold(&["info", "--model", "org/name", "--offline"]), 3, "org/name");
    // The variable says the same.
    fails(&run(&["embed", "a", "--model", "encoder-17m"]), 3, "offline");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = command(&["tokenize", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        // Ends with an error once nobody reads.
        while stdin.write_all(b"some text\n").is_ok() {}
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_a_failure() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for arguments in [&["tokenize", "a"][..], &["models"], &["completions", "bash"], &["man"], &["info"]] {
        let output = command(arguments).stdout(full()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("space"), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    let run = run(&["tokenize", "a", "--output", "/dev/full"]);
    assert_eq!(run.status, Some(1), "{}", run.err);
}

#[test]
fn a_closed_stderr_is_no_failure() {
    let mut child = command(&["embed", "a", "b"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), 2);
}

#[test]
fn the_default_model_says_once_what_it_is() {
    let run = pipe(&["fill-mask", "-k", "1"], "a [MASK]\nb [MASK]\n");
    assert_eq!(run.lines(0).len(), 2);
    assert_eq!(run.err.matches("not Ettin").count(), 1, "{}", run.err);
    assert!(run.err.contains("--model"), "{}", run.err);
    for flags in [&["-q"][..], &["--model", "nano"], &["--model", "nano-encoder"]] {
        let run = pipe(&[&["fill-mask", "-k", "1"], flags].concat(), "a [MASK]\n");
        assert_eq!(run.lines(0).len(), 1);
        assert_eq!(run.err, "", "{flags:?}");
    }
}

#[test]
fn plans_are_printed_when_asked() {
    let mut command = command(&["embed", "a", "--truncate", "left", "--threads", "1"]);
    command.env("RUST_LOG", "debug");
    let run = finish(command, b"");
    assert_eq!(run.status, Some(0));
    assert!(run.err.contains("plan: model nano-encoder (embedded, by default); device cpu"), "{}", run.err);
    assert!(run.err.contains("1 threads") && run.err.contains("Left"), "{}", run.err);
}
