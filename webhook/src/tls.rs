//! The serving certificate: a folder with `tls.crt` and `tls.key` flows in,
//! the pair that every TLS listener presents flows out.
//!
//! kubelet replaces a Secret volume by swapping the link `..data`, so the
//! folder is watched, never a file. A pair is taken only if its key fits its
//! certificate; whatever is wrong, the last good pair stays.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use crate::{report::chain, serving_metrics::ServingMetrics};

const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// How often the folder is read even if no change was reported: events can be
/// lost, and some file systems have none.
const REREAD: Duration = Duration::from_secs(60);

/// The pair that is presented now. Clones follow the same folder.
#[derive(Clone)]
pub struct Certificates(watch::Receiver<Option<Arc<CertifiedKey>>>);

impl Certificates {
    /// The pair that is presented now, if there has been a good one yet.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }

    /// Waits until another pair is presented than when this was last called.
    /// Never returns once the [`Reloader`] is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// A TLS configuration that presents the current pair, for HTTP/2 and
    /// HTTP/1.1. Handshakes fail while there is no pair. Where there are
    /// `clients`, whoever connects has to be one of them.
    ///
    /// # Errors
    /// When the crypto provider lacks the default protocol versions.
    pub fn server_config(
        &self,
        clients: Option<&ClientAuthority>,
    ) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let mut config = match clients {
            Some(ClientAuthority(verifier)) => {
                builder.with_client_cert_verifier(Arc::clone(verifier))
            }
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

/// Who signs the certificates of a listener's clients.
#[derive(Clone)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthority").finish_non_exhaustive()
    }
}

impl ClientAuthority {
    /// Reads a PEM file with one certificate or several.
    ///
    /// # Errors
    /// When the file cannot be read, or has no certificate that may sign others.
    pub fn open(path: &Path) -> Result<Self, TlsError> {
        let pem = std::fs::read(path).map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&pem, path)? {
            roots.add(root).map_err(|source| TlsError::Authority {
                path: path.to_owned(),
                source: source.into(),
            })?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.build().map_err(|source| TlsError::Authority {
            path: path.to_owned(),
            source: source.into(),
        })?;
        Ok(Self(verifier))
    }
}

/// The one crypto provider of the program.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Follows the folder.
#[derive(Debug)]
pub struct Reloader {
    folder: PathBuf,
    pair: watch::Sender<Option<Arc<CertifiedKey>>>,
    metrics: ServingMetrics,
    reread: Duration,
}

/// Why a pair was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is no PEM file with {expected}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The first certificate of the chain cannot be read.
    #[error("the first certificate of {} cannot be read", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    /// A certificate cannot be used to verify clients.
    #[error("{} cannot be used to verify clients", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key is of no supported kind, or not that of the certificate.
    #[error("the key and the certificate in {} do not fit", .folder.display())]
    Pair {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// A pair and the end of its validity in Unix seconds.
struct Loaded {
    pair: CertifiedKey,
    expiry: i64,
}

impl Reloader {
    /// Reads the folder for the first time. A pair that is missing or bad is
    /// reported, not fatal: cert-manager may be about to write it, and the
    /// program is not ready before it is there.
    pub async fn open(folder: PathBuf, metrics: ServingMetrics) -> (Certificates, Self) {
        let (pair, receiver) = watch::channel(None);
        let reloader = Self {
            folder,
            pair,
            metrics,
            reread: REREAD,
        };
        reloader.reload().await;
        (Certificates(receiver), reloader)
    }

    /// Follows the folder until dropped.
    pub async fn run(self) {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        let mut ticks = tokio::time::interval_at(Instant::now() + self.reread, self.reread);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if watcher.is_none() {
                watcher = self.watch(Arc::clone(&changed));
                // Whatever changed before the watch began.
                self.reload().await;
            }
            tokio::select! {
                () = changed.notified() => {}
                _ = ticks.tick() => {}
            }
            self.reload().await;
        }
    }

    fn watch(&self, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
        let watch = || -> notify::Result<_> {
            let mut watcher =
                notify::recommended_watcher(move |event: notify::Result<Event>| match event {
                    // Reading the files is an event, too.
                    Ok(Event {
                        kind: EventKind::Access(_),
                        ..
                    }) => {}
                    Ok(_) | Err(_) => changed.notify_one(),
                })?;
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        };
        watch()
            .inspect_err(|error| {
                tracing::warn!(
                    folder = %self.folder.display(), error = chain(error),
                    "the certificate folder cannot be watched; it is read every minute"
                );
            })
            .ok()
    }

    async fn reload(&self) {
        match load(&self.folder).await {
            Ok(loaded) => {
                let is_presented = self
                    .pair
                    .borrow()
                    .as_ref()
                    .is_some_and(|pair| pair.cert == loaded.pair.cert);
                if !is_presented {
                    tracing::info!(expiry = loaded.expiry, "serving certificate loaded");
                    self.metrics.certificate_loaded(Some(loaded.expiry));
                    self.pair.send_replace(Some(Arc::new(loaded.pair)));
                }
            }
            Err(error) => {
                self.metrics.certificate_loaded(None);
                tracing::error!(
                    error = chain(&error),
                    "serving certificate not loaded; the last good one stays"
                );
            }
        }
    }
}

async fn load(folder: &Path) -> Result<Loaded, TlsError> {
    let read = async |path: &Path| {
        let bytes = tokio::fs::read(path).await;
        bytes.map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let chain_file = folder.join(CERTIFICATE_FILE);
    let key_file = folder.join(KEY_FILE);
    let chain = read(&chain_file).await?;
    let key = Zeroizing::new(read(&key_file).await?);

    let chain = certificates(&chain, &chain_file)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem {
        path: key_file,
        expected: "a private key",
        source,
    })?;
    let expiry = match chain.first().map(|leaf| X509Certificate::from_der(leaf)) {
        Some(Ok((_, leaf))) => leaf.validity().not_after.timestamp(),
        Some(Err(source)) => {
            return Err(TlsError::Certificate {
                path: chain_file,
                source,
            });
        }
        None => 0,
    };
    let pair =
        CertifiedKey::from_der(chain, key, &provider()).map_err(|source| TlsError::Pair {
            folder: folder.to_owned(),
            source,
        })?;
    Ok(Loaded { pair, expiry })
}

/// The certificates of a PEM file, of which there is one at least.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .and_then(|chain: Vec<_>| match chain.is_empty() {
            true => Err(pem::Error::NoItemsFound),
            false => Ok(chain),
        })
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            expected: "a chain of certificates",
            source,
        })
}

#[cfg(test)]
mod tests;
