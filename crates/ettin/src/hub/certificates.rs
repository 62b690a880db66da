//! Which certificate authorities are trusted: those of the environment's files, else the system's, else the built-in
//! ones.
//!
//! Python's hub client takes `SSL_CERT_FILE`, else `SSL_CERT_DIR`, else the system's store; before version 1 it took
//! `REQUESTS_CA_BUNDLE`, else `CURL_CA_BUNDLE`. Here all that are set count together, so that what works for either
//! works.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use super::options::CertificateSource;
use crate::{Error, Result};

/// How servers are verified, and by what.
pub(super) struct Trust {
    pub(super) config: Arc<ClientConfig>,
    /// Where the authorities came from, for messages.
    pub(super) described: String,
}

impl Trust {
    /// Reads the certificates of the sources, or without any the system's.
    ///
    /// # Errors
    /// [`Error::Hub`] naming the variable and the file that cannot be read or holds no certificate.
    pub(super) fn load(sources: &[CertificateSource]) -> Result<Self> {
        let (certificates, described) = if sources.is_empty() { system() } else { named(sources)? };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if certificates.is_empty() {
            roots.roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
        }
        let wrong = |error: &dyn std::fmt::Display| Error::Hub { url: described.clone(), message: error.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let verifier = Verifier { inner: inner.map_err(|error| wrong(&error))?, named: certificates };
        let config = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| wrong(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), described })
    }

    /// Why a certificate is not accepted, and what to do about it.
    pub(super) fn explained(&self, error: &CertificateError) -> (String, String) {
        let by = format!("trusted are {}", self.described);
        let advice = match error {
            CertificateError::UnknownIssuer | CertificateError::UnknownRevocationStatus => format!(
                "no authority that is trusted has signed it; {by}. Where a network inspects TLS or a mirror has its \
                 own authority, set SSL_CERT_FILE to the PEM file of its certificates"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired: check this machine's clock".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet: check this machine's clock".to_owned()
            }
            CertificateError::Other(other) if is_authority_as_server(other) => {
                return (
                    "it is self-signed, and marked as an authority's".to_owned(),
                    format!("{by}. To trust this very certificate, set SSL_CERT_FILE to its PEM file"),
                );
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let asked = expected.to_str();
                return match presented.as_slice() {
                    [] => (
                        format!("it names no host, and {asked} was asked for"),
                        "the server needs one with that name as its subjectAltName; its subject's common name does not \
                         count"
                            .to_owned(),
                    ),
                    names => {
                        let names: Vec<&str> = names.iter().map(|name| presented_name(name)).collect();
                        (
                            format!("it is for {}, not for {asked}", names.join(", ")),
                            "ask for the server by one of these names, in HF_ENDPOINT for example".to_owned(),
                        )
                    }
                };
            }
            _ => by,
        };
        (error.to_string(), advice)
    }
}

/// A name as it is written, of rustls' `DnsName("…")` or `IpAddress(…)`.
fn presented_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// Certificates and their origin, of the files that variables name.
fn named(sources: &[CertificateSource]) -> Result<(Vec<CertificateDer<'static>>, String)> {
    let (mut all, mut described, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    for CertificateSource { variable, path } in sources {
        let wrong = |message: String| Error::Hub { url: format!("{variable} ({})", path.display()), message };
        let unset = format!("unset {variable} or correct it");
        let found = if path.is_dir() || variable.ends_with("DIR") {
            directory(path)
        } else {
            let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot be read ({error}); {unset}")))?;
            parsed(&bytes)
                .map_err(|error| wrong(format!("is no bundle of certificates in PEM form ({error}); {unset}")))?
        };
        if found.is_empty() {
            let message = format!("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); {unset}");
            // OpenSSL takes a folder without certificates for none; a file without is a mistake for it, too.
            if path.is_file() {
                return Err(wrong(message));
            }
            empty.push(wrong(message));
        } else {
            described.push(format!("{variable} ({})", path.display()));
            all.extend(found);
        }
    }
    match empty.into_iter().next() {
        Some(error) if all.is_empty() => Err(error),
        _ => Ok((all, format!("the certificates of {}", described.join(" and ")))),
    }
}

/// All certificates of the files of some folders, which are separated as in `PATH`. What is no certificate is passed
/// over.
fn directory(paths: &Path) -> Vec<CertificateDer<'static>> {
    let folders: Vec<PathBuf> = std::env::split_paths(paths).collect();
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort_unstable();
    let mut found: Vec<_> = files.iter().filter_map(|path| parsed(&std::fs::read(path).ok()?).ok()).flatten().collect();
    // Hashed folders hold every certificate under two names.
    found.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    found.dedup();
    found
}

/// The certificates of a PEM file, also under the labels of OpenSSL's that its own readers take.
fn parsed(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    let lines: Vec<&[u8]> = pem.split(|&byte| byte == b'\n').map(usual).collect();
    CertificateDer::pem_slice_iter(&lines.join(&b'\n')).map(|der| der.map(leading)).collect()
}

/// A line without the mark of UTF-8 that editors on Windows put before the first, and with the usual label.
fn usual(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    match line.trim_ascii_end() {
        b"-----BEGIN TRUSTED CERTIFICATE-----" | b"-----BEGIN X509 CERTIFICATE-----" => b"-----BEGIN CERTIFICATE-----",
        b"-----END TRUSTED CERTIFICATE-----" | b"-----END X509 CERTIFICATE-----" => b"-----END CERTIFICATE-----",
        _ => line,
    }
}

/// A certificate alone: in a `TRUSTED CERTIFICATE` what it is trusted for follows it, which is not looked at, as
/// Python's `ssl` asks for servers only and OpenSSL trusts a bundle's authorities for these.
fn leading(der: CertificateDer<'static>) -> CertificateDer<'static> {
    match sequence(&der) {
        Some(length) if length < der.len() => CertificateDer::from(der[..length].to_vec()),
        _ => der,
    }
}

/// The bytes that the sequence at the beginning of a DER document takes, with its tag and length (X.690, 8.1.3).
fn sequence(der: &[u8]) -> Option<usize> {
    let (&[0x30, first], rest) = der.split_first_chunk::<2>()? else { return None };
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let bytes = rest.get(..usize::from(first & 0x7f)).filter(|bytes| (1..=3).contains(&bytes.len()))?;
    let length = bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    Some(2 + bytes.len() + length)
}

/// Where Linux distributions keep the system's certificates in one file; as in Python's hub client.
const FILES: [&str; 5] = [
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The system's certificates. Where it has none (a bare container), none: the built-in ones of Mozilla's program then
/// count.
fn system() -> (Vec<CertificateDer<'static>>, String) {
    let mut found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        // An empty SSL_CERT_FILE counts as unset here, but not to that crate.
        let file = FILES.iter().find_map(|file| std::fs::read(file).ok());
        found = file.and_then(|bytes| parsed(&bytes).ok()).unwrap_or_default();
    }
    let described = if found.is_empty() {
        "the certificates built into this program, as the system's store is empty"
    } else {
        "the certificates of the system's store"
    };
    (found, described.to_owned())
}

/// webpki's verification, and besides the server certificates that are trusted as they are: OpenSSL, and so Python,
/// accepts a self-signed one that is named, which webpki refuses where it is marked as an authority (as `openssl req
/// -x509` does).
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Its dates were found good before this was noticed.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(error)))
                if is_authority_as_server(&error) && self.named.contains(end_entity) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_authority_as_server(error: &OtherError) -> bool {
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    const PEM: &str = include_str!("../../../../tests/fixtures/tls/authority.pem");

    fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
        parsed(pem).unwrap()
    }

    #[test]
    fn a_mark_of_utf_8_and_older_labels_hide_no_certificate() {
        let expected = certificates(PEM.as_bytes());
        assert_eq!(expected.len(), 1);
        let marked = format!("\u{feff}{PEM}");
        let windows = marked.replace('\n', "\r\n");
        let older = PEM.replace(" CERTIFICATE", " X509 CERTIFICATE");
        for pem in [&marked, &windows, &older] {
            assert_eq!(certificates(pem.as_bytes()), expected, "{pem}");
        }
        assert_eq!(certificates([marked.as_bytes(), marked.as_bytes()].concat().as_slice()).len(), 2);
    }

    /// As `openssl x509 -trustout` writes it: a second sequence behind the certificate.
    #[test]
    fn a_trusted_certificate_is_taken_without_what_it_is_trusted_for() {
        let expected = certificates(PEM.as_bytes());
        let der = [expected[0].as_ref(), &[0x30, 0x03, 0x0c, 0x01, b'x']].concat();
        let pem = format!(
            "-----BEGIN TRUSTED CERTIFICATE-----\n{}\n-----END TRUSTED CERTIFICATE-----\n",
            BASE64_STANDARD.encode(der)
        );
        assert_eq!(certificates(pem.as_bytes()), expected);
    }

    #[test]
    fn names_are_written_as_users_write_them() {
        assert_eq!(presented_name("DnsName(\"mirror.example\")"), "mirror.example");
        assert_eq!(presented_name("IpAddress(10.0.0.1)"), "10.0.0.1");
        assert_eq!(presented_name("other"), "other");
    }
}
