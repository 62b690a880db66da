//! Requests to the Hub: redirects, credentials, repetition, and what each refusal means.
//!
//! Redirects are followed here and not by the HTTP library, because three things depend on each hop: the access token
//! goes to the endpoint alone, the ETag that names a blob is the Hub's and not that of the storage it redirects to, and
//! a secure address never leads to an insecure one.

use std::time::Duration;

use ureq::Body;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, LOCATION, RANGE};
use ureq::http::header::{IF_RANGE, PROXY_AUTHORIZATION, RETRY_AFTER};
use ureq::http::{HeaderMap, Response, Uri};

use super::connections::{Connections, Route};
use super::{HubOptions, Proxy};
use crate::{Error, Result};

const MAX_REDIRECTS: usize = 10;
/// A server that asks for more patience than this gets an error instead.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What a proxy wants with HTTP 407.
const ASKS: &str = "asks for other credentials, as in http://user:password@proxy.example.org:3128";

/// Why an attempt failed, and whether another may help.
#[derive(Debug)]
pub(super) enum Failure {
    /// Final: the same request would fail again.
    Final(Error),
    /// The server is busy or the connection broke.
    Again {
        error: Error,
        /// When the server wants to be asked again.
        after: Option<Duration>,
        /// Whether this attempt got further than those before it.
        progressed: bool,
    },
}

impl Failure {
    pub(super) fn again(error: Error) -> Self {
        Failure::Again { error, after: None, progressed: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

/// The part of a file that is asked for.
pub(super) struct Rest<'a> {
    /// First byte.
    pub(super) start: u64,
    /// The file's ETag as the endpoint spelled it: if it has changed, the whole file is sent.
    pub(super) unless_changed: Option<&'a str>,
}

/// An answer that is not a failure: 2xx, 404 or 416, or a redirect to another host for [`Client::head`].
pub(super) struct Reply {
    pub(super) url: String,
    pub(super) status: u16,
    headers: HeaderMap,
    body: Body,
    identity: Identity,
}

/// What the endpoint, as opposed to a storage host it redirects to, says about a file.
#[derive(Clone, Default)]
struct Identity {
    commit: Option<String>,
    linked_etag: Option<String>,
    linked_size: Option<u64>,
    own_etag: Option<String>,
}

/// A file's name among the blobs, its size and its commit.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) etag: String,
    /// The ETag to send back in a conditional request; only where the endpoint itself serves the file.
    pub(super) strong_etag: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) commit: Option<String>,
}

pub(super) struct Client {
    connections: Connections,
    endpoint: Uri,
    token: Option<String>,
    retries: u32,
    backoff: Duration,
}

impl Client {
    pub(super) fn new(options: &HubOptions) -> Result<Self> {
        let wrong = |message: String| Error::Hub { url: options.endpoint.clone(), message };
        let endpoint: Uri = options.endpoint.parse().map_err(|error| wrong(format!("not an address: {error}")))?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) {
            return Err(wrong("HF_ENDPOINT must begin with https:// or http://".to_owned()));
        }
        Ok(Self {
            connections: Connections::new(options),
            endpoint,
            token: options.token.clone(),
            retries: options.retries,
            backoff: options.backoff,
        })
    }

    /// Repeats an attempt with growing pauses until it succeeds, fails for good, or has failed too often in a row.
    pub(super) fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut failures = 0;
        loop {
            let (error, after, progressed) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, after, progressed }) => (error, after, progressed),
            };
            failures = if progressed { 1 } else { failures + 1 };
            let pause = after.unwrap_or(self.backoff * 2u32.saturating_pow(failures - 1));
            if failures > self.retries || pause > MAX_PAUSE {
                return Err(error);
            }
            std::thread::sleep(pause);
        }
    }

    /// Asks about a file; `None` if there is none.
    pub(super) fn head(&self, url: &str) -> Result<Option<Metadata>> {
        let reply = self.retrying(|| self.send(true, url, None))?;
        if reply.status == 404 {
            return reply.is_missing_file().map(|_| None);
        }
        reply.metadata().map(Some)
    }

    /// Asks for a file or a part of it.
    pub(super) fn get(&self, url: &str, from: Option<Rest<'_>>) -> Result<Reply, Failure> {
        self.send(false, url, from)
    }

    fn send(&self, head: bool, url: &str, from: Option<Rest<'_>>) -> Result<Reply, Failure> {
        let wrong = |url: &Uri, message: String| Error::Hub { url: without_query(url), message };
        let mut target: Uri = url
            .parse()
            .map_err(|error| Error::Hub { url: url.to_owned(), message: format!("not an address: {error}") })?;
        let mut identity = Identity::default();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.hop(head, &target, from.as_ref())?;
            let status = response.status().as_u16();
            if status == 407 {
                let proxy = self.connections.route(&target)?.proxy.map_or("this network", Proxy::variable);
                return Err(wrong(&target, format!("the proxy of {proxy} {ASKS}")).into());
            }
            if self.is_endpoint(&target) {
                identity.update(response.headers());
            }
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                let (parts, body) = response.into_parts();
                if identity.own_etag.is_none() && identity.linked_etag.is_none() {
                    identity.own_etag = text(&parts.headers, ETAG.as_str());
                }
                let reply = Reply { url: without_query(&target), status, headers: parts.headers, body, identity };
                return reply.checked(self.token.is_some());
            }
            let location = text(response.headers(), LOCATION.as_str());
            let next = location.as_deref().and_then(|location| resolve_location(&target, location));
            let next = next.ok_or_else(|| wrong(&target, format!("redirects to {location:?}, which is no address")))?;
            if target.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(
                    wrong(&target, format!("redirects to an insecure address, {}", without_query(&next))).into()
                );
            }
            if head && !self.is_endpoint(&next) && (identity.linked_etag.is_some() || identity.own_etag.is_some()) {
                let (parts, body) = response.into_parts();
                return Ok(Reply { url: without_query(&target), status, headers: parts.headers, body, identity });
            }
            target = next;
        }
        Err(wrong(&target, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    fn hop(&self, head: bool, target: &Uri, from: Option<&Rest<'_>>) -> Result<Response<Body>, Failure> {
        let route = self.connections.route(target)?;
        let mut request = if head { route.agent.head(target) } else { route.agent.get(target) };
        if let Some(authorization) = &route.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        // Compressed in transit, a file would have neither a length to check nor a place to resume at.
        request = request.header(ACCEPT_ENCODING, "identity");
        let on_endpoint = self.is_endpoint(target);
        if let Some(token) = self.token.as_ref().filter(|_| on_endpoint) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={}-", from.start));
            if let Some(etag) = from.unless_changed.filter(|_| on_endpoint) {
                request = request.header(IF_RANGE, etag);
            }
        }
        request.call().map_err(|error| self.failure(&error, target, &route))
    }

    /// What a request that got no answer means, and whether another may get one.
    fn failure(&self, error: &ureq::Error, target: &Uri, route: &Route<'_>) -> Failure {
        let tls = match error {
            ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()),
            ureq::Error::Other(inner) => inner.downcast_ref::<rustls::Error>(),
            _ => None,
        };
        let through = match route.proxy {
            Some(proxy) => format!(", through the proxy of {}", proxy.variable()),
            None => String::new(),
        };
        let (message, lasting) = match (error, tls) {
            (_, Some(rustls::Error::InvalidCertificate(reason))) => {
                let explained = self.connections.trust().map(|trust| trust.explained(reason));
                let (reason, advice) = explained.unwrap_or_else(|| (reason.to_string(), String::new()));
                (format!("the server's certificate is not accepted ({reason}){through}: {advice}"), true)
            }
            // What a server without TLS answers is no record of it.
            (_, Some(error @ rustls::Error::InvalidMessage(_))) => {
                let what = "what answers there speaks no TLS; an address without TLS begins with http://, also in \
                            HF_ENDPOINT and in proxy variables";
                (format!("no secure connection{through} ({error}): {what}"), true)
            }
            (_, Some(error)) => (format!("no secure connection{through}: {error}"), true),
            (ureq::Error::HostNotFound, _) if route.proxy.is_some() => {
                (format!("host not found{through}: check the proxy's address"), true)
            }
            (ureq::Error::HostNotFound, _) => (format!("{error}: no connection? A cached model needs none"), true),
            (ureq::Error::ConnectProxyFailed(reason), _) => {
                let advice = match reason.contains("407") {
                    true => format!(": it {ASKS}"),
                    false => String::new(),
                };
                // Refused by its rules, or the server behind it not reached: the latter may change.
                (format!("no connection{through} ({reason}){advice}"), reason.contains("responded 4"))
            }
            (ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_), _) => (error.to_string(), true),
            (ureq::Error::Io(reason), _) if reason.kind() == std::io::ErrorKind::InvalidData => {
                (error.to_string(), true)
            }
            _ => (format!("{error}{through}"), false),
        };
        let error = Error::Hub { url: without_query(target), message };
        if lasting { Failure::Final(error) } else { Failure::again(error) }
    }

    /// Whether an address is of the endpoint's scheme, host and port: the only place the token is for.
    fn is_endpoint(&self, target: &Uri) -> bool {
        let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let same_host = match (target.host(), self.endpoint.host()) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            _ => false,
        };
        same_host && target.scheme() == self.endpoint.scheme() && port(target) == port(&self.endpoint)
    }
}

impl Identity {
    fn update(&mut self, headers: &HeaderMap) {
        let newer = |name: &str, old: &mut Option<String>| *old = text(headers, name).or(old.take());
        newer("x-repo-commit", &mut self.commit);
        newer("x-linked-etag", &mut self.linked_etag);
        newer(ETAG.as_str(), &mut self.own_etag);
        self.linked_size = number(headers, "x-linked-size").or(self.linked_size);
    }
}

impl Reply {
    /// Turns statuses that are failures into errors that say what to do.
    fn checked(self, has_token: bool) -> Result<Self, Failure> {
        let status = self.status;
        let reason = text(&self.headers, "x-error-message");
        let said = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let url = self.url.clone();
        match status {
            200 | 206 | 416 => match text(&self.headers, CONTENT_ENCODING.as_str()).as_deref() {
                None | Some("identity") => Ok(self),
                Some(encoding) => {
                    let message = format!("sent with the encoding {encoding}, although none was accepted");
                    Err(Error::Hub { url, message }.into())
                }
            },
            404 => Ok(self),
            401 | 403 => {
                let code = self.error_code();
                let message = match (has_token, code.as_deref()) {
                    (_, Some("GatedRepo")) => "the model is gated: accept its conditions on its page, and set HF_TOKEN",
                    (false, _) => {
                        "it does not exist, or is private or gated: check the name, or set HF_TOKEN \
                         (or log in with `hf auth login`)"
                    }
                    (true, _) => "the token is not valid or has no right to this model: check HF_TOKEN and the name",
                };
                Err(Error::Unauthorized { url, status, message: format!("{message}{said}") }.into())
            }
            408 | 429 | 500 | 502 | 503 | 504 => {
                let what =
                    if status == 429 { "too many requests; try again later" } else { "the server is in trouble" };
                let error = Error::Hub { url, message: format!("HTTP {status}: {what}{said}") };
                let after = number(&self.headers, RETRY_AFTER.as_str()).map(Duration::from_secs);
                Err(Failure::Again { error, after, progressed: false })
            }
            _ => Err(Error::Hub { url, message: format!("HTTP {status}{said}") }.into()),
        }
    }

    pub(super) fn error_code(&self) -> Option<String> {
        text(&self.headers, "x-error-code")
    }

    /// Of a 404: fine if only the file is missing, an error if it is the repository or the revision.
    fn is_missing_file(&self) -> Result<()> {
        match self.error_code().as_deref() {
            Some(code @ ("RepoNotFound" | "RevisionNotFound")) => Err(Error::NotFound {
                what: self.url.clone(),
                message: format!("{code}; it was there a moment ago, so try again"),
            }),
            _ => Ok(()),
        }
    }

    fn metadata(&self) -> Result<Metadata> {
        let Identity { commit, linked_etag, linked_size, own_etag } = &self.identity;
        let raw = linked_etag.as_ref().or(own_etag.as_ref());
        let etag = raw.and_then(|raw| blob_name(raw)).ok_or_else(|| Error::Hub {
            url: self.url.clone(),
            message: "the answer has no ETag, so this is not a Hub: check HF_ENDPOINT".to_owned(),
        })?;
        let direct = self.status == 200;
        Ok(Metadata {
            etag,
            strong_etag: own_etag.clone().filter(|tag| direct && tag.starts_with('"')),
            size: linked_size.or_else(|| number(&self.headers, CONTENT_LENGTH.as_str()).filter(|_| direct)),
            commit: commit.clone(),
        })
    }

    /// The blob name by which the endpoint knows what it sends now, if it says so.
    pub(super) fn blob_name(&self) -> Option<String> {
        let Identity { linked_etag, own_etag, .. } = &self.identity;
        linked_etag.as_ref().or(own_etag.as_ref()).and_then(|raw| blob_name(raw))
    }

    /// The first byte of the file that the body holds, and the file's whole length where it is said.
    pub(super) fn extent(&self) -> Result<(u64, Option<u64>)> {
        if self.status != 206 {
            return Ok((0, number(&self.headers, CONTENT_LENGTH.as_str())));
        }
        let range = text(&self.headers, "content-range").unwrap_or_default();
        let parse = || {
            let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
            let (first, _) = span.split_once('-')?;
            Some((first.trim().parse().ok()?, total.trim().parse().ok()))
        };
        parse().ok_or_else(|| Error::Hub {
            url: self.url.clone(),
            message: format!("a part of the file is sent, but Content-Range is {range:?}"),
        })
    }

    pub(super) fn into_reader(self) -> impl std::io::Read {
        self.body.into_reader()
    }

    /// The whole body, which must be small.
    pub(super) fn read(self) -> Result<Vec<u8>, Failure> {
        const LIMIT: u64 = 64 << 20;
        let url = self.url;
        self.body
            .into_with_config()
            .limit(LIMIT)
            .read_to_vec()
            .map_err(|error| Failure::again(Error::Hub { url, message: error.to_string() }))
    }
}

/// An ETag as a file name: without `W/` and quotes, and with nothing that means something in a path.
fn blob_name(etag: &str) -> Option<String> {
    let bare = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let fine = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }
    };
    let name: String = bare.chars().map(fine).collect();
    (!name.is_empty() && name.len() <= 128 && !name.starts_with('.') && !name.ends_with(".incomplete")).then_some(name)
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// An address fit for messages: what follows `?` may be a signature that grants access.
fn without_query(uri: &Uri) -> String {
    let whole = uri.to_string();
    whole.split('?').next().unwrap_or_default().to_owned()
}

fn resolve_location(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let origin = || Some(format!("{}://{}", base.scheme_str()?, base.authority()?));
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", base.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}{location}", origin()?)
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{}{folder}/{location}", origin()?)
    };
    let uri: Uri = absolute.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri).filter(|uri| uri.host().is_some())
}

/// Percent-encodes one part of a path, `/` included unless it is kept.
pub(super) fn encoded(part: &str, keep_slashes: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slashes && byte == b'/');
    let encode = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    part.bytes().map(encode).collect()
}

/// Where the endpoint serves a file.
pub(super) fn file_url(options: &HubOptions, id: &str, revision: &str, file: &str) -> String {
    format!("{}/{id}/resolve/{}/{}", options.endpoint, encoded(revision, false), encoded(file, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_become_safe_file_names() {
        for (etag, name) in [
            ("\"abc123\"", Some("abc123")),
            ("W/\"abc\"", Some("abc")),
            ("abc", Some("abc")),
            ("\"../../x\"", None),
            ("\"a/../b\"", Some("a-..-b")),
            ("\"\"", None),
            ("\"x.incomplete\"", None),
        ] {
            assert_eq!(blob_name(etag).as_deref(), name, "{etag}");
        }
    }

    #[test]
    fn locations_are_resolved_against_the_address() {
        let base: Uri = "http://hub:80/a/b?x=1".parse().unwrap();
        for (location, expected) in [
            ("/c/d?y=2", Some("http://hub:80/c/d?y=2")),
            ("c", Some("http://hub:80/a/c")),
            ("//cdn/c", Some("http://cdn/c")),
            ("https://cdn/c#part", Some("https://cdn/c")),
            ("file:///etc/passwd", None),
            ("http://", None),
        ] {
            let resolved = resolve_location(&base, location).map(|uri| uri.to_string());
            assert_eq!(resolved.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn addresses_encode_what_is_not_plain() {
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("1_Pooling/a b#?.json", true), "1_Pooling/a%20b%23%3F.json");
    }
}
