//! A reader who meets a type's name knows which type it is: no crate declares a name twice.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Files that take the place of another one in builds without a feature, and declare what it declares.
const STAND_INS: [&str; 1] = ["download_absent.rs"];

const KEYWORDS: [&str; 5] = ["struct", "enum", "trait", "union", "type"];

/// The type that a line declares. Associated types are no declarations of a name: they are asked for through a trait.
fn declared(line: &str) -> Option<&str> {
    let associated = line.starts_with(' ') && line.trim_start().starts_with("type ");
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    let code = !line.trim_start().starts_with("//") && !associated;
    let keyword = words.find(|word| !["pub", "crate", "super", "in", "self", "unsafe"].contains(word))?;
    let name = words.next()?;
    (code && KEYWORDS.contains(&keyword) && name.starts_with(char::is_uppercase)).then_some(name)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every type by name, with the places that declare it.
fn declarations(sources: &[(PathBuf, String)]) -> BTreeMap<&str, Vec<String>> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, text) in sources {
        for (number, name) in (1..).zip(text.lines()).filter_map(|(number, line)| Some((number, declared(line)?))) {
            places.entry(name).or_default().push(format!("{}:{number}", path.display()));
        }
    }
    places
}

#[test]
fn no_type_name_is_declared_twice_in_a_crate() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let mut faults = Vec::new();
    for folder in fs::read_dir(crates).expect("the crates") {
        let folder = folder.expect("a crate").path();
        let mut paths = Vec::new();
        sources(&folder.join("src"), &mut paths);
        paths.retain(|path| !STAND_INS.iter().any(|stand_in| path.ends_with(stand_in)));
        let texts: Vec<_> = paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
        assert!(!declarations(&texts).is_empty(), "{} declares no type", folder.display());
        let twice = declarations(&texts).into_iter().filter(|(_, places)| places.len() > 1);
        faults.extend(twice.map(|(name, places)| format!("{name}: {}", places.join(", "))));
    }
    assert!(faults.is_empty(), "declared more than once:\n{}", faults.join("\n"));
}

#[test]
fn the_check_sees_declarations() {
    let names = |line| declared(line).unwrap_or("");
    assert_eq!(names("pub(super) struct Entry<'a> {"), "Entry");
    assert_eq!(names("    pub enum Kind {"), "Kind");
    assert_eq!(names("unsafe trait Lanes: Copy {"), "Lanes");
    assert_eq!(names("type Angles = Vec<f32>;"), "Angles");
    assert_eq!(names("    type Item = u32;"), "");
    assert_eq!(names("// struct Gone;"), "");
    assert_eq!(names("impl Trait for Entry {"), "");
    assert_eq!(names("struct_of!(Entry)"), "");
}
