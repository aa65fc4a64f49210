//! TLS, by the certificate that two files hold. It is read again as they change, so a new one needs no new process.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{setting}: {path}: {problem}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key is another certificate's.
    #[error("TLS_KEY: {key} is not the key of the certificate in TLS_CERTIFICATE: {problem}")]
    Pair {
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        problem: rustls::Error,
    },
    /// The settings contradict each other.
    #[error("TLS_CERTIFICATE and TLS_KEY go together: set both or none")]
    Half,
}

/// What a listener needs to speak TLS.
pub struct Tls {
    files: Files,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// The certificate that is shown to those who connect.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.files.certificate).finish_non_exhaustive()
    }
}

impl Tls {
    /// Of two PEM files: the certificate with those that vouch for it behind it, and its key.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let provider = Arc::new(ring::default_provider());
        let current = Arc::new(Current(RwLock::new(Arc::new(files.read(&provider)?))));
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.map_err(|problem| TlsError::Pair { key: files.key.clone(), problem })?;
        let mut config = config.with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(Self { files, current, acceptor: TlsAcceptor::from(Arc::new(config)) }))
    }

    pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: T,
    ) -> io::Result<TlsStream<T>> {
        self.acceptor.accept(socket).await
    }

    /// Reads the files again as they change. While they make no pair, as in the middle of being replaced, the old one is shown.
    pub(super) async fn keep_reading(self: Arc<Self>) {
        let provider = Arc::new(ring::default_provider());
        let (mut told, mut tick) = (None, tokio::time::interval(LOOK));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (files, provider) = (self.files.clone(), provider.clone());
            // A folder on a network may hang.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read(&provider)).await else { continue };
            match read {
                Ok(pair) => {
                    told = None;
                    let mut current = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
                    if current.cert != pair.cert {
                        *current = Arc::new(pair);
                        drop(current);
                        tracing::info!("TLS goes on with a new certificate");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::error!("TLS goes on with the old certificate: {error}");
                        told = Some(error);
                    }
                }
            }
        }
    }
}

impl Files {
    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let file = |setting, path: &Path, problem: String| TlsError::File {
            setting,
            path: path.to_owned(),
            problem,
        };
        let wrong = |problem: String| file("TLS_CERTIFICATE", &self.certificate, problem);
        let chain =
            CertificateDer::pem_file_iter(&self.certificate).map_err(|error| wrong(error.to_string()))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
        if chain.is_empty() {
            return Err(wrong("holds no certificate (PEM)".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| file("TLS_KEY", &self.key, error.to_string()))?;
        CertifiedKey::from_der(chain, key, provider)
            .map_err(|problem| TlsError::Pair { key: self.key.clone(), problem })
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
