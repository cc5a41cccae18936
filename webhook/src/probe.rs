//! Whether admission's listener is what API servers call: handshakes with the
//! own listener flow in, an open or a closed gate flows out.
//!
//! Listening is not enough for admission: it is ready once a TLS handshake
//! with itself has worked, because kube-apiserver's calls begin with one.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{
    readiness::Gate,
    report::chain,
    tls::{Certificates, provider},
};

/// Between two handshakes while they work.
const CALM: Duration = Duration::from_secs(10);
/// Between two handshakes while they fail.
const KEEN: Duration = Duration::from_millis(500);
/// For one handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps `gate` open while TLS handshakes with the own listener at `address`
/// present the current certificate. Runs until dropped. A listener that wants
/// its clients' certificates answers, too: with TLS 1.3 the server has shown
/// its own before it looks at the client's.
pub async fn probe(address: SocketAddr, mut certificates: Certificates, gate: Gate) {
    loop {
        let pause = match handshake(address, &certificates).await {
            Ok(()) => {
                gate.open();
                CALM
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "no TLS handshake with the own listener");
                gate.close(error);
                KEEN
            }
        };
        // A new certificate is tried at once.
        let _ = timeout(pause, certificates.changed()).await;
    }
}

/// Why the own listener cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// There is no certificate yet.
    #[error("there is no serving certificate yet")]
    NoCertificate,
    /// No answer in time.
    #[error("the own listener does not answer within {} s", PATIENCE.as_secs())]
    Slow,
    /// The client's side cannot be configured.
    #[error("TLS cannot be configured")]
    Configuration(#[source] rustls::Error),
    /// The connection or the handshake failed.
    #[error("the TLS handshake with the own listener failed")]
    Failed(#[source] io::Error),
}

/// Makes one TLS handshake with the own listener.
///
/// # Errors
/// When there is no certificate, the listener does not answer, or it presents
/// another chain than the current one or one that is not valid now.
pub async fn handshake(
    address: SocketAddr,
    certificates: &Certificates,
) -> Result<(), HandshakeError> {
    let expected = certificates
        .current()
        .ok_or(HandshakeError::NoCertificate)?;
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(HandshakeError::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { expected, provider }))
        .with_no_client_auth();
    let address = reachable(address);
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        connector
            .connect(ServerName::from(address.ip()), stream)
            .await
    };
    match timeout(PATIENCE, connect).await {
        Err(_elapsed) => Err(HandshakeError::Slow),
        Ok(connected) => connected.map(drop).map_err(HandshakeError::Failed),
    }
}

/// The loopback address for a listener on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Accepts exactly the chain that is served: whoever trusts its issuer is not
/// known here, but what is presented, who signs and whether it is valid now is.
struct Pinned {
    expected: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = std::iter::once(end_entity).chain(intermediates);
        if !presented.eq(&self.expected.cert) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let Ok((_, leaf)) = X509Certificate::from_der(end_entity) else {
            return Err(CertificateError::BadEncoding.into());
        };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < leaf.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > leaf.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
