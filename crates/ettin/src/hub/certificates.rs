//! Which certificate authorities are trusted: those of the environment's files, else the system's, else the built-in ones.
//!
//! Python's hub client takes `SSL_CERT_FILE`, else `SSL_CERT_DIR`, else the system's store; before version 1 it took
//! `REQUESTS_CA_BUNDLE`, else `CURL_CA_BUNDLE`. Here all that are set count together, so that what works for either works.

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

    /// What to do about a certificate that is not accepted.
    pub(super) fn advice(&self, error: &CertificateError) -> String {
        let by = format!("trusted are {}", self.described);
        match error {
            CertificateError::UnknownIssuer | CertificateError::UnknownRevocationStatus => format!(
                "no authority that is trusted has signed it; {by}. Where a network inspects TLS or a mirror has its own \
                 authority, set SSL_CERT_FILE to the PEM file of its certificates"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired: check this machine's clock".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet: check this machine's clock".to_owned()
            }
            _ => by,
        }
    }
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

/// All certificates of the files of some folders, which are separated as in `PATH`. What is no certificate is passed over.
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

fn parsed(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

/// Where Linux distributions keep the system's certificates in one file; as in Python's hub client.
const FILES: [&str; 5] = [
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The system's certificates. Where it has none (a bare container), none: the built-in ones of Mozilla's program then count.
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

/// webpki's verification, and besides the server certificates that are trusted as they are: OpenSSL, and so Python, accepts
/// a self-signed one that is named, which webpki refuses where it is marked as an authority (as `openssl req -x509` does).
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
