//! Tells the program which commit it is built from, as `ETTIN_COMMIT`, where that can be known.
//!
//! Benchmark records name it. Sources without a repository, or unpacked inside another one, are built without.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Some(commit) = commit(&root) else {
        return;
    };
    println!("cargo::rustc-env=ETTIN_COMMIT={commit}");
    // Whatever could change the commit, or make the sources differ from it. This package is built again after any
    // change below crates/ anyway.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&root, &["rev-parse", "--git-path", name]) {
            watch(root.join(path));
        }
    }
    watch(root.join("crates"));
}

/// The commit in twelve digits, with `-dirty` when tracked files under it differ.
fn commit(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    git(root, &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("--no-optional-locks").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Only what exists: a missing path would mean a rebuild every time.
fn watch(path: PathBuf) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
