//! TLS towards nodes: what an upstream's settings make of rustls, and a session's state for [`super::Stream`].
//! Ringway's own I/O around rustls, not monoio-rustls: that one holds 32 KiB a connection and sends a record at a time
//! (reference/performance.md), and one way serves both directions of the gateway.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Sessions that a worker keeps of one upstream, to resume them.
const SESSIONS: usize = 256;

/// Certificate authorities.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Those of the operating system.
    ///
    /// # Errors
    /// If none could be read.
    pub fn system() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (taken, _) = store.add_parsable_certificates(found.certs);
        match (taken, found.errors.first()) {
            (0, Some(error)) => Err(format!("the system's certificate authorities can't be read: {error}")),
            (0, None) => Err("the system has no certificate authorities (Debian's package is ca-certificates)".to_owned()),
            _ => Ok(Self(Arc::new(store))),
        }
    }

    /// Those in a PEM text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(pem)? {
            store.add(certificate).map_err(|error| format!("failed to parse cert: {error}"))?;
        }
        Ok(Self(Arc::new(store)))
    }
}

/// How an upstream's nodes are spoken to over TLS. Shared by workers; each makes its own [`Client`] of it.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    config: Arc<ClientConfig>,
    /// Equal digests mean connections that may be shared.
    pub digest: u64,
}

impl ClientPlan {
    /// `roots` verify the node's certificate (nobody does where there are none); `identity` is our certificate chain and key.
    ///
    /// # Errors
    /// What is wrong with the certificate or key; the key itself is never in the text.
    pub fn new(roots: Option<&Roots>, identity: Option<(&str, &str)>, digest_of: impl Hash) -> Result<Self, String> {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match roots {
            Some(roots) => builder.with_root_certificates(roots.0.clone()),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(TakesAny(provider))),
        };
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|_| "failed to parse key: it is no PEM private key".to_owned())?;
                builder.with_client_auth_cert(certificates(chain)?, key).map_err(|error| error.to_string())?
            }
        };
        let mut hasher = DefaultHasher::new();
        digest_of.hash(&mut hasher);
        Ok(Self { config: Arc::new(config), digest: hasher.finish() | 1 })
    }

    /// A worker's own: its sessions are resumed by it alone.
    pub fn client(&self) -> Client {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Client(Arc::new(config))
    }

    /// Shakes hands on one of the coordinator's connections.
    ///
    /// # Errors
    /// As the handshake gives them.
    pub async fn connect<S>(&self, stream: S, host: &str, address: Option<IpAddr>) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.config.clone()).connect(name_of(host.as_bytes(), address), stream).await
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("failed to parse cert: it holds no PEM certificate".to_owned()),
        Err(error) => Err(format!("failed to parse cert: {error}")),
    }
}

/// What a worker connects with.
#[derive(Clone, Debug)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// The start of a session with the host of this name. A name that is none (an address, nothing) is not sent.
    pub(super) fn begin(&self, name: &[u8], address: Option<IpAddr>) -> io::Result<ClientConnection> {
        let mut session = ClientConnection::new(self.0.clone(), name_of(name, address)).map_err(io::Error::other)?;
        session.set_buffer_limit(None); // what is written is taken out at once
        Ok(session)
    }
}

/// The name a certificate is to be for: the host, or where that is no name the address.
fn name_of(host: &[u8], address: Option<IpAddr>) -> ServerName<'static> {
    let text = std::str::from_utf8(server_name(host)).unwrap_or_default().trim_matches(['[', ']']);
    match ServerName::try_from(text.to_owned()) {
        Ok(name) => name,
        Err(_) => ServerName::IpAddress(address.unwrap_or([0, 0, 0, 0].into()).into()),
    }
}

/// The host of a Host field: what a node's certificate is for.
pub fn server_name(host: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', host) {
        Some(at) if host.first() != Some(&b'[') || host.get(at.wrapping_sub(1)) == Some(&b']') => {
            host.get(..at).unwrap_or_default()
        }
        _ => host,
    }
}

/// Takes whatever certificate a node shows, as APISIX does unless told otherwise; that the node holds its key is still proved.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_fields_name_is_without_its_port() {
        for (host, name) in [
            ("a.example", "a.example"),
            ("a.example:8443", "a.example"),
            ("[::1]:443", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1:9", "10.0.0.1"),
        ] {
            assert_eq!(server_name(host.as_bytes()), name.as_bytes(), "{host}");
        }
    }

    #[test]
    fn broken_certificates_and_keys_are_named_without_their_text() {
        assert!(Roots::parse("secret").unwrap_err().contains("no PEM certificate"));
        let error = ClientPlan::new(None, Some(("x", "secret")), 0).unwrap_err();
        assert!(error.starts_with("failed to parse key") && !error.contains("secret"));
    }
}
