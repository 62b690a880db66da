//! `ETTIN_ISA` and `ETTIN_REQUIRE_ISA`, each in a process of its own: the environment belongs to the process.

use std::process::{Command, Output};

use ettin_kernels::{Isa, testing::each_isa};

/// Runs the ignored test `name` of this file with a variable set.
fn child(name: &str, variable: &str, value: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env_remove("ETTIN_ISA")
        .env_remove("ETTIN_REQUIRE_ISA")
        .env(variable, value)
        .output()
        .unwrap()
}

#[test]
#[ignore = "run by the tests below"]
fn print_selection() {
    match Isa::select() {
        Ok(isa) => println!("selected {isa}"),
        Err(error) => println!("refused: {error}"),
    }
}

#[test]
#[ignore = "run by the tests below"]
fn exercise_all() {
    each_isa(|_| {});
}

#[test]
fn ettin_isa_selects_or_refuses() {
    let selection = |value: &str| {
        let output = child("print_selection", "ETTIN_ISA", value);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for isa in Isa::available() {
        assert!(selection(&isa.to_string()).contains(&format!("selected {isa}")));
    }
    assert!(selection("").contains(&format!("selected {}", Isa::best())));
    assert!(selection("sse9").contains("refused: unknown instruction set `sse9`"));
    let missing = Isa::ALL.into_iter().find(|isa| !isa.supported());
    if let Some(isa) = missing {
        assert!(selection(&isa.to_string()).contains(&format!("refused: this CPU does not support `{isa}`")));
    }
}

#[test]
fn a_required_isa_must_run() {
    let required = |value: &str| child("exercise_all", "ETTIN_REQUIRE_ISA", value);
    let present = required("portable");
    assert!(present.status.success());
    assert!(String::from_utf8_lossy(&present.stdout).contains("exercised: portable"));
    let missing = Isa::ALL.into_iter().find(|isa| !isa.supported()).map_or("sse9".into(), |isa| isa.to_string());
    assert!(!required(&format!("portable, {missing}")).status.success());
}
