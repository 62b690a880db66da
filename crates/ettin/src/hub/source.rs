//! From what a user types to a model's files.

use std::path::Path;

use super::cache::RepoCache;
use super::{HubFiles, HubOptions};
use crate::files::{ModelFiles, is_weights_file};
use crate::suite::Suite;
use crate::{Error, Result};

/// Finds a model by what a user would type: a local folder or weights file, a name of the [suite](crate::suite), or a
/// Hub id (`organisation/name`); for the latter two with a revision (branch, tag or commit), given apart or as
/// `name@revision`.
///
/// An existing path wins over a name. Nothing is downloaded yet: that happens when a file is first asked for.
///
/// # Errors
/// [`Error::UnknownModel`] for a name that cannot be any of these; [`Error::Input`] for a revision that cannot be
/// one, or two different ones.
///
/// ```
/// use ettin::hub::{HubOptions, resolve};
///
/// let files = resolve("encoder-150m@step599525", None, &HubOptions::new("cache"))?;
/// assert_eq!(files.name(), "jhu-clsp/ettin-encoder-150m");
/// let typo = resolve("ettin-encodr-150m", None, &HubOptions::new("cache")).unwrap_err();
/// assert!(typo.to_string().contains("did you mean ettin-encoder-150m?"));
/// # Ok::<(), ettin::Error>(())
/// ```
pub fn resolve(spec: &str, revision: Option<&str>, options: &HubOptions) -> Result<ModelFiles> {
    if !spec.is_empty() && Path::new(spec).exists() {
        return match revision {
            None => ModelFiles::folder(spec),
            Some(revision) => Err(Error::input(format!("{spec} is a local path and has no revision {revision}"))),
        };
    }
    if looks_like_a_path(spec) {
        let message = "no such file or folder; a model is named by its Hub id, or by the path of its folder";
        return Err(Error::io(spec)(std::io::Error::new(std::io::ErrorKind::NotFound, message)));
    }
    let (name, revision) = match (spec.rsplit_once('@'), revision) {
        (Some((name, own)), None) => (name, Some(own)),
        (Some((name, own)), Some(given)) if own == given => (name, Some(own)),
        (Some((_, own)), Some(given)) => {
            return Err(Error::input(format!("{spec} names the revision {own}, but {given} is asked for too")));
        }
        (None, revision) => (spec, revision),
    };
    if let Some(revision) = revision {
        check_revision(revision)?;
    }
    let entry = Suite::get().find(name);
    let id = match entry {
        Some(entry) => entry.hub_id(),
        None if is_hub_id(name) => name,
        // Without an organisation it is none of the Hub's today, but a cache may hold one.
        None if is_part_of_id(name) && is_cached(name, options) => name,
        None => return Err(unknown(name)),
    };
    Ok(ModelFiles::hub(id, HubFiles::new(id, entry, revision, options)))
}

fn looks_like_a_path(spec: &str) -> bool {
    let path = Path::new(spec);
    path.is_absolute()
        || spec.starts_with("./")
        || spec.starts_with("../")
        || spec.starts_with('~')
        || spec.contains('\\')
        || is_weights_file(spec)
}

/// `organisation/name`, by the Hub's own rules for both parts.
fn is_hub_id(name: &str) -> bool {
    let parts = name.split_once('/');
    name.len() <= 96 && parts.is_some_and(|(organisation, name)| is_part_of_id(organisation) && is_part_of_id(name))
}

fn is_part_of_id(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether a cache has a folder for a model of that name.
fn is_cached(name: &str, options: &HubOptions) -> bool {
    let mut caches = std::iter::once(&options.cache).chain(&options.other_caches);
    caches.any(|cache| !RepoCache::new(cache, name).snapshots().is_empty())
}

/// Refuses what git would refuse as the name of a branch or tag, above all what would leave the folder `refs`.
fn check_revision(revision: &str) -> Result<()> {
    let fine = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    if revision.split('/').all(fine) && !revision.contains("..") && !revision.contains(odd) {
        Ok(())
    } else {
        Err(Error::input(format!("{revision:?} cannot be a revision: give a branch, a tag or a commit")))
    }
}

fn unknown(name: &str) -> Error {
    let hint = match Suite::get().suggest(name) {
        Some(suggestion) => format!(": did you mean {suggestion}?"),
        None => ": give a name of the suite, a Hub id (organisation/name), or a local folder".to_owned(),
    };
    Error::UnknownModel { name: name.to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HubOptions {
        let mut options = HubOptions::new("no-such-cache");
        options.offline = true;
        options
    }

    fn place(spec: &str, revision: Option<&str>) -> String {
        resolve(spec, revision, &options()).unwrap().path_hint("f")
    }

    #[test]
    fn names_ids_and_revisions() {
        assert_eq!(place("dec-from-enc-68m", None), "jhu-clsp/ettin-dec-from-enc-68m@main: f");
        assert_eq!(place("encoder-17m@step5", None), "jhu-clsp/ettin-encoder-17m@step5: f");
        assert_eq!(place("encoder-17m@step5", Some("step5")), "jhu-clsp/ettin-encoder-17m@step5: f");
        assert_eq!(place("org/name", Some("refs/pr/1")), "org/name@refs/pr/1: f");
        assert_eq!(
            place("encoder-17m", None),
            "jhu-clsp/ettin-encoder-17m@987607455c61e7a5bbc85f7758e0512ea6d0ae4c: f"
        );
        assert_eq!(place("encoder-17m", Some("main")), "jhu-clsp/ettin-encoder-17m@main: f");
    }

    #[test]
    fn what_cannot_be_a_model_is_refused_with_advice() {
        for (spec, advice) in [
            ("encodr-150m", "did you mean encoder-150m?"),
            ("gpt2", "organisation/name"),
            ("", "organisation/name"),
            ("a/b/c", "organisation/name"),
            ("org/na me", "organisation/name"),
            ("org/..", "organisation/name"),
            ("org/a--b", "organisation/name"),
        ] {
            let error = resolve(spec, None, &options()).unwrap_err();
            assert!(matches!(error, Error::UnknownModel { .. }), "{spec}: {error}");
            assert!(error.to_string().contains(advice), "{spec}: {error}");
        }
        for spec in ["./gone", "../gone", "/gone/model", "gone/model.safetensors", "~/gone"] {
            assert!(matches!(resolve(spec, None, &options()), Err(Error::Io { .. })), "{spec}");
        }
    }

    #[test]
    fn revisions_that_leave_refs_are_refused() {
        for revision in ["", "../x", "a/../b", "/a", "a//b", "a/", ".hidden", "a\\b", "a b", "a\nb", "a:b", "x.lock"] {
            let error = resolve("encoder-17m", Some(revision), &options()).unwrap_err();
            assert!(matches!(error, Error::Input(_)), "{revision:?}: {error}");
        }
        assert!(matches!(resolve("encoder-17m@a", Some("b"), &options()), Err(Error::Input(_))));
    }

    #[test]
    fn an_existing_path_wins_and_has_no_revision() {
        let folder = tempfile::tempdir().unwrap();
        let spec = folder.path().to_str().unwrap();
        assert_eq!(resolve(spec, None, &options()).unwrap().name(), spec);
        assert!(matches!(resolve(spec, Some("main"), &options()), Err(Error::Input(_))));
    }
}
