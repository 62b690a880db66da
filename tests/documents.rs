//! The documents stay readable and true to the tree: no endless lines or cells, no broken link, no file that is gone.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Columns of a line, tables apart.
const MAX_LINE: usize = 140;

/// Characters of a table's cell as a reader sees it, without the targets of links.
const MAX_CELL: usize = 120;

/// Documents that name files of a crate without its folder: `gemm/tile.rs` for `crates/ettin-kernels/src/gemm/tile.rs`.
const ABOUT_CODE: [&str; 4] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/GLOSSARY.md", "docs/KERNELS.md"];

/// A Markdown file of this repository.
struct Document {
    /// Relative to the repository.
    name: String,
    path: PathBuf,
    text: String,
}

impl Document {
    /// Its lines by number, each with whether it stands in a fenced block (the fences do, too).
    fn lines(&self) -> impl Iterator<Item = (usize, bool, &str)> {
        let mut fenced = false;
        (1..).zip(self.text.lines()).map(move |(number, line)| {
            let fence = line.trim_start().starts_with("```");
            let inside = fenced || fence;
            fenced ^= fence;
            (number, inside, line)
        })
    }

    /// What is not code, as one text: a link may go on in the next line.
    fn prose(&self) -> String {
        let lines: Vec<_> = self.lines().filter(|(_, fenced, _)| !fenced).map(|(.., line)| line).collect();
        lines.join("\n").split('`').step_by(2).collect()
    }

    /// Code spans, and the words of fenced blocks.
    fn code(&self) -> Vec<String> {
        let mut prose = String::new();
        let mut code = Vec::new();
        for (_, fenced, line) in self.lines() {
            if fenced {
                code.extend(line.split_whitespace().map(str::to_owned));
            } else {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        let spans = prose.split('`').skip(1).step_by(2);
        code.extend(spans.filter_map(|span| Some(span.split_whitespace().next()?.to_owned())));
        code
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> Vec<String> {
        let headings = self.lines().filter(|(_, fenced, line)| !fenced && line.starts_with('#'));
        headings.map(|(.., line)| anchor(line.trim_start_matches('#').trim())).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') || path.is_symlink() || matches!(name.as_str(), "target" | "shared") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                let text = fs::read_to_string(&path).unwrap();
                found.push(Document { name, path, text });
            }
        }
    }
    assert!(found.len() > 20, "only {} documents were found", found.len());
    found
}

/// A text without the targets of its links.
fn visible(cell: &str) -> String {
    let mut parts = cell.split("](");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push(']');
        shown.push_str(part.split_once(')').map_or(part, |(_, rest)| rest));
    }
    shown
}

fn fail(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn no_line_and_no_cell_is_endless() {
    let mut faults = Vec::new();
    for document in documents() {
        for (number, fenced, line) in document.lines() {
            let place = format!("{}:{number}", document.name);
            if !fenced && line.trim_start().starts_with('|') {
                for cell in line.trim().trim_matches('|').replace("\\|", "¦").split('|') {
                    let width = visible(cell.trim()).chars().count();
                    if width > MAX_CELL {
                        faults.push(format!("{place}: a cell of {width} characters; put a note below the table"));
                    }
                }
            } else if line.chars().count() > MAX_LINE {
                faults.push(format!("{place}: {} columns", line.chars().count()));
            }
        }
    }
    fail(&faults);
}

#[test]
fn every_relative_link_resolves() {
    let documents = documents();
    let mut faults = Vec::new();
    for document in &documents {
        let prose = document.prose();
        for target in prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) =
                target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)));
            let path = match file {
                "" => document.path.clone(),
                file => document.path.parent().unwrap().join(file),
            };
            let Ok(path) = path.canonicalize() else {
                faults.push(format!("{}: no {target}", document.name));
                continue;
            };
            let Some(heading) = heading else { continue };
            let other = documents.iter().find(|other| other.path.canonicalize().is_ok_and(|other| other == path));
            if !other.is_some_and(|other| other.anchors().iter().any(|anchor| anchor == heading)) {
                faults.push(format!("{}: no heading {target}", document.name));
            }
        }
    }
    fail(&faults);
}

/// `a/{b,c}.rs` as two paths.
fn expanded(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?))) {
        Some((start, (choices, end))) => choices.split(',').map(|choice| format!("{start}{choice}{end}")).collect(),
        None => vec![path.to_owned()],
    }
}

/// Whether a word is spelled as the path of a file here is; placeholders (`DIR`, `*`, `…`) are none.
fn is_path(word: &str) -> bool {
    (word.contains('/') || word.ends_with(".rs"))
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c))
}

#[test]
fn every_file_that_is_named_exists() {
    let mut crates = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        crates.extend([folder.join("src"), folder]);
    }
    let mut faults = Vec::new();
    for document in documents() {
        let about_code = ABOUT_CODE.contains(&document.name.as_str());
        for word in document.code() {
            let named_whole = word.starts_with("scripts/") || word.starts_with("crates/");
            for path in expanded(&word).iter().filter(|path| is_path(path) && (named_whole || about_code)) {
                let in_crate = || about_code && crates.iter().any(|folder| folder.join(path).exists());
                if !root().join(path).exists() && !in_crate() {
                    faults.push(format!("{}: no {path}", document.name));
                }
            }
        }
    }
    fail(&faults);
}

#[test]
fn the_checks_see_what_is_wrong() {
    let document = |text: &str| Document { name: "a.md".into(), path: root().join("a.md"), text: text.into() };
    assert_eq!(visible("[text](where/it/is.md) and more"), "[text] and more");
    assert_eq!(anchor("What binds each row, on AMX"), "what-binds-each-row-on-amx");
    assert_eq!(document("# A `b`\n```\n# no\n```\n## C").anchors(), ["a-b", "c"]);
    assert_eq!(
        document("see `scripts/a.py --flag`\n```sh\nsh scripts/b.sh\n```").code(),
        ["```sh", "sh", "scripts/b.sh", "```", "scripts/a.py"]
    );
    assert_eq!(expanded("tests/{a,b}.rs"), ["tests/a.rs", "tests/b.rs"]);
    assert!(is_path("gemm/tile.rs") && is_path("team.rs") && !is_path("benches/runs/DATE.json") && !is_path("a.b"));
    assert!(document("a [link](b\n`[code](c)`").prose().contains("](b"));
    assert!(!document("`[code](c)`").prose().contains("](c"));
}
