//! `completions` and `man`: both generated from the one definition of the command line.

use std::io::Write;

use anyhow::Context;
use clap_mangen::Man;

use crate::args::{self, command};
use crate::exit::Status;
use crate::output::{Sink, written};

/// `completions`.
pub(super) fn completions(args: args::Completions) -> anyhow::Result<Status> {
    let mut command = command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ettin-run", &mut script);
    let mut sink = Sink::open(None)?;
    written(sink.write_all(&script))?;
    sink.finish()?;
    Ok(Status::Done)
}

/// `man`.
pub(super) fn run(args: args::Man) -> anyhow::Result<Status> {
    let pages = pages()?;
    let Some(folder) = args.output else {
        let mut sink = Sink::open(None)?;
        for (_, page) in pages {
            written(sink.write_all(&page))?;
        }
        sink.finish()?;
        return Ok(Status::Done);
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, page) in pages {
        let mut sink = Sink::open(Some(&folder.join(format!("{name}.1"))))?;
        written(sink.write_all(&page))?;
        sink.finish()?;
    }
    Ok(Status::Done)
}

/// The page of the tool and those of its commands, by name.
fn pages() -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut command = command();
    command.build();
    let mut pages = vec![("ettin-run".to_owned(), page(command.clone())?)];
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("ettin-run-{}", sub.get_name());
        pages.push((name, page(sub.clone().version(env!("CARGO_PKG_VERSION")))?));
    }
    Ok(pages)
}

fn page(command: clap::Command) -> anyhow::Result<Vec<u8>> {
    let details = command.get_after_help().map(ToString::to_string);
    let commands = command.get_subcommands().next().is_some();
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if commands {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(sections(&details.unwrap_or_default()).into_bytes());
    Ok(page)
}

/// The text after the help as sections of a page: lines that end in a colon are heads, the others keep their breaks.
fn sections(text: &str) -> String {
    let mut roff = String::new();
    for line in text.lines() {
        match line.strip_suffix(':') {
            Some(head) if !head.starts_with(' ') => {
                let head = head.to_uppercase();
                roff.push_str(&format!(".fi\n.SH \"{}\"\n.nf\n", escaped(&head)));
            }
            _ => {
                let line = line.strip_prefix("  ").unwrap_or(line);
                roff.push_str(&format!("{}\n", escaped(line)));
            }
        }
    }
    roff.push_str(".fi\n");
    roff
}

/// Text that roff takes as text.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_roff_command() {
        assert_eq!(escaped(".SH -x"), "\\&.SH \\-x");
        assert_eq!(escaped("a\\b'c"), "a\\eb\\(aqc");
    }

    #[test]
    fn every_command_has_a_page() {
        let pages = pages().unwrap();
        assert_eq!(pages.len(), 1 + command().get_subcommands().count());
        for (name, page) in pages {
            let page = String::from_utf8(page).unwrap();
            assert!(page.contains(".TH"), "{name}");
            assert!(page.contains(".SH \"EXAMPLES\""), "{name} shows no examples");
        }
    }
}
