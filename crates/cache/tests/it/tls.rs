//! TLS with a certificate authority of one's own.
//!
//! The roots that are trusted come from the environment, and a test cannot change its own. So a test starts itself once more
//! with another one, as the client.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tenantry_cache::{Cache, Level, Settings};

use crate::cluster_server::free_ports;
use crate::stage::{RedisServer, Truth, node};

/// Where the client finds its Redis.
const URL: &str = "TLS_TEST_REDIS_URL";

/// Makes an authority, and a certificate of it for 127.0.0.1 and localhost.
fn certify(folder: &Path, name: &str) {
    let write = |name: &str, pem: String| std::fs::write(folder.join(name), pem).unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let key = KeyPair::generate().unwrap();
    write("redis.pem", CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap().pem());
    write("redis.key", key.serialize_pem());
}

/// Its folder holds the authority; its port is said twice, with TLS and without.
async fn server() -> (RedisServer, u16, u16) {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "ours");
    let ports = free_ports(2);
    let (port, plain) = (ports[0], ports[1]);
    let (tls_port, plain_port) = (port.to_string(), plain.to_string());
    let mut more = vec!["--tls-port", &tls_port, "--port", &plain_port, "--tls-auth-clients", "no"];
    more.extend([
        "--tls-cert-file",
        "redis.pem",
        "--tls-key-file",
        "redis.key",
        "--tls-ca-cert-file",
        "ca.pem",
    ]);
    more.extend(["--requirepass", "secret"]);
    (RedisServer::start_with(folder, &more).await, port, plain)
}

/// Runs this test once more, as the client of `url` that trusts `authority`.
fn client(test: &str, url: &str, authority: &Path) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(URL, url)
        .env("SSL_CERT_FILE", authority)
        .output()
        .unwrap()
}

fn settings(url: String) -> Settings {
    let (local_ttl, redis_budget) = (std::time::Duration::ZERO, std::time::Duration::from_secs(20));
    Settings { redis_url: Some(url), local_ttl, redis_budget, ..Settings::default() }
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_the_environment_names_it() {
    if let Ok(url) = env::var(URL) {
        let (here, there) = (node(settings(url.clone())).await, node(settings(url)).await);
        let row = Truth::new(1);
        assert_eq!(row.seen(&here).await, (1, Level::Postgres));
        assert_eq!(row.seen(&there).await, (1, Level::Redis));
        assert!(row.write(&here, 2).await);
        assert_eq!(row.seen(&there).await, (2, Level::Redis));
        println!("all is well over TLS");
        return;
    }
    let (redis, port, _) = server().await;
    for host in ["127.0.0.1", "localhost"] {
        let output = client(
            "tls::a_private_authority_is_trusted_when_the_environment_names_it",
            &format!("rediss://:secret@{host}:{port}"),
            &redis.folder().join("ca.pem"),
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("all is well over TLS"), "{said}");
    }
}

#[tokio::test]
async fn an_authority_that_nobody_knows_is_refused_and_said() {
    if let Ok(url) = env::var(URL) {
        let cache = Cache::new(settings(url)).unwrap();
        println!("{}", cache.ping().await.unwrap_err());
        let row = Truth::new(1);
        assert_eq!(row.seen(&cache).await, (1, Level::Postgres), "it goes on without");
        return;
    }
    let (_redis, port, plain) = server().await;
    let other: TempDir = tempfile::tempdir().unwrap();
    certify(other.path(), "another");
    let said = |url: String| {
        let test = "tls::an_authority_that_nobody_knows_is_refused_and_said";
        let output = client(test, &url, &other.path().join("ca.pem"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.contains("secret"), "{said}");
        said
    };
    let stranger = said(format!("rediss://:secret@127.0.0.1:{port}"));
    assert!(
        stranger.contains("invalid peer certificate") && stranger.contains("SSL_CERT_FILE"),
        "{stranger}"
    );
    let to_plain = said(format!("rediss://:secret@127.0.0.1:{plain}"));
    assert!(to_plain.contains("if it speaks no TLS, write redis://"), "{to_plain}");
    let to_tls = said(format!("redis://:secret@127.0.0.1:{port}"));
    assert!(to_tls.contains("write rediss://"), "{to_tls}");
}
