//! The settings of TLS: certificates, keys, and what is known of a session once its peers have agreed.

use std::fmt;
use std::sync::{Arc, OnceLock};

use pkcs8::der::pem::LineEnding;
use pkcs8::der::{Decode, SecretDocument};
use pkcs8::{EncryptedPrivateKeyInfoRef, der};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;

/// How ALPN names HTTP/2.
pub(crate) const HTTP2: &[u8] = b"h2";

/// What a server needs for TLS. All texts are PEM.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// The server's certificate, followed by those that lead from it to one that clients trust.
    pub certificates: Vec<u8>,
    /// The key of the server's certificate: PKCS#8, PKCS#1 or SEC1. `None`: it stands beside the certificates.
    pub key: Option<Vec<u8>>,
    /// The password of the key.
    pub key_password: Option<Vec<u8>>,
    /// Authorities; a client that has a certificate of one of them may show it.
    pub client_authorities: Option<Vec<u8>>,
    /// Clients have to show a certificate.
    pub requires_client_certificate: bool,
}

impl fmt::Debug for TlsOptions {
    /// Without the key and its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions").finish_non_exhaustive()
    }
}

/// Certificates or keys cannot be used; the text says which, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

fn refused<T>(text: impl Into<String>) -> Result<T, TlsError> {
    Err(TlsError(text.into()))
}

/// TLS as a server speaks it: 1.2 and 1.3, with HTTP/2 and HTTP/1.1 by ALPN.
#[derive(Debug)]
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    certificate: String,
}

impl Tls {
    /// Check the certificates and the keys.
    pub fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        let certificates = certificates(&options.certificates, "the certificate file")?;
        let key = options.key.as_ref().unwrap_or(&options.certificates);
        let key = private_key(key, options.key_password.as_deref())?;
        let certificate = pem_of(&certificates[0]);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(format!("TLS cannot be set up: {error}")))?;
        let builder = match client_verifier(options, provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(unusable)?;
        config.alpn_protocols = [HTTP2, b"http/1.1", b"http/1.0"].map(Vec::from).into();
        // What a client needs to resume is in its ticket, so that it costs the server no memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new()
            .map_err(|error| TlsError(format!("TLS cannot make a key for tickets: {error}")))?;
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// The server's certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

fn unusable(error: rustls::Error) -> TlsError {
    TlsError(match error {
        rustls::Error::InconsistentKeys(_) => {
            "the private key does not belong to the certificate; give the key with which the certificate was requested"
                .into()
        }
        other => format!(
            "the certificate or its key cannot be used: {other}; use an RSA key of 2048 to 4096 bits, an ECDSA key on \
             P-256 or P-384, or an Ed25519 key"
        ),
    })
}

fn certificates(text: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => refused(format!(
            "{what} has no certificate: there is no BEGIN CERTIFICATE in it; give certificates as PEM"
        )),
        Err(error) => refused(format!("{what} cannot be read: {error}; give certificates as PEM")),
    }
}

const ENCRYPTED: (&str, &str) =
    ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----");

fn private_key(text: &[u8], password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let lossy = String::from_utf8_lossy(text);
    if let Some(begin) = lossy.find(ENCRYPTED.0)
        && let Some(length) = lossy[begin..].find(ENCRYPTED.1)
    {
        return decrypted(&lossy[begin..begin + length + ENCRYPTED.1.len()], password);
    }
    if lossy.contains("Proc-Type: 4,ENCRYPTED") {
        return refused(
            "the private key is encrypted in the old form of OpenSSL, which is not read; \
             convert it by `openssl pkcs8 -topk8 -in OLD -out NEW`",
        );
    }
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => refused(
            "there is no private key: neither the key file nor the certificate file has a BEGIN PRIVATE KEY; give a \
             key file",
        ),
        Err(error) => refused(format!("the private key cannot be read: {error}; give it as PEM")),
    }
}

fn decrypted(text: &str, password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let Some(password) = password else {
        return refused(
            "the private key is encrypted, and there is no password; give its password",
        );
    };
    let not_read = |error: der::Error| {
        TlsError(format!("the encrypted private key cannot be read: {error}; give it as PEM"))
    };
    let (_, document) = SecretDocument::from_pem(text).map_err(not_read)?;
    let info = EncryptedPrivateKeyInfoRef::from_der(document.as_bytes()).map_err(not_read)?;
    let key = info.decrypt(password).map_err(|error| {
        TlsError(format!(
            "the private key cannot be decrypted: {error}; check its password, or encrypt it anew by \
             `openssl pkcs8 -topk8 -v2 aes-256-cbc`"
        ))
    })?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

type ClientVerifier = Arc<dyn rustls::server::danger::ClientCertVerifier>;

fn client_verifier(
    options: &TlsOptions,
    provider: Arc<CryptoProvider>,
) -> Result<Option<ClientVerifier>, TlsError> {
    let Some(authorities) = &options.client_authorities else {
        if options.requires_client_certificate {
            return refused(
                "clients have to show certificates, and no authority is trusted; give the certificates of those \
                 authorities that issue them",
            );
        }
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities, "the file of client authorities")? {
        roots.add(certificate).map_err(|error| {
            TlsError(format!(
                "a certificate of a client authority cannot be used: {error}; give certificates of version 3"
            ))
        })?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !options.requires_client_certificate {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| {
        TlsError(format!(
            "the certificates of client authorities cannot be used: {error}; give those that sign clients' certificates"
        ))
    })?;
    Ok(Some(verifier))
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    // It fails if the text is too long for a computer only.
    der::pem::encode_string("CERTIFICATE", LineEnding::LF, certificate).unwrap_or_default()
}

/// What the peers of a session have agreed on, and who the client is.
#[derive(Debug)]
pub struct TlsInfo {
    /// The version as TLS writes it: 0x0304 is 1.3.
    pub version: u16,
    /// The number of the cipher suite.
    pub cipher_suite: u16,
    chain: Vec<CertificateDer<'static>>,
    client: OnceLock<TlsClient>,
}

/// A client that has shown a certificate that was verified.
#[derive(Debug)]
pub struct TlsClient {
    /// Its certificate and those that it has sent with it, as PEM.
    pub chain: Vec<String>,
    /// The subject of its certificate, as RFC 4514 writes names.
    pub name: String,
}

impl TlsInfo {
    pub(crate) fn new(
        version: u16,
        cipher_suite: u16,
        chain: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { version, cipher_suite, chain, client: OnceLock::new() }
    }

    /// Who the client is; `None` if it has shown no certificate.
    pub fn client(&self) -> Option<&TlsClient> {
        let own = self.chain.first()?;
        Some(self.client.get_or_init(|| {
            TlsClient {
                chain: self.chain.iter().map(pem_of).collect(),
                name: Certificate::from_der(own)
                    .map(|it| it.tbs_certificate().subject().to_string())
                    .unwrap_or_default(),
            }
        }))
    }
}
