//! Several files in one input: `=== NAME`, a line's end, and the file's bytes up to the next such line.

use std::fs;
use std::path::Path;

const MARK: &[u8] = b"\n=== ";

/// The files of an input. Names that would leave a folder are left out, and so is what precedes the first.
pub fn sections(data: &[u8]) -> Vec<(&str, &[u8])> {
    let mut files = Vec::new();
    let mut rest = data.strip_prefix(&MARK[1..]);
    while let Some(section) = rest {
        let end = section.windows(MARK.len()).position(|window| window == MARK);
        rest = end.map(|end| &section[end + MARK.len()..]);
        let section = &section[..end.unwrap_or(section.len())];
        let line = section.iter().position(|&byte| byte == b'\n').unwrap_or(section.len());
        let content = section.get(line + 1..).unwrap_or_default();
        if let Some(name) = std::str::from_utf8(&section[..line]).ok().filter(|name| is_inside(name)) {
            files.push((name, content));
        }
    }
    files
}

fn is_inside(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.len() < 64 && !part.starts_with('.');
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    name.bytes().all(known) && name.split('/').all(plain) && name.split('/').count() < 4
}

/// Writes the files into a folder, over what is there. What cannot be (a file where a folder is) is left out.
pub fn write(files: &[(&str, &[u8])], folder: &Path) {
    for (name, content) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            let _ = fs::create_dir_all(parent);
        }
        let _ = fs::remove_file(&path);
        let _ = fs::write(path, content);
    }
}
