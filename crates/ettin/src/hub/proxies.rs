//! Proxies as the environment names them, by the rules of Python's hub client (httpx on urllib's `getproxies`).
//!
//! `HTTP_PROXY` is for http addresses, `HTTPS_PROXY` for https, `ALL_PROXY` for either where its own is not set; the
//! lower-case spelling wins, and an empty one switches its upper-case twin off. `NO_PROXY` lists the exceptions.
//! Python also asks the settings of Windows and macOS; this does not.

use std::fmt;
use std::net::IpAddr;

/// The proxies of an environment, and the addresses that are reached without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    all: Option<Proxy>,
    /// Whether `*` is among the exceptions.
    none: bool,
    exceptions: Vec<Exception>,
}

/// One proxy, and the variable that named it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) variable: String,
    pub(super) address: String,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its address may hold a password.
        write!(f, "Proxy({})", self.variable)
    }
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    scheme: Option<String>,
    host: Pattern,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    /// This name alone.
    Exact(String),
    /// Names below it.
    Below(String),
    /// The name and those below it.
    Under(String),
    /// Addresses whose first so many bits are these.
    Network(IpAddr, u32),
}

impl Proxies {
    /// The proxies that these variables name.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| {
            let upper = name.to_ascii_uppercase();
            let (name, value) = match lookup(name) {
                Some(value) => (name.to_owned(), value),
                None => (upper.clone(), lookup(&upper)?),
            };
            let value = value.trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        };
        let proxy = |name: &str| variable(name).map(|(variable, address)| Proxy { variable, address });
        let list = variable("no_proxy").map(|(_, list)| list).unwrap_or_default();
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Self {
            http: proxy("http_proxy"),
            https: proxy("https_proxy"),
            all: proxy("all_proxy"),
            none: entries.clone().any(|entry| entry == "*"),
            exceptions: entries.filter_map(Exception::parse).collect(),
        }
    }

    /// The proxy for an address, if it is reached through one.
    pub fn choose(&self, scheme: &str, host: &str, port: u16) -> Option<&Proxy> {
        let own = match scheme {
            "http" => self.http.as_ref(),
            "https" => self.https.as_ref(),
            _ => None,
        };
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let excepted = self.none || self.exceptions.iter().any(|entry| entry.matches(scheme, &host, port));
        own.or(self.all.as_ref()).filter(|_| !excepted)
    }
}

impl Proxy {
    /// The environment's variable that named it.
    pub fn variable(&self) -> &str {
        &self.variable
    }
}

impl Exception {
    /// An entry that says nothing is left out, as curl and Python do.
    fn parse(entry: &str) -> Option<Self> {
        let (scheme, rest) = match entry.split_once("://") {
            Some((scheme, rest)) => (Some(scheme).filter(|&scheme| scheme != "all"), rest),
            None => (None, entry),
        };
        let scheme = scheme.map(str::to_ascii_lowercase);
        if let Some(host) = network(rest) {
            return Some(Self { scheme, host, port: None });
        }
        let (host, port) = split_port(rest.trim_end_matches('/'));
        if host.contains('/') {
            return None;
        }
        let port = match port {
            Some(port) => Some(port.parse().ok()?),
            None => None,
        };
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let pattern = if let Ok(address) = host.parse::<IpAddr>() {
            Pattern::Network(address, bits(address))
        } else if let Some(name) = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            Pattern::Below(name.to_owned())
        } else if let Some(name) = host.strip_prefix('*') {
            if name.is_empty() { Pattern::Any } else { Pattern::Under(name.to_owned()) }
        } else if host == "localhost" || entry.contains("://") {
            if host.is_empty() { Pattern::Any } else { Pattern::Exact(host) }
        } else if host.is_empty() {
            return None;
        } else {
            Pattern::Under(host)
        };
        Some(Self { scheme, host: pattern, port })
    }

    fn matches(&self, scheme: &str, host: &str, port: u16) -> bool {
        let below = |name: &str| host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
        let fits = match &self.host {
            Pattern::Any => true,
            Pattern::Exact(name) => host == name,
            Pattern::Below(name) => below(name),
            Pattern::Under(name) => host == name || below(name),
            Pattern::Network(address, length) => host.parse().is_ok_and(|host| in_network(host, *address, *length)),
        };
        fits && self.scheme.as_ref().is_none_or(|own| own == scheme) && self.port.is_none_or(|own| own == port)
    }
}

/// `192.168.0.0/16`, `fd00::/8`.
fn network(text: &str) -> Option<Pattern> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    let length = length.parse().ok().filter(|&length| length <= bits(address))?;
    Some(Pattern::Network(address, length))
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn in_network(host: IpAddr, network: IpAddr, length: u32) -> bool {
    let first = |value: u128, width: u32| value.checked_shr(width - length).unwrap_or(0);
    match (host, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => first(a.to_bits().into(), 32) == first(b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => first(a.to_bits(), 128) == first(b.to_bits(), 128),
        _ => false,
    }
}

/// Host and port of `host:port`, `[::1]:port`, or a bare IPv6 address.
pub(super) fn split_port(place: &str) -> (&str, Option<&str>) {
    match place.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || (host.starts_with('[') && host.ends_with(']')) => {
            (host, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (place, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_lookup(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn chosen(variables: &[(&str, &str)], scheme: &str) -> Option<String> {
        proxies(variables).choose(scheme, "hub.example.org", 443).map(|proxy| proxy.variable.clone())
    }

    #[test]
    fn each_scheme_has_its_proxy_and_lower_case_wins() {
        let all = [("HTTP_PROXY", "a"), ("HTTPS_PROXY", "b"), ("ALL_PROXY", "c")];
        assert_eq!(chosen(&all, "http").as_deref(), Some("HTTP_PROXY"));
        assert_eq!(chosen(&all, "https").as_deref(), Some("HTTPS_PROXY"));
        assert_eq!(chosen(&all[2..], "https").as_deref(), Some("ALL_PROXY"));
        assert_eq!(chosen(&all[..1], "https"), None);
        let both = [("HTTPS_PROXY", "a"), ("https_proxy", "b")];
        assert_eq!(chosen(&both, "https").as_deref(), Some("https_proxy"));
        assert_eq!(chosen(&[("HTTPS_PROXY", "a"), ("https_proxy", "")], "https"), None);
        assert_eq!(chosen(&[("HTTPS_PROXY", " ")], "https"), None);
    }

    /// What httpx2 2.16.2 does with the same entries, but for the last of those with a port: it takes 443 for no port
    /// at all.
    #[test]
    fn exceptions_are_those_of_python() {
        for (list, host, port, excepted) in [
            ("*", "hub.example.org", 443, true),
            ("other.org, *", "hub.example.org", 443, true),
            ("example.org", "hub.example.org", 443, true),
            ("example.org", "example.org", 443, true),
            ("EXAMPLE.org", "Hub.Example.ORG", 443, true),
            ("example.org", "wwwexample.org", 443, false),
            (".example.org", "hub.example.org", 443, true),
            (".example.org", "example.org", 443, false),
            ("*.example.org", "a.b.example.org", 443, true),
            ("*.example.org", "example.org", 443, false),
            ("hub.example.org", "example.org", 443, false),
            ("localhost", "localhost", 443, true),
            ("localhost", "my.localhost", 443, false),
            ("example.org:8080", "hub.example.org", 8080, true),
            ("example.org:8080", "hub.example.org", 443, false),
            ("example.org:443", "hub.example.org", 443, true),
            ("192.168.0.0/16", "192.168.7.9", 443, true),
            ("192.168.0.0/16", "192.169.7.9", 443, false),
            ("192.168.0.0/16", "example.org", 443, false),
            ("0.0.0.0/0", "10.1.2.3", 443, true),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3", "10.1.2.34", 443, false),
            ("10.1.2.3:8080", "10.1.2.3", 8080, true),
            ("::1", "[::1]", 443, true),
            ("[::1]", "[::1]", 443, true),
            ("fd00::/8", "[fd12::1]", 443, true),
            ("fd00::/8", "[fe80::1]", 443, false),
            ("http://hub.example.org", "hub.example.org", 443, false),
            ("https://hub.example.org", "hub.example.org", 443, true),
            ("all://hub.example.org", "hub.example.org", 443, true),
            ("192.168.0.0/99, a/b, :x", "hub.example.org", 443, false),
            ("", "hub.example.org", 443, false),
        ] {
            let proxies = proxies(&[("https_proxy", "http://proxy:3128"), ("NO_PROXY", list)]);
            assert_eq!(proxies.choose("https", host, port).is_none(), excepted, "{list:?} and {host}:{port}");
        }
    }
}
