//! What the environment and the user say about the Hub, read in one place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Proxies;
use crate::setters::setters;

/// How far a download has come; given to [`HubOptions::progress`] at its start, as bytes arrive, and at its end.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The model's Hub id.
    pub model: &'a str,
    /// The file's name in the repository.
    pub file: &'a str,
    /// Bytes there already, those of an earlier, interrupted download included.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// Called during downloads, from the thread that asked for the file.
pub type ProgressFn = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// A file or a folder of certificates of the authorities that are trusted, and the variable that named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSource {
    /// The variable's name, for messages.
    pub variable: String,
    /// A file in PEM form, or a folder of such files.
    pub path: PathBuf,
}

/// Variables that name certificates. Python's hub client reads the first two, its versions before 1 the others.
const CERTIFICATES: [&str; 4] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// Where the cache is, and whether and how the Hub may be asked.
///
/// [`HubOptions::from_env`] is what the `huggingface_hub` package would use on the same machine.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubOptions {
    /// The cache folder, which holds `models--…` folders. Shared with Python.
    pub cache: PathBuf,
    /// Caches of other tools in the same layout, which are read where a model is complete in them, and never written.
    pub other_caches: Vec<PathBuf>,
    /// Where the Hub is, without a slash at the end.
    pub endpoint: String,
    /// Access token. Sent to the endpoint only, never to the hosts it redirects to.
    pub token: Option<String>,
    /// Never open a connection; a model that is not cached is an error.
    pub offline: bool,
    /// Ask the Hub what a branch or tag stands for now, even if the cache knows what it stood for.
    pub refresh: bool,
    /// Link snapshots to blobs. Without it, or where links cannot be made, snapshots hold the files themselves.
    pub symlinks: bool,
    /// Certificates that are trusted, all of them together; none stands for the system's store.
    pub certificates: Vec<CertificateSource>,
    /// Proxies, and what is reached without.
    pub proxies: Proxies,
    /// Told about downloads.
    pub progress: Option<ProgressFn>,
    /// How often a request is repeated in a row without a byte arriving (server busy, connection cut).
    pub retries: u32,
    /// Pause before the first repetition; it doubles with each, unless the server names a time.
    pub backoff: Duration,
    /// How long to wait for a connection or for the next bytes.
    pub timeout: Duration,
}

setters!(HubOptions {
    /// With caches of other tools to read.
    with_other_caches(other_caches: Vec<PathBuf>);
    /// With another Hub.
    with_endpoint(endpoint: impl Into<String>);
    /// With an access token.
    with_token(token: impl Into<Option<String>>);
    /// Without any connection, or with.
    with_offline(offline: bool);
    /// With branches and tags looked up anew, or not.
    with_refresh(refresh: bool);
    /// With links in snapshots, or files.
    with_symlinks(symlinks: bool);
    /// With trusted certificates of one's own.
    with_certificates(certificates: Vec<CertificateSource>);
    /// With other proxies.
    with_proxies(proxies: Proxies);
    /// With a listener for downloads.
    with_progress(progress: impl Into<Option<ProgressFn>>);
    /// With another number of repeated requests.
    with_retries(retries: u32);
    /// With another pause before the first of them.
    with_backoff(backoff: Duration);
    /// With another patience for connections and bytes.
    with_timeout(timeout: Duration);
});

const ENDPOINT: &str = "https://huggingface.co";

impl HubOptions {
    /// Options for a cache folder, with defaults for everything else and nothing read from the environment.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            other_caches: Vec::new(),
            endpoint: ENDPOINT.to_owned(),
            token: None,
            offline: false,
            refresh: false,
            symlinks: true,
            certificates: Vec::new(),
            proxies: Proxies::default(),
            progress: None,
            retries: 5,
            backoff: Duration::from_millis(500),
            timeout: Duration::from_secs(30),
        }
    }

    /// Options as the environment has them: `HF_HOME`, `HF_HUB_CACHE` (or its old name `HUGGINGFACE_HUB_CACHE`),
    /// `XDG_CACHE_HOME`, `SENTENCE_TRANSFORMERS_HOME` (which sentence-transformers uses as a cache), `HF_ENDPOINT`,
    /// `HF_TOKEN` or else the file `HF_TOKEN_PATH` or `$HF_HOME/token`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`,
    /// `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`), `HF_HUB_DISABLE_SYMLINKS`, `HF_HUB_DOWNLOAD_TIMEOUT` (seconds),
    /// `SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, and the variables of [`Proxies`]. In
    /// paths a leading `~` stands for the home folder and `$NAME` or `${NAME}` for a variable. Empty variables count as
    /// unset.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// [`HubOptions::from_env`] with another source of variables.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let flag = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let user = text("HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_default();
        let path = |name: &str| text(name).map(|value| expand_home(&expand_variables(&value, &lookup), &user));

        let home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let token = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| token_in(&file))
        };
        let mut options = Self::new(cache);
        options.other_caches.extend(path("SENTENCE_TRANSFORMERS_HOME").filter(|other| *other != options.cache));
        if let Some(endpoint) = text("HF_ENDPOINT") {
            options.endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        if !flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            options.token = token();
        }
        options.offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE")).is_some_and(|v| is_true(&v));
        options.certificates = CERTIFICATES
            .iter()
            .filter_map(|name| Some(CertificateSource { variable: (*name).to_owned(), path: text(name)?.into() }))
            .collect();
        options.proxies = Proxies::from_lookup(&lookup);
        options.symlinks = !flag("HF_HUB_DISABLE_SYMLINKS");
        if let Some(seconds) = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.parse().ok()).filter(|&s| s > 0) {
            options.timeout = Duration::from_secs(seconds);
        }
        options
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("offline", &self.offline)
            .field("refresh", &self.refresh)
            .field("symlinks", &self.symlinks)
            .field("certificates", &self.certificates)
            .field("proxies", &self.proxies)
            .field("retries", &self.retries)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn expand_home(value: &str, user: &Path) -> PathBuf {
    match value.strip_prefix('~') {
        Some("") => user.to_owned(),
        Some(rest) if rest.starts_with(['/', std::path::MAIN_SEPARATOR]) => user.join(&rest[1..]),
        _ => PathBuf::from(value),
    }
}

/// As Python's `os.path.expandvars`: a variable that is not set stays as it is written.
fn expand_variables(value: &str, lookup: &impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, written) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c| !word(c)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => {
                out.push('$');
                out.push_str(&after[..written]);
            }
        }
        rest = &after[written..];
    }
    out + rest
}

fn token_in(file: &Path) -> Option<String> {
    let token = std::fs::read_to_string(file).ok()?.trim().to_owned();
    Some(token).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_lookup(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_folder_is_the_one_python_uses() {
        for (variables, cache) in [
            (&[("HOME", "/home/u")][..], "/home/u/.cache/huggingface/hub"),
            (&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/home/u"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HOME", "/home/u"), ("HF_HOME", "~/hf")], "/home/u/hf/hub"),
            (&[("HOME", "/home/u"), ("HF_HOME", "")], "/home/u/.cache/huggingface/hub"),
            (&[("HOME", "/home/u"), ("HF_HOME", "$HOME/hf")], "/home/u/hf/hub"),
            (&[("SCRATCH", "/big"), ("HF_HUB_CACHE", "${SCRATCH}/hub")], "/big/hub"),
            (&[("HF_HUB_CACHE", "/a$NONE/${NONE}$")], "/a$NONE/${NONE}$"),
            (&[("HF_HOME", "/hf"), ("TRANSFORMERS_CACHE", "/old")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new"),
        ] {
            assert_eq!(options(variables).cache, Path::new(cache), "{variables:?}");
        }
    }

    #[test]
    fn the_cache_of_sentence_transformers_is_read_too() {
        let found = options(&[("HF_HOME", "/hf"), ("SENTENCE_TRANSFORMERS_HOME", "/st")]);
        assert_eq!((found.cache.as_path(), found.other_caches.as_slice()), (Path::new("/hf/hub"), &["/st".into()][..]));
        let same = options(&[("HF_HOME", "/hf"), ("SENTENCE_TRANSFORMERS_HOME", "/hf/hub")]);
        assert!(same.other_caches.is_empty());
    }

    #[test]
    fn the_endpoint_loses_its_last_slash() {
        assert_eq!(options(&[]).endpoint, "https://huggingface.co");
        assert_eq!(options(&[("HF_ENDPOINT", "http://mirror:8080/")]).endpoint, "http://mirror:8080");
    }

    #[test]
    fn offline_takes_the_words_python_takes() {
        for (value, offline) in
            [("1", true), ("ON", true), ("yes", true), ("True", true), ("0", false), ("", false), ("no", false)]
        {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value:?}");
        }
        assert!(options(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn the_token_comes_from_the_variable_then_the_file() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", place)]).token, None);
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(options(&[("HF_HOME", place)]).token.as_deref(), Some("hf_file"));
        assert_eq!(options(&[("HF_HOME", place), ("HF_TOKEN", "hf_env\n")]).token.as_deref(), Some("hf_env"));
        assert_eq!(options(&[("HF_HOME", place), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        let other = home.path().join("other");
        std::fs::write(&other, "hf_other").unwrap();
        let path = other.to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", place), ("HF_TOKEN_PATH", path)]).token.as_deref(), Some("hf_other"));
    }

    #[test]
    fn certificates_come_from_every_variable_that_names_some() {
        let found = options(&[("CURL_CA_BUNDLE", "/c.pem"), ("SSL_CERT_FILE", "/s.pem"), ("SSL_CERT_DIR", "")]);
        let names: Vec<_> = found.certificates.iter().map(|source| source.variable.as_str()).collect();
        assert_eq!(names, ["SSL_CERT_FILE", "CURL_CA_BUNDLE"]);
    }

    #[test]
    fn the_token_is_not_printed() {
        let printed = format!("{:?}", options(&[("HF_TOKEN", "hf_secret")]));
        assert!(!printed.contains("hf_secret"), "{printed}");
    }
}
