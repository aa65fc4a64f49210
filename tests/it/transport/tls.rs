//! TLS: by whose certificate, what is spoken behind it, and a new certificate while the service runs.

use std::{path::Path, sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{HEALTH, address, ask_by_http2, hear, statuses};
use crate::app::{TestApp, eventually};

const NAME: &str = "tenantry.test";

/// Puts a new pair in place, the key first.
fn renew(folder: &Path) {
    let pair = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    std::fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.pem"), pair.cert.pem()).unwrap();
}

fn flags(folder: &Path) -> [String; 2] {
    let file = |name: &str| folder.join(name).display().to_string();
    [format!("--tls-certificate={}", file("tls.pem")), format!("--tls-key={}", file("tls.key"))]
}

/// A node that speaks TLS, beside one that does not: the tests' other means speak plain HTTP.
async fn node(app: &TestApp, folder: &Path) -> TestApp {
    let [certificate, key] = flags(folder);
    app.node_with(&[&certificate, &key, "--header-timeout=1s"]).await
}

/// Connects as a client that trusts the certificate in the folder and nothing else.
async fn connect(app: &TestApp, folder: &Path, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("tls.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(address(app)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), socket).await
}

#[tokio::test]
async fn both_versions_are_spoken_over_tls_and_browsers_are_told_to_stay() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    let app = node(&TestApp::spawn().await, folder.path()).await;

    let mut socket = connect(&app, folder.path(), &["http/1.1"]).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    socket.write_all(format!("{HEALTH}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let heard = hear(&mut socket).await;
    assert_eq!(statuses(&heard), ["200"]);
    assert!(heard.contains("strict-transport-security: max-age=63072000\r\n"), "{heard}");

    let socket = connect(&app, folder.path(), &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    for answer in ask_by_http2(socket).await {
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("strict-transport-security"));
    }
}

#[tokio::test]
async fn whoever_speaks_no_tls_is_not_answered_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    let app = node(&TestApp::spawn().await, folder.path()).await;
    let heard = super::say(&app, format!("{HEALTH}\r\n").as_bytes()).await;
    assert_eq!(statuses(&heard), [""; 0]);
    // A handshake that never begins.
    let mut silent = TcpStream::connect(address(&app)).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(20), hear(&mut silent)).await;
    assert_eq!(heard.unwrap(), "");
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart_and_half_of_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    let app = node(&TestApp::spawn().await, folder.path()).await;
    let old = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join("tls.pem"), old.path().join("tls.pem")).unwrap();

    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    // Longer than it takes to be looked at.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    connect(&app, old.path(), &[]).await.unwrap();

    let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.path().join("tls.pem"), certificate.pem()).unwrap();
    eventually(Duration::from_secs(2), || async { connect(&app, folder.path(), &[]).await.is_ok() }).await;
    assert!(connect(&app, old.path(), &[]).await.is_err());
}

#[tokio::test]
async fn files_that_do_not_do_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    let [certificate, key] = flags(folder.path());
    let read = |certificate: &str, key: &str| {
        let path = |flag: &str| Path::new(flag.split_once('=').unwrap().1).to_owned();
        tenantry::transport::Tls::read(&path(certificate), &path(key))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(read(&certificate, &key), Ok(()));
    let wrong = read(&key, &key).unwrap_err();
    assert!(
        wrong.starts_with("TLS_CERTIFICATE: ") && wrong.ends_with("holds no certificate (PEM)"),
        "{wrong}"
    );
    let wrong = read(&certificate, &certificate).unwrap_err();
    assert!(wrong.starts_with("TLS_KEY: "), "{wrong}");
    let another = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(folder.path().join("tls.key"), another).unwrap();
    let wrong = read(&certificate, &key).unwrap_err();
    assert!(wrong.contains("is not the key of the certificate"), "{wrong}");
    let wrong = read("--tls-certificate=/nowhere", &key).unwrap_err();
    assert!(wrong.starts_with("TLS_CERTIFICATE: /nowhere: "), "{wrong}");
}
