//! The command line: what it prints and what it refuses.

use std::process::{Command, Output};

use crate::app::from_stack;

pub(crate) fn tenantry(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    // Nothing of the caller's environment or .env leaks in.
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap()
}

pub(crate) fn refusal(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = tenantry(arguments, variables);
    assert!(!output.status.success(), "{arguments:?} was accepted");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_bad_setting_is_named() {
    let url = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    for (variable, value) in [
        ("LISTEN", "nowhere"),
        ("DATABASE_EPOCH", "0"),
        ("CACHE_TTL", "soon"),
        ("CACHE_TTL", "25h"),
        ("CACHE_LOCAL_ENTRIES", "0"),
        ("RATE_LIMIT_IP", "many"),
        ("RATE_LIMIT_LOGIN", "0/1m"),
        ("PASSWORD_HASH", "m=19456,t=1,p=1"),
        ("PLAN_SEATS", "gold=3"),
        ("TENANT_GRACE", "1h"),
        ("AUDIT_RETENTION", "7d"),
        ("TRUSTED_PROXIES", "proxy.local"),
        ("ALLOWED_ORIGINS", "*"),
        ("APP_URL", "example.org"),
        ("REQUIRE_VERIFIED_EMAIL", "perhaps"),
        ("ACCESS_TOKEN_TTL", "0s"),
        ("LOG_FORMAT", "xml"),
        ("WORKER_CONCURRENCY", "-1"),
    ] {
        let flag = format!("--{}", variable.to_lowercase().replace('_', "-"));
        let message = refusal(&["api"], &[url, (variable, value)]);
        assert!(message.contains(&flag) && message.contains(variable), "{variable}: {message}");
    }
    assert!(refusal(&["api"], &[url, ("RUST_LOG", "tenantry=loud")]).contains("RUST_LOG"));
    assert!(refusal(&["api"], &[url, ("REDIS_URL", "http://x")]).contains("REDIS_URL"));
    assert!(refusal(&["api"], &[("DATABASE_URL", "mysql:/x")]).contains("DATABASE_URL"));
}

#[test]
fn no_database_is_said_clearly() {
    assert!(refusal(&["api"], &[]).contains("DATABASE_URL is not set"));
    assert!(
        refusal(&["worker"], &[("DATABASE_URL", ""), ("ALLOWED_ORIGINS", "")])
            .contains("DATABASE_URL is not set")
    );
    let message = refusal(&["api"], &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")]);
    assert!(message.contains("PostgreSQL cannot be reached"), "{message}");
}

#[test]
fn a_role_that_no_wall_holds_is_refused() {
    let owner = from_stack("TEST_DATABASE_OWNER_URL");
    let message = refusal(&["api"], &[("DATABASE_URL", &owner)]);
    assert!(message.contains("owns the tables"), "{message}");
    let superuser = owner.replace("tenantry_owner@", "postgres@");
    let message = refusal(&["api"], &[("DATABASE_URL", &superuser)]);
    assert!(message.contains("is a superuser"), "{message}");
    let message = refusal(&["migrate"], &[("DATABASE_URL", &owner)]);
    assert!(message.contains("the same role"), "{message}");
}

#[test]
fn a_database_without_migrations_is_refused() {
    let (url, owner) = (from_stack("TEST_DATABASE_URL"), from_stack("TEST_DATABASE_OWNER_URL"));
    let empty = |url: &str| url.replace("/tenantry?", "/postgres?");
    let message = refusal(&["api"], &[("DATABASE_URL", &empty(&url))]);
    assert!(message.contains("migrations are pending: run `tenantry migrate`"), "{message}");
    let message = refusal(&["worker"], &[("DATABASE_URL", &url), ("DATABASE_DIRECT_URL", &owner)]);
    assert!(message.contains("DATABASE_DIRECT_URL") && message.contains("owns the tables"), "{message}");
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let url = from_stack("TEST_DATABASE_URL");
    for listen in ["127.0.0.1:0", "0.0.0.0:8080"] {
        let message = refusal(&["api"], &[("DATABASE_URL", &url), ("LISTEN", listen)]);
        assert!(message.contains("PUBLIC_URL"), "{message}");
    }
}

#[test]
fn a_token_is_not_signed_with_a_key_that_nobody_knows() {
    let url = from_stack("TEST_DATABASE_URL");
    let message =
        refusal(&["token", "--tenant", "demo", "--email", "a@example.org"], &[("DATABASE_URL", &url)]);
    assert!(message.contains("JWT_KEYS_DIR") && message.contains("holds no key"), "{message}");
}

#[test]
fn check_says_what_is_well_and_what_is_not() {
    let (url, redis) = (from_stack("TEST_DATABASE_URL"), from_stack("TEST_REDIS_URL"));
    let output = tenantry(
        &["check"],
        &[("DATABASE_URL", &url), ("REDIS_URL", &redis), ("SMTP_URL", "smtp://127.0.0.1:1")],
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success(), "the mail server is away");
    for well in [
        "ok     postgres",
        "ok     role",
        "ok     timeline",
        "ok     migrations",
        "WRONG  keys",
        "ok     redis",
        "WRONG  mail",
    ] {
        assert!(lines.contains(well), "{well}: {lines}");
    }
}

#[test]
fn check_says_why_redis_cannot_be_used_and_never_the_password() {
    let (url, redis) = (from_stack("TEST_DATABASE_URL"), from_stack("TEST_REDIS_URL"));
    for (redis, why) in [
        ("redis://:hidden@127.0.0.1:1".to_owned(), "127.0.0.1:1: Connection refused"),
        (format!("{redis}?pass=hidden"), "it refuses the user or the password"),
        ("redis://:hidden@127.0.0.1:1,unix:///tmp/redis.sock".to_owned(), "not found on sockets"),
    ] {
        let output = tenantry(&["check"], &[("DATABASE_URL", &url), ("REDIS_URL", &redis)]);
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        let line = said.lines().find(|line| line.contains("REDIS_URL")).unwrap_or_default();
        assert!(line.starts_with("WRONG") && line.contains(why), "{said}");
        assert!(!said.contains("hidden"), "{said}");
    }
}

#[test]
fn migrations_are_applied_once() {
    let (url, owner) = (from_stack("TEST_DATABASE_URL"), from_stack("TEST_DATABASE_OWNER_URL"));
    let variables = [("DATABASE_URL", url.as_str()), ("DATABASE_OWNER_URL", owner.as_str())];
    let output = tenantry(&["migrate"], &variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0 applied, the database is up to date\n");
    assert_eq!(
        String::from_utf8(tenantry(&["migrate", "--check"], &variables).stdout).unwrap(),
        "nothing is pending\n"
    );
}

#[test]
fn the_document_needs_no_server() {
    let json = tenantry(&["openapi"], &[]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let yaml = String::from_utf8(tenantry(&["openapi", "--format", "yaml"], &[]).stdout).unwrap();
    assert!(yaml.contains("operationId: getUser"));
    assert_eq!(json["info"]["title"], "SaaS Platform API");
}

#[test]
fn seeded_users_can_sign_in() {
    let (url, redis) = (from_stack("TEST_DATABASE_URL"), from_stack("TEST_REDIS_URL"));
    let keys = tempfile::tempdir().unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let pem = ed25519_dalek::pkcs8::EncodePrivateKey::to_pkcs8_pem(&key, Default::default()).unwrap();
    std::fs::write(keys.path().join("key.pem"), pem.as_bytes()).unwrap();
    let keys = keys.path().to_str().unwrap();
    let variables = [("DATABASE_URL", url.as_str()), ("REDIS_URL", redis.as_str()), ("JWT_KEYS_DIR", keys)];
    let output = tenantry(&["seed", "--tenants", "2", "--users", "25001"], &variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let slug = said.split_whitespace().find(|word| word.starts_with("seed-")).unwrap();
    for email in ["admin@example.org", "user12500@example.org"] {
        let output = tenantry(&["token", "--tenant", slug, "--email", email], &variables);
        assert!(output.status.success(), "{email}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap().matches('.').count(), 2);
    }
    let nobody = refusal(&["token", "--tenant", slug, "--email", "user12501@example.org"], &variables);
    assert!(nobody.contains("no active user"), "{nobody}");
    assert!(refusal(&["seed", "--tenants", "2", "--users", "1"], &variables).contains("--users"));
}

/// Help, variables and the example file are one list.
#[test]
fn the_example_file_names_every_setting() {
    let help = String::from_utf8(tenantry(&["--help"], &[]).stdout).unwrap();
    let variables: Vec<_> = help
        .split("[env: ")
        .skip(1)
        .map(|rest| rest.split(['=', ']', '\n']).next().unwrap().trim().to_owned())
        .collect();
    assert!(variables.len() > 20, "{variables:?}");
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example")).unwrap();
    let named: Vec<_> = example
        .lines()
        .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('='))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    assert_eq!(named, variables);
}
