//! A proxy's address, taken apart.

use super::proxies::{Proxy, split_port};
use crate::{Error, Result};

/// A proxy's address in its parts.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) protocol: Protocol,
    pub(super) host: String,
    pub(super) port: u16,
    /// User and password, decoded.
    pub(super) credentials: Option<(String, String)>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Https,
    /// SOCKS 5; the proxy looks names up, as it does for Python under `socks5` and `socks5h` alike.
    Socks5,
}

impl Proxy {
    /// Its parts.
    ///
    /// # Errors
    /// [`Error::Hub`] naming the variable; the address is not repeated, as it may hold a password.
    pub(super) fn server(&self) -> Result<Server> {
        let wrong = |message: &str| Error::Hub { url: self.variable.clone(), message: message.to_owned() };
        let (scheme, rest) = self.address.split_once("://").unwrap_or(("http", &self.address));
        let (protocol, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Protocol::Http, 80),
            "https" => (Protocol::Https, 443),
            "socks5" | "socks5h" => (Protocol::Socks5, 1080),
            _ => return Err(wrong("a proxy's address begins with http://, https://, socks5:// or socks5h://")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = split_port(place);
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("the port of this proxy is no number up to 65535"))?,
            None => default_port,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("there is no proxy's address in it, such as http://proxy.example.org:3128"));
        }
        let credentials = user.filter(|user| !user.is_empty()).map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (percent_decoded(name), percent_decoded(password))
        });
        Ok(Server { protocol, host: host.to_owned(), port, credentials })
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(address: &str) -> Proxy {
        Proxy { variable: "all_proxy".to_owned(), address: address.to_owned() }
    }

    #[test]
    fn addresses_are_taken_apart() {
        let server = |address: &str| {
            let server = proxy(address).server();
            server.map(|server| (server.protocol, server.host, server.port, server.credentials))
        };
        let plain = |protocol, host: &str, port| Some((protocol, host.to_owned(), port, None));
        assert_eq!(server("proxy").ok(), plain(Protocol::Http, "proxy", 80));
        assert_eq!(server("proxy:3128").ok(), plain(Protocol::Http, "proxy", 3128));
        assert_eq!(server("http://proxy:3128/").ok(), plain(Protocol::Http, "proxy", 3128));
        assert_eq!(server("https://proxy").ok(), plain(Protocol::Https, "proxy", 443));
        assert_eq!(server("SOCKS5h://[::1]:9").ok(), plain(Protocol::Socks5, "[::1]", 9));
        let (_, host, _, credentials) = server("http://me:p%40s:s%25@w@proxy:1").unwrap();
        assert_eq!((host.as_str(), credentials), ("proxy", Some(("me".to_owned(), "p@s:s%@w".to_owned()))));
        for wrong in ["ftp://proxy", "http://", "http://proxy:port", "http://proxy:70000", "http://a b"] {
            let error = server(wrong).unwrap_err().to_string();
            assert!(error.starts_with("all_proxy: "), "{wrong}: {error}");
        }
        let error = server("ftp://me:secret@proxy").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(!format!("{:?}", proxy("http://me:secret@p")).contains("secret"));
    }
}
