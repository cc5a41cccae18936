//! Whether each listener can serve: gates that its parts open and close flow
//! in, an answer for each listener flows out.
//!
//! A pod has one readiness for all of its Services, and that is admission's:
//! nothing makes up for a webhook that is not called, while an agent or a
//! verifier that is told to come back does.
//!
//! Listening is not enough for admission: it is ready once a TLS handshake
//! with itself has worked, because kube-apiserver's calls begin with one.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    report::chain,
    tls::{Certificates, provider},
};

/// Between two handshakes while they work.
const CALM: Duration = Duration::from_secs(10);
/// Between two handshakes while they fail.
const KEEN: Duration = Duration::from_millis(500);
/// For one handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of all gates. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_draining: bool,
    gates: Vec<(&'static str, Result<(), String>)>,
}

impl Readiness {
    /// Adds a gate, closed. What has its name is ready when it is open.
    pub fn gate(&self, name: &'static str) -> Gate {
        let mut state = self.lock();
        state.gates.push((name, Err("not started".to_owned())));
        Gate {
            readiness: self.clone(),
            index: state.gates.len() - 1,
        }
    }

    /// From now on nothing is ready, whatever the gates say.
    pub fn drain(&self) {
        self.lock().is_draining = true;
    }

    /// Whether what has this name is ready; `None` where there is no such gate.
    pub fn check(&self, name: &str) -> Option<Result<(), String>> {
        let state = self.lock();
        let (_, gate) = state.gates.iter().find(|(known, _)| *known == name)?;
        Some(match state.is_draining {
            true => Err("draining".to_owned()),
            false => gate.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every write is a single assignment, so a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One part's say in [`Readiness`].
#[derive(Debug)]
pub struct Gate {
    readiness: Readiness,
    index: usize,
}

impl Gate {
    /// The part can serve.
    pub fn open(&self) {
        self.set(Ok(()));
    }

    /// The part cannot serve, and why; never with a secret in it.
    pub fn close(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        if let Some((_, gate)) = self.readiness.lock().gates.get_mut(self.index) {
            *gate = state;
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gate_has_its_own_answer_until_all_drain() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.gate("a"), readiness.gate("b"));
        let closed = |reason: &str| Some(Err(reason.to_owned()));
        assert_eq!(readiness.check("a"), closed("not started"));
        a.open();
        assert_eq!(readiness.check("a"), Some(Ok(())));
        assert_eq!(readiness.check("b"), closed("not started"));
        b.open();
        a.close("lost");
        assert_eq!(readiness.check("a"), closed("lost"));
        assert_eq!(readiness.check("b"), Some(Ok(())));
        assert_eq!(readiness.check("c"), None);
        readiness.drain();
        for name in ["a", "b"] {
            assert_eq!(readiness.check(name), closed("draining"));
        }
    }
}
