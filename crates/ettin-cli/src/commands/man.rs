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
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
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
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        let name = format!("ettin-run-{}", sub.get_name());
        pages.push((name, page(sub.clone().version(env!("CARGO_PKG_VERSION")))?));
    }
    Ok(pages)
}

fn page(command: clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let pages = pages().unwrap();
        assert_eq!(pages.len(), 1 + command().get_subcommands().count());
        for (name, page) in pages {
            let page = String::from_utf8(page).unwrap();
            assert!(page.contains(".TH"), "{name}");
            assert!(page.contains("Examples:"), "{name} shows no examples");
        }
    }
}
