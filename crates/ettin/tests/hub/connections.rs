//! Secure connections and proxies: what is trusted, by whose word, and what goes where.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ettin::hub::{CertificateSource, HubOptions, Proxies, resolve};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::server::Hub;

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tls").join(name)
}

/// Asks for the one file whose way never leaves the endpoint.
fn fetch(options: &HubOptions) -> ettin::Result<()> {
    let files = resolve("org/model", None, options)?;
    assert_eq!(&*files.require("config.json")?, b"{\"model_type\": \"modernbert\"}");
    Ok(())
}

fn refusal(options: &HubOptions) -> String {
    fetch(options).unwrap_err().to_string()
}

fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Reads the head of a request; `None` for a connection that ends before it is whole.
fn head(stream: &mut impl Read) -> Option<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

/// The port of a server that speaks TLS with this certificate in front of a Hub.
fn secured(hub: &Hub, name: &str) -> u16 {
    let chain =
        CertificateDer::pem_file_iter(certificate(&format!("{name}.pem"))).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificate(&format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (config, plain) = (Arc::new(config), hub.url.strip_prefix("http://").unwrap().to_owned());
    listen(move |stream| {
        let mut secure = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        // A client that does not trust us goes away.
        let Some(request) = head(&mut secure) else {
            return;
        };
        let mut behind = TcpStream::connect(&plain).unwrap();
        behind.write_all(&request).unwrap();
        let mut reply = Vec::new();
        behind.read_to_end(&mut reply).unwrap();
        let _ = secure.write_all(&reply);
        secure.conn.send_close_notify();
        let _ = secure.flush();
    })
}

struct Case {
    options: HubOptions,
    hub: Hub,
    _cache: tempfile::TempDir,
}

/// A Hub behind TLS, asked as `localhost`, with certificates from these variables.
fn case(name: &str, sources: &[(&str, &Path)]) -> Case {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    options.endpoint = format!("https://localhost:{}", secured(&hub, name));
    options.certificates = sources
        .iter()
        .map(|(variable, path)| CertificateSource { variable: (*variable).to_owned(), path: path.to_path_buf() })
        .collect();
    Case { options, hub, _cache: cache }
}

#[test]
fn an_authority_named_by_any_variable_is_trusted() {
    let (ours, other) = (certificate("authority.pem"), certificate("other.pem"));
    let bundle = tempfile::NamedTempFile::new().unwrap();
    let both = [std::fs::read(&other).unwrap(), b"a comment\n".to_vec(), std::fs::read(&ours).unwrap()].concat();
    std::fs::write(bundle.path(), both).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&ours, folder.path().join("5ed36f99.0")).unwrap();
    std::fs::write(folder.path().join("README"), "no certificate").unwrap();
    for sources in [
        &[("SSL_CERT_FILE", ours.as_path())][..],
        &[("REQUESTS_CA_BUNDLE", bundle.path())],
        &[("CURL_CA_BUNDLE", ours.as_path())],
        &[("SSL_CERT_DIR", folder.path())],
        &[("REQUESTS_CA_BUNDLE", folder.path())],
        // What a system sets beside what the user sets.
        &[("SSL_CERT_FILE", other.as_path()), ("REQUESTS_CA_BUNDLE", ours.as_path())],
        &[("SSL_CERT_FILE", ours.as_path()), ("SSL_CERT_DIR", Path::new("/no/such/folder"))],
    ] {
        fetch(&case("server", sources).options).unwrap_or_else(|error| panic!("{sources:?}: {error}"));
    }
}

#[test]
fn a_server_that_is_trusted_itself_may_be_self_signed() {
    let own = certificate("self-signed.pem");
    let mut case = case("self-signed", &[("SSL_CERT_FILE", own.as_path())]);
    fetch(&case.options).unwrap();
    // It is still a certificate for its own name alone.
    let cache = tempfile::tempdir().unwrap();
    case.options.cache = cache.path().to_owned();
    case.options.endpoint = case.options.endpoint.replace("localhost", "127.0.0.1");
    assert!(refusal(&case.options).contains("certificate is not accepted"));
}

#[test]
fn a_certificate_that_is_not_accepted_says_what_is_trusted_and_what_to_set() {
    let other = certificate("other.pem");
    let case = case("server", &[("SSL_CERT_FILE", other.as_path())]);
    let error = refusal(&case.options);
    for part in ["UnknownIssuer", "SSL_CERT_FILE", &other.display().to_string(), "PEM"] {
        assert!(error.contains(part), "{error} should say {part}");
    }
    assert!(case.hub.requests().is_empty());
    // Nor is the test's authority among those of this system.
    let mut options = case.options.clone();
    options.certificates.clear();
    let error = refusal(&options);
    assert!(error.contains("the system") && error.contains("set SSL_CERT_FILE"), "{error}");
}

#[test]
fn a_self_signed_certificate_that_nothing_names_can_be_named() {
    let mut case = case("self-signed", &[]);
    case.options.certificates.clear();
    let error = refusal(&case.options);
    for part in ["self-signed", "this very certificate", "SSL_CERT_FILE"] {
        assert!(error.contains(part), "{error} should say {part}");
    }
    assert!(!error.contains("Other"), "{error}");
}

#[test]
fn a_certificate_for_other_names_says_which_and_what_was_asked() {
    let own = certificate("self-signed.pem");
    let mut case = case("self-signed", &[("SSL_CERT_FILE", own.as_path())]);
    case.options.endpoint = case.options.endpoint.replace("localhost", "127.0.0.1");
    let error = refusal(&case.options);
    assert!(error.contains("it is for localhost, not for 127.0.0.1"), "{error}");
}

#[test]
fn tls_to_a_server_without_it_is_told_by_the_scheme_that_fits() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    // Most servers answer what they do not understand, and at once.
    let port = listen(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    options.endpoint = format!("https://localhost:{port}");
    let error = refusal(&options);
    assert!(error.contains("speaks no TLS") && error.contains("http://"), "{error}");
}

#[test]
fn files_without_certificates_are_named() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let damaged = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(damaged.path(), "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let good = certificate("authority.pem");
    for (variable, path, says) in [
        ("SSL_CERT_FILE", Path::new("/no/such/file.pem"), "cannot be read"),
        ("SSL_CERT_FILE", empty.path(), "holds no certificate"),
        ("REQUESTS_CA_BUNDLE", damaged.path(), "no bundle of certificates"),
        ("SSL_CERT_DIR", folder.path(), "holds no certificate"),
        ("SSL_CERT_DIR", Path::new("/no/such/folder"), "holds no certificate"),
    ] {
        let error = refusal(&case("server", &[(variable, path)]).options);
        assert!(error.contains(variable) && error.contains(says), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        if !variable.ends_with("DIR") {
            // A file that was named is meant, whatever else is trusted.
            let error = refusal(&case("server", &[(variable, path), ("CURL_CA_BUNDLE", &good)]).options);
            assert!(error.contains(variable), "{error}");
        }
    }
}

#[test]
fn an_address_without_tls_needs_no_certificates() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let mut options = hub.options(cache.path());
    options.certificates.push(CertificateSource { variable: "SSL_CERT_FILE".into(), path: "/no/such/file".into() });
    fetch(&options).unwrap();
}

/// A proxy for http (whole addresses) and https (tunnels), and the heads of the requests it got.
fn proxy(password: Option<&'static str>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let port = listen(move |mut client| {
        let Some(request) = head(&mut client) else {
            return;
        };
        let text = String::from_utf8(request).unwrap();
        seen.lock().unwrap().push(text.clone());
        let allowed = password.is_none_or(|password| {
            text.contains(&format!("roxy-Authorization: Basic {password}\r\n"))
                || text.contains(&format!("roxy-authorization: Basic {password}\r\n"))
        });
        if !allowed {
            let _ = client.write_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let target = text.split(' ').nth(1).unwrap();
        if text.starts_with("CONNECT ") {
            let mut server = TcpStream::connect(target).unwrap();
            client.write_all(b"HTTP/1.1 200 Go\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let _ = std::io::copy(&mut server, &mut client);
            return;
        }
        let rest = target.strip_prefix("http://").expect("a proxy is told the whole address");
        let (place, path) = rest.split_once('/').unwrap();
        let mut server = TcpStream::connect(place).unwrap();
        server.write_all(text.replacen(target, &format!("/{path}"), 1).as_bytes()).unwrap();
        let mut reply = Vec::new();
        server.read_to_end(&mut reply).unwrap();
        let _ = client.write_all(&reply);
    });
    (port, log)
}

fn proxies(variables: &[(&str, String)]) -> Proxies {
    Proxies::from_lookup(|name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| value.clone())
    })
}

/// base64 of `me:p@ss`.
const CREDENTIALS: &str = "bWU6cEBzcw==";

#[test]
fn an_http_address_goes_to_its_proxy_whole() {
    let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
    let (port, log) = proxy(Some(CREDENTIALS));
    let mut options = hub.options(cache.path());
    options.proxies = proxies(&[("HTTP_PROXY", format!("http://me:p%40ss@127.0.0.1:{port}"))]);
    fetch(&options).unwrap();
    let log = log.lock().unwrap();
    assert!(!log.is_empty() && log.iter().all(|head| head.split(' ').nth(1).unwrap().starts_with(&hub.url)), "{log:?}");
    assert!(!hub.requests().is_empty());
}

#[test]
fn an_https_address_goes_through_a_tunnel() {
    let authority = certificate("authority.pem");
    let mut case = case("server", &[("SSL_CERT_FILE", authority.as_path())]);
    let (port, log) = proxy(Some(CREDENTIALS));
    case.options.proxies = proxies(&[
        ("https_proxy", format!("me:p%40ss@127.0.0.1:{port}")),
        ("http_proxy", "http://127.0.0.1:1".to_owned()),
    ]);
    fetch(&case.options).unwrap();
    let place = case.options.endpoint.strip_prefix("https://").unwrap();
    let log = log.lock().unwrap();
    assert!(!log.is_empty() && log.iter().all(|head| head.starts_with(&format!("CONNECT {place} "))), "{log:?}");
    // What goes through the tunnel is not the proxy's to read.
    assert!(!log.iter().any(|head| head.contains("org/model")));
}

#[test]
fn exceptions_go_around_the_proxy() {
    for list in ["localhost, 127.0.0.1", "127.0.0.0/8", "*"] {
        let (hub, cache) = (Hub::with_model(), tempfile::tempdir().unwrap());
        let (port, log) = proxy(None);
        let mut options = hub.options(cache.path());
        options.proxies = proxies(&[("ALL_PROXY", format!("http://127.0.0.1:{port}")), ("NO_PROXY", list.to_owned())]);
        fetch(&options).unwrap();
        assert!(log.lock().unwrap().is_empty(), "{list}");
    }
}

#[test]
fn a_proxy_that_refuses_is_named_and_its_password_is_not() {
    let authority = certificate("authority.pem");
    let (port, log) = proxy(Some(CREDENTIALS));
    let address = format!("http://me:wrong-secret@127.0.0.1:{port}");
    let mut case = case("server", &[("SSL_CERT_FILE", authority.as_path())]);
    case.options.proxies = proxies(&[("HTTPS_PROXY", address.clone())]);
    let error = refusal(&case.options);
    assert!(error.contains("HTTPS_PROXY") && error.contains("credentials"), "{error}");
    assert!(!error.contains("wrong-secret"), "{error}");
    assert_eq!(log.lock().unwrap().len(), 1, "asking again would not help");

    case.options.endpoint = case.hub.url.clone();
    case.options.proxies = proxies(&[("ALL_PROXY", address)]);
    let error = refusal(&case.options);
    assert!(error.contains("ALL_PROXY") && error.contains("credentials"), "{error}");
    assert!(!error.contains("wrong-secret"), "{error}");

    case.options.proxies = proxies(&[("http_proxy", "http://127.0.0.1:1".to_owned())]);
    let error = refusal(&case.options);
    assert!(error.contains("http_proxy"), "{error}");
    case.options.proxies = proxies(&[("http_proxy", "ftp://127.0.0.1".to_owned())]);
    let error = refusal(&case.options);
    assert!(error.contains("http_proxy") && error.contains("http://"), "{error}");
}
